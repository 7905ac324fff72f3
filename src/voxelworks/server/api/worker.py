"""The routes of workers: every one needs the worker key, and after a claim also the token of the attempt."""

from __future__ import annotations

import logging
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Query, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from voxelworks import jobs
from voxelworks.errors import StorageFailed
from voxelworks.protocol.messages import (
    Claim,
    ClaimRequest,
    CleanedRequest,
    CleanupOrder,
    DatasetLeaseAnswer,
    DatasetLeaseRequest,
    FinishAnswer,
    FinishRequest,
    Message,
    PublishedRequest,
    PublishOrder,
    RenewAnswer,
    RenewRequest,
    SealRequest,
    SessionAnswer,
    SessionRequest,
)
from voxelworks.server.context import LOST, Context, Here, Worker
from voxelworks.server.wk import images

_logger = logging.getLogger(__name__)
router = APIRouter(prefix="/worker", tags=["worker"])


class LogAnswer(Message):
    """How much of the log the server has."""

    offset: int


@router.post("/sessions")
def open_session(context: Here, key: Worker, request: SessionRequest) -> SessionAnswer:
    """Begin to work. Earlier sessions of the same name end, and their jobs are released at once."""
    with context.database.session() as session:
        return jobs.open_session(session, request, key=key, settings=context.settings)


@router.post("/sessions/{session_id}/claim", responses={204: {"description": "No work now."}})
async def claim(
    context: Here, key: Worker, session_id: str, response: Response, request: ClaimRequest | None = None
) -> Claim | None:
    """Take the next job that this worker can run, among those that it has free slots for."""
    told = request or ClaimRequest()

    def take() -> Claim | None:
        with context.database.session() as session:
            claimed = jobs.claim(
                session,
                session_id,
                key=key,
                free=told.free,
                gpus_free=told.gpus_free,
                settings=context.settings,
            )
            if claimed is not None:
                claimed = _with_secrets(context, session, claimed)
            remains = jobs.remains_before(session, claimed) if claimed is not None else None
        if remains is not None:
            # Otherwise what this attempt makes could never take its place. Others need not wait for the files.
            images.put_away(remains, context.places)
        return claimed

    # Claims follow each other. Those that wait for their turn leave threads and connections to other requests.
    claimed = await run_sync(take, limiter=context.claims)
    if claimed is None:
        response.status_code = 204
    return claimed


def _with_secrets(context: Context, session: Session, claimed: Claim) -> Claim:
    try:
        return claimed.model_copy(update={"secrets": jobs.secrets_of(session, claimed, context.box)})
    except StorageFailed as error:
        # The job is told by the other server that it lacks a token, and that is all that went wrong.
        _logger.warning("job %s goes without its token: %s", claimed.job_id, error.message)
        return claimed


@router.post("/sessions/{session_id}/publish-order", responses={204: {"description": "Nothing to publish."}})
def take_publish_order(
    context: Here, key: Worker, session_id: str, response: Response
) -> PublishOrder | None:
    """Take a result whose worker died before it was published."""
    with context.database.session() as session:
        order = jobs.take_publish_order(session, session_id, key=key, settings=context.settings)
    if order is None:
        response.status_code = 204
    return order


@router.post("/sessions/{session_id}/cleanup-order", responses={204: {"description": "Nothing to remove."}})
def take_cleanup_order(
    context: Here, key: Worker, session_id: str, response: Response
) -> CleanupOrder | None:
    """Take an ended job whose worker died before it had removed what its attempts left."""
    with context.database.session() as session:
        order = jobs.take_cleanup_order(session, session_id, key=key, settings=context.settings)
    if order is None:
        response.status_code = 204
    return order


@router.post("/sessions/{session_id}/leave", status_code=204)
def leave(context: Here, key: Worker, session_id: str) -> None:
    """Say that this worker ends, so that nobody looks for it."""
    with context.database.session() as session:
        jobs.leave(session, session_id, key=key)


@router.post("/attempts/{job_id}/{attempt}/renew")
def renew(context: Here, http: Request, job_id: str, attempt: int, request: RenewRequest) -> RenewAnswer:
    """Keep the lease, tell the progress, and hear what to do. The first renewal starts the work."""
    with context.database.session() as session:
        return _noted(http, jobs.renew(session, job_id, attempt, request, settings=context.settings))


@router.post("/attempts/{job_id}/{attempt}/log")
async def append_log(
    context: Here,
    job_id: str,
    attempt: int,
    request: Request,
    offset: Annotated[int, Query(ge=0)],
    x_attempt_token: Annotated[str, Header()],
) -> LogAnswer:
    """Store log bytes (the body) at an offset; repeats are ignored, gaps refused."""
    data = await request.body()

    def append() -> int:
        with context.database.session() as session:
            return jobs.append_log(
                session, job_id, attempt, x_attempt_token, offset, data, settings=context.settings
            )

    return LogAnswer(offset=await run_in_threadpool(append))


@router.post("/attempts/{job_id}/{attempt}/seal")
def seal(context: Here, http: Request, job_id: str, attempt: int, request: SealRequest) -> RenewAnswer:
    """Tell that the result is complete, before reporting success."""
    with context.database.session() as session:
        return _noted(http, jobs.seal(session, job_id, attempt, request, settings=context.settings))


def _noted(http: Request, answer: RenewAnswer) -> RenewAnswer:
    """Note for the metrics that a worker no longer holds its job: this is no error, but an answer."""
    if answer.order == "lost":
        http.scope[LOST] = True
    return answer


@router.post("/attempts/{job_id}/{attempt}/finish")
def finish(context: Here, job_id: str, attempt: int, request: FinishRequest) -> FinishAnswer:
    """Report how the attempt ended. Repeating the same report gives the same answer."""
    with context.database.session() as session:
        return jobs.finish(session, job_id, attempt, request, settings=context.settings)


@router.post("/attempts/{job_id}/{attempt}/published", status_code=204)
def published(context: Here, job_id: str, attempt: int, request: PublishedRequest) -> None:
    """Confirm that the result has its name, or say why it never can."""
    with context.database.session() as session:
        jobs.published(session, job_id, attempt, request, places=context.places)


@router.post("/attempts/{job_id}/{attempt}/cleaned", status_code=204)
def cleaned(context: Here, job_id: str, attempt: int, request: CleanedRequest) -> None:
    """Confirm that nothing is left of an ended job but its published result."""
    with context.database.session() as session:
        jobs.cleaned(session, job_id, attempt, request)


@router.post("/attempts/{job_id}/{attempt}/dataset-lease")
def lease_dataset(
    context: Here, job_id: str, attempt: int, request: DatasetLeaseRequest
) -> DatasetLeaseAnswer:
    """Ask to be the only one that changes the properties of a dataset."""
    with context.database.session() as session:
        return jobs.lease_dataset(session, job_id, attempt, request, settings=context.settings)


@router.post("/attempts/{job_id}/{attempt}/dataset-release", status_code=204)
def release_dataset(context: Here, job_id: str, attempt: int, request: DatasetLeaseRequest) -> None:
    with context.database.session() as session:
        jobs.release_dataset(session, job_id, attempt, request)
