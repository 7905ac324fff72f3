"""Measure whole segmentations against the network alone. Needs the extra `train`, which makes the networks.

    python benchmarks/inference.py                                   256 voxels on each axis, 2 rounds
    python benchmarks/inference.py --edge 128 --rounds 1 --output try.json

Writes docs/figures/inference.json and the table of docs/benchmarks.md. The networks are those that are trained for the
CPU, with weights by chance: how fast they are does not depend on what they learned. The floor is ONNX Runtime with as
many processes of one thread each, on as many patches of the same size, and nothing else. In every round each program
runs once for each network, one after the other.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import table
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

PROGRAMS = ("floor", "voxelworks")
PROCESSES = 2
FIGURES = table.DOCS / "figures" / "inference.json"
NETWORKS = {"instances": ("foreground", "distance"), "affinities": tuple("abcdefghi")}
"""What the networks give; nine affinities, to the next voxel and to two at a distance on each axis."""
PATCH, BORDER = 96, 16


class InferenceBench(Bench):
    """Runs the network alone, or the whole job."""

    def make_models(self) -> None:
        """Make the networks, unless they are there."""
        from voxelworks.ai.exporting import export_onnx
        from voxelworks.ai.networks import Architecture, ResidualUNet
        from voxelworks.ai.package import write_package
        from voxelworks.ai.targets import offsets_for
        from voxelworks.geometry import VoxelSize
        from voxelworks.protocol.models import ModelFacts

        size = VoxelSize(8, 8, 8)
        for task, outputs in NETWORKS.items():
            folder = self.model(task)
            if folder.exists():
                continue
            architecture = Architecture.plan(1, len(outputs), size, "small")
            weights = self.work / f"{task}.onnx"
            export_onnx(architecture, ResidualUNet(architecture).state_dict(), weights, (16, 16, 16))
            facts = ModelFacts(
                title=task, task=task, structure="noise", voxel_size=size, voxel_size_min=size, voxel_size_max=size,
                outputs=outputs, offsets=offsets_for(size, (0, 30, 90)) if task == "affinities" else (),
                distance_scale_nm=100, patch=(PATCH,) * 3, border=(BORDER,) * 3, step=(8, 8, 8),
            )  # fmt: skip
            write_package(folder, facts, weights)

    def model(self, task: str) -> Path:
        return self.work / f"model-{task}"

    def run(self, task: str, size: tuple[int, int, int], program: str) -> Cost:
        if program == "floor":
            core = PATCH - 2 * BORDER
            patches = math.prod(-(-edge // core) for edge in size)
            weights = str(self.model(task) / "weights.onnx")
            command = [sys.executable, str(FLOORS / "predict_floor.py"), weights, f"{PATCH},{PATCH},{PATCH}"]
            return self.measure([*command, str(patches), str(PROCESSES)], PROCESSES)
        case = self.case("infer", "image", size)
        names = ["--dataset", str(case.dataset), "--layer", "image", "--model", str(self.model(task))]
        target = ["--target", str(self.target("segmented"))]
        return self.measure([*voxelworks_command("infer_with_model", PROCESSES), *names, *target], PROCESSES)


def measure_all(bench: InferenceBench, edge: int, rounds: int) -> list[Series]:
    """Run everything in turns."""
    bench.make_models()
    size = (edge, edge, edge)
    bench.case("infer", "image", size)
    for task in NETWORKS:
        bench.run(task, START_UP_SIZE, "voxelworks")  # compiles
    series = [
        Series(task, "image", size, program, PROCESSES) for task, program in product(NETWORKS, PROGRAMS)
    ]
    run_in_turns([(item, partial(bench.run, item.work, size, item.program)) for item in series], rounds)
    return series


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edge", type=int, default=256, help="voxels along each axis")
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
            "patch": [PATCH, BORDER],
            "values": [asdict(item) for item in series],
        }
    (options.output or FIGURES).write_text(json.dumps(figures, indent=1) + "\n")
    print(table.inference_table(figures))
    if options.output is None:
        table.PAGE.write_text(table.made_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
