"""Measure what is computed of segments against the simplest correct scripts.

    python benchmarks/segments.py                                    512 and 1024 voxels on each axis, 2 rounds
    python benchmarks/segments.py --edges 128 --rounds 1 --output try.json

Writes docs/figures/segments.json and the table of docs/benchmarks.md. In every round each program runs once for each
size, one after the other; N processes get N cores. Before the first round the results of both programs are compared.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import table
import tensorstore as ts
from bench import (
    FLOORS,
    START_UP_SIZE,
    VOXEL_SIZE,
    Bench,
    Case,
    Series,
    describe_commit,
    describe_machine,
    describe_versions,
    open_array,
    run_in_turns,
    tell,
    voxelworks_command,
)
from measure import Cost

PROGRAMS = ("floor", "voxelworks")
FLOOR_OF = {
    "find_largest_segment_id": "read_floor.py",
    "compute_segment_index_file": "index_floor.py",
    "compute_segment_statistics": "statistics_floor.py",
}
PLACE_OF = {
    "compute_segment_index_file": "segmentIndex",
    "compute_segment_statistics": "segmentStatistics",
}
"""Where results lie in the layer."""
ROWS = ("hash_bucket_offsets", "hash_buckets", "top_lefts")
"""Arrays of the index."""
CLOSE = 1e-3
"""Relative: the weights of directions come from a table in the floor, and from points on a sphere in Voxelworks."""
FIGURES = table.DOCS / "figures" / "segments.json"
PROCESSES = (1, 2)


class SegmentBench(Bench):
    """Runs a floor, or Voxelworks."""

    def run(self, case: Case, program: str, processes: int) -> Cost:
        """Run a program once; its result stays until the next run, that of Voxelworks in the dataset."""
        return self.measure(self._command(case, program, processes), processes)

    def _command(self, case: Case, program: str, processes: int) -> list[str]:
        if program == "voxelworks":
            names = ["--dataset", str(case.dataset), "--layer", case.volume.kind]
            return [*voxelworks_command(case.work, processes), *names]
        command = [
            sys.executable,
            str(FLOORS / FLOOR_OF[case.work]),
            str(case.dataset / case.volume.kind / "1"),
        ]
        if case.work in PLACE_OF:
            command.append(str(self.target("floor")))
        if case.work == "compute_segment_statistics":
            command.append(VOXEL_SIZE.split(",")[0])
        return [*command, str(processes)]

    def check_equal(self, case: Case) -> None:
        """Compare what both programs last made of a case; the exit says what differs."""
        floor = self.outcome / "floor"
        if case.work not in PLACE_OF:
            self._check_largest(case)
            return
        # What replaces an earlier result has another name.
        (ours,) = (case.dataset / case.volume.kind / PLACE_OF[case.work]).iterdir()
        if case.work == "compute_segment_index_file":
            for name in ROWS:
                _require(case, name, _rows(ours / name), _rows(floor / name))
            return
        columns, floor_columns = (_columns(folder / "segments.csv") for folder in (ours, floor))
        if columns.keys() != floor_columns.keys():
            raise SystemExit(f"error: the tables have the columns {list(columns)} and {list(floor_columns)}")
        for name, values in columns.items():
            _require(case, name, values, floor_columns[name])

    def _check_largest(self, case: Case) -> None:
        properties = json.loads((case.dataset / "datasource-properties.json").read_text())
        (layer,) = properties["dataLayers"]
        level = open_array(case.dataset / case.volume.kind / "1")
        largest = max(int(level[z : z + 64].read().result().max()) for z in range(0, level.shape[0], 64))
        _require(case, "largest id", np.array([layer["largestSegmentId"]]), np.array([largest]))


def _rows(path: Path) -> np.ndarray:
    spec = {"driver": "zarr3", "kvstore": f"file://{path}/"}
    return np.asarray(ts.open(spec).result().read().result())


def _columns(path: Path) -> dict[str, np.ndarray]:
    head, *rows = csv.reader(path.read_text().splitlines())
    return {
        name: np.array(list(map(_number, column)))
        for name, column in zip(head, zip(*rows, strict=True), strict=True)
    }


def _number(text: str) -> float:
    # Of whole numbers no digit may be lost.
    return int(text) if text.isdecimal() else float(text)


def _require(case: Case, what: str, ours: np.ndarray, floor: np.ndarray) -> None:
    is_whole = ours.dtype.kind in "iu"
    if ours.shape != floor.shape or not (
        np.array_equal(ours, floor) if is_whole else np.allclose(ours, floor, rtol=CLOSE, atol=CLOSE)
    ):
        raise SystemExit(f"error: {case.work}: {what} differs between both programs; nothing was measured")


def measure_all(bench: SegmentBench, edges: list[int], rounds: int) -> dict[str, list[Series]]:
    """Run everything; give the series by what they show."""
    small = [bench.case(work, "labels", START_UP_SIZE) for work in FLOOR_OF]
    cases = [bench.case(work, "labels", (edge,) * 3) for edge in edges for work in FLOOR_OF]
    for case in cases[: len(FLOOR_OF)]:
        for program in PROGRAMS:
            bench.run(case, program, max(PROCESSES))  # compiles
        bench.check_equal(case)
        tell(f"{case.work}: both programs find the same")
    return {
        "start_up": _rounds(bench, small, rounds),
        "values": _rounds(bench, cases, rounds),
    }


def _rounds(bench: SegmentBench, cases: list[Case], rounds: int) -> list[Series]:
    runs = [
        (case, Series(case.work, case.volume.kind, case.volume.size, program, count))
        for case, count, program in product(cases, PROCESSES, PROGRAMS)
    ]
    run_in_turns(
        [(series, partial(bench.run, case, series.program, series.processes)) for case, series in runs],
        rounds,
    )
    return [series for _, series in runs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edges", type=int, nargs="+", default=[512, 1024], help="voxels along each axis")
    parser.add_argument("--rounds", type=int, default=2, help="how often everything is measured")
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
        series = measure_all(SegmentBench(work, PROCESSES), options.edges, options.rounds)
        arguments = ["--edges", *map(str, options.edges), "--rounds", str(options.rounds)]
        figures = {
            "command": shlex.join(["python", "benchmarks/segments.py", *arguments]),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": describe_commit(),
            "versions": describe_versions(),
            "machine": describe_machine(work),
            "is_equal_to_floor": True,  # otherwise it would have ended
            **{name: [asdict(item) for item in items] for name, items in series.items()},
        }
    (options.output or FIGURES).write_text(json.dumps(figures, indent=1) + "\n")
    print(table.segment_tables(figures))
    if options.output is None:
        table.PAGE.write_text(table.made_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
