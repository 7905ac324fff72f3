"""What was settled can come back, to the grants it came from."""

import sqlalchemy as sa
from alembic import op

from voxelworks.db._append_only import append_only_statements

revision = "0009"
down_revision = "0008"

KIND = "kind IN ('grant', 'hold', 'settle', 'release', 'refund', 'expire')"
RESERVATION = "kind NOT IN ('hold', 'settle', 'release', 'refund') OR reservation_id IS NOT NULL"
ACCOUNTS = (
    "(from_account = 'source' AND to_account = 'available')"
    " OR (from_account = 'available' AND to_account IN ('held', 'expired'))"
    " OR (from_account = 'held' AND to_account IN ('available', 'spent'))"
    " OR (from_account = 'spent' AND to_account = 'available')"
)


def upgrade() -> None:
    with op.batch_alter_table("credit_bookings") as bookings:
        bookings.drop_constraint(op.f("ck_credit_bookings_kind"), type_="check")
        bookings.create_check_constraint(op.f("ck_credit_bookings_kind"), KIND)
        bookings.drop_constraint(op.f("ck_credit_bookings_reservation"), type_="check")
        bookings.create_check_constraint(op.f("ck_credit_bookings_reservation"), RESERVATION)
    with op.batch_alter_table("credit_entries") as entries:
        entries.drop_constraint(op.f("ck_credit_entries_accounts"), type_="check")
        entries.create_check_constraint(op.f("ck_credit_entries_accounts"), ACCOUNTS)
    is_refund = sa.text("kind = 'refund'")
    op.create_index(
        "uq_credit_bookings_refund", "credit_bookings", ["reservation_id"], unique=True,
        sqlite_where=is_refund, postgresql_where=is_refund,
    )  # fmt: skip
    if op.get_bind().dialect.name == "sqlite":  # it has made both tables anew, without their triggers
        for table in ("credit_bookings", "credit_entries"):
            for statement in append_only_statements(table, "sqlite"):
                op.execute(statement)
