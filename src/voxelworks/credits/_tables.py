"""The tables of the ledger.

A *booking* is one event, such as a hold; its *entries* move millicredits from one account of a grant to another, so
each sums to zero by its form. Bookings and entries are only ever added. What grants and balances hold beside them is a
projection: quick to ask for, and guarded by the database against ever becoming negative or not adding up.
"""

from __future__ import annotations

from typing import Literal

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from voxelworks.db import Base, refuse_changes
from voxelworks.protocol.credits import ChargeState, GrantKind, OrderState

Account = Literal["source", "available", "held", "spent", "expired"]
BookingKind = Literal["grant", "hold", "settle", "release", "refund", "expire"]

_COUNTED = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts up only in its own type INTEGER


class BalanceRow(Base):
    """What an organization has, over all grants. Whoever changes anything of its credits locks this row first."""

    __tablename__ = "credit_balances"
    __table_args__ = (
        CheckConstraint("available >= 0", name="available"),
        CheckConstraint("held >= 0", name="held"),
        CheckConstraint("spent >= 0", name="spent"),
        CheckConstraint("expired >= 0", name="expired"),
        CheckConstraint("granted = available + held + spent + expired", name="sum"),
    )

    organization_id: Mapped[str] = mapped_column(primary_key=True)
    zone: Mapped[str]
    """IANA time zone in which its months begin and end."""
    granted: Mapped[int]
    available: Mapped[int]
    """With what has expired but was not booked as such yet."""
    held: Mapped[int]
    spent: Mapped[int]
    expired: Mapped[int]


class GrantRow(Base):
    """Credits that came at one time, and where they are now."""

    __tablename__ = "credit_grants"
    __table_args__ = (
        UniqueConstraint("organization_id", "kind", "period"),
        CheckConstraint("kind IN ('free', 'paid', 'compensation')", name="kind"),
        CheckConstraint("(kind = 'free') = (period IS NOT NULL)", name="period"),
        CheckConstraint("amount > 0", name="amount"),
        CheckConstraint("available >= 0", name="available"),
        CheckConstraint("held >= 0", name="held"),
        CheckConstraint("spent >= 0", name="spent"),
        CheckConstraint("expired >= 0", name="expired"),
        CheckConstraint("amount = available + held + spent + expired", name="sum"),
        Index(
            "ix_credit_grants_usable", "organization_id",
            sqlite_where=text("available > 0"), postgresql_where=text("available > 0"),
        ),
        Index(
            "ix_credit_grants_expiring", "expires_ms",
            sqlite_where=text("available > 0"), postgresql_where=text("available > 0"),
        ),
    )  # fmt: skip

    id: Mapped[int] = mapped_column(_COUNTED, primary_key=True)
    """Rises with age."""
    organization_id: Mapped[str] = mapped_column(ForeignKey("credit_balances.organization_id"))
    kind: Mapped[GrantKind] = mapped_column(Text)
    period: Mapped[str | None]
    """`YYYY-MM` in the zone of the organization, of a monthly grant."""
    amount: Mapped[int]
    available: Mapped[int]
    held: Mapped[int]
    spent: Mapped[int]
    expired: Mapped[int]
    created_ms: Mapped[int]
    starts_ms: Mapped[int | None]
    expires_ms: Mapped[int | None]
    paid: Mapped[str | None]
    """Decimal number: an amount of money must not be rounded."""
    currency: Mapped[str | None]
    comment: Mapped[str]
    who: Mapped[str]


class ReservationRow(Base):
    """One charge of a job: how it was reckoned, and what became of it."""

    __tablename__ = "credit_reservations"
    __table_args__ = (
        UniqueConstraint("job_id", "charge_number"),
        CheckConstraint("state IN ('held', 'settled', 'released')", name="state"),
        CheckConstraint("amount > 0", name="amount"),
        CheckConstraint("(state = 'held') = (ended_ms IS NULL)", name="ended"),
        # A job never holds twice.
        Index(
            "uq_credit_reservations_held", "job_id", unique=True,
            sqlite_where=text("state = 'held'"), postgresql_where=text("state = 'held'"),
        ),
        Index("ix_credit_reservations_organization_id", "organization_id"),
    )  # fmt: skip

    id: Mapped[int] = mapped_column(_COUNTED, primary_key=True)
    # Not a foreign key: credits are held before the job is inserted, and outlive its record.
    job_id: Mapped[str]
    charge_number: Mapped[int]
    organization_id: Mapped[str] = mapped_column(ForeignKey("credit_balances.organization_id"))
    price_name: Mapped[str]
    quantity: Mapped[int]
    price: Mapped[int]
    price_list_version: Mapped[str]
    quote_id: Mapped[str | None]
    amount: Mapped[int]
    state: Mapped[ChargeState] = mapped_column(Text)
    made_ms: Mapped[int]
    ended_ms: Mapped[int | None]


class BookingRow(Base):
    """Something that happened to an organization's credits."""

    __tablename__ = "credit_bookings"
    __table_args__ = (
        CheckConstraint("kind IN ('grant', 'hold', 'settle', 'release', 'refund', 'expire')", name="kind"),
        CheckConstraint(
            "kind NOT IN ('hold', 'settle', 'release', 'refund') OR reservation_id IS NOT NULL", name="reservation"
        ),
        CheckConstraint("available_after >= 0", name="available_after"),
        # At most one settle or release for each hold (I6), whatever the code above does.
        Index(
            "uq_credit_bookings_hold", "reservation_id", unique=True,
            sqlite_where=text("kind = 'hold'"), postgresql_where=text("kind = 'hold'"),
        ),
        Index(
            "uq_credit_bookings_end", "reservation_id", unique=True,
            sqlite_where=text("kind IN ('settle', 'release')"),
            postgresql_where=text("kind IN ('settle', 'release')"),
        ),
        # And what was settled comes back at most once (I7).
        Index(
            "uq_credit_bookings_refund", "reservation_id", unique=True,
            sqlite_where=text("kind = 'refund'"), postgresql_where=text("kind = 'refund'"),
        ),
        Index("ix_credit_bookings_newest", "organization_id", "id"),
    )  # fmt: skip

    id: Mapped[int] = mapped_column(_COUNTED, primary_key=True)
    """Rises with time within an organization."""
    organization_id: Mapped[str] = mapped_column(ForeignKey("credit_balances.organization_id"))
    kind: Mapped[BookingKind] = mapped_column(Text)
    at_ms: Mapped[int]
    who: Mapped[str]
    reservation_id: Mapped[int | None] = mapped_column(ForeignKey("credit_reservations.id"))
    available_after: Mapped[int]
    """Of the organization."""
    comment: Mapped[str]


class EntryRow(Base):
    """Millicredits that moved from one account of a grant to another.

    The entries of a hold are the lineage of its charge: which grants paid how much, in which order.
    """

    __tablename__ = "credit_entries"
    __table_args__ = (
        UniqueConstraint("booking_id", "grant_id"),
        CheckConstraint("amount > 0", name="amount"),
        CheckConstraint(
            "(from_account = 'source' AND to_account = 'available')"
            " OR (from_account = 'available' AND to_account IN ('held', 'expired'))"
            " OR (from_account = 'held' AND to_account IN ('available', 'spent'))"
            " OR (from_account = 'spent' AND to_account = 'available')",
            name="accounts",
        ),
        Index("ix_credit_entries_grant_id", "grant_id"),
    )

    booking_id: Mapped[int] = mapped_column(ForeignKey("credit_bookings.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """From 0, in the order in which grants were used."""
    grant_id: Mapped[int] = mapped_column(ForeignKey("credit_grants.id"))
    from_account: Mapped[Account] = mapped_column(Text)
    to_account: Mapped[Account] = mapped_column(Text)
    amount: Mapped[int]


class QuoteRow(Base):
    """A price that somebody was told."""

    __tablename__ = "credit_quotes"
    __table_args__ = (CheckConstraint("amount >= 0", name="amount"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str]
    user_id: Mapped[str]
    price_name: Mapped[str]
    quantity: Mapped[int]
    price: Mapped[int]
    price_list_version: Mapped[str]
    amount: Mapped[int]
    created_ms: Mapped[int]
    expires_ms: Mapped[int] = mapped_column(index=True)


class OrderRow(Base):
    """A request to buy credits, decided once."""

    __tablename__ = "credit_orders"
    __table_args__ = (
        CheckConstraint("state IN ('open', 'granted', 'declined')", name="state"),
        CheckConstraint("credits > 0", name="credits"),
        CheckConstraint("(state = 'open') = (decided_ms IS NULL)", name="decided"),
        CheckConstraint("(state = 'granted') = (grant_id IS NOT NULL)", name="granted"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = mapped_column(index=True)
    user_id: Mapped[str]
    credits: Mapped[int]
    comment: Mapped[str]
    state: Mapped[OrderState] = mapped_column(Text)
    created_ms: Mapped[int]
    decided_ms: Mapped[int | None]
    decided_by: Mapped[str | None]
    reason: Mapped[str | None]
    grant_id: Mapped[int | None] = mapped_column(ForeignKey("credit_grants.id"))


refuse_changes(BookingRow)
refuse_changes(EntryRow)
