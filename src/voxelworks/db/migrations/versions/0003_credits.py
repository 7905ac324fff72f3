"""Grants, reservations, the ledger, quotes and orders."""

import sqlalchemy as sa
from alembic import op

from voxelworks.db._append_only import append_only_statements

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "credit_balances",
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("zone", sa.Text(), nullable=False),
        sa.Column("granted", sa.BigInteger(), nullable=False),
        sa.Column("available", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.BigInteger(), nullable=False),
        sa.Column("spent", sa.BigInteger(), nullable=False),
        sa.Column("expired", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("available >= 0", name=op.f("ck_credit_balances_available")),
        sa.CheckConstraint("held >= 0", name=op.f("ck_credit_balances_held")),
        sa.CheckConstraint("spent >= 0", name=op.f("ck_credit_balances_spent")),
        sa.CheckConstraint("expired >= 0", name=op.f("ck_credit_balances_expired")),
        sa.CheckConstraint(
            "granted = available + held + spent + expired", name=op.f("ck_credit_balances_sum")
        ),
        sa.PrimaryKeyConstraint("organization_id", name="pk_credit_balances"),
    )
    op.create_table(
        "credit_grants",
        sa.Column("id", _counted(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("period", sa.Text(), nullable=True),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("available", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.BigInteger(), nullable=False),
        sa.Column("spent", sa.BigInteger(), nullable=False),
        sa.Column("expired", sa.BigInteger(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("starts_ms", sa.BigInteger(), nullable=True),
        sa.Column("expires_ms", sa.BigInteger(), nullable=True),
        sa.Column("paid", sa.Text(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.CheckConstraint("kind IN ('free', 'paid', 'compensation')", name=op.f("ck_credit_grants_kind")),
        sa.CheckConstraint("(kind = 'free') = (period IS NOT NULL)", name=op.f("ck_credit_grants_period")),
        sa.CheckConstraint("amount > 0", name=op.f("ck_credit_grants_amount")),
        sa.CheckConstraint("available >= 0", name=op.f("ck_credit_grants_available")),
        sa.CheckConstraint("held >= 0", name=op.f("ck_credit_grants_held")),
        sa.CheckConstraint("spent >= 0", name=op.f("ck_credit_grants_spent")),
        sa.CheckConstraint("expired >= 0", name=op.f("ck_credit_grants_expired")),
        sa.CheckConstraint("amount = available + held + spent + expired", name=op.f("ck_credit_grants_sum")),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["credit_balances.organization_id"],
            name="fk_credit_grants_organization_id_credit_balances",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_credit_grants"),
        sa.UniqueConstraint(
            "organization_id", "kind", "period", name="uq_credit_grants_organization_id_kind_period"
        ),
    )
    _create_partial_index("ix_credit_grants_usable", "credit_grants", "organization_id", "available > 0")
    _create_partial_index("ix_credit_grants_expiring", "credit_grants", "expires_ms", "available > 0")
    op.create_table(
        "credit_reservations",
        sa.Column("id", _counted(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("charge_number", sa.BigInteger(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("price_name", sa.Text(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("price", sa.BigInteger(), nullable=False),
        sa.Column("price_list_version", sa.Text(), nullable=False),
        sa.Column("quote_id", sa.Text(), nullable=True),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("made_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "state IN ('held', 'settled', 'released')", name=op.f("ck_credit_reservations_state")
        ),
        sa.CheckConstraint("amount > 0", name=op.f("ck_credit_reservations_amount")),
        sa.CheckConstraint(
            "(state = 'held') = (ended_ms IS NULL)", name=op.f("ck_credit_reservations_ended")
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["credit_balances.organization_id"],
            name="fk_credit_reservations_organization_id_credit_balances",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_credit_reservations"),
        sa.UniqueConstraint("job_id", "charge_number", name="uq_credit_reservations_job_id_charge_number"),
    )
    _create_partial_index(
        "uq_credit_reservations_held", "credit_reservations", "job_id", "state = 'held'", unique=True
    )
    op.create_index("ix_credit_reservations_organization_id", "credit_reservations", ["organization_id"])
    op.create_table(
        "credit_bookings",
        sa.Column("id", _counted(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("reservation_id", _counted(), nullable=True),
        sa.Column("available_after", sa.BigInteger(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('grant', 'hold', 'settle', 'release', 'expire')", name=op.f("ck_credit_bookings_kind")
        ),
        sa.CheckConstraint(
            "kind NOT IN ('hold', 'settle', 'release') OR reservation_id IS NOT NULL",
            name=op.f("ck_credit_bookings_reservation"),
        ),
        sa.CheckConstraint("available_after >= 0", name=op.f("ck_credit_bookings_available_after")),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["credit_balances.organization_id"],
            name="fk_credit_bookings_organization_id_credit_balances",
        ),
        sa.ForeignKeyConstraint(
            ["reservation_id"],
            ["credit_reservations.id"],
            name="fk_credit_bookings_reservation_id_credit_reservations",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_credit_bookings"),
    )
    _create_partial_index(
        "uq_credit_bookings_hold", "credit_bookings", "reservation_id", "kind = 'hold'", unique=True
    )
    _create_partial_index(
        "uq_credit_bookings_end",
        "credit_bookings",
        "reservation_id",
        "kind IN ('settle', 'release')",
        unique=True,
    )
    op.create_index("ix_credit_bookings_newest", "credit_bookings", ["organization_id", "id"])
    op.create_table(
        "credit_entries",
        sa.Column("booking_id", _counted(), nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("grant_id", _counted(), nullable=False),
        sa.Column("from_account", sa.Text(), nullable=False),
        sa.Column("to_account", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount > 0", name=op.f("ck_credit_entries_amount")),
        sa.CheckConstraint(
            "(from_account = 'source' AND to_account = 'available')"
            " OR (from_account = 'available' AND to_account IN ('held', 'expired'))"
            " OR (from_account = 'held' AND to_account IN ('available', 'spent'))",
            name=op.f("ck_credit_entries_accounts"),
        ),
        sa.ForeignKeyConstraint(
            ["booking_id"], ["credit_bookings.id"], name="fk_credit_entries_booking_id_credit_bookings"
        ),
        sa.ForeignKeyConstraint(
            ["grant_id"], ["credit_grants.id"], name="fk_credit_entries_grant_id_credit_grants"
        ),
        sa.PrimaryKeyConstraint("booking_id", "position", name="pk_credit_entries"),
        sa.UniqueConstraint("booking_id", "grant_id", name="uq_credit_entries_booking_id_grant_id"),
    )
    op.create_index("ix_credit_entries_grant_id", "credit_entries", ["grant_id"])
    op.create_table(
        "credit_quotes",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("price_name", sa.Text(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("price", sa.BigInteger(), nullable=False),
        sa.Column("price_list_version", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount >= 0", name=op.f("ck_credit_quotes_amount")),
        sa.PrimaryKeyConstraint("id", name="pk_credit_quotes"),
    )
    op.create_index("ix_credit_quotes_expires_ms", "credit_quotes", ["expires_ms"])
    op.create_table(
        "credit_orders",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("credits", sa.BigInteger(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("decided_ms", sa.BigInteger(), nullable=True),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("grant_id", _counted(), nullable=True),
        sa.CheckConstraint("state IN ('open', 'granted', 'declined')", name=op.f("ck_credit_orders_state")),
        sa.CheckConstraint("credits > 0", name=op.f("ck_credit_orders_credits")),
        sa.CheckConstraint("(state = 'open') = (decided_ms IS NULL)", name=op.f("ck_credit_orders_decided")),
        sa.CheckConstraint(
            "(state = 'granted') = (grant_id IS NOT NULL)", name=op.f("ck_credit_orders_granted")
        ),
        sa.ForeignKeyConstraint(
            ["grant_id"], ["credit_grants.id"], name="fk_credit_orders_grant_id_credit_grants"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_credit_orders"),
    )
    op.create_index("ix_credit_orders_organization_id", "credit_orders", ["organization_id"])
    for table in ("credit_bookings", "credit_entries"):
        for statement in append_only_statements(table, op.get_bind().dialect.name):
            op.execute(statement)


def _counted() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _create_partial_index(
    name: str, table: str, column: str, condition: str, *, unique: bool = False
) -> None:
    op.create_index(
        name, table, [column], unique=unique,
        sqlite_where=sa.text(condition), postgresql_where=sa.text(condition),
    )  # fmt: skip
