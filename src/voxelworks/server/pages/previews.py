"""Pictures of datasets: found by what the catalog knows, never by a path that somebody sent; and made anew."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Header
from starlette.responses import FileResponse, RedirectResponse, Response

from voxelworks import accounts, catalog, jobs
from voxelworks.accounts import Action
from voxelworks.protocol.views import Plane
from voxelworks.server.context import Here, Who
from voxelworks.server.security import FOR_EVER

router = APIRouter()


@router.get("/datasets/{dataset_id}/preview/{layer}/{plane}.webp")
def picture(
    context: Here,
    who: Who,
    dataset_id: str,
    layer: str,
    plane: Plane | Literal["thumbnail"],
    v: str = "",
    if_none_match: Annotated[str, Header()] = "",
) -> Response:
    """Give a slice through a layer, or the small picture of it. With its version in the address it is kept for ever."""
    accounts.require(who, Action.SEE_DATASET)
    with context.database.read_session() as session:
        dataset = catalog.find(session, dataset_id, by=who)
    found, path = catalog.preview_file(dataset, layer, plane, places=context.places)
    version = found.file.removesuffix(".webp")
    headers = {"ETag": f'"{version}"', "Cache-Control": FOR_EVER if v == version else "private, no-cache"}
    if if_none_match.removeprefix("W/") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return FileResponse(path, media_type="image/webp", headers=headers)


@router.post("/datasets/{dataset_id}/preview")
def make(context: Here, who: Who, dataset_id: str) -> Response:
    """Submit the job that makes the pictures of a dataset anew."""
    context.limits.count_for("submission", who)
    with context.database.session() as session:
        dataset = catalog.find(session, dataset_id, by=who)
        catalog.require_own(dataset, by=who)  # its name may be that of another one here
        job = jobs.submit(
            session, by=who, workflow="describe", params={"dataset": dataset.name}, places=context.places,
            settings=context.settings,
        )  # fmt: skip
    return RedirectResponse(f"/jobs/{job.id}", status_code=303)
