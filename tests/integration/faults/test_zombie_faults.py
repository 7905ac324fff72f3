"""A worker falls asleep, loses its job to another, and wakes up again (T7)."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from voxelworks.testing.rounds import rounds

from .conftest import BLOCK_COUNT, Stacks, convert_params
from .fault_site import Site, tree, wait_for

LEASE_S = 2.0


@pytest.mark.faults("T7", "A worker sleeps for two leases, another takes its job, it wakes up")
def test_a_worker_that_slept_through_its_lease_is_refused(
    make_site: Callable[..., Site],
    stacks: Stacks,
    dice: random.Random,
    record_property: Callable[[str, object], None],
) -> None:
    """It wakes up while the other one works, or after that has ended; either way its files are never published."""
    site = make_site(LEASE_S=str(LEASE_S), RENEW_S="0.4")
    round_count = rounds(1, 20)
    for number in range(round_count):
        name, sleeper, other = f"cells{number}", f"sleeper{number}", f"other{number}"
        site.start_worker(sleeper)
        with site.watched():
            job_id = site.submit("convert", **convert_params("root:stacks/large-plain", name))
            moment = dice.randrange(1, BLOCK_COUNT)
            site.wait_while_running(job_id, until=lambda: site.marker_count() >= moment)  # noqa: B023
            asleep = [site.workers[sleeper].pid, *site.group_of(sleeper)]
            _send(asleep, signal.SIGSTOP)
            wakes_at = time.monotonic() + 2 * LEASE_S
            site.start_worker(other)
            wait_for(lambda: site.status(job_id).attempt > 1, "the other worker to take the job")  # noqa: B023
            if dice.randrange(2):
                site.wait_until_published(job_id)
            time.sleep(max(0.0, wakes_at - time.monotonic()))
            _send(asleep, signal.SIGCONT)
            detail = site.wait_until_published(job_id)
            wait_for(lambda: "given up: " in site.log(sleeper), "the sleeper to be refused")  # noqa: B023
            wait_for(lambda: not site.group_of(sleeper), "its job to end")  # noqa: B023
            site.wait_until_clean()
        assert [attempt.outcome for attempt in detail.attempts] == ["lost", "succeeded"]
        assert tree(site.data / name) == stacks.large
        # It was refused, but it is well: it ends in good order.
        assert [site.stop_worker(worker) for worker in (sleeper, other)] == [0, 0]
    record_property("sleeps", round_count)


@pytest.mark.faults("T7", "A worker sleeps for two leases after its success was accepted, another publishes")
def test_a_worker_that_slept_before_it_published_changes_nothing_when_it_wakes_up(
    make_site: Callable[..., Site],
    stacks: Stacks,
    dice: random.Random,
    record_property: Callable[[str, object], None],
) -> None:
    site = make_site(LEASE_S=str(LEASE_S), RENEW_S="0.4")
    round_count = rounds(1, 7)
    by_others = 0
    for number in range(round_count):
        name, sleeper, other = f"cells{number}", f"sleeper{number}", f"other{number}"
        site.start_worker(sleeper)
        with site.watched():
            job_id = site.submit("convert", **convert_params("root:stacks/small", name))
            site.watch_closely(job_id, until=lambda: site.status(job_id).state == "succeeded")  # noqa: B023
            asleep = [site.workers[sleeper].pid]
            _send(asleep, signal.SIGSTOP)
            wakes_at = time.monotonic() + 2 * LEASE_S
            site.start_worker(other)
            if dice.randrange(2):
                site.wait_until_published(job_id)
            time.sleep(max(0.0, wakes_at - time.monotonic()))
            _send(asleep, signal.SIGCONT)
            detail = site.wait_until_published(job_id)
            site.wait_until_clean()
        publishers = [event.who for event in detail.events if event.why == "the result is published"]
        assert len(publishers) == 1
        by_others += publishers == [f"worker:{other}"]
        assert tree(site.data / name) == stacks.small
        assert [site.stop_worker(worker) for worker in (sleeper, other)] == [0, 0]
    record_property("sleeps", round_count)
    record_property("published by the other", by_others)


def _send(pids: list[int], signal_number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal_number)
