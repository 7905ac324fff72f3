"""The network between workers and server is bad (T17)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from voxelworks.testing.rounds import rounds

from .bad_network import BadNetwork, Weather
from .drill_site import DrillSite, judge

LINES = 400
LOG_TAIL_S = 60
WORKERS = rounds(3, 12)


@pytest.mark.faults("T17", "Requests are late, cut, sent twice, or never answered")
def test_a_bad_network_loses_no_job_and_no_byte_of_any_log(
    make_site: Callable[..., DrillSite], dice: random.Random, record_property: Callable[[str, object], None]
) -> None:
    # Leases that outlive a request that nobody answers: it is not what is tried here.
    site = make_site(LEASE_S="60", RENEW_S="2", LOG_TAIL_S=str(LOG_TAIL_S))
    weather = Weather(delay_max_s=rounds(0.3, 3.0))
    with BadNetwork(site.port, weather, dice.randrange(10**6)) as network:
        for number in range(WORKERS):
            site.start_worker(f"worker{number}", url=network.url)
        for _ in range(rounds(8, 300)):
            site.submit(seconds=dice.uniform(0.1, 1.0), lines=LINES)
        site.wait_until_done(timeout_s=1500)
        # The end of a log may come after that of its job.
        deadline = time.monotonic() + LOG_TAIL_S
        while (same := _identical_logs(site)) < len(site.submitted) and time.monotonic() < deadline:
            time.sleep(0.5)
    verdict = judge(site)
    for name, value in (verdict.figures() | dict(network.happened) | {"identical logs": same}).items():
        record_property(name, value)
    assert (verdict.lost, verdict.doubled) == ([], [])
    assert same == len(site.submitted)
    assert network.happened["cut"] >= rounds(3, 300)


def _identical_logs(site: DrillSite) -> int:
    return sum(_log(site, job_id) == _expected_log(site, job_id) for job_id in site.submitted)


def _log(site: DrillSite, job_id: str) -> bytes:
    (row,) = site.rows("SELECT attempt FROM jobs WHERE id = :id", id=job_id)
    return (site.home / "logs" / job_id / f"{row.attempt}.log").read_bytes()


def _expected_log(site: DrillSite, job_id: str) -> bytes:
    target = site.client.show(job_id).job.params["target"]
    lines = [f"{target} {number} " + "drill " * (number % 7) for number in range(LINES)]
    return "".join(f"{line}\n" for line in lines).encode()
