"""All routes of the face, put together."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI

from voxelworks.server.wk import ai_models, credits, datasets, inferences, jobs, people, service, worker
from voxelworks.server.wk.models import Refusal
from voxelworks.server.wk.paths import PREFIXES

REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Refusal, "description": "Refused: the messages say why."}
}

# Workers first: their `/jobs/request` is no id of a job; and inferences before models for the like. Models before jobs,
# which take all other routes below theirs.
ROUTERS: tuple[APIRouter, ...] = (
    worker.router, inferences.router, ai_models.router, jobs.router, credits.router, people.router, datasets.router,
    service.router,
)  # fmt: skip


def install(app: FastAPI) -> None:
    """Add the routes under each version's address; the first alone is described in the OpenAPI text."""
    for prefix in PREFIXES:
        for router in ROUTERS:
            app.include_router(
                router,
                prefix=prefix,
                tags=["webknossos"],
                include_in_schema=prefix == PREFIXES[0],
                responses=REFUSALS,
            )
