import re

import pytest

from voxelworks import jobs
from voxelworks.errors import LeaseLost
from voxelworks.protocol.messages import Progress, RenewRequest, SessionRequest
from voxelworks.testing.clocks import moved_clock

LEASE_S = 300


def _lose(queue):
    """Let a lease run out, and the server find it."""
    queue.advance(LEASE_S + 1)
    assert queue.reap() == 1


def test_a_claim_tells_all_that_the_worker_needs(queue):
    job = queue.submit()
    claim = queue.claim(queue.open_worker())
    assert claim.model_dump(exclude={"token", "job_token"}) == {
        "job_id": job.id,
        "attempt": 1,
        "workflow": "find_largest_segment_id",
        "version": 1,
        "params": {"layer": {"dataset": "demo", "layer": "segmentation"}},
        "places": {"demo": "data:local/demo"},
        "work_key": job.id,
        "lease_s": 300.0,
        "renew_s": 30.0,
        "cancel_grace_s": 30.0,
        "organization_id": "local",
        "memory_bytes_max": None,
        "walltime_s": None,
        "secrets": {},
    }
    assert len(claim.token) >= 22  # 128 bits


def test_an_empty_queue_gives_nothing(queue):
    assert queue.call(jobs.claim, queue.open_worker()) is None


def test_jobs_are_given_away_by_priority_then_by_age(queue):
    submitted = {}
    for name, priority in [("a", 0), ("b", 5), ("c", 0), ("d", 5)]:
        submitted[name] = queue.submit(priority=priority).id
        queue.advance(1)
    worker = queue.open_worker()
    given = [queue.claim(worker).job_id for _ in submitted]
    assert given == [submitted[name] for name in "bdac"]


def test_a_worker_gets_only_what_it_can_run(queue):
    queue.submit()
    assert queue.call(jobs.claim, queue.open_worker("a", convert=1)) is None
    assert queue.call(jobs.claim, queue.open_worker("b", find_largest_segment_id=0)) is None
    assert queue.call(jobs.claim, queue.open_worker("c", find_largest_segment_id=2)) is not None


def test_the_first_renewal_starts_the_work(queue):
    job = queue.submit()
    claim = queue.claim(queue.open_worker())
    assert queue.state(job.id) == "claimed"
    assert queue.renew(claim).order == "continue"
    assert queue.history(job.id) == ["queued", "claimed", "running"]
    assert queue.show(job.id).job.started_ms is not None


@pytest.mark.parametrize("wrong", [{"token": "guess"}, {"attempt": 2}, {"job_id": "other"}])
def test_whoever_does_not_hold_the_attempt_is_told_so(queue, wrong):
    queue.submit()
    claim = queue.claim_and_start(queue.open_worker()).model_copy(update=wrong)
    assert queue.renew(claim).order == "lost"
    for write in (queue.seal, queue.succeed):
        with pytest.raises(LeaseLost):
            write(claim)
    with pytest.raises(LeaseLost):
        queue.call(jobs.append_log, claim.job_id, claim.attempt, claim.token, 0, b"line")


def test_renewals_keep_a_job_for_days(queue):
    job = queue.submit()
    claim = queue.claim_and_start(queue.open_worker())
    for _ in range(20):
        queue.advance(LEASE_S - 1)
        assert queue.reap() == 0
        assert queue.renew(claim).order == "continue"
    assert queue.state(job.id) == "running"


def test_a_silent_worker_loses_its_job(queue):
    job = queue.submit()
    queue.claim_and_start(queue.open_worker("gpu"))
    _lose(queue)
    detail = queue.show(job.id)
    assert detail.job.state == "queued"
    assert detail.job.failure_class == "infrastructure"
    assert re.fullmatch(r"the worker was not heard from for 30\d s", detail.job.message)
    assert [(item.outcome, item.worker) for item in detail.attempts] == [("lost", "gpu")]


def test_a_lost_job_goes_to_another_worker_under_a_new_attempt(queue):
    job = queue.submit()
    old = queue.claim_and_start(queue.open_worker("a"))
    _lose(queue)
    queue.advance(1)
    new = queue.claim_and_start(queue.open_worker("b"))
    assert (new.job_id, new.attempt, new.work_key) == (job.id, 2, old.work_key)
    assert queue.renew(old).order == "lost"
    for write in (queue.seal, queue.succeed):
        with pytest.raises(LeaseLost):
            write(old)
    assert queue.succeed(new).state == "succeeded"


def test_a_lost_job_waits_before_the_next_attempt(queue):
    chosen = queue.settings.model_copy(update={"backoff_base_s": 30.0})
    queue.submit()
    worker = queue.open_worker()
    queue.claim_and_start(worker)
    queue.advance(LEASE_S + 1)
    jobs.reap_all(queue.database, settings=chosen)
    queue.advance(30)
    assert queue.claim(worker).attempt == 2


def test_a_worker_that_comes_back_before_anyone_else_goes_on_with_the_same_attempt(queue):
    job = queue.submit()
    claim = queue.claim_and_start(queue.open_worker())
    _lose(queue)
    queue.advance(0.5 * LEASE_S)
    assert queue.renew(claim).order == "continue"
    detail = queue.show(job.id)
    assert (detail.job.state, detail.job.attempt, detail.job.message) == ("running", 1, None)
    assert [(item.number, item.outcome, item.ended_ms) for item in detail.attempts] == [(1, None, None)]
    assert queue.history(job.id) == ["queued", "claimed", "running", "queued", "running"]


def test_coming_back_is_not_counted_as_a_loss(queue):
    job = queue.submit()
    claim = queue.claim_and_start(queue.open_worker())
    for _ in range(10):  # three real losses would be poison
        _lose(queue)
        assert queue.renew(claim).order == "continue"
    assert queue.succeed(claim).state == "succeeded"
    assert queue.show(job.id).job.attempt == 1


def test_a_result_may_come_back_before_any_renewal_does(queue):
    job = queue.submit()
    claim = queue.claim_and_start(queue.open_worker())
    _lose(queue)
    assert queue.succeed(claim).state == "succeeded"
    assert queue.history(job.id)[-3:] == ["queued", "running", "succeeded"]


def test_a_lease_that_ran_out_unseen_is_simply_renewed(queue):
    job = queue.submit()
    claim = queue.claim_and_start(queue.open_worker())
    queue.advance(2 * LEASE_S)
    assert queue.renew(claim).order == "continue"
    assert queue.reap() == 0
    assert queue.history(job.id) == ["queued", "claimed", "running"]


def test_a_worker_that_comes_back_to_a_cancelled_job_is_told_that_it_lost_it(queue):
    job = queue.submit()
    claim = queue.claim_and_start(queue.open_worker())
    _lose(queue)
    queue.cancel(job.id)
    assert queue.renew(claim).order == "lost"
    assert queue.state(job.id) == "cancelled"


def test_a_worker_that_starts_anew_frees_its_jobs_at_once(queue):
    chosen = queue.settings.model_copy(update={"backoff_base_s": 900.0})
    job = queue.submit()
    old = queue.claim_and_start(queue.open_worker("gpu"))
    with queue.database.session() as session:
        answer = jobs.open_session(session, _request("gpu"), settings=chosen)
    new = queue.claim(answer.session_id)
    assert (new.job_id, new.attempt) == (job.id, 2)
    assert queue.renew(old).order == "lost"


def test_a_process_that_was_replaced_does_not_come_back(queue):
    job = queue.submit()
    old = queue.claim_and_start(queue.open_worker("gpu"))
    queue.open_worker("gpu")
    assert queue.state(job.id) == "queued"
    assert queue.renew(old).order == "lost"


def test_a_replaced_session_gets_no_more_work(queue):
    queue.submit()
    old = queue.open_worker("gpu")
    queue.open_worker("gpu")
    with pytest.raises(LeaseLost, match="this worker session was replaced"):
        queue.call(jobs.claim, old)


def test_workers_of_other_names_keep_their_jobs(queue):
    queue.submit()
    claim = queue.claim_and_start(queue.open_worker("a"))
    queue.open_worker("b")
    assert queue.renew(claim).order == "continue"


def test_a_worker_restarted_fifty_times_never_leaves_a_job_stuck(queue):
    patient = queue.settings.model_copy(update={"lost_leases_max": 100, "retries_infrastructure": 100})
    job = queue.submit()
    for attempt in range(1, 51):
        with queue.database.session() as session:
            worker = jobs.open_session(session, _request("gpu"), settings=patient).session_id
        claim = queue.claim_and_start(worker)
        assert (claim.job_id, claim.attempt) == (job.id, attempt)
    assert queue.succeed(claim).state == "succeeded"


def test_a_job_that_loses_three_workers_is_given_up(queue):
    job = queue.submit()
    for number in range(3):
        queue.claim_and_start(queue.open_worker(f"worker {number}"))
        _lose(queue)
        queue.advance(1)
    view = queue.show(job.id).job
    assert (view.state, view.failure_class, view.attempt) == ("failed", "infrastructure", 3)
    assert re.fullmatch(
        r"the job lost its worker 3 times and is not tried again; look whether it brings the worker down "
        r"\(the worker was not heard from for 30\d s\)",
        view.message,
    )


def test_a_lost_job_that_is_being_cancelled_ends_cancelled(queue):
    job = queue.submit()
    queue.claim_and_start(queue.open_worker())
    queue.cancel(job.id)
    _lose(queue)
    assert queue.history(job.id) == ["queued", "claimed", "running", "cancelling", "cancelled"]


def test_a_worker_that_does_not_stop_a_cancelled_job_loses_it(queue):
    job = queue.submit()
    claim = queue.claim_and_start(queue.open_worker())
    queue.cancel(job.id)
    queue.advance(queue.settings.cancel_stuck_s - 1)
    assert queue.renew(claim).order == "cancel"
    assert queue.reap() == 0
    queue.advance(2)
    assert queue.reap() == 1
    assert queue.state(job.id) == "cancelled"
    assert queue.renew(claim).order == "lost"


@pytest.fixture
def clock(queue):
    with moved_clock(queue.database, 10**12) as clock:
        yield clock


def _rounds(queue, clock, reaper, seconds):
    """Let the server reap as often as it does, for some time; count what it ended."""
    ended = 0
    for _ in range(round(seconds / 15)):
        clock.advance(seconds=15)
        ended += reaper.run_round(queue.database, settings=queue.settings)
    return ended


def test_a_server_that_starts_after_an_outage_lets_workers_renew_before_it_reaps(queue, clock):
    job = queue.submit()
    claim = queue.claim_and_start(queue.open_worker())
    clock.advance(seconds=3600)
    reaper = jobs.Reaper()
    assert reaper.run_round(queue.database, settings=queue.settings) == 0
    assert _rounds(queue, clock, reaper, 60) == 0
    assert queue.renew(claim).order == "continue"
    assert _rounds(queue, clock, reaper, LEASE_S) == 0
    assert queue.history(job.id) == ["queued", "claimed", "running"]
    assert _rounds(queue, clock, reaper, 60) == 1, "after that silence counts again"


def test_a_server_that_starts_again_and_again_gives_away_anew_what_nobody_began(queue, clock):
    """The answer to the claim was lost with the server; its worker asks for another job."""
    worker = queue.open_worker()
    begun = queue.submit()
    queue.claim_and_start(worker)
    given = queue.submit()
    queue.claim(worker)
    clock.advance(seconds=LEASE_S + 1)
    assert jobs.Reaper().run_round(queue.database, settings=queue.settings) == 1
    assert (queue.show(begun.id).job.state, queue.show(given.id).job.state) == ("running", "queued")


def test_a_server_that_had_no_database_lets_workers_renew_before_it_reaps(queue, clock):
    job = queue.submit()
    reaper = jobs.Reaper()
    _rounds(queue, clock, reaper, 2 * LEASE_S)
    claim = queue.claim_and_start(queue.open_worker())
    _rounds(queue, clock, reaper, 60)
    clock.advance(seconds=3600)
    assert _rounds(queue, clock, reaper, 60) == 0
    assert queue.renew(claim).order == "continue"
    assert queue.history(job.id) == ["queued", "claimed", "running"]


def test_a_clock_that_is_turned_back_keeps_no_server_from_reaping(queue, clock):
    queue.submit()
    claim = queue.claim_and_start(queue.open_worker())
    reaper = jobs.Reaper()
    _rounds(queue, clock, reaper, 60)
    clock.advance(days=-1)
    assert queue.renew(claim).order == "continue"
    assert _rounds(queue, clock, reaper, 2 * LEASE_S) == 1


def test_the_reaper_leaves_nothing_that_has_run_out(queue):
    for _ in range(5):
        queue.submit()
    worker = queue.open_worker()
    claims = [queue.claim_and_start(worker) for _ in range(4)]
    queue.advance(LEASE_S + 1)
    queue.renew(claims[0])
    assert queue.reap() == 3
    assert queue.reap() == 0


def test_progress_is_kept_and_never_goes_backwards(queue):
    job = queue.submit()
    claim = queue.claim_and_start(queue.open_worker())
    for done in (3, 7, 5):
        queue.renew(claim, Progress(phase="search", done=done, total=10))
    assert queue.show(job.id).job.progress == Progress(phase="search", done=7, total=10)


def test_a_renewal_tells_where_the_log_goes_on(queue):
    queue.submit()
    claim = queue.claim_and_start(queue.open_worker())
    queue.call(jobs.append_log, claim.job_id, 1, claim.token, 0, b"five\n")
    answer = queue.renew(claim)
    assert (answer.order, answer.lease_s, answer.renew_s, answer.log_offset) == ("continue", 300.0, 30.0, 5)


def test_fields_of_newer_workers_are_ignored():
    assert RenewRequest.model_validate({"token": "t", "mood": "good"}) == RenewRequest(token="t")


def _request(name):
    return SessionRequest(name=name, version="1", workflows={"find_largest_segment_id": 1})
