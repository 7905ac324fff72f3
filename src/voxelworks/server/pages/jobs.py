"""The list of jobs and the page of a job, and what keeps them up to date while they are open."""

from __future__ import annotations

import hashlib
import re
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from voxelworks import accounts, jobs
from voxelworks.accounts import Action
from voxelworks.client import is_settled
from voxelworks.errors import InvalidInput, NotFound, StaleQuote, VoxelworksError
from voxelworks.protocol.credits import PriceView, QuoteView
from voxelworks.protocol.messages import JobState
from voxelworks.protocol.people import NewShare, Principal, ShareView
from voxelworks.protocol.views import JobDetail, JobPage, JobView
from voxelworks.server import rendering
from voxelworks.server.api.artifacts import list_shares
from voxelworks.server.api.jobs import HelpRequest, Repetition, find_log, show_job
from voxelworks.server.api.jobs import ask_for_help as send_help_request
from voxelworks.server.api.jobs import cancel as cancel_job
from voxelworks.server.api.jobs import retry as retry_job
from voxelworks.server.comparing import compare
from voxelworks.server.context import Context, Here, Who
from voxelworks.server.copies import copies_of
from voxelworks.server.job_filters import Filters, JobFilters, Period
from voxelworks.server.job_table import job_lines
from voxelworks.server.origin import public_address
from voxelworks.server.pages.logs import log_frame, new_lines, tail_of
from voxelworks.server.results import describe_result, result_line, result_pictures, result_tables, take_back
from voxelworks.server.security import still_in
from voxelworks.server.sse import PING_S, Frame, event_stream
from voxelworks.server.subjects import describe_params, find_workflow, is_priced, subject, workflow_title
from voxelworks.server.timelines import SPAN_WORDS, timeline
from voxelworks.workflows import workflows

router = APIRouter()

Shown = Literal["queued", "running", "succeeded", "failed", "cancelled"]
"""What people filter by: the states of a job that somebody works on are one."""
SHOWN_STATES: dict[Shown, tuple[JobState, ...]] = {
    "running": ("claimed", "running", "cancelling"),
    "queued": ("queued",),
    "succeeded": ("succeeded",),
    "failed": ("failed",),
    "cancelled": ("cancelled",),
}
_PNG = b"\x89PNG\r\n\x1a\n"
PAGE_SIZE = 50
TABLE_PIECE = 500
"""Jobs that are read at once for a table of all."""
OTHERS_MAX = 20
"""Jobs that are offered to compare one with."""
FOLLOW_EVERY_S = 1.0
"""How often a page that is open looks for new log lines, in seconds."""
WAITS_EVERY_S = 10.0
"""How often an open list shows new places in the queue, at most, in seconds: each claim changes all of them."""


PERIOD_WORDS: dict[Period, str] = {"today": "Today", "7d": "Last 7 days", "30d": "Last 30 days"}


@dataclass(frozen=True)
class ListQuery:
    """The list of jobs that somebody looks at, as it stands in the address."""

    filters: JobFilters
    state: Shown | None = None
    after: str | None = None

    @property
    def is_filtered(self) -> bool:
        return bool(self.state or self.after or self.filters.given)

    @property
    def states(self) -> tuple[JobState, ...]:
        return SHOWN_STATES[self.state] if self.state else ()

    def address(self, path: str = "/jobs", /, **changed: str | None) -> str:
        values = {"state": self.state, **self.filters.given, "after": self.after} | changed
        query = urlencode({key: value for key, value in values.items() if value})
        return f"{path}?{query}" if query else path


async def _asked(filters: Filters, state: Shown | None = None, after: str | None = None) -> ListQuery:
    return ListQuery(filters, state, after or None)


Asked = Annotated[ListQuery, Depends(_asked)]


@router.get("/jobs", response_class=HTMLResponse)
def list_page(context: Here, request: Request, who: Who, query: Asked) -> Response:
    found = _list(context, who, query)
    owners = _owners(context, who)
    return rendering.page(
        request, "jobs.html", **_list_values(who, query, found), owners=owners, chosen=_chosen(query, owners),
        period_words=PERIOD_WORDS, has_charges=context.settings.credits_enabled,
    )  # fmt: skip


@router.get("/jobs.csv")
def download_list(context: Here, who: Who, query: Asked) -> StreamingResponse:
    """Give all jobs of a list as a table for spreadsheets, newest first."""
    headers = {"Content-Disposition": 'attachment; filename="jobs.csv"'}
    query = replace(query, after=None)
    # Read before the answer begins: a filter that cannot be read is refused, not a table that breaks off.
    first = _list(context, who, query, limit=TABLE_PIECE)
    lines = job_lines(_all_jobs(context, who, query, first))
    return StreamingResponse(lines, media_type="text/csv; charset=utf-8", headers=headers)


@router.get("/jobs/live")
async def list_live(
    context: Here, request: Request, who: Who, query: Asked, seen: str | None = None
) -> StreamingResponse:
    """Stream what changed of the list: single rows, or the whole list when jobs came or went.

    `seen` is the stamp of what the page shows already.
    """
    # Asked before the stream begins, so that a filter that cannot be read is a plain answer.
    await run_in_threadpool(_list, context, who, query, limit=1)
    return event_stream(_list_frames(context, request, who, query, seen))


@router.get("/jobs/{job_id}", response_class=HTMLResponse)
def job_page(
    context: Here,
    request: Request,
    who: Who,
    job_id: str,
    attempt: Annotated[int | None, Query(ge=1)] = None,
    asked: bool = False,
    repriced: bool = False,
) -> Response:
    """Show a job. `repriced` says that its repeat was refused, because its price was out of date."""
    return show_page(context, request, who, job_id, attempt=attempt, asked=asked, repriced=repriced)


def show_page(
    context: Context,
    request: Request,
    who: Principal,
    job_id: str,
    *,
    attempt: int | None = None,
    asked: bool = False,
    repriced: bool = False,
    new_share: NewShare | None = None,
    problem: str | None = None,
    status: int = 200,
) -> Response:
    """Show the page of a job, once with the address that was just made for its file, or with what is wrong."""
    detail = show_job(context, who, job_id)
    shown = attempt if attempt is not None else detail.job.attempt
    values = {
        **_job_values(context, who, detail),
        "params": describe_params(detail.job.workflow, detail.job.params),
        "log": tail_of(context, who, job_id, shown),
        "log_attempt": shown,
        "follows_last": attempt is None,
        "workflow": find_workflow(detail.job.workflow),
        "stamp": _stamp(detail),
        "has_asked": asked,
        "is_repriced": repriced,
        "copies": copies_of(detail.job, public_address(request, context.settings)),
        "new_share": new_share,
        "problem": problem,
    }
    return rendering.page(request, "job.html", status=status, **values)


@router.get("/jobs/{job_id}/live")
async def job_live(
    context: Here,
    request: Request,
    who: Who,
    job_id: str,
    attempt: Annotated[int | None, Query(ge=1)] = None,
    seen: str | None = None,
    since: str | None = None,
) -> StreamingResponse:
    """Stream what changed of a job's page, and the new lines of the log.

    `seen` is the stamp of what the page shows already; `since` or the header `Last-Event-ID` says what of the log it
    has, as ``ATTEMPT:LINES``.
    """
    await run_in_threadpool(show_job, context, who, job_id)
    log_at = _log_position(request.headers.get("last-event-id") or since)
    return event_stream(_job_frames(context, request, who, job_id, attempt, seen, log_at))


@router.get("/jobs/{job_id}/picture.png")
def picture(context: Here, who: Who, job_id: str) -> Response:
    """Give the latest picture of a job; its address in pages holds the step, so that a new one is fetched."""
    with context.database.session() as session:
        found = jobs.find_picture(session, job_id, by=who)
    try:
        content = b64decode(found.png, validate=True)
    except ValueError:
        content = b""
    if not content.startswith(_PNG):
        raise NotFound(f"the picture of job {job_id} is none that browsers show")
    return Response(content, media_type="image/png", headers={"Cache-Control": "private, max-age=86400"})


@router.get("/jobs/{job_id}/compare", response_class=HTMLResponse)
def compare_page(
    context: Here, request: Request, who: Who, job_id: str, other: str = "", everything: bool = False
) -> Response:
    """Show what is different between two jobs of the same workflow, or everything; without another, offer some."""
    if not other.strip():
        detail = show_job(context, who, job_id)
        return rendering.page(
            request, "compare_with.html", job=detail.job, others=_others(context, who, detail), subject_of=subject,
            title=workflow_title(detail.job.workflow), subject=subject(detail.job.workflow, detail.job.params),
        )  # fmt: skip
    left, right = (show_job(context, who, ref).job for ref in (job_id, other.strip()))
    if left.workflow != right.workflow:
        raise InvalidInput(
            f"job {left.id} ran {left.workflow} and job {right.id} ran {right.workflow}; only jobs of one workflow "
            "can be compared"
        )
    rows = compare(left, right, describe_result(context, left), describe_result(context, right))
    shown = [row for row in rows if everything or not row.is_same]
    return rendering.page(
        request, "compare.html", left=left, right=right, shown=shown, shows_all=everything,
        groups=list(dict.fromkeys(row.group for row in shown)), title=workflow_title(left.workflow),
    )  # fmt: skip


@router.post("/jobs/{job_id}/cancel")
def cancel(context: Here, who: Who, job_id: str) -> Response:
    cancel_job(context, who, job_id)
    return RedirectResponse(f"/jobs/{job_id}", status_code=303)


@router.post("/jobs/{job_id}/retry")
def retry(
    context: Here,
    who: Who,
    job_id: str,
    is_free: Annotated[bool, Form()] = False,
    amount: Annotated[int | None, Form()] = None,
) -> Response:
    """Repeat a job, for the millicredits that its page has shown. If it costs something else, the page asks anew."""
    asks_anew = RedirectResponse(f"/jobs/{job_id}?repriced=true", status_code=303)
    quote = None if is_free else _quote(context, who, show_job(context, who, job_id).job)
    if quote is not None and quote.amount != amount:
        return asks_anew
    try:
        made = retry_job(context, who, job_id, Repetition(is_free=is_free, quote_id=quote and quote.id))
    except StaleQuote:  # its data changed in this moment
        return asks_anew
    return RedirectResponse(f"/jobs/{made.id}", status_code=303)


@router.post("/jobs/{job_id}/help")
def ask_for_help(
    context: Here, who: Who, job_id: str, question: Annotated[str, Form(max_length=5000)] = ""
) -> Response:
    send_help_request(context, who, job_id, HelpRequest(question=question))
    return RedirectResponse(f"/jobs/{job_id}?asked=true", status_code=303)


# The list


def _list(context: Context, who: Principal, query: ListQuery, *, limit: int = PAGE_SIZE) -> JobPage:
    return query.filters.list(context, who, states=query.states, after=query.after, limit=limit)


def _owners(context: Context, who: Principal) -> dict[str, str]:
    """Give those whose jobs somebody may see beside their own, by id."""
    if not accounts.is_allowed(who, Action.SEE_ALL_JOBS):
        return {}
    with context.database.read_session() as session:
        members = accounts.list_members(session, who.organization_id)
    return {member.user.id: member.user.name for member in members}


def _chosen(query: ListQuery, owners: Mapping[str, str]) -> list[tuple[str, str]]:
    """Say which filters of those that are not seen at once are set, each with the address without it."""
    filters = query.filters
    words = {
        "owner": f"Of {owners.get(filters.owner, filters.owner)}",
        "dataset": f"Dataset {filters.dataset}",
        "failure": rendering.FAILURE_WORDS.get(filters.failure, ""),
        "period": PERIOD_WORDS[filters.period] if filters.period else "",
        "since": f"From {filters.since}",
        "until": f"Until {filters.until}",
        "charged": "With a cost",
        "group": f"Group {filters.group}",
    }
    given = filters.given
    return [
        (text, query.address("/jobs", **{name: None, "after": None}))
        for name, text in words.items()
        if name in given
    ]


def _all_jobs(context: Context, who: Principal, query: ListQuery, page: JobPage) -> Iterator[JobView]:
    """Read on page by page: whoever takes the table slowly must not keep a transaction open."""
    while True:
        yield from page.jobs
        if page.next_after is None:
            return
        page = _list(context, who, replace(query, after=page.next_after), limit=TABLE_PIECE)


def _list_values(who: Principal, query: ListQuery, found: JobPage) -> dict[str, Any]:
    return {
        "viewer": who, "sees_others": accounts.is_allowed(who, Action.SEE_ALL_JOBS),
        "query": query, "filters": query.filters, "found": found, "workflows": workflows(),
        "counts": _shown_counts(found),
        "subject": subject, "workflow_title": workflow_title, "result_line": result_line, "stamp": _stamp(found),
    }  # fmt: skip


def _shown_counts(found: JobPage) -> dict[Shown | None, int]:
    shown: dict[Shown | None, int] = {
        name: sum(found.counts.get(state, 0) for state in states) for name, states in SHOWN_STATES.items()
    }
    return {None: sum(shown.values()), **shown}


async def _list_frames(
    context: Context, request: Request, who: Principal, query: ListQuery, seen: str | None
) -> AsyncIterator[Frame | None]:
    shown: dict[str, JobView] | None = None
    counts: dict[JobState, int] | None = None
    waits_at_s = time.monotonic()
    async for _ in still_in(context, request, context.live.pulse()):
        found = await run_in_threadpool(_list, context, who, query)
        changed: list[JobView] | None = None
        if shown is None and _stamp(found) == seen:
            changed = []
            shown = {job.id: job for job in found.jobs}
        elif shown is not None and list(shown) == [job.id for job in found.jobs]:
            shows_waits = time.monotonic() - waits_at_s >= WAITS_EVERY_S
            changed = [job for job in found.jobs if _is_news(job, shown[job.id], shows_waits=shows_waits)]
            shown |= {job.id: job for job in changed}
            waits_at_s = time.monotonic() if shows_waits else waits_at_s
        else:
            shown = {job.id: job for job in found.jobs}
            waits_at_s = time.monotonic()
        if changed == [] and counts in (None, found.counts):
            yield None
        else:
            for frame in await run_in_threadpool(_render_list, who, query, found, changed):
                yield frame
        counts = dict(found.counts)


def _is_news(job: JobView, shown: JobView, *, shows_waits: bool) -> bool:
    """Tell whether a row has to be shown anew: for its place in the queue alone only if so wanted."""
    if shows_waits or job.wait is None or shown.wait is None or job.wait.code != shown.wait.code:
        return job.still != shown.still
    return job.still.model_copy(update={"wait": None}) != shown.still.model_copy(update={"wait": None})


def _render_list(
    who: Principal, query: ListQuery, found: JobPage, changed: Sequence[JobView] | None
) -> list[Frame]:
    """Render the counts, and the rows that changed; None: the whole list."""
    values = _list_values(who, query, found)
    frames = [Frame(rendering.render("_counts.html", **values), event="counts")]
    if changed is None:
        return [*frames, Frame(rendering.render("_job_list.html", **values), event="list")]
    return frames + [
        Frame(rendering.render("_job_row.html", job=job, **values), event=f"job-{job.id}") for job in changed
    ]


# One job


def _job_values(context: Context, who: Principal, detail: JobDetail) -> dict[str, Any]:
    job = detail.job
    workflow = find_workflow(job.workflow)
    result = describe_result(context, job)
    is_own = job.user_id == who.user_id
    may_steer = accounts.is_allowed(who, Action.STEER_OWN_JOBS if is_own else Action.STEER_ALL_JOBS)
    return {
        "viewer": who, "is_own": is_own,
        "may_steer": may_steer, "may_operate": accounts.is_allowed(who, Action.OPERATE),
        "is_outside": job.organization_id != who.organization_id,
        "is_priced": is_priced(context.settings, workflow),
        "offer": _offer(context, who, job) if may_steer else None,
        "has_help": context.settings.support_email is not None,
        "detail": detail, "job": job, "title": workflow_title(job.workflow),
        "subject": subject(job.workflow, job.params),
        "result": result, "pictures": result_pictures(result, job, who), "settings": context.settings,
        "tables": result_tables(context, result, job, who), "take_back": take_back(context, job, who),
        "cancel_grace_s": jobs.cancel_grace_s(job.workflow, context.settings),
        "rights": {action.value for action in Action if accounts.is_allowed(who, action)},
        "is_file": job.result is not None and job.result.file is not None,
        "artifact": detail.artifact, "shares": _shares(context, who, detail), "new_share": None, "problem": None,
        "is_known": workflow is not None, "spans": timeline(detail), "span_words": SPAN_WORDS,
    }  # fmt: skip


def _shares(context: Context, who: Principal, detail: JobDetail) -> tuple[ShareView, ...]:
    """Give the addresses of the file of a job."""
    return () if detail.artifact is None else list_shares(context, who, detail.job.id)


def _offer(context: Context, who: Principal, job: JobView) -> PriceView | None:
    """Price the repeat of a job; None if it costs nothing, or cannot be repeated now: whoever tries it is told why."""
    if not _has_price(context, job):
        return None
    try:
        with context.database.read_session() as session:
            return jobs.price_retry(session, job.id, by=who, places=context.places, settings=context.settings)
    except VoxelworksError as error:
        if error.http_status >= 500:
            raise
        return None


def _quote(context: Context, who: Principal, job: JobView) -> QuoteView | None:
    if not _has_price(context, job):
        return None
    with context.database.session() as session:
        return jobs.quote_retry(session, job.id, by=who, places=context.places, settings=context.settings)


def _has_price(context: Context, job: JobView) -> bool:
    return job.can_retry and is_priced(context.settings, find_workflow(job.workflow))


def _others(context: Context, who: Principal, detail: JobDetail) -> list[JobView]:
    """Give jobs to compare with: what this one repeats, what repeats it, and the newest of its workflow."""
    job = detail.job
    newest = _list(context, who, ListQuery(JobFilters(workflow=job.workflow)), limit=OTHERS_MAX + 1).jobs
    others = [other for other in newest if other.id != job.id][:OTHERS_MAX]
    known = {other.id for other in others}
    for related in (job.retried_from, *detail.retries):
        if related is not None and related not in known:
            with suppress(NotFound):
                others.insert(0, show_job(context, who, related).job)
    return others


JOB_PARTS = ("status", "actions", "result", "attempts", "events", "announcement")
"""Parts of a job's page that are sent anew when they change: each has its template `_job_NAME.html`."""
_AGES = re.compile(r'(data-(?:running|ago|left)-s=")[^"]*"[^>]*>[^<]*')
"""What a page lets run on by itself."""


async def _job_frames(
    context: Context,
    request: Request,
    who: Principal,
    job_id: str,
    attempt: int | None,
    seen: str | None,
    log_at: tuple[int, int] | None,
) -> AsyncIterator[Frame | None]:
    known: dict[str, str] = {}
    quiet_s = 0.0
    log_seen: tuple[int, int] | None = None
    # The log grows without a change of the job, so it is looked at in any case.
    async for _ in still_in(context, request, context.live.pulse(at_least_every_s=FOLLOW_EVERY_S)):
        detail = await run_in_threadpool(show_job, context, who, job_id)
        frames: list[Frame] = []
        if (stamp := _stamp(detail)) != seen:
            parts = await run_in_threadpool(_render_parts, context, who, detail)
            still = {name: _AGES.sub(r"\1", html) for name, html in parts.items()}
            frames += [
                Frame(html, event=name) for name, html in parts.items() if known.get(name) != still[name]
            ]
            known, seen = still, stamp
        number = attempt if attempt is not None else detail.job.attempt
        log = await run_in_threadpool(find_log, context, who, job_id, number) if number else None
        if log is not None and (number, log.size) != log_seen:
            shown = log_at[1] if log_at is not None and log_at[0] == number else 0
            lines = await run_in_threadpool(new_lines, log, shown)
            log_at, log_seen = (number, lines.ended), (number, log.size)
            frames += [log_frame(number, lines)] if lines.lines else []
        for frame in frames:
            yield frame
        if is_settled(detail.job) and (log is None or log.is_complete):
            yield Frame("", event="end")
            return
        quiet_s = 0.0 if frames else quiet_s + FOLLOW_EVERY_S
        if quiet_s >= PING_S:
            quiet_s = 0.0
            yield None


def _render_parts(context: Context, who: Principal, detail: JobDetail) -> dict[str, str]:
    values = _job_values(context, who, detail)
    return {name: rendering.render(f"_job_{name}.html", **values) for name in JOB_PARTS}


def _stamp(view: JobView | JobPage | JobDetail) -> str:
    """Tell apart what a page would show. That time goes by is no news: ages run on in the page."""
    if isinstance(view, JobPage):
        text = repr((list(map(_stamp, view.jobs)), view.counts, view.next_after))
    elif isinstance(view, JobDetail):
        text = repr((_stamp(view.job), view.attempts, view.events, view.retries, view.artifact))
    else:
        text = view.still.model_dump_json()
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _log_position(text: str | None) -> tuple[int, int] | None:
    parts: Sequence[str] = (text or "").split(":")
    if len(parts) == 2 and all(part.isdecimal() and len(part) < 20 for part in parts):
        return int(parts[0]), int(parts[1])
    return None
