"""Annotations: the list, how they come in, and the page of one with what it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, File, Form, UploadFile
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from voxelworks import accounts, catalog, jobs
from voxelworks.accounts import Action
from voxelworks.errors import DatasetNotFound, VoxelworksError
from voxelworks.protocol.people import Principal
from voxelworks.protocol.views import AnnotationContents, AnnotationView, DatasetView
from voxelworks.server import rendering
from voxelworks.server.api import annotations as api
from voxelworks.server.context import Context, Here, Who
from voxelworks.server.pages.acting import act, read
from voxelworks.server.subjects import workflow_title
from voxelworks.workflows import Workflow, workflows

router = APIRouter(prefix="/annotations")

DONE = {
    "added": "The annotation is in the list.",
    "linked": "The annotation is in the list, and is being fetched.",
    "trashed": "The annotation is in the trash.",
    "restored": "The annotation is back in the list.",
}
JOBS_MAX = 20
"""Jobs that the page of an annotation shows."""
Text = Annotated[str, Form(max_length=2000)]


@router.get("", response_class=HTMLResponse)
def list_page(context: Here, request: Request, who: Who, done: str = "", dataset: str = "") -> Response:
    """Show the list; in the forms beside it, a dataset is chosen already."""
    return _page(context, request, who, note=DONE.get(done, ""), dataset=dataset)


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
        show=lambda problem, status: _page(
            context, request, who, problem=problem, status=status, dataset=dataset
        ),
        back="/annotations", done="added",
    )  # fmt: skip


@router.post("/link")
def link(
    context: Here, request: Request, who: Who, name: Text = "", address: Text = "", token: Text = "", dataset: Text = ""
) -> Response:  # fmt: skip
    values = {"name": name, "address": address, "token": token or None, "dataset": dataset or None}
    return act(
        lambda: api.link(context, who, read(api.AnnotationLink, values)),
        show=lambda problem, status: _page(
            context, request, who, problem=problem, status=status, dataset=dataset,
            typed={"name": name, "address": address},
        ),
        back="/annotations", done="linked",
    )  # fmt: skip


@router.get("/{annotation_id}", response_class=HTMLResponse)
def annotation_page(context: Here, request: Request, who: Who, annotation_id: str) -> Response:
    """Show what an annotation holds and belongs to."""
    return _annotation(context, request, who, annotation_id)


@router.get("/{annotation_id}/fetching", response_class=HTMLResponse)
def fetching(context: Here, request: Request, who: Who, annotation_id: str) -> Response:
    """Say how fetching goes; when it is over, the page is loaded anew."""
    annotation = api.show(context, who, annotation_id)
    answer = rendering.page(request, "_fetching.html", annotation=annotation)
    if not annotation.is_fetching:
        answer.headers["HX-Refresh"] = "true"
    return answer


@router.post("/{annotation_id}/fetch")
def fetch(context: Here, request: Request, who: Who, annotation_id: str, token: Text = "") -> Response:
    return act(
        lambda: api.fetch(
            context, who, annotation_id, read(api.FetchRequest, {"token": token} if token else {})
        ),
        show=lambda problem, status: _annotation(
            context, request, who, annotation_id, problem=problem, status=status
        ),
        back=f"/annotations/{annotation_id}", done="fetch",
    )  # fmt: skip


def _annotation(
    context: Context,
    request: Request,
    who: Principal,
    annotation_id: str,
    *,
    problem: str = "",
    status: int = 200,
) -> Response:
    annotation = api.show(context, who, annotation_id)
    contents, why = _contents(context, who, annotation)
    with context.database.read_session() as session:
        dataset = _dataset_of(session, annotation, who)
        owners = accounts.find_users(session, {annotation.user_id})
        known_jobs = jobs.jobs_of_annotation(
            session, annotation.id, by=who, settings=context.settings, limit=JOBS_MAX
        )
    is_own = annotation.user_id == who.user_id
    may_submit = accounts.is_allowed(who, Action.SUBMIT_JOB) and annotation.kind != "webknossos"
    return rendering.page(
        request, "annotation.html", status=status, annotation=annotation, contents=contents, problem=problem or why,
        dataset=dataset,
        owner=owners.get(annotation.user_id), jobs=known_jobs, workflow_title=workflow_title,
        takers=[item for item in workflows().values() if _takes_annotation(item)] if may_submit else [],
        may_change=accounts.is_allowed(who, Action.MAKE_ANNOTATION if is_own else Action.DELETE_ANNOTATION),
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


def _contents(
    context: Context, who: Principal, annotation: AnnotationView
) -> tuple[AnnotationContents | None, str]:
    """Give what an annotation holds, or why that cannot be read: its page shows the rest all the same."""
    if annotation.kind == "webknossos":
        return None, ""
    try:
        return catalog.annotation_contents(
            context.database, annotation, by=who, settings=context.settings
        ), ""
    except VoxelworksError as error:
        return None, error.message


def _dataset_of(session: Session, annotation: AnnotationView, who: Principal) -> DatasetView | None:
    """Find the dataset that an annotation belongs to, or else the one whose name the file states."""
    named = annotation.summary.dataset_name if annotation.summary is not None else None
    ref = annotation.dataset_id or named
    try:
        return catalog.find(session, ref, by=who) if ref else None
    except DatasetNotFound:
        return None


def _takes_annotation(workflow: Workflow) -> bool:
    return any(item.kind == "annotation" for item in workflow.fields)


def _page(
    context: Context,
    request: Request,
    who: Principal,
    *,
    note: str = "",
    problem: str = "",
    status: int = 200,
    dataset: str = "",
    typed: Mapping[str, str] | None = None,
) -> Response:
    accounts.require(who, Action.SEE_DATASET)
    with context.database.read_session() as session:
        found = catalog.list_annotations(session, by=who)
        datasets = catalog.list_datasets(session, by=who)
        owners = accounts.find_users(session, {annotation.user_id for annotation in found})
    return rendering.page(
        request, "annotations.html", status=status, annotations=found, datasets=datasets, owners=owners, note=note,
        problem=problem, dataset=dataset, typed=typed or {}, names={dataset.id: dataset.name for dataset in datasets},
        deletes_all=accounts.is_allowed(who, Action.DELETE_ANNOTATION),
    )  # fmt: skip
