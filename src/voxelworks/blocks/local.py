"""Blocks in a warm pool of processes on this machine."""

from __future__ import annotations

import atexit
import contextlib
import logging
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Self

import psutil

from voxelworks.blocks.executor import (
    BlockFunction,
    Outcome,
    WorkerDied,
    pack,
    perform_packed,
    unpack_outcome,
)
from voxelworks.blocks.memory import SMALLER_BLOCKS, fit_slots, free_memory_bytes
from voxelworks.blocks.threads import limit_threads, thread_environment, threads_per_slot
from voxelworks.ops import cache

PRELOADED_MODULES = (
    "voxelworks.volumes.dataset",
    "voxelworks.volumes.formats",
    "voxelworks.ops.warm",
)
"""What is loaded if nothing is known of the blocks: what most of them need."""

_GROUP_SIGNALS = {signal.SIGINT, signal.SIGTERM}
"""Sent to whole process groups, by Ctrl-C or to end a job. What becomes of workers is for their parent to say."""
_EXIT_CODE_WAIT_S = 2.0
_START_TRIES = 10
_START_WAIT_S = 0.1
_SOCKET_PATH_BYTES_MAX = 107
_SOCKET_NAME_BYTES = len("/pymp-xxxxxxxx/listener-xxxxxxxx")
_UNKNOWN_EXIT = 255
"""What `multiprocessing` says if the fork server died and took the exit code with it."""

_log = logging.getLogger(__name__)


@dataclass
class _Worker:
    process: BaseProcess
    handle: psutil.Process
    """The same process; unlike the first it can be told from a later process with the same id."""
    connection: Connection
    key: str | None = None
    """Block that it runs; None if it is idle."""


class LocalExecutor:
    """Runs blocks in up to `slots` processes, started when first needed and kept until the end.

    A worker process that dies costs only the block that it was running; the next start replaces it. If this process is
    killed, its workers end too.

    Parameters
    ----------
    slots : int
        Number of processes. The cores are shared out between them for the threads of array libraries.
    memory_bytes_max : int, optional
        Limit for all processes of the job together; by default what the machine has to spare.
    preloads : sequence of str, optional
        Modules that the fork server loads once; each worker is then there within milliseconds and shares their memory.
        It is started once in the life of this process: what a later executor names is loaded by each worker for itself.
    """

    is_here = True

    def __init__(
        self, slots: int, *, memory_bytes_max: int | None = None, preloads: Sequence[str] | None = None
    ) -> None:
        self.slots = slots
        self._preloads = PRELOADED_MODULES if preloads is None else preloads
        self._memory_bytes_max = memory_bytes_max
        self._threads = threads_per_slot(slots)
        self._context = _context()
        self._workers: list[_Worker] = []

    def room_for(
        self, memory_bytes_per_block: int, *, item: str = "block", remedy: str = SMALLER_BLOCKS
    ) -> int:
        free = free_memory_bytes(self._memory_bytes_max)
        return fit_slots(memory_bytes_per_block, self.slots, free, item=item, remedy=remedy)

    def start(self, key: str, function: BlockFunction, item: object) -> None:
        task = pack(function, item)
        worker = next((worker for worker in self._workers if worker.key is None), None) or self._new_worker()
        worker.key = key
        # A worker that died while it was idle is found by `collect`, like any other.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            worker.connection.send_bytes(task)

    def collect(self, timeout_s: float) -> list[tuple[str, Outcome]]:
        busy = [worker for worker in self._workers if worker.key is not None]
        if not busy:
            time.sleep(timeout_s)
            return []
        ready = wait([worker.connection for worker in busy], timeout_s)
        # A dead worker has hung up, unless a process that its block started still holds the line.
        return [
            self._outcome_of(worker)
            for worker in busy
            if worker.connection in ready or (not ready and not _is_alive(worker.handle))
        ]

    def stop(self) -> None:
        for worker in list(self._workers):
            if worker.key is not None:
                self._end(worker)

    def __enter__(self) -> Self:
        if isinstance(self._context, ForkServerContext):
            # It loads the array modules while the caller is still looking at its input.
            multiprocessing.forkserver.set_forkserver_preload([__name__, *self._preloads])
            with _surroundings_of_workers(self._threads), _room_for_socket():
                multiprocessing.forkserver.ensure_running()
        # Must come before the exit function of `multiprocessing`, which waits for all children.
        atexit.register(self._end_all)
        return self

    def __exit__(self, *_exception: object) -> None:
        atexit.unregister(self._end_all)
        self._end_all()

    def _new_worker(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._start_process(theirs)
        theirs.close()
        assert process.pid is not None
        worker = _Worker(process, psutil.Process(process.pid), ours)
        self._workers.append(worker)
        return worker

    def _start_process(self, connection: Connection) -> BaseProcess:
        for tries_left in reversed(range(_START_TRIES)):
            process = self._context.Process(
                target=_work, args=(connection, self._threads), name="block-worker"
            )
            try:
                with _surroundings_of_workers(self._threads):
                    process.start()
                break
            except (ConnectionError, EOFError):
                # The fork server is just dying. As soon as it is dead, a new one takes its place.
                if not tries_left:
                    raise
                time.sleep(_START_WAIT_S)
        return process

    def _outcome_of(self, worker: _Worker) -> tuple[str, Outcome]:
        """Take the answer of a worker that has something to say, if only by having died."""
        key = worker.key
        assert key is not None
        try:
            if worker.connection.poll():
                packed = worker.connection.recv_bytes()
                worker.key = None
                return key, unpack_outcome(packed)
        except (EOFError, OSError):
            _log.debug("the worker of block %s hung up", key)
        # The pipe breaks a moment before the exit code is there.
        worker.process.join(_EXIT_CODE_WAIT_S)
        return key, Outcome(error=WorkerDied(self._end(worker)))

    def _end(self, worker: _Worker) -> int | None:
        """End a worker's process, unless it has ended, and give its exit code; None if nobody knows it."""
        self._workers.remove(worker)
        worker.connection.close()
        worker.process.kill()
        worker.process.join()
        exit_code = worker.process.exitcode
        worker.process.close()
        if exit_code != _UNKNOWN_EXIT:
            return exit_code
        # The fork server died, so the worker was not waited for: it must not write beside its successor.
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.handle.kill()
        while _is_alive(worker.handle):
            time.sleep(0.01)
        return None

    def _end_all(self) -> None:
        for worker in list(self._workers):
            self._end(worker)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _context() -> SpawnContext | ForkServerContext:
    # Not fork: the calling process has threads. Not the fork server on macOS: system libraries do not survive it.
    if sys.platform == "darwin":
        return multiprocessing.get_context("spawn")
    return multiprocessing.get_context("forkserver")


def _work(connection: Connection, threads: int) -> None:
    """Do blocks until the other side hangs up: the whole life of a worker process."""
    # Inherited from a fork server of ours already; not from one that the caller's own code started before.
    signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    limit_threads(threads)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            connection.send_bytes(perform_packed(connection.recv_bytes()))


def _end_with_parent() -> None:
    """Leave at once when the parent has died, even in the middle of a block."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


@contextlib.contextmanager
def _room_for_socket() -> Iterator[None]:
    """Let the fork server put its socket elsewhere if the folder of temporary files has too long a name.

    The system takes 107 bytes for the path of a socket; folders of cluster jobs are easily longer.
    """
    before = tempfile.tempdir
    if len(os.fsencode(tempfile.gettempdir())) + _SOCKET_NAME_BYTES > _SOCKET_PATH_BYTES_MAX:
        tempfile.tempdir = "/tmp"  # noqa: S108 - in a folder of its own, made by `mkdtemp`
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextlib.contextmanager
def _surroundings_of_workers(threads: int) -> Iterator[None]:
    """Set what a new process inherits: blocked signals, thread counts, the compiled functions, and no script to load.

    `multiprocessing` loads the script that was started (`__main__`) again in each new process. That costs time and runs
    scripts without a guard anew. Functions of blocks come from modules, so workers do without.
    """
    # Started first, because its start unblocks the signals (Python 3.11).
    multiprocessing.resource_tracker.ensure_running()
    added = {**thread_environment(threads), cache.VARIABLE: str(cache.folder())}
    environment = {name: os.environ.get(name) for name in added}
    script = sys.modules["__main__"]
    signals = signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)
    try:
        sys.modules["__main__"] = ModuleType("__main__")
        os.environ.update(added)
        yield
    finally:
        sys.modules["__main__"] = script
        for name, value in environment.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
