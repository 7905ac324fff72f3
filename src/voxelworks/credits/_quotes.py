"""Prices that somebody was told, and what a job is charged: the one is the other, or the job is refused (I23)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from sqlalchemy.orm import Session

from voxelworks.credits._activity import balance
from voxelworks.credits._grants import ensure_monthly
from voxelworks.credits._prices import amount, price_list
from voxelworks.credits._tables import BalanceRow, QuoteRow
from voxelworks.db import now
from voxelworks.errors import StaleQuote
from voxelworks.protocol.credits import PriceView, QuoteView, in_credits
from voxelworks.settings import Settings

VALID_MS = 15 * 60_000


@dataclass(frozen=True)
class Charge:
    """What a job costs, and how that was reckoned."""

    price_name: str
    quantity: int
    price: int
    price_list_version: str
    amount: int
    quote_id: str | None = None


def price(
    session: Session, *, organization_id: str, price_name: str, quantity: int, settings: Settings
) -> PriceView | None:
    """Say what a job would cost now; None if credits are switched off. Reads only: nothing is promised."""
    if not settings.credits_enabled:
        return None
    charge = _present_charge(price_name, quantity, settings)
    available = balance(session, organization_id).available
    return PriceView(
        price_name=price_name, quantity=quantity, unit=price_list(settings).unit(price_name), price=charge.price,
        price_list_version=charge.price_list_version, amount=charge.amount, available=available,
        has_enough=charge.amount <= available,
    )  # fmt: skip


def quote(
    session: Session,
    *,
    organization_id: str,
    user_id: str,
    price_name: str,
    quantity: int,
    settings: Settings,
) -> QuoteView | None:
    """Say what a job would cost, and keep that price for 15 minutes.

    Parameters
    ----------
    quantity
        Voxels.

    Returns
    -------
    QuoteView or None
        None if credits are switched off.

    Raises
    ------
    InvalidInput
        If the price list has no such price.
    """
    if not settings.credits_enabled:
        return None
    charge = _present_charge(price_name, quantity, settings)
    known = session.get(BalanceRow, organization_id, populate_existing=True)
    ensure_monthly(session, organization_id, known.zone if known else "UTC", settings)
    at_ms = now(session)
    row = QuoteRow(
        id=secrets.token_hex(8), organization_id=organization_id, user_id=user_id, price_name=price_name,
        quantity=quantity, price=charge.price, price_list_version=charge.price_list_version, amount=charge.amount,
        created_ms=at_ms, expires_ms=at_ms + VALID_MS,
    )  # fmt: skip
    session.add(row)
    session.flush()
    available = balance(session, organization_id).available
    return QuoteView(
        id=row.id, price_name=price_name, quantity=quantity, unit=price_list(settings).unit(price_name),
        price=row.price, price_list_version=row.price_list_version, amount=row.amount, expires_ms=row.expires_ms,
        available=available, has_enough=row.amount <= available,
    )  # fmt: skip


def charge_for(
    session: Session,
    *,
    organization_id: str,
    price_name: str,
    quantity: int,
    quote_id: str | None,
    settings: Settings,
) -> Charge:
    """Give what a job is charged: what was quoted, or without a quote the present price.

    Raises
    ------
    StaleQuote
        If the quote has run out, or is for another quantity, price or organization.
    InvalidInput
        If the price list has no such price.
    """
    if quote_id is None:
        return _present_charge(price_name, quantity, settings)
    quoted = session.get(QuoteRow, quote_id)
    if quoted is None or quoted.organization_id != organization_id or quoted.expires_ms <= now(session):
        raise _stale("has run out", price_name, quantity, settings)
    if (quoted.price_name, quoted.quantity) != (price_name, quantity):
        raise _stale("was for other data or parameters", price_name, quantity, settings)
    return Charge(
        price_name, quantity, quoted.price, quoted.price_list_version, quoted.amount, quote_id=quoted.id
    )


def _present_charge(price_name: str, quantity: int, settings: Settings) -> Charge:
    prices = price_list(settings)
    return Charge(
        price_name, quantity, prices.price(price_name), prices.version, amount(prices, price_name, quantity)
    )


def _stale(why: str, price_name: str, quantity: int, settings: Settings) -> StaleQuote:
    present = _present_charge(price_name, quantity, settings).amount
    return StaleQuote(
        f"the quote {why}; the job costs {in_credits(present)} credits now: look at the price again, and submit",
        amount=present,
    )
