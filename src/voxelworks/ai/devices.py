"""NVIDIA GPUs that networks can run on: which ones this process sees, and who of a job has which.

ONNX Runtime and PyTorch number the GPUs that CUDA shows them from 0. `nvidia-smi`, which comes with the driver, tells
their names and memory in the order of the bus; `voxelworks.ai` sets CUDA to the same order.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from voxelworks.errors import ResourcesExceeded
from voxelworks.sizes import size_text

VISIBLE = "CUDA_VISIBLE_DEVICES"
_QUERY = ("index", "uuid", "name", "driver_version", "memory.total", "memory.free")
_ANSWER_S = 60.0
_WAIT_S = 0.2
INSTALL = (
    "run `pip uninstall -y onnxruntime onnxruntime-gpu` and `pip install 'onnxruntime-gpu[cuda,cudnn]'` on a machine "
    "with an NVIDIA driver, or choose device cpu"
)


@dataclass(frozen=True)
class Gpu:
    """A GPU that this process sees."""

    number: int
    """As CUDA counts those that it shows."""
    name: str
    driver: str
    memory_bytes: int
    free_bytes: int

    def __str__(self) -> str:
        return (
            f"GPU {self.number} ({self.name}, driver {self.driver}, {size_text(self.memory_bytes)}, "
            f"{size_text(self.free_bytes)} free)"
        )


def find_gpus(visible: str | None = None) -> tuple[Gpu, ...]:
    """Find the GPUs that CUDA would show with a list of visible ones, by default that of this process.

    There are none where no driver tells of one.
    """
    command = ["nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_gpus(told, os.environ.get(VISIBLE) if visible is None else visible)


def parse_gpus(told: str, visible: str | None) -> tuple[Gpu, ...]:
    """Read what `nvidia-smi` told, and take those that are visible, in that order (None: all)."""
    rows = [[part.strip() for part in line.split(",")] for line in told.splitlines() if line.strip()]
    rows = [row for row in rows if len(row) == len(_QUERY) and row[4].isdecimal() and row[5].isdecimal()]
    chosen = rows
    if visible is not None:
        chosen = []
        for name in (part.strip() for part in visible.split(",")):
            found = [
                row for row in rows if name == row[0] or (name.startswith("GPU-") and row[1].startswith(name))
            ]
            if len(found) != 1:
                break  # by CUDA's own rule what follows is not seen either
            chosen += found
    return tuple(
        Gpu(number, row[2], row[3], int(row[4]) * 2**20, int(row[5]) * 2**20)
        for number, row in enumerate(chosen)
    )


def require_gpus(needed_bytes: int) -> tuple[Gpu, ...]:
    """Give the GPUs that have so much free memory.

    Raises
    ------
    ResourcesExceeded
        If there is none, or all are taken: a job that shall run on a GPU never falls back to the CPU.
    """
    found = find_gpus()
    if not found:
        raise ResourcesExceeded(f"the job shall run on a GPU, and this machine shows none; {INSTALL}")
    roomy = tuple(gpu for gpu in found if gpu.free_bytes >= needed_bytes)
    if not roomy:
        raise ResourcesExceeded(
            f"the network needs {size_text(needed_bytes)} of GPU memory, and there are "
            f"{', '.join(map(str, found))}; end what else runs there, or choose device cpu"
        )
    return roomy


@lru_cache(maxsize=8)
def take_gpu(folder: Path, numbers: Sequence[int]) -> int:
    """Take one of some GPUs for as long as this process lives: each is given to one process of a job.

    Parameters
    ----------
    folder
        The same for all processes of a job; locks lie there.
    numbers
        There are at least as many as processes; else this waits until one ends.
    """
    while True:
        for number in numbers:
            lock = os.open(folder / f"gpu-{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(lock)
                continue
            return number  # the lock stays until the process ends
        time.sleep(_WAIT_S)
