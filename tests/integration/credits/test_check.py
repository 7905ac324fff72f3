"""The nightly check finds whatever does not add up."""

import pytest
from sqlalchemy import text

from voxelworks import credits
from voxelworks.credits._tables import BookingRow, EntryRow
from voxelworks.db import changes_let_through
from voxelworks.testing.ledgers import Ledger


@pytest.fixture
def ledger(database, tmp_path):
    ledger = Ledger.over(database, tmp_path)
    ledger.grant(100)
    ledger.grant(100)
    ledger.hold("settled", 150)
    ledger.settle("settled")
    ledger.hold("released", 20)
    ledger.release("released")
    ledger.hold("held", 10)
    ledger.grant(7, "other")
    ledger.hold("refunded", 5)
    ledger.settle("refunded")
    ledger.refund("refunded")
    return ledger


def test_right_books_have_no_differences(ledger):
    assert ledger.read(credits.check) == ()


@pytest.mark.parametrize(
    ("statements", "abouts"),
    [
        (
            [
                "UPDATE credit_balances SET available = available - 5, spent = spent + 5 WHERE organization_id = 'lab'"
            ],
            ["balance: available", "balance: spent"],
        ),
        (
            [
                "UPDATE credit_balances SET held = held + 1, granted = granted + 1 WHERE organization_id = 'lab'"
            ],
            ["balance: granted", "balance: held"],
        ),
        (
            [
                "UPDATE credit_balances SET expired = expired + 1, granted = granted + 1 WHERE organization_id = 'lab'"
            ],
            ["balance: granted", "balance: expired"],
        ),
        (
            ["UPDATE credit_grants SET available = available - 5, expired = expired + 5 WHERE id = 2"],
            ["grant 2: available", "grant 2: expired"],
        ),
        (
            ["UPDATE credit_grants SET amount = amount + 5, held = held + 5 WHERE id = 2"],
            ["grant 2: amount", "grant 2: held"],
        ),
        (["UPDATE credit_grants SET organization_id = 'other' WHERE id = 1"], None),
        (["UPDATE credit_bookings SET available_after = 3 WHERE id = 2"], ["available after booking 2"]),
        (
            ["UPDATE credit_reservations SET amount = amount + 1 WHERE job_id = 'held'"],
            ["charge 1 of job held: amount"],
        ),
        (
            ["UPDATE credit_reservations SET state = 'released' WHERE job_id = 'settled'"],
            ["charge 1 of job settled: settle", "charge 1 of job settled: release"],
        ),
        (
            ["UPDATE credit_reservations SET state = 'settled' WHERE job_id = 'released'"],
            ["charge 1 of job released: settle", "charge 1 of job released: release"],
        ),
        (
            ["UPDATE credit_reservations SET state = 'held', ended_ms = NULL WHERE job_id = 'settled'"],
            ["charge 1 of job settled: settle"],
        ),
        (
            ["UPDATE credit_reservations SET state = 'settled' WHERE job_id = 'refunded'"],
            ["charge 1 of job refunded: refund"],
        ),
        (["UPDATE credit_entries SET to_account = 'expired' WHERE booking_id = 3"], None),
        (["DELETE FROM credit_entries WHERE booking_id = 3"], None),
        (["UPDATE credit_entries SET amount = amount + 1 WHERE booking_id = 3 AND position = 0"], None),
        # an exchange of what went back between two grants: all sums are the same
        (
            [
                "UPDATE credit_entries SET position = 9 WHERE booking_id = 4 AND position = 0",
                "UPDATE credit_entries SET position = 0 WHERE booking_id = 4 AND position = 1",
                "UPDATE credit_entries SET position = 1 WHERE booking_id = 4 AND position = 9",
            ],
            ["charge 1 of job settled: settle"],
        ),
    ],
)
def test_whatever_does_not_add_up_is_found(ledger, statements, abouts):
    with (
        ledger.database.session() as session,
        changes_let_through(session, EntryRow.__table__),
        changes_let_through(session, BookingRow.__table__),
    ):
        for statement in statements:
            session.execute(text(statement))
    found = [difference.about for difference in ledger.read(credits.check)]
    assert found == abouts or (abouts is None and found)


def test_a_difference_says_both_sides(ledger):
    with ledger.database.session() as session:
        session.execute(
            text(
                "UPDATE credit_balances SET available = available - 5, spent = spent + 5 WHERE organization_id = 'lab'"
            )
        )
    assert ledger.read(credits.check) == (
        credits.Difference(organization_id="lab", about="balance: available", expected=40, found=35),
        credits.Difference(organization_id="lab", about="balance: spent", expected=150, found=155),
    )
