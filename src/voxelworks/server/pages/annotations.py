"""Annotations: the list, and how they come in."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, File, Form, UploadFile
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from voxelworks import accounts, catalog
from voxelworks.accounts import Action
from voxelworks.protocol.people import Principal
from voxelworks.server import rendering
from voxelworks.server.api import annotations as api
from voxelworks.server.context import Context, Here, Who
from voxelworks.server.pages.acting import act, read

router = APIRouter(prefix="/annotations")

DONE = {
    "added": "The annotation is in the list.",
    "trashed": "The annotation is in the trash.",
    "restored": "The annotation is back in the list.",
}
Text = Annotated[str, Form(max_length=2000)]


@router.get("", response_class=HTMLResponse)
def list_page(context: Here, request: Request, who: Who, done: str = "") -> Response:
    return _page(context, request, who, note=DONE.get(done, ""))


@router.post("")
def upload(
    context: Here,
    request: Request,
    who: Who,
    file: Annotated[UploadFile, File()],
    name: Text = "",
    dataset: Text = "",
) -> Response:
    return act(
        lambda: api.upload(context, who, file, name=name, dataset=dataset or None),
        show=lambda problem, status: _page(context, request, who, problem=problem, status=status),
        back="/annotations", done="added",
    )  # fmt: skip


@router.post("/link")
def link(
    context: Here, request: Request, who: Who, name: Text = "", address: Text = "", token: Text = "", dataset: Text = ""
) -> Response:  # fmt: skip
    values = {"name": name, "address": address, "token": token or None, "dataset": dataset or None}
    return act(
        lambda: api.link(context, who, read(api.AnnotationLink, values)),
        show=lambda problem, status: _page(context, request, who, problem=problem, status=status),
        back="/annotations", done="added",
    )  # fmt: skip


@router.post("/{annotation_id}/trash")
def trash(context: Here, who: Who, annotation_id: str) -> Response:
    api.trash(context, who, annotation_id)
    return RedirectResponse("/annotations?done=trashed", status_code=303)


@router.post("/{annotation_id}/restore")
def restore(context: Here, who: Who, annotation_id: str) -> Response:
    api.restore(context, who, annotation_id)
    return RedirectResponse("/annotations?done=restored", status_code=303)


@router.post("/{annotation_id}/delete-now")
def delete(context: Here, who: Who, annotation_id: str) -> Response:
    api.delete(context, who, annotation_id)
    return RedirectResponse("/trash?done=deleted", status_code=303)


def _page(
    context: Context,
    request: Request,
    who: Principal,
    *,
    note: str = "",
    problem: str = "",
    status: int = 200,
) -> Response:
    accounts.require(who, Action.SEE_DATASET)
    with context.database.read_session() as session:
        found = catalog.list_annotations(session, by=who)
        datasets = catalog.list_datasets(session, by=who)
        owners = accounts.find_users(session, {annotation.user_id for annotation in found})
    return rendering.page(
        request, "annotations.html", status=status, annotations=found, datasets=datasets, owners=owners, note=note,
        problem=problem, names={dataset.id: dataset.name for dataset in datasets},
        deletes_all=accounts.is_allowed(who, Action.DELETE_ANNOTATION),
    )  # fmt: skip
