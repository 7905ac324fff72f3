"""The nightly look at the books: do entries, grants, balances and reservations tell the same story?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import get_args

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from voxelworks.credits._book import MOVES
from voxelworks.credits._tables import (
    Account,
    BalanceRow,
    BookingKind,
    BookingRow,
    EntryRow,
    GrantRow,
    ReservationRow,
)
from voxelworks.protocol.credits import ChargeState, Difference

_ACCOUNTS: tuple[Account, ...] = get_args(Account)
_PROJECTED: tuple[Account, ...] = ("available", "held", "spent", "expired")
_ENDS_OF: Mapping[ChargeState, tuple[BookingKind, ...]] = {
    "held": (),
    "settled": ("settle",),
    "released": ("release",),
}
_ENDS: tuple[BookingKind, ...] = ("settle", "release", "refund")

_Sums = Mapping[Account, int]


def check(session: Session) -> tuple[Difference, ...]:
    """Compare all that the ledger says twice.

    Returns
    -------
    tuple of Difference
        Empty if the books are right.
    """
    return (
        *_check_entries(session),
        *_check_grants(session),
        *_check_balances(session),
        *_check_history(session),
        *_check_reservations(session),
    )


def _check_entries(session: Session) -> Iterator[Difference]:
    """Every entry moves what its booking says, and belongs to the same organization."""
    rows = session.execute(
        select(
            BookingRow.id, BookingRow.kind, BookingRow.organization_id, EntryRow.from_account, EntryRow.to_account,
            GrantRow.organization_id,
        )
        .outerjoin(EntryRow, EntryRow.booking_id == BookingRow.id)
        .outerjoin(GrantRow, GrantRow.id == EntryRow.grant_id)
        .distinct()
    )  # fmt: skip
    for booking_id, kind, organization_id, origin, target, grant_organization_id in rows:
        about = f"entries of booking {booking_id}"
        yield from _compare(organization_id, about, " to ".join(MOVES[kind]), f"{origin} to {target}")
        yield from _compare(organization_id, f"{about}: organization", organization_id, grant_organization_id)


def _check_grants(session: Session) -> Iterator[Difference]:
    """What a grant says of itself is the sum of its entries."""
    sums = _sums_by_grant(session)
    for row in session.scalars(select(GrantRow).order_by(GrantRow.id)):
        yield from _compare(
            row.organization_id, f"grant {row.id}: amount", -sums[row.id]["source"], row.amount
        )
        for account in _PROJECTED:
            about = f"grant {row.id}: {account}"
            yield from _compare(row.organization_id, about, sums[row.id][account], getattr(row, account))


def _check_balances(session: Session) -> Iterator[Difference]:
    """What an organization has is the sum of its entries."""
    sums: dict[str, dict[Account, int]] = defaultdict(_zeros)
    by_grant = _sums_by_grant(session)
    for grant_id, organization_id in session.execute(select(GrantRow.id, GrantRow.organization_id)):
        for account in _ACCOUNTS:
            sums[organization_id][account] += by_grant[grant_id][account]
    for row in session.scalars(select(BalanceRow).order_by(BalanceRow.organization_id)):
        found = sums[row.organization_id]
        yield from _compare(row.organization_id, "balance: granted", -found["source"], row.granted)
        for account in _PROJECTED:
            yield from _compare(
                row.organization_id, f"balance: {account}", found[account], getattr(row, account)
            )


def _check_history(session: Session) -> Iterator[Difference]:
    """What could be spent after each booking follows from the bookings before it."""
    change = {
        kind: (target == "available") - (origin == "available") for kind, (origin, target) in MOVES.items()
    }
    rows = session.execute(
        select(BookingRow.id, BookingRow.organization_id, BookingRow.kind, BookingRow.available_after,
               func.coalesce(func.sum(EntryRow.amount), 0))
        .outerjoin(EntryRow, EntryRow.booking_id == BookingRow.id)
        .group_by(BookingRow.id, BookingRow.organization_id, BookingRow.kind, BookingRow.available_after)
        .order_by(BookingRow.organization_id, BookingRow.id)
    )  # fmt: skip
    available: dict[str, int] = defaultdict(int)
    for booking_id, organization_id, kind, available_after, moved in rows:
        available[organization_id] += change[kind] * int(moved)
        about = f"available after booking {booking_id}"
        yield from _compare(organization_id, about, available[organization_id], available_after)


def _check_reservations(session: Session) -> Iterator[Difference]:
    """A charge was held once, whole, ended at most once, and went back at most once to the grants it came from."""
    parts = _parts_by_reservation(session)
    for row in session.scalars(select(ReservationRow).order_by(ReservationRow.id)):
        found = parts[row.id]
        about = f"charge {row.charge_number} of job {row.job_id}"
        yield from _compare(row.organization_id, f"{about}: amount", _total(found["hold"]), row.amount)
        ends = _ENDS_OF[row.state]
        if row.state == "released" and found["refund"]:
            ends = ("settle", "refund")
        for kind in _ENDS:
            expected = found["hold"] if kind in ends else []
            yield from _compare(row.organization_id, f"{about}: {kind}", str(expected), str(found[kind]))


def _sums_by_grant(session: Session) -> Mapping[int, _Sums]:
    sums: dict[int, dict[Account, int]] = defaultdict(_zeros)
    columns = [
        func.sum(
            case((EntryRow.to_account == account, EntryRow.amount), else_=0)
            - case((EntryRow.from_account == account, EntryRow.amount), else_=0)
        )
        for account in _ACCOUNTS
    ]
    for grant_id, *found in session.execute(select(EntryRow.grant_id, *columns).group_by(EntryRow.grant_id)):
        sums[grant_id] = dict(zip(_ACCOUNTS, map(int, found), strict=True))
    return sums


def _parts_by_reservation(session: Session) -> Mapping[int, dict[str, list[tuple[int, int]]]]:
    """Give (grant, amount) of the entries of each reservation, by the kind of their booking, in recorded order."""
    parts: dict[int, dict[str, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
    rows = session.execute(
        select(BookingRow.reservation_id, BookingRow.kind, EntryRow.grant_id, EntryRow.amount)
        .join(EntryRow, EntryRow.booking_id == BookingRow.id)
        .where(BookingRow.reservation_id.is_not(None))
        .order_by(BookingRow.id, EntryRow.position)
    )
    for reservation_id, kind, grant_id, amount in rows:
        assert reservation_id is not None, "asked for above"
        parts[reservation_id][kind].append((grant_id, amount))
    return parts


def _total(parts: list[tuple[int, int]]) -> int:
    return sum(amount for _, amount in parts)


def _zeros() -> dict[Account, int]:
    return dict.fromkeys(_ACCOUNTS, 0)


def _compare(
    organization_id: str, about: str, expected: int | str, found: int | str | None
) -> Iterator[Difference]:
    if expected != found:
        yield Difference(
            organization_id=organization_id,
            about=about,
            expected=expected,
            found="none" if found is None else found,
        )
