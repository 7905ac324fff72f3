"""The credit routes of WEBKNOSSOS, on our ledger."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Query
from starlette.responses import Response

from voxelworks import accounts, credits
from voxelworks.accounts import Action
from voxelworks.errors import IllegalTransition, InvalidInput, NotFound
from voxelworks.protocol.credits import ActivityKind, ActivityView, ChargeState
from voxelworks.protocol.messages import Json
from voxelworks.protocol.people import Principal
from voxelworks.server.api import operator as operator_api
from voxelworks.server.api import organization as organization_api
from voxelworks.server.context import Context, Here, Who
from voxelworks.server.wk.jobs import newest_jobs
from voxelworks.server.wk.models import CreditTransaction
from voxelworks.server.wk.translate import JobWriter

router = APIRouter()

ROWS_MAX = 1000
"""The list has no pages: it goes back to so many rows."""
_PAGE = 500


class _States(NamedTuple):
    """The two states of a transaction."""

    transaction: str
    credit: str


_STATES: Mapping[ActivityKind, _States] = {
    "free": _States("Complete", "AddCredits"),
    "purchase": _States("Complete", "AddCredits"),
    "compensation": _States("Complete", "AddCredits"),
    "refund": _States("Complete", "Refunding"),
    "expiry": _States("Complete", "Revoked"),
}
_STATES_OF_CHARGE: Mapping[ChargeState, _States] = {
    "held": _States("Pending", "Pending"),
    "settled": _States("Complete", "Spent"),
    "released": _States("Complete", "Refunded"),
}


@router.get("/creditTransactions")
def list_transactions(context: Here, who: Who) -> list[CreditTransaction]:
    """List what came to the organization's credits and what went, newest first. For admins."""
    _require_credits(context)
    accounts.require(who, Action.SEE_CREDIT_ACTIVITY)
    rows = _activity(context, who.organization_id)
    paid_jobs = _jobs_of(context, who, rows)
    spendings = {row.job_id: row.id for row in rows if row.kind == "spending"}
    return [
        CreditTransaction(
            id=_row_id(row.id), organization_id=who.organization_id,
            related_transaction=_related(row, spendings), paid_job=paid_jobs.get(row.job_id or ""),
            credit_change=row.change, comment=row.comment, transaction_state=words.transaction,
            credit_state=words.credit, expiration_date=row.expires_ms, created_at=row.at_ms, updated_at=row.at_ms,
        )
        for row in rows
        for words in [_words(row)]
    ]  # fmt: skip


@router.post("/creditTransactions/addCredits", response_class=Response)
def add_credits(
    context: Here,
    who: Who,
    organization_id: Annotated[str, Query(alias="organizationId", max_length=100)],
    credit_amount: Annotated[int, Query(alias="creditAmount", ge=1, le=10**9)],
    money_spent: Annotated[Decimal, Query(alias="moneySpent", ge=0, max_digits=14, decimal_places=2)],
    currency: Annotated[str, Query(pattern=r"^[A-Z]{3}$")],
    comment: Annotated[str, Query(max_length=2000)] = "",
    expires_at: Annotated[datetime | None, Query(alias="expiresAt")] = None,
) -> Response:
    """Give an organization whole credits. For operators."""
    accounts.require(who, Action.OPERATE)
    wanted = operator_api.NewGrant(
        credits=credit_amount,
        paid=money_spent,
        currency=currency,
        comment=comment,
        expires_ms=_milliseconds(expires_at),
    )
    operator_api.grant_credits(context, who, organization_id, wanted)
    return Response()


@router.patch("/creditTransactions/{transaction_id}", response_class=Response)
def refund(context: Here, who: Who, transaction_id: str) -> Response:
    """Refuse to refund by hand: a charge is returned by ending its job, and in no other way."""
    _require_credits(context)
    accounts.require(who, Action.OPERATE)
    raise IllegalTransition(
        f"transaction {transaction_id} belongs to a job that has not ended; cancel the job, and all of it is returned"
    )


@router.get("/maintenance/revokeExpiredCredits", response_class=Response)
def revoke_expired(context: Here, who: Who) -> Response:
    """Book what has expired. It cannot be spent in any case, so this changes no balance. For operators."""
    accounts.require(who, Action.OPERATE)
    with context.database.session() as session:
        credits.expire(session)
    return Response()


@router.post("/pricing/requestCredits", response_class=Response)
def request_credits(
    context: Here,
    who: Who,
    requested_credits: Annotated[int, Query(alias="requestedCredits", ge=1, le=10**9)],
) -> Response:
    """Ask the operator for credits. For the owner."""
    organization_api.order_credits(context, who, organization_api.Order(credits=requested_credits))
    return Response()


def _require_credits(context: Context) -> None:
    if not context.settings.credits_enabled:
        raise NotFound("credits are switched off on this server: everything is free")


def _activity(context: Context, organization_id: str) -> list[ActivityView]:
    rows: list[ActivityView] = []
    before: int | None = None
    with context.database.read_session() as session:
        while len(rows) < ROWS_MAX:
            page = credits.activity(session, organization_id, before=before, limit=_PAGE)
            rows += page.rows
            before = page.next_before
            if before is None:
                break
    return rows


def _jobs_of(context: Context, who: Principal, rows: list[ActivityView]) -> dict[str, Json]:
    """Give the jobs of spendings by our id, as far back as the list of jobs goes."""
    wanted = {row.job_id for row in rows if row.job_id is not None}
    with context.database.read_session() as session:
        views = [view for view in newest_jobs(session, context, who) if view.id in wanted] if wanted else []
        writer = JobWriter.of(session, views, by=who)
    return {
        view.id: writer.write(view).model_dump(mode="json", by_alias=True, exclude_none=True)
        for view in views
    }


def _words(row: ActivityView) -> _States:
    if row.kind == "spending":
        return _STATES_OF_CHARGE[row.state or "settled"]
    return _STATES[row.kind]


def _related(row: ActivityView, spendings: dict[str | None, int]) -> str | None:
    spending = spendings.get(row.job_id) if row.kind in ("refund", "compensation") and row.job_id else None
    return None if spending is None else _row_id(spending)


def _row_id(number: int) -> str:
    return f"{number:024x}"


def _milliseconds(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    # Without a zone it is UTC, as in everything that the server says.
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    milliseconds = round(zoned.timestamp() * 1000)
    if milliseconds <= 0:
        raise InvalidInput(f"expiresAt {moment.isoformat()} is past; give a time to come")
    return milliseconds
