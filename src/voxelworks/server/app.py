"""The web application: routes, guard and background work put together."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.staticfiles import StaticFiles

import voxelworks
from voxelworks import jobs
from voxelworks.db import Database
from voxelworks.protocol.places import Places
from voxelworks.server import problems
from voxelworks.server.api import datasets as datasets_api
from voxelworks.server.api import jobs as jobs_api
from voxelworks.server.api import service as service_api
from voxelworks.server.api import worker as worker_api
from voxelworks.server.api import workflows as workflows_api
from voxelworks.server.context import Context
from voxelworks.server.keys import BrowserSessions, Keys
from voxelworks.server.live import Live
from voxelworks.server.pages import datasets as datasets_pages
from voxelworks.server.pages import door as door_pages
from voxelworks.server.pages import jobs as jobs_pages
from voxelworks.server.pages import workflows as workflows_pages
from voxelworks.server.rendering import STATIC
from voxelworks.server.security import Guard
from voxelworks.settings import Settings

log = logging.getLogger(__name__)


def create_app(settings: Settings, database: Database, keys: Keys) -> FastAPI:
    """Make the application. It owns neither the database nor the files of the keys."""
    sessions = BrowserSessions()
    context = Context(settings, database, Places.of(settings), keys, sessions, Live(database))
    app = FastAPI(
        title="Voxelworks",
        version=voxelworks.__version__,
        description="Processing jobs for volume microscopy. Send the start-up token as `Authorization: Bearer TOKEN`.",
        openapi_url="/api/v1/openapi.json",
        # The interactive pages load scripts from elsewhere, which the content policy forbids.
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.context = context
    app.add_middleware(Guard, keys=keys, sessions=sessions)
    problems.install(app)
    for api in (service_api, workflows_api, jobs_api, datasets_api, worker_api):
        app.include_router(api.router, prefix="/api/v1")
    app.include_router(workflows_api.submission_router(), prefix="/api/v1")
    app.include_router(service_api.probe_router)
    for pages in (door_pages, jobs_pages, workflows_pages, datasets_pages):
        app.include_router(pages.router, include_in_schema=False)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    context: Context = app.state.context
    reaper = asyncio.create_task(_reap_for_ever(context))
    try:
        yield
    finally:
        context.live.closing.set()
        reaper.cancel()
        with suppress(asyncio.CancelledError):
            await reaper


async def _reap_for_ever(context: Context) -> None:
    """End what nobody holds any more (rule R16). Safe to run in several servers at once."""
    while True:
        # Jitter keeps several servers from looking at the same moment.
        await asyncio.sleep(context.settings.reap_every_s * random.uniform(0.8, 1.2))  # noqa: S311
        try:
            await run_in_threadpool(jobs.reap_all, context.database, settings=context.settings)
        except Exception:
            # A database that is away for a moment must not end the reaper; the next round looks again.
            log.exception("the reaper failed; it tries again in about %g s", context.settings.reap_every_s)
