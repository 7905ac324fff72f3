"""Credits are ordered, and granted or declined once; what grants may be."""

from decimal import Decimal

import pytest

from voxelworks import credits
from voxelworks.errors import IllegalTransition, InvalidInput, NotFound
from voxelworks.protocol.credits import OrderView
from voxelworks.testing.queues import at_once

BOUGHT = {"paid": Decimal("99.00"), "currency": "EUR", "comment": "invoice 12", "who": "user:operator"}


def _order(ledger, count=5, organization_id="lab", **options):
    return ledger.call(credits.order, organization_id, "ada", count, **options)


def test_an_order_is_granted_with_what_was_paid(ledger, clock):
    order = _order(ledger, comment="for the summer school")
    assert order == OrderView(
        id=order.id, organization_id="lab", user_id="ada", credits=5, comment="for the summer school", state="open",
        created_ms=clock.at_ms, decided_ms=None, decided_by=None, reason=None, grant_id=None,
    )  # fmt: skip
    clock.advance(seconds=1)
    granted = ledger.call(credits.grant_order, order.id, **BOUGHT)
    (grant,) = ledger.balance().grants
    assert granted == order.model_copy(
        update={
            "state": "granted", "decided_ms": clock.at_ms, "decided_by": "user:operator", "grant_id": grant.id,
        }
    )  # fmt: skip
    assert (grant.kind, grant.amount, grant.available, grant.paid, grant.currency, grant.comment, grant.expires_ms) == (
        "paid", 5000, 5000, Decimal("99.00"), "EUR", "invoice 12", None,
    )  # fmt: skip
    assert ledger.read(credits.find_order, order.id) == granted


def test_a_granted_order_may_expire(ledger, clock):
    order = _order(ledger)
    ledger.call(credits.grant_order, order.id, **BOUGHT, expires_ms=clock.at_ms + 1)
    assert ledger.balance().grants[0].expires_ms == clock.at_ms + 1


def test_a_declined_order_says_why(ledger):
    order = _order(ledger)
    declined = ledger.call(credits.decline_order, order.id, reason="not paid", who="user:operator")
    assert (declined.state, declined.reason, declined.decided_by) == ("declined", "not paid", "user:operator")
    assert declined.decided_ms is not None
    assert ledger.available() == 0


@pytest.mark.parametrize("first", ["grant", "decline"])
@pytest.mark.parametrize("second", ["grant", "decline"])
def test_an_order_is_decided_once(ledger, first, second):
    order = _order(ledger)
    decide = {
        "grant": lambda: ledger.call(credits.grant_order, order.id, **BOUGHT),
        "decline": lambda: ledger.call(credits.decline_order, order.id, reason="", who="user:operator"),
    }
    before = decide[first]()
    with pytest.raises(IllegalTransition) as refused:
        decide[second]()
    assert str(refused.value) == f"order {order.id} was {before.state} already; an order is decided once"
    assert ledger.available() == (5000 if first == "grant" else 0)
    assert ledger.read(credits.find_order, order.id) == before


def test_an_order_that_two_operators_grant_at_once_is_granted_once(ledger):
    for _ in range(10):
        order = _order(ledger)
        before = ledger.available()
        answers = at_once([lambda order=order: ledger.call(credits.grant_order, order.id, **BOUGHT)] * 4)
        assert sum(isinstance(answer, IllegalTransition) for answer in answers) == 3
        assert ledger.available() == before + 5000


def test_orders_are_listed_newest_first(ledger, clock):
    orders = []
    for organization_id in ("lab", "other", "lab"):
        orders.append(_order(ledger, organization_id=organization_id).id)
        clock.advance(seconds=1)
    ledger.call(credits.decline_order, orders[0], reason="", who="user:operator")
    assert [order.id for order in ledger.read(credits.list_orders)] == orders[::-1]
    assert [order.id for order in ledger.read(credits.list_orders, "lab")] == [orders[2], orders[0]]
    assert [order.id for order in ledger.read(credits.list_orders, state="open")] == [orders[2], orders[1]]
    assert [order.id for order in ledger.read(credits.list_orders, "lab", state="declined")] == [orders[0]]


@pytest.mark.parametrize("count", [0, -1, 10**12 + 1])
def test_senseless_orders_are_refused(ledger, count):
    with pytest.raises(InvalidInput) as refused:
        _order(ledger, count)
    assert str(refused.value) == f"{count} credits cannot be ordered; order from 1 to 1000000000000"
    assert ledger.read(credits.list_orders) == ()
    assert _order(ledger, 10**12).credits == 10**12


@pytest.mark.parametrize("function", [credits.find_order, credits.grant_order, credits.decline_order])
def test_an_unknown_order_is_not_found(ledger, function):
    options = {
        credits.find_order: {},
        credits.grant_order: BOUGHT,
        credits.decline_order: {"reason": "", "who": "user:operator"},
    }
    with pytest.raises(NotFound) as refused:
        ledger.call(function, "nonsense", **options[function])
    assert str(refused.value) == "there is no order 'nonsense'; see the list of orders"


@pytest.mark.parametrize("amount", [0, -5, 10**15 + 1])
def test_senseless_amounts_are_refused(ledger, amount):
    with pytest.raises(InvalidInput) as refused:
        ledger.grant(amount)
    assert str(refused.value) == (
        f"{amount} millicredits cannot be granted; grant more than none and at most 1000000000000000"
    )
    assert ledger.history() == []
    assert ledger.grant(10**15).amount == 10**15


@pytest.mark.parametrize(
    ("payment", "message"),
    [
        ({"paid": Decimal(5)}, "a payment is an amount and a currency"),
        ({"currency": "EUR"}, "a payment is an amount and a currency"),
        ({"paid": Decimal(-1), "currency": "EUR"}, "-1 cannot be what was paid"),
        ({"paid": Decimal("NaN"), "currency": "EUR"}, "NaN cannot be what was paid"),
        ({"paid": Decimal("Infinity"), "currency": "EUR"}, "Infinity cannot be what was paid"),
        ({"paid": Decimal(10**12 + 1), "currency": "EUR"}, "1000000000001 cannot be what was paid"),
        ({"paid": Decimal(5), "currency": "eur"}, "'eur' is not a currency; write its three letters"),
        ({"paid": Decimal(5), "currency": "EURO"}, "'EURO' is not a currency"),
        ({"comment": "x" * 2001}, "the comment has 2001 characters; write at most 2000"),
        ({"comment": "a\0b"}, "the comment holds a NUL character; leave it out"),
    ],
)
def test_senseless_payments_are_refused(ledger, payment, message):
    with pytest.raises(InvalidInput) as refused:
        ledger.grant(5, **payment)
    assert message in str(refused.value)
    assert ledger.history() == []


@pytest.mark.parametrize("paid", [Decimal(0), Decimal("0.0001"), Decimal(10**12), Decimal("1E+3")])
def test_what_was_paid_is_kept_to_the_last_digit(ledger, paid):
    assert ledger.grant(5, paid=paid, currency="JPY", comment="x" * 2000).paid == paid
    assert ledger.balance().grants[0].paid == paid


def test_credits_that_have_expired_already_are_refused(ledger, clock):
    with pytest.raises(InvalidInput, match="these credits would have expired already; choose a later date"):
        ledger.grant(5, expires_ms=clock.at_ms)
    ledger.grant(5, expires_ms=clock.at_ms + 1)


def test_long_texts_of_orders_are_refused(ledger):
    with pytest.raises(InvalidInput, match="the comment has 2001 characters"):
        _order(ledger, comment="x" * 2001)
    order = _order(ledger)
    with pytest.raises(InvalidInput, match="the reason has 2001 characters"):
        ledger.call(credits.decline_order, order.id, reason="x" * 2001, who="user:operator")
