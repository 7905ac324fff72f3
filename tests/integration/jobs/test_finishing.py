import pytest

from voxelworks import jobs
from voxelworks.errors import IllegalTransition, LeaseLost, NotAllowed, NotFound
from voxelworks.protocol.messages import FinishAnswer, SealedResult
from voxelworks.testing.queues import LARGEST_ID

OTHER = LARGEST_ID.model_copy(update={"value": {"largest_segment_id": 8}})


@pytest.fixture
def claim(queue):
    """A running job."""
    queue.submit()
    return queue.claim_and_start(queue.open_worker())


def test_a_success_ends_attempt_and_job_together(queue, claim):
    answer = queue.finish(claim, outcome="succeeded", result=LARGEST_ID, exit_code=0, peak_memory_bytes=4096)
    assert answer == FinishAnswer(state="succeeded", publish=True)
    detail = queue.show(claim.job_id)
    assert (detail.job.state, detail.job.result, detail.job.publication) == (
        "succeeded",
        LARGEST_ID,
        "pending",
    )
    (attempt,) = detail.attempts
    assert (attempt.outcome, attempt.exit_code, attempt.peak_memory_bytes) == ("succeeded", 0, 4096)
    assert attempt.ended_ms == detail.job.ended_ms


def test_a_plain_value_needs_no_publication(queue, claim):
    answer = queue.succeed(claim, SealedResult(kind="value", value={"answer": 42}))
    assert answer == FinishAnswer(state="succeeded", publish=False)
    assert queue.show(claim.job_id).job.publication == "none"


def test_the_same_report_again_gets_the_same_answer_and_changes_nothing(queue, claim):
    first = queue.succeed(claim)
    before = queue.show(claim.job_id)
    assert [queue.succeed(claim) for _ in range(3)] == [first] * 3
    after = queue.show(claim.job_id)
    assert after.events == before.events
    assert after.attempts == before.attempts


def test_a_failure_that_is_tried_again_is_repeated_harmlessly(queue, claim):
    first = queue.fail(claim, "infrastructure")
    assert first == FinishAnswer(state="queued", publish=False)
    queue.advance(1)
    queue.claim_and_start(queue.open_worker("other"))
    assert queue.fail(claim, "infrastructure") == first
    assert queue.state(claim.job_id) == "running"


def test_another_report_after_the_end_is_refused(queue, claim):
    queue.succeed(claim)
    with pytest.raises(LeaseLost, match="has already reported another end"):
        queue.fail(claim, "program_error")
    assert queue.state(claim.job_id) == "succeeded"


def test_a_success_without_a_renewal_is_a_success(queue):
    job = queue.submit()
    assert queue.succeed(queue.claim(queue.open_worker())).state == "succeeded"
    assert queue.history(job.id) == ["queued", "claimed", "running", "succeeded"]


def test_a_success_without_a_result_is_refused(queue, claim):
    with pytest.raises(IllegalTransition, match="reports a success without a result"):
        queue.finish(claim, outcome="succeeded")
    assert queue.state(claim.job_id) == "running"


def test_what_was_sealed_is_the_result(queue, claim):
    queue.seal(claim)
    queue.finish(claim, outcome="succeeded")
    assert queue.show(claim.job_id).job.result == LARGEST_ID


def test_a_result_is_sealed_once(queue, claim):
    assert queue.seal(claim).order == "continue"
    assert queue.seal(claim).order == "continue"
    with pytest.raises(IllegalTransition, match="has sealed another result"):
        queue.seal(claim, OTHER)
    with pytest.raises(IllegalTransition, match="has sealed another result"):
        queue.succeed(claim, OTHER)


def test_a_result_outside_of_what_the_job_names_is_refused(queue, claim):
    stray = LARGEST_ID.model_copy(update={"place": "data:of-another"})
    for report in (queue.seal, queue.succeed):
        with pytest.raises(NotAllowed, match="does not name 'data:of-another'"):
            report(claim, stray)
    assert queue.state(claim.job_id) == "running"


@pytest.mark.parametrize(
    ("failure_class", "states"),
    [
        ("user_input", ["failed"]),
        ("program_error", ["failed"]),
        ("timed_out", ["failed"]),
        ("resources", ["queued", "queued", "failed"]),
        ("infrastructure", ["queued", "queued", "queued", "failed"]),
    ],
)
def test_the_class_of_a_failure_decides_whether_it_is_tried_again(queue, failure_class, states):
    job = queue.submit()
    worker = queue.open_worker()
    seen = []
    for _ in states:
        seen.append(queue.fail(queue.claim_and_start(worker), failure_class).state)
        queue.advance(1)
    assert seen == states
    view = queue.show(job.id).job
    assert (view.failure_class, view.code, view.attempt) == (failure_class, "broke", len(states))


def test_a_failed_job_tells_why(queue, claim):
    queue.fail(claim, "user_input", "b.tif is 3 x 4, a.tif 4 x 4")
    detail = queue.show(claim.job_id)
    assert detail.job.message == "b.tif is 3 x 4, a.tif 4 x 4"
    assert detail.attempts[0].message == "b.tif is 3 x 4, a.tif 4 x 4"
    assert detail.events[-1].why == "b.tif is 3 x 4, a.tif 4 x 4"


def test_a_new_attempt_forgets_the_failure_of_the_last(queue, claim):
    queue.fail(claim, "infrastructure")
    queue.advance(1)
    again = queue.claim_and_start(queue.open_worker("other"))
    assert queue.show(claim.job_id).job.message is None
    assert again.attempt == 2


def test_an_interrupted_job_goes_on_elsewhere_and_nothing_is_counted(queue, claim):
    for number in range(1, 12):
        assert queue.finish(claim, outcome="interrupted").state == "queued"
        claim = queue.claim_and_start(queue.open_worker(f"worker {number}"))
        assert claim.attempt == number + 1
    assert queue.show(claim.job_id).attempts[0].outcome == "interrupted"
    assert queue.succeed(claim).state == "succeeded"


def test_a_worker_that_stops_a_job_unasked_is_one_that_went_away(queue, claim):
    assert queue.finish(claim, outcome="cancelled").state == "queued"
    assert queue.show(claim.job_id).job.message == "the worker stopped the job without being asked to"


# Cancel


def test_a_queued_job_is_cancelled_at_once(queue):
    job = queue.submit()
    view = queue.cancel(job.id)
    assert (view.state, view.failure_class, view.message) == ("cancelled", "cancelled", "cancelled by Ada")
    assert view.ended_ms is not None


def test_a_running_job_is_cancelled_by_its_worker(queue, claim):
    assert queue.cancel(claim.job_id).state == "cancelling"
    assert queue.renew(claim).order == "cancel"
    assert queue.finish(claim, outcome="cancelled") == FinishAnswer(state="cancelled", publish=False)
    assert queue.show(claim.job_id).attempts[0].outcome == "cancelled"


def test_a_claimed_job_hears_of_its_cancel_before_it_starts(queue):
    job = queue.submit()
    claim = queue.claim(queue.open_worker())
    queue.cancel(job.id)
    assert queue.renew(claim).order == "cancel"
    assert queue.history(job.id) == ["queued", "claimed", "cancelling"]


def test_cancelling_again_changes_nothing(queue, claim):
    queue.cancel(claim.job_id)
    events = queue.show(claim.job_id).events
    assert queue.cancel(claim.job_id).state == "cancelling"
    queue.finish(claim, outcome="cancelled")
    assert queue.cancel(claim.job_id).state == "cancelled"
    assert len(queue.show(claim.job_id).events) == len(events) + 1


@pytest.mark.parametrize("end", ["succeeded", "failed"])
def test_an_ended_job_cannot_be_cancelled(queue, claim, end):
    queue.succeed(claim) if end == "succeeded" else queue.fail(claim, "user_input")
    with pytest.raises(IllegalTransition, match=f"has already {end}; there is nothing to cancel"):
        queue.cancel(claim.job_id)


def test_a_job_that_is_not_there_cannot_be_cancelled(queue):
    with pytest.raises(NotFound):
        queue.cancel("nothing")


def test_a_success_that_was_sealed_before_the_cancel_counts(queue, claim):
    assert queue.seal(claim).order == "continue"
    queue.cancel(claim.job_id)
    assert queue.renew(claim).order == "cancel"
    assert queue.succeed(claim) == FinishAnswer(state="succeeded", publish=True)
    assert queue.history(claim.job_id)[-2:] == ["cancelling", "succeeded"]


def test_a_success_that_was_sealed_after_the_cancel_does_not(queue, claim):
    queue.cancel(claim.job_id)
    assert queue.seal(claim).order == "cancel"
    assert queue.succeed(claim) == FinishAnswer(state="cancelled", publish=False)
    view = queue.show(claim.job_id).job
    assert (view.state, view.result, view.publication) == ("cancelled", None, "none")


@pytest.mark.parametrize("outcome", ["failed", "interrupted", "cancelled"])
def test_whatever_else_the_worker_says_a_cancel_that_is_pending_is_honoured(queue, claim, outcome):
    queue.cancel(claim.job_id)
    assert queue.finish(claim, outcome=outcome, failure_class="infrastructure").state == "cancelled"


def test_a_sealed_result_whose_worker_was_lost_is_made_again(queue, claim):
    queue.seal(claim)
    queue.advance(301)
    queue.reap()
    queue.advance(1)
    again = queue.claim_and_start(queue.open_worker("other"))
    assert queue.succeed(again, OTHER).state == "succeeded"
    assert queue.show(claim.job_id).job.result == OTHER


def test_the_events_tell_who_did_what(queue, claim):
    queue.cancel(claim.job_id)
    queue.finish(claim, outcome="cancelled")
    told = [
        (event.who, event.from_state, event.to_state, event.attempt)
        for event in queue.show(claim.job_id).events
    ]
    assert told == [
        ("user:ada", None, "queued", None),
        ("worker:worker", "queued", "claimed", 1),
        ("worker:worker", "claimed", "running", 1),
        ("user:ada", "running", "cancelling", 1),
        ("worker:worker", "cancelling", "cancelled", 1),
    ]


def test_events_can_be_followed(queue, claim):
    with queue.database.read_session() as session:
        first, *rest = jobs.list_events(session)
        assert jobs.list_events(session, after_id=first.id) == tuple(rest)
        assert jobs.list_events(session, job_id="other") == ()
