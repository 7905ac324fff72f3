"""Whether the server works, and who works for it."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request

import voxelworks
from voxelworks import jobs
from voxelworks.protocol.messages import PROTOCOL_VERSION, Message
from voxelworks.protocol.views import WorkerView
from voxelworks.server.context import Here

router = APIRouter(tags=["service"])
probe_router = APIRouter(tags=["service"])
"""Open to everybody who reaches the server: it shows nothing of the jobs."""


class Health(Message):
    """The server answers, and so does its database."""

    version: str
    protocol: int
    openapi: str


@probe_router.get("/healthz")
def read_health(context: Here, request: Request) -> Health:
    """Ask the database something small, and tell the version."""
    with context.database.read_session() as session:
        jobs.revision(session)
    return Health(
        version=voxelworks.__version__, protocol=PROTOCOL_VERSION, openapi=str(request.app.openapi_url)
    )


@router.get("/workers")
def list_workers(context: Here) -> tuple[WorkerView, ...]:
    """List the workers, with the jobs that they hold."""
    with context.database.read_session() as session:
        return jobs.list_workers(session, settings=context.settings)
