"""T5: the process dies before or after each statement; then the call was either never made, or made whole.

Each death is `os._exit` in a forked child, so nothing is cleaned up: no rollback, no closed connection.
"""

import os

import pytest
from sqlalchemy import event

from voxelworks import jobs
from voxelworks.protocol.messages import PublishedRequest
from voxelworks.protocol.views import TERMINAL_STATES
from voxelworks.testing.databases import sqlite_database
from voxelworks.testing.queues import Queue


@pytest.fixture
def queue(tmp_path):
    # Connections of PostgreSQL cannot be shared with a forked child; T5 there kills whole servers, in the fault suite.
    with sqlite_database() as database:
        yield Queue.over(database, tmp_path)


OPERATIONS = [
    "submit", "claim", "start", "seal", "finish", "fail", "cancel queued", "cancel running", "reap", "published",
]  # fmt: skip


def _prepare(queue, name):
    """Bring a queue to where the operation can be called, and give the call."""
    worker = queue.open_worker()
    if name == "submit":
        return lambda: queue.submit_convert("cortex", idempotency_key="k1")
    job = queue.submit()
    if name == "claim":
        return lambda: queue.call(jobs.claim, worker)
    if name == "cancel queued":
        return lambda: queue.cancel(job.id)
    claim = queue.claim(worker)
    if name == "start":
        return lambda: queue.renew(claim)
    queue.renew(claim)
    if name == "reap":
        queue.advance(queue.settings.lease_s + 1)
        return queue.reap
    if name == "published":
        queue.succeed(claim)
        return lambda: queue.call(jobs.published, claim.job_id, 1, PublishedRequest(token=claim.token))
    return {
        "seal": lambda: queue.seal(claim),
        "finish": lambda: queue.succeed(claim),
        "fail": lambda: queue.fail(claim, "infrastructure"),
        "cancel running": lambda: queue.cancel(claim.job_id),
    }[name]


@pytest.mark.faults("T5", "A process dies before each of its statements")
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_death_at_any_statement_leaves_nothing_half_done(queue, name, record_property):
    call = _prepare(queue, name)
    before = _content(queue)
    point = 0
    while _dies_at(queue, call, point):
        # Every write is in one transaction, and the death came before its commit was answered.
        after = _content(queue)
        if after != before:
            _is_whole(queue)
            break
        point += 1
    assert point >= 2, "no statement was hit"
    # After the restart the same call, or the work that follows, comes to its end.
    _finish_everything(queue, call, name)
    record_property("operation", name)
    record_property("deaths", point + 1)


def _dies_at(queue, call, point):
    """Fork, make the call in the child and kill it at a statement; False if the call had fewer statements."""
    queue.database.close()
    child = os.fork()
    if child == 0:
        seen = 0

        def die_at_point(*_):
            nonlocal seen
            if seen == point:
                os._exit(9)
            seen += 1

        event.listen(queue.database.engine, "before_cursor_execute", die_at_point)
        event.listen(queue.database.engine, "after_cursor_execute", die_at_point)
        event.listen(queue.database.engine, "commit", die_at_point)
        call()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 9


def _content(queue):
    """All rows of all tables."""
    with queue.database.read_session() as session:
        connection = session.connection()
        tables = (
            connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars().all()
        )
        return {table: connection.exec_driver_sql(f"SELECT * FROM {table}").all() for table in sorted(tables)}


def _is_whole(queue):
    """Jobs, attempts and events tell the same story."""
    with queue.database.read_session() as session:
        for job in jobs.list_jobs(session, settings=queue.settings).jobs:
            detail = jobs.show(session, job.id, settings=queue.settings)
            assert detail.events[-1].to_state == job.state
            assert len(detail.attempts) == job.attempt
            assert (job.ended_ms is not None) == (job.state in TERMINAL_STATES)
            open_attempts = [attempt for attempt in detail.attempts if attempt.ended_ms is None]
            assert len(open_attempts) == (job.state in ("claimed", "running", "cancelling"))


def _finish_everything(queue, call, name):
    if name in ("submit", "cancel queued", "cancel running", "seal", "finish", "fail", "published", "start"):
        call()  # clients and workers repeat what was not answered
    _is_whole(queue)
    queue.advance(queue.settings.lease_s + 1)
    queue.reap()
    queue.advance(1)
    worker = queue.open_worker("after the restart")
    while (claim := queue.call(jobs.claim, worker)) is not None:
        queue.fail(claim, "user_input")
    with queue.database.read_session() as session:
        (job,) = jobs.list_jobs(session, settings=queue.settings).jobs
    assert job.state in TERMINAL_STATES
    _is_whole(queue)
