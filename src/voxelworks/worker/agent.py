"""The worker: asks the server for jobs, runs each in a process of its own, and says how they ended."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from voxelworks import __version__
from voxelworks.client import Client
from voxelworks.errors import OutdatedWorker, VoxelworksError, WorkerDrained
from voxelworks.protocol.messages import (
    PROTOCOL_OLDEST,
    WALLTIME_MAX_S,
    Claim,
    ClaimRequest,
    PriorityClass,
    PublishOrder,
    SessionRequest,
)
from voxelworks.protocol.places import Places
from voxelworks.settings import Settings
from voxelworks.worker import capabilities, isolation, kernels
from voxelworks.worker.attempt import Attempt
from voxelworks.worker.lease import may_pass, until_answered, with_jitter
from voxelworks.worker.publication import Publisher
from voxelworks.workflows import get_workflow, workflows

UNREACHABLE_WAIT_MAX_S = 30.0
"""Longest pause between two tries to reach a server that does not answer."""

LEAVE_MARGIN_S = 120.0
"""How long before the end of its time a worker interrupts its jobs, at most."""

_logger = logging.getLogger(__name__)


class Agent:
    """Works for one server until it is told to stop.

    Parameters
    ----------
    client
        Connected with the worker key.
    settings
    name
        Names this worker for people. A second session of the same name ends the first: it is how a restarted worker
        gives back what it held.
    cluster
        Where jobs compute: the address of a Dask scheduler, or None for processes of this machine.
    """

    def __init__(self, client: Client, settings: Settings, *, name: str, cluster: str | None = None) -> None:
        self._client = client
        self._settings = settings
        self._name = name
        self._cluster = cluster
        self._isolation = isolation.choose(settings, cluster=cluster)
        self._publisher = Publisher(client, Places.of(settings))
        self._running: dict[threading.Thread, Attempt] = {}
        self._wake = threading.Event()
        self._is_draining = threading.Event()
        self._stop_count = 0
        self._session_id = ""
        self._poll_s = settings.poll_s
        self._slots: dict[PriorityClass, int] = {
            "short": settings.job_slots,
            "long": settings.job_slots_long,
        }
        self._gpus = capabilities.gpus(settings)
        self._leaves_at = math.inf
        if settings.walltime_s is not None:
            # Early enough for its jobs to stop and to say so, and not at the same moment as other workers.
            margin_s = min(LEAVE_MARGIN_S, settings.walltime_s / 10)
            self._leaves_at = time.monotonic() + settings.walltime_s - with_jitter(margin_s)

    def stop(self) -> int:
        """Take no new jobs and end when those that run have ended; the second time, interrupt them.

        Returns
        -------
        int
            How often it was called.
        """
        self._stop_count += 1
        self._is_draining.set()
        self._wake.set()
        return self._stop_count

    @property
    def running_count(self) -> int:
        return len(self._running)

    def kill_jobs(self) -> None:
        """End all jobs' processes at once: there is nobody left to report to."""
        for attempt in list(self._running.values()):
            attempt.kill()

    def run(self) -> None:
        """Work until told to stop and all jobs have ended.

        Raises
        ------
        NotAllowed
            If the server does not know the worker key.
        LeaseLost
            If another worker took this one's name.
        """
        self._open_session()
        if self._isolation.level == "namespaces":
            kernels.prepare(self._settings)
        wait_s = 0.0
        while not self._is_over():
            try:
                did_something = self._look_for_work()
                wait_s = 0.0 if did_something else with_jitter(self._poll_s)
            except VoxelworksError as error:
                if not may_pass(error):
                    self._end_jobs()
                    raise
                wait_s = min(UNREACHABLE_WAIT_MAX_S, 2 * (wait_s or self._poll_s))
                _logger.warning("%s; asking again in %.0f s", error, wait_s)
            self._wake.wait(wait_s)
            self._wake.clear()
        self._say_goodbye()

    def _say_goodbye(self) -> None:
        """Let nobody look for this worker; a server that cannot be told may take it for lost."""
        try:
            self._client.leave(self._session_id)
        except VoxelworksError as error:
            _logger.info("the server was not told that this worker ends: %s", error)

    def _open_session(self) -> None:
        known = {name: workflow.version for name, workflow in workflows().items()}
        left_s = self._leaves_at - time.monotonic()
        request = SessionRequest(
            name=self._name, version=__version__, workflows=known, job_slots=sum(self._slots.values()),
            slots=self._slots, gpus=len(self._gpus), gpu_names=capabilities.gpu_names(self._gpus),
            memory_bytes=capabilities.memory_bytes(self._settings),
            walltime_s=None if left_s > WALLTIME_MAX_S else max(0.0, left_s), isolation=self._isolation.text,
        )  # fmt: skip
        answer = until_answered(lambda: self._client.open_session(request), give_up=self._is_draining.is_set)
        if answer.protocol < PROTOCOL_OLDEST:
            raise OutdatedWorker(
                f"{self._client.url} runs Voxelworks {answer.version}, which is too old for this worker; run "
                f"`pip install voxelworks=={answer.version}` here, or update the server"
            )
        self._session_id, self._poll_s = answer.session_id, answer.poll_s
        _logger.info("worker %s works for %s: %s", self._name, self._client.url, ", ".join(known))

    def _is_over(self) -> bool:
        """Forget ended attempts; pass on an interruption; tell whether nothing is left to do."""
        self._running = {thread: attempt for thread, attempt in self._running.items() if thread.is_alive()}
        if time.monotonic() >= self._leaves_at and self._stop_count < 2:
            _logger.info("the time of this worker is over; its jobs go on elsewhere")
            self._stop_count = 2
            self._is_draining.set()
        if self._stop_count > 1:
            for attempt in self._running.values():
                attempt.interrupt()
        return self._is_draining.is_set() and not self._running

    def _look_for_work(self) -> bool:
        """Publish or remove what a dead worker left, or start a job; tell whether there was anything."""
        if self._is_draining.is_set():
            return False
        order = self._client.take_publish_order(self._session_id)
        if order is not None:
            self._publish(order)
            return True
        cleanup = self._client.take_cleanup_order(self._session_id)
        if cleanup is not None:
            self._publisher.clean_up(cleanup)
            return True
        free = self._free_slots()
        if not any(free.values()):
            return False
        try:
            request = ClaimRequest(free=free, gpus_free=len(self._free_gpus()))
            claim = self._client.claim(self._session_id, request)
        except WorkerDrained as error:
            self._drain(str(error))
            return False
        if claim is None:
            return False
        self._start(claim)
        return True

    def _free_slots(self) -> dict[PriorityClass, int]:
        """Count the slots of each class that no job of this worker takes."""
        classes = [get_workflow(attempt.claim.workflow).priority_class for attempt in self._running.values()]
        return {name: max(0, slots - classes.count(name)) for name, slots in self._slots.items()}

    def _free_gpus(self) -> list[str]:
        taken = [attempt.gpu for attempt in self._running.values()]
        return [gpu for gpu in self._gpus if gpu not in taken]

    def _gpu_for(self, claim: Claim) -> str:
        workflow = get_workflow(claim.workflow)
        try:
            needs = workflow.needs_of(workflow.parse(claim.params))
        except VoxelworksError:
            return ""  # the job itself says what is wrong with its params
        if not needs.gpu:
            return ""
        # A server that knows no GPUs gives more jobs than there are: such share one.
        return next(iter([*self._free_gpus(), *self._gpus]), "")

    def _drain(self, why: str) -> None:
        """Take no new jobs, and end when those that run have ended: the operator wants it so."""
        if not self._is_draining.is_set():
            _logger.info("%s", why)
            self._is_draining.set()
            self._wake.set()

    def _publish(self, order: PublishOrder) -> None:
        deadline = time.monotonic() + self._settings.dataset_lease_s
        try:
            self._publisher.publish(order, may_go_on=lambda: time.monotonic() < deadline)
        except VoxelworksError as error:
            # Such as that yet another worker has the order meanwhile: no reason to end.
            _logger.warning("job %s: its publication is left to others: %s", order.job_id, error)

    def _start(self, claim: Claim) -> None:
        attempt = Attempt(
            self._client, claim, self._publisher,
            settings=self._settings, isolation=self._isolation, cluster=self._cluster, gpu=self._gpu_for(claim),
            progress_every_s=self._poll_s,
            on_drain=lambda: self._drain("the operator asked this worker to end when its jobs have ended"),
        )  # fmt: skip

        def run() -> None:
            try:
                attempt.run()
            finally:
                self._wake.set()

        thread = threading.Thread(target=run, name=str(attempt))
        self._running[thread] = attempt
        thread.start()

    def _end_jobs(self) -> None:
        self.kill_jobs()
        for thread in list(self._running):
            thread.join()


def when_parent_ends(do: Callable[[], None]) -> None:
    """Call `do`, then end this process, once standard input closes: whoever started this process has died."""

    def watch() -> None:
        with suppress(OSError):
            while os.read(0, 4096):
                pass
        do()
        os._exit(1)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()
