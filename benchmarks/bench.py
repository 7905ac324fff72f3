"""What the benchmarks share: volumes as datasets, programs that run in turns, and what is told of the machine."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import tensorstore as ts
from measure import Cost, measure
from volumes import Kind, Volume, make_volume, volume_of

REPOSITORY = Path(__file__).resolve().parent.parent
FLOORS = Path(__file__).resolve().parent / "floors"
VOXEL_SIZE = "8,8,8"
START_UP_SIZE = (64, 64, 64)
"""Next to no work, so that what is left is starting: imports, processes, opening, publishing."""
IN_MEMORY = "tmpfs"
"""Type of a file system without a disk."""

Json = dict[str, Any]


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

    @property
    def identity(self) -> tuple[object, ...]:
        return self.work, self.kind, tuple(self.size), self.program, self.processes


class Bench:
    """One work folder, where volumes stay and results are overwritten."""

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
        """Make the input of a case, or find it: the sections for `convert`, else the dataset."""
        volume = volume_of(self.work, kind, size)
        case = Case(work, volume, volume.stack.with_name(f"{volume.stack.name}-dataset"))
        if work == "convert" or not case.dataset.exists():
            make_volume(self.work, kind, size)
        if work != "convert":
            self.make_dataset(case)
        return case

    def make_dataset(self, case: Case) -> None:
        if not case.dataset.exists():
            command = convert_command(case.volume, case.dataset, max(self.processes))
            self.measure([*command, "--no-pyramid"], max(self.processes))

    def target(self, name: str) -> Path:
        """Give a place for a result, where no earlier one lies."""
        target = self.outcome / name
        for old in (target, archive_of(target)):
            remove(old)
        target.parent.mkdir(exist_ok=True)
        return target

    def measure(self, command: Sequence[str], processes: int) -> Cost:
        os.sync()  # nobody pays for what others wrote
        return measure(command, core_count=processes, environment=self.environment)


def voxelworks_command(workflow: str, processes: int) -> list[str]:
    return [sys.executable, "-m", "voxelworks", "run", workflow, "--slots", str(processes), "--json"]


def convert_command(volume: Volume, target: Path, processes: int) -> list[str]:
    layer = ["--layer-name", volume.kind, "--category", volume.category, "--voxel-size", VOXEL_SIZE]
    paths = ["--source", str(volume.stack), "--target", str(target)]
    return [*voxelworks_command("convert", processes), *paths, *layer]


def archive_of(target: Path) -> Path:
    """Give the file that an export makes."""
    return target.with_suffix(".zip")


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def copy_dataset(source: Path, target: Path) -> None:
    """Copy a dataset; shards, which nobody changes, are only linked."""

    def copy(old: str, new: str) -> None:
        is_description = old.endswith((".json", "/info", "/provenance"))
        (shutil.copy2 if is_description else os.link)(old, new)

    shutil.copytree(source, target, copy_function=copy)


def open_array(path: Path) -> ts.TensorStore:
    return ts.open({"driver": "zarr3", "kvstore": f"file://{path}/"}).result()[0]


def run_in_turns(
    runs: Sequence[tuple[Series, Callable[[], Cost]]],
    rounds: int,
    keep: Callable[[], None] = lambda: None,
) -> None:
    """Run all once in each round; `keep` is called after every run. What a series holds already is not run again."""
    for number in range(rounds):
        # Every second round backwards: what comes first differs.
        for series, run in runs if number % 2 == 0 else reversed(runs):
            if len(series.wall_s) > number:
                continue
            series.add(run())
            tell(_line(series, number))
            keep()


def _line(series: Series, number: int) -> str:
    size = "x".join(map(str, series.size))
    cpu_s = series.user_s[-1] + series.system_s[-1]
    return (
        f"round {number + 1}: {series.work} {series.kind} {size}, {series.program}, {series.processes} processes: "
        f"wall {series.wall_s[-1]:.2f} s, CPU {cpu_s:.2f} s, {series.peak_mib[-1]:.0f} MiB, "
        f"foreign {series.foreign_cores[-1]:.2f}"
    )


def take_up(output: Path, about: Mapping[str, Any], series: Sequence[Series]) -> Json:
    """Take over what an earlier call that was stopped left in its output, if it measured the same.

    Returns
    -------
    dict
        The figures of the earlier call; empty if there are none to go on from.
    """
    if not output.exists():
        return {}
    earlier: Json = json.loads(output.read_text())
    same = ("command", "commit", "versions", "machine")
    if earlier.get("is_complete", True) or any(earlier[name] != about[name] for name in same):
        return {}
    known = {Series(**item).identity: item for item in earlier["values"]}
    for item in series:
        vars(item).update(vars(Series(**known[item.identity])) if item.identity in known else {})
    tell(f"going on with {output.name}: {sum(len(item.wall_s) for item in series)} runs are in it")
    return earlier


def write_figures(output: Path, about: Mapping[str, Any], series: Sequence[Series]) -> Json:
    """Write what was measured so far, in one step."""
    figures: Json = {**about, "values": [asdict(item) for item in series]}
    output.parent.mkdir(parents=True, exist_ok=True)
    draft = output.with_suffix(".draft")
    draft.write_text(json.dumps(figures, indent=1) + "\n")
    draft.rename(output)
    return figures


def tell(text: str) -> None:
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
