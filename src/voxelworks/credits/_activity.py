"""What an organization has, and what happened to it: for pages, commands and files. Everything here only reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, cast

from sqlalchemy import ColumnElement, Select, and_, bindparam, case, func, or_, select
from sqlalchemy.orm import Session, aliased

from voxelworks.credits._grants import grant_view, usable_grants
from voxelworks.credits._periods import period_at
from voxelworks.credits._tables import BalanceRow, BookingRow, EntryRow, GrantRow, ReservationRow
from voxelworks.csv_lines import csv_line, harmless, iso_time
from voxelworks.db import now
from voxelworks.protocol.credits import (
    ActivityKind,
    ActivityPage,
    ActivityView,
    Balance,
    GrantKind,
    MonthView,
    in_credits,
)

_OF_GRANTS: Mapping[GrantKind, ActivityKind] = {
    "free": "free",
    "paid": "purchase",
    "compensation": "compensation",
}
_KINDS: Mapping[ActivityKind, ColumnElement[bool]] = {
    "free": and_(BookingRow.kind == "grant", GrantRow.kind == "free"),
    "purchase": and_(BookingRow.kind == "grant", GrantRow.kind == "paid"),
    "compensation": and_(BookingRow.kind == "grant", GrantRow.kind == "compensation"),
    "spending": BookingRow.kind == "hold",
    "refund": BookingRow.kind.in_(("release", "refund")),
    "expiry": BookingRow.kind == "expire",
}
_CSV_HEAD = (
    "time", "kind", "credits", "available after", "job", "state", "paid", "currency", "expires", "comment", "who",
)  # fmt: skip
_PAGE = 500
_FINDING_HELD = select(BalanceRow.held).where(BalanceRow.organization_id == bindparam("organization_id"))


def balance(session: Session, organization_id: str) -> Balance:
    """Give what an organization can spend now: nothing of it has expired, booked or not."""
    grants = [grant_view(row) for row in usable_grants(session, organization_id, now(session))]
    held = session.scalar(_FINDING_HELD, {"organization_id": organization_id})
    return Balance(
        organization_id=organization_id,
        available=sum(grant.available for grant in grants),
        held=held or 0,
        grants=tuple(grants),
    )


def activity(
    session: Session,
    organization_id: str,
    *,
    kinds: Iterable[ActivityKind] = (),
    before: int | None = None,
    limit: int = 50,
) -> ActivityPage:
    """Give what came to and went from the credits of an organization, newest first.

    What a job costs goes when it is held; that it was spent for good is the state of that row.

    Parameters
    ----------
    kinds
        Only these; none means all.
    before
        `next_before` of the page before.
    """
    query = _bookings(organization_id, kinds)
    if before is not None:
        query = query.where(BookingRow.id < before)
    found = cast(list[_Found], session.execute(query.limit(limit + 1)).all())
    rows = tuple(_activity_view(*row) for row in found[:limit])
    return ActivityPage(rows=rows, next_before=rows[-1].id if len(found) > limit else None)


def spent_by_month(session: Session, organization_id: str, *, month_count: int = 12) -> tuple[MonthView, ...]:
    """Give what the jobs of the last months cost, this month last, in the time zone of the organization."""
    zone = session.scalar(select(BalanceRow.zone).where(BalanceRow.organization_id == organization_id))
    months = [period_at(now(session), zone or "UTC")]
    while len(months) < month_count:
        months.insert(0, period_at(months[0].starts_ms - 1, zone or "UTC"))
    made_ms, amount = ReservationRow.made_ms, ReservationRow.amount
    sums = [
        func.sum(case((and_(made_ms >= month.starts_ms, made_ms < month.ends_ms), amount), else_=0))
        for month in months
    ]
    found = session.execute(
        select(*sums).where(
            ReservationRow.organization_id == organization_id,
            ReservationRow.state != "released",
            made_ms >= months[0].starts_ms,
        )
    ).one()
    return tuple(
        MonthView(key=month.key, spent=int(spent or 0)) for month, spent in zip(months, found, strict=True)
    )


def activity_csv(
    session: Session, organization_id: str, *, kinds: Iterable[ActivityKind] = ()
) -> Iterator[str]:
    """Write all activity of an organization as lines of a CSV file, newest first, while it is read."""
    yield csv_line(_CSV_HEAD)
    chosen, before = tuple(kinds), None
    while True:
        page = activity(session, organization_id, kinds=chosen, before=before, limit=_PAGE)
        for row in page.rows:
            yield csv_line(_csv_cells(row))
        if page.next_before is None:
            return
        before = page.next_before


_Found = tuple[BookingRow, GrantRow, ReservationRow | None, int]


def _bookings(organization_id: str, kinds: Iterable[ActivityKind]) -> Select[Any]:
    moved_entry = aliased(EntryRow)
    moved = (
        select(func.sum(moved_entry.amount)).where(moved_entry.booking_id == BookingRow.id).scalar_subquery()
    )
    chosen = [_KINDS[kind] for kind in kinds] or [BookingRow.kind != "settle"]
    return (
        select(BookingRow, GrantRow, ReservationRow, moved)
        .join(EntryRow, and_(EntryRow.booking_id == BookingRow.id, EntryRow.position == 0))
        .join(GrantRow, GrantRow.id == EntryRow.grant_id)
        .outerjoin(ReservationRow, ReservationRow.id == BookingRow.reservation_id)
        .where(BookingRow.organization_id == organization_id, or_(*chosen))
        .order_by(BookingRow.id.desc())
    )


def _activity_view(
    booking: BookingRow, grant: GrantRow, reservation: ReservationRow | None, moved: int
) -> ActivityView:
    is_grant = booking.kind == "grant"
    kinds: Mapping[str, ActivityKind] = {
        "hold": "spending", "release": "refund", "refund": "refund", "expire": "expiry",
    }  # fmt: skip
    return ActivityView(
        id=booking.id,
        at_ms=booking.at_ms,
        kind=_OF_GRANTS[grant.kind] if is_grant else kinds[booking.kind],
        # PostgreSQL adds up integers as decimal numbers.
        change=int(moved) if booking.kind in ("grant", "release", "refund") else -int(moved),
        available_after=booking.available_after,
        job_id=reservation and reservation.job_id,
        state=reservation.state if reservation is not None and booking.kind == "hold" else None,
        expires_ms=grant.expires_ms if is_grant else None,
        paid=Decimal(grant.paid) if is_grant and grant.paid is not None else None,
        currency=grant.currency if is_grant else None,
        comment=booking.comment,
        who=booking.who,
    )


def _csv_cells(row: ActivityView) -> tuple[str, ...]:
    return (
        iso_time(row.at_ms), row.kind, in_credits(row.change), in_credits(row.available_after), row.job_id or "",
        row.state or "", "" if row.paid is None else f"{row.paid:f}", row.currency or "",
        "" if row.expires_ms is None else iso_time(row.expires_ms), harmless(row.comment), harmless(row.who),
    )  # fmt: skip
