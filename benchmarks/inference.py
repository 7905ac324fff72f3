"""Measure whole segmentations with the shipped models against the network alone.

    python benchmarks/inference.py                                   320 voxels on each axis, 2 rounds
    python benchmarks/inference.py --edge 192 --rounds 1 --output try.json

Writes docs/figures/inference.json and the table of docs/benchmarks.md. Neurons are those of the sample that comes with
Voxelworks, nuclei are drawn, both repeated as in a mirror until the cube is full: how much is to do behind a network
depends on what it finds. The floor is ONNX Runtime with as many processes of one thread each, on as many patches of the
same size, and nothing else. In every round each program runs once for each network, one after the other.
"""

from __future__ import annotations

import argparse
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
import tifffile
from bench import (
    FLOORS,
    START_UP_SIZE,
    Bench,
    Series,
    describe_commit,
    describe_machine,
    describe_versions,
    run_in_turns,
    voxelworks_command,
)
from measure import Cost
from numpy.typing import NDArray

import voxelworks
from voxelworks.ai.inference import Grid
from voxelworks.ai.package import ModelPackage, read_package

PROGRAMS = ("floor", "voxelworks")
PROCESSES = 2
FIGURES = table.DOCS / "figures" / "inference.json"
MODELS = ("nuclei", "neurons")
TRAINING = Path(__file__).resolve().parent.parent / "training"


class InferenceBench(Bench):
    """Runs the network alone, or the whole job."""

    def image(self, model: str, size: tuple[int, int, int]) -> Path:
        """Make a dataset with what a model is for, unless it is there."""
        folder = self.work / f"{model}-{'x'.join(map(str, size))}"
        if folder.exists():
            return folder
        from voxelworks.geometry import Box, Mag
        from voxelworks.volumes.dataset import Dataset

        voxels = drawn_nuclei() if model == "nuclei" else sample_neurons()
        missing = [(0, max(0, side - own)) for side, own in zip(size[::-1], voxels.shape, strict=True)]
        whole = np.pad(voxels, missing, mode="symmetric")[tuple(slice(side) for side in size[::-1])]
        dataset = Dataset.create(folder, shipped(model).facts.voxel_size)
        box = Box((0, 0, 0), size)
        layer = dataset.add_layer("image", "color", whole.dtype.name, 1, box)
        layer.add_mag(Mag(1, 1, 1), shard_zyx=(256, 256, 256)).write(box, np.ascontiguousarray(whole))
        dataset.write_metadata()
        return folder

    def run(self, model: str, size: tuple[int, int, int], program: str) -> Cost:
        if program == "floor":
            package = shipped(model)
            grid = Grid.plan(size[::-1], package.facts)
            patch = ",".join(map(str, grid.patch_zyx))
            command = [sys.executable, str(FLOORS / "predict_floor.py"), str(package.weights), patch]
            return self.measure([*command, str(len(grid.cores)), str(PROCESSES)], PROCESSES)
        names = ["--dataset", str(self.image(model, size)), "--layer", "image"]
        target = ["--target", str(self.target("segmented"))]
        return self.measure([*voxelworks_command(f"infer_{model}", PROCESSES), *names, *target], PROCESSES)


def shipped(model: str) -> ModelPackage:
    return read_package(Path(voxelworks.__file__).parent / "models_shipped" / model)


def sample_neurons() -> NDArray[np.uint8]:
    """Read the sections of the sample (z, y, x)."""
    folder = Path(voxelworks.__file__).parent / "sample" / "raw"
    return np.stack([tifffile.imread(path) for path in sorted(folder.glob("*.tif"))])


def drawn_nuclei() -> NDArray[np.uint16]:
    """Draw nuclei (z, y, x), on voxels that are about as long on all axes."""
    sys.path.insert(0, str(TRAINING))
    from synthetic import VOXEL_NM, nuclei

    image, _, thickness_nm = nuclei(0)
    return image.repeat(max(1, round(thickness_nm / VOXEL_NM)), axis=0)


def measure_all(bench: InferenceBench, edge: int, rounds: int) -> list[Series]:
    """Run everything in turns."""
    size = (edge, edge, edge)
    for model in MODELS:
        bench.image(model, size)
        bench.run(model, START_UP_SIZE, "voxelworks")  # compiles
    series = [
        Series(model, "image", size, program, PROCESSES) for model, program in product(MODELS, PROGRAMS)
    ]
    run_in_turns([(item, partial(bench.run, item.work, size, item.program)) for item in series], rounds)
    return series


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edge", type=int, default=320, help="voxels along each axis")
    parser.add_argument("--rounds", type=int, default=2, help="how often everything is measured")
    parser.add_argument(
        "--work", type=Path, help="folder for volumes and networks; by default a temporary one"
    )
    parser.add_argument(
        "--output", type=Path, help="file to write; by default the one behind docs/benchmarks.md"
    )
    options = parser.parse_args()
    with TemporaryDirectory(prefix="voxelworks-bench-") as temporary:
        work = (options.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        series = measure_all(InferenceBench(work, (PROCESSES,)), options.edge, options.rounds)
        arguments = ["--edge", str(options.edge), "--rounds", str(options.rounds)]
        figures = {
            "command": shlex.join(["python", "benchmarks/inference.py", *arguments]),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": describe_commit(),
            "versions": describe_versions(),
            "machine": describe_machine(work),
            "patches": {
                model: [list(Grid.plan((options.edge,) * 3, facts).patch_zyx[::-1]), list(facts.border)]
                for model, facts in ((model, shipped(model).facts) for model in MODELS)
            },
            "values": [asdict(item) for item in series],
        }
    (options.output or FIGURES).write_text(json.dumps(figures, indent=1) + "\n")
    print(table.inference_table(figures))
    if options.output is None:
        table.PAGE.write_text(table.made_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
