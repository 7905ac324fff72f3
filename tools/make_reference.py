"""Write `docs/reference/` from the declarations in the code, or check that it is up to date.

python tools/make_reference.py            write the pages
python tools/make_reference.py --check    exit with 1 if a page differs from what the code says
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic_core import PydanticUndefined

from voxelworks import errors
from voxelworks.errors import VoxelworksError
from voxelworks.protocol.messages import Json
from voxelworks.settings import Settings
from voxelworks.workflows import ParamField, Workflow, workflows

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"
ORIGIN = "<!-- Made by `make docs` from the code. Change the code, not this page. -->"

VALUE_FORMS = {
    "dataset": "folder or address; on a server its name",
    "layer": "name",
    "source": "file or folder; on a server `root:NAME/relative`",
    "annotation": "file; on a server its id",
    "model": "folder, zip or installed name; on a server its name, `NAME@2` for a version",
    "new_dataset": "new folder; on a server a new name",
    "new_file": "name on a server, path locally",
    "new_model": "new folder; on a server a name, which gets its next version",
    "text": "text",
    "int": "whole number",
    "float": "number",
    "mag": "mag, such as `4-4-1`",
    "voxel_size": "nm, `x,y,z`",
    "box": "voxels, `x,y,z,width,height,depth`",
}


def main() -> int:
    pages = {"workflows.md": workflow_page(), "settings.md": settings_page(), "errors.md": errors_page()}
    if "--check" not in sys.argv[1:]:
        REFERENCE.mkdir(parents=True, exist_ok=True)
        for name, text in pages.items():
            (REFERENCE / name).write_text(text, encoding="utf-8")
        return 0
    stale = [name for name, text in pages.items() if _read(REFERENCE / name) != text]
    if stale:
        print(f"docs/reference is out of date ({', '.join(stale)}): run `make docs`", file=sys.stderr)
    return 1 if stale else 0


def workflow_page() -> str:
    """Describe every installed workflow: what it takes, what it answers, and how each surface calls it."""
    parts = [
        "# Workflows",
        ORIGIN,
        "Every workflow has the same params on the command line, in the web form, in the JSON API and in Python.",
        *[workflow_section(workflow) for workflow in workflows().values()],
    ]
    return "\n\n".join(parts) + "\n"


def workflow_section(workflow: Workflow) -> str:
    # The examples name places of a server; locally they are folders below the current one.
    local: Json = json.loads(json.dumps(workflow.example).replace('"root:', '"'))
    body = {"workflow": workflow.name, "params": workflow.example}
    cost = "free" if workflow.cost.is_free else f"paid by the price `{workflow.cost.price}`"
    parts = [
        f"## {workflow.name}",
        workflow.description,
        f"Version {workflow.version}, {cost}.",
        _table(("Option", "Value", "Meaning", "Default"), [_option_row(field) for field in workflow.fields]),
        _repeat_note(workflow),
        "Command line:",
        _code("sh", _command(workflow, local)),
        "Python:",
        _code("python", _call(workflow, local)),
        "JSON API, `POST /api/v1/jobs`:",
        _code("json", json.dumps(body, indent=2)),
        "It answers:",
        _table(("Field", "Meaning"), _outcome_rows(workflow)),
    ]
    return "\n\n".join(part for part in parts if part)


def settings_page() -> str:
    """List all settings with their environment variables."""
    rows = []
    for name, info in Settings.model_fields.items():
        is_plain = info.default is not PydanticUndefined and info.default not in (None, {}, frozenset())
        rows.append(
            (
                f"`VOXELWORKS_{name.upper()}`",
                f"`{info.default}`" if is_plain else "",
                _one_line(info.description or ""),
            )
        )
    intro = "Read from environment variables; lists and maps are written as JSON. Options of commands override them."
    return "\n\n".join(["# Settings", ORIGIN, intro, _table(("Variable", "Default", "Meaning"), rows)]) + "\n"


def errors_page() -> str:
    """List all errors with what programs see of them."""
    meanings = dict(re.findall(r"[├└]── (\w+) {2,}(\S.*)", errors.__doc__ or ""))
    rows = [
        (
            f"`{kind.code}`",
            f"`{kind.__name__}`",
            meanings.get(kind.__name__) or _one_line(kind.__doc__ or ""),
            str(kind.exit_status),
            str(kind.http_status),
            kind.failure_class.replace("_", " "),
        )
        for kind in _tree(VoxelworksError)
        if kind.__module__ == errors.__name__
    ]
    intro = (
        "Every error has one sentence for people (what is wrong, with the value, and the next step) and a code"
        " for programs. Commands print `error: ...` and end with the exit status; the API answers"
        " `{code, message}` with the HTTP status. The failure class decides whether a job is tried again:"
        " `infrastructure` and `resources` are, the others are not."
    )
    columns = ("Code", "Python class", "Meaning", "Exit status", "HTTP", "Failure class")
    return "\n\n".join(["# Errors", ORIGIN, intro, _table(columns, rows)]) + "\n"


def _option_row(field: ParamField) -> tuple[str, str, str, str]:
    if field.kind == "flag":
        switch = field.option.removeprefix("--")
        default = "on" if field.default == "true" else "off"
        return f"`--{switch}`, `--no-{switch}`", "on or off", _one_line(field.help), default
    form = " or ".join(f"`{choice}`" for choice in field.choices) or VALUE_FORMS[field.kind]
    default = "**needed**" if field.is_required else f"`{field.default}`" if field.default is not None else ""
    return f"`{field.option}`", form, _one_line(field.help), default


def _repeat_note(workflow: Workflow) -> str:
    options = [f"`{field.option}`" for field in workflow.fields if field.is_repeated]
    return f"{', '.join(options)} may be given several times, once for each item." if options else ""


def _command(workflow: Workflow, example: Json) -> str:
    given = workflow.flatten(workflow.parse(example))
    words = ["voxelworks", "run", workflow.name]
    for field in workflow.fields:
        value = given.get(field.name, [])
        for item in [value] if isinstance(value, str) else value:
            words += [field.option, shlex.quote(item)]
    return " ".join(words)


def _call(workflow: Workflow, example: Json) -> str:
    # Written as `ruff format` would write it, which also looks at the code in the docs.
    arguments = [f"{name}={value!r}".replace("'", '"') for name, value in example.items()]
    lines = "".join(f"    {argument},\n" for argument in [f'"{workflow.name}"', *arguments])
    return f"import voxelworks\n\nvoxelworks.run(\n{lines})"


def _outcome_rows(workflow: Workflow) -> list[tuple[str, str]]:
    fields = workflow.outcome_type.model_fields
    return [(f"`{name}`", _one_line(info.description or "")) for name, info in fields.items()]


def _tree(kind: type[VoxelworksError]) -> list[type[VoxelworksError]]:
    return [kind] + [deeper for child in kind.__subclasses__() for deeper in _tree(child)]


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _code(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def _one_line(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
