"""Who sees and steers which jobs: what belongs to others is not there."""

from dataclasses import replace

import pytest

from voxelworks import catalog, jobs
from voxelworks.accounts._tables import MembershipRow
from voxelworks.errors import DatasetNotFound, IllegalTransition, LeaseLost, NotAllowed, NotFound
from voxelworks.protocol.messages import PublishedRequest, SealedResult
from voxelworks.protocol.people import WorkerKeyView
from voxelworks.protocol.places import dataset_place
from voxelworks.testing.queues import DEMO

READERS = {"ada": {"ada", "ben"}, "ben": {"ben"}, "cleo": {"eve"}, "eve": {"eve"}, "dan": set()}


@pytest.fixture
def owned(queue):
    """A function that gives the jobs of the people, by name."""
    queue.call(
        catalog.register, organization_id="other", user_id="eve", name="demo", place="data:other/demo", summary=DEMO
    )  # fmt: skip
    return {name: queue.submit(by=queue.principal(name)).id for name in ("ada", "ben", "eve")}


@pytest.mark.parametrize("reader", READERS)
def test_members_see_their_own_jobs_and_admins_those_of_their_organization(queue, owned, reader):
    by = queue.principal(reader)
    seen = {job.user_id for job in queue.list_jobs(by=by).jobs}
    assert seen == READERS[reader]
    for name, job_id in owned.items():
        if name in READERS[reader]:
            assert queue.call(jobs.show, job_id, by=by).job.user_id == name
        else:
            for function in (jobs.show, jobs.cancel, jobs.retry):
                with pytest.raises(NotFound):
                    queue.call(function, job_id, by=by)
            with pytest.raises(NotFound):
                queue.call(jobs.read_log, job_id, 1, by=by)


def test_operators_see_everything(queue, owned):
    assert {job.user_id for job in queue.list_jobs().jobs} == set(owned)
    assert {job.user_id for job in queue.list_jobs(organization_id="other").jobs} == {"eve"}


def test_everybody_can_look_at_their_own_jobs_alone(queue, owned):
    assert {job.user_id for job in queue.list_jobs(by=queue.principal("ada"), everybody=False).jobs} == {
        "ada"
    }


def test_counts_are_of_the_jobs_that_are_seen(queue, owned):
    assert queue.list_jobs(by=queue.principal("ben")).counts == {"queued": 1}


def test_admins_cancel_jobs_of_their_members(queue, owned):
    assert queue.call(jobs.cancel, owned["ben"], by=queue.principal("ada")).state == "cancelled"
    assert queue.show(owned["ben"]).events[-1].who == "user:ada"


def _failed(queue, job_id):
    """Have a worker take all jobs, and fail one."""
    worker = queue.open_worker()
    claims = [queue.claim_and_start(worker) for _ in range(3)]
    [claim] = [claim for claim in claims if claim.job_id == job_id]
    queue.fail(claim, "user_input")
    return job_id


def _leave(queue, user_id, organization_id):
    with queue.database.session() as session:
        session.delete(session.get(MembershipRow, (user_id, organization_id)))


@pytest.mark.parametrize("by", ["ben", "ada", "the operator"])
def test_a_repeat_stays_with_its_owner_whoever_asks(queue, owned, by):
    who = queue.operator if by == "the operator" else queue.principal(by)
    again = queue.retry(_failed(queue, owned["ben"]), by=who)
    assert (again.user_id, again.organization_id, again.retried_from) == ("ben", "local", owned["ben"])
    [submitted] = queue.show(again.id).events
    assert (submitted.who, submitted.why) == (
        f"user:{who.user_id}",
        f"submitted to repeat job {owned['ben']}",
    )
    assert queue.call(jobs.show, again.id, by=queue.principal("ben")).job.id == again.id


def test_an_operator_repeats_a_job_of_another_organization_on_the_data_of_that(queue, owned):
    again = queue.retry(_failed(queue, owned["eve"]), by=queue.operator)
    assert (again.user_id, again.organization_id) == ("eve", "other")
    assert queue.claim(queue.open_worker("second")).places == {"demo": "data:other/demo"}


def test_a_job_of_somebody_who_left_is_repeated_for_the_member_who_asks(queue, owned):
    for name in ("ben", "eve"):
        queue.call(jobs.cancel, owned[name], by=queue.operator)
    _leave(queue, "ben", "local")
    _leave(queue, "eve", "other")
    assert queue.retry(owned["ben"]).user_id == "ada"
    with pytest.raises(IllegalTransition, match="is no member of 'other' any more; let a member repeat it"):
        queue.retry(owned["eve"], by=queue.operator)
    again = queue.retry(owned["eve"], by=queue.principal("cleo"))
    assert (again.user_id, again.organization_id) == ("cleo", "other")


def test_a_token_that_may_only_read_cannot_cancel(queue, owned):
    reader = replace(queue.principal("ada"), scopes=frozenset({"read"}))
    with pytest.raises(NotAllowed):
        queue.call(jobs.cancel, owned["ada"], by=reader)
    with pytest.raises(NotAllowed):
        queue.submit(by=reader)


def test_the_token_of_an_operator_sees_all_organizations_only_if_it_may_operate(queue, owned):
    for scopes, seen in ({"read"}, {"ada", "ben"}), ({"manage"}, {"ada", "ben"}), ({"admin"}, set(owned)):
        by = replace(queue.operator, entrance="token", scopes=frozenset(scopes))
        assert {job.user_id for job in queue.list_jobs(by=by).jobs} == seen


@pytest.mark.parametrize("which", ["layer", "truth"])
def test_a_second_dataset_of_a_job_must_be_readable_too(queue, which):
    theirs = queue.call(
        catalog.register, organization_id="other", user_id="eve", name="secret", place="data:other/secret", summary=DEMO
    )  # fmt: skip
    params = {"layer": "demo/segmentation", "truth": "demo/segmentation", which: f"{theirs.id}/segmentation"}
    with pytest.raises(DatasetNotFound):
        queue.submit(workflow="evaluate_segmentation", params=params)
    twin = queue.call(
        catalog.register, organization_id="local", user_id="ada", name="twin", place="data:local/twin", summary=DEMO
    )  # fmt: skip
    job = queue.submit(workflow="evaluate_segmentation", params=params | {which: f"{twin.id}/segmentation"})
    assert queue.claim(queue.open_worker()).job_id == job.id


def test_a_dataset_of_another_organization_is_not_there(queue):
    with pytest.raises(DatasetNotFound):
        queue.submit(by=queue.principal("eve"))


def test_names_are_those_of_the_organization(queue):
    (queue.settings.home / "scope" / "raw").mkdir(exist_ok=True)
    ours, theirs = queue.submit_convert("cortex"), queue.submit_convert("cortex", by=queue.principal("eve"))
    places = [queue.call(jobs.show, job.id, by=queue.operator).job.params["target"] for job in (ours, theirs)]
    assert places == ["cortex", "cortex"]
    worker = queue.open_worker()
    assert {queue.claim(worker).places["cortex"] for _ in range(2)} == {
        dataset_place("local", "cortex"),
        dataset_place("other", "cortex"),
    }


def _key(organization_id, *commands, key_id="k1"):
    return WorkerKeyView(
        id=key_id, name="gpu", hint="vxw_", organization_id=organization_id, commands=commands, high_slots=1,
        low_slots=1, created_ms=0, created_by="user:local", used_ms=None, revoked_ms=None,
    )  # fmt: skip


def test_a_worker_of_one_organization_gets_no_job_of_another(queue, owned):
    worker = queue.open_worker_with(key=_key("other"))
    assert queue.claim(worker).job_id == owned["eve"]
    assert queue.call(jobs.claim, worker) is None


@pytest.mark.parametrize("take", [jobs.claim, jobs.take_publish_order, jobs.take_cleanup_order])
def test_a_key_speaks_for_no_session_of_another_key(queue, owned, take):
    ours, theirs = _key(None), _key("other", key_id="k2")
    worker = queue.open_worker_with(key=ours)
    with pytest.raises(LeaseLost):
        queue.call(take, worker, key=theirs)
    queue.call(take, worker, key=ours)


def test_a_worker_of_one_organization_neither_publishes_nor_removes_for_another(queue, owned):
    gone = queue.open_worker("gone")
    claim = next(
        claim for claim in (queue.claim_and_start(gone) for _ in owned) if claim.job_id == owned["ada"]
    )
    assert queue.succeed(claim).publish
    queue.advance(queue.settings.lease_s + 1)
    theirs = queue.open_worker_with("theirs", key=_key("other"))
    ours = queue.open_worker_with("ours", key=_key("local"))
    assert queue.call(jobs.take_publish_order, theirs) is None
    order = queue.call(jobs.take_publish_order, ours)
    assert order.job_id == owned["ada"]
    request = PublishedRequest(token=order.token)
    queue.call(jobs.published, order.job_id, order.attempt, request)
    assert queue.call(jobs.take_cleanup_order, theirs) is None
    assert queue.call(jobs.take_cleanup_order, ours).job_id == owned["ada"]


def test_no_result_lies_in_an_import_root(queue):
    queue.submit_convert("cortex")
    claim = queue.claim_and_start(queue.open_worker())
    stolen = SealedResult(kind="dataset", place="root:scope/raw", value={})
    with pytest.raises(NotAllowed, match="its result cannot be there"):
        queue.seal(claim, stolen)
    with pytest.raises(NotAllowed, match="its result cannot be there"):
        queue.succeed(claim, stolen)


def test_a_worker_gets_only_what_its_key_allows(queue, owned):
    assert queue.call(jobs.claim, queue.open_worker_with(key=_key(None, "convert"))) is None


def test_nobody_takes_the_name_of_a_worker_of_another_organization(queue, owned):
    ours = queue.open_worker("gpu")
    held = queue.claim(ours)
    with pytest.raises(NotAllowed, match="works for another organization"):
        queue.open_worker_with("gpu", key=_key("other"))
    assert queue.renew(held).order == "continue"


def test_a_job_of_somebody_who_left_does_not_run(queue, owned):
    _leave(queue, "ben", "local")
    worker = queue.open_worker()
    claimed = {queue.claim(worker).job_id for _ in range(2)}
    assert claimed == {owned["ada"], owned["eve"]}
    assert queue.call(jobs.claim, worker) is None
    view = queue.show(owned["ben"]).job
    assert (view.state, view.failure_class) == ("failed", "user_input")
    assert view.message == "whoever submitted it is no member of 'local' any more"


def test_a_job_whose_dataset_was_deleted_meanwhile_does_not_run(queue, owned):
    with queue.database.session() as session:
        demo = catalog.find_by_place(session, "data:local/demo")
        catalog.trash(session, demo.id, by=queue.principal("ada"), settings=queue.settings)
    assert queue.claim(queue.open_worker()).job_id == owned["eve"]
    assert queue.call(jobs.claim, queue.open_worker("second")) is None
    assert queue.show(owned["ada"]).job.code == "dataset-not-found"
