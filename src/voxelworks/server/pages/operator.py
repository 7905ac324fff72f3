"""The pages of operators: state of the instance, failures, workers, organizations, mails, orders, audit log."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Query
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from voxelworks import accounts, jobs
from voxelworks import notify as notifications
from voxelworks.accounts import Action
from voxelworks.db import now
from voxelworks.errors import InvalidInput, NotFound
from voxelworks.notify import OutboxState
from voxelworks.server import rendering
from voxelworks.server.api import operator as api
from voxelworks.server.context import Context, Here, Who
from voxelworks.server.origin import public_address
from voxelworks.server.pages.acting import act, read
from voxelworks.server.pages.organization import audit_people
from voxelworks.server.subjects import workflow_title
from voxelworks.settings import Settings
from voxelworks.workflows import workflows


def _require_operator(who: Who) -> None:
    accounts.require(who, Action.OPERATE)


router = APIRouter(prefix="/operator", dependencies=[Depends(_require_operator)])

DONE = {
    "paused": "No more jobs are given out; those that run go on.",
    "resumed": "Jobs are given out again.",
    "drained": "The worker finishes what it has, and ends.",
    "worker": "The worker gets jobs again.",
    "revoked": "The key is revoked; its workers are refused from now on.",
    "organization": "The organization is made.",
    "owner": "The organization has a new owner.",
    "limit": "The storage limit is changed.",
    "user": "The account is changed.",
    "granted": "The credits are granted, and the owner is told.",
    "declined": "The order is declined.",
    "sent": "The mail is sent within a few seconds.",
}
MAIL_STATES: dict[OutboxState, str] = {
    "due": "Waiting", "held": "Held", "digest": "For a digest", "sent": "Sent", "kept": "Kept here", "failed": "Failed",
    "merged": "In a digest", "dropped": "Dropped",
}  # fmt: skip
GIBIBYTE = 2**30
Text = Annotated[str, Form(max_length=2000)]


@router.get("", response_class=HTMLResponse)
def overview_page(context: Here, request: Request, done: str = "") -> Response:
    with context.database.read_session() as session:
        metrics = jobs.metrics(session)
        pauses = jobs.queue_pauses(session)
        outbox_age_s = notifications.outbox_age_s(session)
        as_of_ms = now(session)
    return rendering.page(
        request, "operator.html", metrics=metrics, pauses=pauses, outbox_age_s=outbox_age_s, as_of_ms=as_of_ms,
        facts=_settings_facts(context.settings), note=DONE.get(done, ""), workflow_title=workflow_title,
    )  # fmt: skip


@router.post("/queue/pause")
def pause_queue(context: Here, who: Who, why: Text = "") -> Response:
    api.pause_queue(context, who, read(api.QueuePause, {"why": why}))
    return RedirectResponse("/operator?done=paused", status_code=303)


@router.post("/queue/resume")
def resume_queue(context: Here, who: Who) -> Response:
    api.resume_queue(context, who, api.QueuePause())
    return RedirectResponse("/operator?done=resumed", status_code=303)


@router.get("/failures", response_class=HTMLResponse)
def failures_page(context: Here, request: Request, days: Annotated[int, Query(ge=1, le=365)] = 7) -> Response:
    return _failures_page(context, request, days)


@router.post("/failures/repeat", response_class=HTMLResponse)
def repeat_failures(
    context: Here, request: Request, who: Who, group: Text, days: Annotated[int, Form(ge=1, le=365)] = 7
) -> Response:
    """Repeat jobs that failed alike, and say what became of it."""
    repeats = api.repeat_failures(context, who, read(api.GroupRepetition, {"group": group, "days": days}))
    return _failures_page(context, request, days, repeats)


@router.get("/workers", response_class=HTMLResponse)
def workers_page(context: Here, request: Request, done: str = "") -> Response:
    return _workers_page(context, request, note=DONE.get(done, ""))


@router.post("/workers/{name}/drain")
def drain_worker(context: Here, who: Who, name: str) -> Response:
    api.drain_worker(context, who, name)
    return RedirectResponse("/operator/workers?done=drained", status_code=303)


@router.post("/workers/{name}/resume")
def resume_worker(context: Here, who: Who, name: str) -> Response:
    api.resume_worker(context, who, name)
    return RedirectResponse("/operator/workers?done=worker", status_code=303)


@router.post("/worker-keys", response_class=HTMLResponse)
def create_worker_key(
    context: Here, request: Request, who: Who, name: Text = "", organization_id: Text = ""
) -> Response:
    """Make a key for workers and show it, this once."""
    made: list[api.MadeWorkerKey] = []

    def create() -> None:
        values = {"name": name, "organization_id": organization_id or None}
        made.append(api.create_worker_key(context, who, read(api.NewWorkerKey, values)))

    answer = act(
        create, show=lambda problem, status: _workers_page(context, request, problem=problem, status=status),
        back="/operator/workers", done="key",
    )  # fmt: skip
    return _workers_page(context, request, made=made[0]) if made else answer


@router.post("/worker-keys/{key_id}/revoke")
def revoke_worker_key(context: Here, who: Who, key_id: str) -> Response:
    api.revoke_worker_key(context, who, key_id)
    return RedirectResponse("/operator/workers?done=revoked", status_code=303)


@router.get("/organizations", response_class=HTMLResponse)
def organizations_page(context: Here, request: Request, done: str = "") -> Response:
    return _organizations_page(context, request, note=DONE.get(done, ""))


@router.post("/organizations")
def create_organization(
    context: Here, request: Request, who: Who, short_name: Text = "", name: Text = "", owner_email: Text = ""
) -> Response:
    values = {"id": short_name, "name": name, "owner_email": owner_email or None}
    return _act_on_organizations(
        context, request, lambda: api.create_organization(context, who, read(api.NewOrganization, values)),
        "organization",
    )  # fmt: skip


@router.post("/organizations/{organization_id}/storage")
def limit_storage(
    context: Here, request: Request, who: Who, organization_id: str, gibibytes: Text = ""
) -> Response:
    def limit() -> None:
        most = _bytes_of(gibibytes)
        api.limit_storage(context, who, organization_id, read(api.StorageLimit, {"storage_bytes_max": most}))

    return _act_on_organizations(context, request, limit, "limit")


@router.post("/organizations/{organization_id}/owner")
def name_owner(context: Here, request: Request, who: Who, organization_id: str, email: Text = "") -> Response:
    def name() -> None:
        try:
            api.name_owner(context, who, organization_id, read(api.OwnerChange, {"email": email}))
        except NotFound as error:
            # Nobody has the address that was typed; the page is there.
            raise InvalidInput(error.message) from error

    return _act_on_organizations(context, request, name, "owner")


@router.post("/users", response_class=HTMLResponse)
def create_user(context: Here, request: Request, who: Who, email: Text = "", name: Text = "") -> Response:
    """Make an account, and show the link with which its user chooses a password."""
    made: list[str] = []

    def create() -> None:
        user = api.create_user(context, who, read(api.NewUser, {"email": email, "name": name}))
        made.append(api.make_reset_link(context, who, user.id).path)

    answer = _act_on_organizations(context, request, create, "user")
    return _organizations_page(context, request, reset_path=made[0]) if made else answer


@router.post("/users/{user_id}/reset", response_class=HTMLResponse)
def make_reset_link(context: Here, request: Request, who: Who, user_id: str) -> Response:
    return _organizations_page(context, request, reset_path=api.make_reset_link(context, who, user_id).path)


@router.post("/users/{user_id}")
def change_user(
    context: Here,
    request: Request,
    who: Who,
    user_id: str,
    is_operator: Annotated[bool | None, Form()] = None,
    is_disabled: Annotated[bool | None, Form()] = None,
) -> Response:
    change = api.UserChange(is_operator=is_operator, is_disabled=is_disabled)
    return _act_on_organizations(
        context, request, lambda: api.change_user(context, who, user_id, change), "user"
    )


@router.get("/mails", response_class=HTMLResponse)
def mails_page(
    context: Here,
    request: Request,
    state: OutboxState | None = None,
    after: int | None = None,
    done: str = "",
) -> Response:
    found = api.list_mails(context, [state] if state else None, None, after, 50)
    with context.database.read_session() as session:
        as_of_ms = now(session)
    return rendering.page(
        request, "mails.html", found=found, state=state, state_words_of_mails=MAIL_STATES, as_of_ms=as_of_ms,
        has_smtp=context.settings.smtp_host is not None, note=DONE.get(done, ""),
    )  # fmt: skip


@router.get("/mails/{mail_id}", response_class=HTMLResponse)
def mail_page(context: Here, request: Request, mail_id: int) -> Response:
    mail = api.read_mail(context, mail_id)
    return rendering.page(request, "mail.html", mail=mail, state_words_of_mails=MAIL_STATES)


@router.post("/mails/{mail_id}/send")
def send_again(context: Here, who: Who, mail_id: int) -> Response:
    api.send_again(context, who, mail_id)
    return RedirectResponse("/operator/mails?done=sent", status_code=303)


@router.get("/orders", response_class=HTMLResponse)
def orders_page(context: Here, request: Request, done: str = "") -> Response:
    return _orders_page(context, request, note=DONE.get(done, ""))


@router.post("/orders/{order_id}/grant")
def grant_order(
    context: Here,
    request: Request,
    who: Who,
    order_id: str,
    paid: Text = "",
    currency: Text = "",
    comment: Text = "",
) -> Response:
    values = {"paid": paid or None, "currency": currency.strip().upper() or None, "comment": comment}
    return _act_on_orders(
        context,
        request,
        lambda: api.grant_order(context, who, order_id, read(api.Decision, values)),
        "granted",
    )


@router.post("/orders/{order_id}/decline")
def decline_order(context: Here, request: Request, who: Who, order_id: str, reason: Text = "") -> Response:
    return _act_on_orders(
        context, request,
        lambda: api.decline_order(context, who, order_id, read(api.Refusal, {"reason": reason})), "declined",
    )  # fmt: skip


@router.post("/grants")
def grant_credits(
    context: Here,
    request: Request,
    who: Who,
    organization_id: Text = "",
    credits: Text = "",
    paid: Text = "",
    currency: Text = "",
    comment: Text = "",
) -> Response:
    values = {
        "credits": credits, "paid": paid or None, "currency": currency.strip().upper() or None, "comment": comment,
    }  # fmt: skip
    return _act_on_orders(
        context, request,
        lambda: api.grant_credits(context, who, organization_id, read(api.NewGrant, values)), "granted",
    )  # fmt: skip


@router.get("/audit", response_class=HTMLResponse)
def audit_page(context: Here, request: Request, before: int | None = None) -> Response:
    found = api.list_audit(context, before, 100)
    return rendering.page(
        request, "audit.html", found=found, people=audit_people(context, [entry.who for entry in found.entries]),
        address="/operator/audit", is_instance=True,
    )  # fmt: skip


def _act_on_organizations(
    context: Context, request: Request, action: Callable[[], object], done: str
) -> Response:
    return act(
        action,
        show=lambda problem, status: _organizations_page(context, request, problem=problem, status=status),
        back="/operator/organizations",
        done=done,
    )


def _act_on_orders(context: Context, request: Request, action: Callable[[], object], done: str) -> Response:
    return act(
        action,
        show=lambda problem, status: _orders_page(context, request, problem=problem, status=status),
        back="/operator/orders",
        done=done,
    )


def _failures_page(
    context: Context, request: Request, days: int, repeats: api.Repeats | None = None
) -> Response:
    found = api.list_failures(context, days, None, 200)
    with context.database.read_session() as session:
        as_of_ms = now(session)
    return rendering.page(
        request, "failures.html", found=found, days=days, repeats=repeats, as_of_ms=as_of_ms,
        workflow_title=workflow_title,
    )  # fmt: skip


def _workers_page(
    context: Context,
    request: Request,
    *,
    note: str = "",
    problem: str = "",
    status: int = 200,
    made: api.MadeWorkerKey | None = None,
) -> Response:
    with context.database.read_session() as session:
        workers = jobs.list_workers(session, settings=context.settings)
        as_of_ms = now(session)
    return rendering.page(
        request, "workers.html", status=status, note=note, problem=problem, workers=workers, made=made,
        keys=api.list_worker_keys(context), organizations=api.list_organizations(context), as_of_ms=as_of_ms,
        workflow_count=len(workflows()),
    )  # fmt: skip


def _organizations_page(
    context: Context,
    request: Request,
    *,
    note: str = "",
    problem: str = "",
    status: int = 200,
    reset_path: str | None = None,
) -> Response:
    with context.database.read_session() as session:
        organizations = accounts.list_organizations(session)
        owners = accounts.owners_of(session, [item.id for item in organizations])
    return rendering.page(
        request, "organizations.html", status=status, note=note, problem=problem, users=api.list_users(context),
        organizations=organizations, owners=owners, gibibyte=GIBIBYTE,
        reset_link=public_address(request, context.settings) + reset_path if reset_path else None,
    )  # fmt: skip


def _orders_page(
    context: Context, request: Request, *, note: str = "", problem: str = "", status: int = 200
) -> Response:
    orders = api.list_orders(context, None) if context.settings.credits_enabled else ()
    with context.database.read_session() as session:
        people = accounts.find_users(session, {order.user_id for order in orders})
        as_of_ms = now(session)
    return rendering.page(
        request, "orders.html", status=status, note=note, problem=problem, orders=orders, people=people,
        organizations={item.id: item for item in api.list_organizations(context)}, as_of_ms=as_of_ms,
    )  # fmt: skip


def _bytes_of(gibibytes: str) -> int | None:
    """Read what a form says of a size; None if it says nothing.

    Raises
    ------
    InvalidInput
    """
    written = gibibytes.strip().replace(",", ".")
    if not written:
        return None
    with suppress(InvalidOperation):
        size = Decimal(written)
        # Compared before it is multiplied: `1e999999999` would be a number of a billion digits.
        if size.is_finite() and 0 <= size < api.STORAGE_BYTES_MAX // GIBIBYTE:
            return int(size * GIBIBYTE)
    raise InvalidInput(
        f"{gibibytes!r} is not a size; write GiB as a number, such as 100 or 0.5, or nothing for no limit"
    )


def _settings_facts(settings: Settings) -> list[tuple[str, str]]:
    """Say how the instance is set up, without any secret."""
    database = "PostgreSQL" if settings.database_url is not None else f"SQLite, {settings.sqlite_path}"
    facts: dict[str, Any] = {
        "Address": settings.public_url or f"http://{settings.host}:{settings.port}", "Database": database,
        "Datasets": settings.datasets_dir,
        "Import roots": ", ".join(f"{name} = {root.path}" for name, root in settings.import_roots.items()) or "none",
        "Remote hosts": ", ".join(sorted(settings.remote_hosts)) or "none",
        "Mail server": settings.smtp_host or "none: mails are kept here",
        "Operator's mail": settings.operator_email or "not set",
        "Support": settings.support_email or "not set", "Credits": "on" if settings.credits_enabled else "off",
        "Identity provider": settings.oidc_issuer or "none",
    }  # fmt: skip
    return [(name, str(value)) for name, value in facts.items()]
