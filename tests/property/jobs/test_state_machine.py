"""T11: whatever users, workers, the reaper and the clock do, in any order, the rules hold after each step."""

import tempfile
from collections import Counter
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

import state_machines
from paid_work import PRICE, installed, with_credits
from voxelworks import credits, jobs
from voxelworks.errors import IllegalTransition, InvalidInput, LeaseLost, LogGap
from voxelworks.jobs._transitions import LEGAL
from voxelworks.protocol.messages import Progress, PublishedRequest
from voxelworks.protocol.views import TERMINAL_STATES
from voxelworks.testing.databases import postgresql_database, sqlite_database
from voxelworks.testing.queues import Queue
from voxelworks.testing.rounds import rounds

FAILURES = st.sampled_from(["infrastructure", "resources", "user_input", "program_error", "timed_out"])
CREDIT = 10**9
STEPS = 50
ABOUT = "Random histories of 50 steps: users, workers, the reaper, the clock"
HELD = ("claimed", "running", "cancelling")


class JobsMachine(RuleBasedStateMachine):
    """The queue beside what we know must be true of it."""

    open_database = None
    """Set for each database."""

    jobs = Bundle("jobs")
    workers = Bundle("workers")
    claims = Bundle("claims")
    orders = Bundle("orders")

    def __init__(self):
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._context = ExitStack()
        self._context.enter_context(installed())
        database = self._context.enter_context(type(self).open_database())
        self.queue = with_credits(Queue.over(database, Path(self._folder.name)), CREDIT)
        self.ended = {}
        """Job -> its whole view when it ended, but for its publication."""
        self.chains = {}
        """Job -> itself and its repeats, the same list for each of them."""
        self.cancel_asked = set()
        self.handed_over = set()  # jobs whose publication was ordered from another worker
        self.reports = {}
        """Attempt -> the terminal report that was accepted, and its answer."""
        self.logs = {}
        self.progress = {}

    def teardown(self):
        self._context.close()
        self._folder.cleanup()

    @initialize(target=workers)
    def first_worker(self):
        return self.queue.open_worker("worker 0")

    @rule(target=workers, number=st.integers(0, 2))
    def worker_starts(self, number):
        return self.queue.open_worker(f"worker {number}")

    @rule(
        target=jobs,
        priority=st.integers(0, 1),
        workflow=st.sampled_from(["segment", "find_largest_segment_id"]),
    )
    def submit(self, priority, workflow):
        return self.queue.submit(priority=priority, workflow=workflow).id

    @rule(target=jobs, first=jobs)
    def submit_after(self, first):
        if self._job(first).can_retry:
            with pytest.raises(InvalidInput):
                self.queue.submit(workflow="segment", after=[first])
            return multiple()
        return self.queue.submit(workflow="segment", after=[first]).id

    @rule(priority_class=st.sampled_from(["short", "long"]))
    def pause_or_resume(self, priority_class):
        paused = {pause.priority_class for pause in self.queue.call(jobs.queue_pauses)}
        function = jobs.resume_queue if priority_class in paused else jobs.pause_queue
        self.queue.call(function, by=self.queue.operator, priority_class=priority_class)

    @rule(target=claims, worker=workers)
    def claim(self, worker):
        try:
            claim = self.queue.call(jobs.claim, worker)
        except LeaseLost:
            return multiple()
        if claim is None:
            return multiple()
        assert claim.job_id not in self.cancel_asked, "a job that was cancelled was given away (R19)"
        for other in self._job(claim.job_id).after:
            seen = self._job(other)
            assert (seen.state, seen.publication) in (("succeeded", "none"), ("succeeded", "published"))
        self.logs[claim.job_id, claim.attempt] = 0
        return claim

    @rule(claim=claims, done=st.integers(0, 10))
    def renew(self, claim, done):
        held_before = self._is_held(claim)
        answer = self.queue.renew(claim, Progress(phase="search", done=done, total=10))
        job = self._job(claim.job_id)
        assert (answer.order == "lost") == (not self._is_held(claim) and not self._may_publish(claim))
        if held_before:
            assert answer.order == ("cancel" if claim.job_id in self.cancel_asked else "continue")
            key = (claim.job_id, claim.attempt)
            self.progress[key] = max(done, self.progress.get(key, 0))
            assert job.progress.done == self.progress[key]

    @rule(claim=claims)
    def seal(self, claim):
        self._report(claim, "seal", lambda: self.queue.seal(claim))

    @rule(claim=claims)
    def succeed(self, claim):
        answer = self._report(claim, "succeed", lambda: self.queue.succeed(claim))
        if answer is not None:
            assert answer.state in ("succeeded", "cancelled")

    @rule(claim=claims, failure_class=FAILURES)
    def fail(self, claim, failure_class):
        answer = self._report(claim, failure_class, lambda: self.queue.fail(claim, failure_class))
        if answer is not None and claim.job_id in self.cancel_asked:
            assert answer.state == "cancelled"

    @rule(claim=claims)
    def interrupt(self, claim):
        answer = self._report(claim, "interrupt", lambda: self.queue.finish(claim, outcome="interrupted"))
        if answer is not None:
            assert answer.state == ("cancelled" if claim.job_id in self.cancel_asked else "queued")

    @rule(claim=claims, gap=st.integers(0, 1), size=st.integers(1, 20))
    def log(self, claim, gap, size):
        key = (claim.job_id, claim.attempt)
        try:
            self.logs[key] = self.queue.call(
                jobs.append_log, *key, claim.token, self.logs[key] + gap, b"x" * size
            )
            assert gap == 0
        except LogGap:
            assert gap == 1
        except LeaseLost:
            assert not self._is_held(claim)

    @rule(claim=claims)
    def guess_a_token(self, claim):
        forged = claim.model_copy(update={"token": "guess"})
        assert self.queue.renew(forged).order == "lost"
        with pytest.raises(LeaseLost):
            self.queue.succeed(forged)

    @rule(job_id=jobs)
    def cancel(self, job_id):
        state = self._job(job_id).state
        try:
            after = self.queue.cancel(job_id).state
        except IllegalTransition:
            assert state in ("succeeded", "failed")
            return
        self.cancel_asked.add(job_id)
        assert after == ("cancelled" if state in ("queued", "cancelled") else "cancelling")

    @rule(target=jobs, job_id=jobs)
    def retry(self, job_id):
        job = self._job(job_id)
        refusal = None
        if not job.can_retry:
            refusal = IllegalTransition
        elif any(self._job(self._latest(other)).can_retry for other in job.after):
            refusal = InvalidInput  # what it waits for must be repeated first
        if refusal is None:
            repeat = self.queue.retry(job_id)
            self.chains[repeat.id] = chain = self.chains.setdefault(job_id, [job_id])
            chain.append(repeat.id)
            assert repeat.after == tuple(map(self._latest, job.after))
            return repeat.id
        with pytest.raises(refusal):
            self.queue.retry(job_id)
        return multiple()

    def _latest(self, job_id):
        """Give the latest repeat of a job."""
        views = map(self._job, self.chains.get(job_id, [job_id]))
        return max(views, key=lambda view: (view.created_ms, view.id)).id

    @rule(seconds=st.sampled_from([1, 60, 200, 301]))
    def time_passes(self, seconds):
        self.queue.advance(seconds)
        for view in self.ended.values():
            for date in ("created_ms", "available_ms", "started_ms", "ended_ms", "cancel_requested_ms"):
                if view[date] is not None:
                    view[date] -= seconds * 1000

    @rule()
    def sweep(self):
        self.queue.reap()
        assert self.queue.reap() == 0

    @rule(target=orders, worker=workers)
    def take_order(self, worker):
        try:
            order = self.queue.call(jobs.take_publish_order, worker)
        except LeaseLost:
            return multiple()
        if order is None:
            return multiple()
        self.handed_over.add(order.job_id)
        return order

    @rule(order=consumes(orders))
    def publish_by_order(self, order):
        self._publish(order)

    @rule(claim=claims)
    def publish(self, claim):
        self._publish(claim)

    def _publish(self, holder):
        try:
            self.queue.call(
                jobs.published, holder.job_id, holder.attempt, PublishedRequest(token=holder.token)
            )
        except LeaseLost:
            return
        assert self._job(holder.job_id).publication == "published"

    def _report(self, claim, what, report):
        """Make a report; give its answer if it is the first that the attempt got an answer to, None otherwise."""
        key = (claim.job_id, claim.attempt)
        try:
            answer = report()
        except (LeaseLost, IllegalTransition):
            assert self.reports.get(key, (None,))[0] != what, "a repeated report was refused (R10)"
            return None
        if what == "seal":
            return answer
        if key in self.reports:
            assert self.reports[key] == (what, answer), "a repeated report was answered differently (R10)"
            return None
        self.reports[key] = (what, answer)
        return answer

    def _job(self, job_id):
        return self.queue.show(job_id).job

    def _is_held(self, claim):
        job = self._job(claim.job_id)
        return job.attempt == claim.attempt and job.state in HELD

    def _may_publish(self, claim):
        job = self._job(claim.job_id)
        is_publisher = job.attempt == claim.attempt and claim.job_id not in self.handed_over
        return is_publisher and job.publication == "pending"

    @invariant()
    def rules_hold(self):
        operator, chosen = self.queue.operator, self.queue.settings
        with self.queue.database.read_session() as session:
            views = jobs.list_jobs(session, by=operator, settings=chosen, limit=1000).jobs
            for view in views:
                self._check(jobs.show(session, view.id, by=operator, settings=chosen))
            self._check_books(session, views)

    def _check_books(self, session, views):
        """I1 to I10: each paid job has one charge, which ended with it, and the books add up."""
        charges = credits.charges_of(session, [view.id for view in views])
        assert set(charges) == {view.id for view in views if view.workflow == "segment"}
        ends = {"succeeded": "settled", "failed": "released", "cancelled": "released"}
        for view in views:
            if view.id in charges:
                assert charges[view.id].state == ends.get(view.state, "held")
        balance = credits.balance(session, "local")
        states = Counter(charge.state for charge in charges.values())
        assert balance.held == PRICE * states["held"]
        assert balance.available == CREDIT - PRICE * (states["held"] + states["settled"])
        assert credits.check(session) == ()

    def _check(self, detail):
        job = detail.job
        states = [
            (event.from_state, event.to_state)
            for event in detail.events
            if event.from_state != event.to_state
        ]
        # R1: only legal transitions, one after another, and the last one is where the job is.
        assert states[0] == (None, "queued")
        assert states[-1][1] == job.state
        for (_, before), (seen, after) in pairwise(states):
            assert before == seen
            assert after in LEGAL[before]
        assert sum(after in TERMINAL_STATES for _, after in states) == (job.state in TERMINAL_STATES)
        # R4: attempts are numbered through, and only the last one can be open.
        assert [attempt.number for attempt in detail.attempts] == list(range(1, job.attempt + 1))
        is_open = [attempt.ended_ms is None for attempt in detail.attempts]
        assert is_open == [False] * (job.attempt - 1) + [job.state in HELD] * (job.attempt > 0)
        # R10: state, result and publication belong together.
        assert (job.state == "succeeded") == (job.result is not None) == (job.publication != "none")
        assert (job.ended_ms is not None) == (job.state in TERMINAL_STATES)
        # R19: nothing but a sealed success passes by a cancel.
        if job.id in self.cancel_asked:
            assert job.state in ("cancelling", "cancelled", "succeeded")
        # Terminal states are final, and with them everything but the publication.
        if job.state in TERMINAL_STATES:
            fixed = job.model_dump(
                exclude={"as_of_ms", "updated_ms", "published_ms", "publication", "publish_error"}
            )
            assert self.ended.setdefault(job.id, fixed) == fixed


@pytest.mark.faults("T11", ABOUT)
def test_the_rules_hold_on_sqlite(record_property):
    count = rounds(15, 500)
    state_machines.run(JobsMachine, sqlite_database, examples=count, steps=STEPS)
    record_property("database", "sqlite")
    record_property("histories", count)


@pytest.mark.faults("T11", ABOUT)
def test_the_rules_hold_on_postgresql(postgresql_server, record_property):
    count = rounds(5, 500)
    state_machines.run(
        JobsMachine, lambda: postgresql_database(postgresql_server), examples=count, steps=STEPS
    )
    record_property("database", "postgresql")
    record_property("histories", count)
