"""Jobs that wait for others and take what these made, and jobs that are submitted as one."""

from dataclasses import replace

import pytest

from paid_work import PRICE, available, books_differ, installed, with_credits
from voxelworks import catalog, jobs
from voxelworks.errors import InvalidInput, InvalidParams, NotAllowed, NotFound
from voxelworks.protocol.messages import NewJob, SealedResult
from voxelworks.testing.queues import DEMO, at_once
from voxelworks.testing.rounds import rounds

CORTEX = SealedResult(kind="dataset", place="data:local/cortex", value={"dataset": "cortex"})
NUMBER = SealedResult(kind="value", value={"number": 7})
CONVERT = {"layers": [{"source": "root:scope/raw"}], "target": "cortex"}


@pytest.fixture(autouse=True)
def _workflows():
    with installed():
        yield


def _publish(queue, claim, summary=DEMO):
    """Publish a dataset whose metadata say what `summary` does."""
    queue.publish(claim)
    if summary is not None:
        _register(queue, summary)


def _register(queue, summary):
    queue.call(
        catalog.register, organization_id="local", user_id="ada", name="cortex", place=CORTEX.place, summary=summary
    )  # fmt: skip


def _wait(queue, job_id):
    wait = queue.show(job_id).job.wait
    return wait.code, wait.reason


def test_a_job_waits_until_another_is_published(queue):
    first = queue.submit()
    second = queue.submit(after=[first.id])
    assert second.after == (first.id,)
    assert (second.wait.code, second.wait.reason) == ("after", f"it waits for job {first.id}")
    worker = queue.open_worker()
    claim = queue.claim_and_start(worker)
    assert queue.call(jobs.claim, worker) is None
    queue.succeed(claim)
    assert queue.call(jobs.claim, worker) is None, "nobody can see the result yet"
    queue.publish(claim)
    assert queue.claim(worker).job_id == second.id
    assert queue.show(second.id).events[1].why == "what it waited for is there"


def test_room_for_what_is_made_of_another_jobs_dataset_is_looked_for_once_that_is_there(queue):
    first = queue.submit_convert("cortex")
    params = {"layer": f"job:{first.id}/segmentation"}
    second, third = (queue.submit(workflow="downsample", params=params) for _ in range(2))
    worker = queue.open_worker()
    claim = queue.claim_and_start(worker)
    queue.succeed(claim, CORTEX)
    _register(queue, DEMO)
    queue.publish(claim)
    assert queue.claim(worker).job_id == second.id
    # A pyramid of the layer takes 64 ** 3 voxels of four bytes / 7 = 146 KiB.
    full = replace(queue, settings=queue.settings.model_copy(update={"storage_bytes_max": 100 * 2**10}))
    assert full.call(jobs.claim, worker) is None
    job = full.show(third.id).job
    assert (job.state, job.failure_class, job.code) == ("failed", "user_input", "quota-exceeded")
    assert job.message == (
        "146 KiB are needed, and the organization has 100 KiB of 100 KiB left; delete datasets and empty the "
        "trash, or ask the operator for more room"
    )


def test_a_job_whose_layer_is_gone_can_be_claimed_under_a_quota(queue):
    first = queue.submit_convert("cortex")
    second = queue.submit(workflow="downsample", params={"layer": f"job:{first.id}/segmentation"})
    worker = queue.open_worker()
    claim = queue.claim_and_start(worker)
    queue.succeed(claim, CORTEX)
    _register(queue, DEMO)
    queue.publish(claim)
    _register(queue, DEMO.model_copy(update={"layers": ()}))
    limited = replace(queue, settings=queue.settings.model_copy(update={"storage_bytes_max": 2**20}))
    assert limited.claim(worker).job_id == second.id


def test_a_job_waits_for_all_that_it_names(queue):
    first, second = queue.submit(), queue.submit()
    last = queue.submit(after=[second.id, first.id])
    assert last.after == (second.id, first.id)
    worker = queue.open_worker()
    for job in (first, second):
        assert _wait(queue, last.id)[0] == "after"
        claim = queue.claim_and_start(worker)
        assert claim.job_id == job.id
        queue.succeed(claim, NUMBER)
    assert queue.claim(worker).job_id == last.id


def test_a_job_that_waits_for_what_is_there_does_not_wait(queue):
    first = queue.submit()
    queue.succeed(queue.claim_and_start(queue.open_worker()), NUMBER)
    assert queue.submit(after=[first.id]).wait.code == "next"


def test_a_job_takes_the_dataset_that_another_made(queue):
    first = queue.submit_convert("cortex")
    second = queue.submit(params={"layer": f"job:{first.id}/segmentation"})
    assert second.after == (first.id,)
    worker = queue.open_worker()
    claim = queue.claim_and_start(worker)
    queue.succeed(claim, CORTEX)
    # The dataset is registered by the publication itself; here its metadata are not there to be read.
    _register(queue, DEMO)
    queue.publish(claim)
    taken = queue.claim(worker)
    assert taken.job_id == second.id
    assert taken.params == {"layer": {"dataset": "cortex", "layer": "segmentation"}}
    assert taken.places == {"cortex": "data:local/cortex"}


def test_a_dataset_that_is_not_what_the_waiting_job_needs_fails_it(queue):
    paying = with_credits(queue, 10_000)
    first = paying.submit_convert("cortex")
    second = paying.submit(workflow="segment", params={"layer": f"job:{first.id}/color"})
    claim = paying.claim_and_start(paying.open_worker())
    paying.succeed(claim, CORTEX)
    paying.publish(claim)
    view = paying.show(second.id).job
    assert (view.state, view.failure_class, view.code) == ("failed", "user_input", "layer-not-found")
    assert view.message.startswith(f"it waited for job {first.id}, but dataset 'cortex' has no layer 'color'")
    assert available(paying) == (10_000, 0)


@pytest.mark.parametrize("end", ["cancel", "fail", "not published"])
def test_a_job_ends_with_the_one_that_it_waits_for(queue, end):
    paying = with_credits(queue, 10_000)
    first = paying.submit_convert("cortex")
    second = paying.submit(workflow="segment", after=[first.id])
    third = paying.submit(workflow="segment", after=[second.id])
    assert available(paying)[1] == 2 * PRICE
    if end == "cancel":
        paying.cancel(first.id)
        how = "was cancelled"
    else:
        claim = paying.claim_and_start(paying.open_worker())
        if end == "fail":
            paying.fail(claim, "user_input")
            how = "failed"
        else:
            paying.succeed(claim, CORTEX)
            paying.publish(claim, error="the folder exists")
            how = "made a result that cannot be published"
    view = paying.show(second.id).job
    assert (view.state, view.message) == ("cancelled", f"it waited for job {first.id}, which {how}")
    assert paying.show(third.id).job.message == f"it waited for job {second.id}, which was cancelled"
    assert available(paying) == (10_000, 0)
    assert books_differ(paying) == ()


def test_a_job_cannot_wait_for_one_that_has_no_result(queue):
    first = queue.submit()
    queue.cancel(first.id)
    with pytest.raises(InvalidInput, match="is cancelled and will have no result to wait for"):
        queue.submit(after=[first.id])
    with pytest.raises(NotFound, match="there is no job 'nothing' to wait for"):
        queue.submit(after=["nothing"])


def test_a_repeat_waits_for_the_repeats_of_what_its_job_waited_for(queue):
    first = queue.submit_convert("cortex")
    second = queue.submit(params={"layer": f"job:{first.id}/segmentation"})
    third = queue.submit(after=[second.id], group="night")
    queue.cancel(first.id)
    with pytest.raises(InvalidInput, match=f"job {first.id} is cancelled .* repeat it first"):
        queue.retry(second.id)
    firsts = [queue.retry(first.id)]
    queue.cancel(firsts[0].id)
    firsts.append(queue.retry(firsts[0].id))
    again = queue.retry(second.id)
    assert again.after == (firsts[-1].id,)
    assert again.params["layer"] == {"dataset": f"job:{firsts[-1].id}", "layer": "segmentation"}
    last = queue.retry(third.id)
    assert (last.after, last.group, last.state) == ((again.id,), "night", "queued")
    worker = queue.open_worker()
    claim = queue.claim_and_start(worker)
    assert claim.job_id == firsts[-1].id
    queue.succeed(claim, CORTEX)
    _register(queue, DEMO)
    queue.publish(claim)
    claim = queue.claim_and_start(worker)
    assert (claim.job_id, claim.params["layer"]["dataset"]) == (again.id, "cortex")
    assert _wait(queue, last.id) == ("after", f"it waits for job {again.id}")


def test_a_repeat_does_not_wait_for_what_is_there(queue):
    first = queue.submit()
    second = queue.submit(after=[first.id])
    worker = queue.open_worker()
    claim = queue.claim_and_start(worker)
    queue.succeed(claim)
    queue.publish(claim)
    queue.cancel(second.id)
    again = queue.retry(second.id)
    assert again.after == (first.id,)
    assert queue.claim(worker).job_id == again.id


def test_a_job_cannot_wait_for_one_of_another_organization(queue):
    queue.call(
        catalog.register, organization_id="other", user_id="eve", name="demo", place="data:other/demo", summary=DEMO
    )  # fmt: skip
    theirs = queue.submit(by=queue.principal("eve"))
    for by in (queue.principal("ada"), queue.operator):
        with pytest.raises(NotFound):
            queue.submit(after=[theirs.id], by=by)


def test_a_waiting_job_can_be_cancelled_alone(queue):
    first = queue.submit()
    second = queue.submit(after=[first.id])
    queue.cancel(second.id)
    claim = queue.claim_and_start(queue.open_worker())
    queue.succeed(claim, NUMBER)
    assert queue.state(second.id) == "cancelled"


def test_the_end_of_a_job_against_the_cancel_of_one_that_waits(queue):
    paying = with_credits(queue)
    worker = paying.open_worker()
    for _ in range(rounds(10, 200)):
        first = paying.submit(workflow="segment")
        second = paying.submit(workflow="segment", after=[first.id])
        claim = paying.claim_and_start(worker)
        ended = at_once(
            [
                lambda claim=claim: paying.fail(claim, "user_input"),
                lambda job=second: paying.cancel(job.id),
                lambda job=first: paying.cancel(job.id),
            ]
        )
        assert not any(isinstance(error, AssertionError) for error in ended)
        if paying.state(first.id) == "cancelling":
            paying.finish(claim, outcome="cancelled")
        assert paying.state(first.id) in ("failed", "cancelled")
        assert paying.state(second.id) == "cancelled"
        assert paying.history(second.id) == ["queued", "cancelled"]
    assert available(paying) == (1_000_000, 0)


# Groups


def _group(*extra):
    return [
        NewJob(key="convert", workflow="convert", params=CONVERT),
        NewJob(
            key="search", workflow="find_largest_segment_id", params={"layer": "job:convert/segmentation"}
        ),
        *extra,
    ]


def _submit(queue, group, **options):
    return queue.call(jobs.submit_group, by=queue.principal("ada"), jobs=group, **options)


def test_jobs_of_a_group_name_each_other_by_their_keys(queue):
    convert, search = _submit(queue, _group())
    assert search.after == (convert.id,)
    assert convert.group == search.group is not None
    assert search.params["layer"]["dataset"] == f"job:{convert.id}"
    assert {job.id for job in queue.list_jobs(group=convert.group).jobs} == {convert.id, search.id}


def test_a_group_is_submitted_whole_or_not_at_all(queue):
    broken = NewJob(workflow="find_largest_segment_id", params={"layer": "nothing/segmentation"})
    with pytest.raises(InvalidInput):
        _submit(queue, _group(broken))
    assert queue.list_jobs().jobs == ()


def test_each_job_of_a_group_has_its_priority(queue):
    group = [job.model_copy(update={"priority": -number}) for number, job in enumerate(_group())]
    assert [job.priority for job in _submit(queue, group)] == [0, -1]
    raised = [group[0], group[1].model_copy(update={"priority": 1})]
    with pytest.raises(NotAllowed):
        queue.call(jobs.submit_group, by=queue.principal("ben"), jobs=raised)
    assert len(queue.list_jobs().jobs) == 2, "nothing of it was submitted"


def test_a_group_is_cancelled_as_one(queue):
    group = _submit(
        queue, _group(NewJob(workflow="find_largest_segment_id", params={"layer": "demo/segmentation"}))
    )
    claims = [queue.claim_and_start(queue.open_worker()) for _ in range(1)]
    queue.call(jobs.cancel_group, group[0].group, by=queue.principal("ada"))
    states = {job.id: job.state for job in queue.list_jobs().jobs}
    assert states.pop(claims[0].job_id) == "cancelling"
    queue.finish(claims[0], outcome="cancelled")
    assert {queue.state(job.id) for job in group} == {"cancelled"}
    again = queue.call(jobs.cancel_group, group[0].group, by=queue.principal("ada"))
    assert [job.state for job in again] == ["cancelled"] * 3


def test_a_group_of_somebody_else_is_not_there(queue):
    group = _submit(queue, _group())[0].group
    for name in ("ben", "eve"):
        with pytest.raises(NotFound):
            queue.call(jobs.cancel_group, group, by=queue.principal(name))
    with pytest.raises(NotAllowed):
        queue.call(jobs.cancel_group, group, by=replace(queue.principal("ada"), scopes=frozenset({"read"})))


def test_a_group_of_the_same_name_elsewhere_is_left_alone(queue):
    queue.call(
        catalog.register, organization_id="other", user_id="eve", name="demo", place="data:other/demo", summary=DEMO
    )  # fmt: skip
    ours = queue.submit(group="g").id
    theirs = queue.submit(group="g", by=queue.principal("eve")).id
    queue.call(jobs.cancel_group, "g", by=queue.operator)
    assert (queue.state(ours), queue.state(theirs)) == ("cancelled", "queued")
    stranger = replace(queue.operator, organization_id="third")
    with pytest.raises(InvalidInput, match="several organizations have a group 'g'"):
        queue.call(jobs.cancel_group, "g", by=stranger)


def test_the_same_key_gives_the_same_group(queue):
    first = _submit(queue, _group(), idempotency_key="k1")
    queue.cancel(first[0].id)
    assert queue.retry(first[0].id).group == first[0].group
    assert [job.id for job in _submit(queue, _group(), idempotency_key="k1")] == [job.id for job in first]
    with pytest.raises(InvalidInput, match="was used for another job"):
        _submit(queue, _group()[:1], idempotency_key="k1")


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ([], "a group of 0 jobs cannot be submitted"),
        (_group()[::-1], "job 1 of the group waits for convert, which does not come before it"),
        (
            [NewJob(key="a", workflow="convert", params=CONVERT, after=("a",))],
            "job 1 of the group waits for a, which does not come before it",
        ),
        ([_group()[0]] * 2, "two jobs of the group have the same key"),
    ],
)
def test_a_group_that_cannot_be_is_refused(queue, group, message):
    with pytest.raises(InvalidInput, match=message):
        _submit(queue, group)


def test_params_of_a_group_are_checked_like_others(queue):
    with pytest.raises(InvalidParams):
        _submit(queue, [NewJob(workflow="convert", params={})])
