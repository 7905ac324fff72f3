"""Jobs: estimate, submit, list, look at, cancel, retry, and follow; alone and in groups."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Annotated, TypeVar

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import StreamingResponse

import voxelworks
from voxelworks import accounts, jobs
from voxelworks import notify as notifications
from voxelworks.accounts import Action
from voxelworks.client import is_settled
from voxelworks.errors import IllegalTransition, NotFound, VoxelworksError
from voxelworks.protocol.credits import QuoteView
from voxelworks.protocol.messages import PRIORITY_MAX, JobState, Json, Message, NewJob
from voxelworks.protocol.people import Principal
from voxelworks.protocol.views import (
    BulkAnswer,
    BulkQuote,
    GroupQuote,
    JobDetail,
    JobPage,
    JobView,
    LogChunk,
    LogHits,
    LogLines,
    RefusedJob,
)
from voxelworks.server.api.workflows import IdempotencyKey
from voxelworks.server.context import Context, Here, Who
from voxelworks.server.job_filters import Filters
from voxelworks.server.security import still_in
from voxelworks.server.sse import Frame, event_stream
from voxelworks.server.subjects import workflow_title

router = APIRouter(prefix="/jobs", tags=["jobs"])

LOG_BYTES_MAX = 4 * 2**20
"""Most log that one answer carries, in bytes."""
LOG_LINES_MAX = 5000
"""Most lines of a log that one answer carries."""
HELP_LOG_BYTES = 16 * 2**10
"""How much of the end of a log goes to the support address."""
GROUP_MAX = 200
"""Most jobs of one group."""
BULK_MAX = 200
"""Most jobs that one request cancels or repeats: more would take too long for an answer."""


_T = TypeVar("_T")
AttemptNumber = Annotated[int | None, Query(ge=1, description="By default the current or last one.")]


class Estimate(BaseModel):
    """A job whose price is asked for."""

    model_config = ConfigDict(extra="forbid")

    workflow: str
    params: Json


class Submission(Estimate):
    """A job to be."""

    after: Annotated[tuple[str, ...], Field(max_length=50)] = ()
    """Jobs that must have succeeded before it starts; their results are named in the params as `job:ID`."""
    group: Annotated[str | None, Field(max_length=100)] = None
    """Name of a group, under which jobs are shown and cancelled together."""
    priority: Annotated[int, Field(ge=-PRIORITY_MAX, le=PRIORITY_MAX)] = 0
    """Each step counts like having been submitted an hour earlier. Above 0 for admins of the organization only."""
    quote_id: str | None = None
    """Quote that was agreed to: exactly its amount is charged, or the submission is refused with the new one."""


class GroupSubmission(BaseModel):
    """Jobs that are submitted as one: all of them, or none."""

    model_config = ConfigDict(extra="forbid")

    jobs: Annotated[tuple[NewJob, ...], Field(min_length=1, max_length=GROUP_MAX)]
    """Each after those that it waits for."""


class Repetition(BaseModel):
    """How a job is repeated."""

    model_config = ConfigDict(extra="forbid")

    quote_id: str | None = None
    is_free: bool = False
    """At no charge and without a second failure mail; for operators. From outside its organization it is so anyway."""


class Several(BaseModel):
    """Several jobs, of which each is looked at on its own."""

    model_config = ConfigDict(extra="forbid")

    jobs: Annotated[tuple[str, ...], Field(min_length=1, max_length=BULK_MAX)]
    """Their ids."""


class SeveralRepetitions(Several):
    """Several jobs to repeat."""

    quotes: dict[str, str] = Field(default_factory=dict)
    """Id of the quote that was agreed to, by the id of the job; the others cost the present price."""


class HelpRequest(BaseModel):
    """What somebody asks about a job that failed."""

    model_config = ConfigDict(extra="forbid")

    question: Annotated[str, Field(max_length=5000)] = ""


class Price(Message):
    """What a job would cost."""

    quote: QuoteView | None
    """None if it is free."""


@router.post("", status_code=201)
def submit(
    context: Here, who: Who, submission: Submission, idempotency_key: IdempotencyKey = None
) -> JobView:
    """Submit a job of any workflow."""
    context.limits.count_for("submission", who)
    with context.database.session() as session:
        return jobs.submit(
            session, by=who, workflow=submission.workflow, params=submission.params, places=context.places,
            settings=context.settings, idempotency_key=idempotency_key, after=submission.after, group=submission.group,
            priority=submission.priority, quote_id=submission.quote_id,
        )  # fmt: skip


@router.post("/quote")
def quote(context: Here, who: Who, estimate: Estimate) -> Price:
    """Ask what a job would cost. The quote is binding for 15 minutes; nothing is submitted."""
    context.limits.count_for("estimate", who)
    with context.database.session() as session:
        made = jobs.quote(
            session, by=who, workflow=estimate.workflow, params=estimate.params, places=context.places,
            settings=context.settings,
        )  # fmt: skip
    return Price(quote=made)


@router.get("")
def list_jobs(
    context: Here,
    who: Who,
    filters: Filters,
    state: Annotated[list[JobState] | None, Query()] = None,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> JobPage:
    """List the jobs that you may see, newest first. `next_after` of one page is `after` of the next."""
    return filters.list(context, who, states=tuple(state or ()), after=after, limit=limit)


@router.post("/cancel")
def cancel_several(context: Here, who: Who, several: Several) -> BulkAnswer:
    """Cancel several jobs. One that cannot be cancelled is no reason against the others."""
    accounts.require(who, Action.STEER_OWN_JOBS)

    def cancel_one(session: Session, job_id: str) -> JobView:
        jobs.require_cancellable(session, job_id, by=who)
        return jobs.cancel(session, job_id, by=who)

    done, refused = _each(context, several.jobs, cancel_one)
    return BulkAnswer(jobs=tuple(done.values()), refused=refused)


@router.post("/retry")
def retry_several(context: Here, who: Who, several: SeveralRepetitions) -> BulkAnswer:
    """Submit several jobs anew, except those that were repeated already."""
    accounts.require(who, Action.STEER_OWN_JOBS)
    context.limits.count_for("submission", who)

    def retry_one(session: Session, job_id: str) -> JobView:
        return jobs.retry(
            session, job_id, by=who, places=context.places, settings=context.settings, is_first=True,
            quote_id=several.quotes.get(job_id),
        )  # fmt: skip

    done, refused = _each(context, several.jobs, retry_one)
    return BulkAnswer(jobs=tuple(done.values()), refused=refused)


@router.post("/retry/quote")
def quote_several(context: Here, who: Who, several: Several) -> BulkQuote:
    """Ask what it would cost to repeat several jobs. The quotes are binding for 15 minutes; nothing is submitted."""
    accounts.require(who, Action.STEER_OWN_JOBS)
    context.limits.count_for("estimate", who)

    def quote_one(session: Session, job_id: str) -> QuoteView | None:
        return jobs.quote_retry(
            session, job_id, by=who, places=context.places, settings=context.settings, is_first=True
        )

    quotes, refused = _each(context, several.jobs, quote_one)
    known = [found for found in quotes.values() if found is not None]
    return BulkQuote(
        quotes=quotes, amount=sum(found.amount for found in known),
        available=min((found.available for found in known), default=None), refused=refused,
    )  # fmt: skip


@router.get("/{job_id}")
def show(context: Here, who: Who, job_id: str) -> JobDetail:
    """Show a job with its attempts and events."""
    return show_job(context, who, job_id)


@router.post("/{job_id}/cancel")
def cancel(context: Here, who: Who, job_id: str) -> JobView:
    """Cancel a job. Asking again changes nothing."""
    with context.database.session() as session:
        return jobs.cancel(session, job_id, by=who)


@router.post("/{job_id}/retry", status_code=201)
def retry(context: Here, who: Who, job_id: str, repetition: Repetition | None = None) -> JobView:
    """Submit the same job anew, for its owner, at the present price."""
    context.limits.count_for("submission", who)
    how = repetition or Repetition()
    with context.database.session() as session:
        return jobs.retry(
            session, job_id, by=who, places=context.places, settings=context.settings, is_free=how.is_free,
            quote_id=how.quote_id,
        )  # fmt: skip


@router.post("/{job_id}/retry/quote")
def quote_retry(context: Here, who: Who, job_id: str) -> Price:
    """Ask what it would cost to repeat a job. The quote is binding for 15 minutes; nothing is submitted."""
    context.limits.count_for("estimate", who)
    with context.database.session() as session:
        made = jobs.quote_retry(session, job_id, by=who, places=context.places, settings=context.settings)
    return Price(quote=made)


@router.post("/{job_id}/help", status_code=204)
def ask_for_help(context: Here, who: Who, job_id: str, request: HelpRequest) -> None:
    """Send a failed job to the support address: its id, the end of its log, and the versions."""
    # As who may repeat it: a token that may only read says nothing to others, such as the one that a job is given.
    accounts.require(who, Action.STEER_OWN_JOBS)
    support = context.settings.support_email
    if support is None:
        raise NotFound("nobody has been named whom to ask; the operator sets VOXELWORKS_SUPPORT_EMAIL")
    context.limits.count_for("submission", who)
    detail = show_job(context, who, job_id)
    if detail.job.state != "failed" and detail.job.publication != "failed":
        raise IllegalTransition(f"job {job_id} is {detail.job.state}; help is there for jobs that failed")
    with context.database.session() as session:
        notifications.post_mail(
            session, key=f"help:{secrets.token_hex(8)}", to=support, template="help_request", reply_to=who.email,
            organization_id=detail.job.organization_id, job_id=job_id,
            context=_help_facts(context, who, detail, request.question),
        )  # fmt: skip


@router.get("/{job_id}/log")
def read_log(
    context: Here,
    who: Who,
    job_id: str,
    attempt: AttemptNumber = None,
    offset: Annotated[int | None, Query(ge=0, description="By default the end is read.")] = None,
    limit: Annotated[int, Query(ge=1, le=LOG_BYTES_MAX)] = 65536,
) -> LogChunk:
    """Read a part of an attempt's log."""
    with context.database.read_session() as session:
        number = attempt or _last_attempt(context, session, who, job_id)
        return jobs.read_log(
            session, job_id, number, by=who, settings=context.settings, offset=offset, limit=limit
        )


@router.get("/{job_id}/log/lines")
def read_log_lines(
    context: Here,
    who: Who,
    job_id: str,
    attempt: AttemptNumber = None,
    first: Annotated[int | None, Query(ge=1, description="By default the last lines are read.")] = None,
    limit: Annotated[int, Query(ge=1, le=LOG_LINES_MAX)] = 1000,
) -> LogLines:
    """Read some lines of an attempt's log, wherever they are in it."""
    return find_log(context, who, job_id, attempt).lines(first, limit)


@router.get("/{job_id}/log/search")
def search_log(
    context: Here,
    who: Who,
    job_id: str,
    text: Annotated[str, Query(max_length=1000, description="Small and capital letters are alike.")],
    attempt: AttemptNumber = None,
    after: Annotated[int, Query(ge=0, description="Lines that were searched before.")] = 0,
) -> LogHits:
    """Find the lines of an attempt's log in which a text stands. Go on at `searched` where it is not whole."""
    return find_log(context, who, job_id, attempt).search(text, after=after)


@router.get("/{job_id}/events", response_class=StreamingResponse)
async def follow(context: Here, who: Who, request: Request, job_id: str) -> StreamingResponse:
    """Stream the job now and after every change, as server-sent events `job`, until nothing more can happen."""
    # Asked before the stream begins, so that an unknown job is a plain 404.
    await run_in_threadpool(show_job, context, who, job_id)

    async def frames() -> AsyncIterator[Frame | None]:
        sent = ""
        async for _ in still_in(context, request, context.live.pulse()):
            detail = await run_in_threadpool(show_job, context, who, job_id)
            # The time of asking alone is no news.
            text = detail.model_copy(update={"job": detail.job.still}).model_dump_json()
            yield None if text == sent else Frame(detail.model_dump_json(), event="job")
            sent = text
            if is_settled(detail.job):
                return

    return event_stream(frames())


def _each(
    context: Context, job_ids: Iterable[str], work: Callable[[Session, str], _T]
) -> tuple[dict[str, _T], tuple[RefusedJob, ...]]:
    """Do something with each job, in a transaction of its own."""
    done, refused = {}, []
    for job_id in dict.fromkeys(job_ids):
        try:
            with context.database.session() as session:
                done[job_id] = work(session, job_id)
        except VoxelworksError as error:
            refused.append(RefusedJob(job_id=job_id, code=error.code, reason=error.message))
    return done, tuple(refused)


def _help_facts(context: Context, who: Principal, detail: JobDetail, question: str) -> dict[str, object]:
    job = detail.job
    what = job.failure_class or "not published"
    return {
        "job_id": job.id, "title": workflow_title(job.workflow), "organization_id": job.organization_id,
        "user_name": who.name, "user_email": who.email, "question": question.strip() or None,
        "failure": f"{what}: {job.publish_error or job.message or 'no reason is known'}",
        "log_tail": _log_tail(context, who, job) or None,
        "versions": f"Voxelworks {voxelworks.__version__}, {job.workflow} version {job.version}",
        "path": f"/jobs/{job.id}",
    }  # fmt: skip


def _log_tail(context: Context, who: Principal, job: JobView) -> str:
    if job.attempt == 0:
        return ""
    with context.database.read_session() as session:
        return jobs.read_log(
            session, job.id, job.attempt, by=who, settings=context.settings, offset=None, limit=HELP_LOG_BYTES
        ).text


def find_log(context: Context, who: Principal, job_id: str, attempt: int | None) -> jobs.Log:
    """Find the log of an attempt; None: of the current or last one."""
    with context.database.read_session() as session:
        number = attempt or _last_attempt(context, session, who, job_id)
        return jobs.find_log(session, job_id, number, by=who, settings=context.settings)


def _last_attempt(context: Context, session: Session, who: Principal, job_id: str) -> int:
    number = jobs.show(session, job_id, by=who, settings=context.settings).job.attempt
    if number == 0:
        raise NotFound(f"job {job_id} has no log: no worker has taken it yet")
    return number


def show_job(context: Context, who: Principal, job_id: str) -> JobDetail:
    with context.database.read_session() as session:
        return jobs.show(session, job_id, by=who, settings=context.settings)


# Groups

group_router = APIRouter(prefix="/groups", tags=["jobs"])


@group_router.post("", status_code=201)
def submit_group(
    context: Here, who: Who, group: GroupSubmission, idempotency_key: IdempotencyKey = None
) -> tuple[JobView, ...]:
    """Submit several jobs, or none of them. `job:KEY` in the params of one stands for the dataset of another."""
    context.limits.count_for("submission", who)
    with context.database.session() as session:
        return jobs.submit_group(
            session, by=who, jobs=group.jobs, places=context.places, settings=context.settings,
            idempotency_key=idempotency_key,
        )  # fmt: skip


@group_router.post("/quote")
def quote_group(context: Here, who: Who, group: GroupSubmission) -> GroupQuote:
    """Ask what several jobs would cost, each and together. Nothing is submitted."""
    context.limits.count_for("estimate", who)
    with context.database.session() as session:
        return jobs.quote_group(
            session, by=who, jobs=group.jobs, places=context.places, settings=context.settings
        )


@group_router.post("/{group}/cancel")
def cancel_group(context: Here, who: Who, group: str) -> tuple[JobView, ...]:
    """Cancel what has not ended of a group."""
    with context.database.session() as session:
        return jobs.cancel_group(session, group, by=who)
