"""The one place that writes the ledger: it locks an organization, and moves millicredits between accounts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from voxelworks.credits._tables import (
    Account,
    BalanceRow,
    BookingKind,
    BookingRow,
    EntryRow,
    GrantRow,
)
from voxelworks.db import insert_into

Part = tuple[GrantRow, int]
"""A grant, and how many of its millicredits move."""

MOVES: Mapping[BookingKind, tuple[Account, Account]] = {
    "grant": ("source", "available"),
    "hold": ("available", "held"),
    "settle": ("held", "spent"),
    "release": ("held", "available"),
    "refund": ("spent", "available"),
    "expire": ("available", "expired"),
}


def lock(session: Session, organization_id: str, zone: str | None = None) -> BalanceRow:
    """Take the balance of an organization for this transaction; make it if it is the first time.

    All that changes credits does so first: two charges at once cannot both see the same credits (I5).

    Parameters
    ----------
    zone
        Time zone to remember; None keeps the one that is known.
    """
    taken = _take(session, organization_id)
    if taken is None:
        session.execute(
            insert_into(session, BalanceRow)
            .values(
                organization_id=organization_id, zone=zone or "UTC",
                granted=0, available=0, held=0, spent=0, expired=0,
            )
            .on_conflict_do_nothing()
        )  # fmt: skip
        taken = _take(session, organization_id)
        assert taken is not None, "balances are never deleted"
    if zone is not None:
        taken.zone = zone
        session.flush()
    return taken


def take_grants(session: Session, grant_ids: Iterable[int]) -> dict[int, GrantRow]:
    """Read grants of a locked organization as they are now."""
    rows = session.scalars(
        select(GrantRow).where(GrantRow.id.in_(grant_ids)).order_by(GrantRow.id).with_for_update(),
        execution_options={"populate_existing": True},
    )
    return {row.id: row for row in rows}


def book(
    session: Session,
    balance: BalanceRow,
    kind: BookingKind,
    parts: Iterable[Part],
    *,
    at_ms: int,
    who: str,
    reservation_id: int | None = None,
    comment: str = "",
) -> BookingRow:
    """Move millicredits between accounts: entries, grants and balance together.

    Parameters
    ----------
    balance
        As `lock` gave it: the lock is what makes this safe.
    parts
        Grants in the order in which they are used.
    """
    origin, target = MOVES[kind]
    moved = list(parts)
    for grant, millicredits in moved:
        if origin == "source":
            balance.granted += millicredits  # a new grant has its own amount from the start
        else:
            _add(grant, origin, -millicredits)
            _add(grant, target, millicredits)
            _add(balance, origin, -millicredits)
        _add(balance, target, millicredits)
    booking = BookingRow(
        organization_id=balance.organization_id, kind=kind, at_ms=at_ms, who=who, reservation_id=reservation_id,
        available_after=balance.available, comment=comment,
    )  # fmt: skip
    session.add(booking)
    session.flush()
    session.add_all(
        EntryRow(
            booking_id=booking.id, position=position, grant_id=grant.id, from_account=origin, to_account=target,
            amount=millicredits,
        )
        for position, (grant, millicredits) in enumerate(moved)
    )  # fmt: skip
    session.flush()
    return booking


def _take(session: Session, organization_id: str) -> BalanceRow | None:
    return session.get(BalanceRow, organization_id, with_for_update=True, populate_existing=True)


def _add(row: BalanceRow | GrantRow, account: Account, millicredits: int) -> None:
    setattr(row, account, getattr(row, account) + millicredits)
