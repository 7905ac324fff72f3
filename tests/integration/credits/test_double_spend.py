"""T13 and I3, I5-I7: whatever happens at once, nothing is spent, returned or settled twice."""

import random

import pytest

from voxelworks import credits
from voxelworks.db import Database
from voxelworks.errors import NotEnoughCredits
from voxelworks.protocol.credits import Returned
from voxelworks.testing.databases import postgresql_database
from voxelworks.testing.ledgers import Ledger
from voxelworks.testing.queues import at_once
from voxelworks.testing.rounds import rounds


@pytest.fixture
def ledgers(database, tmp_path):
    """Two ledgers over one database, as two server processes have them: they share no lock but the database's."""
    ledger = Ledger.over(database, tmp_path)
    second = Database(database.engine.url)
    yield ledger, Ledger(second, ledger.settings)
    second.close()
    ledger.must_be_right()


@pytest.mark.faults("T13", "2 to 50 jobs of 60 are submitted at once to a balance of 100")
def test_nothing_is_spent_twice(ledgers, record_property):
    seed = random.randrange(2**32)
    chance, round_count, request_count = random.Random(seed), rounds(1000, 10_000), 0
    print(f"seed {seed}")
    for number in range(round_count):
        organization_id = f"lab {number}"
        ledgers[0].grant(100, organization_id)
        # Two at once are the usual case, and the one with most rounds; now and then there is a crowd.
        crowd = min(50, int(2 / (1 - chance.random()) ** 0.5))
        request_count += crowd
        answers = at_once([
            lambda name=f"job {number} {request}", ledger=ledgers[request % 2], lab=organization_id: ledger.hold(
                name, 60, lab
            )
            for request in range(crowd)
        ])  # fmt: skip
        assert answers.count(60) == 1
        assert sum(isinstance(answer, NotEnoughCredits) for answer in answers) == crowd - 1
        balance = ledgers[0].balance(organization_id)
        assert (balance.available, balance.held) == (40, 60)
    record_property("database", ledgers[0].database.engine.dialect.name)
    record_property("seed", seed)
    record_property("rounds", round_count)
    record_property("requests", request_count)
    record_property("spent twice", 0)


def test_fifty_threads_never_make_anything_negative(ledgers):
    """Holds, settles, releases, grants and expiry of one organization, all at once."""
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    for _ in range(rounds(2, 50)):
        ledgers[0].grant(chance.randint(50, 500))
        plans = [
            (ledgers[number % 2], f"job {chance.randrange(2**64)}", chance.choice(("settle", "release", "")))
            for number in range(50)
        ]
        answers = at_once([lambda plan=plan: _live(*plan) for plan in plans])
        unexpected = [
            answer for answer in answers if isinstance(answer, Exception) and not isinstance(answer, NotEnoughCredits)
        ]  # fmt: skip
        assert unexpected == [], f"seed {seed}"
        ledgers[0].must_be_right()
    _end_what_is_open(ledgers[0])


def _live(ledger, job_id, end):
    ledger.hold(job_id, 10)
    if end:
        getattr(ledger, end)(job_id)
    ledger.call(credits.expire)


def _end_what_is_open(ledger):
    rows = ledger.read(credits.activity, "lab", kinds=["spending"], limit=10_000).rows
    for row in rows:
        ledger.settle(row.job_id)
    assert ledger.balance().held == 0


def test_a_charge_ends_once_whoever_reports_its_end(ledgers):
    for number in range(rounds(100, 1000)):
        ledger, job_id = ledgers[0], f"job {number}"
        ledger.grant(10)
        available = ledger.available()
        ledger.hold(job_id, 10)
        ends = [
            lambda ledger=ledger, end=end, job_id=job_id: getattr(ledger, end)(job_id)
            for ledger in ledgers
            for end in ("settle", "release", "release")
        ]
        answers = at_once(ends)
        assert not [answer for answer in answers if isinstance(answer, Exception)]
        refunds = [answer for answer in answers if isinstance(answer, Returned)]
        charge = ledger.charge(job_id)
        assert len(refunds) == (charge.state == "released")
        assert ledger.available() == available - (charge.state == "settled") * 10
        assert ledger.balance().held == 0


def test_the_same_job_is_charged_once_by_two_submissions_at_once(ledgers):
    for number in range(rounds(50, 500)):
        ledgers[0].grant(100)
        available = ledgers[0].available()
        answers = at_once(
            [lambda ledger=ledger, number=number: ledger.hold(f"job {number}", 10) for ledger in ledgers * 2]
        )
        assert answers.count(10) == 1
        assert ledgers[0].available() == available - 10


def test_organizations_do_not_wait_for_each_other(postgresql_server, tmp_path):
    """A hold that is not committed yet holds up its own organization alone. SQLite has one writer for all."""
    with postgresql_database(postgresql_server) as database:
        ledger = Ledger.over(database, tmp_path)
        ledger.grant(10, "a")
        ledger.grant(10, "b")
        with database.session() as session:
            credits.hold(
                session, organization_id="a", job_id="a", price_name="voxel", quantity=1, quote_id=None,
                settings=ledger.settings, who="user:ada",
            )  # fmt: skip
            assert ledger.hold("b", 1, "b") == 1
        assert (ledger.available("a"), ledger.available("b")) == (9, 9)
