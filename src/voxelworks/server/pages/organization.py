"""The pages of an organization: members, credits, webhooks, audit log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any
from zoneinfo import available_timezones

from fastapi import APIRouter, Form, Query
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from voxelworks import accounts, catalog, credits
from voxelworks.accounts import Action
from voxelworks.db import now
from voxelworks.errors import NotFound
from voxelworks.protocol.credits import ActivityKind, OrderView
from voxelworks.protocol.people import Principal
from voxelworks.server import rendering
from voxelworks.server.api import organization as api
from voxelworks.server.context import Context, Here, Who
from voxelworks.server.origin import public_address
from voxelworks.server.pages.acting import act, read
from voxelworks.server.security import let_out

router = APIRouter(prefix="/organization")

DONE = {
    "set-up": "The server is set up. Invite the others, or begin with the first job.",
    "changed": "The organization is changed.",
    "role": "The role is changed.",
    "removed": "The member is removed.",
    "owner": "The organization has a new owner, and you are an admin.",
    "invited": "The invitation is on its way by mail.",
    "revoked": "The invitation is taken back.",
    "ordered": "Your order was sent to the operator, who grants the credits when they are paid.",
    "webhook": "The webhook is changed.",
    "deleted": "The webhook is deleted.",
    "tested": "The address is called within a few seconds; its answer is shown in the list.",
}
KIND_WORDS: dict[ActivityKind, str] = {
    "free": "Free credits", "purchase": "Purchase", "compensation": "Compensation", "spending": "Job",
    "refund": "Refund", "expiry": "Expired",
}  # fmt: skip
Text = Annotated[str, Form(max_length=2000)]


@router.get("", response_class=HTMLResponse)
def organization_page(context: Here, request: Request, who: Who, done: str = "") -> Response:
    return _page(context, request, who, note=DONE.get(done, ""))


@router.post("")
def change(context: Here, request: Request, who: Who, name: Text = "", zone: Text = "") -> Response:
    values = {"name": name, "zone": zone}
    return _act(
        context,
        request,
        who,
        lambda: api.change(context, who, read(api.OrganizationChange, values)),
        "changed",
    )


@router.post("/invitations", response_class=HTMLResponse)
def invite(context: Here, request: Request, who: Who, email: Text = "", role: Text = "member") -> Response:
    """Invite somebody, and show the link, this once, if it has to be handed on."""
    made: list[api.NewInvitation] = []

    def create() -> None:
        made.append(api.invite(context, who, read(api.Invitation, {"email": email, "role": role})))

    answer = _act(context, request, who, create, "invited")
    return _page(context, request, who, new_invitation=made[0]) if made and made[0].path else answer


@router.post("/invitations/{invitation_id}/revoke")
def revoke_invitation(context: Here, request: Request, who: Who, invitation_id: str) -> Response:
    return _act(context, request, who, lambda: api.revoke_invitation(context, who, invitation_id), "revoked")


@router.post("/members/{user_id}/role")
def change_role(context: Here, request: Request, who: Who, user_id: str, role: Text = "") -> Response:
    return _act(
        context, request, who,
        lambda: api.change_role(context, who, user_id, read(api.RoleChange, {"role": role})), "role",
    )  # fmt: skip


@router.post("/members/{user_id}/remove")
def remove_member(context: Here, request: Request, who: Who, user_id: str) -> Response:
    answer = _act(context, request, who, lambda: api.remove_member(context, who, user_id), "removed")
    # Whoever has left sees nothing of the organization any more.
    has_left = user_id == who.user_id and answer.status_code == 303
    return let_out(request, "/login?done=left") if has_left else answer


@router.post("/owner")
def transfer_ownership(context: Here, request: Request, who: Who, user_id: Text = "") -> Response:
    owner = read(api.NewOwner, {"user_id": user_id})
    return _act(context, request, who, lambda: api.transfer_ownership(context, who, owner), "owner")


# Credits


@router.get("/credits", response_class=HTMLResponse)
def credits_page(
    context: Here,
    request: Request,
    who: Who,
    kind: Annotated[list[ActivityKind] | None, Query()] = None,
    before: int | None = None,
    done: str = "",
) -> Response:
    return _credits_page(context, request, who, kinds=kind or [], before=before, note=DONE.get(done, ""))


@router.get("/credits.csv")
def download_activity(context: Here, who: Who) -> Response:
    return api.download_activity(context, who)


@router.post("/credits/order")
def order_credits(
    context: Here, request: Request, who: Who, credits: Text = "", comment: Text = ""
) -> Response:
    values = {"credits": credits, "comment": comment}
    return act(
        lambda: api.order_credits(context, who, read(api.Order, values)),
        show=lambda problem, status: _credits_page(
            context, request, who, kinds=[], before=None, problem=problem, status=status
        ),
        back="/organization/credits", done="ordered",
    )  # fmt: skip


# Webhooks


@router.get("/webhooks", response_class=HTMLResponse)
def webhooks_page(context: Here, request: Request, who: Who, done: str = "") -> Response:
    return _webhooks_page(context, request, who, note=DONE.get(done, ""))


@router.post("/webhooks", response_class=HTMLResponse)
def create_webhook(
    context: Here,
    request: Request,
    who: Who,
    url: Text = "",
    kind: Text = "json",
    events: Annotated[list[str] | None, Form(max_length=10)] = None,
) -> Response:
    """Make a webhook and show its secret, this once."""
    made: list[api.MadeWebhook] = []

    def create() -> None:
        values = {"url": url, "kind": kind, "events": events or []}
        made.append(api.create_webhook(context, who, read(api.NewWebhook, values)))

    answer = _act_on_webhooks(context, request, who, create, "webhook")
    return _webhooks_page(context, request, who, made=made[0]) if made else answer


@router.post("/webhooks/{webhook_id}/switch")
def switch_webhook(
    context: Here, request: Request, who: Who, webhook_id: str, is_on: Annotated[bool, Form()]
) -> Response:
    change = api.WebhookChange(is_on=is_on)
    return _act_on_webhooks(
        context, request, who, lambda: api.change_webhook(context, who, webhook_id, change), "webhook"
    )


@router.post("/webhooks/{webhook_id}/test")
def test_webhook(context: Here, request: Request, who: Who, webhook_id: str) -> Response:
    return _act_on_webhooks(
        context, request, who, lambda: api.test_webhook(context, who, webhook_id), "tested"
    )


@router.post("/webhooks/{webhook_id}/delete")
def delete_webhook(context: Here, request: Request, who: Who, webhook_id: str) -> Response:
    return _act_on_webhooks(
        context, request, who, lambda: api.delete_webhook(context, who, webhook_id), "deleted"
    )


@router.get("/audit", response_class=HTMLResponse)
def audit_page(context: Here, request: Request, who: Who, before: int | None = None) -> Response:
    found = api.list_audit(context, who, before, 100)
    return rendering.page(
        request, "audit.html", found=found, people=audit_people(context, [entry.who for entry in found.entries]),
        address="/organization/audit", is_instance=False,
    )  # fmt: skip


def audit_people(context: Context, who: list[str]) -> dict[str, str]:
    """Give the names of those whom the log names by id."""
    ids = {text.removeprefix("user:") for text in who if text.startswith("user:")}
    with context.database.read_session() as session:
        found = accounts.find_users(session, ids)
    return {f"user:{user_id}": user.name for user_id, user in found.items()}


def _act(
    context: Context, request: Request, who: Principal, action: Callable[[], object], done: str
) -> Response:
    return act(
        action,
        show=lambda problem, status: _page(context, request, who, problem=problem, status=status),
        back="/organization",
        done=done,
    )


def _act_on_webhooks(
    context: Context, request: Request, who: Principal, action: Callable[[], object], done: str
) -> Response:
    return act(
        action,
        show=lambda problem, status: _webhooks_page(context, request, who, problem=problem, status=status),
        back="/organization/webhooks",
        done=done,
    )


def _page(
    context: Context,
    request: Request,
    who: Principal,
    *,
    note: str = "",
    problem: str = "",
    status: int = 200,
    new_invitation: api.NewInvitation | None = None,
) -> Response:
    manages = accounts.is_allowed(who, Action.MANAGE_MEMBERS)
    has_credits = context.settings.credits_enabled and accounts.is_allowed(who, Action.SEE_BALANCE)
    with context.database.read_session() as session:
        storage = catalog.storage_usage(session, who.organization_id, settings=context.settings)
        as_of_ms = now(session)
    return rendering.page(
        request, "organization.html", status=status, note=note, problem=problem, organization=api.show(context, who),
        members=api.list_members(context, who), invitations=api.list_invitations(context, who) if manages else (),
        new_invitation=new_invitation, base_url=public_address(request, context.settings), storage=storage,
        as_of_ms=as_of_ms,
        zones=sorted(available_timezones()), balance=api.balance_of(context, who) if has_credits else None,
        has_smtp=context.settings.smtp_host is not None,
    )  # fmt: skip


def _credits_page(
    context: Context,
    request: Request,
    who: Principal,
    *,
    kinds: list[ActivityKind],
    before: int | None,
    note: str = "",
    problem: str = "",
    status: int = 200,
) -> Response:
    if not context.settings.credits_enabled:
        raise NotFound("credits are switched off on this server: everything is free")
    accounts.require(who, Action.SEE_BALANCE)
    values: dict[str, Any] = {"found": None, "orders": (), "people": {}, "months": ()}
    if accounts.is_allowed(who, Action.SEE_CREDIT_ACTIVITY):
        found = api.list_activity(context, who, kinds, before, 50)
        orders: tuple[OrderView, ...] = api.list_orders(context, who)
        with context.database.read_session() as session:
            months = credits.spent_by_month(session, who.organization_id)
        values = {
            "found": found, "orders": orders, "people": audit_people(context, [row.who for row in found.rows]),
            "months": months if any(month.spent for month in months) else (),
        }  # fmt: skip
    return rendering.page(
        request, "credits.html", status=status, note=note, problem=problem, balance=api.balance_of(context, who),
        kinds=kinds, kind_words=KIND_WORDS, organization=api.show(context, who), **values,
    )  # fmt: skip


def _webhooks_page(
    context: Context,
    request: Request,
    who: Principal,
    *,
    note: str = "",
    problem: str = "",
    status: int = 200,
    made: api.MadeWebhook | None = None,
) -> Response:
    with context.database.read_session() as session:
        as_of_ms = now(session)
    return rendering.page(
        request, "webhooks.html", status=status, note=note, problem=problem, webhooks=api.list_webhooks(context, who),
        made=made, as_of_ms=as_of_ms,
    )  # fmt: skip
