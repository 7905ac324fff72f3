"""Logs of attempts: bytes in files, their extent in the database (R22)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from sqlalchemy.orm import Session

from voxelworks.db import now
from voxelworks.errors import LeaseLost, LogGap, NotFound, StorageFailed
from voxelworks.jobs._leases import is_revivable, lock_attempt, milliseconds
from voxelworks.jobs._log_lines import Log
from voxelworks.jobs._masking import CONTEXT_BYTES, mask
from voxelworks.jobs._tables import AttemptRow, JobRow
from voxelworks.jobs._visibility import find_job
from voxelworks.protocol.people import Principal
from voxelworks.protocol.views import LogChunk
from voxelworks.settings import Settings


def append_log(
    session: Session,
    job_id: str,
    number: int,
    token: str,
    offset: int,
    data: bytes,
    *,
    settings: Settings,
    secrets: Iterable[str] = (),
) -> int:
    """Add bytes to the log of an attempt, with secrets overwritten.

    Parameters
    ----------
    offset
        Place of the first byte in the worker's log. Bytes that were received before are skipped.
    secrets
        Texts to overwrite besides those that look like secrets.

    Returns
    -------
    int
        Where to go on.

    Raises
    ------
    LogGap
        If bytes before `offset` were not received.
    LeaseLost
        If the attempt is not the worker's, or ended too long ago.
    StorageFailed
        If the log cannot be written.
    """
    job, attempt = lock_attempt(session, job_id, number, token)
    _refuse_late(job, attempt, now(session), settings)
    if offset > attempt.log_received or offset < 0:
        raise LogGap(
            f"log of attempt {number} of job {job_id}: bytes at {offset} were sent, but only {attempt.log_received} "
            "were received; go on there",
            attempt.log_received,
        )
    new = data[attempt.log_received - offset :]
    if not new:
        return attempt.log_received
    was_full = attempt.log_received >= settings.log_bytes_max
    kept = new[: max(0, settings.log_bytes_max - attempt.log_received)]
    attempt.log_received += len(new)
    if was_full:
        return attempt.log_received
    is_full = attempt.log_received > settings.log_bytes_max
    notice = _full_notice(settings) if is_full else b""
    try:
        attempt.log_stored = _write(
            log_path(settings, job_id, number), attempt.log_stored, kept, notice, secrets
        )
    except OSError as error:
        raise StorageFailed(
            f"the log of job {job_id} cannot be written ({error.strerror}); is the disk full?"
        ) from error
    return attempt.log_received


def read_log(
    session: Session,
    job_id: str,
    number: int,
    *,
    by: Principal,
    settings: Settings,
    offset: int | None = 0,
    limit: int = 65536,
) -> LogChunk:
    """Read a part of an attempt's log.

    Parameters
    ----------
    offset
        First byte to read; None for the last `limit` bytes, from the start of a line.
    limit
        Bytes to read at most; no fewer than a character has.

    Raises
    ------
    NotFound
        Also if they may not see the job.
    """
    log = find_log(session, job_id, number, by=by, settings=settings)
    size, limit = log.size, max(limit, 4)
    start = max(0, size - limit) if offset is None else min(max(0, offset), size)
    data = _read(log.path, start, min(limit, size - start))
    if offset is None and start > 0:
        skipped = data.find(b"\n") + 1
        start, data = start + skipped, data[skipped:]
    if start + len(data) < size or not log.is_complete:
        data = _without_cut_character(data)
    return LogChunk(
        offset=start, text=data.decode("utf-8", errors="replace"), next_offset=start + len(data), size=size,
        is_complete=log.is_complete,
    )  # fmt: skip


def find_log(session: Session, job_id: str, number: int, *, by: Principal, settings: Settings) -> Log:
    """Find an attempt's log. It is read after the session: a long one takes its time.

    Raises
    ------
    NotFound
        Also if they may not see the job.
    """
    find_job(session, job_id, by)
    attempt = session.get(AttemptRow, (job_id, number))
    if attempt is None:
        raise NotFound(f"job {job_id!r} has no attempt {number}")
    is_complete = attempt.ended_ms is not None and now(session) > attempt.ended_ms + milliseconds(
        settings.log_tail_s
    )
    return Log(log_path(settings, job_id, number), attempt.log_stored, is_complete)


def log_path(settings: Settings, job_id: str, number: int) -> Path:
    return settings.logs_dir / job_id / f"{number}.log"


def _refuse_late(job: JobRow, attempt: AttemptRow, at_ms: int, settings: Settings) -> None:
    if attempt.ended_ms is None or is_revivable(job, attempt):
        return
    if at_ms > attempt.ended_ms + milliseconds(settings.log_tail_s):
        raise LeaseLost(f"attempt {attempt.number} of job {job.id} has ended; its log is closed")


def _full_notice(settings: Settings) -> bytes:
    return f"\n[The log is longer than {settings.log_bytes_max} bytes. The rest is not kept.]\n".encode()


def _write(path: Path, stored: int, new: bytes, notice: bytes, secrets: Iterable[str]) -> int:
    """Write at the place that the database knows: bytes behind it are left from a transaction that was rolled back."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
        # A secret may have begun in bytes that are stored already.
        start = max(0, stored - CONTEXT_BYTES)
        file.seek(start)
        text = mask(file.read(stored - start) + new, secrets) + notice
        file.seek(start)
        file.write(text)
    return start + len(text)


def _read(path: Path, start: int, count: int) -> bytes:
    if count <= 0:
        return b""
    with path.open("rb") as file:
        file.seek(start)
        return file.read(count)


def _without_cut_character(data: bytes) -> bytes:
    """Leave out a UTF-8 character at the end whose last bytes are still to come."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte >= 0b1100_0000:
            length = 2 if byte < 0b1110_0000 else 3 if byte < 0b1111_0000 else 4
            return data[:-back] if back < length else data
        if byte < 0b1000_0000:
            break
    return data
