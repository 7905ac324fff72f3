"""Change one thing at a time in the ledger and the transitions of jobs, and see whether a test notices (T34).

python tools/mutation.py                      all modules; writes docs/figures/mutation.json
python tools/mutation.py credits._charges     only this one; its row is renewed
python tools/mutation.py --list               only says how many mutants there are

Exit status 1 if fewer than 90 % of all mutants are noticed. A mutant runs in a forked child of this process, which has
loaded all libraries but nothing of Voxelworks; tests run on SQLite, the quick ones first, until one fails.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import importlib
import importlib.abc
import importlib.util
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Literal

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = REPOSITORY / "src" / "voxelworks"
FIGURES = REPOSITORY / "docs" / "figures" / "mutation.json"
SHARE_MIN = 0.9
TIMEOUT_S = 600.0
"""A mutant that runs longer hangs."""

LEDGER_TESTS = (
    "tests/unit/credits", "tests/integration/credits/test_charges.py", "tests/integration/credits/test_orders.py",
    "tests/integration/credits/test_activity.py", "tests/integration/credits/test_check.py",
    "tests/property/credits", "tests/integration/credits",
)  # fmt: skip
TRANSITION_TESTS = (
    "tests/unit/jobs", "tests/integration/jobs/test_moves.py", "tests/integration/jobs/test_finishing.py",
    "tests/integration/jobs/test_leases.py", "tests/integration/jobs/test_races.py",
    "tests/property/jobs/test_state_machine.py",
)  # fmt: skip
TARGETS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            "credits._book", "credits._charges", "credits._grants", "credits._quotes", "credits._periods",
            "credits._prices", "credits._orders", "credits._activity", "credits._check",
        ),
        LEDGER_TESTS,
    ),
    "jobs._transitions": TRANSITION_TESTS,
}  # fmt: skip
LIBRARIES = (
    "alembic.command", "argon2", "cryptography.fernet", "fastapi", "httpx", "hypothesis.stateful", "pydantic_settings",
    "pytest", "sqlalchemy.dialects.postgresql", "sqlalchemy.dialects.sqlite", "sqlalchemy.orm",
)  # fmt: skip

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_RECKONED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


Outcome = Literal["killed", "survived", "hung"]
"""A mutant that hangs does not pass the tests either; it is counted as killed, and named."""


@dataclass(frozen=True)
class Mutant:
    """A module with one change."""

    module: str
    line: int
    change: str
    tree: ast.Module

    def compile(self) -> CodeType:
        return compile(self.tree, str(_source(self.module)), "exec")


def main(arguments: Sequence[str]) -> int:
    names = [name for name in arguments if not name.startswith("-")] or list(TARGETS)
    mutants = [mutant for name in names for mutant in mutate(name)]
    if "--list" in arguments:
        print(f"{len(mutants)} mutants")
        return 0
    for library in LIBRARIES:
        importlib.import_module(library)
    _refuse_failing_tests(names)
    began = time.monotonic()
    outcomes = run(mutants)
    figures = _record(names, mutants, outcomes, round(time.monotonic() - began))
    print(
        f"{figures['killed']} of {figures['mutants']} mutants were noticed ({100 * figures['share']:.1f} %)"
    )
    return 0 if figures["share"] >= SHARE_MIN else 1


def mutate(module: str) -> Iterator[Mutant]:
    """Give a module with each single change that is worth trying."""
    tree = ast.parse(_source(module).read_text(encoding="utf-8"))
    for number, node in enumerate(_walk(tree)):
        change = _change(node)
        if change is not None:
            mutated = copy.deepcopy(tree)
            _apply(next(item for index, item in enumerate(_walk(mutated)) if index == number))
            yield Mutant(module, node.lineno, change, ast.fix_missing_locations(mutated))


def run(mutants: Sequence[Mutant]) -> list[Outcome]:
    """Try all mutants, as many at a time as there are cores."""
    outcomes: list[Outcome] = ["killed"] * len(mutants)
    running: dict[int, tuple[int, float]] = {}
    waiting = list(enumerate(mutants))
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            number, mutant = waiting.pop(0)
            running[_start(mutant)] = (number, time.monotonic() + TIMEOUT_S)
        child, status = os.waitpid(-1, os.WNOHANG)
        if child in running:
            number, until = running.pop(child)
            outcomes[number] = "survived" if status == 0 else "hung" if time.monotonic() > until else "killed"
            _tell(mutants[number], outcomes[number], remaining=len(waiting) + len(running))
        for late in [child for child, (_, until) in running.items() if time.monotonic() > until]:
            os.killpg(late, signal.SIGKILL)
        if child == 0:
            time.sleep(0.02)
    return outcomes


def _walk(node: ast.AST) -> Iterator[Any]:
    """Give what may be changed: the code of functions and the constants of the module, not types, texts or imports."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases", "type_params", "msg"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _is_left_alone(child):
                continue
            yield child
            yield from _walk(child)


def _is_left_alone(node: ast.AST) -> bool:
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    is_type = isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Name) and re.fullmatch("_?[A-Z][a-z]+", target.id) for target in node.targets
    )
    is_naming = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("cast",)
    return is_text or is_type or is_naming or isinstance(node, ast.Import | ast.ImportFrom)


def _change(node: ast.AST) -> str | None:
    """Say how a node can be changed."""
    match node:
        case ast.Compare(ops=[op]) if type(op) in _COMPARED:
            return f"{type(op).__name__} -> {_COMPARED[type(op)].__name__}"
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in _RECKONED:
            return f"{type(op).__name__} -> {_RECKONED[type(op)].__name__}"
        case ast.BoolOp(op=op):
            return "and -> or" if isinstance(op, ast.And) else "or -> and"
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            return "without not or minus"
        case ast.Constant(value=bool()):
            return "the other truth"
        case ast.Constant(value=int()):
            return "one more"
        case ast.Constant(value=str(text)) if text:
            return "another text"
        case ast.If() | ast.IfExp():
            return "the opposite condition"
        case ast.Return(value=value) if value is not None and not _is_none(value):
            return "return None"
        case ast.Raise():
            return "no error"
        case ast.Expr(value=ast.Call()):
            return "no call"
        case ast.Break():
            return "continue"
    return None


def _apply(node: Any) -> None:
    match node:
        case ast.Compare():
            node.ops = [_COMPARED[type(node.ops[0])]()]
        case ast.BinOp() | ast.AugAssign():
            node.op = _RECKONED[type(node.op)]()
        case ast.BoolOp():
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        case ast.UnaryOp():
            # +x is x; `not not x` is the truth of x.
            node.op, node.operand = (
                (ast.UAdd(), node.operand)
                if isinstance(node.op, ast.USub)
                else (ast.Not(), ast.UnaryOp(op=ast.Not(), operand=node.operand))
            )
        case ast.Constant(value=bool(value)):
            node.value = not value
        case ast.Constant(value=int(value)):
            node.value = value + 1
        case ast.Constant(value=str(value)):
            node.value = f"{value}~"
        case ast.If() | ast.IfExp():
            node.test = ast.UnaryOp(op=ast.Not(), operand=node.test)
        case ast.Return():
            node.value = ast.Constant(value=None)
        case ast.Raise():
            _become(node, ast.Pass())
        case ast.Expr():
            node.value = ast.Constant(value=None)
        case ast.Break():
            _become(node, ast.Continue())


def _become(node: Any, other: ast.AST) -> None:
    place = {name: getattr(node, name) for name in ("lineno", "col_offset", "end_lineno", "end_col_offset")}
    node.__class__ = type(other)
    node.__dict__.clear()
    node.__dict__.update(place)


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def _start(mutant: Mutant | None, tests: Sequence[str] = ()) -> int:
    """Fork a child that runs the tests with a mutant, or without one; give its process id."""
    child = os.fork()
    if child:
        return child
    status = 2
    try:
        os.setpgid(0, 0)
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        status = _run_tests(mutant, tests or TARGETS[mutant.module] if mutant else tests)
    finally:
        os._exit(status)


def _run_tests(mutant: Mutant | None, tests: Sequence[str]) -> int:
    import pytest

    os.chdir(REPOSITORY)
    os.environ["VOXELWORKS_TEST_BRIEF"] = "1"
    os.environ.pop("VOXELWORKS_TEST_POSTGRES", None)
    os.environ.pop("VOXELWORKS_TEST_STRICT", None)
    if mutant is not None:
        sys.meta_path.insert(0, _MutantFinder(mutant))
    options = (
        "-x", "-q", "-p", "no:cacheprovider", f"--timeout={TIMEOUT_S / 2:.0f}",
        "-k", "not postgresql and not processes and not death",  # slow, and about databases more than about decisions
        "-W", "ignore::pytest.PytestAssertRewriteWarning",  # plugins were imported before pytest looked at them
    )  # fmt: skip
    return int(pytest.main([*options, *tests]))


class _MutantFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one module with a change."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant
        self._code = mutant.compile()

    def find_spec(self, fullname: str, _path: object, _target: object = None) -> ModuleSpec | None:
        if fullname != f"voxelworks.{self._mutant.module}":
            return None
        place = _source(self._mutant.module)
        return importlib.util.spec_from_file_location(fullname, place, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(self._code, module.__dict__)  # noqa: S102 - our own sources


def _refuse_failing_tests(names: Sequence[str]) -> None:
    """Stop if a test fails without any mutant: all would count as noticed."""
    for tests in dict.fromkeys(TARGETS[name] for name in names):
        _, status = os.waitpid(_start(None, tests), 0)
        if status != 0:
            raise SystemExit(
                f"the tests fail without any change; run VOXELWORKS_TEST_BRIEF=1 pytest {' '.join(tests)}"
            )


def _record(
    names: Sequence[str], mutants: Sequence[Mutant], outcomes: Sequence[Outcome], wall_s: int
) -> dict[str, Any]:
    """Renew the rows of some modules in the file of figures; give all figures."""
    sys.path.insert(0, str(REPOSITORY / "src"))
    from voxelworks.testing.provenance import describe_commit, describe_machine, describe_versions

    rows: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError):
        rows = json.loads(FIGURES.read_text(encoding="utf-8"))["modules"]
    rows = {name: row for name, row in rows.items() if name in TARGETS}
    for name in names:
        tried = [pair for pair in zip(mutants, outcomes, strict=True) if pair[0].module == name]
        rows[name] = {
            "mutants": len(tried),
            "killed": sum(outcome != "survived" for _, outcome in tried),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": describe_commit(REPOSITORY, ("src", "tests")),
            "survivors": [
                f"{mutant.line}: {mutant.change}" for mutant, outcome in tried if outcome == "survived"
            ],
            "hung": [f"{mutant.line}: {mutant.change}" for mutant, outcome in tried if outcome == "hung"],
        }
    total, killed = sum(row["mutants"] for row in rows.values()), sum(row["killed"] for row in rows.values())
    figures = {
        "command": "make test-mutation", "test": "T34", "mutants": total, "killed": killed,
        "share": round(killed / total, 4), "wall_s": wall_s, "machine": describe_machine(REPOSITORY),
        "versions": describe_versions("sqlalchemy", "hypothesis", "pytest"), "modules": dict(sorted(rows.items())),
    }  # fmt: skip
    FIGURES.parent.mkdir(exist_ok=True)
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return figures


def _tell(mutant: Mutant, outcome: Outcome, *, remaining: int) -> None:
    if outcome != "killed":
        print(
            f"{outcome}: {_source(mutant.module).relative_to(REPOSITORY)}:{mutant.line} {mutant.change}",
            flush=True,
        )
    if remaining % 50 == 0:
        print(f"{remaining} mutants to go", flush=True)


def _source(module: str) -> Path:
    return SOURCES / f"{module.replace('.', '/')}.py"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
