"""How much memory there is, and how many blocks fit into it. Looked at before any block starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

from voxelworks.errors import ResourcesExceeded

PROCESS_BYTES = 64 * 2**20
"""What a worker process needs besides its block: most of its code is shared with the other workers."""
SMALLER_BLOCKS = "lower VOXELWORKS_SHARD_BYTES_MAX"


def fit_slots(
    memory_bytes_per_item: int,
    slots: int,
    memory_bytes_free: int,
    *,
    item: str = "block",
    remedy: str = SMALLER_BLOCKS,
) -> int:
    """Give how many blocks may run at the same time: at most `slots`, fewer if memory is short.

    Parameters
    ----------
    memory_bytes_per_item, slots, memory_bytes_free : int
    item, remedy : str
        For the error: what one item is, and how to make it smaller.

    Raises
    ------
    ResourcesExceeded
        If not even one fits.
    """
    if memory_bytes_per_item <= 0:
        return slots
    needed = memory_bytes_per_item + PROCESS_BYTES
    if needed > memory_bytes_free:
        raise ResourcesExceeded(
            f"one {item} needs {_mebibytes(needed)} of memory, but only {_mebibytes(memory_bytes_free)} are free; "
            f"{remedy}, raise VOXELWORKS_MEMORY_BYTES_MAX if it is set, or use a larger machine"
        )
    return min(slots, memory_bytes_free // needed)


def free_memory_bytes(memory_bytes_max: int | None = None) -> int:
    """Give the memory that blocks may take now: the least that machine, control group and the job's own limit leave.

    Parameters
    ----------
    memory_bytes_max : int, optional
        Limit of the job over all its processes. What this process holds already is taken off.
    """
    limits: list[int] = [psutil.virtual_memory().available, *_control_group_bytes()]
    if memory_bytes_max is not None:
        limits.append(memory_bytes_max - psutil.Process().memory_info().rss)
    return max(0, min(limits))


def _control_group_bytes(
    membership: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")
) -> Iterator[int]:
    """Yield what is free in the control group of this process and in each one above it (Linux; versions 1 and 2)."""
    if not membership.exists():
        return
    for line in membership.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit, usage, reclaimable = mount, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit, usage = mount / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            reclaimable = "total_inactive_file"
        else:
            continue
        group = root / path.lstrip("/")
        # Inside a container the path may name folders that only the host sees; the root is then the container's own.
        for folder in (group, *group.parents):
            if folder.is_relative_to(root) and (folder / limit).exists():
                text = (folder / limit).read_text().strip()
                if text != "max":
                    held = int((folder / usage).read_text()) - _statistic(folder / "memory.stat", reclaimable)
                    yield int(text) - held


def _statistic(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"
