"""Two things happen at once: exactly one of them counts (T1, T10)."""

from collections import Counter

import pytest
from sqlalchemy import select

from paid_work import books_differ, installed, with_credits
from voxelworks import credits, jobs
from voxelworks.errors import IllegalTransition, LeaseLost
from voxelworks.notify._tables import OutboxRow
from voxelworks.protocol.messages import PublishedRequest
from voxelworks.protocol.views import TERMINAL_STATES
from voxelworks.testing.queues import at_once
from voxelworks.testing.rounds import rounds

ROUNDS = rounds(10, 500)


@pytest.mark.faults("T1", "200 jobs are claimed by 20 threads at once")
def test_no_job_is_given_away_twice(queue, record_property):
    round_count = rounds(1, 10)
    for _ in range(round_count):
        with queue.database.session() as session:
            params = {"layer": "demo/segmentation"}
            submitted = {
                jobs.submit(
                    session,
                    by=queue.principal("ada"),
                    workflow="find_largest_segment_id",
                    params=params,
                    places=queue.places,
                    settings=queue.settings,
                ).id
                for _ in range(200)
            }
        workers = [queue.open_worker(f"worker {number}") for number in range(20)]
        taken = at_once([lambda worker=worker: _claim_all(queue, worker) for worker in workers])
        claims = [claim for claims in taken for claim in claims]
        assert Counter(claim.job_id for claim in claims) == dict.fromkeys(submitted, 1)
        assert {claim.attempt for claim in claims} == {1}
        assert len({claim.token for claim in claims}) == 200
        for claim in claims:
            queue.fail(claim, "user_input")
    record_property("database", queue.database.engine.dialect.name)
    record_property("claims", 200 * round_count)
    record_property("claimed twice", 0)


def _claim_all(queue, worker):
    claims = []
    while (claim := queue.call(jobs.claim, worker)) is not None:
        claims.append(claim)
    return claims


@pytest.fixture
def queue(queue):
    """A queue of paid jobs. In the end each that has ended has one posting, and at most one mail."""
    with installed():
        paying = with_credits(queue, 10**9)
        yield paying
        page = paying.list_jobs(limit=10_000)
        assert page.next_after is None, "there are jobs that were not looked at"
        ended = {job.id: job.state for job in page.jobs if job.is_ended}
        with paying.database.read_session() as session:
            charges = credits.charges_of(session, list(ended))
            mails = Counter(session.scalars(select(OutboxRow.job_id)))
        for job_id, charge in charges.items():
            assert charge.state == ("settled" if ended[job_id] == "succeeded" else "released")
        assert all(number == 1 for number in mails.values())
        assert {job_id for job_id, state in ended.items() if state != "cancelled"} == set(mails)
        assert books_differ(paying) == ()


@pytest.fixture
def running(queue):
    """A function that gives a new running job."""
    worker = queue.open_worker()

    def start():
        queue.submit(workflow="segment")
        return queue.claim_and_start(worker)

    return start


def _ends(queue, job_id):
    """Count the terminal states that a job went through."""
    return sum(state in TERMINAL_STATES for state in queue.history(job_id))


@pytest.mark.faults("T10", "A success meets a cancel")
def test_success_against_cancel(queue, running):
    for _ in range(ROUNDS):
        claim = running()
        finished, cancelled = at_once([lambda: queue.succeed(claim), lambda: queue.cancel(claim.job_id)])  # noqa: B023 - used at once
        state = queue.state(claim.job_id)
        assert finished.state == state
        assert state in ("succeeded", "cancelled")
        assert isinstance(cancelled, IllegalTransition) == (state == "succeeded")
        assert _ends(queue, claim.job_id) == 1


@pytest.mark.faults("T10", "A failure meets the reaper")
def test_failure_against_reaper(queue, running):
    for _ in range(ROUNDS):
        claim = running()
        queue.advance(queue.settings.lease_s + 1)
        reported, reaped = at_once([lambda: queue.fail(claim, "user_input"), queue.reap])  # noqa: B023 - used at once
        # The report counts, early or late: nobody else has claimed the job.
        assert not isinstance(reported, Exception), repr(reported)
        assert reported.state == "failed"
        assert reaped in (0, 1)
        assert queue.history(claim.job_id).count("queued") == 1 + reaped
        assert _ends(queue, claim.job_id) == 1


@pytest.mark.faults("T10", "A cancel meets a cancel")
def test_cancel_against_cancel(queue, running):
    for _ in range(ROUNDS):
        claim = running()
        views = at_once([lambda: queue.cancel(claim.job_id)] * 4)  # noqa: B023 - used at once
        assert [view.state for view in views] == ["cancelling"] * 4
        queue.finish(claim, outcome="cancelled")
        assert queue.history(claim.job_id) == ["queued", "claimed", "running", "cancelling", "cancelled"]


@pytest.mark.faults("T10", "Two reapers meet")
def test_reaper_against_reaper(queue, running):
    for _ in range(ROUNDS):
        claims = [running() for _ in range(3)]
        queue.advance(queue.settings.lease_s + 1)
        assert sum(at_once([queue.reap, queue.reap])) == 3
        for claim in claims:
            assert queue.history(claim.job_id) == ["queued", "claimed", "running", "queued"]
            queue.cancel(claim.job_id)


def test_reports_of_one_end_at_once(queue, running):
    for _ in range(ROUNDS):
        claim = running()
        answers = at_once([lambda: queue.succeed(claim)] * 5)  # noqa: B023 - used at once
        assert len(set(answers)) == 1
        assert queue.history(claim.job_id) == ["queued", "claimed", "running", "succeeded"]


def test_different_reports_at_once(queue, running):
    for _ in range(ROUNDS):
        claim = running()
        answers = at_once([lambda: queue.succeed(claim), lambda: queue.fail(claim, "user_input")])  # noqa: B023 - used at once
        assert sum(isinstance(answer, LeaseLost) for answer in answers) == 1
        assert _ends(queue, claim.job_id) == 1


def test_a_lost_worker_against_the_next(queue, running):
    for _ in range(ROUNDS):
        old = running()
        queue.advance(queue.settings.lease_s + 1)
        queue.reap()
        queue.advance(1)
        other = queue.open_worker("other")
        renewed, claimed = at_once([lambda: queue.renew(old), lambda: queue.call(jobs.claim, other)])  # noqa: B023 - used at once
        assert (renewed.order == "continue") == (claimed is None)
        assert queue.show(old.job_id).job.attempt == (1 if claimed is None else 2)
        queue.cancel(old.job_id)


def test_publish_orders_at_once(queue, running):
    workers = [queue.open_worker(f"worker {number}") for number in range(4)]
    for _ in range(ROUNDS):
        claim = running()
        queue.succeed(claim)
        queue.advance(queue.settings.lease_s + 1)
        orders = at_once(
            [lambda worker=worker: queue.call(jobs.take_publish_order, worker) for worker in workers]
        )
        (order,) = [order for order in orders if order is not None]
        assert order.job_id == claim.job_id
        queue.call(jobs.published, order.job_id, order.attempt, PublishedRequest(token=order.token))
