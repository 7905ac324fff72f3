"""A worker and its jobs, with everything that can happen to them."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Site, is_gone, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def test_a_job_runs_and_its_answer_and_progress_arrive(site: Site) -> None:
    site.worker()
    job_id = site.submit(seconds=1.0)
    wait_for(lambda: site.client.show(job_id).job.progress is not None, "progress")
    detail = site.wait_until_ended(job_id)
    assert (detail.job.state, detail.job.publication) == ("succeeded", "none")
    assert detail.job.result is not None
    assert detail.job.result.value == {"found": "nothing"}
    assert [(attempt.outcome, attempt.exit_code) for attempt in detail.attempts] == [("succeeded", 0)]
    assert detail.attempts[0].peak_memory_bytes is not None
    assert detail.attempts[0].peak_memory_bytes > 10_000_000


def test_the_log_on_the_server_is_byte_for_byte_what_was_printed(site: Site) -> None:
    site.worker()
    printed = random.Random(4).randbytes(1_500_000) + "Größe µm\r\n\0\x1b[31mrot".encode()
    site.note().with_suffix(".bytes").write_bytes(printed)
    detail = site.wait_until_ended(site.submit("print"))
    assert detail.job.state == "succeeded"
    assert site.log(detail.job.id, 1) == printed


def test_a_job_gets_no_secret_in_its_environment(site: Site) -> None:
    site.worker(
        TOKEN="secret", DATABASE_URL="sqlite:///secret", WORKER_KEY=(site.home / "worker.key").read_text()
    )
    detail = site.wait_until_ended(site.submit("environment"))
    assert detail.job.result is not None
    names = detail.job.result.value["found"].split()
    assert [name for name in names if name.startswith("VOXELWORKS")] == []
    assert {"PATH", "TMPDIR"} <= set(names)


def test_a_job_cannot_read_the_key_in_the_environment_of_its_worker(site: Site) -> None:
    site.worker(WORKER_KEY=(site.home / "worker.key").read_text(), before=without_right_to_look)
    detail = site.wait_until_ended(site.submit("spy"))
    assert detail.job.result is not None
    assert detail.job.result.value == {"found": "refused"}


def without_right_to_look() -> None:
    """Give up the rights by which root looks into every process: a test that root runs is to see what users see."""
    drop_from_bounding_set = 24
    sys_ptrace, sys_admin, perfmon = 19, 21, 38
    for right in (sys_ptrace, sys_admin, perfmon):
        ctypes.CDLL(None).prctl(drop_from_bounding_set, right, 0, 0, 0)


def test_a_cancelled_job_ends_with_all_its_processes(site: Site) -> None:
    site.worker()
    job_id = site.submit("family", seconds=600)
    group = site.wait_until_it_works()
    site.client.cancel(job_id)
    detail = site.wait_until_ended(job_id)
    assert (detail.job.state, detail.attempts[0].outcome) == ("cancelled", "cancelled")
    wait_for(lambda: is_gone(group), "its processes to go")


def test_a_cancelled_job_that_ignores_sigterm_is_killed(site: Site) -> None:
    site.worker()
    job_id = site.submit("ignore-sigterm", seconds=600)
    group = site.wait_until_it_works()
    site.client.cancel(job_id)
    detail = site.wait_until_ended(job_id)
    assert (detail.job.state, detail.attempts[0].exit_code) == ("cancelled", -signal.SIGKILL)
    wait_for(lambda: is_gone(group), "its processes to go")


def test_a_drained_worker_ends_its_job_and_takes_no_other(site: Site) -> None:
    worker = site.worker()
    running = site.submit(seconds=2.0)
    site.wait_until_it_works()
    waiting = site.submit(note=site.note("other"))
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    assert site.client.show(running).job.state == "succeeded"
    assert site.client.show(waiting).job.state == "queued"


def test_a_worker_that_the_operator_drains_ends_its_job_and_leaves(site: Site) -> None:
    worker = site.worker("--name", "drained")
    first = site.submit(seconds=2.0)
    site.wait_until_it_works()
    second = site.submit(note=site.note("other"))
    site.client._post("operator/workers/drained/drain", {})
    assert worker.wait(60) == 0
    assert site.client.show(first).job.state == "succeeded"
    assert site.client.show(second).job.state == "queued"
    site.worker("--name", "drained")
    assert site.wait_until_ended(second).job.state == "succeeded"


def test_an_idle_worker_that_is_drained_leaves(site: Site) -> None:
    worker = site.worker("--name", "idle")
    wait_for(lambda: any(view.name == "idle" for view in site.client.list_workers()), "the worker")
    site.client._post("operator/workers/idle/drain", {})
    assert worker.wait(60) == 0


def test_a_worker_that_is_stopped_says_goodbye(site: Site) -> None:
    worker = site.worker("--name", "polite")
    wait_for(lambda: any(view.name == "polite" for view in site.client.list_workers()), "the worker")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    [polite] = [view for view in site.client.list_workers() if view.name == "polite"]
    assert polite.is_draining


def test_a_worker_whose_time_is_over_leaves_and_its_job_goes_on_elsewhere(site: Site) -> None:
    hurried = site.worker("--name", "hurried", WALLTIME_S="6")
    job_id = site.submit(seconds=30.0)
    assert hurried.wait(60) == 0
    detail = site.client.show(job_id)
    assert (detail.job.state, [attempt.outcome for attempt in detail.attempts]) == ("queued", ["interrupted"])
    site.client.cancel(job_id)


def test_the_second_sigterm_interrupts_and_the_job_goes_on_elsewhere(site: Site) -> None:
    first = site.worker("--name", "first")
    job_id = site.submit(seconds=3.0)
    group = site.wait_until_it_works()
    first.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 0
    assert is_gone(group)
    assert [attempt.outcome for attempt in site.client.show(job_id).attempts] == ["interrupted"]
    assert site.client.show(job_id).job.state == "queued"
    site.worker("--name", "second")
    detail = site.wait_until_ended(job_id)
    assert [attempt.outcome for attempt in detail.attempts] == ["interrupted", "succeeded"]


def test_a_killed_child_is_infrastructure_and_tried_again(site: Site) -> None:
    site.worker()
    job_id = site.submit("family", seconds=2.0)
    group = site.wait_until_it_works()
    os.kill(group, signal.SIGKILL)
    detail = site.wait_until_ended(job_id)
    assert [(attempt.outcome, attempt.failure_class) for attempt in detail.attempts] == [
        ("failed", "infrastructure"),
        ("succeeded", None),
    ]
    assert is_gone(group)


def test_a_killed_worker_leaves_nothing_and_frees_its_job_when_it_comes_back(
    site: Site, scratch: Path
) -> None:
    worker = site.worker("--name", "one", environment={"TMPDIR": str(scratch)})
    job_id = site.submit("family", seconds=2.0)
    group = site.wait_until_it_works()
    worker.kill()
    wait_for(lambda: is_gone(group), "the job's processes to go")
    assert list(scratch.iterdir()) == []
    assert site.client.show(job_id).job.state == "running"
    site.worker("--name", "one")
    detail = site.wait_until_ended(job_id)
    assert [attempt.outcome for attempt in detail.attempts] == ["lost", "succeeded"]


def test_two_workers_of_one_name_do_not_run_on_one_machine(site: Site) -> None:
    site.worker("--name", "one")
    site.wait_until_ended(site.submit())
    assert site.worker("--name", "one").wait(60) == 2
    assert (
        "error: a worker named 'one' runs on this machine already" in (site.home / "worker.txt").read_text()
    )


def test_too_much_memory_is_resources(site: Site) -> None:
    site.worker(MEMORY_BYTES_MAX=str(500 * 2**20))
    detail = site.wait_until_ended(site.submit("memory"))
    assert (detail.job.state, detail.job.failure_class) == ("failed", "resources")
    assert detail.job.message is not None
    assert "0.49 GiB are allowed" in detail.job.message
    wait_for(lambda: is_gone(site.wait_until_it_works()), "its processes to go")


def test_a_job_plans_with_the_memory_that_its_attempt_is_given(site: Site) -> None:
    site.worker(SLOTS="3", MEMORY_BYTES_MAX=str(4 * 2**30))
    detail = site.wait_until_ended(site.client.submit("probe_room", {"block_bytes": 450 * 2**20}).id)
    assert detail.attempts[0].memory_bytes_max == 2**30
    assert detail.job.result is not None
    assert detail.job.result.value == {"found": "1"}


def test_an_attempt_that_takes_longer_than_its_workflow_allows_is_stopped(site: Site) -> None:
    site.worker()
    detail = site.wait_until_ended(site.client.submit("probe_hurry", {"note": str(site.note())}).id)
    assert (detail.job.state, detail.job.failure_class, detail.job.code) == (
        "failed",
        "timed_out",
        "timed-out",
    )
    assert detail.job.message is not None
    assert detail.job.message.startswith(
        "the job ran for 8 s, which is all that its workflow allows, and was stopped"
    )
    assert [attempt.exit_code for attempt in detail.attempts] == [1]
    assert is_gone(site.wait_until_it_works())


def test_a_crash_is_a_program_error_told_with_the_last_log_lines(site: Site) -> None:
    site.worker()
    detail = site.wait_until_ended(site.submit("crash"))
    assert (detail.job.state, detail.job.failure_class) == ("failed", "program_error")
    assert detail.attempts[0].exit_code == -signal.SIGSEGV
    assert detail.job.message is not None
    assert detail.job.message.startswith(
        "the job's process ended by SIGSEGV and left no result. Its last log lines:\n"
    )
    assert "Segmentation fault" in detail.job.message
    assert b"about to crash" in site.log(detail.job.id, 1)


def test_jobs_that_need_a_gpu_share_none(site: Site) -> None:
    ids = [site.client.submit("probe_gpu", {"seconds": 1}).id for _ in range(2)]
    site.worker(JOB_SLOTS_LONG="2", environment={"CUDA_VISIBLE_DEVICES": "0"})
    first, second = (site.wait_until_ended(job_id).attempts[0] for job_id in ids)
    assert first.ended_ms is not None
    assert first.ended_ms <= second.claimed_ms


def test_jobs_side_by_side_see_one_gpu_each_and_others_none(site: Site) -> None:
    ids = [site.client.submit("probe_gpu", {"seconds": 4}).id for _ in range(2)]
    site.worker(JOB_SLOTS_LONG="2", environment={"CUDA_VISIBLE_DEVICES": "3,1"})
    seen = [site.wait_until_ended(job_id).job.result for job_id in [*ids, site.submit("gpu")]]
    assert [result and result.value for result in seen] == [{"found": "3"}, {"found": "1"}, {"found": ""}]


@pytest.mark.parametrize(
    ("deed", "failure_class", "message"),
    [
        ("error", "program_error", "ValueError: the probe is broken"),
        ("refuse", "user_input", "the probe refuses 7; give it 8"),
    ],
)
def test_an_error_is_told_with_its_class(site: Site, deed: str, failure_class: str, message: str) -> None:
    site.worker()
    detail = site.wait_until_ended(site.submit(deed))
    assert (detail.job.state, detail.job.failure_class, detail.job.message) == (
        "failed",
        failure_class,
        message,
    )
    assert len(detail.attempts) == 1


def test_an_embedded_worker_ends_with_its_parent_and_so_do_its_jobs(site: Site) -> None:
    worker = site.worker("--embedded")
    site.submit("family", seconds=600)
    group = site.wait_until_it_works()
    assert worker.stdin is not None
    worker.stdin.close()
    assert worker.wait(60) == 1
    assert is_gone(group)


def test_a_new_dataset_is_published_and_no_work_folder_stays(site: Site) -> None:
    site.worker()
    datasets = site.home / "datasets" / "local"
    job = site.client.submit("probe_dataset", {"target": "made", "note": str(site.note())})
    detail = site.wait_until_ended(job.id)
    assert (detail.job.state, detail.job.publication) == ("succeeded", "published")
    assert (datasets / "made" / "datasource-properties.json").is_file()
    wait_for(lambda: not (datasets / ".voxelworks").exists(), "the work folder to go")


def test_a_cancelled_dataset_leaves_nothing(site: Site) -> None:
    site.worker()
    job = site.client.submit("probe_dataset", {"target": "unmade", "note": str(site.note()), "seconds": 600})
    site.wait_until_it_works()
    site.client.cancel(job.id)
    assert site.wait_until_ended(job.id).job.state == "cancelled"
    wait_for(lambda: not (site.home / "datasets" / "local" / ".voxelworks").exists(), "the work folder to go")
    assert not (site.home / "datasets" / "local" / "unmade").exists()


def test_an_attempt_outlives_a_server_that_does_not_answer_for_longer_than_its_lease(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(LEASE_S="1")
    site.worker()
    job_id = site.submit(seconds=4.0)
    site.wait_until_it_works()
    site.server.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    site.server.send_signal(signal.SIGCONT)
    detail = site.wait_until_ended(job_id)
    assert [attempt.outcome for attempt in detail.attempts] == ["succeeded"]


def test_a_worker_that_was_away_too_long_stops_its_job_and_publishes_nothing(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(LEASE_S="1", RETRIES_INFRASTRUCTURE="5", BACKOFF_CAP_S="0.05")
    away = site.worker("--name", "away")
    job = site.client.submit("probe_dataset", {"target": "made", "note": str(site.note()), "seconds": 3.0})
    group = site.wait_until_it_works()
    away.send_signal(signal.SIGSTOP)
    site.worker("--name", "other")
    site.wait_until_it_works(attempts=2)
    away.send_signal(signal.SIGCONT)
    wait_for(lambda: is_gone(group), "the first attempt to be stopped")
    detail = site.wait_until_ended(job.id)
    assert [(attempt.worker, attempt.outcome) for attempt in detail.attempts] == [
        ("away", "lost"),
        ("other", "succeeded"),
    ]
    assert (site.home / "datasets" / "local" / "made" / "datasource-properties.json").is_file()


def test_a_finished_job_leaves_no_temporary_files(site: Site, scratch: Path) -> None:
    worker = site.worker(environment={"TMPDIR": str(scratch)})
    site.wait_until_ended(site.submit())
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    assert list(scratch.iterdir()) == []
