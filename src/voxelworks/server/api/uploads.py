"""Uploads of images: begun with a list of files, sent in pieces, finished, and then read by jobs as `upload:ID`."""

from __future__ import annotations

from anyio import to_thread
from fastapi import APIRouter
from starlette.requests import ClientDisconnect, Request

from voxelworks import accounts, catalog, jobs
from voxelworks.accounts import Action
from voxelworks.errors import IllegalTransition, InvalidInput
from voxelworks.protocol.uploads import MissingFile, NewUpload, ReceivedFile, UploadView
from voxelworks.server.context import Here, Who

router = APIRouter(prefix="/uploads", tags=["uploads"])

_PIECES_BODY = {
    "requestBody": {
        "required": True,
        "description": "Four bytes (big-endian) with the length of a JSON list of pieces, each with `number`, `offset`,"
        " `size_bytes` and `sha256`; this list; and then the bytes of each piece.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.get("")
def list_uploads(context: Here, who: Who) -> tuple[UploadView, ...]:
    """List your uploads, latest first."""
    accounts.require(who, Action.MAKE_DATASET)
    with context.database.read_session() as session:
        return catalog.list_uploads(session, by=who, settings=context.settings)


@router.post("", status_code=201)
def begin(context: Here, who: Who, new: NewUpload) -> UploadView:
    """Begin an upload, or find the one that you have begun with the same files: ask then what is missing."""
    accounts.require(who, Action.MAKE_DATASET)
    context.limits.count_for("upload", who)
    with context.database.session() as session:
        upload = catalog.begin_upload(session, new, by=who, places=context.places, settings=context.settings)
        accounts.audit(
            session, who, "upload.begun", upload.id, files=upload.file_count, bytes=upload.size_bytes
        )
        return upload


@router.get("/{upload_id}")
def show(context: Here, who: Who, upload_id: str) -> UploadView:
    """Show how far an upload is."""
    accounts.require(who, Action.MAKE_DATASET)
    with context.database.read_session() as session:
        return catalog.find_upload(session, upload_id, by=who, settings=context.settings)


@router.get("/{upload_id}/missing")
def missing(context: Here, who: Who, upload_id: str) -> tuple[MissingFile, ...]:
    """List the files that are not there as a whole, and how much of each is."""
    accounts.require(who, Action.MAKE_DATASET)
    with context.database.read_session() as session:
        return catalog.missing_files(session, upload_id, by=who)


@router.put("/{upload_id}/pieces", openapi_extra=_PIECES_BODY)
async def receive(context: Here, who: Who, upload_id: str, request: Request) -> tuple[ReceivedFile, ...]:
    """Send pieces of files, each of which goes on where its file ends; hear where to go on with each of these files."""
    accounts.require(who, Action.MAKE_DATASET)
    try:
        body = await request.body()
    except ClientDisconnect as error:  # networks are cut while much is sent: nothing to write into the log
        raise InvalidInput("the request was cut off; send it again") from error

    def take() -> tuple[ReceivedFile, ...]:
        return catalog.receive_pieces(context.database, upload_id, body, by=who, places=context.places)

    return await to_thread.run_sync(take, limiter=context.pieces)


@router.post("/{upload_id}/finish")
def finish(context: Here, who: Who, upload_id: str) -> UploadView:
    """Say that all files are there. A zip is unpacked for some seconds: repeat it until the state is `complete`."""
    accounts.require(who, Action.MAKE_DATASET)
    return catalog.finish_upload(
        context.database, upload_id, by=who, places=context.places, settings=context.settings
    )


@router.delete("/{upload_id}", status_code=204)
def abandon(context: Here, who: Who, upload_id: str) -> None:
    """Remove an upload and its files."""
    accounts.require(who, Action.MAKE_DATASET)
    with context.database.session() as session:
        catalog.abandon_upload(session, upload_id, by=who)
        if upload_id in jobs.uploads_in_use(session):
            raise IllegalTransition(
                f"a job reads upload {upload_id}; cancel it first, or wait until it has ended"
            )
        accounts.audit(session, who, "upload.removed", upload_id)
    catalog.remove_upload_files(upload_id, who.organization_id, places=context.places)
