"""What was booked before refunds were known is still there, still protected, and can be refunded."""

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

import voxelworks.db
from voxelworks import credits

SPENT = (
    "INSERT INTO credit_balances VALUES ('lab', 'UTC', 100, 40, 0, 60, 0)",
    (
        "INSERT INTO credit_grants (id, organization_id, kind, amount, available, held, spent, expired, created_ms, "
        "comment, who) VALUES (1, 'lab', 'paid', 100, 40, 0, 60, 0, 1000, '', 'x')"
    ),
    (
        "INSERT INTO credit_reservations VALUES (1, 'j1', 1, 'lab', 'infer_neurons', 60, 1, 'v1', NULL, 60, 'settled', "
        "2000, 3000)"
    ),
    "INSERT INTO credit_bookings VALUES (1, 'lab', 'grant', 1000, 'x', NULL, 100, '')",
    "INSERT INTO credit_bookings VALUES (2, 'lab', 'hold', 2000, 'x', 1, 40, '')",
    "INSERT INTO credit_bookings VALUES (3, 'lab', 'settle', 3000, 'x', 1, 40, '')",
    "INSERT INTO credit_entries VALUES (1, 0, 1, 'source', 'available', 100)",
    "INSERT INTO credit_entries VALUES (2, 0, 1, 'available', 'held', 60)",
    "INSERT INTO credit_entries VALUES (3, 0, 1, 'held', 'spent', 60)",
)
COUNTED_ON = "SELECT setval(pg_get_serial_sequence('credit_bookings', 'id'), 3)"


def test_books_from_before_refunds_go_on(old_database):
    config = Config()
    config.set_main_option("script_location", f"{voxelworks.db.__path__[0]}/migrations")
    with old_database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0008")
        for statement in SPENT:
            connection.execute(text(statement))
        if connection.dialect.name == "postgresql":
            connection.execute(text(COUNTED_ON))
    old_database.migrate()
    with old_database.session() as session:
        returned = credits.refund(session, "j1", who="server")
        assert (returned.amount, returned.compensated) == (60, 0)
        assert credits.balance(session, "lab").available == 100
        assert credits.check(session) == ()
    changes = [
        "DELETE FROM credit_bookings", "UPDATE credit_bookings SET who = 'y'",
        "DELETE FROM credit_entries", "UPDATE credit_entries SET amount = 1",
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(DBAPIError, match="append-only"), old_database.session() as session:
            session.execute(text(change))
