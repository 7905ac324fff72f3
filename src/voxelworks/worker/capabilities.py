"""What a worker has for its jobs, as it tells the server."""

from __future__ import annotations

import os
import re
from pathlib import Path

from voxelworks.settings import Settings
from voxelworks.worker import limits

_DEVICES = Path("/dev")


def memory_bytes(settings: Settings) -> int:
    """Give the memory that one job may have at most, in bytes."""
    return settings.memory_bytes_max or limits.machine_memory_bytes()


def gpu_count(settings: Settings) -> int:
    """Count the NVIDIA GPUs that jobs may use: those of the settings, those made visible, or those of the machine."""
    if settings.gpus is not None:
        return settings.gpus
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        # A number that stands for no GPU ends the list, by CUDA's own rule.
        names = visible.split(",") if visible.strip() else []
        end = next((index for index, name in enumerate(names) if name.strip().startswith("-")), len(names))
        return end
    return sum(1 for entry in _entries(_DEVICES) if re.fullmatch(r"nvidia\d+", entry))


def _entries(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
