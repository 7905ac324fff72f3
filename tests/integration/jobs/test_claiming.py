"""Who is next: classes, fair shares, limits, needs, pauses and bad workers."""

from collections import Counter
from dataclasses import replace

import pytest
from sqlalchemy import insert

from paid_work import installed
from voxelworks import catalog, jobs
from voxelworks.errors import NotAllowed, NotFound, OutdatedWorker, WorkerDrained
from voxelworks.jobs._tables import JobRow
from voxelworks.protocol.messages import ClaimRequest
from voxelworks.protocol.people import WorkerKeyView
from voxelworks.testing.queues import DEMO, at_once
from voxelworks.testing.rounds import rounds
from voxelworks.workflows import Needs, workflows

SEGMENT = {"workflow": "segment"}


@pytest.fixture(autouse=True)
def _workflows():
    with installed():
        yield


@pytest.fixture
def needing(monkeypatch):
    """A function that lets `segment` need something."""

    def need(**needs):
        changed = replace(workflows()["segment"], needs=Needs(**needs))
        monkeypatch.setitem(workflows(), "segment", changed)

    return need


@pytest.fixture
def both(queue):
    """The queue, with a dataset for each organization."""
    queue.call(
        catalog.register, organization_id="other", user_id="eve", name="demo", place="data:other/demo", summary=DEMO
    )  # fmt: skip
    return queue


def _set(queue, **settings):
    return replace(queue, settings=queue.settings.model_copy(update=settings))


def _wait(queue, job_id):
    wait = queue.show(job_id).job.wait
    return wait.code, wait.reason


# Classes


def test_a_short_job_goes_before_a_long_one(queue):
    queue.submit(**SEGMENT)
    queue.advance(1)
    short = queue.submit()
    assert queue.claim(queue.open_worker()).job_id == short.id


def test_short_jobs_never_wait_behind_long_ones(queue):
    long_jobs = [queue.submit(**SEGMENT).id for _ in range(3)]
    short = queue.submit().id
    worker = queue.open_worker_with(slots={"short": 1, "long": 1})
    assert {queue.claim(worker).job_id for _ in range(2)} == {short, long_jobs[0]}
    queue.submit()
    assert queue.call(jobs.claim, worker) is None, "it has no slot left of any class"


def test_a_worker_is_given_what_it_says_it_has_room_for(queue):
    queue.submit()
    long_job = queue.submit(**SEGMENT)
    worker = queue.open_worker()
    assert queue.call(jobs.claim, worker, free={"short": 0, "long": 0}) is None
    assert queue.call(jobs.claim, worker, free={"long": 1}).job_id == long_job.id


def test_a_slot_is_free_again_when_its_job_has_ended(queue):
    queue.submit()
    queue.submit()
    worker = queue.open_worker_with(slots={"short": 1, "long": 0})
    claim = queue.claim_and_start(worker)
    assert queue.call(jobs.claim, worker) is None
    queue.fail(claim, "user_input")
    assert queue.claim(worker).attempt == 1


def test_a_worker_of_the_first_protocol_is_served(queue):
    job = queue.submit(**SEGMENT)
    worker = queue.open_worker_with(protocol=1, slots=None, job_slots=1)
    assert ClaimRequest.model_validate({}) == ClaimRequest(free=None)
    assert queue.claim(worker).job_id == job.id


def test_a_worker_that_is_too_old_is_told_what_to_install(queue):
    with pytest.raises(
        OutdatedWorker, match=r"worker old is too old: Voxelworks 0.1 with protocol 0.*pip install"
    ):
        queue.open_worker_with("old", protocol=0, version="0.1")


# Fair share


def test_organizations_take_turns_whatever_their_backlog(both):
    for _ in range(20):
        both.submit()
    both.advance(3600)
    theirs = [both.submit(by=both.principal("eve")).id for _ in range(5)]
    worker = both.open_worker()
    given = [both.claim(worker) for _ in range(10)]
    assert Counter(claim.organization_id for claim in given) == {"local": 5, "other": 5}
    assert {claim.job_id for claim in given if claim.organization_id == "other"} == set(theirs)


@pytest.mark.faults("T26", "A few jobs of one organization behind very many of another")
def test_a_small_organization_does_not_wait_for_a_large_one(both, record_property):
    backlog = rounds(200, 2000)
    with both.database.session() as session:
        for _ in range(backlog):
            jobs.submit(
                session, by=both.principal("ada"), workflow="find_largest_segment_id",
                params={"layer": "demo/segmentation"}, places=both.places, settings=both.settings,
            )  # fmt: skip
    both.advance(60)
    slots = {"short": 1, "long": 1}
    workers = [both.open_worker_with(f"worker {number}", slots=slots) for number in range(8)]
    running = [both.claim_and_start(worker) for worker in workers]
    theirs = {both.submit(by=both.principal("eve")).id for _ in range(10)}
    started = 0
    while theirs:
        worker = workers[started % 8]
        both.fail(running[started % 8], "user_input")
        running[started % 8] = both.claim_and_start(worker)
        theirs.discard(running[started % 8].job_id)
        started += 1
    assert started <= 20
    record_property("database", both.database.engine.dialect.name)
    record_property("jobs", backlog + 10)
    record_property("started before the last of ten", started)


def test_an_organization_that_runs_much_is_not_passed_over_for_ever(both):
    """One job of each runs; the other organization always has a job more."""
    worker = both.open_worker()
    mine = both.submit()
    both.claim_and_start(worker)
    waiting = both.submit()
    for _ in range(3):
        both.submit(by=both.principal("eve"))
        theirs = both.claim_and_start(worker)
        assert theirs.organization_id == "other"
        both.fail(theirs, "user_input")
    both.advance(both.settings.lease_s / 2)
    both.submit(by=both.principal("eve"))
    assert both.claim(worker).organization_id == "other"
    both.advance(both.settings.ageing_s + 1)
    both.submit(by=both.principal("eve"))
    assert both.claim(worker).job_id == waiting.id
    assert mine.id != waiting.id


def test_a_job_of_low_priority_is_overtaken_only_for_a_while(queue):
    old = queue.submit()
    queue.advance(queue.settings.ageing_s + 1)
    queue.submit(priority=1)
    assert queue.claim(queue.open_worker()).job_id == old.id


# Limits


def test_an_organization_runs_no_more_jobs_than_it_may(both):
    limited = _set(both, jobs_max_per_organization=2, jobs_max_of={"other": 3})
    for name in ("ada", "eve"):
        for _ in range(5):
            limited.submit(by=limited.principal(name))
    worker = limited.open_worker()
    given = []
    while (claim := limited.call(jobs.claim, worker)) is not None:
        given.append(claim)
    assert Counter(claim.organization_id for claim in given) == {"local": 2, "other": 3}
    waiting = limited.list_jobs(states=["queued"], organization_id="local").jobs[-1]
    assert _wait(limited, waiting.id) == (
        "organization", "its organization runs as many jobs as it may; it starts when one of them has ended",
    )  # fmt: skip
    limited.renew(given[0])
    limited.fail(given[0], "user_input")
    assert limited.claim(worker).organization_id == given[0].organization_id


def test_a_user_runs_no_more_jobs_than_one_may(queue):
    limited = _set(queue, jobs_max_per_user=1)
    mine = [limited.submit().id for _ in range(3)]
    theirs = limited.submit(by=limited.principal("ben")).id
    worker = limited.open_worker()
    assert [limited.claim(worker).job_id for _ in range(2)] == [mine[0], theirs]
    assert limited.call(jobs.claim, worker) is None
    assert _wait(limited, mine[1])[0] == "user"


def test_no_more_jobs_of_a_workflow_run_than_may(queue):
    limited = _set(queue, jobs_max_per_workflow={"find_largest_segment_id": 1})
    first, second = limited.submit(), limited.submit()
    other = limited.submit_convert("cortex")
    worker = limited.open_worker()
    assert {limited.claim(worker).job_id for _ in range(2)} == {first.id, other.id}
    assert limited.call(jobs.claim, worker) is None
    assert _wait(limited, second.id)[0] == "workflow"


def test_a_limit_holds_however_many_ask_at_once(queue):
    limited = _set(queue, jobs_max_per_organization=3)
    for _ in range(8):
        limited.submit()
    workers = [limited.open_worker(f"worker {number}") for number in range(8)]
    for _ in range(rounds(3, 50)):
        claims = at_once([lambda worker=worker: limited.call(jobs.claim, worker) for worker in workers])
        given = [claim for claim in claims if claim is not None]
        assert len(given) == 3
        for claim in given:
            limited.renew(claim)
            limited.finish(claim, outcome="interrupted")


# Needs


def test_a_job_that_needs_a_gpu_goes_to_a_worker_that_has_one(queue, needing):
    needing(gpu=True)
    job = queue.submit(**SEGMENT)
    plain = queue.open_worker("plain")
    assert queue.call(jobs.claim, plain) is None
    assert _wait(queue, job.id) == (
        "nobody", "no connected worker has what it needs: a slot for long jobs, a GPU",
    )  # fmt: skip
    assert queue.claim(queue.open_worker_with("gpu", gpus=1)).job_id == job.id


def test_a_worker_whose_gpus_are_taken_gets_what_needs_none(queue, needing):
    needing(gpu=True)
    first = queue.submit(**SEGMENT)
    queue.advance(1)
    second = queue.submit(**SEGMENT)
    queue.advance(1)
    plain = queue.submit()
    worker = queue.open_worker_with("gpu", gpus=1, slots={"short": 1, "long": 2})
    assert queue.call(jobs.claim, worker, free={"long": 2}, gpus_free=1).job_id == first.id
    assert queue.call(jobs.claim, worker, free={"short": 1, "long": 1}, gpus_free=0).job_id == plain.id
    assert queue.call(jobs.claim, worker, free={"long": 1}, gpus_free=0) is None
    assert queue.call(jobs.claim, worker, free={"long": 1}, gpus_free=1).job_id == second.id


def test_a_worker_without_the_memory_gets_the_jobs_behind(queue, needing):
    needing(memory_bytes=8 * 2**30)
    queue.submit(**SEGMENT)
    queue.advance(1)
    small = queue.submit()
    assert queue.claim(queue.open_worker_with("small", memory_bytes=2**30)).job_id == small.id
    claim = queue.claim(queue.open_worker_with("large", memory_bytes=16 * 2**30))
    assert claim.memory_bytes_max == 8 * 2**30


def test_a_job_that_ran_out_of_memory_gets_more(queue, needing):
    needing(memory_bytes=4 * 2**30)
    job = queue.submit(**SEGMENT)
    large = queue.open_worker_with("large", memory_bytes=10 * 2**30)
    given = []
    for _ in range(3):
        claim = queue.claim_and_start(large)
        given.append(claim.memory_bytes_max)
        queue.fail(claim, "resources")
        queue.advance(1)
    assert given == [4 * 2**30, 8 * 2**30, 10 * 2**30]
    assert queue.state(job.id) == "failed"
    assert [attempt.memory_bytes_max for attempt in queue.show(job.id).attempts] == given


def test_a_job_that_filled_a_small_worker_goes_to_a_larger_one(queue):
    job = queue.submit()
    small = queue.open_worker_with("small", memory_bytes=2**30)
    queue.fail(queue.claim_and_start(small), "resources")
    large = queue.open_worker_with("large", memory_bytes=4 * 2**30)
    queue.advance(1)
    # The larger one came later: this one was the largest when the job failed.
    queue.fail(queue.claim_and_start(small), "resources")
    queue.advance(1)
    assert queue.call(jobs.claim, small) is None
    claim = queue.claim(large)
    assert (claim.job_id, claim.memory_bytes_max) == (job.id, 2 * 2**30)


def test_a_job_asks_for_no_more_memory_than_a_worker_has_that_would_run_it(queue, needing):
    needing(gpu=True, memory_bytes=64)
    job = queue.submit(**SEGMENT)
    queue.open_worker_with("gone", memory_bytes=512, gpus=1)
    queue.advance(3600)
    queue.open_worker_with("without a GPU", memory_bytes=512)
    queue.open_worker("without the workflow", convert=1)
    foreign = WorkerKeyView(
        id="key", hint="vw", name="theirs", organization_id="other", commands=(), high_slots=0, low_slots=0,
        created_ms=0, created_by="user:local", used_ms=None, revoked_ms=None,
    )  # fmt: skip
    queue.open_worker_with("theirs", key=foreign, memory_bytes=512, gpus=1)
    there = queue.open_worker_with("there", memory_bytes=96, gpus=1)
    queue.fail(queue.claim_and_start(there), "resources")
    queue.advance(1)
    claim = queue.claim(there)
    assert (claim.job_id, claim.memory_bytes_max) == (job.id, 96)


def test_a_full_disk_asks_for_no_more_memory(queue, needing):
    needing(memory_bytes=64)
    job = queue.submit(**SEGMENT)
    worker = queue.open_worker_with(memory_bytes=512)
    claim = queue.claim_and_start(worker)
    queue.finish(
        claim, outcome="failed", failure_class="resources", code="disk-full", message="the disk is full"
    )
    queue.advance(1)
    claim = queue.claim(worker)
    assert (claim.job_id, claim.memory_bytes_max) == (job.id, 64)


def test_a_worker_gets_only_what_it_has_the_time_for(queue, needing):
    needing(walltime_s=3600)
    job = queue.submit(**SEGMENT)
    queue.advance(1)
    hurried = queue.open_worker_with("hurried", walltime_s=4000)
    queue.advance(401)
    assert queue.call(jobs.claim, hurried) is None
    assert queue.claim(queue.open_worker_with("patient", walltime_s=4000)).job_id == job.id


def test_a_worker_whose_time_is_over_gets_nothing(queue):
    queue.submit()
    worker = queue.open_worker_with("hurried", walltime_s=10)
    queue.advance(11)
    assert queue.call(jobs.claim, worker) is None


# Nobody can run it


def test_a_submission_says_at_once_that_nobody_can_run_it(queue):
    assert queue.submit().wait.code == "nobody"


def test_a_job_that_nobody_could_run_for_long_fails(queue):
    short = _set(queue, unrunnable_after_s=3600)
    job, other = short.submit(), short.submit_convert("cortex")
    short.advance(1800)
    short.open_worker("converter", convert=1)
    short.advance(1801)
    assert short.reap() == 1
    view = short.show(job.id).job
    assert (view.state, view.code, view.failure_class) == ("failed", "nobody-can-run", "infrastructure")
    assert view.message == "no worker that runs find_largest_segment_id was connected for 3600 s"
    assert short.state(other.id) == "queued"


def test_a_job_that_nobody_can_run_is_found_behind_many_that_somebody_can(queue):
    short = _set(queue, unrunnable_after_s=3600)
    first = short.submit_convert("cortex")
    with short.database.session() as session:
        # The search looked at the first thousand once.
        row = {
            column.name: getattr(session.get_one(JobRow, first.id), column.key)
            for column in JobRow.__table__.columns
        }
        session.execute(
            insert(JobRow), [row | {"id": f"{number:08}", "reserved_place": None} for number in range(1001)]
        )
    alone = short.submit()
    short.advance(1800)
    short.open_worker("converter", convert=1)
    short.advance(1801)
    assert short.reap() == 1
    assert short.state(alone.id) == "failed"


def test_a_server_that_was_away_gives_no_job_up_before_workers_can_be_back(queue):
    short = _set(queue, unrunnable_after_s=3600)
    job = short.submit()
    short.advance(3601)
    assert jobs.Reaper().run_round(short.database, settings=short.settings) == 0
    assert short.state(job.id) == "queued"
    assert short.reap() == 1


def test_a_job_that_needs_more_time_than_any_worker_has_says_so_and_fails_in_the_end(queue, needing):
    needing(walltime_s=7200)
    short = _set(queue, unrunnable_after_s=3600)
    job = short.submit(**SEGMENT)
    hurried = short.open_worker_with("hurried", walltime_s=4000)
    assert short.call(jobs.claim, hurried) is None
    assert _wait(short, job.id) == (
        "nobody",
        "no connected worker has what it needs: a slot for long jobs, 2 hours before it must leave",
    )
    short.advance(3601)
    short.call(jobs.claim, short.open_worker_with("hurried", walltime_s=4000))
    assert short.reap() == 1
    view = short.show(job.id).job
    assert (view.state, view.code, view.message) == (
        "failed", "nobody-can-run",
        "no worker that runs segment, with 2 hours before it must leave was connected for 3600 s",
    )  # fmt: skip


def test_a_job_for_which_workers_came_with_the_time_waits_for_the_next_one(queue, needing):
    needing(walltime_s=3000)
    short = _set(queue, unrunnable_after_s=3600)
    job = short.submit(**SEGMENT)
    short.advance(10)
    short.open_worker_with("hurried", walltime_s=4000)
    short.advance(3595)
    assert short.reap() == 0
    assert _wait(short, job.id)[0] == "nobody"


def test_a_paused_queue_lets_no_job_fail_for_want_of_workers(queue):
    short = _set(queue, unrunnable_after_s=3600)
    short.submit()
    short.call(jobs.pause_queue, by=short.operator)
    short.advance(3601)
    assert short.reap() == 0


# Cancel


def test_a_workflow_may_take_more_time_to_stop_than_others(queue, monkeypatch):
    slow = replace(workflows()["segment"], cancel_grace_s=600)
    monkeypatch.setitem(workflows(), "segment", slow)
    worker = queue.open_worker()
    submitted = [queue.submit(**SEGMENT), queue.submit()]
    claims = [queue.claim_and_start(worker) for _ in submitted]
    assert {claim.workflow: claim.cancel_grace_s for claim in claims} == {
        "segment": 600, "find_largest_segment_id": 30,
    }  # fmt: skip
    for job in submitted:
        queue.cancel(job.id)
    queue.advance(queue.settings.cancel_stuck_s + 1)
    assert queue.reap() == 1
    assert [queue.state(job.id) for job in submitted] == ["cancelling", "cancelled"]
    for _ in range(3):
        queue.advance(200)
        for claim in claims:
            queue.renew(claim)
    assert queue.reap() == 1
    assert queue.state(submitted[0].id) == "cancelled"


# Priority


def test_everybody_may_let_a_job_wait_longer_and_admins_may_let_one_go_first(queue):
    late = queue.submit(by=queue.principal("ben"), priority=-1)
    usual = queue.submit()
    with pytest.raises(NotAllowed):
        queue.submit(by=queue.principal("ben"), priority=1)
    first = queue.submit(priority=1)
    worker = queue.open_worker()
    assert [queue.claim(worker).job_id for _ in range(3)] == [first.id, usual.id, late.id]


# Pause, drain, bad workers


def test_a_paused_class_is_not_given_away(queue):
    job = queue.submit()
    worker = queue.open_worker()
    queue.call(jobs.pause_queue, by=queue.operator, priority_class="short", why="the disk is full")
    assert queue.call(jobs.claim, worker) is None
    assert _wait(queue, job.id) == (
        "paused",
        "the operator has paused the queue of short jobs: the disk is full",
    )
    long_job = queue.submit(**SEGMENT)
    assert queue.claim(worker).job_id == long_job.id
    assert [(pause.priority_class, pause.who) for pause in queue.call(jobs.queue_pauses)] == [
        ("short", "user:local")
    ]
    queue.call(jobs.resume_queue, by=queue.operator)
    assert queue.claim(worker).job_id == job.id


@pytest.mark.parametrize("function", [jobs.pause_queue, jobs.resume_queue])
def test_only_operators_pause_the_queue(queue, function):
    with pytest.raises(NotAllowed):
        queue.call(function, by=queue.principal("ada"))


def test_a_drained_worker_ends_its_jobs_and_gets_no_new_ones(queue):
    queue.submit()
    queue.submit()
    worker = queue.open_worker("gpu")
    claim = queue.claim_and_start(worker)
    with pytest.raises(NotFound):
        queue.call(jobs.drain_worker, "cpu", by=queue.operator)
    queue.call(jobs.drain_worker, "gpu", by=queue.operator)
    assert queue.renew(claim).order == "drain"
    with pytest.raises(WorkerDrained):
        queue.call(jobs.claim, worker)
    assert queue.succeed(claim).state == "succeeded"
    assert queue.claim(queue.open_worker("gpu")).attempt == 1, "started anew, it works again"


def test_a_worker_that_fails_five_different_jobs_in_a_row_is_paused(queue):
    worker = queue.open_worker("bad")
    for _ in range(5):
        queue.submit()
        queue.fail(queue.claim_and_start(worker), "program_error", message="it broke")
    waiting = queue.submit()
    assert queue.call(jobs.claim, worker) is None
    (view,) = queue.call(jobs.list_workers)
    assert view.paused_why == "5 different jobs in a row failed on it; the last one: it broke"
    assert view.failures_in_a_row == 5
    assert _wait(queue, waiting.id) == (
        "nobody",
        "every worker that runs find_largest_segment_id is paused after failures; the operator must look at them",
    )
    again = queue.open_worker("bad")
    assert queue.call(jobs.claim, again) is None, "starting anew does not make it good"
    good = queue.open_worker("good")
    assert queue.claim(good).job_id == waiting.id
    queue.submit()
    queue.call(jobs.resume_worker, "bad", by=queue.operator)
    assert queue.claim(again).attempt == 1


def test_a_full_disk_is_not_held_against_a_worker(queue):
    worker = queue.open_worker()
    for _ in range(8):
        queue.submit()
        claim = queue.claim_and_start(worker)
        message = "the disk is full; free some space"
        queue.finish(claim, outcome="failed", failure_class="resources", code="disk-full", message=message)
    (view,) = queue.call(jobs.list_workers)
    assert (view.paused_why, view.failures_in_a_row) == (None, 0)


@pytest.mark.parametrize("between", ["success", "user's fault", "same job"])
def test_other_ends_are_not_held_against_a_worker(queue, between):
    worker = queue.open_worker()
    for number in range(8):
        queue.submit()
        queue.fail(
            queue.claim_and_start(worker), "infrastructure" if between == "same job" else "program_error"
        )
        if between == "same job":
            for _ in range(3):  # the tries of one job count once
                queue.advance(1)
                queue.fail(queue.claim_and_start(worker), "infrastructure")
            if number == 3:
                break
        elif number % 2:
            queue.submit()
            claim = queue.claim_and_start(worker)
            if between == "success":
                queue.succeed(claim)
            else:
                queue.fail(claim, "user_input")
                if number == 3:
                    break
    queue.submit()
    assert queue.call(jobs.claim, worker) is not None


def test_every_lane_is_served_in_order_of_age(queue):
    """Users and workflows have lanes of their own; the statement still gives the oldest job of the organization."""
    submitted = []
    for number in range(12):
        queue.advance(1)
        by = queue.principal("ada" if number % 3 else "ben")
        job = queue.submit_convert(f"cortex{number}", by=by) if number % 2 else queue.submit(by=by)
        submitted.append(job.id)
    worker = queue.open_worker()
    assert [queue.claim(worker).job_id for _ in submitted] == submitted


def test_metrics_count_what_happens(queue):
    queue.submit()
    queue.submit()
    queue.submit(**SEGMENT)
    worker = queue.open_worker()
    claim = queue.claim_and_start(worker)
    queue.advance(100)
    queue.renew(claim)
    queue.advance(queue.settings.lease_s + 1)
    queue.reap()
    seen = queue.call(jobs.metrics)
    assert (seen.claims, seen.late_renewals, seen.lost_leases, seen.reaper_actions) == (1, 1, 1, 1)
    depths = {(item.workflow, item.priority_class): (item.queued, item.running) for item in seen.depths}
    assert depths == {("find_largest_segment_id", "short"): (2, 0), ("segment", "long"): (1, 0)}
    assert all(item.oldest_s >= 0 for item in seen.depths)


def test_a_job_of_a_workflow_that_the_server_does_not_know_keeps_waiting(queue):
    job = queue.submit(**SEGMENT)
    with queue.database.session() as session:
        session.get(JobRow, job.id).workflow = "gone"
    assert queue.call(jobs.claim, queue.open_worker()) is None
    assert queue.state(job.id) == "queued"
