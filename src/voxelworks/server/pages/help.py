"""The page that says where to begin, what failures mean and whom to ask."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse

from voxelworks.server import rendering
from voxelworks.server.context import Here, Who
from voxelworks.server.origin import public_address
from voxelworks.server.rendering import FAILURE_ADVICE, FAILURE_WORDS

router = APIRouter()


@router.get("/help", response_class=HTMLResponse)
def help_page(context: Here, request: Request, _who: Who) -> HTMLResponse:
    settings = context.settings
    return rendering.page(
        request, "help.html", support_email=settings.support_email,
        failures=[(FAILURE_WORDS[name], advice) for name, advice in FAILURE_ADVICE.items()],
        address=public_address(request, settings),
    )  # fmt: skip
