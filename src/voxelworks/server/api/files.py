"""The files of datasets, for programs that show or read them."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from voxelworks import accounts, catalog
from voxelworks.accounts import Action
from voxelworks.protocol.people import Principal
from voxelworks.server.context import Context, Here, Who
from voxelworks.server.sending import send_file

router = APIRouter(tags=["datasets"])


@router.get("/datasets/{dataset_id}/files/{path:path}", response_class=Response)
@router.head("/datasets/{dataset_id}/files/{path:path}", include_in_schema=False)
def read_file(context: Here, request: Request, who: Who, dataset_id: str, path: str) -> Response:
    """Give a file of a dataset, or the range of its bytes that is asked for."""
    accounts.require(who, Action.SEE_DATASET)
    return answer_with_file(context, request, who, dataset_id, path)


def answer_with_file(
    context: Context, request: Request, by: Principal, dataset_id: str, path: str
) -> Response:
    with context.database.glance() as session:
        folder = catalog.folder_of(session, dataset_id, by=by, places=context.places)
    return send_file(request, catalog.open_file(folder, path), path.rpartition("/")[2])
