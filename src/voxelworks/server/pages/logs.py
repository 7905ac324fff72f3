"""The log of an attempt: on the page of its job, as a page of its own, and as a file.

Of a long log only the lines that are looked at go to the browser. A script (`static/log.js`) fetches others through the
API; without it the page of the log shows one part after the other.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse

from voxelworks import jobs
from voxelworks.errors import NotFound, VoxelworksError
from voxelworks.protocol.people import Principal
from voxelworks.protocol.views import LogChunk, LogHits, LogLines
from voxelworks.server import rendering
from voxelworks.server.api.jobs import find_log, show_job
from voxelworks.server.context import Context, Here, Who
from voxelworks.server.sse import Frame
from voxelworks.server.subjects import subject, workflow_title

router = APIRouter()

PART_LINES = 500
"""Lines of one part of the page of a log."""
TAIL_LINES = 200
"""Lines at the end of a log that the page of its job shows at first."""
FRAME_LINES_MAX = 1000
"""New lines that an open page is sent at once. Of more it gets the last ones, and fetches others when they are seen."""
FILE_PIECE_BYTES = 256 * 2**10
NO_LINES = LogLines(first=1, lines=(), total=0, is_open=False, size=0, is_complete=False)


@dataclass(frozen=True)
class LogView:
    """The part of a log that a page shows."""

    job_id: str
    attempt: int
    part: LogLines
    find: str = ""
    hits: LogHits | None = None
    line: int | None = None
    """The line that was asked for, or the present one of those with the text."""

    @property
    def last(self) -> int:
        return self.part.first + len(self.part.lines) - 1

    @property
    def position(self) -> int | None:
        """Which of the lines with the text the present one is, from 1."""
        if self.hits is None or self.line not in self.hits.lines:
            return None
        return bisect_left(self.hits.lines, self.line) + 1

    def address(self, line: int | None = None, *, first: int | None = None) -> str:
        """Give the address of the page of this log around a line, or from a first one on; by default at its end."""
        query = {"attempt": self.attempt, "find": self.find or None, "line": line, "first": first}
        known = urlencode({key: value for key, value in query.items() if value is not None})
        return f"/jobs/{self.job_id}/log?{known}" + (f"#L{line}" if line is not None else "")

    def neighbour(self, step: int) -> int | None:
        """Give the next line with the text, or with -1 the one before; the first follows the last."""
        if self.hits is None or not self.hits.lines:
            return None
        found = self.hits.lines
        at = bisect_left(found, self.line or 0)
        is_there = at < len(found) and found[at] == self.line
        return found[(at + (step if is_there or step < 0 else 0)) % len(found)]

    def marked(self, text: str) -> list[str]:
        """Cut a line where the text stands: each second piece is the text."""
        return re.split(f"({re.escape(self.find)})", text, flags=re.IGNORECASE) if self.find else [text]


@router.get("/jobs/{job_id}/log", response_class=HTMLResponse)
def log_page(
    context: Here,
    request: Request,
    who: Who,
    job_id: str,
    attempt: Annotated[int | None, Query(ge=1)] = None,
    line: str = "",
    first: Annotated[int | None, Query(ge=1)] = None,
    find: str = "",
) -> Response:
    """Show a part of a log: from a line on, around one, around the first one with a text, or at its end."""
    detail = show_job(context, who, job_id)
    log = find_log(context, who, job_id, attempt)
    wanted = int(line) if line.isdecimal() and len(line) < 13 and int(line) > 0 else None
    hits, problem = None, ""
    if find:
        try:
            hits = log.search(find)
        except VoxelworksError as error:
            find, problem = "", error.message
    if first is None:
        if hits is not None and hits.lines and wanted is None:
            wanted = hits.lines[0]
        first = None if wanted is None else max(1, wanted - PART_LINES // 2)
    part = log.lines(first, PART_LINES)
    view = LogView(job_id, attempt or detail.job.attempt, part, find, hits, wanted)
    return rendering.page(
        request, "log.html", status=422 if problem else 200, job=detail.job, detail=detail, log=view, problem=problem,
        title=workflow_title(detail.job.workflow), subject=subject(detail.job.workflow, detail.job.params),
        part_lines=PART_LINES,
    )  # fmt: skip


@router.get("/jobs/{job_id}/log.txt")
def download_log(
    context: Here, who: Who, job_id: str, attempt: Annotated[int, Query(ge=1)]
) -> StreamingResponse:
    """Give the whole log of an attempt as a file."""
    first = _read(context, who, job_id, attempt, 0)

    def pieces() -> Iterator[str]:
        piece = first
        while piece.text:
            yield piece.text
            piece = _read(context, who, job_id, attempt, piece.next_offset)

    headers = {"Content-Disposition": f'attachment; filename="{_safe(job_id)}-attempt-{attempt}.log"'}
    return StreamingResponse(pieces(), media_type="text/plain; charset=utf-8", headers=headers)


def tail_of(context: Context, who: Principal, job_id: str, attempt: int) -> LogView:
    """Give the end of a log, as the page of its job shows it; nothing before the first attempt, 0."""
    part = find_log(context, who, job_id, attempt).lines(None, TAIL_LINES) if attempt else NO_LINES
    return LogView(job_id, attempt, part)


def new_lines(log: jobs.Log, shown: int) -> LogLines:
    """Give the lines behind those that a page shows; of very many only the last ones."""
    found = log.lines(shown + 1, FRAME_LINES_MAX)
    return found if found.first + len(found.lines) > found.total else log.lines(None, FRAME_LINES_MAX)


def log_frame(attempt: int, lines: LogLines) -> Frame:
    """Tell an open page of new lines. The last one may have no end yet: it comes again when it has grown."""
    data = {"attempt": attempt, **lines.model_dump(mode="json", exclude={"size", "is_complete"})}
    return Frame(json.dumps(data), event="log", id=f"{attempt}:{lines.ended}")


def _read(context: Context, who: Principal, job_id: str, attempt: int, offset: int) -> LogChunk:
    with context.database.read_session() as session:
        return jobs.read_log(
            session, job_id, attempt, by=who, settings=context.settings, offset=offset, limit=FILE_PIECE_BYTES
        )


def _safe(name: str) -> str:
    if not name.replace("-", "").isalnum():
        raise NotFound(f"there is no job {name!r}")
    return name
