"""Tells open pages that something changed, with one cheap question to the database for all of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.concurrency import run_in_threadpool

from voxelworks import jobs
from voxelworks.db import Database
from voxelworks.server.sse import PING_S, wait_any

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
"""How often the database is asked whether anything changed, while a page is open; in seconds."""


class Live:
    """The pulse of one server process.

    Other processes may change the same database, so it is the database that is asked, and only while somebody looks.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._changed = asyncio.Event()
        self._watchers = 0
        self._task: asyncio.Task[None] | None = None
        self.closing = asyncio.Event()
        """Set when the server stops: every stream ends then."""

    async def pulse(self, *, at_least_every_s: float = PING_S) -> AsyncIterator[bool]:
        """Yield True at once and after every change, False after a while without one; end when the server stops."""
        async with self._watching():
            changed = self._changed
            yield True
            while not self.closing.is_set():
                happened = await wait_any(changed, self.closing, timeout_s=at_least_every_s)
                if self.closing.is_set():
                    return
                changed = self._changed if happened else changed
                yield happened

    @asynccontextmanager
    async def _watching(self) -> AsyncIterator[None]:
        self._watchers += 1
        if self._task is None:
            self._task = asyncio.create_task(self._look())
        try:
            yield
        finally:
            self._watchers -= 1

    async def _look(self) -> None:
        """Look for changes until nobody watches any more."""
        seen: str | None = None
        try:
            while self._watchers and not self.closing.is_set():
                revision = await run_in_threadpool(self._revision)
                if revision is not None and revision != seen:
                    # The first look counts as a change: something may have happened since the page was made.
                    self._announce()
                    seen = revision
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.closing.wait(), LOOK_EVERY_S)
        finally:
            self._task = None

    def _announce(self) -> None:
        # Each change has its own event: whoever waited for the old one goes on with the next.
        self._changed.set()
        self._changed = asyncio.Event()

    def _revision(self) -> str | None:
        try:
            with self._database.read_session() as session:
                return jobs.revision(session)
        except Exception:
            # The database may be away for a moment; the pages show their last state meanwhile.
            log.warning("cannot look for changes", exc_info=True)
            return None
