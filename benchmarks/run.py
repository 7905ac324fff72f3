"""Measure conversion, pyramids and exports against the simplest correct scripts.

    python benchmarks/run.py                                         1024 voxels on each axis, 5 rounds
    python benchmarks/run.py --edge 256 --rounds 1 --output try.json
    python benchmarks/run.py --works export --edge 512 --rounds 1 --output try.json

Writes docs/figures/foundation.json, or foundation_disk.json if the work folder is on a disk, and the tables of
docs/benchmarks.md.

In every round each program runs once for each case, one after the other, so that a machine that gets slower meanwhile
slows all of them. Before the first round the results of both programs are compared voxel by voxel. N processes get N
cores.
"""

from __future__ import annotations

import argparse
import io
import json
import shlex
import shutil
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import table
import tifffile
from bench import (
    FLOORS,
    IN_MEMORY,
    START_UP_SIZE,
    Bench,
    Case,
    Series,
    archive_of,
    convert_command,
    copy_dataset,
    describe_commit,
    describe_machine,
    describe_versions,
    open_array,
    run_in_turns,
    tell,
    voxelworks_command,
)
from measure import Cost
from volumes import KINDS, Volume

PROGRAMS = ("floor", "voxelworks")
WORKS = ("convert", "downsample", "export")
COARSEST_MAG = 8
"""Four levels: 1, 2, 4, 8."""
COMPARED_EDGE = 256


class FloorBench(Bench):
    """Runs a floor, or Voxelworks."""

    def run(self, case: Case, program: str, processes: int) -> Cost:
        """Run a program once; its result stays in the folder of outcomes until the next run."""
        target = self.target(program)
        if (case.work, program) == ("downsample", "voxelworks"):
            copy_dataset(case.dataset, target)
        return self.measure(self._command(case, program, target, processes), processes)

    def _command(self, case: Case, program: str, target: Path, processes: int) -> list[str]:
        if case.work == "export":
            return self._export(case, program, archive_of(target), processes)
        if program == "floor":
            is_convert = case.work == "convert"
            script = FLOORS / ("convert_floor.py" if is_convert else "pyramid_floor.py")
            source = case.volume.stack if is_convert else case.dataset / case.volume.kind / "1"
            return [sys.executable, str(script), str(source), str(target), str(COARSEST_MAG), str(processes)]
        mags = ["--coarsest-mag", str(COARSEST_MAG)]
        if case.work == "convert":
            return [*convert_command(case.volume, target, processes), *mags]
        names = ["--dataset", str(target), "--layer", case.volume.kind]
        return [*voxelworks_command("downsample", processes), *names, *mags]

    def _export(self, case: Case, program: str, target: Path, processes: int) -> list[str]:
        if program == "floor":
            source = case.dataset / case.volume.kind / "1"
            script = FLOORS / "export_floor.py"
            return [sys.executable, str(script), str(source), str(target), str(processes)]
        names = ["--dataset", str(case.dataset), "--layer", case.volume.kind, "--file", str(target)]
        return [*voxelworks_command("export_tiff", processes), *names]

    def check_equal(self, case: Case) -> None:
        """Compare what both programs last made of a case, voxel by voxel, and its finest level with the sections."""
        if case.work == "export":
            with _explained(f"export {case.volume.kind}"):
                _check_equal_archives(
                    *(archive_of(self.outcome / program) for program in PROGRAMS), case.volume
                )
            return
        ours = self.outcome / "voxelworks" / case.volume.kind
        floor = self.outcome / "floor"
        mags = [2**step for step in range(COARSEST_MAG.bit_length())]
        for mag in mags if case.work == "convert" else mags[1:]:
            with _explained(f"{case.work} {case.volume.kind}, mag {mag}"):
                _check_equal_arrays(ours / str(mag), floor / str(mag))
        if case.work == "convert":
            with _explained(f"convert {case.volume.kind}, mag 1 and the sections"):
                _check_equal_sections(ours / "1", case.volume)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except AssertionError as error:
        raise SystemExit(f"error: {what}: the results differ; nothing was measured") from error


def _check_equal_arrays(ours: Path, floor: Path) -> None:
    metadata = [json.loads((path / "zarr.json").read_text()) for path in (ours, floor)]
    assert all(metadata[0][key] == metadata[1][key] for key in ("shape", "chunk_grid", "codecs", "data_type"))
    arrays = [open_array(path) for path in (ours, floor)]
    axes = [range(0, extent, COMPARED_EDGE) for extent in arrays[0].shape]
    for corner in product(*axes):
        block = tuple(
            slice(start, min(start + COMPARED_EDGE, extent))
            for start, extent in zip(corner, arrays[0].shape, strict=True)
        )
        first, second = (array[block].read().result() for array in arrays)
        assert np.array_equal(first, second)


def _check_equal_sections(finest: Path, volume: Volume) -> None:
    array = open_array(finest)
    sections = volume.sections
    for start in range(0, len(sections), 64):
        slab = array[start : start + 64].read().result()
        for section, path in zip(slab, sections[start : start + 64], strict=True):
            assert np.array_equal(section, tifffile.imread(path))


def _check_equal_archives(floor: Path, ours: Path, volume: Volume) -> None:
    with zipfile.ZipFile(floor) as first, zipfile.ZipFile(ours) as second:
        names = [sorted(archive.namelist()) for archive in (first, second)]
        assert len(names[0]) == len(names[1]) == len(volume.sections)
        for name, other, path in zip(*names, volume.sections, strict=True):
            section = tifffile.imread(path)
            for archive, entry in ((first, name), (second, other)):
                assert np.array_equal(tifffile.imread(io.BytesIO(archive.read(entry))), section)


def measure_all(bench: FloorBench, works: Sequence[str], edge: int, rounds: int) -> dict[str, list[Series]]:
    """Run everything; give the series by what they show."""
    cube, half, wide = (edge,) * 3, (edge // 2,) * 3, (2 * edge, 2 * edge, edge // 2)
    cases = [bench.case(work, kind, cube) for kind in KINDS for work in works]
    for case in cases:
        for program in PROGRAMS:
            bench.run(case, program, max(bench.processes))
        bench.check_equal(case)
        tell(f"{case.work} {case.volume.kind}: both programs give the same voxels")
    small = [bench.case(work, kind, START_UP_SIZE) for kind in KINDS for work in works]
    others = [bench.case(work, kind, half) for kind in KINDS for work in works]
    others += [bench.case(work, "image", wide) for work in works]
    return {
        "start_up": _rounds(bench, small, PROGRAMS, bench.processes, min(3, rounds)),
        "values": _rounds(bench, cases, PROGRAMS, bench.processes, rounds),
        "other_sizes": _rounds(bench, others, PROGRAMS[1:], bench.processes[-1:], 1),
    }


def _rounds(
    bench: FloorBench, cases: list[Case], programs: tuple[str, ...], processes: tuple[int, ...], rounds: int
) -> list[Series]:
    runs = [
        (case, Series(case.work, case.volume.kind, case.volume.size, program, count))
        for case, count, program in product(cases, processes, programs)
    ]
    run_in_turns(
        [(series, partial(bench.run, case, series.program, series.processes)) for case, series in runs],
        rounds,
    )
    return [series for _, series in runs]


def describe_input(bench: FloorBench, edge: int) -> list[dict[str, str | int | tuple[int, int, int]]]:
    return [
        {
            "kind": kind,
            "dtype": case.volume.dtype.name,
            "size": case.volume.size,
            "raw_bytes": case.volume.raw_bytes,
            "stored_bytes": sum(path.stat().st_size for path in case.dataset.rglob("*") if path.is_file()),
        }
        for kind in KINDS
        for case in [bench.case("downsample", kind, (edge,) * 3)]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--works", nargs="+", choices=WORKS, default=WORKS, help="what to measure")
    parser.add_argument("--edge", type=int, default=1024, help="voxels along each axis; a multiple of 128")
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured")
    parser.add_argument(
        "--processes", type=int, nargs=2, default=(1, 2), help="numbers of processes to compare"
    )
    parser.add_argument(
        "--work", type=Path, help="folder for volumes, which stay there; by default a temporary one"
    )
    parser.add_argument(
        "--output", type=Path, help="file to write; by default the one behind docs/benchmarks.md"
    )
    options = parser.parse_args()
    if options.edge % 128 or options.edge <= 0:
        parser.error("--edge must be a multiple of 128: every level has to have an even size")
    with TemporaryDirectory(prefix="voxelworks-bench-") as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        bench = FloorBench(work.resolve(), tuple(options.processes))
        began_at = datetime.now(UTC)
        series = measure_all(bench, options.works, options.edge, options.rounds)
        asked = {"edge": options.edge, "rounds": options.rounds}
        arguments = [text for name, value in asked.items() for text in (f"--{name}", str(value))]
        figures = {
            "command": shlex.join(["python", "benchmarks/run.py", *arguments]),
            "date": began_at.isoformat(timespec="seconds"),
            "duration_s": round((datetime.now(UTC) - began_at).total_seconds()),
            "commit": describe_commit(),
            "versions": describe_versions(),
            "machine": describe_machine(work),
            "input": describe_input(bench, options.edge),
            "mags": [2**step for step in range(COARSEST_MAG.bit_length())],
            "is_equal_to_floor": True,  # otherwise it would have ended
            **{name: [asdict(item) for item in items] for name, items in series.items()},
        }
        shutil.rmtree(bench.outcome)
    is_in_memory = figures["machine"]["file_system"] == IN_MEMORY
    output = options.output or (table.FIGURES if is_in_memory else table.DISK_FIGURES)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(figures, indent=1) + "\n")
    print(table.tables(figures))
    if options.output is None:
        table.PAGE.write_text(table.made_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
