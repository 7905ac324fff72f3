"""Balance and activity, as pages, commands and files show them (I20: of one organization alone)."""

import csv
import io
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from voxelworks import credits
from voxelworks.testing.ledgers import Ledger

DAY_MS = 86_400_000


@pytest.fixture
def used(ledger, clock):
    """An organization with something of every kind."""
    ledger = Ledger(ledger.database, ledger.settings.model_copy(update={"monthly_free_credits": 1}))
    ledger.ensure_monthly()
    ledger.grant(2500, paid=Decimal("49.90"), currency="EUR", comment="invoice 7")
    ledger.grant(50, expires_ms=clock.at_ms + DAY_MS)
    ledger.hold("settled", 1100)
    ledger.settle("settled")
    ledger.hold("released", 30)
    ledger.release("released")
    ledger.hold("held", 20)
    ledger.hold("late", 10)
    ledger.grant(7, expires_ms=clock.at_ms + DAY_MS)
    ledger.hold("later", 5)
    clock.advance(days=2)
    ledger.release("later", is_our_fault=True)
    ledger.grant(99, "other")
    return ledger


def _rows(ledger, **options):
    return ledger.read(credits.activity, "lab", **options).rows


def test_everything_that_changed_the_balance_is_told_newest_first(used):
    told = [(row.kind, row.change, row.available_after, row.job_id, row.state) for row in _rows(used)]
    assert told == [
        ("compensation", 5, 2425, None, None),
        ("expiry", -5, 2420, "later", None),
        ("refund", 5, 2425, "later", None),
        ("expiry", -2, 2420, None, None),
        ("spending", -5, 2422, "later", "released"),
        ("purchase", 7, 2427, None, None),
        ("spending", -10, 2420, "late", "held"),
        ("spending", -20, 2430, "held", "held"),
        ("refund", 30, 2450, "released", None),
        ("spending", -30, 2420, "released", "released"),
        ("spending", -1100, 2450, "settled", "settled"),
        ("purchase", 50, 3550, None, None),
        ("purchase", 2500, 3500, None, None),
        ("free", 1000, 1000, None, None),
    ]
    assert used.available() == 2425


def test_a_purchase_tells_what_was_paid(used, clock):
    row = _rows(used, kinds=["purchase"])[-1]
    assert (row.paid, row.currency, row.comment, row.who, row.expires_ms) == (
        Decimal("49.90"), "EUR", "invoice 7", "user:operator", None,
    )  # fmt: skip
    assert row.at_ms == clock.at_ms - 2 * DAY_MS
    assert _rows(used, kinds=["spending"])[0].who == "user:ada"
    assert _rows(used, kinds=["free"])[0].comment == "free credits of 2026-03"


@pytest.mark.parametrize(
    ("kinds", "count"),
    [
        (["free"], 1), (["purchase"], 3), (["compensation"], 1), (["spending"], 5), (["refund"], 2), (["expiry"], 2),
        (["refund", "expiry"], 4), ([], 14),
    ],
)  # fmt: skip
def test_activity_is_told_by_kind(used, kinds, count):
    rows = _rows(used, kinds=kinds)
    assert len(rows) == count
    assert {row.kind for row in rows} == set(kinds) or not kinds


def test_activity_comes_in_pages(used):
    whole, found, before = _rows(used), [], None
    sizes = []
    while True:
        page = used.read(credits.activity, "lab", before=before, limit=5)
        found += page.rows
        sizes.append(len(page.rows))
        if page.next_before is None:
            break
        before = page.next_before
    assert sizes == [5, 5, 4]
    assert tuple(found) == whole
    assert used.read(credits.activity, "lab", limit=14).next_before is None


def test_others_are_never_told(used):
    assert [row.change for row in used.read(credits.activity, "other").rows] == [99]
    assert used.read(credits.activity, "nobody").rows == ()
    assert used.balance("nobody").available == 0


def test_the_balance_names_the_grants_in_the_order_in_which_they_are_used(used):
    grants = used.balance().grants
    assert [(grant.kind, grant.available) for grant in grants] == [("compensation", 5), ("paid", 2420)]
    paid = grants[-1]
    assert (paid.amount, paid.held, paid.spent, paid.expired) == (2500, 30, 50, 0)
    assert (paid.paid, paid.currency, paid.comment) == (Decimal("49.90"), "EUR", "invoice 7")


def test_the_csv_file_tells_the_same(used, monkeypatch):
    monkeypatch.setattr("voxelworks.credits._activity._PAGE", 4)  # the file is read in pages
    with used.database.read_session() as session:
        table = list(csv.DictReader(io.StringIO("".join(credits.activity_csv(session, "lab")))))
    rows = _rows(used)
    assert [(line["kind"], line["credits"], line["job"], line["state"]) for line in table] == [
        (row.kind, credits.in_credits(row.change), row.job_id or "", row.state or "") for row in rows
    ]
    assert table[-2] == {
        "time": "2026-03-15T12:00:00.000Z", "kind": "purchase", "credits": "2.5", "available after": "3.5", "job": "",
        "state": "", "paid": "49.90", "currency": "EUR", "expires": "", "comment": "invoice 7", "who": "user:operator",
    }  # fmt: skip
    assert table[-3]["expires"] == "2026-03-16T12:00:00.000Z"


def test_the_csv_file_can_be_narrowed(used):
    with used.database.read_session() as session:
        lines = list(credits.activity_csv(session, "lab", kinds=["refund"]))
    assert [line.split(",")[1] for line in lines] == ["kind", "refund", "refund"]


@pytest.mark.parametrize("comment", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_comment_is_no_formula(ledger, comment):
    ledger.grant(1, comment=comment)
    with ledger.database.read_session() as session:
        table = list(csv.DictReader(io.StringIO("".join(credits.activity_csv(session, "lab")), newline="")))
    assert table[0]["comment"] == f"'{comment}"


def test_a_comment_may_hold_commas_and_quotes(ledger):
    ledger.grant(1, comment='a, "b"\nc')
    with ledger.database.read_session() as session:
        table = list(csv.DictReader(io.StringIO("".join(credits.activity_csv(session, "lab")), newline="")))
    assert table[0]["comment"] == 'a, "b"\nc'


def test_months_tell_what_their_jobs_cost_without_what_came_back(used, clock):
    clock.set(datetime(2026, 4, 30, 13, tzinfo=UTC))  # it is May in Auckland
    used.ensure_monthly(zone="Pacific/Auckland")
    for job_id, amount in (("kept", 40), ("lost", 50)):
        used.hold(job_id, amount)
        used.settle(job_id)
    used.refund("lost")
    used.hold("foreign", 60, "other")
    months = used.read(credits.spent_by_month, "lab", month_count=4)
    # In March: what is settled, and what is held still.
    expected = [("2026-02", 0), ("2026-03", 1100 + 20 + 10), ("2026-04", 0), ("2026-05", 40)]
    assert [(month.key, month.spent) for month in months] == expected
    assert [month.spent for month in used.read(credits.spent_by_month, "unheard-of")] == [0] * 12
