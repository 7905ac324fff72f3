"""Annotations: skeletons and volume edits, uploaded as files or fetched from a WEBKNOSSOS."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, File, Form, UploadFile
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from sqlalchemy.orm import Session
from starlette.responses import FileResponse

from voxelworks import accounts, catalog, jobs
from voxelworks.accounts import Action
from voxelworks.errors import IllegalTransition
from voxelworks.protocol.people import Principal
from voxelworks.protocol.views import AnnotationContents, AnnotationView
from voxelworks.server.context import Context, Here, Who

router = APIRouter(prefix="/annotations", tags=["annotations"])


class AnnotationLink(BaseModel):
    """An annotation in a WEBKNOSSOS."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=200)] = ""
    """By default the one that it has there."""
    address: Annotated[str, Field(max_length=2000)]
    """As the browser shows it, such as `https://webknossos.org/annotations/5f...`."""
    token: SecretStr | None = None
    """Token of an account there that may read it. It is stored encrypted and never shown again."""
    dataset: str | None = None
    """Dataset here that it belongs to."""


class FetchRequest(BaseModel):
    """How an annotation is fetched anew."""

    model_config = ConfigDict(extra="forbid")

    token: SecretStr | None = None
    """Another token; by default the one that was given before."""


@router.get("")
def list_annotations(context: Here, who: Who, include_trashed: bool = False) -> tuple[AnnotationView, ...]:
    """List the annotations of your organization."""
    accounts.require(who, Action.SEE_DATASET)
    with context.database.read_session() as session:
        return catalog.list_annotations(session, by=who, include_trashed=include_trashed)


@router.post("", status_code=201)
def upload(
    context: Here,
    who: Who,
    file: Annotated[UploadFile, File(description="An NML file, or a zip with one and its volume layers.")],
    name: Annotated[str, Form(max_length=200)] = "",
    dataset: Annotated[str | None, Form(max_length=128)] = None,
) -> AnnotationView:
    """Upload an annotation."""
    accounts.require(who, Action.MAKE_ANNOTATION)
    context.limits.count_for("upload", who)
    return take_upload(context, who, file, name=name, dataset=dataset)


@router.post("/link", status_code=201)
def link(context: Here, who: Who, link: AnnotationLink) -> AnnotationView:
    """Fetch an annotation from a WEBKNOSSOS, anew if you have named its address before.

    Fetching takes its time: ask for the annotation until it is no longer `is_fetching`.
    """
    accounts.require(who, Action.MAKE_ANNOTATION)
    context.limits.count_for("upload", who)
    with context.database.session() as session:
        made = catalog.add_far_annotation(
            session, context.box, by=who, name=link.name, address=link.address, token=_given(link.token),
            dataset=link.dataset or None, places=context.places,
        )  # fmt: skip
        _require_not_in_use(session, made.id)
        accounts.audit(session, who, "annotation.linked", made.id, name=made.name, url=made.address)
        return made


@router.post("/{annotation_id}/fetch")
def fetch(context: Here, who: Who, annotation_id: str, request: FetchRequest | None = None) -> AnnotationView:
    """Fetch an annotation anew from the WEBKNOSSOS that it comes from. Until it is here, the old file stays."""
    with context.database.session() as session:
        _require_may_change(session, who, annotation_id)
        context.limits.count_for("upload", who)
        _require_not_in_use(session, annotation_id)
        token = _given(request.token) if request is not None else None
        asked = catalog.fetch_annotation(session, context.box, annotation_id, by=who, token=token)
        accounts.audit(session, who, "annotation.fetched", asked.id, name=asked.name, url=asked.address)
        return asked


@router.get("/{annotation_id}")
def show(context: Here, who: Who, annotation_id: str) -> AnnotationView:
    accounts.require(who, Action.SEE_DATASET)
    with context.database.read_session() as session:
        return catalog.find_annotation(session, annotation_id, by=who)


@router.get("/{annotation_id}/contents")
def show_contents(context: Here, who: Who, annotation_id: str) -> AnnotationContents:
    """Show the trees and volume layers of an annotation, of very many trees the first ones."""
    view = show(context, who, annotation_id)
    return catalog.annotation_contents(context.database, view, by=who, settings=context.settings)


@router.get("/{annotation_id}/file", response_class=FileResponse)
def download(context: Here, who: Who, annotation_id: str) -> FileResponse:
    """Download an annotation as it came."""
    view = show(context, who, annotation_id)
    catalog.require_file(view)
    file = catalog.annotation_file(view, context.settings)
    return FileResponse(file, media_type="application/octet-stream", filename=f"{view.id}{file.suffix}")


@router.delete("/{annotation_id}")
def trash(context: Here, who: Who, annotation_id: str) -> AnnotationView:
    """Put an annotation into the trash, from which it can be taken back until its term has passed."""
    with context.database.session() as session:
        _require_may_change(session, who, annotation_id)
        trashed = catalog.trash_annotation(session, annotation_id, by=who, settings=context.settings)
        accounts.audit(session, who, "annotation.trashed", trashed.id, name=trashed.name)
        return trashed


@router.post("/{annotation_id}/restore")
def restore(context: Here, who: Who, annotation_id: str) -> AnnotationView:
    """Take an annotation back from the trash."""
    with context.database.session() as session:
        _require_may_change(session, who, annotation_id)
        restored = catalog.restore_annotation(session, annotation_id, by=who)
        accounts.audit(session, who, "annotation.restored", restored.id, name=restored.name)
        return restored


@router.post("/{annotation_id}/delete-now", status_code=204)
def delete(context: Here, who: Who, annotation_id: str) -> None:
    """Delete an annotation that is in the trash for good."""
    with context.database.session() as session:
        _require_may_change(session, who, annotation_id)
        catalog.delete_annotation_now(session, annotation_id, by=who)
        accounts.audit(session, who, "annotation.deleted", annotation_id)


def _require_may_change(session: Session, who: Principal, annotation_id: str) -> None:
    """Let members delete, and fetch anew, what they made themselves."""
    view = catalog.find_annotation(session, annotation_id, by=who, include_trashed=True)
    is_own = view.user_id == who.user_id
    accounts.require(who, Action.MAKE_ANNOTATION if is_own else Action.DELETE_ANNOTATION)


def _require_not_in_use(session: Session, annotation_id: str) -> None:
    """Keep the file of an annotation the same while a job works with it."""
    if jobs.is_annotation_in_use(session, annotation_id):
        raise IllegalTransition(
            "a job works with the annotation; wait until it has ended, or cancel it, and fetch the annotation then"
        )


def _given(token: SecretStr | None) -> str | None:
    return token.get_secret_value() or None if token is not None else None


def take_upload(
    context: Context, who: Principal, file: UploadFile, *, name: str, dataset: str | None
) -> AnnotationView:
    # Looking through a large archive takes time: no transaction waits for that.
    stored = catalog.store_annotation(
        file.file, organization_id=who.organization_id, settings=context.settings
    )
    try:
        with context.database.session() as session:
            made = catalog.add_annotation_file(
                session, stored, by=who, name=name.strip() or (file.filename or "annotation"), dataset=dataset or None,
                settings=context.settings,
            )  # fmt: skip
            accounts.audit(session, who, "annotation.uploaded", made.id, name=made.name)
            return made
    except BaseException:
        catalog.discard_stored(stored)
        raise
