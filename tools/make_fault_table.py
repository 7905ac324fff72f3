"""Write the table of docs/faults.md from docs/figures/faults.json, or check that it is up to date.

python tools/make_fault_table.py            write the table
python tools/make_fault_table.py --check    exit with 1 if the page differs from the figures
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs"
FIGURES = DOCS / "figures" / "faults.json"
PAGE = DOCS / "faults.md"
BEGIN, END = "<!-- faults: begin, made by tools/make_fault_table.py -->", "<!-- faults: end -->"
HIDDEN = {"seed"}
"""Values that say how to repeat a run; they are in the figures."""

Json = dict[str, Any]


def main() -> int:
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    table = tables(json.loads(FIGURES.read_text(encoding="utf-8"))) if FIGURES.exists() else "Not run yet."
    made = f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(made, encoding="utf-8")
        return 0
    if made != page:
        print("docs/faults.md differs from its figures: run tools/make_fault_table.py", file=sys.stderr)
    return int(made != page)


def tables(figures: Json) -> str:
    """Give everything that a figures file shows, as Markdown."""
    rows = list(figures["rows"].values())
    groups: dict[tuple[str, str], list[Json]] = defaultdict(list)
    for row in rows:
        groups[row["row"], row["about"]].append(row)
    head = ["Row", "What happens", "Counted", "Outcome", "Seconds"]
    cells = [
        [number, about, _values(group), _outcome(group), str(sum(row["duration_s"] for row in group))]
        for (number, about), group in sorted(
            groups.items(), key=lambda item: (_order(item[0][0]), item[0][1])
        )
    ]
    lines = [head, [":--"] * 4 + ["--:"], *cells]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join([*_provenances(figures["command"], rows), table])


def _provenances(command: str, rows: list[Json]) -> list[str]:
    """Say where the rows come from; usually all from the same place."""
    sentences = []
    for row in rows:
        machine, versions = row["machine"], row["versions"]
        sentences.append(
            f"`{command}` on {row['date'][:10]}, commit `{_short(row['commit'])}`.\n"
            f"Machine: {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB, "
            f"{machine['system']}, {machine['file_system']}.\n"
            f"Versions: {', '.join(f'{name} {number}' for name, number in versions.items())}."
        )
    return list(dict.fromkeys(sentences))


def _short(commit: str) -> str:
    return commit[:12] + ("+" if commit.endswith("+") else "")


def _outcome(group: list[Json]) -> str:
    return "passed" if all(row["outcome"] == "passed" for row in group) else "failed"


def _values(group: list[Json]) -> str:
    """Add up what several tests of one row have counted, and list what they have named."""
    found: dict[str, list[Any]] = defaultdict(list)
    for row in group:
        for name, value in row["values"].items():
            found[name].append(value)
    return "; ".join(f"{name}: {_joined(values)}" for name, values in found.items() if name not in HIDDEN)


def _joined(values: list[Any]) -> str:
    if isinstance(values[0], dict):
        counts: Counter[str] = sum((Counter(value) for value in values), Counter())
        return ", ".join(f"{count} {what}" for what, count in counts.most_common())
    if isinstance(values[0], int):
        return str(sum(values))
    return ", ".join(map(str, values))


def _order(row: str) -> tuple[int, str]:
    digits = row.removeprefix("T")
    return (int(digits) if digits.isdigit() else 1000, row)


if __name__ == "__main__":
    sys.exit(main())
