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

from sqlalchemy import update
from sqlalchemy.orm import Session

from voxelworks.errors import IllegalTransition
from voxelworks.jobs._tables import EventRow, JobRow
from voxelworks.protocol.messages import JobState

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
    moved = session.scalar(
        update(JobRow)
        .where(JobRow.id == job.id, JobRow.state == seen, JobRow.attempt == attempt)
        .values(state=to, updated_ms=at_ms, **changes)
        .returning(JobRow),
        execution_options={"populate_existing": True, "synchronize_session": False},
    )
    if moved is None:
        raise IllegalTransition(
            f"job {job.id} has changed meanwhile and is no longer {seen}; look at it again"
        )
    note(session, job, at_ms=at_ms, who=who, why=why, from_state=seen)


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
