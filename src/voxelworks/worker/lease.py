"""The lease of an attempt: renewed from a thread of its own, whatever the job and its files are doing."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from voxelworks.client import Client
from voxelworks.errors import LeaseLost, VoxelworksError
from voxelworks.protocol.messages import Claim, Order, Progress, RenewAnswer, RenewRequest

JITTER = 0.2
MARGIN_S = 30.0
MARGIN_SHARE = 0.1
"""A lease counts as over this much before its end, whichever is less: clocks and networks are never exact."""
RETRY_S = 5.0
CALL_RETRY_S = (0.5, 10.0)
"""Shortest and longest pause between two tries of a call that must get through."""

_logger = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")


def may_pass(error: VoxelworksError) -> bool:
    """Tell whether the same call may succeed later: the server does not answer, or has trouble of its own."""
    return error.http_status >= 500


def with_jitter(seconds: float) -> float:
    return seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - spreads the load, keeps no secret


def until_answered(call: Callable[[], _Answer], give_up: Callable[[], bool]) -> _Answer:
    """Repeat a call that is safe to repeat until the server answers; raise the last error once `give_up` says so."""
    wait_s = CALL_RETRY_S[0]
    while True:
        try:
            return call()
        except VoxelworksError as error:
            if not may_pass(error) or give_up():
                raise
            _logger.warning("%s; trying again", error)
        time.sleep(with_jitter(wait_s))
        wait_s = min(2 * wait_s, CALL_RETRY_S[1])


class Lease(threading.Thread):
    """Keeps one attempt alive and hands on what the server orders.

    The lease runs from the moment a renewal is *sent*, by the monotonic clock of this machine: it never lasts longer
    here than on the server. A server that does not answer is no reason to stop the job: its files lie apart from all
    others, and if nobody has taken the job over, the next renewal revives the lease. Only `is_safe` turns false, and
    nothing is published meanwhile.
    """

    def __init__(
        self, client: Client, claim: Claim, *, progress_every_s: float, on_order: Callable[[Order], None]
    ) -> None:
        super().__init__(name=f"lease of {claim.job_id}.{claim.attempt}", daemon=True)
        self._client = client
        self._claim = claim
        self._progress_every_s = progress_every_s
        self._on_order = on_order
        self._changed = threading.Condition()
        self._progress: Progress | None = None
        self._told = 0
        self._is_new = False
        self._is_stopped = False
        self._renew_s = claim.renew_s
        self._ends_at = time.monotonic() + claim.lease_s
        self._lease_s = claim.lease_s

    def begin(self) -> Order:
        """Renew for the first time, which starts the job on the server: before anything is done for it.

        Raises
        ------
        LeaseLost
            Also if the server did not answer before the lease was over.
        """
        try:
            order = until_answered(self._renew, give_up=lambda: not self.is_safe).order
        except VoxelworksError as error:
            raise LeaseLost(f"job {self._claim.job_id} was given back before it started: {error}") from error
        if order not in ("lost", "cancel"):
            self.start()
        return order

    @property
    def is_safe(self) -> bool:
        """Whether the server surely still counts this attempt as the current one."""
        return time.monotonic() < self._ends_at - min(MARGIN_S, MARGIN_SHARE * self._lease_s)

    def tell(self, progress: Progress) -> None:
        """Note progress for the next renewal; one is sent soon."""
        with self._changed:
            self._told += 1
            self._progress = progress.model_copy(update={"number": self._told})
            self._is_new = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Renew no more."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def run(self) -> None:
        wait_s = self._renew_s
        while self._wait(wait_s):
            try:
                answer = self._renew()
            except VoxelworksError as error:
                if not may_pass(error):
                    self._on_order("lost")
                    return
                _logger.warning("job %s: not renewed: %s", self._claim.job_id, error)
                wait_s = min(RETRY_S, self._renew_s)
                continue
            wait_s = answer.renew_s
            if answer.order != "continue":
                self._on_order(answer.order)
            if answer.order == "lost":
                return

    def _wait(self, wait_s: float) -> bool:
        """Wait until the next renewal is due, or earlier for news; false if there shall be none."""
        due = time.monotonic() + with_jitter(wait_s)
        news_due = time.monotonic() + min(self._progress_every_s, wait_s)
        with self._changed:
            while not self._is_stopped:
                now = time.monotonic()
                if now >= due or (self._is_new and now >= news_due):
                    return True
                self._changed.wait((news_due if self._is_new else due) - now)
        return False

    def _renew(self) -> RenewAnswer:
        with self._changed:
            progress, self._is_new = self._progress, False
        sent_at = time.monotonic()
        request = RenewRequest(token=self._claim.token, progress=progress)
        answer = self._client.renew(self._claim.job_id, self._claim.attempt, request)
        if answer.order != "lost":
            self._ends_at = sent_at + answer.lease_s
            self._lease_s = answer.lease_s
            self._renew_s = answer.renew_s
        return answer
