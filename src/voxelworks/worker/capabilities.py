"""What a worker has for its jobs, as it tells the server."""

from __future__ import annotations

import os
import re
from itertools import takewhile
from pathlib import Path

from voxelworks.ai.devices import find_gpus
from voxelworks.settings import Settings
from voxelworks.worker import limits

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
_DEVICES = Path("/dev")


def memory_bytes(settings: Settings) -> int:
    """Give the memory that one job may have at most, in bytes."""
    return settings.memory_bytes_max or limits.machine_memory_bytes()


def gpus(settings: Settings) -> tuple[str, ...]:
    """Name the NVIDIA GPUs for jobs, as CUDA does: those made visible or those of the machine, or as many as set."""
    names = _visible_gpus()
    if names is None:
        found = sum(1 for entry in _entries(_DEVICES) if re.fullmatch(r"nvidia\d+", entry))
        names = [str(number) for number in range(found if settings.gpus is None else settings.gpus)]
    return tuple(names[: settings.gpus])


def gpu_names(gpus: tuple[str, ...]) -> tuple[str, ...]:
    """Tell what the GPUs for jobs are, as far as the driver tells."""
    return tuple(f"{gpu.name}, driver {gpu.driver}" for gpu in find_gpus(",".join(gpus))) if gpus else ()


def _visible_gpus() -> list[str] | None:
    visible = os.environ.get(VISIBLE_GPUS)
    if visible is None:
        return None
    names = [name.strip() for name in visible.split(",")] if visible.strip() else []
    # A number that stands for no GPU ends the list, by CUDA's own rule.
    return list(takewhile(lambda name: not name.startswith("-"), names))


def _entries(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
