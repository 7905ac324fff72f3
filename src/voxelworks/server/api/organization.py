"""The organization of who asks: members, invitations, credits, webhooks, audit log."""

from __future__ import annotations

from typing import Annotated, Literal
from zoneinfo import available_timezones

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session
from starlette.responses import StreamingResponse

from voxelworks import accounts, credits
from voxelworks import notify as notifications
from voxelworks.accounts import Action
from voxelworks.errors import InvalidInput, NotFound
from voxelworks.notify import WebhookEvent, WebhookView
from voxelworks.protocol.credits import ActivityKind, ActivityPage, Balance, OrderView
from voxelworks.protocol.messages import Message
from voxelworks.protocol.people import (
    AuditPage,
    InvitationView,
    MemberView,
    OrganizationView,
    Principal,
    Role,
)
from voxelworks.server.context import Context, Here, Who

router = APIRouter(prefix="/organization", tags=["organization"])

CREDITS_MAX = 10**9
"""Most credits of one order."""
Comment = Annotated[str, Field(max_length=2000)]


class OrganizationChange(BaseModel):
    """What may be changed; what is not named stays."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str | None, Field(max_length=200)] = None
    zone: Annotated[str | None, Field(max_length=100)] = None
    """IANA name of a time zone, such as `Europe/Berlin`: its months end there."""


class RoleChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: Role


class NewOwner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    user_id: Annotated[str, Field(max_length=100)]


class Invitation(BaseModel):
    model_config = ConfigDict(extra="forbid")

    email: Annotated[str, Field(max_length=320)]
    role: Literal["admin", "dataset_manager", "member"] = "member"


class NewInvitation(Message):
    """An invitation, with its link where that is for whoever invites to hand on."""

    path: str | None
    """Opens the page that accepts it; shown this once, and not at all where a mail server sends it."""
    view: InvitationView


class Order(BaseModel):
    """A request to buy credits."""

    model_config = ConfigDict(extra="forbid")

    credits: Annotated[int, Field(ge=1, le=CREDITS_MAX)]
    comment: Comment = ""


class NewWebhook(BaseModel):
    model_config = ConfigDict(extra="forbid")

    url: Annotated[str, Field(max_length=2000)]
    kind: Literal["json", "slack"] = "json"
    events: frozenset[WebhookEvent] = frozenset(("job.succeeded", "job.failed", "job.cancelled"))


class WebhookChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    events: frozenset[WebhookEvent] | None = None
    is_on: bool | None = None


class MadeWebhook(Message):
    """A webhook, with the secret that signs its calls; shown this once."""

    secret: str
    view: WebhookView


@router.get("")
def show(context: Here, who: Who) -> OrganizationView:
    """Show the organization that you speak for."""
    with context.database.read_session() as session:
        return accounts.find_organization(session, who.organization_id)


@router.patch("")
def change(context: Here, who: Who, change: OrganizationChange) -> OrganizationView:
    """Rename the organization, or choose where its months end."""
    accounts.require(who, Action.MANAGE_ORGANIZATION)
    if change.zone is not None and change.zone not in available_timezones():
        raise InvalidInput(f"{change.zone!r} is not a time zone; write its IANA name, such as Europe/Berlin")
    with context.database.session() as session:
        if change.name is not None:
            accounts.rename_organization(session, who, change.name)
        if change.zone is not None:
            accounts.set_zone(session, who, change.zone)
            credits.ensure_monthly(session, who.organization_id, change.zone, context.settings)
        return accounts.find_organization(session, who.organization_id)


# Members


@router.get("/members")
def list_members(context: Here, who: Who) -> tuple[MemberView, ...]:
    accounts.require(who, Action.SEE_MEMBERS)
    with context.database.read_session() as session:
        return accounts.list_members(session, who.organization_id)


@router.patch("/members/{user_id}", status_code=204)
def change_role(context: Here, who: Who, user_id: str, change: RoleChange) -> None:
    """Give a member another role; the owner's changes only with `POST /organization/owner`."""
    accounts.require(who, Action.MANAGE_MEMBERS)
    with context.database.session() as session:
        accounts.change_role(session, who, user_id, change.role)


@router.delete("/members/{user_id}", status_code=204)
def remove_member(context: Here, who: Who, user_id: str) -> None:
    """Remove a member, or leave yourself. Login sessions and tokens for this organization end; what was made stays."""
    is_leaving = user_id == who.user_id
    accounts.require(who, Action.MANAGE_ACCOUNT_OWN if is_leaving else Action.MANAGE_MEMBERS)
    with context.database.session() as session:
        accounts.remove_member(session, who, user_id)


@router.post("/owner", status_code=204)
def transfer_ownership(context: Here, who: Who, owner: NewOwner) -> None:
    """Make another member the owner, and yourself an admin."""
    accounts.require(who, Action.MANAGE_OWNER)
    with context.database.session() as session:
        accounts.transfer_ownership(session, who, owner.user_id)


@router.get("/invitations")
def list_invitations(context: Here, who: Who) -> tuple[InvitationView, ...]:
    accounts.require(who, Action.MANAGE_MEMBERS)
    with context.database.read_session() as session:
        return accounts.list_invitations(session, who)


@router.post("/invitations", status_code=201)
def invite(context: Here, who: Who, invitation: Invitation) -> NewInvitation:
    """Invite somebody by mail. The link is in the answer where no mail can be sent, and for operators."""
    accounts.require(who, Action.MANAGE_MEMBERS)
    context.limits.count_for("submission", who)
    with context.database.session() as session:
        token, view = accounts.invite(
            session, who, invitation.email, invitation.role, settings=context.settings
        )
        path = f"/invitations/{token}"
        notifications.post_mail(
            session, key=f"invitation:{view.id}", to=view.email, template="invitation", box=context.box,
            organization_id=who.organization_id,
            context={
                "organization_name": view.organization_name, "invited_by": who.name, "role": view.role, "path": path,
                "expires_ms": view.expires_ms,
            },
        )  # fmt: skip
    # With the link one makes an account under an address without reading its mailbox; who did so would come along
    # wherever that address is invited later.
    is_shown = context.settings.smtp_host is None or accounts.is_allowed(who, Action.OPERATE)
    return NewInvitation(path=path if is_shown else None, view=view)


@router.delete("/invitations/{invitation_id}", status_code=204)
def revoke_invitation(context: Here, who: Who, invitation_id: str) -> None:
    accounts.require(who, Action.MANAGE_MEMBERS)
    with context.database.session() as session:
        accounts.revoke_invitation(session, who, invitation_id)


# Credits


@router.get("/credits")
def show_balance(context: Here, who: Who) -> Balance:
    """Show what the organization can spend, in millicredits."""
    _require_credits(context)
    accounts.require(who, Action.SEE_BALANCE)
    return balance_of(context, who)


@router.get("/credits/activity")
def list_activity(
    context: Here,
    who: Who,
    kind: Annotated[list[ActivityKind] | None, Query()] = None,
    before: int | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> ActivityPage:
    """List purchases, spending, refunds and expiry, newest first."""
    _require_credits(context)
    accounts.require(who, Action.SEE_CREDIT_ACTIVITY)
    with context.database.read_session() as session:
        return credits.activity(
            session, who.organization_id, kinds=tuple(kind or ()), before=before, limit=limit
        )


@router.get("/credits/activity.csv", response_class=StreamingResponse)
def download_activity(
    context: Here, who: Who, kind: Annotated[list[ActivityKind] | None, Query()] = None
) -> StreamingResponse:
    """Give the whole activity as a table for spreadsheets."""
    _require_credits(context)
    accounts.require(who, Action.SEE_CREDIT_ACTIVITY)
    with context.database.read_session() as session:
        # Read at once: a reader that is slow must not keep a transaction open.
        lines = list(credits.activity_csv(session, who.organization_id, kinds=tuple(kind or ())))
    name = f"credits-{who.organization_id}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(iter(lines), media_type="text/csv; charset=utf-8", headers=headers)


@router.get("/credits/orders")
def list_orders(context: Here, who: Who) -> tuple[OrderView, ...]:
    _require_credits(context)
    accounts.require(who, Action.SEE_CREDIT_ACTIVITY)
    with context.database.read_session() as session:
        return credits.list_orders(session, who.organization_id)


@router.post("/credits/orders", status_code=201)
def order_credits(context: Here, who: Who, order: Order) -> OrderView:
    """Ask the operator for credits. Only the owner may; nothing is bought before the operator grants it."""
    _require_credits(context)
    accounts.require(who, Action.ORDER_CREDITS)
    context.limits.count_for("submission", who)
    with context.database.session() as session:
        made = credits.order(session, who.organization_id, who.user_id, order.credits, order.comment)
        accounts.audit(session, who, "credits.ordered", made.id, credits=order.credits)
        _tell_operator(session, context, who, made)
    return made


# Webhooks


@router.get("/webhooks")
def list_webhooks(context: Here, who: Who) -> tuple[WebhookView, ...]:
    accounts.require(who, Action.MANAGE_WEBHOOKS)
    with context.database.read_session() as session:
        return notifications.list_webhooks(session, who.organization_id)


@router.post("/webhooks", status_code=201)
def create_webhook(context: Here, who: Who, wanted: NewWebhook) -> MadeWebhook:
    """Have an address called whenever a job of the organization ends."""
    accounts.require(who, Action.MANAGE_WEBHOOKS)
    with context.database.session() as session:
        secret, view = notifications.create_webhook(
            session, context.box, organization_id=who.organization_id, user_id=who.user_id, url=wanted.url,
            kind=wanted.kind, events=wanted.events, settings=context.settings,
        )  # fmt: skip
        accounts.audit(session, who, "webhook.created", view.id, url=view.shown_url)
    return MadeWebhook(secret=secret, view=view)


@router.patch("/webhooks/{webhook_id}")
def change_webhook(context: Here, who: Who, webhook_id: str, change: WebhookChange) -> WebhookView:
    accounts.require(who, Action.MANAGE_WEBHOOKS)
    with context.database.session() as session:
        changed = notifications.change_webhook(
            session, webhook_id, organization_id=who.organization_id, events=change.events, is_on=change.is_on
        )
        accounts.audit(
            session, who, "webhook.changed", webhook_id, is_on=changed.is_on, events=sorted(changed.events)
        )
        return changed


@router.delete("/webhooks/{webhook_id}", status_code=204)
def delete_webhook(context: Here, who: Who, webhook_id: str) -> None:
    accounts.require(who, Action.MANAGE_WEBHOOKS)
    with context.database.session() as session:
        notifications.delete_webhook(session, webhook_id, organization_id=who.organization_id)
        accounts.audit(session, who, "webhook.deleted", webhook_id)


@router.post("/webhooks/{webhook_id}/test", status_code=204)
def test_webhook(context: Here, who: Who, webhook_id: str) -> None:
    """Have the address called with an event `test`."""
    accounts.require(who, Action.MANAGE_WEBHOOKS)
    context.limits.count_for("submission", who)
    with context.database.session() as session:
        notifications.test_webhook(session, webhook_id, organization_id=who.organization_id)


@router.get("/audit")
def list_audit(
    context: Here,
    who: Who,
    before: int | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> AuditPage:
    """List who changed what in the organization, newest first."""
    accounts.require(who, Action.SEE_AUDIT)
    with context.database.read_session() as session:
        return accounts.list_audit(session, organization_id=who.organization_id, before=before, limit=limit)


def balance_of(context: Context, who: Principal) -> Balance:
    with context.database.read_session() as session:
        return credits.balance(session, who.organization_id)


def _require_credits(context: Context) -> None:
    if not context.settings.credits_enabled:
        raise NotFound("credits are switched off on this server: everything is free")


def _tell_operator(session: Session, context: Context, who: Principal, order: OrderView) -> None:
    if context.settings.operator_email is None:
        return
    organization = accounts.find_organization(session, who.organization_id)
    notifications.post_mail(
        session, key=f"order:{order.id}", to=context.settings.operator_email, template="credits_ordered",
        organization_id=who.organization_id, reply_to=who.email,
        context={
            "organization_id": organization.id, "organization_name": organization.name, "ordered_by": who.name,
            "ordered_by_email": who.email, "credits": order.credits, "comment": order.comment,
            "path": "/operator/orders",
        },
    )  # fmt: skip
