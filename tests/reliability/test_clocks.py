"""Clocks of workers are wrong by hours or days, and run too fast or too slow (T16)."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from voxelworks.testing.rounds import rounds

from .drill_site import DrillSite, judge

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
