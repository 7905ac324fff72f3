"""The one loop that runs the blocks of a job: progress, cancellation, retry, checkpoints and memory live here."""

from __future__ import annotations

import errno
import heapq
import logging
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

from pydantic import TypeAdapter

from voxelworks.blocks.checkpoints import Checkpoints
from voxelworks.blocks.executor import Executor, WorkerDied
from voxelworks.errors import (
    BlockFailed,
    BlockKilled,
    DiskFull,
    FailureClass,
    ResourcesExceeded,
    VoxelworksError,
)
from voxelworks.protocol.messages import Progress

POLL_S = 0.1
"""How long the loop waits for a block before it looks again whether the job was cancelled."""
REPORT_EVERY_S = 1.0
"""Progress is told at most this often..."""
HEARTBEAT_S = 5.0
"""...and at least this often, even if no block ends."""

_RETRIED: set[FailureClass] = {"infrastructure", "program_error"}
"""Where another try may help."""
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_KILLED = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP, None}
"""Exit codes of processes that were ended from outside: by the system, an operator or a cluster."""

_log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


def process(
    items: Sequence[tuple[str, Item]],
    function: Callable[[Item], Result],
    *,
    executor: Executor,
    phase: str,
    report: Callable[[Progress], None],
    check: Callable[[], None] = lambda: None,
    checkpoints: Checkpoints | None = None,
    result_type: Any = None,
    is_intact: Callable[[Result], bool] = lambda _: True,
    memory_bytes_per_item: int = 0,
    at_once_max: int | None = None,
    tries: int = 3,
    retry_wait_s: float = 1.0,
) -> list[Result]:
    """Run `function` on every item, each a block of the work, in any order.

    Parameters
    ----------
    items : sequence of (key, item)
        The keys name the blocks in messages and markers and must differ. Items are sent to other processes.
    function : callable
        Does one block. It may run again after a failure or a kill, so it must write the same bytes each time. It must
        belong to an importable module (or be a `partial` of such a function).
    executor : Executor
        Where blocks run. It stays open and may be used again, after an error too.
    phase : str
        What users see as the present step. Phases of one job that share `checkpoints` must have different names.
    report : callable
        Takes the progress: first, last, at most once a second between, and every few seconds as a sign of life.
    check : callable
        Called several times a second. The error that it raises stops all blocks and is raised.
    checkpoints : Checkpoints, optional
        Blocks that are marked as done there are not run; the ones that end are marked.
    result_type : type, optional
        Type of the results, for reading them back from markers; by default they are plain JSON values.
    is_intact : callable
        Asked about the result of each block that is marked as done: whether what it left is still there.
    memory_bytes_per_item : int
        Memory that one block takes. Fewer blocks run side by side where not all fit.
    at_once_max : int, optional
        Most blocks that run side by side, such as where each needs a GPU.
    tries : int
        How often a block is tried. Errors that another try cannot help, such as bad input, are raised at once.
    retry_wait_s : float
        Wait before the second try, in seconds; doubles with each further one.

    Returns
    -------
    list of Result
        In the order of the items.

    Raises
    ------
    ResourcesExceeded
        If not even one block fits into memory; `DiskFull` if there is no room for a result.
    BlockFailed
        If a block failed in every try. A `VoxelworksError` of the block is raised as it is, with a note.
    """
    check()
    archive = _Archive[Result](checkpoints, phase, result_type)
    results = archive.load({key for key, _ in items}, is_intact)
    left = _Attempts([(key, item) for key, item in items if key not in results], tries, retry_wait_s)
    pace = _Pace(report, phase, len(items))
    pace.tell(len(results))
    room = executor.room_for(memory_bytes_per_item) if left else 0
    room = min(room, at_once_max or room)
    try:
        while left:
            check()
            while len(left.running) < room and (attempt := left.next_due()) is not None:
                executor.start(attempt.key, function, attempt.item)
            for key, outcome in executor.collect(POLL_S):
                if outcome.error is not None:
                    left.failed(key, outcome.error)
                else:
                    results[key] = archive.keep(key, outcome.result)
                    left.succeeded(key)
            pace.tell(len(results))
    except BaseException:
        executor.stop()
        raise
    return [results[key] for key, _ in items]


def are_done(
    keys: Iterable[str],
    *,
    phase: str,
    checkpoints: Checkpoints,
    result_type: Any = None,
    is_intact: Callable[[Result], bool] = lambda _: True,
) -> bool:
    """Tell whether `process` would find all blocks with these keys done, and so run none."""
    wanted = set(keys)
    return _Archive[Result](checkpoints, phase, result_type).load(wanted, is_intact).keys() == wanted


@dataclass(frozen=True)
class _Attempt:
    key: str
    item: object
    number: int = 1


class _Attempts:
    """Which blocks wait, which run, and how often each was tried. True as long as there are any."""

    def __init__(self, items: Iterable[tuple[str, object]], tries: int, retry_wait_s: float) -> None:
        self.running: dict[str, _Attempt] = {}
        self._fresh = deque(_Attempt(key, item) for key, item in items)
        self._again: list[tuple[float, str, _Attempt]] = []
        self._tries = tries
        self._retry_wait_s = retry_wait_s
        if len({attempt.key for attempt in self._fresh}) < len(self._fresh):
            raise ValueError("two blocks have the same key")

    def __bool__(self) -> bool:
        return bool(self._fresh or self._again or self.running)

    def next_due(self) -> _Attempt | None:
        """Take the next block that may run now, if there is one."""
        if self._again and self._again[0][0] <= time.monotonic():
            attempt = heapq.heappop(self._again)[2]
        elif self._fresh:
            attempt = self._fresh.popleft()
        else:
            return None
        self.running[attempt.key] = attempt
        return attempt

    def succeeded(self, key: str) -> None:
        del self.running[key]

    def failed(self, key: str, error: Exception) -> None:
        """Put the block back for another try; raise its error if none is left, or none would help."""
        attempt = self.running.pop(key)
        if attempt.number == self._tries or not _may_pass(error):
            _give_up(key, error, attempt.number)
        _log.warning("block %s: try %d of %d failed: %s", key, attempt.number, self._tries, _sentence(error))
        due_s = time.monotonic() + self._retry_wait_s * 2 ** (attempt.number - 1)
        heapq.heappush(self._again, (due_s, key, _Attempt(key, attempt.item, attempt.number + 1)))


def _may_pass(error: Exception) -> bool:
    """Tell whether another try may go better."""
    if isinstance(error, VoxelworksError):
        return error.failure_class in _RETRIED
    return not _is_disk_full(error)


def _give_up(key: str, error: Exception, tries: int) -> NoReturn:
    if isinstance(error, VoxelworksError):
        error.add_note(f"in block {key}, try {tries}")
        raise error
    times = "once" if tries == 1 else f"{tries} times"
    if _is_disk_full(error):
        raise DiskFull(f"block {key}: {error}; free some disk space and try again") from error
    if isinstance(error, MemoryError):
        raise ResourcesExceeded(
            f"block {key} ran out of memory {times}; use fewer slots, smaller shards or a machine with more memory"
        ) from error
    kind = BlockKilled if isinstance(error, WorkerDied) and error.exit_code in _KILLED else BlockFailed
    raise kind(f"block {key} failed {times}, at last with {_sentence(error)}") from error


def _is_disk_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in _DISK_FULL


def _sentence(error: Exception) -> str:
    if isinstance(error, VoxelworksError | WorkerDied):
        return str(error)
    return f"{type(error).__name__}: {error}"


class _Archive(Generic[Result]):
    """Results on their way to markers and back. Fresh ones take the same way, so that both are always alike."""

    def __init__(self, checkpoints: Checkpoints | None, phase: str, result_type: Any) -> None:
        self._checkpoints = checkpoints
        self._phase = phase
        self._adapter: TypeAdapter[Result] = TypeAdapter(Any if result_type is None else result_type)

    def load(self, keys: set[str], is_intact: Callable[[Result], bool]) -> dict[str, Result]:
        if self._checkpoints is None:
            return {}
        found = self._checkpoints.load(self._phase)
        results = {key: self._adapter.validate_python(found[key]) for key in keys & found.keys()}
        return {key: result for key, result in results.items() if is_intact(result)}

    def keep(self, key: str, result: Any) -> Result:
        if self._checkpoints is None:
            return result  # type: ignore[no-any-return]
        plain = self._adapter.dump_python(result, mode="json")
        self._checkpoints.mark(self._phase, key, plain)
        return self._adapter.validate_python(plain)


class _Pace:
    """Tells progress neither too often nor too seldom."""

    def __init__(
        self,
        report: Callable[[Progress], None],
        phase: str,
        total: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._report = report
        self._phase = phase
        self._total = total
        self._clock = clock
        self._told: int | None = None
        self._told_at_s = 0.0

    def tell(self, done: int) -> None:
        silent_s = self._clock() - self._told_at_s
        is_news = done != self._told
        is_edge = self._told is None or (is_news and done == self._total)
        if is_edge or silent_s >= HEARTBEAT_S or (is_news and silent_s >= REPORT_EVERY_S):
            self._report(Progress(phase=self._phase, done=done, total=self._total))
            self._told, self._told_at_s = done, self._clock()
