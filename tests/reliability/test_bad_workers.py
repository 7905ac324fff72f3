"""Jobs that bring their worker down, and a worker that fails everything (T19); rolling restarts (T23)."""

from __future__ import annotations

import itertools
import random
import signal
from collections.abc import Callable
from functools import partial

import pytest

from voxelworks.testing.rounds import rounds

from .drill_site import DrillSite, judge, wait_for


@pytest.mark.faults("T19", "Jobs that kill their worker, and a worker that fails every job, among good ones")
def test_poison_is_given_up_and_a_bad_worker_is_paused(
    make_site: Callable[..., DrillSite], dice: random.Random, record_property: Callable[[str, object], None]
) -> None:
    site = make_site(LOST_LEASES_MAX="3", RETRIES_INFRASTRUCTURE="6")
    names = [f"worker{number}" for number in range(rounds(3, 6))]
    for name in names:
        site.start_worker(name)
    site.start_worker("bad", trick="fails")
    poison = [site.submit(deed="kill") for _ in range(rounds(2, 5))]
    good = []

    def raise_the_dead() -> None:
        for name in [*names, "bad"]:
            if site.workers[name].poll() is not None:
                site.bury_worker(name)
                site.start_worker(name, trick="fails" if name == "bad" else "")

    for _ in range(rounds(40, 200)):
        good.append(site.submit(seconds=dice.uniform(0.2, 0.6)))
        # Before their leases end: afterwards nobody knows what the dead were doing.
        raise_the_dead()
    site.wait_until_done(raise_the_dead)
    verdict = judge(site)
    states = {
        row.id: (row.state, row.lost_leases) for row in site.rows("SELECT id, state, lost_leases FROM jobs")
    }
    paused = [
        row.name for row in site.rows("SELECT DISTINCT name FROM worker_sessions WHERE paused_ms IS NOT NULL")
    ]
    record_property("poison", len(poison))
    for name, value in verdict.figures().items():
        record_property(name, value)
    assert (verdict.lost, verdict.doubled) == ([], [])
    assert {states[job_id] for job_id in poison} == {("failed", 3)}
    assert {states[job_id][0] for job_id in good} == {"succeeded"}
    assert verdict.kills >= 3 * len(poison)
    assert paused == ["bad"]


@pytest.mark.parametrize("old", rounds(["worker"], ["worker", "server"]))
@pytest.mark.faults(
    "T23", "Workers and the server are drained and started again, with one side of protocol 1"
)
def test_a_rolling_restart_counts_against_no_job(
    make_site: Callable[..., DrillSite],
    dice: random.Random,
    record_property: Callable[[str, object], None],
    old: str,
) -> None:
    """Half of the workers are old, or the server is, which is updated at its first restart and set back at its next."""
    # A busy machine misses leases of 5 s; one that a drain leaves behind is missed at any length.
    site = make_site(LEASE_S="30")
    old_worker = "old" if old == "worker" else ""
    server_tricks = itertools.cycle(["", "old"] if old == "server" else [""])
    if old == "server":
        _restart_server(site, "old")
    count = rounds(3, 10)
    for number in range(count):
        site.start_worker(f"worker{number}", trick=old_worker if number % 2 else "")
    for _ in range(rounds(15, 200)):
        site.submit(seconds=dice.uniform(0.5, 3.0))
    for number in dice.sample(range(count), count):
        name = f"worker{number}"
        # One that is still starting has nothing to put away, and ends at the signal.
        wait_for(partial(site.is_known, name), name)
        site.workers[name].send_signal(signal.SIGTERM)
        assert site.workers.pop(name).wait(60) == 0
        site.start_worker(name, trick="" if number % 2 else old_worker)
        if number % 4 == 0:
            _restart_server(site, next(server_tricks))
    site.wait_until_done()
    verdict = judge(site)
    (failures,) = site.rows(
        "SELECT sum(infrastructure_failures + resource_failures + lost_leases) AS n FROM jobs"
    )
    for name, value in (verdict.figures() | {"restarts": count, "old": old}).items():
        record_property(name, value)
    assert (verdict.lost, verdict.doubled) == ([], [])
    assert set(site.states()) == {"succeeded"}
    assert failures.n == 0


def _restart_server(site: DrillSite, trick: str) -> None:
    assert site.server is not None
    site.server.send_signal(signal.SIGTERM)
    assert site.server.wait(60) == 0
    site.start_server(trick=trick)
