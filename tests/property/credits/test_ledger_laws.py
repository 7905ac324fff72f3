"""T12: random histories leave the ledger where a simple model of it is, after each step (I1-I11, I18, I23, I24)."""

import os
import random
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.orm import Session

from voxelworks import credits
from voxelworks.errors import IllegalTransition, NotEnoughCredits
from voxelworks.testing.clocks import moved_clock
from voxelworks.testing.databases import postgresql_database, sqlite_database
from voxelworks.testing.forks import run_forked
from voxelworks.testing.ledgers import Ledger
from voxelworks.testing.rounds import rounds

STEPS = 40
PHASES = (Phase.generate,) if os.environ.get("VOXELWORKS_TEST_BRIEF") else tuple(Phase)
"""Mutation tests want to know whether a history fails, and not the shortest one that does."""
MILLISECOND, HOUR, DAY = 1, 3_600_000, 86_400_000
BEGIN_MS = round(datetime(2027, 12, 20, tzinfo=UTC).timestamp() * 1000)
FREE = 1000
INFINITE = 10**18

jobs = st.integers(0, 5).map("job {}".format)
steps = st.one_of(
    st.tuples(st.just("hold"), jobs, st.integers(0, 700)),
    st.tuples(st.just("hold quoted"), jobs, st.integers(0, 700)),
    st.tuples(st.just("settle"), jobs),
    st.tuples(st.just("release"), jobs, st.booleans()),
    st.tuples(st.just("refund"), jobs),
    st.tuples(
        st.just("grant"), st.sampled_from(["paid", "compensation"]), st.integers(1, 500),
        st.sampled_from([None, MILLISECOND, HOUR, 3 * DAY, 40 * DAY, "end of the month"]),
    ),
    st.tuples(st.just("month")),
    st.tuples(st.just("expire")),
    st.tuples(
        st.just("time"),
        st.sampled_from([MILLISECOND, HOUR, -2 * HOUR, DAY, 8 * DAY, 40 * DAY, "last millisecond", "end of the month"]),
    ),
)  # fmt: skip


@dataclass
class Grant:
    """Where the credits of one grant are."""

    id: int
    kind: str
    left: int
    starts: int
    ends: int
    held: int = 0
    spent: int = 0
    expired: int = 0

    @property
    def order(self):
        return self.ends, ["free", "compensation", "paid"].index(self.kind), self.id


@dataclass
class Model:
    """The whole ledger, in a few lines that are easily seen to be right."""

    now: int = BEGIN_MS
    grants: dict[int, Grant] = field(default_factory=dict)
    months: set[str] = field(default_factory=set)
    open: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """Job -> what it holds: grant and amount, in the order in which it was taken."""
    spent: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """Job -> what its latest charge has spent, in the same form."""
    charges: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    """Job -> number, amount and state of its latest charge."""

    def month(self):
        return datetime.fromtimestamp(self.now // 1000, UTC).strftime("%Y-%m")

    def month_bounds(self):
        year, month = map(int, self.month().split("-"))
        first, following = (year, month), (year + month // 12, month % 12 + 1)
        return tuple(round(datetime(*each, 1, tzinfo=UTC).timestamp() * 1000) for each in (first, following))

    def usable(self):
        found = [
            grant for grant in self.grants.values() if grant.left and grant.starts <= self.now < grant.ends
        ]
        return sorted(found, key=lambda grant: grant.order)

    def can_spend(self):
        return sum(grant.left for grant in self.usable())

    def book_expired(self):
        for grant in self.grants.values():
            if grant.ends <= self.now:
                grant.expired, grant.left = grant.expired + grant.left, 0

    def give_month(self, grant_id):
        self.months.add(self.month())
        starts, ends = self.month_bounds()
        self.grants[grant_id] = Grant(grant_id, "free", FREE, starts, ends)

    def hold(self, job, amount):
        assert self.can_spend() >= amount
        self.open[job] = []
        self.spent.pop(job, None)
        self.charges[job] = (self.charges.get(job, (0,))[0] + 1, amount, "held")
        for grant in self.usable():
            part = min(amount, grant.left)
            if part:
                grant.left, grant.held, amount = grant.left - part, grant.held + part, amount - part
                self.open[job].append((grant.id, part))

    def end(self, job, state):
        """End a charge; give what went back to grants that had ended, and so expired."""
        self.charges[job] = (*self.charges[job][:2], state)
        parts = self.open.pop(job)
        for grant_id, part in parts:
            self.grants[grant_id].held -= part
        if state == "released":
            return self.give_back(parts)
        for grant_id, part in parts:
            self.grants[grant_id].spent += part
        self.spent[job] = parts
        return 0

    def refund(self, job):
        """Take back what was spent; give what went to grants that had ended."""
        self.charges[job] = (*self.charges[job][:2], "released")
        parts = self.spent.pop(job)
        for grant_id, part in parts:
            self.grants[grant_id].spent -= part
        return self.give_back(parts)

    def give_back(self, parts):
        lost = 0
        for grant_id, part in parts:
            grant = self.grants[grant_id]
            if grant.ends <= self.now:
                grant.expired, lost = grant.expired + part, lost + part
            else:
                grant.left += part
        return lost


class Run:
    """One history: each step is made in the ledger and in the model, and then they must be the same."""

    def __init__(self, connection, ledger, clock):
        self.connection, self.ledger, self.clock = connection, ledger, clock
        self.model = Model()
        self.compared = None
        """What was compared last: all grants, and the time."""
        self.clock.set(self.model.now)

    def call(self, function, *args, **kwargs):
        # Its own session, as a request has; but no commit, so that the whole history is rolled back in the end.
        with Session(self.connection, join_transaction_mode="create_savepoint") as session, session.begin():
            return function(session, *args, **kwargs)

    def step(self, name, *args):
        getattr(self, name.replace(" ", "_"))(*args)

    def must_be_the_same(self):
        stored = self.connection.exec_driver_sql(
            "SELECT id, amount, available, held, spent, expired FROM credit_grants ORDER BY id"
        ).all()
        assert [tuple(row) for row in stored] == [
            (grant.id, grant.left + grant.held + grant.spent + grant.expired, grant.left, grant.held, grant.spent,
             grant.expired)
            for grant in self.model.grants.values()
        ]  # fmt: skip
        if (stored, self.model.now) == self.compared:
            return  # the step was refused, or had nothing to do
        self.compared = stored, self.model.now
        usable = self.model.usable()
        shown = self.call(credits.balance, "lab")
        assert [(grant.id, grant.available) for grant in shown.grants] == [
            (grant.id, grant.left) for grant in usable
        ]
        assert shown.available == self.model.can_spend() == self.sum_of_entries()
        assert shown.held == sum(part for parts in self.model.open.values() for _, part in parts)

    def sum_of_entries(self):
        """What the entries say that can be spent now, with nothing that has expired."""
        found = self.connection.exec_driver_sql(
            "SELECT coalesce(sum(CASE WHEN to_account = 'available' THEN e.amount ELSE 0 END"
            " - CASE WHEN from_account = 'available' THEN e.amount ELSE 0 END), 0)"
            " FROM credit_entries e JOIN credit_grants g ON g.id = e.grant_id"
            f" WHERE coalesce(g.starts_ms, 0) <= {self.model.now}"
            f" AND coalesce(g.expires_ms, {INFINITE}) > {self.model.now}"
        )
        return int(found.scalar_one())

    def hold(self, job, amount, quote_id=None):
        """Give whether it was held."""
        try:
            held = self.call(
                credits.hold, organization_id="lab", job_id=job, price_name="voxel", quantity=amount,
                quote_id=quote_id, settings=self.ledger.settings, who="user:ada",
            )  # fmt: skip
        except IllegalTransition:
            assert job in self.model.open
            return False
        except NotEnoughCredits:
            # Refused, and nothing has changed: neither the month's grant nor what had expired was booked.
            coming = FREE if self.model.month() not in self.model.months else 0
            assert self.model.can_spend() + coming < amount
            return False
        assert held == amount
        if amount:
            assert job not in self.model.open
            self.model.book_expired()
            if self.model.month() not in self.model.months:
                self.model.give_month(self.newest_grant())
            self.model.hold(job, amount)
        return True

    def hold_quoted(self, job, amount):
        quoted = self.call(
            credits.quote, organization_id="lab", user_id="ada", price_name="voxel", quantity=amount,
            settings=self.ledger.settings,
        )  # fmt: skip
        self.month_was_made()
        assert (quoted.amount, quoted.available) == (amount, self.model.can_spend())
        assert quoted.has_enough == (quoted.available >= amount)
        is_free_to_hold = job not in self.model.open or amount == 0
        assert self.hold(job, amount, quoted.id) == (quoted.has_enough and is_free_to_hold)

    def settle(self, job):
        assert self.call(credits.settle, job, who="server") is None
        if job in self.model.open:
            self.model.book_expired()
            self.model.end(job, "settled")

    def release(self, job, is_our_fault):
        returned = self.call(credits.release, job, is_our_fault=is_our_fault, who="server")
        self.went_back(
            job, returned, self.model.open.get(job), lambda: self.model.end(job, "released"), is_our_fault
        )

    def refund(self, job):
        returned = self.call(credits.refund, job, who="server")
        self.went_back(job, returned, self.model.spent.get(job), lambda: self.model.refund(job), True)

    def went_back(self, job, returned, parts, give_back, is_our_fault):
        if parts is None:
            assert returned is None
            return
        assert [(part.grant_id, part.amount) for part in returned.parts] == parts
        assert returned.amount == self.model.charges[job][1] == sum(part for _, part in parts)
        self.model.book_expired()
        lost = give_back()
        assert sum(part.amount for part in returned.parts if part.has_expired) == lost
        assert returned.compensated == (lost if is_our_fault else 0)
        assert returned.usable == returned.amount - lost + returned.compensated
        if returned.compensated:
            ends = max(self.model.month_bounds()[1], self.model.now + 7 * DAY)
            grant_id = self.newest_grant()
            self.model.grants[grant_id] = Grant(grant_id, "compensation", lost, 0, ends)

    def grant(self, kind, amount, lasts):
        ends = (
            self.model.month_bounds()[1] if lasts == "end of the month" else lasts and self.model.now + lasts
        )
        made = self.call(credits.grant, "lab", amount, kind=kind, expires_ms=ends, who="user:operator")
        self.model.book_expired()
        self.model.grants[made.id] = Grant(made.id, kind, amount, 0, ends or INFINITE)

    def month(self):
        made = self.call(credits.ensure_monthly, "lab", "UTC", self.ledger.settings)
        assert (made is None) == (self.model.month() in self.model.months)
        self.month_was_made()

    def month_was_made(self):
        if self.model.month() not in self.model.months:
            self.model.book_expired()
            self.model.give_month(self.newest_grant())

    def expire(self):
        due = sum(grant.left > 0 and grant.ends <= self.model.now for grant in self.model.grants.values())
        assert self.call(credits.expire) == due
        self.model.book_expired()

    def time(self, step):
        end = self.model.month_bounds()[1]
        self.model.now = {"last millisecond": end - 1, "end of the month": end}.get(
            step
        ) or self.model.now + step
        self.clock.set(self.model.now)

    def newest_grant(self):
        return self.connection.execute(text("SELECT max(id) FROM credit_grants")).scalar_one()

    def finish(self):
        """The books are right, all charges are told, and every job can end."""
        assert self.call(credits.check) == ()
        told = self.call(credits.charges_of, [f"job {number}" for number in range(6)])
        assert {
            job: (charge.number, charge.amount, charge.state) for job, charge in told.items()
        } == self.model.charges
        for job in list(self.model.open):
            self.release(job, False)
        self.must_be_the_same()
        assert self.call(credits.balance, "lab").held == 0
        assert self.call(credits.check) == ()


@contextmanager
def _ledger(database):
    with tempfile.TemporaryDirectory() as folder, moved_clock(database) as clock:
        yield Ledger.over(database, Path(folder), monthly_free_credits=FREE // 1000), clock


def _prove(database, count, chance=0):
    with _ledger(database) as (ledger, clock):

        @seed(chance)
        @settings(
            max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), database=None, phases=PHASES
        )  # fmt: skip
        @given(history=st.lists(steps, min_size=STEPS, max_size=STEPS))
        def follow(history):
            with database.engine.connect() as connection, connection.begin() as transaction:
                run = Run(connection, ledger, clock)
                for step in history:
                    run.step(*step)
                    run.must_be_the_same()
                run.finish()
                transaction.rollback()

        follow()


def _prove_in_a_process(count, chance):
    with sqlite_database() as database:
        _prove(database, count, chance)


@pytest.mark.timeout(900)
@pytest.mark.faults("T12", "Random histories of 40 operations against a simple model")
def test_the_ledger_is_where_its_model_is_on_sqlite(record_property):
    chance, count, process_count = random.randrange(2**32), rounds(1000, 10_000), os.cpu_count() or 1
    shares = [count // process_count + (number < count % process_count) for number in range(process_count)]
    print(f"seed {chance}")
    proofs = [partial(_prove_in_a_process, share, chance + number) for number, share in enumerate(shares)]
    assert run_forked(proofs) == 0
    record_property("database", "sqlite")
    record_property("histories", count)
    record_property("operations", count * STEPS)


@pytest.mark.faults("T12", "Random histories of 40 operations against a simple model")
def test_the_ledger_is_where_its_model_is_on_postgresql(postgresql_server, record_property):
    chance, count = random.randrange(2**32), rounds(25, 1000)
    print(f"seed {chance}")
    with postgresql_database(postgresql_server) as database:
        _prove(database, count, chance)
    record_property("database", "postgresql")
    record_property("histories", count)
    record_property("operations", count * STEPS)
