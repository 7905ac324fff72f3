"""Write the tables of docs/benchmarks.md from docs/figures/foundation*.json, or check that they are up to date.

python benchmarks/table.py            write the tables
python benchmarks/table.py --check    exit with 1 if the page differs from the figures
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs"
FIGURES = DOCS / "figures" / "foundation.json"
"""Measured in memory: what the programs cost."""
DISK_FIGURES = DOCS / "figures" / "foundation_disk.json"
"""The same on a disk, which may be what both wait for."""
PAGE = DOCS / "benchmarks.md"
BEGIN, END = "<!-- foundation: begin, made by benchmarks/table.py -->", "<!-- foundation: end -->"

CPU_RATIO_MAX = 1.5
WALL_RATIO_MAX = 0.65
PEAK_MIB_MAX = 2048
FOREIGN_CORES_MAX = 0.1
"""Above this a wall time says little."""

Json = dict[str, Any]


def main() -> int:
    missing = [path for path in (FIGURES, DISK_FIGURES) if not path.exists()]
    if missing:
        print(f"{missing[0].relative_to(DOCS.parent)} is missing: see docs/benchmarks.md", file=sys.stderr)
        return 1
    page = made_page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page, encoding="utf-8")
        return 0
    is_stale = page != PAGE.read_text(encoding="utf-8")
    if is_stale:
        print("docs/benchmarks.md differs from its figures: run benchmarks/table.py", file=sys.stderr)
    return int(is_stale)


def made_page() -> str:
    """Give the page with the tables of the figures between its markers."""
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, f"{PAGE} has lost its marker {BEGIN}"
    assert end, f"{PAGE} has lost its marker {END}"
    parts = [
        tables(json.loads(FIGURES.read_text())),
        "### On a disk",
        limits(json.loads(DISK_FIGURES.read_text())),
    ]
    return "\n\n".join([before + begin, *parts, end + after])


def tables(figures: Json) -> str:
    """Give everything that a figures file shows, as Markdown."""
    seconds = ["Wall, floor", "Wall", "CPU, floor", "CPU"]
    parts = [
        "### Limits",
        limits(figures),
        "### Conversion and pyramids",
        _table(["Work", "Volume", "Processes", *seconds, "Mvoxel/s", "Foreign cores"], cost_rows(figures)),
        "### Start-up",
        _table(["Work", "Volume", "Processes", *seconds], start_up_rows(figures)),
        "### Memory",
        _table(["Work", "Volume", "Voxels", "Raw MiB", "Peak MiB"], memory_rows(figures)),
    ]
    return "\n\n".join(parts)


def limits(figures: Json) -> str:
    return (
        f"{provenance(figures)}\n\n{_table(['Work', 'Volume', *limit_names(figures)], limit_rows(figures))}"
    )


def provenance(figures: Json) -> str:
    machine, versions = figures["machine"], figures["versions"]
    volumes = "; ".join(
        f"{item['kind']} {_size(item)} {item['dtype']}, {item['raw_bytes'] / 2**20:.0f} MiB, "
        f"stored as {item['stored_bytes'] / 2**20:.0f} MiB"
        for item in figures["input"]
    )
    count = len(figures["values"][0]["wall_s"])
    commit, changed = figures["commit"].rstrip("+")[:12], " with changes" * figures["commit"].endswith("+")
    return (
        f"`{figures['command']}` on {figures['date'][:10]}, commit `{commit}`{changed}: medians of {count} "
        f"interleaved runs, in seconds; mags {', '.join(map(str, figures['mags']))}.\n"
        f"Machine: {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB, "
        f"{machine['system']}, {machine['file_system']}.\n"
        f"Versions: {', '.join(f'{name} {number}' for name, number in versions.items())}.\n"
        f"Volumes: {volumes}."
    )


def limit_names(figures: Json) -> list[str]:
    few, many = _process_counts(figures)
    return [
        f"CPU / floor, at most {CPU_RATIO_MAX}",
        "without start-up",
        f"Wall with {many} / {few} processes, at most {WALL_RATIO_MAX}",
        "without start-up",
        "the floor's",
        f"Peak MiB, under {PEAK_MIB_MAX}",
    ]


def limit_rows(figures: Json) -> list[list[str]]:
    rows = []
    for work, kind in _cases(figures):
        ours, start, floor, floor_start = (
            [_find(figures[part], work, kind, program, count) for count in _process_counts(figures)]
            for program, part in product(("voxelworks", "floor"), ("values", "start_up"))
        )
        cpu = [_cpu_s(mine) / _cpu_s(its) for mine, its in zip(ours, floor, strict=True)]
        net = [_net(_cpu_s, *pair) for pair in zip(ours, start, strict=True)]
        floor_net = [_net(_cpu_s, *pair) for pair in zip(floor, floor_start, strict=True)]
        few_s, many_s = (_net(_wall_s, *pair) for pair in zip(ours, start, strict=True))
        others = _same(figures["other_sizes"], work, kind)
        rows.append(
            [
                work,
                kind,
                _judged(max(cpu), CPU_RATIO_MAX),
                _judged(max(mine / its for mine, its in zip(net, floor_net, strict=True)), CPU_RATIO_MAX),
                _judged(_wall_s(ours[1]) / _wall_s(ours[0]), WALL_RATIO_MAX),
                _judged(many_s / few_s, WALL_RATIO_MAX),
                f"{_wall_s(floor[1]) / _wall_s(floor[0]):.2f}",
                _judged(max(max(item["peak_mib"]) for item in [*ours, *others]), PEAK_MIB_MAX, digits=0),
            ]
        )
    return rows


def cost_rows(figures: Json) -> list[list[str]]:
    rows = []
    for (work, kind), count in product(_cases(figures), _process_counts(figures)):
        floor, ours = (
            _find(figures["values"], work, kind, program, count) for program in ("floor", "voxelworks")
        )
        seconds = (_wall_s(floor), _wall_s(ours), _cpu_s(floor), _cpu_s(ours))
        foreign = max(median(item["foreign_cores"]) for item in (floor, ours))
        rows.append(
            [
                work,
                kind,
                str(count),
                *(f"{value:.2f}" for value in seconds),
                f"{_voxels(ours) / _wall_s(ours) / 1e6:.0f}",
                f"{foreign:.2f}" + (" (not clean)" if foreign > FOREIGN_CORES_MAX else ""),
            ]
        )
    return rows


def start_up_rows(figures: Json) -> list[list[str]]:
    rows = []
    for (work, kind), count in product(_cases(figures), _process_counts(figures)):
        floor, ours = (
            _find(figures["start_up"], work, kind, program, count) for program in ("floor", "voxelworks")
        )
        seconds = (_wall_s(floor), _wall_s(ours), _cpu_s(floor), _cpu_s(ours))
        rows.append([work, f"{kind} {_size(ours)}", str(count), *(f"{value:.2f}" for value in seconds)])
    return rows


def memory_rows(figures: Json) -> list[list[str]]:
    _, many = _process_counts(figures)
    item_bytes = {item["kind"]: item["raw_bytes"] / _voxels(item) for item in figures["input"]}
    rows = []
    for work, kind in _cases(figures):
        main_size = _find(figures["values"], work, kind, "voxelworks", many)
        for series in sorted([main_size, *_same(figures["other_sizes"], work, kind)], key=_voxels):
            raw_mib = _voxels(series) * item_bytes[kind] / 2**20
            rows.append([work, kind, _size(series), f"{raw_mib:.0f}", f"{max(series['peak_mib']):.0f}"])
    return rows


def _cases(figures: Json) -> list[tuple[str, str]]:
    return list(dict.fromkeys((series["work"], series["kind"]) for series in figures["values"]))


def _process_counts(figures: Json) -> tuple[int, int]:
    few, many = dict.fromkeys(series["processes"] for series in figures["values"])
    return few, many


def _find(items: Sequence[Json], work: str, kind: str, program: str, processes: int) -> Json:
    (found,) = (
        series
        for series in _same(items, work, kind)
        if series["program"] == program and series["processes"] == processes
    )
    return found


def _same(items: Sequence[Json], work: str, kind: str) -> list[Json]:
    return [series for series in items if (series["work"], series["kind"]) == (work, kind)]


def _wall_s(series: Json) -> float:
    return float(median(series["wall_s"]))


def _cpu_s(series: Json) -> float:
    return float(median(map(sum, zip(series["user_s"], series["system_s"], strict=True))))


def _net(seconds: Callable[[Json], float], series: Json, start: Json) -> float:
    return seconds(series) - seconds(start)


def _voxels(item: Json) -> int:
    x, y, z = item["size"]
    return int(x * y * z)


def _size(item: Json) -> str:
    return " x ".join(map(str, item["size"]))


def _judged(value: float, limit: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}" + (" (missed)" if value > limit else "")


def _table(head: list[str], rows: list[list[str]]) -> str:
    numeric_from = next(i for i, cell in enumerate(rows[0]) if i > 0 and cell[:1].isdigit())
    line = [":--" if i < numeric_from else "--:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, line, *rows])


if __name__ == "__main__":
    sys.exit(main())
