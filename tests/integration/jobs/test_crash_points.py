"""T5: the process dies before or after each statement; then the call was either never made, or made whole.

Each death is `os._exit` in a forked child, so nothing is cleaned up: no rollback, no closed connection.
"""

import gc
import os
import time

import pytest
from sqlalchemy import event, select

from paid_work import PRICE, available, books_differ, installed, with_credits
from voxelworks import credits, jobs
from voxelworks.credits._tables import ReservationRow
from voxelworks.db import Base, now
from voxelworks.protocol.messages import NewJob, PublishedRequest
from voxelworks.protocol.views import TERMINAL_STATES
from voxelworks.testing.rounds import rounds

OPERATIONS = [
    "submit", "submit group", "claim", "start", "seal", "finish", "fail", "retry", "fail with waiting", "cancel queued",
    "cancel running", "reap", "published", "published for waiting", "not published", "monthly grant", "expiry",
]  # fmt: skip
REPEATED = {
    "submit", "submit group", "cancel queued", "cancel running", "seal", "finish", "fail", "fail with waiting",
    "published", "published for waiting", "not published", "start", "monthly grant", "expiry",
}  # fmt: skip
"""Clients and workers repeat what was not answered; a retry is another job, and the others come by themselves."""
SEGMENT = {"workflow": "segment"}
MOMENTS = rounds(
    ("before_cursor_execute", "commit"), ("before_cursor_execute", "after_cursor_execute", "commit")
)
"""Nothing reaches the database between the end of a statement and the next one: they are one moment to it."""


@pytest.fixture
def paying(queue):
    with installed():
        yield with_credits(queue, 20 * PRICE, monthly_free_credits=7)


def _prepare(queue, name):
    """Bring a queue to where the operation can be called, and give the call."""
    worker = queue.open_worker()
    ada = queue.principal("ada")
    if name == "submit":
        return lambda: queue.submit(**SEGMENT, idempotency_key="k1")
    if name == "submit group":
        group = [NewJob(key=key, params={"layer": "demo/segmentation"}, **SEGMENT) for key in "ab"]
        return lambda: queue.call(jobs.submit_group, by=ada, jobs=group, idempotency_key="k1")
    if name == "monthly grant":
        return lambda: queue.call(credits.ensure_monthly, "other", "Europe/Berlin")
    if name == "expiry":
        with queue.database.session() as session:
            at_ms = now(session)
            credits.grant(session, "local", 500, kind="compensation", expires_ms=at_ms + 10_000, who="server")
        queue.advance(11)
        return lambda: queue.call(credits.expire)
    job = queue.submit(**SEGMENT)
    if name in ("fail with waiting", "published for waiting", "not published"):
        queue.submit(**SEGMENT, after=[job.id])
    if name == "claim":
        return lambda: queue.call(jobs.claim, worker)
    if name == "cancel queued":
        return lambda: queue.cancel(job.id)
    if name == "retry":
        queue.cancel(job.id)
        return lambda: queue.retry(job.id)
    claim = queue.claim(worker)
    if name == "start":
        return lambda: queue.renew(claim)
    queue.renew(claim)
    if name == "reap":
        queue.advance(queue.settings.lease_s + 1)
        return queue.reap
    if name in ("published", "published for waiting", "not published"):
        queue.succeed(claim)
        error = "the folder exists" if name == "not published" else None
        request = PublishedRequest(token=claim.token, error=error)
        return lambda: queue.call(jobs.published, claim.job_id, 1, request)
    return {
        "seal": lambda: queue.seal(claim),
        "finish": lambda: queue.succeed(claim),
        "fail": lambda: queue.fail(claim, "program_error"),
        "fail with waiting": lambda: queue.fail(claim, "program_error"),
        "cancel running": lambda: queue.cancel(claim.job_id),
    }[name]


@pytest.mark.faults("T5", "A process dies before and after each of its statements")
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_death_at_any_statement_leaves_nothing_half_done(paying, name, record_property):
    queue = paying
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
    record_property("database", queue.database.engine.dialect.name)
    record_property("operation", name)
    record_property("kills", point + 1)
    record_property("lost", 0)
    record_property("doubled", 0)


def _dies_at(queue, call, point):
    """Fork, make the call in the child and kill it at a statement; False if the call had fewer statements."""
    queue.database.close()  # no connection is shared with the child
    gc.freeze()
    child = os.fork()
    if child == 0:
        seen = 0

        def die_at_point(*_):
            nonlocal seen
            if seen == point:
                os._exit(9)
            seen += 1

        for moment in MOMENTS:
            event.listen(queue.database.engine, moment, die_at_point)
        code = 1
        try:
            call()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 9), "the call itself failed"
    _wait_until_the_dead_are_gone(queue)
    return code == 9


def _wait_until_the_dead_are_gone(queue):
    """PostgreSQL notices a moment later that a client is gone, and keeps its locks until then."""
    if queue.database.engine.dialect.name == "sqlite":
        return
    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    for _ in range(1000):
        with queue.database.read_session() as session:
            if session.connection().exec_driver_sql(others).scalar_one() == 0:
                return
        time.sleep(0.002)
    raise AssertionError("a connection of the dead process is still there")


def _content(queue):
    """All rows of all tables."""
    with queue.database.read_session() as session:
        return {
            table.name: session.execute(select(table).order_by(*table.primary_key)).all()
            for table in Base.metadata.sorted_tables
        }


def _is_whole(queue):
    """Jobs, attempts, events and the ledger tell the same story (I17)."""
    for job in queue.list_jobs().jobs:
        detail = queue.show(job.id)
        assert detail.events[-1].to_state == job.state
        assert len(detail.attempts) == job.attempt
        assert (job.ended_ms is not None) == (job.state in TERMINAL_STATES)
        open_attempts = [attempt for attempt in detail.attempts if attempt.ended_ms is None]
        assert len(open_attempts) == (job.state in ("claimed", "running", "cancelling"))
    with queue.database.read_session() as session:
        charges = {row.job_id: row for row in session.scalars(select(ReservationRow))}
    known = {job.id: job for job in queue.list_jobs().jobs}
    assert set(charges) == set(known), "a reservation without a job, or a paid job without a reservation"
    with queue.database.read_session() as session:
        for job_id, charge in credits.charges_of(session, list(known)).items():
            job = known[job_id]
            ends = {"succeeded": "settled", "failed": "released", "cancelled": "released"}
            expected = "released" if job.publication == "failed" else ends.get(job.state, "held")
            assert charge.state == expected, f"job {job.state} {job.publication}, charge {charge.state}"
    assert books_differ(queue) == ()


def _finish_everything(queue, call, name):
    if name in REPEATED:
        call()
    _is_whole(queue)
    queue.advance(queue.settings.lease_s + 1)
    queue.reap()
    queue.advance(1)
    worker = queue.open_worker("after the restart")
    while (claim := queue.call(jobs.claim, worker)) is not None:
        queue.fail(claim, "user_input")
    while (order := queue.call(jobs.take_publish_order, worker)) is not None:
        queue.publish(order)
    while (claim := queue.call(jobs.claim, worker)) is not None:
        queue.fail(claim, "user_input")
    assert {job.state for job in queue.list_jobs().jobs} <= TERMINAL_STATES
    _is_whole(queue)
    assert available(queue)[1] == 0
