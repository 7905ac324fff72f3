"""The web application: routes, guard and background work put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import APIRouter, FastAPI
from starlette.staticfiles import StaticFiles

import voxelworks
from voxelworks.db import Database, SecretBox
from voxelworks.protocol.places import Places
from voxelworks.server import problems
from voxelworks.server.api import account as account_api
from voxelworks.server.api import annotations as annotations_api
from voxelworks.server.api import artifacts as artifacts_api
from voxelworks.server.api import datasets as datasets_api
from voxelworks.server.api import files as files_api
from voxelworks.server.api import jobs as jobs_api
from voxelworks.server.api import models as models_api
from voxelworks.server.api import operator as operator_api
from voxelworks.server.api import organization as organization_api
from voxelworks.server.api import params as params_api
from voxelworks.server.api import service as service_api
from voxelworks.server.api import shares as shares_api
from voxelworks.server.api import uploads as uploads_api
from voxelworks.server.api import worker as worker_api
from voxelworks.server.api import workflows as workflows_api
from voxelworks.server.context import Context
from voxelworks.server.keys import Keys
from voxelworks.server.limits import limits_of
from voxelworks.server.live import Live
from voxelworks.server.loops import LOOPS
from voxelworks.server.metrics import install_metrics
from voxelworks.server.pages import account as account_pages
from voxelworks.server.pages import annotations as annotations_pages
from voxelworks.server.pages import artifacts as artifacts_pages
from voxelworks.server.pages import datasets as datasets_pages
from voxelworks.server.pages import door as door_pages
from voxelworks.server.pages import help as help_pages
from voxelworks.server.pages import jobs as jobs_pages
from voxelworks.server.pages import logs as logs_pages
from voxelworks.server.pages import models as models_pages
from voxelworks.server.pages import operator as operator_pages
from voxelworks.server.pages import organization as organization_pages
from voxelworks.server.pages import previews as previews_pages
from voxelworks.server.pages import segments as segments_pages
from voxelworks.server.pages import selected as selected_pages
from voxelworks.server.pages import uploads as uploads_pages
from voxelworks.server.pages import viewer as viewer_pages
from voxelworks.server.pages import workflows as workflows_pages
from voxelworks.server.rendering import STATIC
from voxelworks.server.security import Guard
from voxelworks.server.wk import routes as wk
from voxelworks.settings import Settings

API_ROUTERS: tuple[APIRouter, ...] = (
    worker_api.router, files_api.router, jobs_api.router, jobs_api.group_router, service_api.router,
    artifacts_api.router, workflows_api.router, datasets_api.router, shares_api.router, annotations_api.router,
    uploads_api.router, models_api.router,
    params_api.router, account_api.router, organization_api.router, operator_api.router,
)  # fmt: skip
"""In the order in which they are tried: first what workers, viewers and lists ask again and again."""
PAGE_ROUTERS: tuple[APIRouter, ...] = (
    viewer_pages.router, door_pages.router, selected_pages.router, jobs_pages.router, logs_pages.router,
    artifacts_pages.router,
    workflows_pages.router, datasets_pages.router, annotations_pages.router, models_pages.router,
    uploads_pages.router,
    account_pages.router, organization_pages.router, operator_pages.router, previews_pages.router, help_pages.router,
    segments_pages.router,
)  # fmt: skip


def create_app(settings: Settings, database: Database, keys: Keys) -> FastAPI:
    """Make the application. It owns neither the database nor the files of the keys."""
    context = Context(
        settings, database, Places.of(settings), keys, Live(database), SecretBox(settings.secret_key_file),
        limits_of(settings),
    )  # fmt: skip
    app = FastAPI(
        title="Voxelworks",
        version=voxelworks.__version__,
        description="Processing jobs for volume microscopy. Send an API token (made on the page *Account*), or on the"
        " server's own machine the start-up token, as `Authorization: Bearer TOKEN`.",
        openapi_url="/api/v1/openapi.json",
        # The interactive pages load scripts from elsewhere, which the content policy forbids.
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.context = context
    app.add_middleware(Guard, context=context)
    problems.install(app)
    app.include_router(viewer_pages.shared_router, include_in_schema=False)
    app.include_router(artifacts_pages.shared_router, include_in_schema=False)
    for router in (*API_ROUTERS, workflows_api.submission_router()):
        app.include_router(router, prefix="/api/v1", responses=problems.REFUSALS)
    wk.install(app)
    app.include_router(service_api.probe_router, responses=problems.REFUSALS)
    for router in PAGE_ROUTERS:
        app.include_router(router, include_in_schema=False)
    install_metrics(app)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    context: Context = app.state.context
    tasks = [asyncio.create_task(loop.for_ever(context)) for loop in LOOPS]
    try:
        yield
    finally:
        context.live.closing.set()
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
