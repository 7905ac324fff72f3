"""The disk of the datasets is full (T24)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from voxelworks.testing.rounds import rounds

from .drill_site import DrillSite, judge

STORE_MIB = 200


@pytest.fixture
def small_store(tmp_path: Path) -> Iterator[Path]:
    """A folder that holds 200 MiB and no more."""
    folder = tmp_path / "store"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={STORE_MIB}m", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can make a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.faults("T24", "Jobs that need more room than there is, among small ones")
def test_a_full_disk_fails_only_the_jobs_that_do_not_fit(
    small_store: Path, make_site: Callable[..., DrillSite], record_property: Callable[[str, object], None]
) -> None:
    site = make_site(DATA_DIR=str(small_store), RETRIES_RESOURCES="1")
    site.data = small_store
    for number in range(3):
        site.start_worker(f"worker{number}")
    big = [site.submit(deed="fill", seconds=0.1) for _ in range(rounds(2, 20))]
    small = [site.submit(seconds=0.1) for _ in range(rounds(6, 100))]
    site.wait_until_done()
    late = site.submit()
    site.wait_until_done()
    verdict = judge(site)
    ends = {
        row.id: (row.state, row.failure_class)
        for row in site.rows("SELECT id, state, failure_class FROM jobs")
    }
    record_property("too big", len(big))
    for name, value in verdict.figures().items():
        record_property(name, value)
    # With the charges: those of failed jobs are given back.
    assert (verdict.lost, verdict.doubled) == ([], [])
    assert {ends[job_id] for job_id in big} == {("failed", "resources")}
    assert ends[late] == ("succeeded", None)
    # A small job may meet the full disk too, but it is tried again, and mostly succeeds.
    failed = [job_id for job_id in small if ends[job_id] != ("succeeded", None)]
    assert {ends[job_id] for job_id in failed} <= {("failed", "resources")}
    assert 2 * len(failed) <= len(small)
    assert [job_id for job_id in failed if not _met_another(site, job_id, big)] == []
    left = sum(path.stat().st_size for path in small_store.rglob("*") if path.is_file())
    assert left < 10 * 2**20, "what did not fit is still there"


def _met_another(site: DrillSite, job_id: str, big: list[str]) -> bool:
    """Whether, during each attempt of a job, one of those was running that fill the disk."""
    attempts = site.rows("SELECT job_id, claimed_ms, ended_ms FROM attempts")
    filling = [row for row in attempts if row.job_id in big]
    return all(
        any(other.claimed_ms <= own.ended_ms and own.claimed_ms <= other.ended_ms for other in filling)
        for own in attempts
        if own.job_id == job_id
    )
