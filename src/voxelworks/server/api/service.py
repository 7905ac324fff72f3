"""Whether the server works, and who works for it."""

from __future__ import annotations

from fastapi import APIRouter, Response
from starlette.requests import Request

import voxelworks
from voxelworks import accounts, jobs
from voxelworks.accounts import Action
from voxelworks.protocol.messages import PROTOCOL_VERSION, Message
from voxelworks.protocol.views import WorkerView
from voxelworks.server.context import Here, Who
from voxelworks.server.readiness import Check, examine

router = APIRouter(tags=["service"])
probe_router = APIRouter(tags=["service"])
"""Open to everybody who reaches the server: it shows nothing of the jobs."""

_PAUSED = "different jobs in a row failed on it"


class Health(Message):
    """The server answers."""

    version: str
    protocol: int
    openapi: str


class Readiness(Message):
    """Whether the server can do its work."""

    is_ready: bool
    checks: tuple[Check, ...]


@probe_router.get("/healthz")
async def read_health(request: Request) -> Health:
    """Tell that the process is alive, and its version. It is not asked for anything that could make it wait."""
    return Health(
        version=voxelworks.__version__, protocol=PROTOCOL_VERSION, openapi=str(request.app.openapi_url)
    )


@probe_router.get(
    "/readyz", responses={503: {"model": Readiness, "description": "Something that it needs is not there."}}
)
def read_readiness(context: Here, response: Response) -> Readiness:
    """Tell whether database, tables and disks are as they must be (503 if not), and whether workers are there."""
    checks = examine(context)
    is_ready = all(check.state != "failed" for check in checks)
    response.status_code = 200 if is_ready else 503
    return Readiness(is_ready=is_ready, checks=checks)


@router.get("/workers")
def list_workers(context: Here, who: Who) -> tuple[WorkerView, ...]:
    """List the workers that work for your organization. Operators see all, with the jobs that they hold."""
    with context.database.read_session() as session:
        found = jobs.list_workers(session, settings=context.settings)
    if accounts.is_allowed(who, Action.OPERATE):
        return found
    # The jobs of others are nobody's business, nor is how they failed.
    return tuple(
        worker.model_copy(update={"job_ids": (), "paused_why": worker.paused_why and _PAUSED})
        for worker in found
        if worker.organization_id in (None, who.organization_id)
    )
