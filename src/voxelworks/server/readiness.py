"""Whether the server can do its work: what a load balancer and an operator want to know."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from voxelworks import jobs
from voxelworks.db import is_up_to_date
from voxelworks.errors import StorageFailed
from voxelworks.protocol.messages import Message
from voxelworks.server.context import Context


class Check(Message):
    """What was looked at, and what was found. Open to everybody, so it names no paths."""

    name: Literal["database", "tables", "disk", "workers"]
    state: Literal["ok", "warning", "failed"]
    text: str


def examine(context: Context) -> tuple[Check, ...]:
    """Look at everything that the server needs."""
    return (*_database(context), _disk(context))


def _database(context: Context) -> Iterator[Check]:
    try:
        with context.database.read_session() as session:
            up_to_date = is_up_to_date(session.connection())
            workers = jobs.list_workers(session, settings=context.settings) if up_to_date else ()
    except StorageFailed:
        yield Check(name="database", state="failed", text="the database does not answer")
        return
    yield Check(name="database", state="ok", text="answers")
    if not up_to_date:
        yield Check(name="tables", state="failed", text="made by another version of the program")
        return
    yield Check(name="tables", state="ok", text="up to date")
    count = sum(worker.is_online for worker in workers)
    # Not a failure: workers come through the server, which must be reached for that.
    yield Check(
        name="workers", state="ok" if count else "warning", text=f"{count or 'none'} heard from lately"
    )


def _disk(context: Context) -> Check:
    short = [what for what, free in free_bytes(context) if free < context.settings.free_bytes_min]
    if short:
        return Check(name="disk", state="failed", text=f"too little space left for {' and '.join(short)}")
    return Check(name="disk", state="ok", text="enough space")


def free_bytes(context: Context) -> Iterator[tuple[str, int]]:
    """Yield what each folder of the server is for, and how much space is left on its disk, in bytes."""
    for what, folder in (
        ("the home", context.settings.home),
        ("the datasets", context.settings.datasets_dir),
    ):
        yield what, shutil.disk_usage(_existing(folder)).free


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
