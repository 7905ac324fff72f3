"""Jobs that repeat each other, seen as one.

Each repeat is a job of its own, with its own charge and attempts. To WEBKNOSSOS' protocol they are one job, which
keeps the id of the first and has the state of the latest.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session, aliased

from voxelworks.errors import NotFound
from voxelworks.jobs._tables import JobRow
from voxelworks.protocol.messages import JobState
from voxelworks.protocol.views import Publication


@dataclass(frozen=True)
class Root:
    """The first of a chain of repeats."""

    job_id: str
    created_ms: int


@dataclass(frozen=True)
class Chain:
    """A job and its repeats."""

    root_id: str
    created_ms: int
    job_ids: tuple[str, ...]
    """All of them, the latest first."""


def roots_of(session: Session, job_ids: Collection[str]) -> dict[str, Root]:
    """Find the first of the repeats that each job belongs to."""
    climbing = (
        select(JobRow.id.label("job_id"), JobRow.id, JobRow.retried_from, JobRow.created_ms)
        .where(JobRow.id.in_(job_ids))
        .cte("climbing", recursive=True)
    )
    earlier = aliased(JobRow)
    climbing = climbing.union_all(
        select(climbing.c.job_id, earlier.id, earlier.retried_from, earlier.created_ms).where(
            earlier.id == climbing.c.retried_from
        )
    )
    tops = select(climbing.c.job_id, climbing.c.id, climbing.c.created_ms).where(
        climbing.c.retried_from.is_(None)
    )
    return {job_id: Root(root_id, created_ms) for job_id, root_id, created_ms in session.execute(tops)}


def chain_of(session: Session, job_id: str) -> Chain:
    """Find all repeats that a job belongs to.

    Raises
    ------
    NotFound
    """
    root = roots_of(session, [job_id]).get(job_id)
    if root is None:
        raise NotFound(f"there is no job {job_id!r}; see the list of jobs")
    chain = select(JobRow.id, JobRow.created_ms).where(JobRow.id == root.job_id).cte("chain", recursive=True)
    later = aliased(JobRow)
    chain = chain.union_all(select(later.id, later.created_ms).where(later.retried_from == chain.c.id))
    newest_first = select(chain.c.id).order_by(chain.c.created_ms.desc(), chain.c.id.desc())
    return Chain(root.job_id, root.created_ms, tuple(session.scalars(newest_first)))


def places_of(session: Session, job_ids: Collection[str]) -> dict[str, dict[str, str]]:
    """Give the place of every reference in the params of jobs, by id."""
    rows = session.execute(select(JobRow.id, JobRow.places).where(JobRow.id.in_(job_ids)))
    return {job_id: places for job_id, places in rows}  # noqa: C416 - rows, not pairs


def count_states(session: Session, organization_id: str) -> dict[tuple[JobState, Publication, bool], int]:
    """Count the jobs of an organization by state, publication and whether they began; of repeats only the latest."""
    later = aliased(JobRow)
    has_started = JobRow.started_ms.is_not(None)
    rows = session.execute(
        select(JobRow.state, JobRow.publication, has_started, func.count())
        .where(JobRow.organization_id == organization_id, ~exists().where(later.retried_from == JobRow.id))
        .group_by(JobRow.state, JobRow.publication, has_started)
    )
    return {(state, publication, bool(began)): number for state, publication, began, number in rows}
