"""The job routes of clients that were written for WEBKNOSSOS."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from voxelworks import accounts, catalog, credits, jobs
from voxelworks.accounts import Action
from voxelworks.db import now
from voxelworks.errors import InvalidInput, NotFound
from voxelworks.geometry import Box
from voxelworks.protocol.foreign import WIRE_STATES, WireState, foreign_id, native_id, wire_state
from voxelworks.protocol.messages import Json
from voxelworks.protocol.people import Principal
from voxelworks.protocol.views import JobView, WorkerView
from voxelworks.server.api.artifacts import answer_with_artifact
from voxelworks.server.context import Context, Here, Who
from voxelworks.server.wk.commands import AI_ROUTES, FREE, PAID, RUN_ROUTES, RunRoute, read_body
from voxelworks.server.wk.models import CreditCost, ForeignJob, ForeignWorker, JobsStatus
from voxelworks.server.wk.translate import JobWriter, command_of, workflow_of
from voxelworks.workflows import ForeignName, Workflow, find_foreign

router = APIRouter()

JOBS_MAX = 1000
"""The list has no pages: it goes back to so many jobs."""
_PAGE = 500


@router.get("/jobs", response_model_exclude_none=True)
def list_jobs(
    context: Here,
    who: Who,
    command: Annotated[str | None, Query(max_length=200)] = None,
    skip_for_deleted_datasets: Annotated[bool, Query(alias="skipForDeletedDatasets")] = False,
) -> list[ForeignJob]:
    """List jobs, newest first: one's own, for admins those of the organization."""
    with context.database.read_session() as session:
        views = newest_jobs(session, context, who, workflow_of(command) if command else None)
        writer = JobWriter.of(session, views, by=who)
    latest: dict[str, JobView] = {}
    for view in views:  # newest first, so that the first of a chain is its latest
        latest.setdefault(writer.roots[view.id].job_id, view)
    shown = [
        view
        for view in latest.values()
        if not skip_for_deleted_datasets or writer.subject(view).view is not None
    ]
    return sorted((writer.write(view) for view in shown), key=lambda job: (job.created, job.id), reverse=True)


@router.get("/jobs/status")
def show_status(context: Here, who: Who) -> JobsStatus:
    """Show the workers, and how many jobs of the organization are in each state."""
    accounts.require(who, Action.SEE_OWN_JOBS)
    with context.database.read_session() as session:
        workers = jobs.list_workers(session, settings=context.settings)
        states = jobs.count_states(session, who.organization_id)
        at_ms = now(session)
    counts = Counter[WireState]()
    for (state, publication, has_started), number in states.items():
        translated = wire_state(state, publication, has_started=has_started)
        if translated.manual_state is None:
            counts[translated.state] += number
    return JobsStatus(
        workers=[
            _worker(worker, at_ms)
            for worker in workers
            if worker.organization_id in (None, who.organization_id)
        ],
        jobs_by_state={state: counts[state] for state in WIRE_STATES},
    )


@router.get("/jobs/getCreditCost")
def get_credit_cost(
    context: Here,
    who: Who,
    command: Annotated[str, Query(max_length=200)],
    bounding_box_in_mag: Annotated[str, Query(alias="boundingBoxInMag", max_length=200)],
) -> CreditCost:
    """Say what a command costs for a box, given in voxels of the mag that it works on."""
    context.limits.count_for("estimate", who)
    accounts.require(who, Action.SEE_BALANCE)
    cost = _cost(context, command, Box.parse(bounding_box_in_mag).voxel_count)
    if not context.settings.credits_enabled:
        return CreditCost(cost_in_milli_credits=0, has_enough_credits=True, organization_milli_credits=0)
    with context.database.read_session() as session:
        available = credits.balance(session, who.organization_id).available
    return CreditCost(
        cost_in_milli_credits=cost, has_enough_credits=cost <= available, organization_milli_credits=available
    )


@router.get("/jobs/{job_id}", response_model_exclude_none=True)
def show(context: Here, who: Who, job_id: str) -> ForeignJob:
    """Show a job, in the state of its latest repeat."""
    with context.database.read_session() as session:
        return _write(session, latest_of(session, context, who, job_id), who)


@router.patch("/jobs/{job_id}/cancel", response_model_exclude_none=True)
def cancel(context: Here, who: Who, job_id: str) -> ForeignJob:
    """Cancel a job. Asking again changes nothing."""
    with context.database.session() as session:
        latest = latest_of(session, context, who, job_id)
        return _write(session, jobs.cancel(session, latest.id, by=who), who)


@router.patch("/jobs/{job_id}/retry", response_model_exclude_none=True)
def retry(context: Here, who: Who, job_id: str) -> ForeignJob:
    """Do a job again that failed or was cancelled. It keeps its id and its owner, and is charged anew."""
    context.limits.count_for("submission", who)
    with context.database.session() as session:
        latest = latest_of(session, context, who, job_id)
        repeat = jobs.retry(session, latest.id, by=who, places=context.places, settings=context.settings)
        return _write(session, repeat, who)


@router.get(
    "/jobs/{job_id}/export",
    response_class=Response,
    responses={404: {"description": "The job has no file to download."}},
)
@router.head("/jobs/{job_id}/export", include_in_schema=False)
def download(context: Here, request: Request, who: Who, job_id: str) -> Response:
    """Give the file that a job has left. Where WEBKNOSSOS leads to its data store, we are that ourselves."""
    with context.database.read_session() as session:
        latest = latest_of(session, context, who, job_id)
        artifact = jobs.find_artifact(session, latest.id, by=who, settings=context.settings)
    return answer_with_artifact(context, request, artifact)


@router.post("/jobs/run/{route}/{dataset_id}", response_model_exclude_none=True)
async def run(context: Here, who: Who, request: Request, route: str, dataset_id: str) -> ForeignJob:
    """Start a command on a dataset, with arguments in the query or in a JSON body."""
    body = read_body(await request.body())
    given: Json = {**request.query_params, **body}
    return await run_in_threadpool(_run, context, who, route, dataset_id, given)


@router.post("/aiModels/{route:path}", response_model_exclude_none=True)
async def run_ai(context: Here, who: Who, request: Request, route: str) -> ForeignJob:
    """Start a segmentation as the newest clients ask for it."""
    given = read_body(await request.body())
    return await run_in_threadpool(_run_ai, context, who, route, given)


def newest_jobs(
    session: Session, context: Context, who: Principal, workflow: str | None = None
) -> list[JobView]:
    """Give the newest jobs that somebody may see, newest first."""
    accounts.require(who, Action.SEE_OWN_JOBS)
    views: list[JobView] = []
    after: str | None = None
    while len(views) < JOBS_MAX:
        page = jobs.list_jobs(
            session, by=who, settings=context.settings, workflow=workflow, organization_id=who.organization_id,
            after=after, limit=_PAGE,
        )  # fmt: skip
        views += page.jobs
        after = page.next_after
        if after is None:
            break
    return views


def latest_of(session: Session, context: Context, who: Principal, job_id: str) -> JobView:
    """Find the latest repeat of a job that somebody may see."""
    for repeat in jobs.chain_of(session, native_id(job_id)).job_ids:
        try:
            return jobs.show(session, repeat, by=who, settings=context.settings).job
        except NotFound:
            continue
    raise NotFound(f"there is no job {job_id!r}; see the list of jobs")


def _write(session: Session, view: JobView, who: Principal) -> ForeignJob:
    session.flush()
    return JobWriter.of(session, [view], by=who).write(view)


def _run_ai(context: Context, who: Principal, route: str, given: Json) -> ForeignJob:
    known = AI_ROUTES.get(route)
    if known is None:
        raise NotFound(f"there is nothing to run at {route!r}; there are {', '.join(AI_ROUTES)}")
    return _start(context, who, known, str(given.get("datasetId") or ""), given)


def _run(context: Context, who: Principal, route: str, dataset_id: str, given: Json) -> ForeignJob:
    known = RUN_ROUTES.get(route)
    if known is None:
        raise NotFound(f"there is no command {route!r} to run; there are {', '.join(RUN_ROUTES)}")
    return _start(context, who, known, dataset_id, given)


def _start(context: Context, who: Principal, known: RunRoute, dataset_id: str, given: Json) -> ForeignJob:
    context.limits.count_for("submission", who)
    accounts.require(who, Action.SUBMIT_JOB)
    workflow, foreign = _supported(known.command)
    if foreign.params_of is None:
        raise InvalidInput(
            f"{known.command} cannot be started by this route; submit {workflow.name} on its page or with "
            "POST /api/v1/jobs"
        )
    arguments = known.arguments(given)
    with context.database.session() as session:
        dataset = catalog.find(session, native_id(dataset_id), by=who)
        # Of another organization a public dataset is known by its id only.
        reference = dataset.name if dataset.organization_id == who.organization_id else dataset.id
        params = foreign.params_of({**arguments, "dataset_name": reference})
        view = jobs.submit(
            session, by=who, workflow=workflow.name, params=params, places=context.places, settings=context.settings,
            is_foreign=True,
        )  # fmt: skip
        return _write(session, view, who)


def _supported(command: str) -> tuple[Workflow, ForeignName]:
    found = find_foreign(command)
    if found is None:
        raise InvalidInput(f"no worker of this server supports the command {command}")
    return found


def _cost(context: Context, command: str, voxel_count: int) -> int:
    if command in FREE:
        return 0
    if command not in PAID:
        raise InvalidInput(
            f"there is no command {command!r}; those with a price are {', '.join(sorted(PAID))}"
        )
    return credits.amount(credits.price_list(context.settings), command, voxel_count)


def _worker(worker: WorkerView, at_ms: int) -> ForeignWorker:
    return ForeignWorker(
        id=foreign_id(worker.session_id), name=worker.name,
        max_parallel_high_priority_jobs=worker.slots.get("short", 0),
        max_parallel_low_priority_jobs=worker.slots.get("long", 0),
        supported_job_commands=sorted(command_of(name) for name in worker.workflows), created=worker.opened_ms,
        last_heart_beat=at_ms - round(worker.heard_s * 1000), last_heart_beat_is_recent=worker.is_online,
        last_reported_version=worker.version,
    )  # fmt: skip
