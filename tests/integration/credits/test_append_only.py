"""I22 and I1: what was written stays, and the database itself refuses what cannot be."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError


@pytest.fixture
def used(ledger):
    ledger.grant(100)
    ledger.hold("a", 60)
    ledger.settle("a")
    ledger.hold("b", 10)
    ledger.hold("c", 10)
    ledger.settle("c")
    ledger.refund("c")
    return ledger


def _execute(ledger, statement):
    with ledger.database.session() as session:
        session.execute(text(statement))


@pytest.mark.parametrize("table", ["credit_bookings", "credit_entries"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {} SET {} = {}",
        "DELETE FROM {}",
        "UPDATE {} SET {} = {} WHERE 1 = 0",
        "DELETE FROM {} WHERE 1 = 0",
    ],
)
def test_what_was_booked_cannot_be_changed_or_deleted(used, table, statement):
    column = "available_after" if table == "credit_bookings" else "amount"
    before = used.history()
    if statement.endswith("1 = 0"):
        _execute(used, statement.format(table, column, column))  # touches no row: nothing to refuse
    else:
        with pytest.raises(DBAPIError, match=f"{table} is append-only"):
            _execute(used, statement.format(table, column, column))
    assert used.history() == before


@pytest.mark.parametrize(
    "statement",
    [
        # more spent than there is
        "UPDATE credit_balances SET available = available - 1000, held = held + 1000",
        "UPDATE credit_balances SET held = held - 1000, available = available + 1000",
        "UPDATE credit_grants SET available = available - 1000, held = held + 1000",
        "UPDATE credit_grants SET spent = spent - 1000, expired = expired + 1000",
        "UPDATE credit_grants SET expired = expired - 1, spent = spent + 1",
        # credits from nowhere, or gone to nowhere
        "UPDATE credit_balances SET available = available + 1",
        "UPDATE credit_grants SET available = available - 1",
        "UPDATE credit_grants SET amount = amount + 1",
        "UPDATE credit_grants SET kind = 'free'",
        "UPDATE credit_grants SET kind = 'stolen'",
        # one-sided or senseless entries
        "INSERT INTO credit_entries VALUES (1, 9, 1, 'available', 'held', 0)",
        "INSERT INTO credit_entries VALUES (1, 9, 1, 'available', 'held', -5)",
        "INSERT INTO credit_entries VALUES (2, 9, 1, 'spent', 'held', 5)",
        "INSERT INTO credit_entries VALUES (2, 9, 1, 'available', 'available', 5)",
        "INSERT INTO credit_entries VALUES (2, 9, 1, 'source', 'spent', 5)",
        "INSERT INTO credit_entries VALUES (99, 0, 1, 'available', 'held', 5)",
        "INSERT INTO credit_entries VALUES (1, 9, 1, 'source', 'available', 5)",  # twice the same grant
        # a second end, hold or refund of one charge
        "INSERT INTO credit_bookings VALUES (50, 'lab', 'release', 0, 'x', 1, 5, '')",
        "INSERT INTO credit_bookings VALUES (50, 'lab', 'settle', 0, 'x', 1, 5, '')",
        "INSERT INTO credit_bookings VALUES (50, 'lab', 'hold', 0, 'x', 1, 5, '')",
        "INSERT INTO credit_bookings VALUES (50, 'lab', 'hold', 0, 'x', NULL, 5, '')",
        "INSERT INTO credit_bookings VALUES (50, 'lab', 'refund', 0, 'x', 3, 5, '')",
        "INSERT INTO credit_bookings VALUES (50, 'lab', 'refund', 0, 'x', NULL, 5, '')",
        "INSERT INTO credit_bookings VALUES (50, 'lab', 'gift', 0, 'x', 1, 5, '')",
        "INSERT INTO credit_bookings VALUES (50, 'lab', 'expire', 0, 'x', NULL, -5, '')",
        "UPDATE credit_reservations SET job_id = 'a', charge_number = 1",
        "UPDATE credit_reservations SET job_id = 'b', charge_number = id, state = 'held', ended_ms = NULL",
        "UPDATE credit_reservations SET state = 'settled'",
        "UPDATE credit_reservations SET amount = 0",
    ],
)
def test_the_database_refuses_what_cannot_be(used, statement):
    with pytest.raises(IntegrityError):
        _execute(used, statement)
