"""One attempt of one job, from its claim to its publication."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from typing import get_args

from voxelworks.client import Client
from voxelworks.errors import LeaseLost, VoxelworksError
from voxelworks.protocol.messages import (
    ChildFailed,
    ChildProgress,
    ChildSealed,
    Claim,
    CleanupOrder,
    FinishRequest,
    Order,
    PublishOrder,
    SealedResult,
    SealRequest,
)
from voxelworks.protocol.places import Places
from voxelworks.protocol.views import TERMINAL_STATES
from voxelworks.settings import Settings
from voxelworks.worker import capabilities, kernels, limits
from voxelworks.worker.ending import Ending, StopReason, cancelled, not_started
from voxelworks.worker.isolation import Isolation
from voxelworks.worker.lease import Lease, until_answered
from voxelworks.worker.logs import LogForwarder, LogSpool
from voxelworks.worker.process import Event, Exited, JobProcess, Ordered
from voxelworks.worker.publication import Publisher
from voxelworks.worker.spec import Confinement, JobSpec, job_settings

ENDING_GRACE_S = 10.0
"""How long a process may take to end after it has told its result or failure."""
LOG_FLUSH_S = 10.0
"""How long the end of a job waits for its log to arrive; the rest is sent afterwards."""
OOM_LOOK_EVERY_S = 1.0
MEASURE_EVERY_S = 1.0
MEASURE_COST_MAX = 0.02
"""Memory is measured less often where this share of a core would not suffice."""

_STRENGTH = {reason: strength for strength, reason in enumerate(get_args(StopReason))}
_logger = logging.getLogger(__name__)


class Attempt:
    """Runs a claimed job in a process of its own and reports how it ended."""

    def __init__(
        self,
        client: Client,
        claim: Claim,
        publisher: Publisher,
        *,
        settings: Settings,
        isolation: Isolation,
        cluster: str | None,
        gpu: str,
        progress_every_s: float,
        on_drain: Callable[[], None] = lambda: None,
    ) -> None:
        self.claim = claim
        self.gpu = gpu
        """The one that its process sees; empty if none."""
        self._client = client
        self._publisher = publisher
        self._settings = settings
        self._isolation = isolation
        self._cluster = cluster
        self._on_drain = on_drain
        own_max = capabilities.memory_bytes(settings)
        self._memory_bytes_max = min(own_max, claim.memory_bytes_max or own_max)
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._lease = Lease(client, claim, progress_every_s=progress_every_s, on_order=self._on_order)
        self._log = LogSpool(settings.log_bytes_max)
        self._forwarder = LogForwarder(self._log, client, claim.job_id, claim.attempt, claim.token)
        self._oom = limits.OomWatch()
        self._is_interrupted = threading.Event()
        self._process: JobProcess | None = None
        self._stopped: StopReason | None = None
        self._kill_at = math.inf
        self._sealed: SealedResult | None = None
        self._failed: ChildFailed | None = None

    def __str__(self) -> str:
        return f"job {self.claim.job_id} ({self.claim.workflow}, attempt {self.claim.attempt})"

    def interrupt(self) -> None:
        """Stop the job so that it can go on elsewhere."""
        self._is_interrupted.set()
        self._events.put(Ordered("interrupt"))

    def kill(self) -> None:
        """End the job's processes at once, without a word to the server."""
        if self._process is not None:
            self._process.kill()
            self._process.is_cleaned_up.wait(ENDING_GRACE_S)

    def run(self) -> None:
        """Run the attempt to its end. Returns also when it is lost: somebody else ends the job then."""
        token = self.claim.token
        try:
            order = self._lease.begin()
            if order == "lost":
                raise LeaseLost("another attempt holds it")
            self._report(cancelled(token) if order == "cancel" else self._run_process())
        except VoxelworksError as error:
            _logger.warning("%s: given up: %s", self, error)
            if isinstance(error, LeaseLost):
                self._publisher.discard_debris(self._cleanup_order())
        finally:
            self._lease.stop()
            self._forwarder.stop(LOG_FLUSH_S if self._is_interrupted.is_set() else self._settings.log_tail_s)
            self._log.close()

    # While it runs

    def _run_process(self) -> FinishRequest:
        _logger.info("%s: starts", self)
        self._forwarder.start()
        try:
            self._make_homes()
            self._process = process = JobProcess(
                self._spec(),
                log=self._log,
                events=self._events,
                kernels=kernels.folder(self._settings),
                gpu=self.gpu,
            )
        except OSError as error:
            return not_started(self.claim.token, error)
        try:
            self._supervise(process)
        finally:
            exit_code = process.clean_up()
        if self._stopped == "lost":
            raise LeaseLost("another attempt holds it; what this one made is never published")
        ending = Ending(
            exit_code, self._sealed, self._failed, self._stopped,
            was_oom_killed=self._oom.has_just_killed(),
            peak_memory_bytes=process.peak_memory_bytes, memory_bytes_max=self._memory_bytes_max,
            walltime_s=self.claim.walltime_s, last_lines=self._log.last_lines(),
        )  # fmt: skip
        return ending.report(self.claim.token)

    def _make_homes(self) -> None:
        """See that the folders are there in which the job may make a dataset: it has no right to make them itself."""
        places = Places.of(self._settings)
        for place in self.claim.places.values():
            places.make_home(place)

    def _cleanup_order(self) -> CleanupOrder:
        claim = self.claim
        return CleanupOrder(
            job_id=claim.job_id, attempt=claim.attempt, token=claim.token, workflow=claim.workflow,
            params=claim.params, places=claim.places, work_key=claim.work_key,
        )  # fmt: skip

    def _spec(self) -> JobSpec:
        claim = self.claim
        return JobSpec(
            workflow=claim.workflow, version=claim.version, params=claim.params, places=claim.places,
            work_key=claim.work_key, attempt=claim.attempt, cluster=self._cluster,
            memory_bytes_max=self._memory_bytes_max, secrets=claim.secrets, settings=job_settings(self._settings),
            confinement=self._confinement(),
        )  # fmt: skip

    def _confinement(self) -> Confinement | None:
        """Say what the job may see; None if it is not isolated."""
        try:
            target, folder = self._publisher.target_of(self._cleanup_order())
        except VoxelworksError:  # the job refuses its params itself, in the right words
            target, folder = None, None
        return self._isolation.confine(
            self.claim, target, folder, places=Places.of(self._settings), settings=self._settings,
            memory_bytes_max=self._memory_bytes_max,
        )  # fmt: skip

    def _supervise(self, process: JobProcess) -> None:
        """Handle what happens until the process has ended."""
        measure_at = time.monotonic()
        time_over_at = math.inf if self.claim.walltime_s is None else measure_at + self.claim.walltime_s
        while True:
            self._oom.look()
            if time.monotonic() >= measure_at:
                measure_at = self._check_memory(process)
            if time.monotonic() >= time_over_at:
                # Not while it is interrupted: it goes on elsewhere, and has its whole time there.
                if self._stopped is None:
                    self._stop(process, "walltime")
                time_over_at = math.inf
            if time.monotonic() >= self._kill_at:
                process.kill()
                self._kill_at = math.inf
            try:
                look_at = time.monotonic() + OOM_LOOK_EVERY_S
                next_at = min(measure_at, look_at, time_over_at, self._kill_at)
                event = self._events.get(timeout=max(0.0, next_at - time.monotonic()))
            except queue.Empty:
                continue
            if isinstance(event, Exited):
                return
            self._handle(event, process)

    def _handle(
        self, event: ChildProgress | ChildSealed | ChildFailed | Ordered, process: JobProcess
    ) -> None:
        match event:
            case ChildProgress():
                self._lease.tell(event.progress)
            case ChildSealed():
                self._sealed = event.result
                self._kill_at = time.monotonic() + ENDING_GRACE_S
            case ChildFailed():
                self._failed = event
                self._kill_at = min(self._kill_at, time.monotonic() + ENDING_GRACE_S)
            case Ordered():
                self._stop(process, event.reason)

    def _stop(self, process: JobProcess, reason: StopReason) -> None:
        is_weaker = self._stopped is not None and _STRENGTH[reason] <= _STRENGTH[self._stopped]
        if is_weaker or self._sealed is not None:
            return
        _logger.info("%s: is stopped (%s)", self, reason)
        self._stopped = reason
        if reason in ("memory", "lost"):
            process.kill()
            return
        process.ask_to_stop(reason)
        self._kill_at = min(self._kill_at, time.monotonic() + self.claim.cancel_grace_s)

    def _check_memory(self, process: JobProcess) -> float:
        """Stop a job that uses too much; give the time of the next look."""
        began_at = time.monotonic()
        if process.measure() > self._memory_bytes_max:
            self._stop(process, "memory")
        now = time.monotonic()
        return now + max(MEASURE_EVERY_S, (now - began_at) / MEASURE_COST_MAX)

    def _on_order(self, order: Order) -> None:
        if order == "cancel" or order == "lost":
            self._events.put(Ordered(order))
        elif order == "drain":
            self._on_drain()

    # When it has ended

    def _report(self, report: FinishRequest) -> None:
        """Tell the server, publish if it agrees, and leave nothing behind that nobody needs."""
        claim = self.claim
        if report.result is not None:
            # At once: a success counts only if it was sealed before somebody cancelled the job.
            report = self._tell_sealed(report.result, report)
        self._forwarder.finish(LOG_FLUSH_S)
        answer = until_answered(
            lambda: self._client.finish(claim.job_id, claim.attempt, report), self._is_hopeless
        )
        _logger.info("%s: %s, the job is %s", self, report.outcome, answer.state)
        if answer.publish and report.result is not None:
            order = PublishOrder(
                job_id=claim.job_id, attempt=claim.attempt, token=claim.token, work_key=claim.work_key,
                result=report.result,
            )  # fmt: skip
            if not self._publisher.publish(order, may_go_on=lambda: self._lease.is_safe):
                return
        if answer.state in TERMINAL_STATES:
            self._publisher.clean_up(self._cleanup_order())

    def _tell_sealed(self, result: SealedResult, report: FinishRequest) -> FinishRequest:
        claim = self.claim
        request = SealRequest(token=claim.token, result=result)
        answer = until_answered(
            lambda: self._client.seal(claim.job_id, claim.attempt, request), self._is_hopeless
        )
        if answer.order == "lost":
            raise LeaseLost("another attempt holds it; what this one made is never published")
        return cancelled(claim.token) if answer.order == "cancel" else report

    def _is_hopeless(self) -> bool:
        """After an order to stop, a server that does not answer is not waited for: the lease ends by itself."""
        return self._is_interrupted.is_set() and not self._lease.is_safe
