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
import os
import platform
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import table
import tensorstore as ts
import tifffile
from measure import Cost, measure
from volumes import KINDS, Kind, Volume, make_volume

REPOSITORY = Path(__file__).resolve().parent.parent
FLOORS = Path(__file__).resolve().parent / "floors"
PROGRAMS = ("floor", "voxelworks")
WORKS = ("convert", "downsample", "export")
COARSEST_MAG = 8
"""Four levels: 1, 2, 4, 8."""
VOXEL_SIZE = "8,8,8"
START_UP_SIZE = (64, 64, 64)
"""Next to no work, so that what is left is starting: imports, processes, opening, publishing."""
COMPARED_EDGE = 256
IN_MEMORY = "tmpfs"
"""Type of a file system without a disk."""


@dataclass(frozen=True)
class Case:
    """What is done to which volume."""

    work: str
    volume: Volume
    dataset: Path
    """The volume as a dataset of one level."""


@dataclass
class Series:
    """All runs of one program on one case."""

    work: str
    kind: Kind
    size: tuple[int, int, int]
    program: str
    processes: int
    wall_s: list[float] = field(default_factory=list)
    user_s: list[float] = field(default_factory=list)
    system_s: list[float] = field(default_factory=list)
    peak_mib: list[float] = field(default_factory=list)
    foreign_cores: list[float] = field(default_factory=list)

    def add(self, cost: Cost) -> None:
        self.wall_s.append(round(cost.wall_s, 3))
        self.user_s.append(round(cost.user_s, 3))
        self.system_s.append(round(cost.system_s, 3))
        self.peak_mib.append(round(cost.peak_bytes / 2**20, 1))
        self.foreign_cores.append(round(cost.foreign_cores, 3))


class Bench:
    """Runs the programs in one work folder."""

    def __init__(self, work: Path, processes: tuple[int, ...]) -> None:
        self.work = work
        self.processes = processes
        self.outcome = work / "outcome"
        mine = {name: text for name, text in os.environ.items() if not name.startswith("VOXELWORKS_")}
        # Compiled code is kept in the work folder: the first run of each program compiles it, and is not measured.
        self.environment = mine | {
            "VOXELWORKS_HOME": str(work / "home"),
            "NUMBA_CACHE_DIR": str(work / "numba"),
        }

    def case(self, work: str, kind: Kind, size: tuple[int, int, int]) -> Case:
        """Make the input of a case, or find it."""
        volume = make_volume(self.work, kind, size)
        dataset = volume.stack.with_name(f"{volume.stack.name}-dataset")
        case = Case(work, volume, dataset)
        if work != "convert" and not dataset.exists():
            command = self._convert(case, dataset, max(self.processes))
            measure([*command, "--no-pyramid"], environment=self.environment)
        return case

    def run(self, case: Case, program: str, processes: int) -> Cost:
        """Run a program once; its result stays in the folder of outcomes until the next run."""
        target = self.outcome / program
        shutil.rmtree(target, ignore_errors=True)
        _archive(target).unlink(missing_ok=True)
        target.parent.mkdir(exist_ok=True)
        if (case.work, program) == ("downsample", "voxelworks"):
            _copy_dataset(case.dataset, target)
        os.sync()  # nobody pays for what others wrote
        command = self._command(case, program, target, processes)
        return measure(command, core_count=processes, environment=self.environment)

    def _command(self, case: Case, program: str, target: Path, processes: int) -> list[str]:
        if case.work == "export":
            return self._export(case, program, _archive(target), processes)
        if program == "floor":
            is_convert = case.work == "convert"
            script = FLOORS / ("convert_floor.py" if is_convert else "pyramid_floor.py")
            source = case.volume.stack if is_convert else case.dataset / case.volume.kind / "1"
            return [sys.executable, str(script), str(source), str(target), str(COARSEST_MAG), str(processes)]
        mags = ["--coarsest-mag", str(COARSEST_MAG)]
        if case.work == "convert":
            return [*self._convert(case, target, processes), *mags]
        names = ["--dataset", str(target), "--layer", case.volume.kind]
        return [*_voxelworks("downsample", processes), *names, *mags]

    def _convert(self, case: Case, target: Path, processes: int) -> list[str]:
        volume = case.volume
        layer = ["--layer-name", volume.kind, "--category", volume.category, "--voxel-size", VOXEL_SIZE]
        paths = ["--source", str(volume.stack), "--target", str(target)]
        return [*_voxelworks("convert", processes), *paths, *layer]

    def _export(self, case: Case, program: str, target: Path, processes: int) -> list[str]:
        if program == "floor":
            source = case.dataset / case.volume.kind / "1"
            script = FLOORS / "export_floor.py"
            return [sys.executable, str(script), str(source), str(target), str(processes)]
        names = ["--dataset", str(case.dataset), "--layer", case.volume.kind, "--file", str(target)]
        return [*_voxelworks("export_tiff", processes), *names]

    def check_equal(self, case: Case) -> None:
        """Compare what both programs last made of a case, voxel by voxel, and its finest level with the sections."""
        if case.work == "export":
            with _explained(f"export {case.volume.kind}"):
                _check_equal_archives(
                    *(_archive(self.outcome / program) for program in PROGRAMS), case.volume
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


def _voxelworks(workflow: str, processes: int) -> list[str]:
    return [sys.executable, "-m", "voxelworks", "run", workflow, "--slots", str(processes), "--json"]


def _copy_dataset(source: Path, target: Path) -> None:
    """Copy a dataset; shards, which nobody changes, are only linked."""

    def copy(old: str, new: str) -> None:
        (shutil.copy2 if old.endswith(".json") else os.link)(old, new)

    shutil.copytree(source, target, copy_function=copy)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except AssertionError as error:
        raise SystemExit(f"error: {what}: the results differ; nothing was measured") from error


def _check_equal_arrays(ours: Path, floor: Path) -> None:
    metadata = [json.loads((path / "zarr.json").read_text()) for path in (ours, floor)]
    assert all(metadata[0][key] == metadata[1][key] for key in ("shape", "chunk_grid", "codecs", "data_type"))
    arrays = [_open(path) for path in (ours, floor)]
    axes = [range(0, extent, COMPARED_EDGE) for extent in arrays[0].shape]
    for corner in product(*axes):
        block = tuple(
            slice(start, min(start + COMPARED_EDGE, extent))
            for start, extent in zip(corner, arrays[0].shape, strict=True)
        )
        first, second = (array[block].read().result() for array in arrays)
        assert np.array_equal(first, second)


def _check_equal_sections(finest: Path, volume: Volume) -> None:
    array = _open(finest)
    sections = volume.sections
    for start in range(0, len(sections), 64):
        slab = array[start : start + 64].read().result()
        for section, path in zip(slab, sections[start : start + 64], strict=True):
            assert np.array_equal(section, tifffile.imread(path))


def _archive(target: Path) -> Path:
    """Give the file that an export makes."""
    return target.with_suffix(".zip")


def _check_equal_archives(floor: Path, ours: Path, volume: Volume) -> None:
    with zipfile.ZipFile(floor) as first, zipfile.ZipFile(ours) as second:
        names = [sorted(archive.namelist()) for archive in (first, second)]
        assert len(names[0]) == len(names[1]) == len(volume.sections)
        for name, other, path in zip(*names, volume.sections, strict=True):
            section = tifffile.imread(path)
            for archive, entry in ((first, name), (second, other)):
                assert np.array_equal(tifffile.imread(io.BytesIO(archive.read(entry))), section)


def _open(path: Path) -> ts.TensorStore:
    return ts.open({"driver": "zarr3", "kvstore": f"file://{path}/"}).result()[0]


def measure_all(bench: Bench, works: Sequence[str], edge: int, rounds: int) -> dict[str, list[Series]]:
    """Run everything; give the series by what they show."""
    cube, half, wide = (edge,) * 3, (edge // 2,) * 3, (2 * edge, 2 * edge, edge // 2)
    cases = [bench.case(work, kind, cube) for kind in KINDS for work in works]
    for case in cases:
        for program in PROGRAMS:
            bench.run(case, program, max(bench.processes))
        bench.check_equal(case)
        _tell(f"{case.work} {case.volume.kind}: both programs give the same voxels")
    small = [bench.case(work, kind, START_UP_SIZE) for kind in KINDS for work in works]
    others = [bench.case(work, kind, half) for kind in KINDS for work in works]
    others += [bench.case(work, "image", wide) for work in works]
    return {
        "start_up": _rounds(bench, small, PROGRAMS, bench.processes, min(3, rounds)),
        "values": _rounds(bench, cases, PROGRAMS, bench.processes, rounds),
        "other_sizes": _rounds(bench, others, PROGRAMS[1:], bench.processes[-1:], 1),
    }


def _rounds(
    bench: Bench, cases: list[Case], programs: tuple[str, ...], processes: tuple[int, ...], rounds: int
) -> list[Series]:
    runs = [
        (case, Series(case.work, case.volume.kind, case.volume.size, program, count))
        for case, count, program in product(cases, processes, programs)
    ]
    for number in range(rounds):
        # Every second round backwards: what comes first differs.
        for case, series in runs if number % 2 == 0 else reversed(runs):
            series.add(bench.run(case, series.program, series.processes))
            _tell(_line(series, number))
    return [series for _, series in runs]


def _line(series: Series, number: int) -> str:
    size = "x".join(map(str, series.size))
    cpu_s = series.user_s[-1] + series.system_s[-1]
    return (
        f"round {number + 1}: {series.work} {series.kind} {size}, {series.program}, {series.processes} processes: "
        f"wall {series.wall_s[-1]:.2f} s, CPU {cpu_s:.2f} s, {series.peak_mib[-1]:.0f} MiB, "
        f"foreign {series.foreign_cores[-1]:.2f}"
    )


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def describe_machine(work: Path) -> dict[str, str | int | float]:
    mounts = sorted(psutil.disk_partitions(all=True), key=lambda mount: len(mount.mountpoint))
    holding = [mount for mount in mounts if work.resolve().is_relative_to(mount.mountpoint)]
    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    return {
        "processor": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "file_system": holding[-1].fstype if holding else "unknown",
    }


def describe_versions() -> dict[str, str]:
    names = ("voxelworks", "numpy", "numba", "tensorstore", "tifffile")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def describe_commit() -> str:
    """Give the commit of the repository, with a plus if files were changed since."""
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--", "src", "benchmarks") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    answer = subprocess.run(
        ["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, check=True
    )
    return answer.stdout.strip()


def describe_input(bench: Bench, edge: int) -> list[dict[str, str | int | tuple[int, int, int]]]:
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
        bench = Bench(work.resolve(), tuple(options.processes))
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
