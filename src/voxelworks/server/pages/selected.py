"""Several jobs of the list at once: one question that says what would happen, and then what happened.

Asking changes nothing, so it is a page of its own; it names the jobs one by one, and only these are sent back with the
answer. What it would cost is shown with it: if that has changed meanwhile, the page asks anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Query
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from voxelworks import accounts, jobs
from voxelworks.accounts import Action
from voxelworks.errors import VoxelworksError
from voxelworks.protocol.people import Principal
from voxelworks.protocol.views import BulkAnswer, JobView, RefusedJob
from voxelworks.server import rendering
from voxelworks.server.api.jobs import (
    BULK_MAX,
    Several,
    SeveralRepetitions,
    cancel_several,
    quote_several,
    retry_several,
)
from voxelworks.server.context import Context, Here, Who
from voxelworks.server.pages.jobs import Asked, ListQuery
from voxelworks.server.subjects import subject, workflow_title

router = APIRouter()

Deed = Literal["cancel", "retry"]


@dataclass(frozen=True)
class Plan:
    """What would happen to the jobs that somebody has selected."""

    deed: Deed
    jobs: tuple[JobView, ...]
    skipped: tuple[RefusedJob, ...]
    amount: int
    """Millicredits: what repeating costs, or what cancelling returns."""
    available: int | None
    left: int
    """Jobs that match but are too many for one time."""

    @property
    def has_enough(self) -> bool:
        return self.deed == "cancel" or self.available is None or self.amount <= self.available


@router.get("/jobs/selected", response_class=HTMLResponse)
def selected_page(
    context: Here,
    request: Request,
    who: Who,
    query: Asked,
    deed: Deed,
    job: Annotated[list[str] | None, Query(max_length=BULK_MAX)] = None,
    everything: Annotated[bool, Query(alias="all")] = False,
) -> Response:
    """Ask whether the jobs that were selected, or all that match the filters, shall be cancelled or run again."""
    accounts.require(who, Action.STEER_OWN_JOBS)
    ids, left = _matching(context, who, query) if everything else (job or [], 0)
    return _page(request, _plan(context, who, deed, ids, left), query)


@router.post("/jobs/selected", response_class=HTMLResponse)
def do_selected(
    context: Here,
    request: Request,
    who: Who,
    query: Asked,
    deed: Annotated[Deed, Form()],
    job: Annotated[list[str], Form(max_length=BULK_MAX)],
    amount: Annotated[int, Form()] = 0,
) -> Response:
    """Cancel or repeat the jobs, each on its own, and say what became of it."""
    accounts.require(who, Action.STEER_OWN_JOBS)
    if deed == "cancel":
        return _page(
            request, None, query, deed=deed, answer=cancel_several(context, who, Several(jobs=tuple(job)))
        )
    quoted = quote_several(context, who, Several(jobs=tuple(job)))
    if quoted.amount != amount:
        return _page(request, _plan(context, who, deed, job, 0), query, is_repriced=True)
    if not quoted.quotes:
        return _page(request, None, query, deed=deed, answer=BulkAnswer(jobs=(), refused=quoted.refused))
    agreed = {job_id: found.id for job_id, found in quoted.quotes.items() if found is not None}
    answer = retry_several(context, who, SeveralRepetitions(jobs=tuple(quoted.quotes), quotes=agreed))
    whole = answer.model_copy(update={"refused": quoted.refused + answer.refused})
    return _page(request, None, query, deed=deed, answer=whole)


def _matching(context: Context, who: Principal, query: ListQuery) -> tuple[list[str], int]:
    """Give the newest jobs that match the filters, and how many are left."""
    found = query.filters.list(context, who, states=query.states, limit=BULK_MAX)
    total = sum(number for state, number in found.counts.items() if not query.states or state in query.states)
    return [one.id for one in found.jobs], max(0, total - len(found.jobs))


def _plan(context: Context, who: Principal, deed: Deed, job_ids: Sequence[str], left: int) -> Plan:
    """Look at each job as if it were done, without doing it."""
    found, skipped, prices = [], [], []
    with context.database.read_session() as session:
        for job_id in dict.fromkeys(job_ids):
            try:
                if deed == "cancel":
                    jobs.require_cancellable(session, job_id, by=who)
                else:
                    price = jobs.price_retry(
                        session,
                        job_id,
                        by=who,
                        places=context.places,
                        settings=context.settings,
                        is_first=True,
                    )
                    prices += [] if price is None else [price]
                found.append(jobs.show(session, job_id, by=who, settings=context.settings).job)
            except VoxelworksError as error:
                if error.http_status >= 500:
                    raise
                skipped.append(RefusedJob(job_id=job_id, code=error.code, reason=error.message))
    held = sum((job.charge_millicredits or 0) - (job.refunded_millicredits or 0) for job in found)
    return Plan(
        deed, tuple(found), tuple(skipped), held if deed == "cancel" else sum(price.amount for price in prices),
        min((price.available for price in prices), default=None), left,
    )  # fmt: skip


def _page(
    request: Request,
    plan: Plan | None,
    query: ListQuery,
    *,
    deed: Deed | None = None,
    answer: BulkAnswer | None = None,
    is_repriced: bool = False,
) -> Response:
    return rendering.page(
        request, "selected.html", plan=plan, query=query, deed=plan.deed if plan else deed, answer=answer,
        is_repriced=is_repriced, bulk_max=BULK_MAX, subject_of=subject, title_of=workflow_title,
    )  # fmt: skip
