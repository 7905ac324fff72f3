"""How many jobs are in each state, as lists show it.

Counting takes longer the more jobs there are, and all who look at a list count the same ones. Above `MANY` of them, the
numbers are therefore kept in memory for `KEPT_S`; below, they are counted each time, and never old.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping
from weakref import WeakKeyDictionary

from sqlalchemy import ColumnElement, Connection, Engine, func, select
from sqlalchemy.orm import Session

from voxelworks.jobs._tables import JobRow
from voxelworks.protocol.messages import JobState

MANY = 10_000
KEPT_S = 2.0
_KEPT_MAX = 256

_Totals = Mapping[JobState, int]
_kept: WeakKeyDictionary[Engine | Connection, dict[Hashable, tuple[float, _Totals]]] = WeakKeyDictionary()


def totals(session: Session, matching: ColumnElement[bool], key: Hashable) -> _Totals:
    """Count the jobs in each state.

    Parameters
    ----------
    matching
        Which jobs.
    key
        The same for the same jobs, and for no others.
    """
    kept = _kept.setdefault(session.get_bind(), {})
    at_s = time.monotonic()
    counted_s, known = kept.get(key, (-KEPT_S, {}))
    if at_s - counted_s < KEPT_S:
        return known
    rows = session.execute(select(JobRow.state, func.count()).where(matching).group_by(JobRow.state))
    found: dict[JobState, int] = {state: number for state, number in rows}  # noqa: C416 - rows, not pairs
    if sum(found.values()) > MANY:
        if len(kept) >= _KEPT_MAX:
            kept.clear()
        kept[key] = at_s, found
    else:
        kept.pop(key, None)
    return found
