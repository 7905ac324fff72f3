"""What the attempts of an ended job have left is removed, if need be by another worker than the one that left it."""

import pytest

from voxelworks import jobs
from voxelworks.errors import LeaseLost
from voxelworks.protocol.messages import CleanedRequest, PublishedRequest


def _take(queue, worker):
    return queue.call(jobs.take_cleanup_order, worker)


def _cleaned(queue, order):
    queue.call(jobs.cleaned, order.job_id, order.attempt, CleanedRequest(token=order.token))


def _published(queue, order):
    queue.call(jobs.published, order.job_id, order.attempt, PublishedRequest(token=order.token))


@pytest.fixture
def worker(queue):
    return queue.open_worker()


def test_a_worker_that_cleans_up_itself_leaves_no_order(queue, worker):
    queue.submit()
    claim = queue.claim_and_start(worker)
    queue.succeed(claim)
    _published(queue, claim)
    _cleaned(queue, claim)
    queue.advance(queue.settings.lease_s + 1)
    assert _take(queue, worker) is None


def test_if_the_worker_dies_before_it_cleaned_up_another_one_does(queue, worker):
    job = queue.submit()
    claim = queue.claim_and_start(worker)
    queue.succeed(claim)
    _published(queue, claim)
    other = queue.open_worker("other")
    assert _take(queue, other) is None
    queue.advance(queue.settings.lease_s + 1)
    order = _take(queue, other)
    assert order.model_dump(exclude={"token"}) == {
        "job_id": job.id,
        "attempt": 1,
        "workflow": "find_largest_segment_id",
        "params": {"layer": {"dataset": "demo", "layer": "segmentation"}},
        "places": {"demo": "data:local/demo"},
        "work_key": job.id,
    }
    assert _take(queue, other) is None
    _cleaned(queue, order)
    queue.advance(queue.settings.lease_s + 1)
    assert _take(queue, other) is None


def test_an_order_whose_worker_died_is_given_again(queue, worker):
    queue.submit()
    claim = queue.claim_and_start(worker)
    queue.fail(claim, "user_input")
    first = _take(queue, worker)
    queue.advance(queue.settings.lease_s + 1)
    second = _take(queue, worker)
    assert second.job_id == first.job_id
    with pytest.raises(LeaseLost):
        _cleaned(queue, first)
    _cleaned(queue, second)


def test_nothing_is_removed_before_the_result_is_published(queue, worker):
    queue.submit()
    claim = queue.claim_and_start(worker)
    queue.succeed(claim)
    queue.advance(queue.settings.lease_s + 1)
    assert _take(queue, worker) is None
    order = queue.call(jobs.take_publish_order, worker)
    _published(queue, order)
    assert _take(queue, worker).job_id == claim.job_id


def test_a_job_that_is_cancelled_between_two_attempts_is_cleaned_up(queue, worker):
    job = queue.submit()
    claim = queue.claim_and_start(worker)
    queue.finish(claim, outcome="interrupted")
    queue.cancel(job.id)
    assert _take(queue, worker).attempt == 1


def test_a_job_that_never_ran_leaves_nothing(queue, worker):
    queue.cancel(queue.submit().id)
    assert _take(queue, worker) is None


def test_only_a_worker_that_knows_the_workflow_is_asked(queue, worker):
    queue.submit()
    queue.fail(queue.claim_and_start(worker), "user_input")
    assert _take(queue, queue.open_worker("other", convert=1)) is None
    assert _take(queue, worker) is not None
