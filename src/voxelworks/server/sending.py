"""Sends files as they are: whole, in part, or only what is known of them. Nothing is decoded.

Programs that show volumes read small pieces of large files, hundreds each second: a piece is read where the file was
opened, in one go; only what is larger is sent bit by bit, and nothing but the file stays open meanwhile.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from email.utils import formatdate, parsedate_to_datetime
from io import FileIO
from pathlib import PurePosixPath

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from voxelworks.errors import StorageFailed

PIECE_BYTES = 2**20
"""What is read and sent at once, in bytes."""
_JSON_NAMES = frozenset({"info", "provenance", ".zarray", ".zattrs", ".zgroup", ".zmetadata"})
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


def send_file(
    request: Request, file: FileIO, name: str, more_headers: Mapping[str, str] | None = None
) -> Response:
    """Answer a request for a file, and close it.

    Takes the conditions and the range of the request into account (RFC 9110). Of several ranges at once nobody has need
    here: they get the whole file, as the standard allows.

    Parameters
    ----------
    name
        Only metadata is told apart from other data: no browser shall take a file for a page of this server.
    more_headers
        What is known of the file beside that, in place of what would be said otherwise.
    """
    about = os.fstat(file.fileno())
    changed = formatdate(about.st_mtime, usegmt=True)
    headers = {
        "ETag": f'"{about.st_mtime_ns:x}-{about.st_size:x}-{about.st_ino:x}"', "Last-Modified": changed,
        # Kept by the browser, but asked for each time: a right that is taken away is so at once.
        "Cache-Control": "private, no-cache", "Accept-Ranges": "bytes", "Content-Type": _type_of(name),
    } | dict(more_headers or {})  # fmt: skip
    if _has_it(request, headers["ETag"], about.st_mtime):
        file.close()
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":
        file.close()
        return Response(headers=headers | {"Content-Length": str(about.st_size)})
    span = _span(request, about.st_size, headers["ETag"], changed)
    if span is None:
        return _body(file, 0, about.st_size, 200, headers)
    start, stop = span
    if start >= stop:
        file.close()
        return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{about.st_size}"})
    return _body(
        file, start, stop, 206, headers | {"Content-Range": f"bytes {start}-{stop - 1}/{about.st_size}"}
    )


class _Stream(StreamingResponse):
    """Sends a part of a file bit by bit; the file is closed in any case, also if nobody waits for it any more."""

    def __init__(self, file: FileIO, start: int, stop: int, status: int, headers: dict[str, str]) -> None:
        super().__init__(_pieces(file, start, stop), status, headers | {"Content-Length": str(stop - start)})
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)


def _body(file: FileIO, start: int, stop: int, status: int, headers: dict[str, str]) -> Response:
    if stop - start > PIECE_BYTES:
        return _Stream(file, start, stop, status, headers)
    with file:
        return Response(_read(file, start, stop), status, headers)


def _pieces(file: FileIO, start: int, stop: int) -> Iterator[bytes]:
    for at in range(start, stop, PIECE_BYTES):
        yield _read(file, at, min(at + PIECE_BYTES, stop))


def _read(file: FileIO, start: int, stop: int) -> bytes:
    piece = os.pread(file.fileno(), stop - start, start)
    if len(piece) != stop - start:
        raise StorageFailed("the file has become shorter while it was read; try again")
    return piece


def _type_of(name: str) -> str:
    is_json = name in _JSON_NAMES or PurePosixPath(name).suffix == ".json"
    return "application/json" if is_json else "application/octet-stream"


def _has_it(request: Request, etag: str, changed_s: float) -> bool:
    """Whether whoever asks has the file as it is."""
    known = request.headers.get("if-none-match")
    if known is not None:
        return known.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in known.split(","))
    since = request.headers.get("if-modified-since")
    if since is None:
        return False
    try:
        return int(changed_s) <= parsedate_to_datetime(since).timestamp()
    except (ValueError, OverflowError):
        return False


def _span(request: Request, size: int, etag: str, changed: str) -> tuple[int, int] | None:
    """Give the half-open range that is asked for; empty if it lies outside, None for the whole file."""
    found = _RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    if found is None or request.headers.get("if-range", etag) not in (etag, changed):
        return None
    first, last = found.groups()
    if not first:
        # The end of the file: indexes of shards are there.
        return (max(0, size - int(last)), size) if last else None
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1, size) if last else size
