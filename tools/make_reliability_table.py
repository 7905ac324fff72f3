"""Write the tables of docs/reliability.md from docs/figures/, or check that they are up to date.

python tools/make_reliability_table.py            write the tables
python tools/make_reliability_table.py --check    exit with 1 if the page differs from the figures
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs"
FIGURES = DOCS / "figures" / "reliability.json"
MUTANTS = DOCS / "figures" / "mutation.json"
PAGE = DOCS / "reliability.md"
BEGIN, END = (
    "<!-- reliability: begin, made by tools/make_reliability_table.py -->",
    "<!-- reliability: end -->",
)
Json = dict[str, Any]


def main() -> int:
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    parts = [
        make(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else "Not run yet."
        for file, make in ((FIGURES, tables), (MUTANTS, mutants))
    ]
    made = "\n\n".join([f"{before}{BEGIN}", *parts, f"{END}{after}"])
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(made, encoding="utf-8")
        return 0
    if made != page:
        print(
            "docs/reliability.md differs from its figures: run tools/make_reliability_table.py",
            file=sys.stderr,
        )
    return int(made != page)


def tables(figures: Json) -> str:
    """Give everything that a figures file shows, as Markdown."""
    records = figures["records"]
    groups: dict[tuple[str, str, str], list[Json]] = defaultdict(list)
    for record in records:
        groups[record["test"], record["about"], record["database"] or "–"].append(record)
    head = [
        "Test",
        "What happens",
        "Database",
        "Jobs",
        "Kills",
        "Lost",
        "Doubled",
        "Counted besides",
        "Outcome",
        "Seconds",
        "Run",
    ]
    lines = [head, [":--"] * 3 + ["--:"] * 4 + [":--"] * 2 + ["--:", ":--"]]
    places = list(dict.fromkeys(map(_place, records)))
    for (test, about, database), group in sorted(
        groups.items(), key=lambda item: (_order(item[0][0]), item[0][1:])
    ):
        sums = [_sum(group, name) for name in ("jobs", "kills", "lost", "doubled")]
        wall_s = str(sum(record["wall_s"] for record in group))
        run = _runs(group, places)
        lines.append([test, about, database, *sums, _counted(group), _outcome(group), wall_s, run])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    sentence = (
        f"`{figures['command']}`; the last column says when, from which commit (`+`: changed), and where:"
    )
    listed = "\n".join(f"{number}. {place}" for number, place in enumerate(places, 1))
    return "\n\n".join([sentence, listed, table])


def mutants(figures: Json) -> str:
    """Give what the tests noticed when single things in ledger and transitions were changed."""
    machine = figures["machine"]
    lines = [["Module", "Mutants", "Noticed", "Date", "Commit"], [":--", "--:", "--:", ":--", ":--"]]
    for name, row in figures["modules"].items():
        commit = f"`{_short(row['commit'])}`"
        lines.append([f"`{name}`", str(row["mutants"]), str(row["killed"]), row["date"][:10], commit])
    sentence = (
        f"{figures['test']}, `{figures['command']}`: {figures['killed']} of {figures['mutants']} mutants were noticed,"
        f" {100 * figures['share']:.1f} % (aim: 90 %).\n"
        f"Machine: {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB,"
        f" {machine['system']}."
    )
    return "\n\n".join([sentence, "\n".join("| " + " | ".join(line) + " |" for line in lines)])


def _sum(group: list[Json], name: str) -> str:
    found = [record[name] for record in group if record[name] is not None]
    return str(sum(found)) if found else "–"


def _place(record: Json) -> str:
    """Say what a row ran on."""
    machine, versions = record["machine"], record["versions"]
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB, "
        f"{machine['system']}, {machine['file_system']}; "
        f"{', '.join(f'{name} {number}' for name, number in versions.items())}."
    )


def _runs(group: list[Json], places: list[str]) -> str:
    """Say when, from which commit and on which of the places a row was run."""
    runs = {
        f"{row['date'][:10]} `{_short(row['commit'])}` ({1 + places.index(_place(row))})" for row in group
    }
    return ", ".join(sorted(runs))


def _short(commit: str) -> str:
    return commit[:7] + ("+" if commit.endswith("+") else "")


def _outcome(group: list[Json]) -> str:
    return "passed" if all(record["passed"] for record in group) else "failed"


def _counted(group: list[Json]) -> str:
    """Add up what several tests of one row have counted, and list what they have named."""
    found: dict[str, list[Any]] = defaultdict(list)
    for row in group:
        for name, value in row["counted"].items():
            found[name].append(value)
    return "; ".join(f"{name}: {_joined(values)}" for name, values in found.items())


def _joined(values: list[Any]) -> str:
    if isinstance(values[0], dict):
        counts: Counter[str] = sum((Counter(value) for value in values), Counter())
        return ", ".join(f"{count} {what}" for what, count in counts.most_common())
    if isinstance(values[0], int):
        return str(sum(values))
    if isinstance(values[0], float):
        return ", ".join(f"{value:g}" for value in values)
    return ", ".join(map(str, values))


def _order(row: str) -> tuple[int, str]:
    digits = row.removeprefix("T")
    return (int(digits) if digits.isdigit() else 1000, row)


if __name__ == "__main__":
    sys.exit(main())
