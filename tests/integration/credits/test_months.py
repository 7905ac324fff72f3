"""T15: free credits of each month, and expiry to the millisecond (I11-I15, I24)."""

import random
from datetime import UTC, datetime
from functools import partial
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select

from voxelworks import credits
from voxelworks.credits._tables import GrantRow
from voxelworks.errors import InvalidInput, NotEnoughCredits
from voxelworks.testing.forks import run_forked
from voxelworks.testing.ledgers import Ledger
from voxelworks.testing.queues import at_once

HOUR_S = 3600
ZONES = ["UTC", "Europe/Berlin", "Pacific/Auckland", "Pacific/Honolulu", "Asia/Kathmandu"]
MONTHS = [(year, month) for year in (2027, 2028) for month in range(1, 13)]
"""With a leap year, all changes of the clocks and two ends of a year."""


@pytest.fixture
def ledger(database, tmp_path):
    ledger = Ledger.over(database, tmp_path, monthly_free_credits=1)
    yield ledger
    ledger.must_be_right()


def _first_ms(year, month, zone):
    year, month = (year + 1, 1) if month == 13 else (year, month)
    return round(datetime(year, month, 1, tzinfo=ZoneInfo(zone)).timestamp() * 1000)


def _free_grants(ledger, organization_id="lab"):
    query = select(GrantRow.period).where(
        GrantRow.organization_id == organization_id, GrantRow.kind == "free"
    )
    return ledger.read(lambda session: session.scalars(query.order_by(GrantRow.id)).all())


def _available(ledger):
    return {grant.period: grant.available for grant in ledger.balance().grants}


@pytest.mark.parametrize("zone", ZONES)
def test_two_years_of_months(ledger, clock, zone):
    """At the very instant a month's credits are gone, and the next ones are there."""
    for year, month in MONTHS:
        key = f"{year}-{month:02}"
        clock.set(_first_ms(year, month, zone))
        made = ledger.ensure_monthly(zone=zone)
        assert (made.period, made.amount, made.starts_ms) == (key, 1000, clock.at_ms)
        assert _available(ledger) == {key: 1000}
        assert ledger.hold(key, 400) == 400
        clock.set(_first_ms(year, month + 1, zone) - 1)
        assert ledger.ensure_monthly(zone=zone) is None
        assert _available(ledger) == {key: 600}
        assert ledger.hold(f"{key} late", 100) == 100
        clock.set(_first_ms(year, month + 1, zone))
        assert _available(ledger) == {}
        # Jobs over the end of the month are settled from the grant that they reserved.
        ledger.settle(key)
        returned = ledger.release(f"{key} late")
        assert [part.has_expired for part in returned.parts] == [True]
    assert _free_grants(ledger) == [f"{year}-{month:02}" for year, month in MONTHS]
    with ledger.database.read_session() as session:
        for grant in session.scalars(select(GrantRow)):
            assert (grant.available, grant.held, grant.spent, grant.expired) == (0, 0, 400, 600)


@pytest.mark.parametrize("zone", ZONES)
def test_a_server_that_was_off_over_the_end_of_the_month(ledger, clock, zone):
    clock.set(_first_ms(2027, 1, zone))
    ledger.ensure_monthly(zone=zone)
    clock.set(_first_ms(2027, 4, zone) + HOUR_S * 1000)
    assert ledger.available() == 0
    assert ledger.call(credits.expire) == 1
    assert ledger.call(credits.expire) == 0
    assert ledger.ensure_monthly(zone=zone).period == "2027-04"
    assert _free_grants(ledger) == ["2027-01", "2027-04"]  # months without the server are not made up for
    assert ledger.history() == [("free", 1000, 1000), ("expiry", -1000, 0), ("free", 1000, 1000)]


@pytest.mark.parametrize("zone", ZONES)
def test_a_clock_that_goes_back_gives_nothing_twice(ledger, clock, zone):
    clock.set(_first_ms(2027, 6, zone) - HOUR_S * 1000)
    ledger.ensure_monthly(zone=zone)
    clock.set(_first_ms(2027, 6, zone) + HOUR_S * 1000)
    assert ledger.ensure_monthly(zone=zone).period == "2027-06"
    clock.advance(seconds=-2 * HOUR_S)
    assert ledger.ensure_monthly(zone=zone) is None
    # The month that has not begun pays nothing yet; the one before was booked as expired.
    assert ledger.available() == 0
    with pytest.raises(NotEnoughCredits):
        ledger.hold("early", 1)
    clock.advance(seconds=2 * HOUR_S)
    assert ledger.ensure_monthly(zone=zone) is None
    assert _available(ledger) == {"2027-06": 1000}
    assert _free_grants(ledger) == ["2027-05", "2027-06"]


def test_many_servers_at_once_give_a_month_once(ledger, clock):
    for year, month in MONTHS[:6]:
        clock.set(_first_ms(year, month, "UTC"))
        made = at_once([ledger.ensure_monthly] * 8)
        assert [type(grant).__name__ for grant in made].count("GrantView") == 1
        assert [type(grant).__name__ for grant in made].count("NoneType") == 7
    assert _free_grants(ledger) == [f"{year}-{month:02}" for year, month in MONTHS[:6]]


@pytest.mark.parametrize("zone", ZONES)
def test_many_processes_at_once_give_each_month_once(ledger, clock, zone):
    """8 processes, each with its own clock within two hours of the others, over the end of every month of two years."""
    ledger.database.close()
    seed = random.randrange(2**32)
    servers = [partial(_serve, ledger, clock, zone, random.Random(f"{seed} {number}")) for number in range(8)]
    assert run_forked(servers) == 0, f"seed {seed}"
    given = _free_grants(ledger)
    months = [f"{year}-{month:02}" for year, month in MONTHS]
    assert sorted(given) in (months, ["2026-12", *months]), f"seed {seed}"


def _serve(ledger, clock, zone, chance):
    for year, month in MONTHS:
        begin_ms = _first_ms(year, month, zone)
        for _ in range(2):
            clock.set(begin_ms + round(chance.uniform(-HOUR_S, HOUR_S) * 1000))
            ledger.ensure_monthly(zone=zone)
        clock.set(begin_ms + 2 * HOUR_S * 1000)
        ledger.ensure_monthly(zone=zone)
        ledger.call(credits.expire)


@pytest.mark.parametrize(
    ("zone", "end"),
    [
        ("UTC", "2028-03-01T00:00:00+00:00"),  # 29 February
        ("UTC", "2027-03-01T00:00:00+00:00"),  # 28 February
        ("UTC", "2027-01-01T00:00:00+00:00"),
        ("Europe/Berlin", "2027-04-01T00:00:00+02:00"),  # summer time began
        ("Europe/Berlin", "2027-11-01T00:00:00+01:00"),  # and ended
        ("Europe/Berlin", "2028-03-01T00:00:00+01:00"),
        ("Pacific/Auckland", "2027-05-01T00:00:00+12:00"),
        ("Pacific/Auckland", "2027-10-01T00:00:00+13:00"),
        ("Pacific/Auckland", "2027-01-01T00:00:00+13:00"),
        ("Pacific/Honolulu", "2027-03-01T00:00:00-10:00"),
        ("Pacific/Honolulu", "2027-01-01T00:00:00-10:00"),
    ],
)
def test_credits_expire_at_the_instant(ledger, clock, zone, end):
    end_ms = round(datetime.fromisoformat(end).timestamp() * 1000)
    clock.set(end_ms - 86_400_000)
    assert ledger.ensure_monthly(zone=zone).expires_ms == end_ms
    clock.set(end_ms - 1)
    assert ledger.available() == 1000
    assert ledger.hold("in time", 1) == 1
    clock.set(end_ms)
    assert ledger.available() == 0
    # A hold gives the new month by itself, and pays with that.
    assert ledger.hold("late", 1000) == 1000
    assert ledger.available() == 0
    assert ledger.history()[-2:] == [("free", 1000, 1000), ("spending", -1000, 0)]


def test_expired_credits_pay_nothing_although_nobody_has_booked_it(ledger, clock):
    ledger = Ledger(ledger.database, ledger.settings.model_copy(update={"monthly_free_credits": 0}))
    ledger.grant(100, expires_ms=clock.at_ms + 1)
    clock.advance(seconds=0.001)
    assert ledger.available() == 0
    with pytest.raises(NotEnoughCredits, match="and 0 can be spent"):
        ledger.hold("a", 1)
    assert ledger.history() == [("purchase", 100, 100)]  # the refused submission left nothing behind
    assert ledger.call(credits.expire) == 1
    assert ledger.history() == [("purchase", 100, 100), ("expiry", -100, 0)]


def test_an_organization_that_is_new_in_mid_month_gets_one_grant(ledger, clock):
    assert ledger.ensure_monthly("old") is not None
    before = ledger.balance("old")
    clock.advance(days=5)
    made = ledger.ensure_monthly("new")
    assert (made.period, made.amount) == ("2026-03", 1000)
    assert [ledger.ensure_monthly(name) for name in ("new", "old")] == [None, None]
    assert (_free_grants(ledger, "new"), _free_grants(ledger, "old")) == (["2026-03"], ["2026-03"])
    assert ledger.balance("old") == before


def test_another_grant_that_expires_with_the_month_does_not_replace_the_free_one(ledger, clock):
    end_ms = _first_ms(2026, 4, "UTC")
    ledger.grant(5, expires_ms=end_ms)
    ledger.grant(5, expires_ms=end_ms, kind="compensation")
    assert ledger.ensure_monthly().amount == 1000
    assert ledger.available() == 1010


def test_a_month_that_was_spent_is_not_given_again(ledger, clock):
    ledger.ensure_monthly()
    ledger.hold("a", 1000)
    ledger.settle("a")
    assert ledger.ensure_monthly() is None
    assert ledger.available() == 0


def test_an_organization_that_moves_gets_a_month_once(ledger, clock):
    ledger.ensure_monthly(zone="Europe/Berlin")
    for zone in ("Pacific/Auckland", "Pacific/Honolulu", "UTC"):
        assert ledger.ensure_monthly(zone=zone) is None
    clock.set(_first_ms(2026, 4, "Pacific/Honolulu"))
    assert ledger.ensure_monthly(zone="Pacific/Honolulu").expires_ms == _first_ms(2026, 5, "Pacific/Honolulu")
    assert _free_grants(ledger) == ["2026-03", "2026-04"]


def test_holds_and_quotes_know_the_months_of_the_organization(ledger, clock):
    ledger.ensure_monthly(zone="Pacific/Auckland")
    clock.set(_first_ms(2026, 4, "Pacific/Auckland"))
    quoted = ledger.call(
        credits.quote, organization_id="lab", user_id="ada", price_name="voxel", quantity=1000
    )
    assert (quoted.available, quoted.has_enough) == (1000, True)
    assert ledger.balance().grants[0].period == "2026-04"
    clock.set(_first_ms(2026, 5, "Pacific/Auckland"))
    assert ledger.hold("a", 1000) == 1000
    assert _free_grants(ledger) == ["2026-03", "2026-04", "2026-05"]


def test_an_unknown_zone_is_refused_and_changes_nothing(ledger):
    with pytest.raises(InvalidInput, match="'Atlantis' is not a known time zone"):
        ledger.ensure_monthly(zone="Atlantis")
    assert _free_grants(ledger) == []


def test_without_free_credits_the_zone_is_remembered_all_the_same(ledger, clock):
    without = Ledger(ledger.database, ledger.settings.model_copy(update={"monthly_free_credits": 0}))
    assert without.ensure_monthly(zone="Pacific/Auckland") is None
    assert ledger.hold("a", 1000) == 1000
    assert ledger.release("a").amount == 1000
    assert ledger.balance().grants[0].expires_ms == _first_ms(2026, 4, "Pacific/Auckland")


def test_a_changed_amount_counts_from_the_next_month(ledger, clock):
    ledger.ensure_monthly()
    generous = Ledger(ledger.database, ledger.settings.model_copy(update={"monthly_free_credits": 7}))
    assert generous.ensure_monthly() is None
    assert ledger.available() == 1000
    clock.set(datetime(2026, 4, 1, tzinfo=UTC))
    assert generous.ensure_monthly().amount == 7000


def test_expiry_books_every_organization(ledger, clock):
    for name in ("b", "a", "c"):
        ledger.ensure_monthly(name)
    ledger.grant(5, "a", expires_ms=clock.at_ms + 1)
    ledger.grant(5, "c")
    clock.set(_first_ms(2026, 4, "UTC"))
    assert ledger.call(credits.expire) == 4
    assert [ledger.available(name) for name in ("a", "b", "c")] == [0, 0, 5]
    assert [change for _, change, _ in ledger.history("a")] == [1000, 5, -1000, -5]


def test_expiry_in_two_servers_at_once_books_once(ledger, clock):
    for month in range(4, 9):
        for name in ("a", "b", "c"):
            ledger.ensure_monthly(name)
        clock.set(_first_ms(2026, month, "UTC"))
        assert sum(at_once([lambda: ledger.call(credits.expire)] * 4)) == 3
    assert len(ledger.history("a")) == 10


def test_old_quotes_are_dropped(ledger, clock):
    options = {"organization_id": "lab", "user_id": "ada", "price_name": "voxel", "quantity": 5}
    old = ledger.call(credits.quote, **options)
    clock.advance(days=1, seconds=15 * 60)
    ledger.call(credits.expire)
    assert _quotes(ledger) == [old.id]
    clock.advance(seconds=0.001)
    ledger.call(credits.expire)
    assert _quotes(ledger) == []


def _quotes(ledger):
    from voxelworks.credits._tables import QuoteRow

    return ledger.read(lambda session: session.scalars(select(QuoteRow.id)).all())
