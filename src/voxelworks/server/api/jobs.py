"""Jobs: submit, list, look at, cancel, retry, and follow."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from voxelworks import jobs
from voxelworks.client import is_settled
from voxelworks.errors import NotFound
from voxelworks.protocol.messages import JobState, Json
from voxelworks.protocol.views import JobDetail, JobPage, JobView, LogChunk
from voxelworks.server.api.workflows import IdempotencyKey
from voxelworks.server.context import OWNER, Context, Here
from voxelworks.server.sse import Frame, event_stream

router = APIRouter(prefix="/jobs", tags=["jobs"])

LOG_BYTES_MAX = 4 * 2**20
"""Most log that one answer carries, in bytes."""


class Submission(BaseModel):
    """A job to be."""

    model_config = ConfigDict(extra="forbid")

    workflow: str
    params: Json


@router.post("", status_code=201)
def submit(context: Here, submission: Submission, idempotency_key: IdempotencyKey = None) -> JobView:
    """Submit a job of any workflow."""
    with context.database.session() as session:
        return jobs.submit(
            session, owner=OWNER, workflow=submission.workflow, params=submission.params, places=context.places,
            idempotency_key=idempotency_key,
        )  # fmt: skip


@router.get("")
def list_jobs(
    context: Here,
    state: Annotated[list[JobState] | None, Query()] = None,
    workflow: str | None = None,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> JobPage:
    """List jobs, newest first. `next_after` of one page is `after` of the next."""
    with context.database.read_session() as session:
        return jobs.list_jobs(
            session,
            settings=context.settings,
            states=tuple(state or ()),
            workflow=workflow,
            after=after,
            limit=limit,
        )


@router.get("/{job_id}")
def show(context: Here, job_id: str) -> JobDetail:
    """Show a job with its attempts and events."""
    return show_job(context, job_id)


@router.post("/{job_id}/cancel")
def cancel(context: Here, job_id: str) -> JobView:
    """Cancel a job. Asking again changes nothing."""
    with context.database.session() as session:
        return jobs.cancel(session, job_id, who=f"user:{OWNER}")


@router.post("/{job_id}/retry", status_code=201)
def retry(context: Here, job_id: str) -> JobView:
    """Submit the same job anew."""
    with context.database.session() as session:
        return jobs.retry(session, job_id, owner=OWNER, places=context.places)


@router.get("/{job_id}/log")
def read_log(
    context: Here,
    job_id: str,
    attempt: Annotated[int | None, Query(ge=1, description="By default the current or last one.")] = None,
    offset: Annotated[int | None, Query(ge=0, description="By default the end is read.")] = None,
    limit: Annotated[int, Query(ge=1, le=LOG_BYTES_MAX)] = 65536,
) -> LogChunk:
    """Read a part of an attempt's log."""
    with context.database.read_session() as session:
        number = attempt or jobs.show(session, job_id, settings=context.settings).job.attempt
        if number == 0:
            raise NotFound(f"job {job_id} has no log: no worker has taken it yet")
        return jobs.read_log(session, job_id, number, settings=context.settings, offset=offset, limit=limit)


@router.get("/{job_id}/events", response_class=StreamingResponse)
async def follow(context: Here, job_id: str) -> StreamingResponse:
    """Stream the job now and after every change, as server-sent events `job`, until nothing more can happen."""
    # Asked before the stream begins, so that an unknown job is a plain 404.
    await run_in_threadpool(show_job, context, job_id)

    async def frames() -> AsyncIterator[Frame | None]:
        sent = ""
        async for _ in context.live.pulse():
            detail = await run_in_threadpool(show_job, context, job_id)
            # The time of asking alone is no news.
            still = detail.model_copy(
                update={"job": detail.job.model_copy(update={"as_of_ms": 0, "heard_s": None})}
            )
            text = still.model_dump_json()
            yield None if text == sent else Frame(detail.model_dump_json(), event="job")
            sent = text
            if is_settled(detail.job):
                return

    return event_stream(frames())


def show_job(context: Context, job_id: str) -> JobDetail:
    with context.database.read_session() as session:
        return jobs.show(session, job_id, settings=context.settings)
