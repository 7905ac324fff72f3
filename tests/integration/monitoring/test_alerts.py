"""What the operator is told of, from real records."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import update

from voxelworks import jobs, notify
from voxelworks.db import Database, SecretBox
from voxelworks.notify._tables import OutboxRow
from voxelworks.server import alerts
from voxelworks.server.context import Context
from voxelworks.server.keys import Keys
from voxelworks.server.limits import limits_of
from voxelworks.server.live import Live
from voxelworks.testing.queues import Queue

DAY_S = 86_400.0
SILENT_S = 100.0
"""Longer than `silent_after_s`."""
LONG_S = alerts.WAIT_MAX_S + 1


class NotWaiting(jobs.Reaper):
    """Of a server that has run for long."""

    is_waiting = False


@pytest.fixture
def queue(database: Database, tmp_path: Path) -> Queue:
    return Queue.over(database, tmp_path, operator_email="operator@example.org", free_bytes_min=0)


@pytest.fixture
def context(queue: Queue) -> Context:
    """A server that has run for long."""
    return Context(
        queue.settings, queue.database, queue.places, Keys.prepare(queue.settings.home, queue.database),
        Live(queue.database), SecretBox(queue.settings.secret_key_file), limits_of(queue.settings),
        reaper=NotWaiting(),
    )  # fmt: skip


def told(context: Context) -> list[str]:
    """Look for trouble, and give the titles of what is told now."""
    with context.database.read_session() as session:
        known = {mail.id for mail in notify.list_mails(session, limit=1000).mails}
    alerts.look(context)
    with context.database.read_session() as session:
        found = notify.list_mails(session, limit=1000).mails
    return sorted(mail.subject.removeprefix("Alert: ") for mail in found if mail.id not in known)


def latest_text(context: Context) -> str:
    with context.database.read_session() as session:
        [mail] = notify.list_mails(session, limit=1).mails
        return notify.read_mail(session, mail.id, settings=context.settings).text


def test_an_idle_worker_that_dies_is_told_though_others_live(queue: Queue, context: Context) -> None:
    queue.open_worker("gpu")
    living = queue.open_worker("cpu")
    assert told(context) == []
    queue.advance(SILENT_S)
    queue.call(jobs.claim, living)
    assert told(context) == ["Worker gpu is not heard from"]
    assert told(context) == []
    for _ in range(5):
        queue.advance(DAY_S)
        queue.call(jobs.claim, living)
        assert told(context) == []


def test_a_worker_that_said_goodbye_or_was_sent_away_may_be_silent(queue: Queue, context: Context) -> None:
    queue.call(jobs.leave, queue.open_worker("left"))
    queue.open_worker("drained")
    queue.call(jobs.drain_worker, "drained", by=queue.operator)
    queue.advance(SILENT_S)
    assert told(context) == []


def test_a_silent_worker_with_jobs_is_told_also_if_it_was_sent_away(queue: Queue, context: Context) -> None:
    job = queue.submit()
    queue.claim_and_start(queue.open_worker("gpu"))
    queue.call(jobs.drain_worker, "gpu", by=queue.operator)
    queue.advance(SILENT_S)
    assert told(context) == ["Worker gpu is not heard from, and holds jobs"]
    assert f"holds {job.id}, and did not say that it ends" in latest_text(context)


def test_a_server_that_was_away_itself_takes_no_worker_for_dead(
    queue: Queue, database: Database, context: Context
) -> None:
    queue.open_worker("gpu")
    queue.submit()
    queue.advance(LONG_S)
    fresh = Context(
        queue.settings, database, queue.places, context.keys, context.live, context.box, context.limits
    )
    assert told(fresh) == []
    assert told(context) == ["Jobs wait, and no worker is there", "Worker gpu is not heard from"]


def test_an_idle_worker_that_cannot_say_goodbye_is_not_told(queue: Queue, context: Context) -> None:
    queue.open_worker_with("theirs (WEBKNOSSOS 1)", isolation="")
    queue.advance(SILENT_S)
    assert told(context) == []


def test_jobs_that_no_living_worker_runs_are_told(queue: Queue, context: Context) -> None:
    living = queue.open_worker("cpu", convert=1)
    queue.submit()
    queue.submit()
    queue.call(jobs.claim, living)
    assert told(context) == []
    queue.advance(LONG_S)
    queue.call(jobs.claim, living)
    assert told(context) == ["2 jobs of find_largest_segment_id wait, and no worker takes them"]
    assert "no worker that runs find_largest_segment_id is connected" in latest_text(context)
    assert told(context) == []


def test_jobs_that_wait_for_their_turn_or_were_paused_are_no_trouble(queue: Queue, context: Context) -> None:
    living = queue.open_worker("cpu")
    first = queue.submit()
    claim = queue.claim_and_start(living)
    queue.submit(after=(first.id,))
    queue.call(jobs.pause_queue, by=queue.operator)
    queue.submit()
    for _ in range(10):
        queue.advance(LONG_S / 10)
        queue.renew(claim)
    queue.call(jobs.claim, living)
    assert told(context) == []


def test_without_any_worker_it_is_told_once_for_all_jobs(queue: Queue, context: Context) -> None:
    queue.submit()
    queue.submit_convert("cortex")
    queue.advance(LONG_S)
    assert told(context) == ["Jobs wait, and no worker is there"]


def test_a_paused_worker_is_told(queue: Queue, context: Context) -> None:
    living = queue.open_worker("bad")
    for _ in range(queue.settings.worker_failures_max):
        queue.submit()
        queue.fail(queue.claim_and_start(living), "program_error")
    assert "Worker bad gets no more jobs" in told(context)
    queue.advance(SILENT_S)
    assert told(context) == ["Worker bad is not heard from"]


def test_mails_that_could_not_be_sent_are_told(queue: Queue, context: Context) -> None:
    queue.submit()
    queue.fail(queue.claim_and_start(queue.open_worker()), "user_input")
    with queue.database.session() as session:
        session.execute(update(OutboxRow).values(state="failed", done_ms=OutboxRow.created_ms))
    assert told(context) == ["1 mail or webhook could not be sent"]


def test_each_program_error_is_told_once(queue: Queue, context: Context) -> None:
    def fail(message: str) -> str:
        job = queue.submit()
        worker = queue.open_worker(f"of {job.id}")
        queue.fail(queue.claim_and_start(worker), "program_error", message)
        queue.call(jobs.leave, worker)
        return job.id

    first = fail("no element 7")
    assert told(context) == ["1 job of find_largest_segment_id failed because of a program error"]
    assert f"no element 7\n\nThe latest: {first}" in latest_text(context)
    fail("no element 8")
    assert told(context) == []
    other = fail("unknown dtype")
    assert told(context) == ["1 job of find_largest_segment_id failed because of a program error"]
    assert f"unknown dtype\n\nThe latest: {other}" in latest_text(context)


def test_many_different_program_errors_are_told_as_one(queue: Queue, context: Context) -> None:
    for name in "abcdefg":
        job = queue.submit()
        worker = queue.open_worker(f"of {job.id}")
        queue.fail(queue.claim_and_start(worker), "program_error", f"no element {name}")
        queue.call(jobs.leave, worker)
    assert told(context) == ["7 jobs of find_largest_segment_id failed because of 7 program errors"]
    assert told(context) == []
