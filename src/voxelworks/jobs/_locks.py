"""In which order everybody locks rows, so that no two transactions wait for each other.

1. idempotency key;
2. sessions of workers;
3. jobs, from older to younger ones (`created_ms`, then `id`), each with its attempt. A job is younger than all that it
   waits for. Whoever may end jobs locks them together with all that wait for them, before anything is charged;
4. leases of datasets, and the catalog;
5. the ledger: organizations by id, then grants by id;
6. counts, when the transaction is committed.

Rows that are locked with `SKIP LOCKED` need no order: nobody waits for them.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from voxelworks.db import among, texts
from voxelworks.jobs._tables import DependencyRow, JobRow

_FINDING_WAITING = (
    select(DependencyRow.job_id)
    .join(JobRow, JobRow.id == DependencyRow.job_id)
    .where(among(DependencyRow.after_id, texts("after_ids")), JobRow.state == "queued")
)


def lock_jobs(session: Session, *which: ColumnElement[bool]) -> list[JobRow]:
    """Lock jobs, oldest first, and give them as they are now."""
    rows = session.scalars(
        select(JobRow).where(*which).order_by(JobRow.created_ms, JobRow.id).with_for_update(),
        execution_options={"populate_existing": True},
    )
    return list(rows)


def lock_with_waiting(session: Session, job_ids: Collection[str]) -> list[JobRow]:
    """Lock jobs and all that wait for them, those that wait for these too, and give them oldest first."""
    wanted = _with_waiting(session, set(job_ids))
    while True:
        rows = lock_jobs(session, JobRow.id.in_(wanted))
        # Another may have been submitted that waits for one of them, until its row was locked.
        later = _with_waiting(session, wanted)
        if later == wanted:
            return rows
        wanted = later


def waiting_ids(session: Session, job_ids: Collection[str]) -> set[str]:
    """Give the queued jobs that wait for one of these."""
    return set(session.scalars(_FINDING_WAITING, {"after_ids": sorted(job_ids)}))


def _with_waiting(session: Session, job_ids: set[str]) -> set[str]:
    found, newest = job_ids, job_ids
    while newest:
        newest = waiting_ids(session, newest) - found
        found = found | newest
    return found
