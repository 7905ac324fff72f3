"""How often things happen to the queue, for its metrics (R25)."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Literal

from sqlalchemy import bindparam, event, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from voxelworks.db import dialect_of, insert_into
from voxelworks.jobs._tables import CountRow

Counted = Literal[
    "claims", "late_renewals", "lost_leases", "reaper_actions", "refunds", "refunded_millicredits"
]

_PENDING = "voxelworks.jobs.counts"


def count(session: Session, name: Counted, amount: int = 1) -> None:
    """Count something that this transaction does, if it is committed.

    The rows are written last of all, in one order: whoever holds one of them asks for no other lock.
    """
    if _PENDING not in session.info:
        session.info[_PENDING] = Counter()
        event.listen(session, "before_commit", _write)
    session.info[_PENDING][name] += amount


def counted(session: Session) -> dict[str, int]:
    return {name: value for name, value in session.execute(select(CountRow.name, CountRow.value))}  # noqa: C416 - rows, not pairs


def _write(session: Session) -> None:
    pending: Counter[str] = session.info[_PENDING]
    for name, amount in sorted(pending.items()):
        session.execute(_adding(dialect_of(session)), {"counted": name, "amount": amount})
    pending.clear()


@cache
def _adding(dialect: str) -> postgresql.Insert | sqlite.Insert:
    amount = bindparam("amount", type_=CountRow.value.type)
    return (
        insert_into(dialect, CountRow)
        .values(name=bindparam("counted"), value=amount)
        .on_conflict_do_update(index_elements=[CountRow.name], set_={"value": CountRow.value + amount})
    )
