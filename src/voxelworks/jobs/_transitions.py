"""The life of a job: every legal change of state, and the one statement that makes it (R1).

::

    queued ──> claimed ──> running ──> succeeded
      │  ^         │  │       │  │
      │  └─────────┴──│───────┤  └───> failed
      │   lost, retry │       │           ^
      │               └───────│───────────┘ (also from claimed)
      │                       v
      └──> cancelled <── cancelling ──> succeeded (sealed before the cancel)

A queued job also goes straight back to running when the worker that lost it is heard from again before anyone else
has claimed it, and fails when nobody can run it: no worker for too long, or an input that is not what it waited for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from sqlalchemy import bindparam, inspect, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningUpdate

from voxelworks.errors import IllegalTransition
from voxelworks.jobs._tables import EventRow, JobRow
from voxelworks.protocol.messages import JobState

_NEW = "new_"
"""Before the name of a column: the parameter with its new value."""

LEGAL: Mapping[JobState, frozenset[JobState]] = {
    "queued": frozenset({"claimed", "running", "failed", "cancelled"}),
    "claimed": frozenset({"running", "queued", "cancelling", "failed"}),
    "running": frozenset({"succeeded", "failed", "queued", "cancelling"}),
    "cancelling": frozenset({"cancelled", "succeeded"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}


def move(
    session: Session, job: JobRow, to: JobState, *, at_ms: int, who: str, why: str, **changes: object
) -> None:
    """Change the state of a job, with other columns, and note it as an event.

    The statement names the state and attempt that the caller has seen: if another transaction was faster, nothing
    happens and the caller's transaction ends with the error.

    Raises
    ------
    IllegalTransition
    """
    seen, attempt = job.state, job.attempt
    if to not in LEGAL[seen]:
        raise IllegalTransition(f"job {job.id} is {seen}; it cannot become {to}")
    values = {"state": to, "updated_ms": at_ms, **changes}
    moved = session.scalar(
        _moving(tuple(values)),
        {"job_id": job.id, "seen": seen, "seen_attempt": attempt}
        | {_NEW + name: value for name, value in values.items()},
        execution_options={"populate_existing": True, "synchronize_session": False},
    )
    if moved is None:
        raise IllegalTransition(
            f"job {job.id} has changed meanwhile and is no longer {seen}; look at it again"
        )
    note(session, job, at_ms=at_ms, who=who, why=why, from_state=seen)


@lru_cache
def _moving(names: tuple[str, ...]) -> ReturningUpdate[tuple[JobRow]]:
    """Make the statement that sets these columns: there are few combinations, and each runs often."""
    columns = inspect(JobRow).columns
    return (
        update(JobRow)
        .where(
            JobRow.id == bindparam("job_id"), JobRow.state == bindparam("seen"),
            JobRow.attempt == bindparam("seen_attempt"),
        )
        .values({name: bindparam(_NEW + name, type_=columns[name].type) for name in names})
        .returning(JobRow)
    )  # fmt: skip


def note(
    session: Session, job: JobRow, *, at_ms: int, who: str, why: str, from_state: JobState | None
) -> None:
    """Add an event that ends in the job's present state."""
    session.add(
        EventRow(
            job_id=job.id, at_ms=at_ms, who=who, attempt=job.attempt or None,
            from_state=from_state, to_state=job.state, why=why,
        )
    )  # fmt: skip
