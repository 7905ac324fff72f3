"""Measure how time and memory of the data workflows grow with the volume.

    python benchmarks/scaling.py                       256, 512, 1024 and, for some, 2048 voxels on each axis
    python benchmarks/scaling.py --edges 128 256 --largest 0 --rounds 1 --output try.json

Writes docs/figures/scaling.json and the table of docs/benchmarks.md. In every round each workflow runs once for each
size, one after the other.

The figures are written after every run. The same command goes on where an earlier one was stopped, if it is given the
same work folder and output.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
import table
from bench import (
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
    remove,
    run_in_turns,
    take_up,
    tell,
    voxelworks_command,
    write_figures,
)
from measure import Cost
from volumes import Kind, make_volume, volume_of

from voxelworks.testing.independent_volumes import VolumeLayer, write_annotation

PROCESSES = 2
FIGURES = table.SCALING_FIGURES
BUCKET = 32
COARSEST_MAG = "16"
EDITED_EVERY = 2
"""Of each axis: an eighth of the buckets of an annotation is edited."""
ID_OF_EDITS = 2**24 + 1
VOXELS_PER_TREE = 2**20
UNCOMPRESSED_EDGE_MAX = 1024
"""Larger volumes are written as compressed sections, which are removed as soon as they are a dataset."""


@dataclass(frozen=True)
class Work:
    """A workflow, and on which volume it is measured."""

    workflow: str
    kind: Kind
    is_measured_largest: bool = False


WORKS = (
    Work("convert", "image"),
    Work("convert", "labels"),
    Work("downsample", "image", is_measured_largest=True),
    Work("downsample", "labels", is_measured_largest=True),
    Work("export_tiff", "image"),
    Work("export_ome_zarr", "image"),
    Work("find_largest_segment_id", "labels", is_measured_largest=True),
    Work("compute_segment_index_file", "labels"),
    Work("compute_segment_statistics", "labels"),
    Work("materialize_volume_annotation", "labels"),
)
NAMES = tuple(dict.fromkeys(work.workflow for work in WORKS))
ADDING = ("downsample", "find_largest_segment_id", "compute_segment_index_file", "compute_segment_statistics")
"""These add to their dataset, and get a copy."""


class ScalingBench(Bench):
    """Runs the workflows."""

    def input(self, work: Work, edge: int) -> Case:
        """Make what a workflow reads, or find it."""
        size = (edge,) * 3
        volume = volume_of(self.work, work.kind, size)
        if edge > UNCOMPRESSED_EDGE_MAX:
            case = Case(work.workflow, volume, volume.stack.with_name(f"{volume.stack.name}-dataset"))
            if not case.dataset.exists():
                make_volume(self.work, work.kind, size, compression="zstd")
                self.make_dataset(case)
            remove(volume.stack)
        else:
            case = self.case(work.workflow, work.kind, size)
        if work.workflow == "materialize_volume_annotation" and not annotation_of(case).exists():
            make_annotation(case)
        return case

    def run(self, case: Case) -> Cost:
        """Run a workflow once; its result stays in the folder of outcomes until the next run."""
        target = self.target("voxelworks")
        if case.work in ADDING:
            copy_dataset(case.dataset, target)
        return self.measure(command_of(case, target), PROCESSES)


def command_of(case: Case, target: Path) -> list[str]:
    source = ["--dataset", str(case.dataset), "--layer", case.volume.kind]
    match case.work:
        case "convert":
            return [*convert_command(case.volume, target, PROCESSES), "--no-pyramid"]
        case "export_tiff" | "export_ome_zarr":
            return [*voxelworks_command(case.work, PROCESSES), *source, "--file", str(archive_of(target))]
        case "materialize_volume_annotation":
            names = [
                "--dataset",
                str(case.dataset),
                "--annotation",
                str(annotation_of(case)),
                "--target",
                str(target),
            ]
            return [*voxelworks_command(case.work, PROCESSES), *names, "--merge-segments"]
        case _:
            names = ["--dataset", str(target), "--layer", case.volume.kind]
            # The same mags for each size: the smallest would need none by itself.
            coarsest = ["--coarsest-mag", COARSEST_MAG] if case.work == "downsample" else []
            return [*voxelworks_command(case.work, PROCESSES), *names, *coarsest]


def annotation_of(case: Case) -> Path:
    return case.dataset.with_name(f"{case.dataset.name}-annotation.zip")


def make_annotation(case: Case) -> None:
    """Edit an eighth of the buckets, and join two places in each of many trees."""
    edge = case.volume.size[0]
    edited = np.full((BUCKET,) * 3, ID_OF_EDITS, case.volume.dtype)
    buckets = dict.fromkeys(product(range(0, edge // BUCKET, EDITED_EVERY), repeat=3), edited)
    layer = VolumeLayer({"1": buckets}, "zarr3", fallback=case.volume.kind, extents=case.volume.size)
    random = np.random.default_rng(5)
    trees = random.integers(0, edge, (max(1, edge**3 // VOXELS_PER_TREE), 2, 3)).tolist()
    draft = annotation_of(case).with_suffix(".draft")
    write_annotation(draft, [layer], trees)
    draft.rename(annotation_of(case))


def check_space(work: Path, edges: Sequence[int], is_in_memory: bool) -> None:
    """End with a clear error if the volumes do not fit, before anything is made."""
    needed = sum(bytes_on_disk(edge) for edge in edges)
    held = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    free = shutil.disk_usage(work).free
    if is_in_memory:
        free = min(free, psutil.virtual_memory().available)
    if needed > free + held:
        raise SystemExit(
            f"error: {work} has {free / 2**30:.0f} GiB free, but volumes and results take {needed / 2**30:.0f} GiB; "
            "name a folder with more space with --work, or leave out the largest volumes with --largest 0"
        )


def bytes_on_disk(edge: int) -> int:
    """Give at most how many bytes the volumes of a size take, with one result."""
    voxels = edge**3
    if edge > UNCOMPRESSED_EDGE_MAX:
        return 3 * voxels  # image, as sections or with its pyramid; labels take little
    return 8 * voxels  # sections of 1 + 4 bytes for each voxel, the image as a dataset, and a result as large


def measure_all(
    bench: ScalingBench, works: Sequence[tuple[Work, int]], rounds: int, output: Path, about: dict[str, Any]
) -> dict[str, Any]:
    cases = []
    for work, edge in works:
        tell(f"{work.workflow} {work.kind} {edge}: input")
        cases.append(bench.input(work, edge))
    series = [
        Series(case.work, case.volume.kind, case.volume.size, "voxelworks", PROCESSES) for case in cases
    ]
    if not take_up(output, about, series):
        for case in cases:
            if case.volume.size == START_UP_SIZE:
                bench.run(case)  # compiles
    runs = [(item, partial(bench.run, case)) for item, case in zip(series, cases, strict=True)]
    run_in_turns(runs, rounds, partial(write_figures, output, about, series))
    return write_figures(output, {**about, "is_complete": True}, series)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--works", nargs="+", choices=NAMES, default=NAMES, help="what to measure")
    parser.add_argument(
        "--edges",
        type=int,
        nargs="+",
        default=[256, 512, 1024],
        help="voxels along each axis; multiples of 64",
    )
    parser.add_argument(
        "--largest", type=int, default=2048,
        help="one more size, only for pyramids and the largest id; 0 leaves it out",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured")
    parser.add_argument(
        "--work", type=Path, help="folder for volumes, which stay there; by default a temporary one"
    )
    parser.add_argument(
        "--output", type=Path, help="file to write; by default the one behind docs/benchmarks.md"
    )
    options = parser.parse_args()
    if any(edge <= 0 or edge % 64 for edge in options.edges) or options.largest < 0 or options.largest % 64:
        parser.error("--edges and --largest must be multiples of 64, the edge of a chunk")
    chosen = [work for work in WORKS if work.workflow in options.works]
    works = [(work, edge) for work in chosen for edge in (START_UP_SIZE[0], *options.edges)]
    if options.largest:
        works += [(work, options.largest) for work in chosen if work.is_measured_largest]
    arguments = ["--edges", *map(str, options.edges), "--largest", str(options.largest)]
    arguments += ["--rounds", str(options.rounds)]
    if len(chosen) < len(WORKS):
        arguments += ["--works", *options.works]
    with TemporaryDirectory(prefix="voxelworks-bench-") as temporary:
        work = (options.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        about = {
            "command": shlex.join(["python", "benchmarks/scaling.py", *arguments]),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": describe_commit(),
            "versions": describe_versions(),
            "machine": describe_machine(work),
            "is_complete": False,
        }
        edges = [*options.edges, *([options.largest] if options.largest else [])]
        check_space(work, edges, about["machine"]["file_system"] == IN_MEMORY)
        bench = ScalingBench(work, (PROCESSES,))
        figures = measure_all(bench, works, options.rounds, options.output or FIGURES, about)
        remove(bench.outcome)
    print(table.scaling_tables(figures))
    if options.output is None:
        table.PAGE.write_text(table.made_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
