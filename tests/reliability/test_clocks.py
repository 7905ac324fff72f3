"""Clocks of workers are wrong by hours or days, and run too fast or too slow; that of the server is stepped (T16)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from voxelworks.testing.rounds import rounds

from .drill_site import DrillSite, judge, wait_for

HOUR_S, DAY_S = 3600, 86400
CLOCKS = [
    (HOUR_S, 1.0), (-HOUR_S, 1.0), (DAY_S, 1.0), (-DAY_S, 1.0), (0, 1.1), (0, 0.9), (-HOUR_S, 1.1), (DAY_S, 0.9),
]  # fmt: skip


@pytest.mark.faults("T16", "Workers whose clocks are off by an hour or a day, and 10 % too fast or too slow")
def test_a_wrong_clock_of_a_worker_loses_no_lease(
    site: DrillSite, dice: random.Random, record_property: Callable[[str, object], None]
) -> None:
    for number, (offset_s, speed) in enumerate(CLOCKS[: rounds(3, len(CLOCKS))]):
        site.start_worker(f"worker{number}", trick=f"clock:{offset_s}:{speed}")
    for _ in range(rounds(6, 200)):
        # Longer than a lease: it must be renewed in time.
        site.submit(seconds=dice.uniform(4.0, 8.0) if dice.random() < 0.5 else 0.5)
    site.wait_until_done()
    verdict = judge(site)
    for name, value in verdict.figures().items():
        record_property(name, value)
    assert (verdict.lost, verdict.doubled) == ([], [])
    assert set(site.states()) == {"succeeded"}
    assert verdict.lost_leases == 0, "a lease was lost"


STEP_S = rounds(10.0, 300.0)
MARGIN_S = rounds(20.0, 60.0)


@pytest.mark.parametrize("lease_s", rounds([STEP_S + MARGIN_S], [STEP_S + MARGIN_S, STEP_S]))
@pytest.mark.faults("T16", "The clock of the server is stepped by five minutes, forth and back")
def test_a_step_of_the_clock_of_the_server_ends_no_lease_that_is_longer(
    make_site: Callable[..., DrillSite],
    dice: random.Random,
    record_property: Callable[[str, object], None],
    lease_s: float,
) -> None:
    site = make_site(has_own_clock=True, LEASE_S=str(lease_s))
    for number in range(rounds(3, 8)):
        site.start_worker(f"worker{number}")
    steps = [STEP_S, 0.0, -STEP_S, 0.0] * rounds(1, 3)
    for ahead_s in steps:
        for _ in range(rounds(3, 16)):
            # Some are still running when the reaper and their renewals meet the new time.
            site.submit(seconds=dice.uniform(2.0, rounds(5.0, 8.0)))
        wait_for(site.running, "a job that runs")
        site.step_clock(ahead_s)
        # Time for some renewals, and for the reaper.
        time.sleep(rounds(2.5, 10.0))
    # A step back holds up the jobs that were submitted before it, until their time has come again.
    site.wait_until_done()
    verdict = judge(site)
    for name, value in (verdict.figures() | {"steps": len(steps), "lease s": lease_s}).items():
        record_property(name, value)
    assert (verdict.lost, verdict.doubled) == ([], [])
    assert set(site.states()) == {"succeeded"}
    # A lease as long as the step may end by it; its worker takes the job up again, or another does.
    assert verdict.lost_leases == 0 or lease_s <= STEP_S
