import dataclasses
from weakref import WeakKeyDictionary

import pytest
from sqlalchemy import select

from voxelworks import catalog, jobs
from voxelworks.errors import InvalidInput, NotFound
from voxelworks.jobs import _totals
from voxelworks.jobs._tables import AttemptRow, JobRow
from voxelworks.protocol.messages import Progress
from voxelworks.protocol.views import EtaView, WaitView


def _list(queue, **filters):
    with queue.database.read_session() as session:
        return jobs.list_jobs(session, by=queue.operator, settings=queue.settings, **filters)


def _submit_many(queue, count):
    """Submit jobs one second apart, and give their ids, newest first."""
    ids = []
    for _ in range(count):
        queue.advance(1)
        ids.append(queue.submit().id)
    return ids[::-1]


def test_jobs_are_listed_newest_first_in_pages(queue):
    ids = _submit_many(queue, 5)
    first = _list(queue, limit=2)
    second = _list(queue, limit=2, after=first.next_after)
    third = _list(queue, limit=2, after=second.next_after)
    pages = [[job.id for job in page.jobs] for page in (first, second, third)]
    assert pages == [ids[:2], ids[2:4], ids[4:]]
    assert third.next_after is None


def test_a_page_that_is_just_full_is_the_last(queue):
    _submit_many(queue, 2)
    assert _list(queue, limit=2).next_after is None


def test_pages_stay_whole_while_jobs_come_in(queue):
    ids = _submit_many(queue, 4)
    first = _list(queue, limit=2)
    queue.submit()
    queue.submit()
    assert [job.id for job in _list(queue, limit=2, after=first.next_after).jobs] == ids[2:]


def test_jobs_of_one_millisecond_are_listed_once_each(queue):
    with queue.database.session() as session:
        for _ in range(20):
            params = {"layer": "demo/segmentation"}
            jobs.submit(
                session,
                by=queue.principal("ada"),
                workflow="find_largest_segment_id",
                params=params,
                places=queue.places,
                settings=queue.settings,
            )
    seen, after = [], None
    while True:
        page = _list(queue, limit=3, after=after)
        seen += [job.id for job in page.jobs]
        if (after := page.next_after) is None:
            break
    assert len(seen) == len(set(seen)) == 20


def test_few_jobs_are_counted_each_time(queue):
    _submit_many(queue, 2)
    assert _list(queue).counts == {"queued": 2}
    _submit_many(queue, 1)
    assert _list(queue).counts == {"queued": 3}


@pytest.fixture
def _two_are_many(monkeypatch):
    monkeypatch.setattr(_totals, "MANY", 1)
    # Tests on PostgreSQL share their engine.
    monkeypatch.setattr(_totals, "_kept", WeakKeyDictionary())


@pytest.mark.usefixtures("_two_are_many")
def test_numbers_of_many_jobs_are_two_seconds_old_at_most(queue, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(_totals.time, "monotonic", lambda: clock[0])
    _submit_many(queue, 2)
    assert _list(queue).counts == {"queued": 2}
    newest = _submit_many(queue, 1)[0]
    page = _list(queue)
    assert (page.counts, page.jobs[0].id) == ({"queued": 2}, newest), "the jobs themselves are never old"
    clock[0] += _totals.KEPT_S
    assert _list(queue).counts == {"queued": 3}


@pytest.mark.usefixtures("_two_are_many")
def test_numbers_of_many_jobs_are_kept_for_each_list(queue):
    _submit_many(queue, 2)
    with queue.database.session() as session:
        session.scalars(select(JobRow)).first().workflow = "convert"
    assert _list(queue).counts == {"queued": 2}
    assert _list(queue, workflow="convert").counts == {"queued": 1}
    with queue.database.read_session() as session:
        stranger = dataclasses.replace(queue.principal("ada"), user_id="bob", organization_id="elsewhere")
        page = jobs.list_jobs(session, by=stranger, settings=queue.settings)
    assert page.counts == {}, "nobody is shown the numbers of others"


def test_jobs_are_found_by_words(queue):
    by_ada = queue.submit_convert("Cortex_A", group="evening").id
    by_ben = queue.submit_convert("cortex_b", by=queue.principal("ben")).id
    failed = queue.submit().id
    with queue.database.session() as session:
        session.get_one(JobRow, failed).message = "CUDA is out of memory: 100% used"

    def find(text):
        return {job.id for job in _list(queue, text=text).jobs}

    assert find("cortex") == {by_ada, by_ben}
    assert find("CORTEX_A") == find("cortex evening") == find("  evening ") == {by_ada}
    assert find("cortex ben") == {by_ben}, "whose it is"
    assert find(failed[:8]) == find("out of memory") == find("100%") == {failed}
    assert find("find_largest") == {failed}
    assert find("_") == {by_ada, by_ben, failed}, "no pattern"
    assert find("%") == {failed}
    assert find("target") == set(), "names of parameters are in all of them"
    assert _list(queue, text="cortex_b").counts == {"queued": 1}
    assert find("nothing") == find("cortex nothing") == set()


@pytest.mark.parametrize("text", ["x" * 201, "a b c d e f g h i"])
def test_a_text_that_is_too_long_is_refused(queue, text):
    with pytest.raises(InvalidInput, match="too long"):
        _list(queue, text=text)


def test_members_find_their_own_jobs_alone(queue):
    queue.submit_convert("cortex")
    with queue.database.read_session() as session:
        found = jobs.list_jobs(session, by=queue.principal("ben"), settings=queue.settings, text="cortex")
    assert found.jobs == ()
    assert found.counts == {}


def test_a_list_is_filtered_and_counts_all_states(queue):
    queue.submit(by=queue.principal("ben"))
    waiting, stopped = queue.submit().id, queue.submit().id
    queue.cancel(stopped)
    queue.submit_convert("cortex")
    page = _list(queue, states=["queued"], workflow="find_largest_segment_id", owner="ada")
    assert [job.id for job in page.jobs] == [waiting]
    assert page.counts == {"queued": 1, "cancelled": 1}
    assert _list(queue, states=["queued", "cancelled"]).counts == {"queued": 3, "cancelled": 1}


def test_an_empty_list_is_empty(queue):
    page = _list(queue)
    assert (page.jobs, page.next_after, page.counts) == ((), None, {})


@pytest.mark.parametrize("after", ["", "x", "12", "x.y", "9999999999999999999999.x"])
def test_a_place_in_the_list_that_cannot_be_is_refused(queue, after):
    with pytest.raises(InvalidInput, match="is not a place in the list"):
        _list(queue, after=after)


def test_a_job_that_is_not_there_is_not_found(queue):
    with pytest.raises(NotFound):
        queue.show("nothing")


# Waiting


def _wait(queue, job_id):
    return queue.show(job_id).job.wait


def test_a_job_that_nobody_can_run_says_so(queue):
    job = queue.submit()
    queue.open_worker("converter", convert=1)
    reason = "no worker that runs find_largest_segment_id is connected; start one with `voxelworks worker`"
    assert _wait(queue, job.id) == WaitView(ahead=0, reason=reason, code="nobody")


def test_a_worker_that_went_silent_is_not_connected(queue):
    queue.open_worker()
    queue.advance(queue.settings.silent_after_s + 1)
    assert _wait(queue, queue.submit().id).reason.startswith("no worker that runs")


def test_a_queued_job_knows_its_place(queue):
    worker = queue.open_worker()
    ids = _submit_many(queue, 3)[::-1]
    assert [_wait(queue, job_id) for job_id in ids] == [
        WaitView(ahead=0, reason="next in line: it starts as soon as a worker is free", code="next"),
        WaitView(ahead=1, reason="1 job is ahead"),
        WaitView(ahead=2, reason="2 jobs are ahead"),
    ]
    queue.submit(priority=1)
    assert _wait(queue, ids[0]).ahead == 1
    queue.claim(worker)
    assert _wait(queue, ids[0]).ahead == 0


def test_a_list_tells_the_reason_and_the_place_of_each_queued_job(queue):
    queue.open_worker("converter", convert=1)
    ids = _submit_many(queue, 2)
    convert = [queue.submit_convert(f"brain{number}", priority=number).id for number in range(3)]
    later = queue.submit(after=[convert[0]])
    theirs = queue.submit_convert("theirs", by=queue.principal("eve"))
    waits = {job.id: job.wait for job in _list(queue).jobs}
    assert waits == {job_id: _wait(queue, job_id) for job_id in waits}
    assert [(waits[job_id].code, waits[job_id].ahead) for job_id in convert] == [
        ("queue", 5), ("queue", 2), ("queue", 1),
    ]  # fmt: skip
    assert [waits[job_id].code for job_id in ids] == ["nobody", "nobody"]
    assert waits[later.id] == WaitView(ahead=0, reason=f"it waits for job {convert[0]}", code="after")
    assert waits[theirs.id].place == 2


def test_a_list_of_a_job_among_very_many_leaves_its_place_out(queue, monkeypatch):
    monkeypatch.setattr("voxelworks.jobs._reading.COUNTED_MAX", 2)
    queue.open_worker()
    ids = _submit_many(queue, 3)
    assert {job.wait.ahead for job in _list(queue).jobs} == {None}
    assert queue.submit().wait.ahead is None, "whoever submits does not wait for a count"
    assert _wait(queue, ids[0]).ahead == 2, "its own page counts"


def test_a_job_that_is_tried_again_later_says_when(queue):
    job = queue.submit()
    worker = queue.open_worker()
    queue.fail(queue.claim_and_start(worker), "infrastructure")
    with queue.database.session() as session:
        session.get_one(JobRow, job.id).available_ms += 20_500
    assert _wait(queue, job.id).reason in (
        "the next attempt begins in 19 s",
        "the next attempt begins in 20 s",
        "the next attempt begins in 21 s",
    )
    (view,) = _list(queue).jobs
    later = view.model_copy(
        update={"as_of_ms": view.as_of_ms + 9000, "wait": WaitView(ahead=0, reason="in 11 s", code="backoff")}
    )
    assert later.still == view.still, "that time goes by is no news"


def test_a_running_job_waits_for_nothing(queue):
    job = queue.submit()
    queue.claim_and_start(queue.open_worker())
    assert _wait(queue, job.id) is None


# Running


def test_a_running_job_shows_its_worker_and_when_it_was_heard_from(queue):
    job = queue.submit()
    queue.claim_and_start(queue.open_worker("gpu"))
    queue.advance(10)
    view = queue.show(job.id).job
    assert (view.worker, view.is_silent) == ("gpu", False)
    assert 10 <= view.heard_s < 30


def test_a_worker_that_is_silent_shows_long_before_its_lease_ends(queue):
    job = queue.submit()
    queue.claim_and_start(queue.open_worker("gpu"))
    queue.advance(queue.settings.silent_after_s + 1)
    assert queue.show(job.id).job.is_silent
    assert queue.show(job.id).job.state == "running"


def test_an_ended_job_has_no_worker(queue):
    job = queue.submit()
    queue.succeed(queue.claim_and_start(queue.open_worker("gpu")))
    view = queue.show(job.id).job
    assert (view.worker, view.heard_s, view.is_silent) == (None, None, False)


def test_the_remaining_time_is_a_range_from_what_was_seen(queue):
    job = queue.submit()
    claim = queue.claim_and_start(queue.open_worker())
    with queue.database.session() as session:
        attempt = session.get_one(AttemptRow, (job.id, 1))
        attempt.progress = Progress(phase="search", done=51, total=100).model_dump()
        attempt.samples = [[0, 40], [1000, 42], [2000, 46], [3000, 51]]
    assert queue.show(job.id).job.eta == EtaView(low_s=49 / 4.5, high_s=49 / 3)
    queue.succeed(claim)
    assert queue.show(job.id).job.eta is None


def _revision(queue, job_id=None):
    with queue.database.read_session() as session:
        return jobs.revision(session, job_id)


def test_the_revision_changes_with_every_change_and_only_then(queue):
    job = queue.submit()
    queue.advance(1)
    quiet = queue.submit()
    quiet_revision = _revision(queue, quiet.id)
    claim = queue.claim(queue.open_worker())
    seen = [(_revision(queue), _revision(queue, job.id))]
    for step in (
        lambda: queue.renew(claim),
        lambda: queue.renew(claim, Progress(phase="search", done=1, total=2)),
        lambda: queue.cancel(job.id),
        lambda: queue.finish(claim, outcome="cancelled"),
    ):
        step()
        seen.append((_revision(queue), _revision(queue, job.id)))
    assert len(set(seen)) == len(seen)
    assert (_revision(queue), _revision(queue, job.id)) == seen[-1]
    assert _revision(queue, quiet.id) == quiet_revision


def test_workers_are_listed_with_what_they_hold(queue):
    queue.open_worker("idle", convert=1)
    queue.open_worker("busy")
    busy = queue.open_worker("busy")
    job = queue.submit()
    queue.claim(busy)
    with queue.database.read_session() as session:
        workers = jobs.list_workers(session, settings=queue.settings)
    assert [(worker.name, worker.is_online, worker.job_ids) for worker in workers] == [
        ("busy", True, (job.id,)),
        ("idle", True, ()),
    ]
    assert workers[1].workflows == {"convert": 1}


def test_polling_keeps_a_worker_online(queue):
    worker = queue.open_worker()
    for _ in range(3):
        queue.advance(queue.settings.silent_after_s - 1)
        queue.call(jobs.claim, worker)
    with queue.database.read_session() as session:
        (view,) = jobs.list_workers(session, settings=queue.settings)
    assert view.is_online


def test_a_list_is_filtered_by_owner_dataset_time_and_reason(queue):
    worker = queue.open_worker()
    old = queue.submit_convert("made").id
    queue.fail(queue.claim_and_start(worker), "user_input")
    queue.advance(100)
    bens = queue.submit(by=queue.principal("ben")).id
    queue.advance(100)
    new = queue.submit(group="night").id
    at_ms = queue.show(bens).job.created_ms

    def found(**filters):
        page = _list(queue, **filters)
        assert sum(page.counts.values()) == len(page.jobs)
        return {job.id for job in page.jobs}

    assert found(owner="ben") == found(owner="ben@example.org") == {bens}
    assert found(owner="nobody@example.org") == found(owner="nobody") == set()
    assert found(dataset="demo") == {bens, new}
    assert found(dataset="made") == {old}, "also what is not there yet, or not any more"
    assert found(dataset="mad") == found(dataset="convert") == set()
    assert found(failure_class="user_input") == {old}
    assert found(since_ms=at_ms) == {bens, new}
    assert found(until_ms=at_ms) == {old}
    assert found(since_ms=at_ms, until_ms=at_ms + 1, dataset="demo") == {bens}
    assert found(is_charged=True) == set()


def test_the_jobs_of_a_renamed_dataset_are_found_by_its_new_name(queue):
    job_id = queue.submit().id
    by = queue.principal("ada")
    queue.call(catalog.rename_dataset, queue.call(catalog.find, "demo", by=by).id, "cortex", by=by)
    assert [job.id for job in _list(queue, dataset="cortex").jobs] == [job_id]


def test_a_text_that_is_no_mail_address_is_no_owner(queue):
    with pytest.raises(InvalidInput, match="is not an e-mail address"):
        _list(queue, owner="a@b@c")
