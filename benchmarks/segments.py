"""Measure what is computed of segments against one read of all chunks.

    python benchmarks/segments.py                                    256 and 512 voxels on each axis, 3 rounds
    python benchmarks/segments.py --edges 256 --rounds 1 --output try.json

Writes docs/figures/segments.json and the table of docs/benchmarks.md. In every round each program runs once for each
size, one after the other; N processes get N cores.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import table
from measure import Cost, measure
from run import FLOORS, Bench, Case, Series, describe_commit, describe_machine, describe_versions

PROGRAMS = ("floor", "find_largest_segment_id", "compute_segment_index_file", "compute_segment_statistics")
FIGURES = table.DOCS / "figures" / "segments.json"
PROCESSES = (1, 2)


def run(bench: Bench, case: Case, program: str, processes: int) -> Cost:
    array = case.dataset / case.volume.kind
    if program == "floor":
        command = [sys.executable, str(FLOORS / "read_floor.py"), str(array / "1"), str(processes)]
    else:
        name = [sys.executable, "-m", "voxelworks", "run", program, "--slots", str(processes), "--json"]
        command = [*name, "--dataset", str(case.dataset), "--layer", case.volume.kind]
    return measure(command, core_count=processes, environment=bench.environment)


def measure_all(bench: Bench, edges: list[int], rounds: int) -> Iterator[Series]:
    cases = [bench.case("downsample", "labels", (edge,) * 3) for edge in edges]
    for program in PROGRAMS:
        run(bench, cases[0], program, 1)  # compiles
    runs = [
        (case, Series(program, "labels", case.volume.size, program, count))
        for case, count, program in product(cases, PROCESSES, PROGRAMS)
    ]
    for number in range(rounds):
        for case, series in runs if number % 2 == 0 else reversed(runs):
            cost = run(bench, case, series.program, series.processes)
            series.add(cost)
            print(
                series.program, series.size[0], series.processes, f"CPU {cost.cpu_s:.2f} s", file=sys.stderr
            )
    yield from (series for _, series in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edges", type=int, nargs="+", default=[256, 512], help="voxels along each axis")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured")
    parser.add_argument(
        "--work", type=Path, help="folder for volumes, which stay there; by default a temporary one"
    )
    parser.add_argument(
        "--output", type=Path, help="file to write; by default the one behind docs/benchmarks.md"
    )
    options = parser.parse_args()
    with TemporaryDirectory(prefix="voxelworks-bench-") as temporary:
        work = (options.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        series = list(measure_all(Bench(work, PROCESSES), options.edges, options.rounds))
        arguments = ["--edges", *map(str, options.edges), "--rounds", str(options.rounds)]
        figures = {
            "command": shlex.join(["python", "benchmarks/segments.py", *arguments]),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": describe_commit(),
            "versions": describe_versions(),
            "machine": describe_machine(work),
            "values": [asdict(item) for item in series],
        }
    (options.output or FIGURES).write_text(json.dumps(figures, indent=1) + "\n")
    print(table.segment_tables(figures))
    if options.output is None:
        table.PAGE.write_text(table.made_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
