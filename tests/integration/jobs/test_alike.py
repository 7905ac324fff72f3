import pytest

from voxelworks import accounts, jobs
from voxelworks.errors import IllegalTransition, NotAllowed
from voxelworks.protocol.messages import SealedResult
from voxelworks.protocol.views import FailureGroup


def _fail(queue, message, failure_class="program_error"):
    """Have a job fail, on a worker of its own lest that be paused, and give its id."""
    queue.advance(1)
    job = queue.submit()
    queue.fail(queue.claim_and_start(queue.open_worker(f"of {job.id}")), failure_class, message)
    return job.id


def _counts(queue, **options):
    return [(group.message, group.count) for group in queue.call(jobs.failures, **options)]


def test_failures_are_grouped_by_what_went_wrong_whatever_they_name(queue):
    ids = [_fail(queue, f"no space on /{name}") for name in "abcdefg"]
    other = _fail(queue, "no memory for block 7")
    wrong = _fail(queue, "no space on /a", failure_class="user_input")
    ended = {job_id: queue.show(job_id).job.ended_ms for job_id in (ids[-1], other, wrong)}
    found = queue.call(jobs.failures)
    shared = {"code": "broke", "workflow": "find_largest_segment_id", "organization_count": 1}
    assert [group.model_dump(exclude={"id"}) for group in found] == [
        {
            **shared, "failure_class": "program_error", "message": "no space on /g", "count": 7,
            "last_ms": ended[ids[-1]], "job_ids": tuple(ids[:1:-1]),
        },
        {
            **shared, "failure_class": "user_input", "message": "no space on /a", "count": 1, "last_ms": ended[wrong],
            "job_ids": (wrong,),
        },
        {
            **shared, "failure_class": "program_error", "message": "no memory for block 7", "count": 1,
            "last_ms": ended[other], "job_ids": (other,),
        },
    ]  # fmt: skip
    assert len({group.id for group in found}) == 3
    assert queue.call(jobs.failed_alike, found[0].id, since_s=60) == tuple(ids[::-1])
    assert queue.call(jobs.failed_alike, "unknown", since_s=60) == ()
    assert _counts(queue, limit=1) == [("no space on /g", 7)]


def test_failures_are_those_of_the_time_that_is_asked_for(queue):
    _fail(queue, "old")
    queue.advance(100)
    _fail(queue, "new")
    assert _counts(queue, since_s=50) == [("new", 1)]
    assert _counts(queue, since_s=200) == [("new", 1), ("old", 1)]


def test_results_that_could_not_be_published_are_listed(queue):
    worker = queue.open_worker()
    job = queue.submit_convert("cortex")
    claim = queue.claim_and_start(worker)
    queue.succeed(claim, SealedResult(kind="dataset", place="data:local/cortex", value={}))
    queue.publish(claim, error="the disk of /data is gone")
    [group] = queue.call(jobs.failures)
    assert group == FailureGroup(
        id=group.id, failure_class="infrastructure", code="not-published", workflow="convert",
        message="the disk of /data is gone", count=1, organization_count=1, last_ms=queue.show(job.id).job.updated_ms,
        job_ids=(job.id,),
    )  # fmt: skip
    assert queue.call(jobs.failed_alike, group.id, since_s=60) == (job.id,)


def test_what_was_repeated_is_not_open_any_more_and_not_repeated_twice(queue):
    job_id = _fail(queue, "it broke")
    with pytest.raises(NotAllowed):
        queue.retry(job_id, is_free=True)
    again = queue.retry(job_id, by=queue.operator, is_free=True)
    assert (again.user_id, again.organization_id, again.retried_from) == ("ada", "local", job_id)
    assert _counts(queue) == []
    assert _counts(queue, with_repeated=True) == [("it broke", 1)]
    with pytest.raises(IllegalTransition, match=f"was repeated already, as job {again.id}"):
        queue.retry(job_id, by=queue.operator, is_free=True)
    queue.fail(queue.claim_and_start(queue.open_worker()), "program_error", message="it broke again")
    assert _counts(queue) == [("it broke again", 1)]


def test_free_repeats_are_in_the_audit_log(queue):
    job_id = _fail(queue, "it broke")
    again = queue.retry(job_id, by=queue.operator, is_free=True)
    [entry] = queue.call(accounts.list_audit, limit=1).entries
    assert (entry.who, entry.action, entry.subject, entry.organization_id, entry.detail) == (
        queue.operator.who, "job.repeated_free", f"job:{job_id}", "local", {"repeat": again.id},
    )  # fmt: skip
