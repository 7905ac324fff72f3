"""Whoever waits for a job holds neither a younger one nor the ledger: nobody can wait in a circle."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from sqlalchemy import select, text

from paid_work import available, books_differ, installed, with_credits
from voxelworks import accounts, jobs
from voxelworks.credits._tables import BalanceRow
from voxelworks.errors import VoxelworksError
from voxelworks.jobs import ForeignWorker
from voxelworks.jobs._foreign_runs import lock_session
from voxelworks.jobs._tables import JobRow, WorkerSessionRow
from voxelworks.protocol.messages import NewJob, SealedResult
from voxelworks.testing.databases import postgresql_database
from voxelworks.testing.queues import Queue

MADE = SealedResult(kind="dataset", place="data:local/cortex", value={"dataset": "cortex"})
SEGMENT = {"layer": "demo/segmentation"}
LONG = 350
"""Jobs in a chain, more than Python's stack would hold if each ended within the one before."""


@pytest.fixture
def paying(postgresql_server, tmp_path):
    """A queue of paid jobs that are given up after one lost worker. SQLite has one writer, which locks everything."""
    with postgresql_database(postgresql_server) as database, installed():
        yield with_credits(Queue.over(database, tmp_path), 10**6, lost_leases_max=1)


def _assert_in_order(queue, action, *, waits_for, before=()):
    """Run an action while a job is locked: meanwhile it must hold neither the jobs `before` nor the ledger."""
    with ThreadPoolExecutor(1) as pool:
        with queue.database.session() as session:
            session.execute(select(JobRow.id).where(JobRow.id == waits_for).with_for_update()).one()
            done = pool.submit(action)
            _await_waiting(queue)
            with queue.database.session() as other:
                free = other.scalars(
                    select(JobRow.id).where(JobRow.id.in_(before)).with_for_update(skip_locked=True)
                ).all()
                ledger = other.scalars(
                    select(BalanceRow.organization_id).with_for_update(skip_locked=True)
                ).all()
        with suppress(VoxelworksError):
            done.result(30)
    assert set(free) == set(before), "it holds a younger job"
    assert ledger == ["local"], "it holds the ledger"
    assert books_differ(queue) == ()


def _await_waiting(queue):
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with queue.database.session() as session:
            if session.scalar(waiting):
                return
        time.sleep(0.02)
    raise AssertionError("it waits for nothing")


def test_a_worker_that_starts_anew_locks_the_oldest_job_first(paying):
    submitted = [paying.submit(workflow="segment").id for _ in range(8)]
    worker = paying.open_worker("w")
    for _ in submitted:
        paying.claim_and_start(worker)
    _assert_in_order(paying, lambda: paying.open_worker("w"), waits_for=submitted[0], before=submitted[1:])


def test_a_worker_that_starts_anew_locks_what_waits_before_it_returns_charges(paying):
    first, second = (paying.submit(workflow="segment").id for _ in range(2))
    third = paying.submit(workflow="segment", after=[second]).id
    worker = paying.open_worker("w")
    for _ in range(2):
        paying.claim_and_start(worker)
    _assert_in_order(paying, lambda: paying.open_worker("w"), waits_for=third)
    assert {paying.state(job_id) for job_id in (first, second)} == {"failed"}
    assert paying.state(third) == "cancelled"
    assert available(paying) == (10**6, 0)


def test_a_worker_that_starts_anew_locks_what_it_publishes_before_it_returns_charges(paying):
    published = paying.submit_convert("cortex").id
    held = paying.submit(workflow="segment").id
    worker = paying.open_worker("w")
    claims = {claim.job_id: claim for claim in (paying.claim_and_start(worker) for _ in range(2))}
    paying.succeed(claims[published], MADE)
    _assert_in_order(paying, lambda: paying.open_worker("w"), waits_for=published, before=[held])


def test_a_group_is_charged_after_all_that_it_waits_for_is_locked(paying):
    first = paying.submit(workflow="segment").id
    group = [
        NewJob(workflow="segment", params=SEGMENT),
        NewJob(workflow="segment", params=SEGMENT, after=(first,)),
    ]
    _assert_in_order(
        paying,
        lambda: paying.call(jobs.submit_group, by=paying.principal("ada"), jobs=group),
        waits_for=first,
    )
    assert paying.list_jobs().counts["queued"] == 3


def test_a_group_is_quoted_after_all_that_it_waits_for_is_locked(paying):
    first = paying.submit(workflow="segment").id
    group = [
        NewJob(workflow="segment", params=SEGMENT),
        NewJob(workflow="segment", params=SEGMENT, after=(first,)),
    ]
    free = paying.settings.model_copy(update={"monthly_free_credits": 5})
    _assert_in_order(
        paying,
        lambda: paying.call(jobs.quote_group, by=paying.principal("ada"), jobs=group, settings=free),
        waits_for=first,
    )


def test_a_group_is_cancelled_from_its_oldest_job_on(paying):
    first = paying.submit(workflow="segment", group="g").id
    between = paying.submit(workflow="segment", after=[first]).id
    last = paying.submit(workflow="segment", group="g").id
    _assert_in_order(
        paying,
        lambda: paying.call(jobs.cancel_group, "g", by=paying.principal("ada")),
        waits_for=between,
        before=[last],
    )
    assert {paying.state(job_id) for job_id in (first, between, last)} == {"cancelled"}
    assert available(paying) == (10**6, 0)


def test_the_session_of_a_foreign_worker_can_be_referred_to_while_it_is_locked(paying):
    secret, key = paying.call(accounts.create_worker_key, paying.operator, "wk")
    worker = ForeignWorker(key, secret)
    paying.call(lock_session, worker.key, "1.0")  # opens it
    with paying.database.session() as session:
        row = lock_session(session, worker.key, "1.0", paying.settings)
        with paying.database.session() as other:
            wanted = select(WorkerSessionRow.id).where(WorkerSessionRow.id == row.id)
            assert other.scalar(wanted.with_for_update(read=True, key_share=True, nowait=True)) == row.id


def test_a_long_chain_of_jobs_ends_with_its_first(queue):
    search = {"workflow": "find_largest_segment_id", "params": SEGMENT}
    chain = [
        NewJob(key=str(number), after=(str(number - 1),) if number else (), **search)
        for number in range(LONG)
    ]
    submitted = queue.call(jobs.submit_group, by=queue.principal("ada"), jobs=chain)
    queue.cancel(submitted[0].id)
    assert queue.list_jobs().counts["cancelled"] == LONG
