"""What operators of the instance do: organizations, worker keys, mails, orders, the queue, failures."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from voxelworks import accounts, credits, jobs
from voxelworks import notify as notifications
from voxelworks.accounts import Action
from voxelworks.errors import NotFound, VoxelworksError
from voxelworks.notify import Channel, MailPage, MailText, MailView, OutboxState
from voxelworks.protocol.credits import MILLICREDITS, Balance, GrantView, OrderState, OrderView
from voxelworks.protocol.messages import Message, PriorityClass
from voxelworks.protocol.people import AuditPage, OrganizationView, UserView, WorkerKeyView
from voxelworks.protocol.views import FailureGroup, PauseView, QueueMetrics
from voxelworks.server import granting
from voxelworks.server.context import Context, Here, Who


def _require_operator(who: Who) -> None:
    accounts.require(who, Action.OPERATE)


router = APIRouter(prefix="/operator", tags=["operator"], dependencies=[Depends(_require_operator)])

STORAGE_BYTES_MAX = 2**63 - 1
"""What the database can hold."""
REPEATS_MAX = 500
"""Most failed jobs that one request repeats: more would take too long for an answer."""
Name = Annotated[str, Field(min_length=1, max_length=200)]
Comment = Annotated[str, Field(max_length=2000)]
Money = Annotated[Decimal, Field(ge=0, max_digits=14, decimal_places=2)]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]


class NewOrganization(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(max_length=100)]
    """Short name, as in places and addresses: lower-case letters, digits, `-` and `_`."""
    name: Name
    zone: Annotated[str, Field(max_length=100)] = "UTC"
    owner_email: Annotated[str | None, Field(max_length=320)] = None
    """Who owns it: somebody with an account here. By default you do."""


class StorageLimit(BaseModel):
    model_config = ConfigDict(extra="forbid")

    storage_bytes_max: Annotated[int | None, Field(ge=0, le=STORAGE_BYTES_MAX)]
    """None: no limit of its own."""


class OwnerChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    email: Annotated[str, Field(max_length=320)]
    """Of somebody with an account here."""


class NewUser(BaseModel):
    model_config = ConfigDict(extra="forbid")

    email: Annotated[str, Field(max_length=320)]
    name: Name
    is_operator: bool = False


class UserChange(BaseModel):
    """What may be changed; what is not named stays."""

    model_config = ConfigDict(extra="forbid")

    is_operator: bool | None = None
    is_disabled: bool | None = None


class ResetLink(Message):
    """A link with which a user chooses a new password; shown this once."""

    path: str


class NewWorkerKey(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name
    organization_id: Annotated[str | None, Field(max_length=100)] = None
    """Its workers get only jobs of this organization; by default of all."""
    commands: tuple[Annotated[str, Field(max_length=100)], ...] = ()
    """Its workers get only these workflows; by default all."""
    high_slots: Annotated[int, Field(ge=0, le=1000)] = 1
    low_slots: Annotated[int, Field(ge=0, le=1000)] = 1


class MadeWorkerKey(Message):
    """A worker key, which is shown this once."""

    key: str
    view: WorkerKeyView


class Decision(BaseModel):
    """How an order was paid for."""

    model_config = ConfigDict(extra="forbid")

    paid: Money | None = None
    currency: Currency | None = None
    comment: Comment = ""
    expires_ms: Annotated[int | None, Field(gt=0)] = None


class Refusal(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, Field(min_length=1, max_length=2000)]


class NewGrant(Decision):
    """Credits given without an order."""

    credits: Annotated[int, Field(ge=1, le=10**9)]


class QueuePause(BaseModel):
    model_config = ConfigDict(extra="forbid")

    priority_class: PriorityClass | None = None
    """None: the whole queue."""
    why: Annotated[str, Field(max_length=500)] = ""


class GroupRepetition(BaseModel):
    """Which failed jobs are repeated: all that are listed as one."""

    model_config = ConfigDict(extra="forbid")

    group: Annotated[str, Field(max_length=100)]
    """Its `id` in the list of failures."""
    days: Annotated[int, Field(ge=1, le=365)] = 7
    """Those that failed in this time, as in the list."""


class RefusedRepeat(Message):
    """A job that was not repeated."""

    job_id: str
    reason: str


class Repeats(Message):
    """What became of repeating failed jobs."""

    queued: tuple[str, ...]
    """Ids of the new jobs."""
    refused: tuple[RefusedRepeat, ...]
    left: int
    """Jobs that were too many for one request: ask again."""


# Organizations and users


@router.get("/organizations")
def list_organizations(context: Here) -> tuple[OrganizationView, ...]:
    with context.database.read_session() as session:
        return accounts.list_organizations(session)


@router.post("/organizations", status_code=201)
def create_organization(context: Here, who: Who, wanted: NewOrganization) -> OrganizationView:
    with context.database.session() as session:
        owner_id = _user_with(session, wanted.owner_email).id if wanted.owner_email else None
        made = accounts.create_organization(
            session, who, organization_id=wanted.id, name=wanted.name, zone=wanted.zone, owner_id=owner_id
        )
        credits.ensure_monthly(session, made.id, made.zone, context.settings)
        return made


@router.patch("/organizations/{organization_id}")
def limit_storage(context: Here, who: Who, organization_id: str, limit: StorageLimit) -> OrganizationView:
    """Say how much an organization may store."""
    with context.database.session() as session:
        accounts.set_storage_max(session, who, organization_id, limit.storage_bytes_max)
        return accounts.find_organization(session, organization_id)


@router.post("/organizations/{organization_id}/owner", status_code=204)
def name_owner(context: Here, who: Who, organization_id: str, owner: OwnerChange) -> None:
    """Make somebody the owner of an organization, whose owner so far becomes an admin: also if that one is disabled."""
    with context.database.session() as session:
        accounts.name_owner(session, who, organization_id, _user_with(session, owner.email).id)


@router.get("/users")
def list_users(context: Here) -> tuple[UserView, ...]:
    with context.database.read_session() as session:
        return accounts.list_users(session)


@router.post("/users", status_code=201)
def create_user(context: Here, who: Who, wanted: NewUser) -> UserView:
    """Make an account without a password; a reset link lets its user choose one."""
    with context.database.session() as session:
        return accounts.create_user(
            session, who, email=wanted.email, name=wanted.name, is_operator=wanted.is_operator
        )


@router.patch("/users/{user_id}")
def change_user(context: Here, who: Who, user_id: str, change: UserChange) -> UserView:
    """Make a user an operator, or disable the account: its sessions and tokens end at once."""
    with context.database.session() as session:
        if change.is_operator is not None:
            accounts.set_operator(session, who, user_id, change.is_operator)
        if change.is_disabled is not None:
            act = accounts.disable_user if change.is_disabled else accounts.enable_user
            act(session, who, user_id)
        return accounts.find_user(session, user_id)


@router.post("/users/{user_id}/reset", status_code=201)
def make_reset_link(context: Here, who: Who, user_id: str) -> ResetLink:
    """Make a link with which a user chooses a new password, for where no mail can be sent."""
    with context.database.session() as session:
        token = accounts.make_reset(session, who, user_id, context.settings)
    return ResetLink(path=f"/reset/{token}")


@router.get("/audit")
def list_audit(
    context: Here, before: int | None = None, limit: Annotated[int, Query(ge=1, le=500)] = 100
) -> AuditPage:
    """List who changed what on the instance, newest first."""
    with context.database.read_session() as session:
        return accounts.list_audit(session, before=before, limit=limit)


# Workers and the queue


@router.get("/worker-keys")
def list_worker_keys(context: Here) -> tuple[WorkerKeyView, ...]:
    with context.database.read_session() as session:
        return accounts.list_worker_keys(session)


@router.post("/worker-keys", status_code=201)
def create_worker_key(context: Here, who: Who, wanted: NewWorkerKey) -> MadeWorkerKey:
    """Make a key for workers on other machines. It is shown this once."""
    with context.database.session() as session:
        key, view = accounts.create_worker_key(
            session, who, wanted.name, organization_id=wanted.organization_id, commands=wanted.commands,
            high_slots=wanted.high_slots, low_slots=wanted.low_slots,
        )  # fmt: skip
    return MadeWorkerKey(key=key, view=view)


@router.delete("/worker-keys/{key_id}", status_code=204)
def revoke_worker_key(context: Here, who: Who, key_id: str) -> None:
    """Take a key back. Its workers are refused from now on; their jobs go to others when the leases end."""
    with context.database.session() as session:
        accounts.revoke_worker_key(session, who, key_id)


@router.post("/workers/{name}/drain", status_code=204)
def drain_worker(context: Here, who: Who, name: str) -> None:
    """Let a worker finish what it has, and end."""
    with context.database.session() as session:
        jobs.drain_worker(session, name, by=who)


@router.post("/workers/{name}/resume", status_code=204)
def resume_worker(context: Here, who: Who, name: str) -> None:
    """Let a worker work again that was paused because jobs failed on it one after the other."""
    with context.database.session() as session:
        jobs.resume_worker(session, name, by=who)


@router.get("/queue")
def show_queue(context: Here) -> QueueMetrics:
    with context.database.read_session() as session:
        return jobs.metrics(session)


@router.get("/queue/pauses")
def list_pauses(context: Here) -> tuple[PauseView, ...]:
    with context.database.read_session() as session:
        return jobs.queue_pauses(session)


@router.post("/queue/pause", status_code=204)
def pause_queue(context: Here, who: Who, pause: QueuePause) -> None:
    """Give out no more jobs; those that run go on."""
    with context.database.session() as session:
        jobs.pause_queue(session, by=who, priority_class=pause.priority_class, why=pause.why)


@router.post("/queue/resume", status_code=204)
def resume_queue(context: Here, who: Who, pause: QueuePause) -> None:
    with context.database.session() as session:
        jobs.resume_queue(session, by=who, priority_class=pause.priority_class)


@router.get("/failures")
def list_failures(
    context: Here,
    days: Annotated[int, Query(ge=1, le=365)] = 7,
    organization_id: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> tuple[FailureGroup, ...]:
    """List the failures of all organizations, equal ones as one."""
    with context.database.read_session() as session:
        return jobs.failures(session, since_s=days * 86400, organization_id=organization_id, limit=limit)


@router.post("/failures/repeat")
def repeat_failures(context: Here, who: Who, wanted: GroupRepetition) -> Repeats:
    """Repeat jobs that failed alike, at no charge, and without a second failure mail should they fail again."""
    context.limits.count_for("submission", who)
    with context.database.read_session() as session:
        job_ids = jobs.failed_alike(session, wanted.group, since_s=wanted.days * 86400)
    queued, refused = [], []
    # Each on its own: one that cannot be repeated, as its input is gone, is no reason against the others.
    for job_id in job_ids[:REPEATS_MAX]:
        try:
            with context.database.session() as session:
                made = jobs.retry(
                    session, job_id, by=who, places=context.places, settings=context.settings, is_free=True
                )
                queued.append(made.id)
        except VoxelworksError as error:
            refused.append(RefusedRepeat(job_id=job_id, reason=error.message))
    return Repeats(queued=tuple(queued), refused=tuple(refused), left=len(job_ids[REPEATS_MAX:]))


# Mails


@router.get("/mails")
def list_mails(
    context: Here,
    state: Annotated[list[OutboxState] | None, Query()] = None,
    channel: Channel | None = None,
    after: int | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> MailPage:
    """List mails and calls of webhooks, newest first."""
    with context.database.read_session() as session:
        return notifications.list_mails(
            session, states=tuple(state or ()), channel=channel, after=after, limit=limit
        )


@router.get("/mails/{mail_id}")
def read_mail(context: Here, mail_id: int) -> MailText:
    """Show a mail as its reader sees it."""
    with context.database.read_session() as session:
        return notifications.read_mail(session, mail_id, settings=context.settings)


@router.post("/mails/{mail_id}/send")
def send_again(context: Here, who: Who, mail_id: int) -> MailView:
    """Send a mail that was kept, or that could not be sent."""
    with context.database.session() as session:
        view = notifications.send_again(session, mail_id)
        accounts.audit(session, who, "mail.sent_again", str(mail_id))
        return view


# Credits


@router.get("/orders")
def list_orders(context: Here, state: OrderState | None = None) -> tuple[OrderView, ...]:
    """List the requests for credits of all organizations."""
    with context.database.read_session() as session:
        return credits.list_orders(session, state=state)


@router.post("/orders/{order_id}/grant")
def grant_order(context: Here, who: Who, order_id: str, decision: Decision) -> OrderView:
    """Give the credits that were ordered, and say what was paid for them."""
    with context.database.session() as session:
        return granting.grant_order(session, who, order_id, _payment(decision))


@router.post("/orders/{order_id}/decline")
def decline_order(context: Here, who: Who, order_id: str, refusal: Refusal) -> OrderView:
    """Refuse an order; whoever ordered is told why."""
    with context.database.session() as session:
        return granting.decline_order(session, who, order_id, refusal.reason)


@router.get("/organizations/{organization_id}/credits")
def show_balance(context: Here, organization_id: str) -> Balance:
    with context.database.read_session() as session:
        accounts.find_organization(session, organization_id)
        return credits.balance(session, organization_id)


@router.post("/organizations/{organization_id}/grants", status_code=201)
def grant_credits(context: Here, who: Who, organization_id: str, wanted: NewGrant) -> GrantView:
    """Give credits that nobody ordered here."""
    _require_credits(context)
    with context.database.session() as session:
        millicredits = wanted.credits * MILLICREDITS
        return granting.grant_credits(session, who, organization_id, millicredits, _payment(wanted))


def _payment(decision: Decision) -> granting.Payment:
    return granting.Payment(decision.paid, decision.currency, decision.comment, decision.expires_ms)


def _require_credits(context: Context) -> None:
    if not context.settings.credits_enabled:
        raise NotFound("credits are switched off on this server: everything is free")


def _user_with(session: Session, email: str) -> UserView:
    user = accounts.find_user_by_email(session, email)
    if user is None:
        raise NotFound(f"nobody here has the address {email!r}; make the account first")
    return user
