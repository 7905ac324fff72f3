"""Run a command and measure its whole process tree: wall time, CPU time and peak memory. Linux only.

    python benchmarks/measure.py -- COMMAND ARGUMENT...

Process pools hide their work from the usual means: a fork server outlives the command that started it, so nobody waits
for it, and what it and its workers consumed is lost. Here the measuring process becomes the *subreaper* of everything
that it starts (``PR_SET_CHILD_SUBREAPER``): orphans become its children, it waits for every one of them, and the system
adds up what they consumed, exactly and without polling.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

_PR_SET_CHILD_SUBREAPER = 36
_SAMPLE_EVERY_S = 0.05
_ORPHANS_END_WITHIN_S = 60.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """What a command took."""

    wall_s: float
    """Until the command itself ended."""
    user_s: float
    system_s: float
    """CPU time of all processes that the command started, also indirectly."""
    peak_bytes: int
    """Largest sum of the resident memory of all these processes, looked at every 0.05 s. Memory that they share counts
    once for each of them, so this is an upper bound. The page cache is not in it."""
    foreign_cores: float
    """Cores that other programs kept busy meanwhile. Above about 0.1 the wall time says little."""

    @property
    def cpu_s(self) -> float:
        return self.user_s + self.system_s


def measure(
    command: Sequence[str], *, core_count: int | None = None, environment: Mapping[str, str] | None = None
) -> Cost:
    """Run a command to its end.

    Parameters
    ----------
    command : sequence of str
    core_count : int, optional
        How many cores it may use; by default all.
    environment : mapping, optional
        By default that of this process.

    Raises
    ------
    RuntimeError
        If it fails, or leaves processes behind that do not end by themselves.
    """
    _become_subreaper()
    _wait_for_children(until=None)  # those of before are not counted
    cores = os.sched_getaffinity(0)
    own_before, children_before, busy_before = _own_cpu_s(), _children_cpu(), _busy_s()
    began_at = time.monotonic()
    # Not a pipe: its end would be that of the last process that holds it, not that of the command.
    with TemporaryFile("w+") as output, _MemoryWatch() as memory:
        # The command inherits the cores of the thread that starts it.
        os.sched_setaffinity(0, sorted(cores)[:core_count])
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        os.sched_setaffinity(0, cores)
        exit_status = process.wait()
        wall_s = time.monotonic() - began_at
        if exit_status != 0:
            output.seek(0)
            raise RuntimeError(f"exit status {exit_status} of {' '.join(command)}:\n{output.read()}")
    _wait_for_children(until=time.monotonic() + _ORPHANS_END_WITHIN_S)
    whole_s = time.monotonic() - began_at
    user_s, system_s = (
        after - before for after, before in zip(_children_cpu(), children_before, strict=True)
    )
    foreign_s = _busy_s() - busy_before - user_s - system_s - (_own_cpu_s() - own_before)
    return Cost(
        wall_s=wall_s,
        user_s=user_s,
        system_s=system_s,
        peak_bytes=memory.peak_bytes,
        foreign_cores=max(0.0, foreign_s / whole_s),
    )


class _MemoryWatch:
    """Looks at the memory of all descendants of this process until the end of the block."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> _MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(_SAMPLE_EVERY_S):
            held = sum(_resident_bytes(pid) for pid in _descendants(os.getpid()))
            self.peak_bytes = max(self.peak_bytes, held)


def _descendants(pid: int) -> Iterator[int]:
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in _text(thread).split():
            yield int(child)
            yield from _descendants(int(child))


def _resident_bytes(pid: int) -> int:
    # `statm` is a cheap look. The exact share of shared pages (`smaps_rollup`) would hold the lock that the process
    # itself needs whenever it asks for memory, and slow it down.
    fields = _text(Path(f"/proc/{pid}/statm")).split()
    return int(fields[1]) * _PAGE_BYTES if fields else 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""  # has just ended


def _become_subreaper() -> None:
    if not sys.platform.startswith("linux"):
        raise SystemExit("error: only Linux can measure whole process trees; run this on Linux")
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _wait_for_children(until: float | None) -> None:
    """Wait for all children, adopted ones too; without `until` only for those that have ended."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid != 0:
            continue
        if until is None:
            return
        if time.monotonic() > until:
            left = list(_descendants(os.getpid()))
            names = [_text(Path(f"/proc/{pid}/cmdline")).replace("\0", " ") for pid in left]
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            raise RuntimeError(f"processes were left behind: {names}")
        time.sleep(0.01)


def _children_cpu() -> tuple[float, float]:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime, used.ru_stime


def _own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _busy_s() -> float:
    """Seconds that the cores of this machine were busy since it started."""
    user, nice, system, _idle, _iowait, interrupts, soft_interrupts, *_ = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    )
    return (user + nice + system + interrupts + soft_interrupts) / _TICKS_PER_S


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] != ["--"] or len(arguments) < 2:
        raise SystemExit("usage: measure.py -- COMMAND ARGUMENT...")
    print(json.dumps(dataclasses.asdict(measure(arguments[1:]))))


if __name__ == "__main__":
    main()
