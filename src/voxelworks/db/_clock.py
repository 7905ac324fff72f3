"""The one clock: that of the database."""

from __future__ import annotations

from time import monotonic
from typing import Any

from sqlalchemy import BigInteger, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class now_ms(FunctionElement[int]):  # noqa: N801 - an SQL function, written like those of sqlalchemy.func
    """Milliseconds since 1970 in UTC, by the clock of the database."""

    type = BigInteger()
    inherit_cache = True


@compiles(now_ms, "sqlite")
def _now_in_sqlite(_element: now_ms, _compiler: SQLCompiler, **_options: Any) -> str:
    # 2440587.5 is the Julian day of 1970. A double resolves 0.04 ms there.
    return "CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"


@compiles(now_ms, "postgresql")
def _now_in_postgresql(_element: now_ms, _compiler: SQLCompiler, **_options: Any) -> str:
    # Not now(), which is the start of the transaction: it may have waited for a lock since.
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"


_ASKING = select(now_ms())
_ASKED = "voxelworks.db.asked"


def now(session: Session) -> int:
    """Give the time, in milliseconds since 1970 in UTC, by the clock of the database.

    It is asked once in each session; from there on the time that passes here is added. So it may be behind by as long
    as its answer took to be heard, never ahead.
    """
    if _ASKED not in session.info:
        at_ms: int = session.execute(_ASKING).scalar_one()
        session.info[_ASKED] = at_ms, monotonic()
        return at_ms
    asked_ms, asked_s = session.info[_ASKED]
    return int(asked_ms + (monotonic() - asked_s) * 1000)
