"""Requests to buy credits: the operator grants or declines each once."""

from __future__ import annotations

import secrets
from decimal import Decimal

from sqlalchemy import select
from sqlalchemy.orm import Session

from voxelworks.credits._grants import AMOUNT_MAX, grant, refuse_text
from voxelworks.credits._tables import OrderRow
from voxelworks.db import now
from voxelworks.errors import IllegalTransition, InvalidInput, NotFound
from voxelworks.protocol.credits import MILLICREDITS, OrderState, OrderView


def order(
    session: Session,
    organization_id: str,
    user_id: str,
    credits: int,
    comment: str = "",
) -> OrderView:
    """Note that somebody wants to buy credits for an organization.

    Parameters
    ----------
    credits
        Whole credits.

    Raises
    ------
    InvalidInput
    """
    most = AMOUNT_MAX // MILLICREDITS
    if not 0 < credits <= most:
        raise InvalidInput(f"{credits} credits cannot be ordered; order from 1 to {most}")
    refuse_text("comment", comment)
    row = OrderRow(
        id=secrets.token_hex(8), organization_id=organization_id, user_id=user_id, credits=credits, comment=comment,
        state="open", created_ms=now(session),
    )  # fmt: skip
    session.add(row)
    session.flush()
    return _view(row)


def find_order(session: Session, order_id: str) -> OrderView:
    """Find an order.

    Raises
    ------
    NotFound
    """
    row = session.get(OrderRow, order_id)
    if row is None:
        raise _no_such_order(order_id)
    return _view(row)


def list_orders(
    session: Session, organization_id: str | None = None, *, state: OrderState | None = None
) -> tuple[OrderView, ...]:
    """Give the orders of an organization, or of all, newest first."""
    query = select(OrderRow).order_by(OrderRow.created_ms.desc(), OrderRow.id)
    if organization_id is not None:
        query = query.where(OrderRow.organization_id == organization_id)
    if state is not None:
        query = query.where(OrderRow.state == state)
    return tuple(_view(row) for row in session.scalars(query))


def grant_order(
    session: Session,
    order_id: str,
    *,
    paid: Decimal | None,
    currency: str | None,
    comment: str,
    expires_ms: int | None = None,
    who: str,
) -> OrderView:
    """Give the credits that were ordered.

    Raises
    ------
    NotFound
    IllegalTransition
        If it was decided before.
    InvalidInput
        If the payment or the expiry makes no sense.
    """
    row = _take_open(session, order_id)
    given = grant(
        session, row.organization_id, row.credits * MILLICREDITS, kind="paid", expires_ms=expires_ms, paid=paid,
        currency=currency, comment=comment, who=who,
    )  # fmt: skip
    return _decide(session, row, "granted", grant_id=given.id, who=who)


def decline_order(session: Session, order_id: str, *, reason: str, who: str) -> OrderView:
    """Refuse an order, with a reason.

    Raises
    ------
    NotFound
    IllegalTransition
        If it was decided before.
    """
    refuse_text("reason", reason)
    row = _take_open(session, order_id)
    return _decide(session, row, "declined", reason=reason, who=who)


def _take_open(session: Session, order_id: str) -> OrderRow:
    row = session.get(OrderRow, order_id, with_for_update=True, populate_existing=True)
    if row is None:
        raise _no_such_order(order_id)
    if row.state != "open":
        raise IllegalTransition(f"order {order_id} was {row.state} already; an order is decided once")
    return row


def _decide(
    session: Session,
    row: OrderRow,
    state: OrderState,
    *,
    grant_id: int | None = None,
    reason: str | None = None,
    who: str,
) -> OrderView:
    row.decided_ms = now(session)
    row.state, row.decided_by, row.grant_id, row.reason = state, who, grant_id, reason
    session.flush()
    return _view(row)


def _no_such_order(order_id: str) -> NotFound:
    return NotFound(f"there is no order {order_id!r}; see the list of orders")


def _view(row: OrderRow) -> OrderView:
    return OrderView(
        id=row.id, organization_id=row.organization_id, user_id=row.user_id, credits=row.credits, comment=row.comment,
        state=row.state, created_ms=row.created_ms, decided_ms=row.decided_ms, decided_by=row.decided_by,
        reason=row.reason, grant_id=row.grant_id,
    )  # fmt: skip
