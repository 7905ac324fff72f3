"""The one place where an error becomes an answer: JSON for programs, a page for people."""

from __future__ import annotations

import logging
import math
import re
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from voxelworks.errors import LeaseLost, TooManyRequests, VoxelworksError
from voxelworks.server import rendering
from voxelworks.server.context import LOST
from voxelworks.server.wk import paths as wk_paths

log = logging.getLogger(__name__)


class Problem(BaseModel):
    """Why a request was refused. Some refusals have further fields."""

    model_config = ConfigDict(extra="allow")

    code: str
    """Stays the same; for programs."""
    message: str
    """A sentence for people."""


REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Problem, "description": "Refused: the answer says why, and what to do."}
}
"""For the description of every route."""

_TOKEN = re.compile(r"vx[a-z]_[\w-]{20,}")
"""The address of an invitation, and of the page for a new password, is a secret by itself."""

HEADINGS = {
    400: "That request makes no sense here",
    401: "You are not let in yet",
    402: "Not enough credits",
    403: "Not allowed",
    404: "Not found",
    405: "Not allowed",
    409: "That does not go together",
    413: "Too large",
    422: "That cannot be used",
    429: "Too many requests",
    503: "Not reachable right now",
}


def answer_problem(request: Request, error: VoxelworksError) -> Response:
    """Answer with an error whose message is meant for a person."""
    if isinstance(error, LeaseLost):
        request.scope[LOST] = True
    extra = {
        key: value
        for key, value in vars(error).items()
        if isinstance(value, int | float | str) and not key.startswith("_")
    }
    response = _answer(request, error.http_status, error.code, error.message, extra)
    if isinstance(error, TooManyRequests):
        response.headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    return response


def answer_defect(request: Request, error: Exception) -> Response:
    """Answer with an error that nobody foresaw; what it says is for the log only."""
    log.error("%s %s failed", request.method, _path_for_log(request), exc_info=error)
    return _answer(request, 500, "program-error", "the server met a defect of its own; its log says more", {})


def install(app: FastAPI) -> None:
    """Let the app answer every error through this module."""

    async def on_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, VoxelworksError)
        if error.http_status >= 500:
            log.error("%s %s: %s", request.method, _path_for_log(request), error.message)
        return answer_problem(request, error)

    async def on_invalid_request(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        message = "; ".join(_problem(item) for item in error.errors())
        return _answer(request, 422, "invalid-request", message, {})

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = "not-found" if error.status_code == 404 else f"http-{error.status_code}"
        message = f"there is nothing at {request.url.path}" if error.status_code == 404 else str(error.detail)
        return _answer(request, error.status_code, code, message, {})

    app.add_exception_handler(VoxelworksError, on_problem)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
    app.add_exception_handler(HTTPException, on_http_error)


def _path_for_log(request: Request) -> str:
    return _TOKEN.sub("***", request.url.path)


def is_for_program(request: Request) -> bool:
    return request.url.path.startswith(("/api/", "/healthz", "/readyz", "/metrics"))


def _answer(
    request: Request, status: int, code: str, message: str, extra: dict[str, int | float | str]
) -> Response:
    if wk_paths.is_face(request.url.path):
        return wk_paths.problem(status, code, message)
    if is_for_program(request):
        return JSONResponse({"code": code, "message": message, **extra}, status_code=status)
    if "hx-request" in request.headers:
        # The page stays as it is; its script shows the sentence.
        return PlainTextResponse(message, status_code=status)
    heading = HEADINGS.get(status, "Something went wrong")
    if status == 401:
        return rendering.login_page(request, heading=heading, message=message, status=status)
    return rendering.page(request, "problem.html", status=status, heading=heading, message=message, code=code)


def _problem(item: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in item["loc"] if part != "body")
    return (
        f"{where or 'the body'} is missing"
        if item["type"] == "missing"
        else f"{where or 'the body'}: {item['msg']}"
    )
