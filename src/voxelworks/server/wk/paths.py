"""Which addresses belong to the WEBKNOSSOS face, and how it answers errors. Imports nothing of the server."""

from __future__ import annotations

import re

from starlette.responses import JSONResponse, Response

API_VERSION = 14
"""The version of WEBKNOSSOS' API that the face speaks, and the oldest that it differs from in nothing it has."""
API_VERSION_OLDEST = 13
PREFIXES = ("/api", *(f"/api/v{version}" for version in range(API_VERSION_OLDEST, API_VERSION + 1)))
_OWN = re.compile(r"/api/v1(/.*)?")
_PREFIX = re.compile(r"/api(/v\d+)?(?=/)")
_WORKERS = re.compile(r"/jobs/(request|[^/]+/(status|attachVoxelyticsWorkflow|attachDatasetToInference))")
_OPEN = frozenset({
    ("GET", "/buildinfo"), ("HEAD", "/buildinfo"), ("GET", "/features"), ("HEAD", "/features"), ("GET", "/health"),
    ("POST", "/auth/login"),
})  # fmt: skip


def is_face(path: str) -> bool:
    """Tell whether an address is below `/api`, but not of our own API."""
    return path.startswith("/api/") and _OWN.fullmatch(path) is None


def is_open(method: str, path: str) -> bool:
    """Tell whether nobody need be known for a request."""
    return is_face(path) and (method, _PREFIX.sub("", path, count=1)) in _OPEN


def is_for_workers(path: str) -> bool:
    """Tell whether the route asks for the key of a worker, in the query, by itself."""
    return is_face(path) and _WORKERS.fullmatch(_PREFIX.sub("", path, count=1)) is not None


def problem(status: int, code: str, message: str) -> Response:
    """Answer an error as WEBKNOSSOS does; `code` is ours."""
    return JSONResponse({"messages": [{"error": message}], "code": code}, status_code=status)
