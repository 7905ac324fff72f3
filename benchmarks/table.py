"""Write the tables of docs/benchmarks.md from the files of docs/figures, or check that they are up to date.

python benchmarks/table.py            write the tables
python benchmarks/table.py --check    exit with 1 if the page differs from the figures
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs"
FIGURES = DOCS / "figures" / "foundation.json"
"""Measured in memory: what the programs cost."""
DISK_FIGURES = DOCS / "figures" / "foundation_disk.json"
"""The same on a disk, which may be what both wait for."""
PAGE = DOCS / "benchmarks.md"
PAGE_FIGURES = DOCS / "figures" / "pages.json"
SEGMENT_FIGURES = DOCS / "figures" / "segments.json"
PEER_FIGURES = DOCS / "figures" / "peers.json"
SCALING_FIGURES = DOCS / "figures" / "scaling.json"
INFERENCE_FIGURES = DOCS / "figures" / "inference.json"

CPU_RATIO_MAX = 1.5
SPEED_MIN = 0.85
"""Of a whole segmentation, as a share of the speed of the network alone."""
WALL_RATIO_MAX = 0.65
PEAK_MIB_MAX = 2048
FOREIGN_CORES_MAX = 0.1
"""Above this a wall time says little."""
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t, 97.5 %, for 1 degree of freedom and more. The last one, a little too wide, is also taken beyond."""

Json = dict[str, Any]


def main() -> int:
    wanted = {
        FIGURES: "bench",
        DISK_FIGURES: "bench",
        PAGE_FIGURES: "bench-pages",
        SEGMENT_FIGURES: "bench-segments",
    }
    for file, target in wanted.items():
        if not file.exists():
            print(
                f"{file.relative_to(DOCS.parent)} is missing: run `make {target}`, see docs/benchmarks.md",
                file=sys.stderr,
            )
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
    """Give the page with the tables of the figures between their markers."""
    page = PAGE.read_text(encoding="utf-8")
    in_memory, on_disk = (json.loads(file.read_text()) for file in (FIGURES, DISK_FIGURES))
    page = _between(page, "foundation", "\n\n".join([tables(in_memory), "### On a disk", limits(on_disk)]))
    page = _between(page, "segments", segment_tables(json.loads(SEGMENT_FIGURES.read_text())))
    page = _between(page, "peers", _if_measured(PEER_FIGURES, "bench-peers", peer_tables))
    page = _between(page, "inference", _if_measured(INFERENCE_FIGURES, "bench-inference", inference_table))
    page = _between(page, "scaling", _if_measured(SCALING_FIGURES, "bench-large", scaling_tables))
    return _between(page, "pages", page_tables(json.loads(PAGE_FIGURES.read_text())))


def _between(page: str, name: str, content: str) -> str:
    begin, end = f"<!-- {name}: begin, made by benchmarks/table.py -->", f"<!-- {name}: end -->"
    before, found, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    assert found, f"{PAGE} has lost its marker {begin}"
    assert found_end, f"{PAGE} has lost its marker {end}"
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"


def _if_measured(file: Path, target: str, tables_of: Callable[[Json], str]) -> str:
    if not file.exists():
        return f"Not measured yet: `make {target}`."
    return tables_of(json.loads(file.read_text()))


def peer_tables(figures: Json) -> str:
    """Give what the file of the peers shows, as Markdown."""
    by_key = {(item["work"], item["kind"], item["program"]): item for item in figures["values"]}
    rows, alike = [], []
    for pair in figures["pairs"]:
        key = f"{pair['work']} {pair['kind']}: {pair['ours']}, {pair['peer']}"
        alike.append(
            [pair["work"], pair["kind"], _peer(pair), figures["compared"].get(key, "not compared yet")]
        )
        ours, peer = (by_key[pair["work"], pair["kind"], pair[side]] for side in ("ours", "peer"))
        if not (ours["wall_s"] and peer["wall_s"]):
            continue  # cut off before its first round ended
        foreign = max(median(item["foreign_cores"]) for item in (ours, peer))
        rows.append(
            [
                pair["work"],
                pair["kind"],
                _peer(pair),
                *(f"{_cpu_s(item):.1f}" for item in (peer, ours)),
                _ratio(_cpu_runs(peer), _cpu_runs(ours)),
                *(f"{_wall_s(item):.1f}" for item in (peer, ours)),
                _ratio(peer["wall_s"], ours["wall_s"]),
                *(f"{max(item['peak_mib']):.0f}" for item in (peer, ours)),
                f"{foreign:.2f}" + (" (not clean)" if foreign > FOREIGN_CORES_MAX else ""),
            ]
        )
    size, mags = " x ".join(map(str, figures["size"])), ", ".join(map(str, figures["mags"]))
    about = (
        f"{_measured(figures)} interleaved runs in 2 processes, in seconds, on {size} voxels; mags {mags}.\n"
        f"Machine: {_machine(figures['machine'])}.\n"
        f"Versions: {', '.join(f'{name} {number}' for name, number in figures['versions'].items())}."
    )
    head = ["Work", "Volume", "Against", "CPU, peer", "CPU", "Peer / Voxelworks"]
    head += ["Wall, peer", "Wall", "Peer / Voxelworks", "Peak MiB, peer", "Peak MiB", "Foreign cores"]
    results = _table(["Work", "Volume", "Against", "Results"], alike)
    return "\n\n".join([about, _table(head, rows), results]) if rows else f"{about}\n\n{results}"


def _peer(pair: Json) -> str:
    return f"{pair['peer'].split()[0]}, {pair['settings']}"


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """Give the geometric mean of the ratios of each round, and its interval of 95 % (Student's t of the logarithms)."""
    logs = [math.log(their / our) for their, our in zip(theirs, ours, strict=False)]
    if len(logs) < 2:
        return f"{math.exp(logs[0]):.2f} (one run)"
    spread = T_QUANTILES[min(len(logs) - 1, len(T_QUANTILES)) - 1] * stdev(logs) / math.sqrt(len(logs))
    middle, low, high = (math.exp(fmean(logs) + shift) for shift in (0, -spread, spread))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def scaling_tables(figures: Json) -> str:
    """Give what the file of the growing volumes shows, as Markdown."""
    done = [item for item in figures["values"] if item["wall_s"]]
    cases = list(dict.fromkeys((item["work"], item["kind"]) for item in done))
    start_up, *edges = sorted({item["size"][0] for item in done})
    times, memory = [], []
    for work, kind in cases:
        by_edge = {item["size"][0]: item for item in _same(done, work, kind)}
        start_s = _cpu_s(by_edge.pop(start_up))
        ns = {edge: 1e9 * (_cpu_s(item) - start_s) / _voxels(item) for edge, item in by_edge.items()}
        peaks = {edge: max(item["peak_mib"]) for edge, item in by_edge.items()}
        name = [work, kind]
        times.append([*name, f"{start_s:.2f}", *(_cell(ns.get(edge), 1) for edge in edges), _growth(ns)])
        memory.append([*name, *(_cell(peaks.get(edge), 0) for edge in edges), _growth(peaks)])
    about = (
        f"{_measured(figures)} interleaved runs in 2 processes.\nMachine: {_machine(figures['machine'])}.\n"
        f"Foreign cores: {max(median(item['foreign_cores']) for item in done):.2f} at most."
    )
    names = [f"{edge}³" for edge in edges]
    return "\n\n".join(
        [
            about,
            "CPU time per voxel without start-up, in nanoseconds: equal numbers in a row are linear time.",
            _table(["Work", "Volume", "Start-up, s", *names, "Last / one before"], times),
            "Peak memory in MiB: equal numbers in a row are constant memory.",
            _table(["Work", "Volume", *names, "Last / one before"], memory),
        ]
    )


def _cell(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _growth(by_edge: dict[int, float]) -> str:
    if len(by_edge) < 2:
        return "–"
    before, last = (by_edge[edge] for edge in sorted(by_edge)[-2:])
    return f"{last / before:.2f}"


def _measured(figures: Json) -> str:
    commit, changed = figures["commit"].rstrip("+")[:12], " with changes" * figures["commit"].endswith("+")
    counts = [len(item["wall_s"]) for item in figures["values"]]
    cut_off = "" if figures["is_complete"] else " (cut off)"
    return (
        f"`{figures['command']}` on {figures['date'][:10]}, commit `{commit}`{changed}{cut_off}: "
        f"medians of {max(counts)}"
    )


def _machine(machine: Json) -> str:
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB, "
        f"{machine['system']}, {machine['file_system']}"
    )


def segment_tables(figures: Json) -> str:
    """Give what the file of segments shows, as Markdown."""
    machine, values = figures["machine"], figures["values"]
    commit, changed = figures["commit"].rstrip("+")[:12], " with changes" * figures["commit"].endswith("+")
    about = (
        f"`{figures['command']}` on {figures['date'][:10]}, commit `{commit}`{changed}: medians of "
        f"{len(values[0]['wall_s'])} interleaved runs, in seconds, on labels of uint32.\n"
        f"Machine: {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB, "
        f"{machine['system']}, {machine['file_system']}."
    )
    rows = []
    for ours in values:
        if ours["program"] == "floor":
            continue
        floor, start, floor_start = (
            _of_segments(figures[part], ours["work"], program, ours["processes"], size)
            for part, program, size in (
                ("values", "floor", ours["size"]), ("start_up", "voxelworks", None), ("start_up", "floor", None),
            )
        )  # fmt: skip
        foreign = max(median(item["foreign_cores"]) for item in (floor, ours))
        rows.append(
            [
                ours["work"],
                _size(ours),
                str(ours["processes"]),
                *(f"{_cpu_s(item):.2f}" for item in (floor, ours)),
                _judged(_cpu_s(ours) / _cpu_s(floor), CPU_RATIO_MAX),
                *(f"{_cpu_s(item):.2f}" for item in (floor_start, start)),
                _judged(_net(_cpu_s, ours, start) / _net(_cpu_s, floor, floor_start), CPU_RATIO_MAX),
                *(f"{_wall_s(item):.2f}" for item in (floor, ours)),
                f"{max(ours['peak_mib']):.0f}",
                f"{foreign:.2f}" + (" (not clean)" if foreign > FOREIGN_CORES_MAX else ""),
            ]
        )
    head = ["Work", "Voxels", "Processes", "CPU, floor", "CPU", f"CPU / floor, at most {CPU_RATIO_MAX}"]
    head += ["Start-up, floor", "Start-up", "CPU / floor without start-up", "Wall, floor", "Wall", "Peak MiB"]
    head += ["Foreign cores"]
    return f"{about}\n\n{_table(head, rows)}"


def inference_table(figures: Json) -> str:
    """Give what the file of segmentations with networks shows, as Markdown."""
    machine, values = figures["machine"], figures["values"]
    commit, changed = figures["commit"].rstrip("+")[:12], " with changes" * figures["commit"].endswith("+")
    patches = "; ".join(
        f"{model} {','.join(map(str, patch))}, of which {','.join(map(str, border))} at each side are not used"
        for model, (patch, border) in figures["patches"].items()
    )
    about = (
        f"`{figures['command']}` on {figures['date'][:10]}, commit `{commit}`{changed}: medians of "
        f"{len(values[0]['wall_s'])} interleaved runs with {values[0]['processes']} processes of one thread, in "
        f"seconds. Patches (x,y,z): {patches}.\n"
        f"Machine: {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB, "
        f"{machine['system']}, {machine['file_system']}."
    )
    rows = []
    for floor, ours in zip(values[::2], values[1::2], strict=True):
        share = _wall_s(floor) / _wall_s(ours)
        foreign = max(median(item["foreign_cores"]) for item in (floor, ours))
        rows.append(
            [
                ours["work"],
                _size(ours),
                *(f"{_wall_s(item):.1f}" for item in (floor, ours)),
                f"{math.prod(ours['size']) / _wall_s(ours) / 1000:.0f}",
                f"{share:.2f}" + ("" if share >= SPEED_MIN else " (missed)"),
                f"{max(ours['peak_mib']):.0f}",
                f"{foreign:.2f}" + (" (not clean)" if foreign > FOREIGN_CORES_MAX else ""),
            ]
        )
    head = ["Model", "Voxels", "Wall, network alone", "Wall, whole job", "1000 voxels/s"]
    head += [f"Speed / network alone, at least {SPEED_MIN}", "Peak MiB", "Foreign cores"]
    return f"{about}\n\n{_table(head, rows)}"


def _of_segments(
    items: Sequence[Json], work: str, program: str, processes: int, size: list[int] | None
) -> Json:
    (found,) = (
        item
        for item in items
        if (item["work"], item["program"], item["processes"]) == (work, program, processes)
        and size in (None, item["size"])
    )
    return found


def page_tables(figures: Json) -> str:
    """Give what the file of the pages shows, as Markdown."""
    machine, values = figures["machine"], figures["values"]
    commit, changed = figures["commit"].rstrip("+")[:12], " with changes" * figures["commit"].endswith("+")
    about = (
        f"`{figures['command']}` on {figures['date'][:10]}, commit `{commit}`{changed}: medians of {figures['rounds']} "
        f"rounds, with {figures['jobs']:,} jobs and {figures['lines']:,} lines.\n"
        f"Machine: {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB, "
        f"{machine['system']}; load average meanwhile {figures['load'][1]:.1f}.\n"
        f"Versions: {', '.join(f'{name} {number}' for name, number in figures['versions'].items())}."
    )
    rows = [
        ["First paint of the list", "1000 ms", *(_ms(median(item["list_ms"]), 1000) for item in values)],
        [
            "Slowest filter, painted", "300 ms",
            *(_ms(max(map(median, item["filter_ms"].values())), 300) for item in values),
        ],
        ["A log opens at its end", "1500 ms", *(_ms(median(item["log_ms"]), 1500) for item in values)],
        ["A log that nobody opened before", "1500 ms", *(_ms(item["log_ms"][0], 1500) for item in values)],
        ["A line in the middle, by its address", "1500 ms", *(_ms(median(item["line_ms"]), 1500) for item in values)],
        ["A search through the whole log", "–", *(f"{median(item['search_ms']):.0f} ms" for item in values)],
        [
            "Browser, live page of a job", "5 % of a core",
            *(_judged(100 * item["live_share"]["job"], 5, 1) for item in values),
        ],
        [
            "Browser, live list", "5 % of a core",
            *(_judged(100 * item["live_share"]["list"], 5, 1) for item in values),
        ],
        ["Largest layout shift", "0.05", *(_judged(max(item["layout_shift"].values()), 0.05, 3) for item in values)],
    ]  # fmt: skip
    return f"{about}\n\n{_table(['', 'At most', *(item['database'] for item in values)], rows)}"


def _ms(value: float, limit: float) -> str:
    return f"{value:.0f} ms" + (" (missed)" if value > limit else "")


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
    return float(median(_cpu_runs(series)))


def _cpu_runs(series: Json) -> list[float]:
    return [user_s + system_s for user_s, system_s in zip(series["user_s"], series["system_s"], strict=True)]


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
    numeric_from = next((i for i, cell in enumerate(rows[0]) if i > 0 and cell[:1].isdigit()), len(rows[0]))
    line = [":--" if i < numeric_from else "--:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, line, *rows])


if __name__ == "__main__":
    sys.exit(main())
