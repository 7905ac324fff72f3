"""The page on which files are uploaded: its script sends them, and submits the conversion or leads to a dialog."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from urllib.parse import urlencode

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from voxelworks import accounts
from voxelworks.accounts import Action
from voxelworks.errors import UnknownWorkflow
from voxelworks.protocol.uploads import FILES_MAX, PIECE_BYTES, PIECES_MAX, REQUEST_BYTES
from voxelworks.server import rendering
from voxelworks.server.api import uploads as api
from voxelworks.server.context import Here, Who
from voxelworks.workflows import Workflow, get_workflow

router = APIRouter(prefix="/uploads")

DONE = {"removed": "The upload and its files are gone."}
LIMITS = {
    "files_max": FILES_MAX, "piece_bytes": PIECE_BYTES, "pieces_max": PIECES_MAX, "request_bytes": REQUEST_BYTES,
    "has_bioio": find_spec("bioio") is not None,
}  # fmt: skip
"""What the script must know of the protocol, and whether files of makers may be read."""


@dataclass(frozen=True)
class Follower:
    """A workflow that takes what is uploaded, in place of the conversion to a dataset."""

    workflow: Workflow
    address: str
    """Of its dialog, filled in as far as is known; what was uploaded is named at the end."""

    @classmethod
    def of(cls, name: str, values: Mapping[str, str]) -> Follower:
        """Find a workflow and its input for files; `UnknownWorkflow` if it has none."""
        workflow = get_workflow(name)
        source = next(
            (item for item in workflow.fields if item.kind == "source" and not item.is_repeated), None
        )
        if source is None:
            raise UnknownWorkflow(f"{name} takes no files; upload images to make a dataset of them")
        own = {item.name for item in workflow.fields} - {source.name}
        known = {key: value for key, value in values.items() if key in own}
        return cls(workflow, f"/workflows/{workflow.name}/new?{urlencode({**known, source.name: ''})}")


@router.get("/new", response_class=HTMLResponse)
def new_page(context: Here, request: Request, who: Who, done: str = "", then: str = "") -> Response:
    """Show where to drop files, and which uploads were not finished.

    The address may name the workflow that takes them, with values for its dialog.
    """
    accounts.require(who, Action.MAKE_DATASET)
    follower = Follower.of(then, request.query_params) if then else None
    found = api.list_uploads(context, who)
    return rendering.page(
        request, "upload.html", note=DONE.get(done, ""), limits=LIMITS, follower=follower,
        unfinished=[upload for upload in found if upload.state != "complete"],
    )  # fmt: skip


@router.post("/{upload_id}/remove")
def remove(context: Here, who: Who, upload_id: str) -> Response:
    api.abandon(context, who, upload_id)
    return RedirectResponse("/uploads/new?done=removed", status_code=303)
