"""AI models: the list, how they come in, and the card of one with its versions."""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import PurePosixPath
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, File, Form, UploadFile
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from voxelworks import accounts, catalog, jobs
from voxelworks.accounts import Action
from voxelworks.errors import InvalidModel
from voxelworks.protocol.people import Principal
from voxelworks.protocol.uploads import PIECE_BYTES, NewFile, NewUpload, Piece, UploadView, pack
from voxelworks.protocol.views import ModelView
from voxelworks.server import rendering
from voxelworks.server.api import models as api
from voxelworks.server.api import uploads as uploads_api
from voxelworks.server.context import Context, Here, Who
from voxelworks.server.pages.acting import act, read
from voxelworks.server.subjects import workflow_title
from voxelworks.sizes import size_text
from voxelworks.workflows import Workflow, workflows

router = APIRouter(prefix="/models")

DONE = {
    "changed": "The change is saved.",
    "shared": "The sharing is changed.",
    "deleted": "The model is deleted.",
    "version-deleted": "The version is deleted.",
}
JOBS_MAX = 20
"""Jobs that the page of a model shows."""
ZIP_PER_WEIGHTS = 4
"""How many times as large as weights may be what is sent: a package may hold them in several formats."""
Text = Annotated[str, Form(max_length=2000)]


@router.get("", response_class=HTMLResponse)
def list_page(context: Here, request: Request, who: Who, done: str = "") -> Response:
    return _list(context, request, who, note=DONE.get(done, ""))


@router.post("/upload")
def upload(context: Here, request: Request, who: Who, file: Annotated[UploadFile, File()]) -> Response:
    """Take in a file, and lead to the dialog of its import."""
    sent: list[UploadView] = []
    answer = act(
        lambda: sent.append(_take(context, who, file)),
        show=lambda problem, status: _list(context, request, who, problem=problem, status=status),
        back="/models", done="",
    )  # fmt: skip
    if not sent:
        return answer
    query = urlencode({"source": sent[0].ref, "target": _suggested(file.filename or "")})
    return RedirectResponse(f"/workflows/import_model/new?{query}", status_code=303)


@router.get("/{ref}", response_class=HTMLResponse)
def model_page(
    context: Here, request: Request, who: Who, ref: str, version: int | None = None, done: str = ""
) -> Response:
    """Show the card of a model, or of one of its earlier versions."""
    return _model(context, request, who, ref, number=version, note=DONE.get(done, ""))


@router.post("/{model_id}")
def change(
    context: Here, request: Request, who: Who, model_id: str, name: Text = "", comment: Text = ""
) -> Response:
    return act(
        lambda: api.change_model(
            context, who, model_id, read(api.ModelChange, {"name": name.strip() or None, "comment": comment})
        ),
        show=lambda problem, status: _model(context, request, who, model_id, problem=problem, status=status),
        back=f"/models/{model_id}", done="changed",
    )  # fmt: skip


@router.post("/{model_id}/share")
def share(context: Here, request: Request, who: Who, model_id: str, organizations: Text = "") -> Response:
    named = re.split(r"[\s,]+", organizations.strip()) if organizations.strip() else []
    return act(
        lambda: api.change_model(context, who, model_id, read(api.ModelChange, {"shared_with": named})),
        show=lambda problem, status: _model(
            context, request, who, model_id, problem=problem, status=status, typed=organizations
        ),
        back=f"/models/{model_id}", done="shared",
    )  # fmt: skip


@router.post("/{model_id}/delete")
def delete(context: Here, request: Request, who: Who, model_id: str) -> Response:
    return act(
        lambda: api.delete_model(context, who, model_id),
        show=lambda problem, status: _model(context, request, who, model_id, problem=problem, status=status),
        back="/models", done="deleted",
    )  # fmt: skip


@router.post("/{model_id}/versions/{number}/delete")
def delete_version(context: Here, request: Request, who: Who, model_id: str, number: int) -> Response:
    is_last = len(api.show_model(context, who, model_id).versions) == 1
    return act(
        lambda: api.delete_version(context, who, model_id, number),
        show=lambda problem, status: _model(context, request, who, model_id, problem=problem, status=status),
        back="/models" if is_last else f"/models/{model_id}",
        done="deleted" if is_last else "version-deleted",
    )  # fmt: skip


def _list(
    context: Context,
    request: Request,
    who: Principal,
    *,
    note: str = "",
    problem: str = "",
    status: int = 200,
) -> Response:
    found = api.list_models(context, who)
    return rendering.page(
        request, "models.html", status=status, models=found, note=note, problem=problem,
        may_import=accounts.is_allowed(who, Action.MAKE_MODEL),
    )  # fmt: skip


def _model(
    context: Context,
    request: Request,
    who: Principal,
    ref: str,
    *,
    number: int | None = None,
    note: str = "",
    problem: str = "",
    status: int = 200,
    typed: str | None = None,
) -> Response:
    model = api.show_model(context, who, ref)
    version = model.version(number) or model.latest
    with context.database.read_session() as session:
        owners = accounts.find_users(session, {item.user_id for item in model.versions if item.user_id})
        known_jobs = jobs.jobs_of_model(session, model, by=who, settings=context.settings, limit=JOBS_MAX)
    is_own = model.organization_id == who.organization_id
    may_manage = is_own and accounts.is_allowed(who, Action.MANAGE_MODEL)
    made_it = is_own and model.user_id == who.user_id and accounts.is_allowed(who, Action.MAKE_MODEL)
    return rendering.page(
        request, "model.html", status=status, model=model, shown=version, facts=version.facts, owners=owners,
        jobs=known_jobs, workflow_title=workflow_title, note=note, problem=problem, is_own=is_own,
        may_share=may_manage, may_change=may_manage or made_it, typed=typed, ref=_ref_of(model, number, who),
        takers=[item for item in workflows().values() if _takes(item, model)]
        if accounts.is_allowed(who, Action.SUBMIT_JOB)
        else [],
    )  # fmt: skip


def _ref_of(model: ModelView, number: int | None, who: Principal) -> str:
    """Name a model, or one of its versions, as the dialog of a job takes it."""
    named = model.name if model.organization_id in (None, who.organization_id) else model.id
    return named if number is None or model.is_installed else f"{named}@{number}"


def _takes(workflow: Workflow, model: ModelView) -> bool:
    fields = [item for item in workflow.fields if item.kind == "model"]
    return any(not item.tasks or model.facts.task in item.tasks for item in fields)


def _take(context: Context, who: Principal, file: UploadFile) -> UploadView:
    """Store what a browser sent as an upload, from which a job imports it."""
    accounts.require(who, Action.MAKE_MODEL)
    most = ZIP_PER_WEIGHTS * context.settings.model_bytes_max
    size = file.size or 0
    if size == 0:
        raise InvalidModel("no file was chosen, or it is empty; choose the zip or the ONNX file of a model")
    if size > most:
        raise InvalidModel(f"the file has {size_text(size)}, and at most {size_text(most)} are taken")
    name = PurePosixPath((file.filename or "model").replace("\\", "/")).name
    # Two files of one name and size are not the same because of that.
    new = NewFile(path=name, size_bytes=size, modified_ms=time.time_ns() // 1_000_000)
    upload = uploads_api.begin(context, who, NewUpload(files=(new,)))
    offset = 0
    while content := file.file.read(PIECE_BYTES):
        digest = hashlib.sha256(content).hexdigest()
        piece = Piece(number=0, offset=offset, size_bytes=len(content), sha256=digest)
        body = pack([(piece, content)])
        catalog.receive_pieces(context.database, upload.id, body, by=who, places=context.places)
        offset += len(content)
    while upload.state != "complete":
        upload = uploads_api.finish(context, who, upload.id)
    return upload


def _suggested(file_name: str) -> str:
    stem = re.sub(r"\.(zip|onnx|tar|gz|tgz)$", "", PurePosixPath(file_name).name, flags=re.IGNORECASE)
    return re.sub("[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:128]
