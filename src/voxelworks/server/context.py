"""What every route works with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends
from starlette.requests import Request

from voxelworks.db import Database, SecretBox
from voxelworks.errors import NotLetIn
from voxelworks.jobs import Reaper
from voxelworks.protocol.people import Principal, WorkerKeyView
from voxelworks.protocol.places import Places
from voxelworks.server.keys import Keys
from voxelworks.server.limits import Limits
from voxelworks.server.live import Live
from voxelworks.settings import Settings

PRINCIPAL = "voxelworks.principal"
"""Where the guard leaves in the scope of a request who asks."""
WORKER = "voxelworks.worker"
"""Where the guard leaves the worker key of a request."""
LOST = "voxelworks.lost"
"""Where a request leaves that its worker no longer holds what it spoke of; for the metrics."""

CLAIMS_AT_ONCE = 4
"""One that holds the turn, one that has found out meanwhile that there is something to claim, and those that find out
that there is nothing for them."""
PIECES_AT_ONCE = 8
"""Requests whose pieces are written at the same time: each waits for the disk, and holds files open."""


@dataclass(frozen=True)
class Context:
    """The server's belongings, made once at its start."""

    settings: Settings
    database: Database
    places: Places
    keys: Keys
    live: Live
    box: SecretBox
    limits: Limits
    claims: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(CLAIMS_AT_ONCE))
    """Threads that give jobs away."""
    pieces: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(PIECES_AT_ONCE))
    """Threads that write what is uploaded."""
    reaper: Reaper = field(default_factory=Reaper)


def context_of(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


def principal_of(request: Request) -> Principal | None:
    """Give who asks; None on the few pages that are open to everybody."""
    principal: Principal | None = request.scope.get(PRINCIPAL)
    return principal


# Dependencies are asynchronous, though they wait for nothing: FastAPI runs others in threads, one hop for each.


async def _here(request: Request) -> Context:
    return context_of(request)


async def _visitor(request: Request) -> Principal | None:
    return principal_of(request)


async def _require_principal(request: Request) -> Principal:
    principal = principal_of(request)
    if principal is None:
        raise NotLetIn("log in first")
    return principal


async def _require_worker(request: Request) -> WorkerKeyView:
    key: WorkerKeyView | None = request.scope.get(WORKER)
    if key is None:
        raise NotLetIn("this route is for workers and needs their key (home/worker.key)")
    return key


Here = Annotated[Context, Depends(_here)]
Who = Annotated[Principal, Depends(_require_principal)]
Visitor = Annotated[Principal | None, Depends(_visitor)]
Worker = Annotated[WorkerKeyView, Depends(_require_worker)]
