"""Which workers have what a job needs."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from voxelworks.jobs._tables import JobRow, WorkerSessionRow

NEEDS = (
    JobRow.workflow, JobRow.version, JobRow.organization_id, JobRow.needs_gpu, JobRow.memory_bytes, JobRow.walltime_s,
    JobRow.priority_class,
)  # fmt: skip
"""All that decides whether a worker can run a job."""

Needing = JobRow | Row[*tuple[Any, ...]]
"""A job, or what jobs need: `NEEDS`."""


def heard_since(session: Session, since_ms: int) -> list[WorkerSessionRow]:
    """Give the sessions that were heard from since then, those included that were replaced."""
    return list(session.scalars(select(WorkerSessionRow).where(WorkerSessionRow.seen_ms >= since_ms)))


def connected(session: Session, since_ms: int) -> list[WorkerSessionRow]:
    """Give the workers that were heard from since then."""
    return [worker for worker in heard_since(session, since_ms) if worker.replaced_ms is None]


def runs_it(worker: WorkerSessionRow, job: Needing) -> bool:
    """Whether a worker has the workflow of a job, and works for its organization."""
    return worker.workflows.get(job.workflow, 0) >= job.version and worker.organization_id in (
        None, job.organization_id,
    )  # fmt: skip


def could_run(worker: WorkerSessionRow, job: Needing, at_ms: int) -> bool:
    """Whether a worker has at some time all that a job needs, if it were free."""
    has_memory = (job.memory_bytes or 0) <= (worker.memory_bytes or job.memory_bytes or 0)
    return has_memory and could_run_with_memory(worker, job, at_ms)


def could_run_with_memory(worker: WorkerSessionRow, job: Needing, at_ms: int) -> bool:
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
