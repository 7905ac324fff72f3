"""T35: whatever workers of WEBKNOSSOS say, in any order, ends stay ends and no two workers hold a job."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

import state_machines
from voxelworks import accounts, jobs
from voxelworks.db import SecretBox
from voxelworks.errors import IllegalTransition, LeaseLost, NotFound
from voxelworks.jobs import ForeignWorker
from voxelworks.protocol.foreign import WIRE_STATES, ForeignReport
from voxelworks.protocol.views import TERMINAL_STATES
from voxelworks.testing.databases import postgresql_database, sqlite_database
from voxelworks.testing.queues import Queue
from voxelworks.testing.rounds import rounds

WORKERS = st.integers(0, 1)
RUN_IDS = st.sampled_from(["run-1", "run-2", None])


class Conversations(RuleBasedStateMachine):
    """Two workers, one of ours, and people who cancel and repeat."""

    open_database = None
    """Set for each database."""

    roots = Bundle("roots")

    def __init__(self):
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._context = type(self).open_database()
        self.queue = Queue.over(self._context.__enter__(), Path(self._folder.name))
        self.box = SecretBox(self.queue.settings.secret_key_file)
        self.workers = []
        self.ended = {}
        """Job -> its view when it ended."""
        self.had = set()
        """(worker, root) that was listed to run once."""

    def teardown(self):
        self._context.__exit__(None, None, None)
        self._folder.cleanup()

    @initialize()
    def workers_are_known(self):
        for name in ("first", "second"):
            secret, key = self.queue.call(
                accounts.create_worker_key, self.queue.operator, name, high_slots=2, low_slots=2
            )
            self.workers.append(ForeignWorker(key, secret))
        self.native = self.queue.open_worker("native")

    @rule(target=roots)
    def submit(self):
        return self.queue.submit().id

    @rule(number=WORKERS)
    def poll(self, number):
        worker = self.workers[number]
        self.queue.call(jobs.keep_foreign, worker, version="1", box=self.box)
        while self.queue.call(jobs.take_foreign, worker, box=self.box):
            pass
        orders = self.queue.call(jobs.foreign_orders, worker, box=self.box)
        to_run = {order.root_id for order in orders.to_run}
        assert not to_run & {order.root_id for order in orders.to_cancel}
        assert {order.root_id for order in orders.to_cancel} <= {
            root for who, root in self.had if who == number
        }
        for root in to_run:
            assert self._latest(root).state in ("claimed", "running")
        self.had |= {(number, root) for root in to_run}

    @rule(number=WORKERS, root=roots, state=st.sampled_from(WIRE_STATES), run_id=RUN_IDS)
    def report(self, number, root, state, run_id):
        before = self._latest(root)
        told = ForeignReport(state=state, latest_run_id=run_id, return_value="3")
        try:
            self.queue.call(jobs.report_foreign, self.workers[number], root, told, made=None, box=self.box)
        except NotFound:
            assert (number, root) not in self.had
            return
        except LeaseLost:
            assert self._latest(root).state == before.state
            return
        assert (number, root) in self.had
        after = self._latest(root)
        if state == "SUCCESS" and before.state in ("claimed", "running"):
            assert after.state in ("succeeded", before.state)

    @rule(root=roots)
    def cancel(self, root):
        with suppress(IllegalTransition):
            self.queue.cancel(self._latest(root).id)

    @rule(root=roots)
    def retry(self, root):
        with suppress(IllegalTransition):
            self.queue.call(jobs.retry, self._latest(root).id, by=self.queue.principal("ada"))

    @rule()
    def a_worker_of_ours_takes_and_ends_a_job(self):
        claim = self.queue.call(jobs.claim, self.native)
        if claim is not None and self.queue.renew(claim).order == "continue":
            self.queue.fail(claim, "user_input")

    @rule(leases=st.sampled_from([0.5, 1.1]))
    def time_passes(self, leases):
        self.queue.advance(leases * self.queue.settings.lease_s)
        self.queue.reap()

    @invariant()
    def ends_are_final(self):
        for job in self.queue.call(
            jobs.list_jobs, by=self.queue.principal("ada"), settings=self.queue.settings, limit=500
        ).jobs:
            end = (job.state, job.message, job.result)
            if job.state in TERMINAL_STATES:
                assert self.ended.setdefault(job.id, end) == end
            assert job.id not in self.ended or job.state in TERMINAL_STATES

    def _latest(self, root):
        (latest, *_) = self.queue.call(jobs.chain_of, root).job_ids
        return self.queue.show(latest).job


@pytest.mark.parametrize("name", ["sqlite", "postgresql"])
def test_any_conversation_keeps_the_rules(name, request):
    if name == "sqlite":
        opened = sqlite_database
    else:
        server = request.getfixturevalue("postgresql_server")

        def opened():
            return postgresql_database(server)

    examples = rounds(10 if name == "sqlite" else 3, 500)
    state_machines.run(Conversations, opened, examples=examples, steps=40)
