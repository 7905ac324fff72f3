"""The page that says where to begin, what failures mean and whom to ask."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse

from voxelworks.server import rendering
from voxelworks.server.context import Here, Who
from voxelworks.server.origin import public_address
from voxelworks.server.rendering import FAILURE_WORDS

router = APIRouter()

_MEANINGS = {
    "user_input": "Something that the job was given does not fit: a file that cannot be read, a layer of the wrong"
    " kind. The message names it. Correct it with “Run again with changes”.",
    "resources": "The job needed more memory, disk or time than there was. It was tried again, with more memory where a"
    " worker has it. Choose a smaller box or a coarser mag, or ask the operator.",
    "infrastructure": "A worker, the network or the storage broke off. The job was tried again by itself, several"
    " times. Retry it later; if that fails too, ask for help.",
    "program_error": "A fault of the program, not of your data. Ask for help.",
    "timed_out": "The job took longer than the workflow or the operator allows. Choose a smaller box, or ask the"
    " operator.",
    "cancelled": "Somebody cancelled it. Its page says who.",
}


@router.get("/help", response_class=HTMLResponse)
def help_page(context: Here, request: Request, _who: Who) -> HTMLResponse:
    settings = context.settings
    return rendering.page(
        request, "help.html", support_email=settings.support_email,
        failures=[(FAILURE_WORDS[name], meaning) for name, meaning in _MEANINGS.items()],
        address=public_address(request, settings),
    )  # fmt: skip
