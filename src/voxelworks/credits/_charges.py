"""What jobs cost: held when they are submitted, settled when they succeed, released in every other end.

What was settled is refunded if nobody will ever see the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, bindparam, exists, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from voxelworks.credits._book import Part, book, take_grants
from voxelworks.credits._grants import (
    compensate,
    give_monthly,
    has_expired,
    take,
    usable_grants,
)
from voxelworks.credits._periods import period_at
from voxelworks.credits._quotes import Charge, charge_for
from voxelworks.credits._tables import BalanceRow, BookingKind, BookingRow, EntryRow, GrantRow, ReservationRow
from voxelworks.db import among, texts
from voxelworks.errors import IllegalTransition, NotEnoughCredits
from voxelworks.protocol.credits import ChargeState, ChargeView, Returned, ReturnedPart, in_credits
from voxelworks.settings import Settings

COMPENSATION_MS_MIN = 7 * 24 * 3_600_000
"""How long credits can be used at least that are given in place of expired ones."""

_LATEST = (
    select(ReservationRow)
    .where(ReservationRow.job_id == bindparam("job_id"))
    .order_by(ReservationRow.charge_number.desc())
    .limit(1)
)
"""A charge that is held is the latest of its job."""
_FINDING_LATEST = _LATEST.with_only_columns(ReservationRow.organization_id, ReservationRow.state)
_LOCKING_LATEST = _LATEST.with_for_update()
_FINDING_LINEAGE = (
    select(EntryRow.grant_id, EntryRow.amount)
    .join(BookingRow, BookingRow.id == EntryRow.booking_id)
    .where(BookingRow.reservation_id == bindparam("reservation_id"), BookingRow.kind == "hold")
    .order_by(EntryRow.position)
)
_FINDING_CHARGES = (
    select(ReservationRow)
    .where(among(ReservationRow.job_id, texts("job_ids")))
    .order_by(ReservationRow.charge_number)
)


def hold(
    session: Session,
    *,
    organization_id: str,
    job_id: str,
    price_name: str,
    quantity: int,
    quote_id: str | None,
    settings: Settings,
    who: str,
) -> int:
    """Keep what a job costs, so that nothing else can be paid with it.

    Parameters
    ----------
    quantity
        Voxels.
    quote_id
        The job costs what this quote says; without one it costs the present price.

    Returns
    -------
    int
        Millicredits that are held. A job that costs nothing leaves no trace in the ledger (I18).

    Raises
    ------
    NotEnoughCredits
    StaleQuote
        If the quote no longer holds.
    IllegalTransition
        If the job holds credits already.
    InvalidInput
        If the price list has no such price.
    """
    if not settings.credits_enabled:
        return 0
    charge = charge_for(
        session, organization_id=organization_id, price_name=price_name, quantity=quantity, quote_id=quote_id,
        settings=settings,
    )  # fmt: skip
    if charge.amount == 0:
        return 0
    balance, at_ms = take(session, organization_id)
    give_monthly(session, balance, at_ms, settings)
    number = _next_number(session, job_id)
    parts = _draw(usable_grants(session, organization_id, at_ms, is_locked=True), charge.amount)
    reservation = _reservation(organization_id, job_id, number, charge, at_ms)
    session.add(reservation)
    session.flush()
    book(session, balance, "hold", parts, at_ms=at_ms, who=who, reservation_id=reservation.id)
    return charge.amount


def settle(session: Session, job_id: str, *, who: str) -> None:
    """Spend what a job holds. Without a hold, or a second time, nothing happens."""
    held = _take(session, job_id, "held")
    if held is not None:
        _move(session, held, "settle", "settled", who=who)


def release(session: Session, job_id: str, *, is_our_fault: bool, who: str) -> Returned | None:
    """Give back all that a job holds, to the grants it came from.

    What goes back to a grant that has ended meanwhile expires at once: a refund never turns expiring credits into
    lasting ones (I11). If the job failed by our fault, as much is granted anew, for some time.

    Parameters
    ----------
    is_our_fault
        The job failed for a reason that its user could not help: infrastructure or program error.

    Returns
    -------
    Returned or None
        None if the job holds nothing (any more).
    """
    held = _take(session, job_id, "held")
    return None if held is None else _give_back(session, held, "release", is_our_fault=is_our_fault, who=who)


def refund(session: Session, job_id: str, *, who: str) -> Returned | None:
    """Give back what a job has spent, to the grants it came from: its result is lost by our fault.

    What goes back to a grant that has ended meanwhile expires at once, and as much is granted anew, for some time.

    Returns
    -------
    Returned or None
        None if the job has spent nothing, or it was given back already.
    """
    spent = _take(session, job_id, "settled")
    return None if spent is None else _give_back(session, spent, "refund", is_our_fault=True, who=who)


def charge_of(session: Session, job_id: str) -> ChargeView | None:
    """Give the latest charge of a job; None if it never cost anything."""
    return charges_of(session, [job_id]).get(job_id)


def charges_of(session: Session, job_ids: Iterable[str]) -> dict[str, ChargeView]:
    """Give the latest charge of each job that was ever charged."""
    rows = session.scalars(_FINDING_CHARGES, {"job_ids": list(job_ids)})
    return {row.job_id: _charge_view(row) for row in rows}


def is_charged(job_id: ColumnElement[str] | InstrumentedAttribute[str]) -> ColumnElement[bool]:
    """Match the jobs that were ever charged for."""
    return exists().where(ReservationRow.job_id == job_id)


@dataclass(frozen=True)
class _Taken:
    """A charge that this transaction alone may change."""

    balance: BalanceRow
    reservation: ReservationRow
    parts: Sequence[Part]
    """In the order in which they were taken."""
    at_ms: int


def _take(session: Session, job_id: str, state: ChargeState) -> _Taken | None:
    """Lock the latest charge of a job, if it is in this state."""
    found = session.execute(_FINDING_LATEST, {"job_id": job_id}).first()
    if found is None or found.state != state:
        return None
    balance, at_ms = take(session, found.organization_id)
    # Looked for again under the lock: whoever had it before may have changed the charge (I6).
    reservation = session.scalar(
        _LOCKING_LATEST, {"job_id": job_id}, execution_options={"populate_existing": True}
    )
    if reservation is None or reservation.state != state:
        return None
    return _Taken(balance, reservation, _lineage(session, reservation), at_ms)


def _move(session: Session, charge: _Taken, kind: BookingKind, state: ChargeState, *, who: str) -> None:
    charge.reservation.state = state
    charge.reservation.ended_ms = charge.at_ms
    book(
        session, charge.balance, kind, charge.parts, at_ms=charge.at_ms, who=who,
        reservation_id=charge.reservation.id,
    )  # fmt: skip


def _give_back(
    session: Session, charge: _Taken, kind: BookingKind, *, is_our_fault: bool, who: str
) -> Returned:
    _move(session, charge, kind, "released", who=who)
    lost = [(grant, amount) for grant, amount in charge.parts if has_expired(grant, charge.at_ms)]
    for part in lost:
        book(
            session, charge.balance, "expire", [part], at_ms=charge.at_ms, who="server",
            reservation_id=charge.reservation.id, comment=f"returned by job {charge.reservation.job_id} after its end",
        )  # fmt: skip
    lost_amount = sum(amount for _, amount in lost)
    if is_our_fault and lost_amount:
        _compensate(session, charge, lost_amount)
    return Returned(
        charge_number=charge.reservation.charge_number,
        amount=charge.reservation.amount,
        parts=tuple(
            ReturnedPart(grant_id=grant.id, amount=amount, has_expired=has_expired(grant, charge.at_ms))
            for grant, amount in charge.parts
        ),
        compensated=lost_amount if is_our_fault else 0,
    )


def _lineage(session: Session, reservation: ReservationRow) -> list[Part]:
    """Give the grants that paid for a hold, in the order in which they did (I8)."""
    taken = session.execute(_FINDING_LINEAGE, {"reservation_id": reservation.id}).all()
    grants = take_grants(session, [grant_id for grant_id, _ in taken])
    return [(grants[grant_id], amount) for grant_id, amount in taken]


def _compensate(session: Session, charge: _Taken, amount: int) -> None:
    month_end_ms = period_at(charge.at_ms, charge.balance.zone).ends_ms
    compensate(
        session, charge.balance, amount, at_ms=charge.at_ms,
        expires_ms=max(month_end_ms, charge.at_ms + COMPENSATION_MS_MIN),
        comment=f"in place of credits that expired while job {charge.reservation.job_id} failed", who="server",
    )  # fmt: skip


def _draw(grants: Sequence[GrantRow], amount: int) -> list[Part]:
    """Choose what each grant pays: the first ones all they have, the last one the rest."""
    available = sum(grant.available for grant in grants)
    if available < amount:
        raise NotEnoughCredits(
            f"the job costs {in_credits(amount)} credits, and {in_credits(available)} can be spent; choose a "
            "smaller box, or let the organization's owner order credits",
            needed=amount,
            available=available,
        )
    parts: list[Part] = []
    missing = amount
    for grant in grants:
        if missing == 0:
            break
        part = min(missing, grant.available)
        parts.append((grant, part))
        missing -= part
    return parts


def _next_number(session: Session, job_id: str) -> int:
    last, is_held = session.execute(
        select(
            func.coalesce(func.max(ReservationRow.charge_number), 0),
            func.count().filter(ReservationRow.state == "held"),
        ).where(ReservationRow.job_id == job_id)
    ).one()
    if is_held:
        raise IllegalTransition(f"job {job_id} holds credits already; it is charged anew only after its end")
    return int(last) + 1


def _reservation(
    organization_id: str, job_id: str, number: int, charge: Charge, at_ms: int
) -> ReservationRow:
    return ReservationRow(
        job_id=job_id, charge_number=number, organization_id=organization_id, price_name=charge.price_name,
        quantity=charge.quantity, price=charge.price, price_list_version=charge.price_list_version,
        quote_id=charge.quote_id, amount=charge.amount, state="held", made_ms=at_ms,
    )  # fmt: skip


def _charge_view(row: ReservationRow) -> ChargeView:
    return ChargeView(
        job_id=row.job_id, number=row.charge_number, amount=row.amount,
        refunded=row.amount if row.state == "released" else 0, state=row.state, price_name=row.price_name,
        quantity=row.quantity, price=row.price, price_list_version=row.price_list_version,
    )  # fmt: skip
