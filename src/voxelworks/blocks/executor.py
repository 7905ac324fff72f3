"""What a thing that runs blocks must be able to do; the simplest one; how one is chosen."""

from __future__ import annotations

import concurrent.futures
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from voxelworks.blocks.memory import SMALLER_BLOCKS, fit_slots, free_memory_bytes

BlockFunction = Callable[[Any], Any]
"""Does one block. It crosses process borders: a function of an importable module, or a `partial` of one."""


@dataclass(frozen=True)
class Outcome:
    """What became of a block: its result or its error."""

    result: object = None
    error: Exception | None = None


class WorkerDied(Exception):
    """The process that ran a block ended without an answer.

    Parameters
    ----------
    exit_code : int or None
        Exit status of the process, negative for the signal that killed it; None if nobody knows.
    """

    def __init__(self, exit_code: int | None) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code

    def __str__(self) -> str:
        if self.exit_code is None:
            return "its process was killed"
        if self.exit_code < 0:
            return f"its process was killed by {signal.Signals(-self.exit_code).name}"
        return f"its process ended with exit status {self.exit_code}"


class Executor(Protocol):
    """Runs blocks somewhere; stays warm from one call of `process` to the next.

    It is used from one thread, and as a context manager: leaving it ends all that it started.
    """

    @property
    def slots(self) -> int:
        """How many blocks run at the same time, if memory allows."""

    @property
    def is_here(self) -> bool:
        """Whether all blocks run in processes of this machine that stay from block to block."""

    def room_for(
        self, memory_bytes_per_block: int, *, item: str = "block", remedy: str = SMALLER_BLOCKS
    ) -> int:
        """Give how many blocks may be started before one of them has ended.

        Parameters
        ----------
        memory_bytes_per_block : int
        item, remedy : str
            For the error: what one block is, and how to make it smaller.

        Raises
        ------
        ResourcesExceeded
            If not even one block fits into memory.
        """

    def start(self, key: str, function: BlockFunction, item: object) -> None:
        """Begin a block and return at once. No two running blocks may have the same key."""

    def collect(self, timeout_s: float) -> list[tuple[str, Outcome]]:
        """Give the keys and outcomes of blocks that ended; wait for the first one, but not longer than `timeout_s`."""

    def stop(self) -> None:
        """Stop all running blocks; when this returns, none of them runs or writes any more."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_exception: object) -> None: ...


def make_executor(
    spec: str | None,
    slots: int,
    *,
    memory_bytes_max: int | None = None,
    preloads: Sequence[str] | None = None,
) -> Executor:
    """Choose where blocks run.

    Parameters
    ----------
    spec : str or None
        None for a pool of processes on this machine, ``serial`` for this very process, anything else for Dask:
        see `cluster.DaskExecutor.open`.
    slots : int
        Processes to compute with.
    memory_bytes_max : int, optional
        Limit for all processes on this machine together.
    preloads : sequence of str, optional
        Modules that blocks need; see `local.LocalExecutor`.
    """
    if spec is None:
        from voxelworks.blocks.local import LocalExecutor

        return LocalExecutor(slots, memory_bytes_max=memory_bytes_max, preloads=preloads)
    if spec == "serial":
        return SerialExecutor(memory_bytes_max=memory_bytes_max)
    from voxelworks.blocks.cluster import DaskExecutor

    return DaskExecutor.open(spec, slots, memory_bytes_max=memory_bytes_max)


class SerialExecutor:
    """Runs one block after the other in this process, in a thread of its own.

    For tests and for debugging: a block that crashes takes the whole process with it, and stopping waits for the end of
    the running block, because nothing can stop a thread.
    """

    slots = 1
    is_here = True

    def __init__(self, *, memory_bytes_max: int | None = None) -> None:
        self._memory_bytes_max = memory_bytes_max
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="block")
        self._running: dict[concurrent.futures.Future[Outcome], str] = {}

    def room_for(
        self, memory_bytes_per_block: int, *, item: str = "block", remedy: str = SMALLER_BLOCKS
    ) -> int:
        free = free_memory_bytes(self._memory_bytes_max)
        return fit_slots(memory_bytes_per_block, 1, free, item=item, remedy=remedy)

    def start(self, key: str, function: BlockFunction, item: object) -> None:
        self._running[self._thread.submit(perform, function, item)] = key

    def collect(self, timeout_s: float) -> list[tuple[str, Outcome]]:
        if not self._running:
            time.sleep(timeout_s)
            return []
        ended, _ = concurrent.futures.wait(self._running, timeout_s, concurrent.futures.FIRST_COMPLETED)
        return [(self._running.pop(future), future.result()) for future in ended]

    def stop(self) -> None:
        for future in self._running:
            future.cancel()
        concurrent.futures.wait(self._running)
        self._running.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()
        self._thread.shutdown()


def perform(function: BlockFunction, item: object) -> Outcome:
    """Run one block and catch its error. All executors do this, each where its blocks run."""
    try:
        return Outcome(function(item))
    except Exception as error:
        return Outcome(error=portable(error))


def pack(function: BlockFunction, item: object) -> bytes:
    """Make a block ready for another process."""
    return pickle.dumps((function, item), protocol=pickle.HIGHEST_PROTOCOL)


def perform_packed(task: bytes) -> bytes:
    """Run a packed block and pack its outcome, whatever happens."""
    try:
        function, item = pickle.loads(task)  # noqa: S301 - packed by the process that started this one
    except Exception as error:
        wrong = TypeError(
            f"a worker cannot load the block: {error}; its function must be in an importable module"
        )
        return pickle.dumps(Outcome(error=portable(wrong)))
    outcome = perform(function, item)
    try:
        return pickle.dumps(outcome, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        return pickle.dumps(Outcome(error=portable(error)))


def unpack_outcome(packed: bytes) -> Outcome:
    outcome: Outcome = pickle.loads(packed)  # noqa: S301 - packed by a worker of ours
    return outcome


def portable(error: Exception) -> Exception:
    """Give the error in a form that survives the way to another process, with its traceback as a note."""
    error.add_note("".join(traceback.format_tb(error.__traceback__)).rstrip())
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes, made on this line
    except Exception:
        stand_in = RuntimeError(f"{type(error).__name__}: {error}")
        stand_in.__notes__ = error.__notes__
        return stand_in
    return error
