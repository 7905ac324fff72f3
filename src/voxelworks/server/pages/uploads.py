"""The page on which images are uploaded: its script reads their headers, sends them, and submits the conversion."""

from __future__ import annotations

from importlib.util import find_spec

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from voxelworks import accounts
from voxelworks.accounts import Action
from voxelworks.protocol.uploads import FILES_MAX, PIECE_BYTES, PIECES_MAX, REQUEST_BYTES
from voxelworks.server import rendering
from voxelworks.server.api import uploads as api
from voxelworks.server.context import Here, Who

router = APIRouter(prefix="/uploads")

DONE = {"removed": "The upload and its files are gone."}
LIMITS = {
    "files_max": FILES_MAX, "piece_bytes": PIECE_BYTES, "pieces_max": PIECES_MAX, "request_bytes": REQUEST_BYTES,
    "has_bioio": find_spec("bioio") is not None,
}  # fmt: skip
"""What the script must know of the protocol, and whether files of makers may be read."""


@router.get("/new", response_class=HTMLResponse)
def new_page(context: Here, request: Request, who: Who, done: str = "") -> Response:
    """Show where to drop files, and which uploads were not finished."""
    accounts.require(who, Action.MAKE_DATASET)
    found = api.list_uploads(context, who)
    return rendering.page(
        request, "upload.html", note=DONE.get(done, ""), limits=LIMITS,
        unfinished=[upload for upload in found if upload.state != "complete"],
    )  # fmt: skip


@router.post("/{upload_id}/remove")
def remove(context: Here, who: Who, upload_id: str) -> Response:
    api.abandon(context, who, upload_id)
    return RedirectResponse("/uploads/new?done=removed", status_code=303)
