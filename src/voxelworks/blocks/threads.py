"""How many threads the array libraries may use in one worker process.

Each library would otherwise start one thread for each core in each of the processes.
"""

from __future__ import annotations

import os

_LIBRARY_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
    "BLOSC_NTHREADS",
)


def core_count() -> int:
    """Give the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_per_slot(slots: int) -> int:
    """Give each of `slots` processes its share of the cores, at least one."""
    return max(1, core_count() // slots)


def thread_environment(threads: int) -> dict[str, str]:
    """Give the environment that makes the array libraries use `threads` threads, if it is set before they load."""
    return dict.fromkeys(_LIBRARY_VARIABLES, str(threads))


def limit_threads(threads: int) -> None:
    """Let this process, which only runs blocks, use `threads` threads. To be called before its first block."""
    from voxelworks.volumes import storage  # slow import, done by the fork server already

    os.environ.update(thread_environment(threads))
    storage.limit_threads(threads)
