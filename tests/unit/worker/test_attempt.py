"""What an attempt does to its job's process."""

from __future__ import annotations

from typing import cast

import pytest

from voxelworks.client import Client
from voxelworks.protocol.messages import Claim
from voxelworks.protocol.places import Places
from voxelworks.settings import Settings
from voxelworks.worker.attempt import Attempt
from voxelworks.worker.ending import StopReason
from voxelworks.worker.isolation import Isolation
from voxelworks.worker.process import Exited, JobProcess
from voxelworks.worker.publication import Publisher


class StubbornProcess:
    """Does not end when it is asked to."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.asked: list[StopReason] = []

    def measure(self) -> int:
        return 0

    def ask_to_stop(self, reason: StopReason) -> None:
        self.asked.append(reason)

    def kill(self) -> None:
        self.attempt._events.put(Exited())


@pytest.mark.parametrize(("is_interrupted", "reason"), [(False, "walltime"), (True, "interrupt")])
def test_an_interrupted_job_does_not_run_out_of_time(is_interrupted: bool, reason: StopReason) -> None:
    settings = Settings()
    client = cast(Client, None)
    claim = Claim(
        job_id="job", attempt=1, token="token", workflow="probe", version=1, params={}, places={}, work_key="job",
        lease_s=60, renew_s=10, cancel_grace_s=1.5, walltime_s=1,
    )  # fmt: skip
    attempt = Attempt(
        client, claim, Publisher(client, Places.of(settings)), settings=settings, isolation=Isolation("limits"),
        cluster=None, gpu="", progress_every_s=1,
    )  # fmt: skip
    process = StubbornProcess(attempt)
    if is_interrupted:
        attempt.interrupt()
    attempt._supervise(cast(JobProcess, process))
    attempt._log.close()
    assert (attempt._stopped, process.asked) == (reason, [reason])
