"""How often something may be tried, counted in the database: a restart does not help who guesses."""

from __future__ import annotations

import math

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from voxelworks.accounts._tables import ThrottleRow
from voxelworks.db import insert_into, now
from voxelworks.errors import TooManyRequests


def throttle(session: Session, key: str, *, limit: int, per_s: float) -> None:
    """Count a try.

    A bucket that holds `limit` tries and empties evenly: at most that many at once, and that many more in every
    `per_s`. Call it in a transaction of its own if the try may fail, or the failure takes the count back.

    Parameters
    ----------
    key
        What is counted, such as `login address 192.0.2.7`.
    limit
        Tries.
    per_s
        Seconds.

    Raises
    ------
    TooManyRequests
        Saying when the next try is taken. The refused one is not counted.
    """
    session.execute(insert_into(session, ThrottleRow).values(key=key, empty_ms=0).on_conflict_do_nothing())
    bucket = session.scalars(
        select(ThrottleRow)
        .where(ThrottleRow.key == key)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one()
    at_ms = now(session)
    one_ms = per_s * 1000 / limit
    empty_ms = max(bucket.empty_ms, at_ms) + math.ceil(one_ms)
    too_full_ms = empty_ms - at_ms - math.ceil(one_ms) * limit
    if too_full_ms > 0:
        raise TooManyRequests(
            f"too many tries; wait {_in_words(too_full_ms / 1000)}", retry_after_s=too_full_ms / 1000
        )
    bucket.empty_ms = empty_ms
    session.flush()


def forget_tries(session: Session, key: str) -> None:
    session.execute(delete(ThrottleRow).where(ThrottleRow.key == key))


def _in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{math.ceil(seconds / 60)} min"
