"""The list of datasets, and the page of one: what it holds and how to open it elsewhere."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from voxelworks import catalog
from voxelworks.protocol.places import is_remote
from voxelworks.protocol.views import LayerSummary
from voxelworks.server import rendering
from voxelworks.server.context import Here
from voxelworks.workflows import Workflow, workflows

router = APIRouter()


@router.get("/datasets", response_class=HTMLResponse)
def list_page(context: Here, request: Request) -> Response:
    with context.database.read_session() as session:
        found = catalog.list_datasets(session)
    return rendering.page(request, "datasets.html", datasets=found)


@router.get("/datasets/{ref}", response_class=HTMLResponse)
def dataset_page(context: Here, request: Request, ref: str) -> Response:
    with context.database.read_session() as session:
        dataset = catalog.find(session, ref)
    location = context.places.locate(dataset.place)
    workflows_of = {
        layer.name: [workflow for workflow in workflows().values() if _takes(workflow, layer)]
        for layer in dataset.summary.layers
    }
    return rendering.page(
        request, "dataset.html", dataset=dataset, location=location, is_remote=is_remote(location),
        workflows_of=workflows_of,
    )  # fmt: skip


def _takes(workflow: Workflow, layer: LayerSummary) -> bool:
    return any(
        field.kind == "layer" and field.category in (None, layer.category) for field in workflow.fields
    )
