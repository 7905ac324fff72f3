"""A paid workflow of light work. Installed for a test by putting this folder on PYTHONPATH."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from voxelworks.errors import StorageFailed
from voxelworks.geometry import VoxelSize
from voxelworks.protocol.messages import Progress
from voxelworks.workflows import Job, NewDataset, NewDatasetRef, Params, PerGigavoxel, workflow

Deed = Literal["work", "kill", "fill"]


is_broken = False
"""Whether this worker fails every job."""


class DrillParams(Params):
    """What to do."""

    target: NewDatasetRef
    """Dataset to make."""

    seconds: float = Field(default=0.0, ge=0)
    """How long to work."""

    deed: Deed = "work"
    """Work, kill the worker, or fill the disk."""

    voxels: int = Field(default=10_000_000, ge=0)
    """What to charge for."""

    lines: int = Field(default=0, ge=0)
    """How many lines to print."""


def _voxels(params: Any, _layers: object) -> int:
    return int(params.voxels)


@workflow(version=1, cost=PerGigavoxel("infer_neurons", of=_voxels), example={"target": "made"}, group="Test")
def drill(params: DrillParams, job: Job) -> NewDataset:
    """Sleep, and leave a dataset without layers."""
    if params.deed == "kill":
        os.kill(os.getpid(), 9)
    dataset = job.start_dataset(params.target, VoxelSize(10, 10, 10), inputs=[])
    if is_broken:
        raise StorageFailed("this worker is broken")
    if params.deed == "fill":
        _fill(Path(dataset.location))
    steps = max(1, round(params.seconds / 0.1))
    for step in range(steps):
        job.check()
        job._reporter.progress(Progress(phase="drilling", done=step, total=steps))
        for line in range(params.lines * step // steps, params.lines * (step + 1) // steps):
            job._reporter.log(line_of(str(params.target), line))
        time.sleep(params.seconds / steps)
    dataset.write_metadata()
    return NewDataset(dataset=str(params.target), layers=())


def _fill(folder: Path) -> None:
    with (folder / "big").open("wb") as file:
        for _ in range(300):
            file.write(bytes(2**20))


def line_of(target: str, number: int) -> str:
    """Give a line of the log of a job, which anybody can make again."""
    return f"{target} {number} " + "drill " * (number % 7)
