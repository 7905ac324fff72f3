"""Credits that come and go with time: grants, the free ones of each month, and expiry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

from sqlalchemy import bindparam, delete, or_, select
from sqlalchemy.orm import Session

from voxelworks.credits._book import book, lock
from voxelworks.credits._periods import find_zone, period_at
from voxelworks.credits._tables import BalanceRow, GrantRow, QuoteRow
from voxelworks.db import insert_into, now
from voxelworks.errors import InvalidInput
from voxelworks.protocol.credits import MILLICREDITS, GrantKind, GrantView
from voxelworks.settings import Settings

AMOUNT_MAX = 10**15
"""Millicredits of one grant: thousands of such still fit into 64 bits."""
TEXT_MAX = 2000
"""Characters of a comment."""

# Made once: to make a statement takes longer than most of them take in the database.
_OF_ORGANIZATION = GrantRow.organization_id == bindparam("organization_id")
_LOCKING_EXPIRED = (
    select(GrantRow)
    .where(_OF_ORGANIZATION, GrantRow.available > 0, GrantRow.expires_ms <= bindparam("at_ms"))
    .order_by(GrantRow.id)
    .with_for_update()
)
_FINDING_USABLE = select(GrantRow).where(
    _OF_ORGANIZATION,
    GrantRow.available > 0,
    # A month that has not begun: the clock was wrong when its grant was made.
    or_(GrantRow.starts_ms.is_(None), GrantRow.starts_ms <= bindparam("at_ms")),
    or_(GrantRow.expires_ms.is_(None), GrantRow.expires_ms > bindparam("at_ms")),
)
_LOCKING_USABLE = _FINDING_USABLE.order_by(GrantRow.id).with_for_update()
_FINDING_MONTHLY = select(GrantRow.id).where(
    _OF_ORGANIZATION, GrantRow.kind == "free", GrantRow.period == bindparam("period")
)
_FRESH: Mapping[str, bool] = {"populate_existing": True}

_USED_FIRST: dict[GrantKind, int] = {"free": 0, "compensation": 1, "paid": 2}
_PAID_MAX = 10**12
_QUOTES_KEPT_MS = 24 * 3_600_000


def grant(
    session: Session,
    organization_id: str,
    amount: int,
    *,
    kind: GrantKind = "paid",
    expires_ms: int | None = None,
    paid: Decimal | None = None,
    currency: str | None = None,
    comment: str = "",
    who: str,
) -> GrantView:
    """Give credits to an organization.

    Parameters
    ----------
    amount
        Millicredits.
    kind
        `paid` or `compensation`; free ones come with `ensure_monthly` alone.
    expires_ms
        Not usable from this instant on; None: they never expire.
    paid, currency
        What was paid for them, such as 49.90 and `EUR`; both or none.

    Raises
    ------
    InvalidInput
        If the amount, the payment or the expiry makes no sense.
    """
    _refuse_amount(amount)
    _refuse_payment(paid, currency)
    refuse_text("comment", comment)
    assert kind != "free", "free credits belong to a month"
    balance, at_ms = take(session, organization_id)
    if expires_ms is not None and expires_ms <= at_ms:
        raise InvalidInput("these credits would have expired already; choose a later date, or none")
    row = _new_grant(
        balance, kind, amount, at_ms=at_ms, expires_ms=expires_ms, paid=None if paid is None else f"{paid:f}",
        currency=currency, comment=comment, who=who,
    )  # fmt: skip
    return _add_grant(session, balance, row)


def compensate(
    session: Session, balance: BalanceRow, amount: int, *, at_ms: int, expires_ms: int, comment: str, who: str
) -> GrantView:
    """Give credits to a locked organization in place of those that expired by our fault."""
    row = _new_grant(
        balance, "compensation", amount, at_ms=at_ms, expires_ms=expires_ms, comment=comment, who=who
    )
    return _add_grant(session, balance, row)


def ensure_monthly(session: Session, organization_id: str, zone: str, settings: Settings) -> GrantView | None:
    """Give an organization the free credits of the present month, unless it has them.

    It may be called as often as one likes, by several processes at once: a month of an organization has one grant.

    Parameters
    ----------
    zone
        Time zone in which the months of the organization begin. It is remembered.

    Returns
    -------
    GrantView or None
        The grant, if this call made it.

    Raises
    ------
    InvalidInput
        If there is no such time zone.
    """
    if not settings.credits_enabled:
        return None
    find_zone(zone)
    known = session.get(BalanceRow, organization_id, populate_existing=True)
    if (
        known is not None
        and known.zone == zone
        and not _lacks_monthly(session, known, now(session), settings)
    ):
        return None
    balance, at_ms = take(session, organization_id, zone)
    return give_monthly(session, balance, at_ms, settings)


def give_monthly(session: Session, balance: BalanceRow, at_ms: int, settings: Settings) -> GrantView | None:
    """Give a locked organization the free credits of the present month, unless it has them."""
    if settings.monthly_free_credits == 0:
        return None
    period = period_at(at_ms, balance.zone)
    # The unique key of organization, kind and month is the whole schedule (I13).
    made = session.scalar(
        insert_into(session, GrantRow)
        .values(
            organization_id=balance.organization_id, kind="free", period=period.key,
            amount=settings.monthly_free_credits * MILLICREDITS,
            available=settings.monthly_free_credits * MILLICREDITS, held=0, spent=0, expired=0,
            created_ms=at_ms, starts_ms=period.starts_ms, expires_ms=period.ends_ms,
            comment=f"free credits of {period.key}", who="server",
        )
        .on_conflict_do_nothing()
        .returning(GrantRow)
    )  # fmt: skip
    return None if made is None else _book_grant(session, balance, made)


def expire(session: Session) -> int:
    """Book what has expired, over all organizations, and drop old quotes; give the number of grants.

    Expired credits cannot be spent before they are booked either: this only makes it visible.
    """
    at_ms = now(session)
    session.execute(delete(QuoteRow).where(QuoteRow.expires_ms < at_ms - _QUOTES_KEPT_MS))
    expiring = select(GrantRow.organization_id).where(GrantRow.available > 0, GrantRow.expires_ms <= at_ms)
    # In one order for all: two servers that expire at once wait for each other, and not both.
    found = session.scalars(expiring.distinct().order_by(GrantRow.organization_id)).all()
    return sum(_book_expired(session, lock(session, organization_id), at_ms) for organization_id in found)


def take(session: Session, organization_id: str, zone: str | None = None) -> tuple[BalanceRow, int]:
    """Lock an organization and bring its books to the present; give its balance, and the present."""
    balance = lock(session, organization_id, zone)
    at_ms = now(session)  # not before: waiting for the lock may have taken long
    _book_expired(session, balance, at_ms)
    return balance, at_ms


def usable_grants(
    session: Session, organization_id: str, at_ms: int, *, is_locked: bool = False
) -> list[GrantRow]:
    """Give the grants that something can be taken from at an instant, in the order in which they are used up.

    That is what expires first, then free ones before paid ones, then old ones (I9).
    """
    rows = session.scalars(
        _LOCKING_USABLE if is_locked else _FINDING_USABLE,
        {"organization_id": organization_id, "at_ms": at_ms},
        execution_options=_FRESH if is_locked else {},
    )
    return sorted(rows, key=_order_of_use)


def has_expired(row: GrantRow, at_ms: int) -> bool:
    return row.expires_ms is not None and row.expires_ms <= at_ms


def grant_view(row: GrantRow) -> GrantView:
    return GrantView(
        id=row.id, kind=row.kind, period=row.period, amount=row.amount, available=row.available, held=row.held,
        spent=row.spent, expired=row.expired, created_ms=row.created_ms, starts_ms=row.starts_ms,
        expires_ms=row.expires_ms, paid=None if row.paid is None else Decimal(row.paid), currency=row.currency,
        comment=row.comment, who=row.who,
    )  # fmt: skip


def refuse_text(name: str, text: str) -> None:
    """Refuse a text that is too long, or that a database cannot hold.

    Raises
    ------
    InvalidInput
    """
    if len(text) > TEXT_MAX:
        raise InvalidInput(f"the {name} has {len(text)} characters; write at most {TEXT_MAX}")
    if "\0" in text:
        raise InvalidInput(f"the {name} holds a NUL character; leave it out")


def _order_of_use(row: GrantRow) -> tuple[bool, int, int, int]:
    return (row.expires_ms is None, row.expires_ms or 0, _USED_FIRST[row.kind], row.id)


def _new_grant(
    balance: BalanceRow,
    kind: GrantKind,
    amount: int,
    *,
    at_ms: int,
    expires_ms: int | None,
    comment: str,
    who: str,
    paid: str | None = None,
    currency: str | None = None,
) -> GrantRow:
    return GrantRow(
        organization_id=balance.organization_id, kind=kind, amount=amount, available=amount, held=0, spent=0,
        expired=0, created_ms=at_ms, expires_ms=expires_ms, paid=paid, currency=currency, comment=comment, who=who,
    )  # fmt: skip


def _add_grant(session: Session, balance: BalanceRow, row: GrantRow) -> GrantView:
    session.add(row)
    session.flush()
    return _book_grant(session, balance, row)


def _book_grant(session: Session, balance: BalanceRow, row: GrantRow) -> GrantView:
    book(
        session, balance, "grant", [(row, row.amount)], at_ms=row.created_ms, who=row.who, comment=row.comment
    )
    return grant_view(row)


def _book_expired(session: Session, balance: BalanceRow, at_ms: int) -> int:
    """Book what has expired of a locked organization, one booking for each grant; give their number."""
    rows = session.scalars(
        _LOCKING_EXPIRED,
        {"organization_id": balance.organization_id, "at_ms": at_ms},
        execution_options=_FRESH,
    ).all()
    for row in rows:
        book(
            session, balance, "expire", [(row, row.available)], at_ms=at_ms, who="server", comment=row.comment
        )
    return len(rows)


def _lacks_monthly(session: Session, balance: BalanceRow, at_ms: int, settings: Settings) -> bool:
    if settings.monthly_free_credits == 0:
        return False
    period = period_at(at_ms, balance.zone)
    found = session.scalar(
        _FINDING_MONTHLY, {"organization_id": balance.organization_id, "period": period.key}
    )
    return found is None


def _refuse_amount(amount: int) -> None:
    if not 0 < amount <= AMOUNT_MAX:
        raise InvalidInput(
            f"{amount} millicredits cannot be granted; grant more than none and at most {AMOUNT_MAX}"
        )


def _refuse_payment(paid: Decimal | None, currency: str | None) -> None:
    if (paid is None) != (currency is None):
        raise InvalidInput("a payment is an amount and a currency, such as 49.90 and EUR; give both or none")
    if paid is None or currency is None:
        return
    if not (paid.is_finite() and 0 <= paid <= _PAID_MAX):
        raise InvalidInput(f"{paid} cannot be what was paid; write an amount such as 49.90")
    if not re.fullmatch(r"[A-Z]{3}", currency):
        raise InvalidInput(f"{currency!r} is not a currency; write its three letters, such as EUR")
