"""What the system lets a job use, what it does use, and how that is found out."""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

STACK_ALLOWANCE_BYTES = 2 * 2**30
"""Address space that threads reserve for stacks and heaps without using it."""

OOM_RECENT_S = 30.0
"""How long before the end of a job the system may have killed something for want of memory to be the cause."""

_CGROUPS = Path("/sys/fs/cgroup")


def machine_memory_bytes() -> int:
    """Give the memory of this machine, or of the container it runs in, in bytes."""
    files = [folder / "memory.max" for folder in _own_cgroups()]
    files.append(_CGROUPS / "memory/memory.limit_in_bytes")  # version 1, seen from inside a container
    limits = [limit for file in files if (limit := _read_number(file)) is not None]
    installed: int = psutil.virtual_memory().total
    return min([installed, *limits])


def apply_to_this_process(memory_bytes_max: int) -> None:
    """Limit this process and all it will start: before anything of a job is loaded.

    The sum over all processes of a job is watched by the worker. The limit set here stops a single process that asks
    for far too much at once, between two looks.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        limit = memory_bytes_max + STACK_ALLOWANCE_BYTES
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        # When the machine runs out of memory, the job shall die, not the worker or the server.
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("500")


def group_members(group: int) -> list[int]:
    """Give the processes of a process group."""
    return [pid for pid in psutil.pids() if _group_of(pid) == group]


def group_memory_bytes(group: int) -> int:
    """Give the memory that all processes of a group use together, in bytes.

    On Linux pages that several processes share count once, and files mapped into memory do not count: the system can
    drop them at any time. Elsewhere it is the sum of the resident sizes.
    """
    return sum(_memory_bytes(pid) for pid in group_members(group))


def oom_kill_count() -> int | None:
    """Give how many processes the system has killed for want of memory; None if it does not tell."""
    for folder in _own_cgroups():
        count = _read_field(folder / "memory.events", "oom_kill")
        if count is not None:
            return count
    return _read_field(Path("/proc/vmstat"), "oom_kill")


class OomWatch:
    """Notices that the system kills processes for want of memory.

    It counts them for the control group or the whole machine, others' among them: only what it has counted shortly
    before a process died says why that one did. The counter must be looked at often: a kill is dated by the look.
    """

    def __init__(
        self, read: Callable[[], int | None] = oom_kill_count, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = read
        self._clock = clock
        self._count = read()
        self._rose_at_s = -math.inf

    def look(self) -> None:
        count = self._read()
        # A control group that ends, or that this process leaves, has another count or none: no kill for that.
        if count is not None and self._count is not None and count > self._count:
            self._rose_at_s = self._clock()
        self._count = count

    def has_just_killed(self) -> bool:
        self.look()
        return self._clock() - self._rose_at_s <= OOM_RECENT_S


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _memory_bytes(pid: int) -> int:
    fields = _smaps_fields(pid)
    if "Pss_Anon" in fields:
        return fields["Pss_Anon"] + fields.get("Pss_Shmem", 0) + fields.get("SwapPss", 0)
    try:
        resident: int = psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return 0
    return resident


def _smaps_fields(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    parts = [line.split() for line in lines]
    return {part[0].rstrip(":"): int(part[1]) * 1024 for part in parts if len(part) == 3}


def _own_cgroups() -> Iterator[Path]:
    """Yield the folder of this process's control group (version 2) and of the groups around it, innermost first."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if line.startswith("0::"):
            folder = _CGROUPS / line.removeprefix("0::").lstrip("/")
            while folder.is_relative_to(_CGROUPS):
                yield folder
                folder = folder.parent


def _read_number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _read_field(file: Path, name: str) -> int | None:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return None
