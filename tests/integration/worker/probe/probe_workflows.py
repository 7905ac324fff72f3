"""Workflows that misbehave on demand. Installed for a test by putting this folder on PYTHONPATH."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

from voxelworks.errors import InvalidInput
from voxelworks.geometry import VoxelSize
from voxelworks.protocol.messages import Progress
from voxelworks.workflows import FREE, Job, Needs, NewDataset, NewDatasetRef, Params, workflow
from voxelworks.workflows._declare import Outcome

Deed = Literal[
    "work",
    "ignore-sigterm",
    "family",
    "memory",
    "crash",
    "error",
    "refuse",
    "print",
    "environment",
    "spy",
    "gpu",
]


class ProbeParams(Params):
    """What to do."""

    deed: Deed = "work"
    """Good or bad."""

    note: str
    """File for notes, which the server never sees: one line with the process id for each attempt."""

    seconds: float = 0.0
    """How long to work."""


class ProbeOutcome(Outcome):
    """What was found."""

    kind = "value"
    found: str


@workflow(version=1, cost=FREE, example={"note": "note.txt"}, group="Test")
def probe(params: ProbeParams, job: Job) -> ProbeOutcome:
    """Do what a test asks for."""
    if params.deed == "ignore-sigterm":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if params.deed == "family":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    _note(params, str(os.getpid()))
    if params.deed == "memory":
        _eat(job)
    if params.deed == "crash":
        print("about to crash", flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if params.deed == "error":
        raise ValueError("the probe is broken")
    if params.deed == "refuse":
        raise InvalidInput("the probe refuses 7; give it 8")
    if params.deed == "print":
        data = Path(params.note).with_suffix(".bytes").read_bytes()
        for start in range(0, len(data), 7001):
            os.write(1 + start % 2, data[start : start + 7001])
    if params.deed == "gpu":
        return ProbeOutcome(found=os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
    if params.deed == "spy":
        return ProbeOutcome(found=_spy(os.getppid()))
    _work(params.seconds, job)
    return ProbeOutcome(found=" ".join(sorted(os.environ)) if params.deed == "environment" else "nothing")


class ProbeRoomParams(Params):
    """How much one block takes."""

    block_bytes: int
    """Memory of a block."""


@workflow(version=1, cost=FREE, example={"block_bytes": 1}, group="Test", needs=Needs(memory_bytes=2**30))
def probe_room(params: ProbeRoomParams, job: Job) -> ProbeOutcome:
    """Tell how many blocks fit into memory side by side."""
    return ProbeOutcome(found=str(job.executor.room_for(params.block_bytes)))


class ProbeHurryParams(Params):
    """Where to leave a note."""

    note: str
    """File for notes."""


@workflow(version=1, cost=FREE, example={"note": "note.txt"}, group="Test", needs=Needs(walltime_s=8))
def probe_hurry(params: ProbeHurryParams, job: Job) -> ProbeOutcome:
    """Take longer than it may."""
    _note(params, str(os.getpid()))
    _work(600, job)
    return ProbeOutcome(found="nothing")


class ProbeGpuParams(Params):
    """How long to work."""

    seconds: float = 0.0
    """How long to work."""


@workflow(version=1, cost=FREE, example={"seconds": 1}, group="Test", needs=Needs(gpu=True))
def probe_gpu(params: ProbeGpuParams, job: Job) -> ProbeOutcome:
    """Keep a GPU."""
    _work(params.seconds, job)
    return ProbeOutcome(found=os.environ.get("CUDA_VISIBLE_DEVICES", "all"))


class ProbeDatasetParams(Params):
    """Which dataset to make."""

    target: NewDatasetRef
    """Dataset to make."""

    note: str
    """File for notes."""

    seconds: float = 0.0
    """How long to work."""


@workflow(version=1, cost=FREE, example={"target": "made", "note": "note.txt"}, group="Test")
def probe_dataset(params: ProbeDatasetParams, job: Job) -> NewDataset:
    """Make an empty dataset, slowly."""
    dataset = job.start_dataset(params.target, VoxelSize(10, 10, 10), inputs=[])
    _note(params, str(os.getpid()))
    _work(params.seconds, job)
    dataset.write_metadata()
    return NewDataset(dataset=str(params.target), layers=())


def _work(seconds: float, job: Job) -> None:
    steps = max(1, round(seconds / 0.05))
    for step in range(steps):
        job.check()
        job._reporter.progress(Progress(phase="probing", done=step, total=steps))
        time.sleep(seconds / steps)


def _spy(pid: int) -> str:
    try:
        environment = Path(f"/proc/{pid}/environ").read_text()
    except PermissionError:
        return "refused"
    return environment.replace("\0", " ")


def _eat(job: Job) -> None:
    eaten = []
    while True:
        job.check()
        eaten.append(b"x" * 20_000_000)
        time.sleep(0.02)


def _note(params: ProbeParams | ProbeHurryParams | ProbeDatasetParams, line: str) -> None:
    with Path(params.note).open("a") as note:
        note.write(line + "\n")
