"""Which workers have what a job needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, bindparam, select
from sqlalchemy.orm import Session

from voxelworks.jobs._tables import JobRow, WorkerSessionRow

NEEDS = (
    JobRow.workflow, JobRow.version, JobRow.organization_id, JobRow.needs_gpu, JobRow.memory_bytes, JobRow.walltime_s,
    JobRow.priority_class,
)  # fmt: skip
"""All that decides whether a worker can run a job."""

Needing = JobRow | Row[*tuple[Any, ...]]
"""A job, or what jobs need: `NEEDS`."""


Having = Row[*tuple[Any, ...]]
"""What is looked at of a worker's session: lists of jobs ask for hundreds of them."""

_HEARD_SINCE = select(
    WorkerSessionRow.workflows, WorkerSessionRow.organization_id, WorkerSessionRow.gpus, WorkerSessionRow.memory_bytes,
    WorkerSessionRow.slots, WorkerSessionRow.opened_ms, WorkerSessionRow.leaves_ms, WorkerSessionRow.paused_ms,
    WorkerSessionRow.drained_ms,
).where(WorkerSessionRow.seen_ms >= bindparam("since_ms"))  # fmt: skip
_CONNECTED = _HEARD_SINCE.where(WorkerSessionRow.replaced_ms.is_(None))


def heard_since(session: Session, since_ms: int) -> Sequence[Having]:
    """Give the sessions that were heard from since then, those included that were replaced."""
    return session.execute(_HEARD_SINCE, {"since_ms": since_ms}).all()


def connected(session: Session, since_ms: int) -> Sequence[Having]:
    """Give the workers that were heard from since then."""
    return session.execute(_CONNECTED, {"since_ms": since_ms}).all()


def needs_of(job: Needing) -> tuple[Any, ...]:
    """Give what decides whether a worker can run a job; of thousands of jobs there are only a few."""
    return tuple(getattr(job, column.key) for column in NEEDS)


def runs_it(worker: Having, job: Needing) -> bool:
    """Whether a worker has the workflow of a job, and works for its organization."""
    return worker.workflows.get(job.workflow, 0) >= job.version and worker.organization_id in (
        None, job.organization_id,
    )  # fmt: skip


def could_run(worker: Having, job: Needing, at_ms: int) -> bool:
    """Whether a worker has at some time all that a job needs, if it were free."""
    has_memory = (job.memory_bytes or 0) <= (worker.memory_bytes or job.memory_bytes or 0)
    return has_memory and could_run_with_memory(worker, job, at_ms)


def could_run_with_memory(worker: Having, job: Needing, at_ms: int) -> bool:
    """Whether a worker has all but perhaps the memory that a job needs."""
    return (
        runs_it(worker, job)
        and (worker.gpus > 0 or not job.needs_gpu)
        and (
            job.walltime_s is None
            or worker.leaves_ms is None
            or job.walltime_s * 1000 <= worker.leaves_ms - at_ms
        )
        and worker.slots.get(job.priority_class, 0) > 0
    )


def needs_in_words(job: Needing) -> list[str]:
    """Say what a job needs besides a worker that runs its workflow."""
    needs = []
    if job.needs_gpu:
        needs.append("a GPU")
    if job.memory_bytes is not None:
        needs.append(f"{job.memory_bytes / 2**30:.1f} GiB of memory for one job")
    if job.walltime_s is not None:
        needs.append(f"{in_words(job.walltime_s)} before it must leave")
    return needs


def in_words(seconds: float) -> str:
    """Write a long duration: `3 days`, `5 hours`, `30 s`."""
    if seconds >= 2 * 86_400:
        return f"{seconds / 86_400:.0f} days"
    return f"{seconds / 3600:.0f} hours" if seconds >= 2 * 3600 else f"{seconds:.0f} s"
