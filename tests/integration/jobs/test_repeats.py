"""What was done, but not answered, is asked again: it has one effect (T6); workers that come back (T8, T9); logs (T18);
cancels in every state (T22)."""

import random
from itertools import pairwise

import pytest

from paid_work import PRICE, available, books_differ, installed, with_credits
from voxelworks import credits, jobs
from voxelworks.errors import LeaseLost, LogGap
from voxelworks.protocol.messages import PublishedRequest
from voxelworks.testing.rounds import rounds

SEGMENT = {"workflow": "segment"}
FAULTS = 0.2
"""Share of the calls whose answer is lost after they were committed."""


@pytest.fixture(autouse=True)
def _workflows():
    with installed():
        yield


@pytest.fixture
def dice():
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.fixture
def paying(queue):
    return with_credits(queue, 10**9)


@pytest.mark.faults("T6", "Calls are carried out, but their answers are lost")
def test_what_is_repeated_has_one_effect(paying, dice, record_property):
    operations = rounds(1000 if paying.database.engine.dialect.name == "sqlite" else 100, 5000)
    made = lost = 0

    def call(function, *arguments, **options):
        nonlocal made, lost
        made += 1
        answer = function(*arguments, **options)
        while dice.random() < FAULTS:
            lost += 1
            again = function(*arguments, **options)
            assert _plain(again) == _plain(answer), "the repeated call was answered differently"
        return answer

    worker = paying.open_worker()
    ends = {"succeeded": 0, "failed": 0, "cancelled": 0}
    while made < operations:
        job = call(paying.submit, **SEGMENT, idempotency_key=f"k{made}")
        claim = paying.claim(worker)
        assert claim.job_id == job.id
        call(paying.renew, claim)
        end = dice.choice(list(ends))
        if end == "cancelled":
            call(paying.cancel, job.id)
            call(paying.finish, claim, outcome="cancelled")
        elif end == "failed":
            call(paying.fail, claim, "user_input")
        else:
            call(paying.seal, claim)
            call(paying.succeed, claim)
            call(paying.publish, claim)
        ends[end] += 1
    assert paying.list_jobs(limit=1).counts == {state: number for state, number in ends.items() if number}
    assert available(paying) == (10**9 - ends["succeeded"] * PRICE, 0)
    assert books_differ(paying) == ()
    record_property("database", paying.database.engine.dialect.name)
    record_property("operations", made)
    record_property("answers lost", lost)
    record_property("lost", 0)
    record_property("doubled", 0)


def _plain(answer):
    """Leave out what every look changes."""
    changing = {"as_of_ms", "wait", "heard_s", "available_ms", "updated_ms", "state", "attempt", "worker"}
    return answer.model_dump(exclude=changing) if hasattr(answer, "model_dump") else answer


@pytest.mark.faults("T8", "The network of a worker is cut for longer than its lease")
def test_a_worker_that_was_cut_off_goes_on_where_nobody_took_over(paying, record_property):
    number = rounds(5, 100)
    worker = paying.open_worker()
    for _ in range(number):
        job = paying.submit(**SEGMENT)
        claim = paying.claim_and_start(worker)
        paying.advance(1.5 * paying.settings.lease_s)
        paying.reap()
        assert paying.state(job.id) == "queued"
        assert paying.renew(claim).order == "continue"
        assert paying.succeed(claim).state == "succeeded"
        assert paying.show(job.id).job.attempt == 1
    assert available(paying) == (10**9 - number * PRICE, 0)
    record_property("database", paying.database.engine.dialect.name)
    record_property("jobs", number)
    record_property("second attempts", 0)


@pytest.mark.faults("T9", "A worker is started anew under its name, again and again")
def test_a_worker_that_starts_anew_gets_its_job_back_at_once(queue, record_property):
    paying = with_credits(queue, 10**9, lost_leases_max=100, retries_infrastructure=100)
    job = paying.submit(**SEGMENT)
    earlier = None
    for attempt in range(1, 51):
        worker = paying.open_worker("gpu")
        claim = paying.claim_and_start(worker)
        assert (claim.job_id, claim.attempt) == (job.id, attempt)
        if earlier is not None:
            assert paying.renew(earlier).order == "lost"
            with pytest.raises(LeaseLost):
                paying.succeed(earlier)
        earlier = claim
    paying.succeed(claim)
    assert available(paying) == (10**9 - PRICE, 0)
    record_property("database", queue.database.engine.dialect.name)
    record_property("restarts", 50)
    record_property("times stuck", 0)


@pytest.mark.faults("T18", "Parts of a log come in any order, twice, and with gaps")
def test_a_log_is_the_same_or_refused_whatever_the_order_of_its_parts(queue, dice, record_property):
    number, size = rounds((20, 64 * 1024), (1000, 2**20))
    worker = queue.open_worker()
    refused = 0
    for _ in range(number):
        queue.submit()
        claim = queue.claim_and_start(worker)
        log = dice.randbytes(size // 2).hex().encode()
        ends = [0, *sorted(dice.randrange(1, size) for _ in range(12)), size]
        parts = [(start, log[start:end]) for start, end in pairwise(ends) if end > start]
        order = parts * 2
        dice.shuffle(order)
        received = 0
        while received < size:
            for offset, data in order:
                sent = (jobs.append_log, claim.job_id, 1, claim.token, offset, data)
                if offset <= received:
                    received = queue.call(*sent)
                    continue
                refused += 1
                with pytest.raises(LogGap) as gap:
                    queue.call(*sent)
                assert gap.value.offset == received
        chunk = queue.call(
            jobs.read_log, claim.job_id, 1, by=queue.principal("ada"), offset=0, limit=2 * size
        )
        assert chunk.text.encode() == log
        queue.fail(claim, "user_input")
    record_property("database", queue.database.engine.dialect.name)
    record_property("logs", number)
    record_property("parts refused", refused)
    record_property("logs that differ", 0)


@pytest.mark.faults("T22", "Jobs are cancelled in every state")
def test_a_cancel_in_any_state_ends_the_job_and_returns_its_charge_once(paying, record_property):
    number = rounds(5, 100)
    worker = paying.open_worker()
    for state in ("queued", "claimed", "running", "stuck", "lost", "publishing"):
        for _ in range(number):
            before = available(paying)[0]
            job = paying.submit(**SEGMENT)
            claim = None if state == "queued" else paying.claim(worker)
            if state in ("running", "stuck", "lost", "publishing"):
                paying.renew(claim)
            if state == "publishing":
                paying.seal(claim)
            paying.cancel(job.id)
            paying.cancel(job.id)
            if state == "stuck":  # its worker goes on renewing, but the job ignores every signal
                paying.advance(paying.settings.cancel_stuck_s + 1)
                paying.renew(claim)
                paying.reap()
            elif state == "lost":
                paying.advance(paying.settings.lease_s + 1)
                paying.reap()
            elif state == "publishing":
                # It was sealed before the cancel was recorded: the result counts, and is paid for.
                assert paying.succeed(claim).state == "succeeded"
                paying.call(jobs.published, job.id, 1, PublishedRequest(token=claim.token))
            elif claim is not None:
                paying.finish(claim, outcome="cancelled")
            expected = "succeeded" if state == "publishing" else "cancelled"
            assert paying.state(job.id) == expected
            assert available(paying) == (before - PRICE * (state == "publishing"), 0)
    with paying.database.read_session() as session:
        charges = credits.charges_of(session, [job.id for job in paying.list_jobs().jobs])
    assert sum(charge.state == "released" for charge in charges.values()) == 5 * number
    assert books_differ(paying) == ()
    record_property("database", paying.database.engine.dialect.name)
    record_property("jobs", 6 * number)
    record_property("lost", 0)
    record_property("doubled", 0)
