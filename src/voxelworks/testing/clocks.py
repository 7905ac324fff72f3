"""Another time for tests: the clock of the database itself is moved, for every statement that asks for it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from unittest.mock import patch

from sqlalchemy import event

from voxelworks.db import Database, _clock, now_ms


class MovedClock:
    """A clock that stands where it was set until it is set again.

    The real one counts again at the end of `moved_clock`. Each process has its own: one made before a fork goes on in
    the child, and may be set there.
    """

    def __init__(self, at_ms: int) -> None:
        self.at_ms = at_ms

    def set(self, at: datetime | int) -> None:
        """Set the clock to a date with a zone, or to milliseconds since 1970 in UTC."""
        self.at_ms = at if isinstance(at, int) else round(at.timestamp() * 1000)

    def advance(self, *, seconds: float = 0.0, days: float = 0.0) -> None:
        """Let time pass; negative values turn the clock back."""
        self.at_ms += round((seconds + 86_400 * days) * 1000)


@contextmanager
def moved_clock(database: Database, at: datetime | int = 0) -> Iterator[MovedClock]:
    """Let the clock of a database stand at an instant, for as long as the block runs."""
    clock = MovedClock(0)
    clock.set(at)
    asked = re.compile(re.escape(str(now_ms().compile(dialect=database.engine.dialect))))

    def tell(
        _connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
    ) -> tuple[str, Any]:
        return asked.sub(f"CAST({clock.at_ms} AS BIGINT)", statement), parameters

    event.listen(database.engine, "before_cursor_execute", tell, retval=True)
    try:
        # Also within a session, which asks the database once.
        with patch.object(_clock, "monotonic", lambda: clock.at_ms / 1000):
            yield clock
    finally:
        event.remove(database.engine, "before_cursor_execute", tell)
