"""The way in and out, and the small things that browsers ask for."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response

from voxelworks.server.context import Here
from voxelworks.server.rendering import STATIC
from voxelworks.server.security import NotLetIn, cookie_name, let_in, session_cookie

router = APIRouter()


@router.get("/")
def enter() -> Response:
    return RedirectResponse("/jobs", status_code=303)


@router.post("/login")
def log_in(context: Here, request: Request, token: Annotated[str, Form()] = "") -> Response:
    """Let in a browser whose user pasted the token."""
    if not context.keys.is_token(token.strip()):
        raise NotLetIn(
            "that token is not right; the server prints it when it starts, and makes a new one every time"
        )
    return let_in(request, "/jobs", context.sessions)


@router.post("/logout")
def log_out(context: Here, request: Request) -> Response:
    value = session_cookie(request)
    if value is not None:
        context.sessions.close(value)
    response = RedirectResponse("/jobs", status_code=303)
    response.delete_cookie(cookie_name(request), path="/")
    return response


@router.get("/favicon.ico")
def icon() -> Response:
    return FileResponse(STATIC / "icon.svg", media_type="image/svg+xml")
