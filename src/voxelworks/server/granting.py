"""The operator gives credits or declines an order: the books, the audit log, and a mail to whom it concerns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from sqlalchemy.orm import Session

from voxelworks import accounts, credits
from voxelworks import notify as notifications
from voxelworks.credits import in_credits
from voxelworks.protocol.credits import MILLICREDITS, GrantView, OrderView
from voxelworks.protocol.people import Principal, UserView

_CREDITS_PAGE = "/organization/credits"


@dataclass(frozen=True)
class Payment:
    """What was paid for credits, and until when they can be spent."""

    paid: Decimal | None = None
    currency: str | None = None
    comment: str = ""
    expires_ms: int | None = None


def grant_credits(
    session: Session,
    who: Principal,
    organization_id: str,
    millicredits: int,
    payment: Payment,
    *,
    kind: Literal["paid", "compensation"] = "paid",
) -> GrantView:
    """Give credits that nobody ordered here.

    Raises
    ------
    NotFound
    InvalidInput
        If amount, payment or expiry make no sense.
    """
    accounts.find_organization(session, organization_id)
    made = credits.grant(
        session, organization_id, millicredits, kind=kind, expires_ms=payment.expires_ms, paid=payment.paid,
        currency=payment.currency, comment=payment.comment, who=who.who,
    )  # fmt: skip
    _granted(session, who, organization_id, millicredits, payment, about=f"grant:{made.id}")
    return made


def grant_order(session: Session, who: Principal, order_id: str, payment: Payment) -> OrderView:
    """Give the credits that were ordered.

    Raises
    ------
    NotFound
    IllegalTransition
        If it was decided before.
    InvalidInput
        If the payment or the expiry makes no sense.
    """
    order = credits.grant_order(
        session, order_id, paid=payment.paid, currency=payment.currency, comment=payment.comment,
        expires_ms=payment.expires_ms, who=who.who,
    )  # fmt: skip
    _granted(
        session,
        who,
        order.organization_id,
        order.credits * MILLICREDITS,
        payment,
        about=f"granted:{order.id}",
    )
    return order


def decline_order(session: Session, who: Principal, order_id: str, reason: str) -> OrderView:
    """Refuse an order, and tell whoever ordered why.

    Raises
    ------
    NotFound
    IllegalTransition
        If it was decided before.
    """
    order = credits.decline_order(session, order_id, reason=reason, who=who.who)
    about = f"declined:{order.id}"
    accounts.audit(
        session, who, "credits.declined", order.organization_id, organization_id=order.organization_id, about=about,
        credits=str(order.credits), reason=reason,
    )  # fmt: skip
    by = accounts.find_users(session, [order.user_id]).get(order.user_id)
    if by is not None and by.email is not None:
        context = {"credits": order.credits, "reason": reason}
        _tell(session, by, by.email, order.organization_id, "credits_declined", context, key=about)
    return order


def _granted(
    session: Session, who: Principal, organization_id: str, millicredits: int, payment: Payment, *, about: str
) -> None:
    accounts.audit(
        session, who, "credits.granted", organization_id, organization_id=organization_id, about=about,
        credits=in_credits(millicredits), paid=None if payment.paid is None else str(payment.paid),
        currency=payment.currency,
    )  # fmt: skip
    owner = accounts.owner_of(session, organization_id)
    if owner.email is not None:
        context = {"amount": millicredits, "expires_ms": payment.expires_ms, "comment": payment.comment}
        _tell(session, owner, owner.email, organization_id, "credits_granted", context, key=about)


def _tell(
    session: Session,
    user: UserView,
    email: str,
    organization_id: str,
    template: Literal["credits_granted", "credits_declined"],
    context: Mapping[str, object],
    *,
    key: str,
) -> None:
    organization = accounts.find_organization(session, organization_id)
    notifications.post_mail(
        session, key=key, to=email, template=template, user_id=user.id, organization_id=organization_id,
        context={"organization_name": organization.name, "path": _CREDITS_PAGE, **context},
    )  # fmt: skip
