"""Blocks on a Dask cluster: one started on this machine, one started through a batch system, or one that exists."""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import logging
import queue
import threading
import time
import uuid
from types import ModuleType
from typing import Any, Self

from voxelworks.blocks.executor import (
    BlockFunction,
    Outcome,
    WorkerDied,
    pack,
    perform_packed,
    unpack_outcome,
)
from voxelworks.blocks.memory import SMALLER_BLOCKS, fit_slots
from voxelworks.blocks.threads import limit_threads, thread_environment, threads_per_slot
from voxelworks.errors import InvalidInput, ResourcesExceeded, ServerUnreachable

BATCH_SYSTEMS = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "oar": "OARCluster",
    "htcondor": "HTCondorCluster",
}
"""Spec -> class of dask-jobqueue."""

_CONNECT_S = 10.0
_ANSWER_S = 10.0
_STOP_WAIT_S = 60.0
"""How long `stop` waits for blocks on a cluster of somebody else: nothing can interrupt them there."""
_STARTED_PER_SLOT = 4
"""More than one, so that workers need not wait for us and clusters that adapt see what is to come."""

_log = logging.getLogger(__name__)


class DaskExecutor:
    """Runs blocks as tasks of a Dask cluster.

    The scheduler itself gives the blocks of a lost worker to another; a block fails if it lost several workers. Whether
    blocks fit into memory is looked up for the workers that are there when blocks start; those that come later enforce
    their own limits.

    Parameters
    ----------
    client : distributed.Client
        Closed at the end.
    slots : int
        Blocks that shall run at the same time, as long as the cluster has no workers to count.
    cluster : distributed.deploy.Cluster, optional
        Cluster that was started for this executor: closed at the end too.
    """

    is_here = False

    def __init__(self, client: Any, slots: int, *, cluster: Any = None) -> None:
        self._client = client
        self._cluster = cluster
        self._slots = slots
        self._session = _new_session()
        self._numbers = itertools.count()
        self._running: dict[str, Any] = {}
        self._done: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    @classmethod
    def open(cls, spec: str, slots: int, *, memory_bytes_max: int | None = None) -> Self:
        """Start a cluster or join one.

        Parameters
        ----------
        spec : str
            ``dask`` for a cluster on this machine; one of `BATCH_SYSTEMS` for workers that are batch jobs, as described
            in Dask's own configuration (``jobqueue.yaml``); the address of a scheduler, such as
            ``tcp://head-node:8786``; or the path of a scheduler file (``.json``).
        slots : int
            Processes to start. A cluster that exists keeps its size.
        memory_bytes_max : int, optional
            Limit for all processes of a cluster on this machine together.

        Raises
        ------
        InvalidInput
            If Dask is not installed, the spec is none of these, or the configuration does not suffice.
        ServerUnreachable
            If no scheduler answers.
        """
        distributed = _import_distributed()
        if "://" in spec:
            return cls(_connect(distributed, spec, address=spec), slots)
        if spec.endswith(".json"):
            return cls(_connect(distributed, spec, scheduler_file=spec), slots)
        if spec == "dask":
            cluster = _start_here(distributed, slots, memory_bytes_max)
        elif spec in BATCH_SYSTEMS:
            cluster = _start_by_batch_system(spec, slots)
        else:
            raise InvalidInput(
                f"{spec!r} is not a cluster; give the address of a Dask scheduler (tcp://HOST:PORT), its scheduler "
                f"file (.json), or one of dask, {', '.join(BATCH_SYSTEMS)}"
            )
        return cls(_connect(distributed, spec, address=cluster), slots, cluster=cluster)

    @property
    def slots(self) -> int:
        if self._cluster is not None:
            return self._slots
        return sum(worker["nthreads"] for worker in self._workers()) or self._slots

    def room_for(
        self, memory_bytes_per_block: int, *, item: str = "block", remedy: str = SMALLER_BLOCKS
    ) -> int:
        for worker in self._workers():
            threads, limit = worker["nthreads"], worker["memory_limit"]
            if (
                limit
                and fit_slots(memory_bytes_per_block, threads, limit, item=item, remedy=remedy) < threads
            ):
                raise ResourcesExceeded(
                    f"a Dask worker with {limit / 2**20:.0f} MiB of memory runs {threads} blocks at the same time, but "
                    f"each needs {memory_bytes_per_block / 2**20:.0f} MiB; use fewer threads or more memory"
                )
        return self.slots * _STARTED_PER_SLOT

    def start(self, key: str, function: BlockFunction, item: object) -> None:
        self._check_connection()
        name = f"{self._session}-{next(self._numbers)}"
        task = pack(function, item)
        future = self._client.submit(_run_task, self._session, task, key=name, pure=False)
        self._running[key] = future
        future.add_done_callback(lambda done: self._done.put((key, done)))

    def collect(self, timeout_s: float) -> list[tuple[str, Outcome]]:
        done = []
        with contextlib.suppress(queue.Empty):
            done.append(self._done.get(timeout=timeout_s))
            while True:
                done.append(self._done.get_nowait())
        self._check_connection()
        outcomes = []
        for key, future in done:
            # Futures of before the last stop report too.
            if self._running.get(key) is future:
                outcomes.append((key, _outcome_of(future)))
                del self._running[key]
        return outcomes

    def stop(self) -> None:
        if not self._running:
            return
        futures = list(self._running.values())
        session, self._session = self._session, _new_session()
        self._running.clear()
        try:
            self._check_connection()
            self._client.cancel(futures, force=True)
            if self._cluster is not None:
                self._client.restart(timeout=_STOP_WAIT_S, wait_for_workers=False)
            else:
                self._wait_for_end_of(session)
        except (OSError, TimeoutError, ServerUnreachable) as error:
            _log.warning(
                "blocks on the cluster may run a little on, because it cannot be told to stop: %s", error
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._cluster is None:
            self.stop()
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()

    def _wait_for_end_of(self, session: str) -> None:
        end_s = time.monotonic() + _STOP_WAIT_S
        while time.monotonic() < end_s:
            counts = self._client.run(_close_session, session, on_error="ignore")
            if not any(counts.values()):
                return
            time.sleep(0.1)
        _log.warning("blocks are still running on the cluster %s; they may write for a while", self._client)

    def _workers(self) -> list[dict[str, Any]]:
        self._check_connection()
        return list(self._client.scheduler_info()["workers"].values())

    def _check_connection(self) -> None:
        if self._client.status != "running":
            raise ServerUnreachable(
                f"the connection to the Dask scheduler is lost ({self._client.status}); the job may be tried again"
            )


_sessions_lock = threading.Lock()
_running_tasks: collections.Counter[str] = collections.Counter()
_closed_sessions: set[str] = set()


def _run_task(session: str, task: bytes) -> bytes:
    """Run a block in a worker of the cluster."""
    _prepare_worker()
    with _sessions_lock:
        if session in _closed_sessions:
            raise InvalidInput("the job was stopped")
        _running_tasks[session] += 1
    try:
        return perform_packed(task)
    finally:
        with _sessions_lock:
            _running_tasks[session] -= 1


@functools.cache
def _prepare_worker() -> None:
    import distributed

    # A worker with several threads runs as many blocks, so each block has one.
    limit_threads(distributed.get_worker().state.nthreads)


def _close_session(session: str) -> int:
    """Let no more blocks of a session begin in this worker, and give how many still run."""
    with _sessions_lock:
        _closed_sessions.add(session)
        return _running_tasks[session]


def _outcome_of(future: Any) -> Outcome:
    if future.status == "finished":
        try:
            return unpack_outcome(future.result(timeout=_ANSWER_S))
        except TimeoutError:
            # The worker died after the block ended and before its answer was fetched.
            future.cancel()
            return Outcome(error=WorkerDied(None))
    if future.status == "error":
        error = future.exception(timeout=_ANSWER_S)
        return Outcome(error=WorkerDied(None) if type(error).__name__ == "KilledWorker" else error)
    return Outcome(error=WorkerDied(None))


def _new_session() -> str:
    return f"voxelworks-{uuid.uuid4().hex}"


def _import_distributed() -> ModuleType:
    try:
        import distributed
    except ImportError as error:
        raise InvalidInput(
            f"computing on a cluster needs {error.name}, which is not installed: pip install 'voxelworks[cluster]'"
        ) from error
    return distributed  # type: ignore[no-any-return]


def _connect(distributed: Any, spec: str, **where: Any) -> Any:
    try:
        return distributed.Client(**where, timeout=_CONNECT_S, set_as_default=False, name="voxelworks")
    except (OSError, TimeoutError) as error:
        raise ServerUnreachable(f"no Dask scheduler answers at {spec}: {error}") from error


def _start_here(distributed: Any, slots: int, memory_bytes_max: int | None) -> Any:
    return distributed.LocalCluster(
        n_workers=slots,
        threads_per_worker=1,
        memory_limit="auto" if memory_bytes_max is None else memory_bytes_max // slots,
        env=thread_environment(threads_per_slot(slots)),
        dashboard_address=None,
        silence_logs=logging.ERROR,
    )


def _start_by_batch_system(spec: str, slots: int) -> Any:
    try:
        import dask
        import dask_jobqueue
    except ImportError as error:
        raise InvalidInput(
            f"a {spec} cluster needs {error.name}, which is not installed: pip install 'voxelworks[cluster]'"
        ) from error
    lacking = [
        name for name in ("cores", "memory") if dask.config.get(f"jobqueue.{spec}.{name}", None) is None
    ]
    if lacking:
        raise InvalidInput(
            f"Dask does not know the {' and '.join(lacking)} of one {spec} job; set jobqueue.{spec}.{lacking[0]} in "
            f"~/.config/dask/jobqueue.yaml or DASK_JOBQUEUE__{spec.upper()}__{lacking[0].upper()} in the environment"
        )
    cluster = getattr(dask_jobqueue, BATCH_SYSTEMS[spec])()
    cluster.scale(cores=slots)
    return cluster
