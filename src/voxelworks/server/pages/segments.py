"""The segments of a layer: a table of their statistics, from which the viewer opens."""

from __future__ import annotations

from functools import partial
from typing import Literal

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from voxelworks import accounts, catalog
from voxelworks.accounts import Action
from voxelworks.errors import WrongCategory
from voxelworks.server import rendering, segments
from voxelworks.server.api import datasets as api
from voxelworks.server.context import Here, Who
from voxelworks.server.viewing import read_source

router = APIRouter()


@router.get("/datasets/{ref}/segments/{layer}", response_class=HTMLResponse)
def segments_page(
    context: Here,
    request: Request,
    who: Who,
    ref: str,
    layer: str,
    sort: str = "id",
    order: Literal["up", "down"] = "up",
    page: int = 1,
    segment: str = "",
) -> Response:
    """Show the statistics of the segments of a layer, a page at a time."""
    accounts.require(who, Action.SEE_DATASET)
    dataset = api.find_dataset(context, who, ref)
    with context.database.glance() as session:
        folder = catalog.folder_of(session, dataset.id, by=who, places=context.places)
    properties = read_source(partial(catalog.read_metadata, folder), dataset.name).layer(layer)
    if properties.category != "segmentation":
        raise WrongCategory(f"layer {layer!r} is a {properties.category} layer: it has no segments")
    where = segments.table_folder(properties)
    shown = where and segments.read_page(
        folder,
        dataset.id,
        properties,
        where,
        sort=sort,
        descending=order == "down",
        page=page,
        wanted=segment,
    )
    may_measure = dataset.organization_id == who.organization_id and accounts.is_allowed(
        who, Action.SUBMIT_JOB
    )
    return rendering.page(
        request, "segments.html", dataset=dataset, layer=properties.name, shown=shown, may_measure=may_measure,
        files=segments.table_files(dataset, folder, properties),
        segment=segment, problem=shown.problem if shown else "",
    )  # fmt: skip
