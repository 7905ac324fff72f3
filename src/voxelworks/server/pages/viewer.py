"""The viewer: for members, and under the address of a share for everybody who has it."""

from __future__ import annotations

import json
import re
from functools import partial
from urllib.parse import quote

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from voxelworks import accounts, catalog
from voxelworks.accounts import Action, Shared
from voxelworks.errors import NotFound
from voxelworks.geometry import Box
from voxelworks.protocol.foreign import native_id
from voxelworks.protocol.people import Principal
from voxelworks.protocol.views import DatasetView
from voxelworks.server import rendering
from voxelworks.server.api.files import answer_with_file
from voxelworks.server.context import Context, Here, Who
from voxelworks.server.security import VIEWER_POLICY
from voxelworks.server.viewing import make_scene, parse_position, parse_segment, read_source

router = APIRouter()
shared_router = APIRouter()
"""Tried before all others: what is read under an address is read by the hundred."""

_FOREIGN_ID_AT_END = re.compile(r"(?:.*-)?([0-9a-f]{24})")
"""How WEBKNOSSOS names a dataset in the address of a result."""


@router.get("/datasets/{ref}/view", response_class=HTMLResponse)
def viewer_page(
    context: Here,
    request: Request,
    who: Who,
    ref: str,
    box: str = "",
    position: str = "",
    layer: str | None = None,
    segment: str = "",
) -> Response:
    """Show a dataset: a box, a position, a segment, or a layer alone. The address then follows what is looked at."""
    accounts.require(who, Action.SEE_DATASET)
    foreign = _FOREIGN_ID_AT_END.fullmatch(ref)
    if foreign and native_id(foreign[1]) != foreign[1]:
        return RedirectResponse(f"/datasets/{native_id(foreign[1])}/view", status_code=303)
    with context.database.read_session() as session:
        dataset = catalog.find(session, ref, by=who)
    is_own = dataset.organization_id == who.organization_id
    return _viewer(
        context, request, dataset, who, files=f"/api/v1/datasets/{dataset.id}/files", box=box, position=position,
        layer=layer, segment=segment, back=f"/datasets/{quote(dataset.name if is_own else dataset.id)}",
        may_share=is_own and accounts.is_allowed(who, Action.SHARE_DATASET),
    )  # fmt: skip


@shared_router.get("/shared/{token}/view", response_class=HTMLResponse)
def shared_page(
    context: Here,
    request: Request,
    token: str,
    box: str = "",
    position: str = "",
    layer: str | None = None,
) -> Response:
    """Show a dataset to somebody who has its address and need not have an account."""
    reader, dataset_id = _enter(context, token)
    with context.database.read_session() as session:
        dataset = catalog.find(session, dataset_id, by=reader)
    return _viewer(
        context, request, dataset, reader, files=f"/shared/{token}/files", box=box, position=position, layer=layer
    )  # fmt: skip


@shared_router.api_route("/shared/{token}/files/{path:path}", methods=["GET", "HEAD"])
def shared_file(context: Here, request: Request, token: str, path: str) -> Response:
    reader, dataset_id = _enter(context, token)
    return answer_with_file(context, request, reader, dataset_id, path)


def _enter(context: Context, token: str) -> tuple[Principal, str]:
    reader, what = enter_shared(context, token)
    if what.job_id is not None:
        raise NotFound("this address is that of a file; it ends in /file")
    return reader, what.dataset_id


def enter_shared(context: Context, token: str) -> tuple[Principal, Shared]:
    """Tell for whom an address acts, and what it opens."""
    found = accounts.enter_by_share(context.database, token)
    if found is None:
        raise NotFound("this address has ended or was revoked; ask for a new one where you got it from")
    return found


def _viewer(
    context: Context,
    request: Request,
    dataset: DatasetView,
    reader: Principal,
    *,
    files: str,
    box: str,
    position: str,
    layer: str | None,
    segment: str = "",
    back: str | None = None,
    may_share: bool = False,
) -> Response:
    with context.database.glance() as session:
        folder = catalog.folder_of(session, dataset.id, by=reader, places=context.places)
    read = partial(catalog.read_metadata, folder)
    scene = make_scene(
        read_source(read, dataset.name), read, title=dataset.name, files=files,
        box=Box.parse(box) if box else None, position=parse_position(position) if position else None,
        layer_name=layer, segment=parse_segment(segment) if segment else None,
    )  # fmt: skip
    answer = rendering.page(
        request, "viewer.html", dataset=dataset, files=files, state=json.dumps(scene.state),
        contrast=scene.contrast, back=back, left_out=scene.left_out, may_share=may_share,
    )  # fmt: skip
    answer.headers["Content-Security-Policy"] = VIEWER_POLICY
    return answer
