"""What jobs cost: held, settled, released (I6, I8-I11, I16, I18, I23)."""

from datetime import UTC, datetime

import pytest

from voxelworks import credits
from voxelworks.errors import IllegalTransition, InvalidInput, NotEnoughCredits, StaleQuote
from voxelworks.protocol.credits import ChargeView, Returned, ReturnedPart
from voxelworks.settings import Settings

DAY_MS = 86_400_000


def _ms(*date):
    return round(datetime(*date, tzinfo=UTC).timestamp() * 1000)


def _parts(returned):
    return [(part.grant_id, part.amount, part.has_expired) for part in returned.parts]


def _lefts(ledger):
    return {grant.id: grant.available for grant in ledger.balance().grants}


def test_a_hold_is_kept_apart_until_it_is_settled(ledger):
    ledger.grant(100)
    assert ledger.hold("a", 60) == 60
    assert (ledger.available(), ledger.balance().held) == (40, 60)
    ledger.settle("a")
    assert (ledger.available(), ledger.balance().held) == (40, 0)
    assert ledger.charge("a") == ChargeView(
        job_id="a", number=1, amount=60, refunded=0, state="settled", price_name="voxel", quantity=60, price=10**9,
        price_list_version="test",
    )  # fmt: skip
    assert ledger.history() == [("purchase", 100, 100), ("spending", -60, 40)]


def test_a_release_gives_everything_back(ledger):
    grant = ledger.grant(100)
    ledger.hold("a", 60)
    assert ledger.release("a") == Returned(
        charge_number=1,
        amount=60,
        parts=(ReturnedPart(grant_id=grant.id, amount=60, has_expired=False),),
        compensated=0,
    )
    assert (ledger.available(), ledger.balance().held) == (100, 0)
    charge = ledger.charge("a")
    assert (charge.state, charge.amount, charge.refunded) == ("released", 60, 60)
    assert ledger.history() == [("purchase", 100, 100), ("spending", -60, 40), ("refund", 60, 100)]


def test_what_is_held_cannot_be_held_again(ledger):
    ledger.grant(100)
    ledger.hold("a", 60)
    with pytest.raises(NotEnoughCredits) as refused:
        ledger.hold("b", 60)
    assert str(refused.value) == (
        "the job costs 0.06 credits, and 0.04 can be spent; choose a smaller box, "
        "or let the organization's owner order credits"
    )
    assert (refused.value.needed, refused.value.available) == (60, 40)
    assert ledger.charge("b") is None
    assert ledger.hold("b", 40) == 40


def test_an_organization_without_credits_can_hold_nothing(ledger):
    with pytest.raises(NotEnoughCredits):
        ledger.hold("a", 1)
    assert ledger.balance() == credits.Balance(organization_id="lab", available=0, held=0, grants=())


def test_organizations_pay_for_themselves(ledger):
    ledger.grant(100, "lab")
    ledger.grant(10, "other")
    with pytest.raises(NotEnoughCredits):
        ledger.hold("a", 60, "other")
    ledger.hold("a", 60, "lab")
    ledger.hold("b", 10, "other")
    assert (ledger.available("lab"), ledger.available("other")) == (40, 0)
    assert ledger.history("other") == [("purchase", 10, 10), ("spending", -10, 0)]


def test_what_was_spent_goes_back_once_to_the_grants_it_came_from(ledger):
    """Bought credits stay lasting ones, and others keep their end."""
    ends_ms = _ms(2090, 1, 1)
    short, lasting = ledger.grant(40, expires_ms=ends_ms), ledger.grant(100)
    ledger.hold("a", 60)
    assert ledger.refund("a") is None, "it is only held"
    ledger.settle("a")
    assert ledger.refund("a") == Returned(
        charge_number=1,
        amount=60,
        parts=(
            ReturnedPart(grant_id=short.id, amount=40, has_expired=False),
            ReturnedPart(grant_id=lasting.id, amount=20, has_expired=False),
        ),
        compensated=0,
    )
    assert [ledger.refund("a"), ledger.release("a"), ledger.settle("a")] == [None, None, None]
    assert [(grant.available, grant.expires_ms) for grant in ledger.balance().grants] == [
        (40, ends_ms),
        (100, None),
    ]
    assert ledger.history()[2:] == [("spending", -60, 80), ("refund", 60, 140)]
    charge = ledger.charge("a")
    assert (charge.state, charge.amount, charge.refunded) == ("released", 60, 60)
    ledger.must_be_right()


@pytest.mark.parametrize("first", ["settle", "release"])
@pytest.mark.parametrize("second", ["settle", "release"])
def test_only_the_first_end_of_a_charge_counts(ledger, first, second):
    ledger.grant(100)
    ledger.hold("a", 60)
    getattr(ledger, first)("a")
    after = (ledger.balance(), ledger.charge("a"), ledger.history())
    for _ in range(3):
        assert getattr(ledger, second)("a") is None
    assert (ledger.balance(), ledger.charge("a"), ledger.history()) == after


def test_jobs_without_a_charge_end_without_a_trace(ledger):
    ledger.grant(100)
    ledger.settle("free")
    assert ledger.release("free", is_our_fault=True) is None
    assert ledger.history() == [("purchase", 100, 100)]


@pytest.mark.parametrize(("price_name", "quantity"), [("free", 10**15), ("voxel", 0), ("cheap", 499_999_999)])
def test_a_job_that_costs_nothing_makes_no_entry_and_still_ends(ledger, price_name, quantity):
    assert ledger.hold("a", quantity, price_name=price_name) == 0  # with nothing to pay from
    assert ledger.charge("a") is None
    ledger.settle("a")
    assert ledger.release("a") is None
    assert ledger.history() == []


def test_a_job_cannot_hold_twice(ledger):
    ledger.grant(100)
    ledger.hold("a", 10)
    with pytest.raises(IllegalTransition) as refused:
        ledger.hold("a", 10)
    assert str(refused.value) == "job a holds credits already; it is charged anew only after its end"
    assert ledger.available() == 90


def test_a_retry_is_charged_anew(ledger):
    ledger.grant(100)
    for number in (1, 2, 3):
        assert ledger.hold("a", 10) == 10
        charge = ledger.charge("a")
        assert (charge.number, charge.state, ledger.available()) == (number, "held", 90)
        returned = ledger.release("a")
        assert (returned.charge_number, ledger.available()) == (number, 100)
    ledger.hold("a", 20)
    ledger.settle("a")
    assert (ledger.charge("a").number, ledger.charge("a").amount, ledger.available()) == (4, 20, 80)


def test_a_settled_job_may_be_charged_again(ledger):
    ledger.grant(100)
    ledger.hold("a", 10)
    ledger.settle("a")
    ledger.hold("a", 10)
    assert (ledger.charge("a").number, ledger.available()) == (2, 80)


def test_charges_of_many_jobs_are_read_at_once(ledger):
    ledger.grant(100)
    ledger.hold("a", 10)
    ledger.hold("b", 20)
    ledger.release("b")
    ledger.hold("b", 30)
    found = ledger.read(credits.charges_of, ["a", "b", "c"])
    assert {job_id: (charge.number, charge.amount) for job_id, charge in found.items()} == {
        "a": (1, 10),
        "b": (2, 30),
    }
    assert ledger.read(credits.charges_of, []) == {}


def test_what_expires_first_is_used_first(ledger, clock):
    lasting = ledger.grant(10)
    late = ledger.grant(10, expires_ms=clock.at_ms + 2 * DAY_MS)
    soon = ledger.grant(10, expires_ms=clock.at_ms + DAY_MS)
    assert [grant.id for grant in ledger.balance().grants] == [soon.id, late.id, lasting.id]
    ledger.hold("a", 15)
    assert _lefts(ledger) == {late.id: 5, lasting.id: 10}
    ledger.hold("b", 15)
    assert _lefts(ledger) == {}
    assert _parts(ledger.release("b")) == [(late.id, 5, False), (lasting.id, 10, False)]


def test_of_those_that_expire_together_free_ones_go_first_and_then_old_ones(ledger, clock):
    ledger = type(ledger)(ledger.database, ledger.settings.model_copy(update={"monthly_free_credits": 1}))
    end_ms = _ms(2026, 4, 1)
    old = ledger.grant(1000, expires_ms=end_ms)
    young = ledger.grant(1000, expires_ms=end_ms)
    regretted = ledger.grant(1000, expires_ms=end_ms, kind="compensation")
    free = ledger.ensure_monthly()
    ordered = [free.id, regretted.id, old.id, young.id]
    assert [grant.id for grant in ledger.balance().grants] == ordered
    ledger.hold("a", 3500)
    assert _parts(ledger.release("a")) == [
        (free.id, 1000, False),
        (regretted.id, 1000, False),
        (old.id, 1000, False),
        (young.id, 500, False),
    ]


def test_credits_go_back_where_they_came_from(ledger, clock):
    first = ledger.grant(10, expires_ms=clock.at_ms + DAY_MS)
    second = ledger.grant(10)
    ledger.hold("a", 15)
    ledger.grant(100, expires_ms=clock.at_ms + 1000)  # what came meanwhile has nothing to do with it
    assert _parts(ledger.release("a")) == [(first.id, 10, False), (second.id, 5, False)]
    assert _lefts(ledger)[first.id] == 10
    assert _lefts(ledger)[second.id] == 10


def test_a_refund_to_an_expired_grant_expires_at_once(ledger, clock):
    expiring = ledger.grant(10, expires_ms=clock.at_ms + DAY_MS)
    lasting = ledger.grant(10)
    ledger.hold("a", 15)
    clock.advance(days=1)
    assert ledger.balance().held == 15  # held credits do not expire
    returned = ledger.release("a")
    assert _parts(returned) == [(expiring.id, 10, True), (lasting.id, 5, False)]
    assert (returned.amount, returned.compensated, returned.usable) == (15, 0, 5)
    assert _lefts(ledger) == {lasting.id: 10}
    assert ledger.history()[2:] == [("spending", -15, 5), ("refund", 15, 20), ("expiry", -10, 10)]
    rows = ledger.read(credits.activity, "lab").rows
    assert (rows[0].job_id, rows[0].comment, rows[0].who) == (
        "a",
        "returned by job a after its end",
        "server",
    )


def test_if_it_was_our_fault_as_much_is_granted_until_the_end_of_the_month(ledger, clock):
    expiring = ledger.grant(10, expires_ms=clock.at_ms + DAY_MS)
    ledger.grant(10)
    ledger.hold("a", 15)
    clock.advance(days=2)
    returned = ledger.release("a", is_our_fault=True)
    assert (_parts(returned)[0], returned.compensated, returned.usable) == ((expiring.id, 10, True), 10, 15)
    compensation = ledger.balance().grants[0]
    assert (compensation.kind, compensation.amount, compensation.available) == ("compensation", 10, 10)
    assert compensation.expires_ms == _ms(2026, 4, 1)
    assert compensation.comment == "in place of credits that expired while job a failed"
    assert compensation.who == "server"
    assert ledger.history()[2:] == [
        ("spending", -15, 5),
        ("refund", 15, 20),
        ("expiry", -10, 10),
        ("compensation", 10, 20),
    ]
    assert ledger.release("a", is_our_fault=True) is None


def test_compensation_lasts_at_least_seven_days(ledger, clock):
    ledger.grant(10, expires_ms=clock.at_ms + DAY_MS)
    ledger.hold("a", 10)
    clock.set(_ms(2026, 3, 28))
    ledger.release("a", is_our_fault=True)
    assert ledger.balance().grants[0].expires_ms == _ms(2026, 4, 4)


def test_compensation_ends_with_the_month_where_the_organization_is(ledger, clock):
    ledger.ensure_monthly(zone="Pacific/Auckland")
    ledger.grant(10, expires_ms=clock.at_ms + DAY_MS)
    ledger.hold("a", 10)
    clock.advance(days=1)
    ledger.release("a", is_our_fault=True)
    assert ledger.balance().grants[0].expires_ms == _ms(2026, 3, 31, 11)


def test_without_expired_credits_there_is_nothing_to_compensate(ledger, clock):
    ledger.grant(10, expires_ms=clock.at_ms + DAY_MS)
    ledger.hold("a", 10)
    clock.advance(days=1)
    clock.advance(seconds=-0.001)
    returned = ledger.release("a", is_our_fault=True)
    assert (returned.compensated, returned.usable) == (0, 10)
    assert [grant.kind for grant in ledger.balance().grants] == ["paid"]


def test_other_credits_of_an_ended_grant_are_not_taken_for_the_refund(ledger, clock):
    ledger.grant(10, expires_ms=clock.at_ms + DAY_MS)
    ledger.hold("a", 4)
    clock.advance(days=1)
    returned = ledger.release("a", is_our_fault=True)
    assert (returned.amount, returned.compensated) == (4, 4)
    assert ledger.history() == [
        ("purchase", 10, 10),
        ("spending", -4, 6),
        ("expiry", -6, 0),  # booked first: it had expired before
        ("refund", 4, 4),
        ("expiry", -4, 0),
        ("compensation", 4, 4),
    ]


def test_a_quote_is_what_the_job_costs(ledger):
    ledger.grant(100)
    quoted = ledger.call(credits.quote, organization_id="lab", user_id="ada", price_name="voxel", quantity=60)
    assert (quoted.amount, quoted.available, quoted.has_enough) == (60, 100, True)
    assert (quoted.unit, quoted.price, quoted.price_list_version) == ("voxels", 10**9, "test")
    assert ledger.hold("a", 60, quote_id=quoted.id) == 60
    assert ledger.charge("a").amount == 60


def test_a_quote_says_when_there_is_not_enough(ledger):
    ledger.grant(60)
    for quantity, has_enough in ((60, True), (61, False)):
        quoted = ledger.call(
            credits.quote, organization_id="lab", user_id="ada", price_name="annotated", quantity=quantity
        )
        assert (quoted.has_enough, quoted.unit) == (has_enough, "annotated voxels")


def test_a_quote_holds_although_prices_change(ledger, tmp_path):
    ledger.grant(1000)
    quoted = ledger.call(credits.quote, organization_id="lab", user_id="ada", price_name="voxel", quantity=60)
    dearer = _with_prices(ledger, tmp_path, {"voxel": 2 * 10**9})
    assert dearer.hold("a", 60, quote_id=quoted.id) == 60
    assert (dearer.charge("a").price, dearer.charge("a").price_list_version) == (10**9, "test")
    assert dearer.hold("b", 60) == 120
    assert (dearer.charge("b").price, dearer.charge("b").price_list_version) == (2 * 10**9, "new")


def test_a_retry_shows_the_present_price_first(ledger, tmp_path):
    """A refund is no voucher: the retry costs what it costs now, and says so before."""
    ledger.grant(1000)
    quoted = ledger.call(credits.quote, organization_id="lab", user_id="ada", price_name="voxel", quantity=60)
    ledger.hold("a", 60, quote_id=quoted.id)
    ledger.release("a")
    dearer = _with_prices(ledger, tmp_path, {"voxel": 2 * 10**9})
    again = dearer.call(credits.quote, organization_id="lab", user_id="ada", price_name="voxel", quantity=60)
    assert (again.amount, again.available) == (120, 1000)
    assert dearer.hold("a", 60, quote_id=again.id) == 120
    assert (dearer.charge("a").number, dearer.available()) == (2, 880)


def test_a_quote_runs_out_after_15_minutes(ledger, clock, tmp_path):
    ledger.grant(1000)
    quoted = ledger.call(credits.quote, organization_id="lab", user_id="ada", price_name="voxel", quantity=60)
    assert quoted.expires_ms == clock.at_ms + 15 * 60_000
    clock.set(quoted.expires_ms - 1)
    assert ledger.hold("a", 60, quote_id=quoted.id) == 60
    clock.set(quoted.expires_ms)
    dearer = _with_prices(ledger, tmp_path, {"voxel": 2 * 10**9})
    with pytest.raises(StaleQuote) as refused:
        dearer.hold("b", 60, quote_id=quoted.id)
    assert str(refused.value) == (
        "the quote has run out; the job costs 0.12 credits now: look at the price again, and submit"
    )
    assert refused.value.amount == 120
    assert dearer.charge("b") is None
    assert dearer.available() == 940


@pytest.mark.parametrize(
    "other", [{"amount": 61}, {"amount": 60, "price_name": "annotated"}, {"amount": 0, "price_name": "free"}]
)
def test_a_quote_is_for_what_was_quoted(ledger, other):
    ledger.grant(1000)
    quoted = ledger.call(credits.quote, organization_id="lab", user_id="ada", price_name="voxel", quantity=60)
    with pytest.raises(StaleQuote, match="the quote was for other data or parameters"):
        ledger.hold("a", quote_id=quoted.id, **other)
    assert ledger.available() == 1000


def test_quotes_of_others_and_unknown_ones_look_alike(ledger):
    ledger.grant(1000)
    ledger.grant(1000, "other")
    quoted = ledger.call(
        credits.quote, organization_id="other", user_id="bob", price_name="voxel", quantity=60
    )
    messages = set()
    for quote_id in (quoted.id, "nonsense"):
        with pytest.raises(StaleQuote) as refused:
            ledger.hold("a", 60, quote_id=quote_id)
        messages.add(str(refused.value))
    assert len(messages) == 1


def test_a_quote_of_nothing_is_free(ledger):
    quoted = ledger.call(credits.quote, organization_id="lab", user_id="ada", price_name="free", quantity=60)
    assert (quoted.amount, quoted.has_enough) == (0, True)
    assert ledger.hold("a", 60, price_name="free", quote_id=quoted.id) == 0
    assert ledger.charge("a") is None


def test_an_unknown_price_is_refused(ledger):
    ledger.grant(1000)
    with pytest.raises(InvalidInput, match="has no price 'voxels'"):
        ledger.hold("a", 60, price_name="voxels")


def test_switched_off_nothing_costs_anything(ledger):
    ledger.grant(100)
    ledger.hold("a", 60)
    off = Settings(home=ledger.settings.home, credits_enabled=False, monthly_free_credits=5)
    options = {"organization_id": "lab", "price_name": "voxel", "settings": off}
    assert ledger.call(credits.quote, user_id="ada", quantity=10**12, **options) is None
    assert (
        ledger.call(credits.hold, job_id="b", quantity=10**12, quote_id="none", who="user:ada", **options)
        == 0
    )
    assert ledger.call(credits.ensure_monthly, "lab", "UTC", settings=off) is None
    assert ledger.charge("b") is None
    # What was held before still comes to its end.
    assert ledger.release("a").amount == 60
    assert ledger.available() == 100


def _with_prices(ledger, folder, prices):
    import json

    file = folder / "new prices.json"
    file.write_text(json.dumps({"version": "new", "millicredits_per_gigavoxel": prices}))
    return type(ledger)(ledger.database, ledger.settings.model_copy(update={"price_list": file}))
