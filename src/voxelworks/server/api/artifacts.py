"""The files that jobs leave for download, and addresses under which anybody can have one."""

from __future__ import annotations

import base64
from urllib.parse import quote

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from voxelworks import accounts, catalog, jobs
from voxelworks.accounts import Action, Shared
from voxelworks.protocol.people import NewShare, ShareView
from voxelworks.protocol.views import ArtifactView
from voxelworks.server.api.shares import ShareRequest
from voxelworks.server.context import Context, Here, Who
from voxelworks.server.origin import public_address
from voxelworks.server.sending import send_file

router = APIRouter(prefix="/jobs/{job_id}", tags=["jobs"])


@router.get("/file", response_class=Response)
@router.head("/file", include_in_schema=False)
def download(context: Here, request: Request, who: Who, job_id: str) -> Response:
    """Give the file that a job has left, or the range of its bytes that is asked for.

    `Repr-Digest` holds the SHA-256 of the whole file (RFC 9530). A download that broke off goes on with `Range` and, in
    `If-Range`, the `ETag` that it began with.
    """
    accounts.require(who, Action.SEE_OWN_JOBS)
    with context.database.read_session() as session:
        artifact = jobs.find_artifact(session, job_id, by=who, settings=context.settings)
    return answer_with_artifact(context, request, artifact)


@router.delete("/file", status_code=204)
def delete(context: Here, who: Who, job_id: str) -> None:
    """Let the file be removed before its term is over. The job stays, and can be run again."""
    with context.database.session() as session:
        jobs.delete_artifact(session, job_id, by=who, settings=context.settings)


@router.get("/shares")
def list_shares(context: Here, who: Who, job_id: str) -> tuple[ShareView, ...]:
    """List the addresses under which anybody can have the file of a job, newest first."""
    accounts.require(who, Action.SEE_OWN_JOBS)
    with context.database.read_session() as session:
        jobs.find_artifact(session, job_id, by=who, settings=context.settings)
        return accounts.list_shares(session, who, Shared(job_id=job_id))


@router.post("/shares", status_code=201)
def create_share(context: Here, request: Request, who: Who, job_id: str, wanted: ShareRequest) -> NewShare:
    """Make an address under which anybody can have the file, until it ends, is revoked, or the file is removed."""
    accounts.require(who, Action.SHARE_DATASET)
    with context.database.session() as session:
        jobs.find_artifact(session, job_id, by=who, settings=context.settings)
        token, view = accounts.create_share(
            session, who, Shared(job_id=job_id), wanted.name, wanted.lifetime_days
        )
    address = f"{public_address(request, context.settings)}/shared/{token}/file"
    return NewShare(address=address, viewer=address, view=view)


@router.delete("/shares/{share_id}", status_code=204)
def revoke_share(context: Here, who: Who, job_id: str, share_id: str) -> None:
    """End an address at once: one's own, or, for those who manage datasets, any."""
    accounts.require(who, Action.SHARE_DATASET)
    with context.database.session() as session:
        jobs.find_artifact(session, job_id, by=who, settings=context.settings)
        view = accounts.find_share(session, who, Shared(job_id=job_id), share_id)
        if view.user_id != who.user_id:
            accounts.require(who, Action.CHANGE_DATASET)
        accounts.revoke_share(session, who, view)


def answer_with_artifact(context: Context, request: Request, artifact: ArtifactView) -> Response:
    digest = base64.b64encode(bytes.fromhex(artifact.sha256)).decode()
    headers = {
        "ETag": f'"{artifact.sha256}"', "Content-Type": artifact.media_type,
        "Content-Disposition": disposition(artifact.name), "Repr-Digest": f"sha-256=:{digest}:",
    }  # fmt: skip
    file = catalog.open_artifact(artifact, places=context.places)
    return send_file(request, file, artifact.name, headers)


def disposition(name: str) -> str:
    """Say what a download is called: in any script, and in ASCII for old programs (RFC 6266)."""
    plain = "".join(
        character if character.isascii() and character.isprintable() else "_" for character in name
    )
    plain = plain.replace("\\", "_").replace('"', "_")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
