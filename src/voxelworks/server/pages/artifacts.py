"""The file of a job: its download, and what the page of the job does with it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from voxelworks import jobs
from voxelworks.errors import NotFound
from voxelworks.protocol.people import NewShare
from voxelworks.server.api import artifacts as api
from voxelworks.server.api.artifacts import answer_with_artifact
from voxelworks.server.api.shares import ShareRequest
from voxelworks.server.context import Here, Who
from voxelworks.server.pages.acting import act, read
from voxelworks.server.pages.jobs import show_page
from voxelworks.server.pages.viewer import enter_shared

router = APIRouter()
shared_router = APIRouter()


@router.get("/jobs/{job_id}/file")
def download(context: Here, request: Request, who: Who, job_id: str) -> Response:
    return api.download(context, request, who, job_id)


@router.post("/jobs/{job_id}/file/delete")
def delete(context: Here, who: Who, job_id: str) -> Response:
    api.delete(context, who, job_id)
    return RedirectResponse(f"/jobs/{job_id}", status_code=303)


@router.post("/jobs/{job_id}/shares")
def share(
    context: Here,
    request: Request,
    who: Who,
    job_id: str,
    name: Annotated[str, Form(max_length=2000)] = "",
    lifetime_days: Annotated[str, Form(max_length=20)] = "",
) -> Response:
    """Make an address and show it, this once."""
    made: list[NewShare] = []

    def create() -> None:
        wanted = read(ShareRequest, {"name": name, "lifetime_days": lifetime_days})
        made.append(api.create_share(context, request, who, job_id, wanted))

    answer = act(
        create,
        show=lambda problem, status: show_page(context, request, who, job_id, problem=problem, status=status),
        back=f"/jobs/{job_id}", done="shared",
    )  # fmt: skip
    return show_page(context, request, who, job_id, new_share=made[0]) if made else answer


@router.post("/jobs/{job_id}/shares/{share_id}/revoke")
def revoke_share(context: Here, who: Who, job_id: str, share_id: str) -> Response:
    api.revoke_share(context, who, job_id, share_id)
    return RedirectResponse(f"/jobs/{job_id}#result-title", status_code=303)


@shared_router.api_route("/shared/{token}/file", methods=["GET", "HEAD"])
def shared_file(context: Here, request: Request, token: str) -> Response:
    """Give a file to somebody who has its address and need not have an account."""
    reader, what = enter_shared(context, token)
    if what.job_id is None:
        raise NotFound("this address is that of a dataset; open it in a viewer")
    with context.database.read_session() as session:
        artifact = jobs.find_artifact(session, what.job_id, by=reader, settings=context.settings)
    return answer_with_artifact(context, request, artifact)
