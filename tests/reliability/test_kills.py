"""Workers and servers are killed while hundreds of paid jobs run (T2, T3)."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from voxelworks.testing.rounds import rounds

from .drill_site import DrillSite, every, judge

WORKERS = rounds(4, 20)
KILLS_MIN = rounds(3, 50)
BUSY_MIN = rounds(3, 5)
SERVER_KILLS_MAX = rounds(2, 1000)
SECONDS_MAX = rounds(1.5, 3.0)
"""Of a job. With few workers a long one would be hit in every try by pure chance, and be poison in the end."""


@pytest.mark.faults("T2", "A random busy worker is killed every second and started again")
def test_killed_workers_lose_and_double_nothing(
    site: DrillSite, dice: random.Random, record_property: Callable[[str, object], None]
) -> None:
    names = [f"worker{number}" for number in range(WORKERS)]
    for name in names:
        site.start_worker(name)

    def strike() -> None:
        busy = sorted(site.running())
        # Not when the last few jobs are left: each of them would be hit every time, and be poison by pure chance.
        if len(busy) >= BUSY_MIN:
            victim = dice.choice(busy)
            site.kill_worker(victim)
            site.start_worker(victim)

    with every(1.0, strike, dice) as maybe_strike:
        # Otherwise most jobs would have ended before the last one is submitted.
        for _ in range(rounds(25, 1000)):
            site.submit(seconds=dice.uniform(0.5, SECONDS_MAX))
            maybe_strike()
        site.wait_until_done(maybe_strike)
    verdict = judge(site)
    for name, value in verdict.figures().items():
        record_property(name, value)
    assert (verdict.lost, verdict.doubled) == ([], [])
    assert set(site.states()) == {"succeeded"}
    assert verdict.kills >= KILLS_MIN, "too few kills hit a running attempt: this run proves nothing"


@pytest.mark.faults("T3", "The server is killed every five seconds and started again")
def test_a_killed_server_loses_and_doubles_nothing(
    site: DrillSite, dice: random.Random, record_property: Callable[[str, object], None]
) -> None:
    for number in range(WORKERS):
        site.start_worker(f"worker{number}")
    kills = 0
    ended = 0

    def strike() -> None:
        nonlocal kills, ended
        # On a machine where a start takes longer than the workers then have, nothing would ever be done.
        if kills < SERVER_KILLS_MAX and (ended_by_now := site.states()["succeeded"]) > ended:
            ended = ended_by_now
            site.kill_server()
            kills += 1
            site.start_server()

    with every(rounds(2.0, 5.0), strike, dice) as maybe_strike:
        # The kills hit submissions too.
        for _ in range(rounds(12, 1000)):
            site.submit(seconds=dice.uniform(0.5, 3.0))
            maybe_strike()
        site.wait_until_done(maybe_strike)
    verdict = judge(site)
    for name, value in (verdict.figures() | {"kills": kills}).items():
        record_property(name, value)
    assert (verdict.lost, verdict.doubled) == ([], [])
    assert set(site.states()) == {"succeeded"}
    assert kills >= rounds(1, 15)
