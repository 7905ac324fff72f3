"""Why a queued job does not run yet, and how many go before it (R17)."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from voxelworks.jobs._dependencies import unfinished
from voxelworks.jobs._leases import could_run
from voxelworks.jobs._order import Limits, is_queued, is_within_limits
from voxelworks.jobs._tables import JobRow, PauseRow, WorkerSessionRow
from voxelworks.protocol.views import WaitCode, WaitView
from voxelworks.settings import Settings


def wait_of(session: Session, job: JobRow, at_ms: int, settings: Settings) -> WaitView:
    """Say why a queued job waits."""
    ahead = 0 if job.lane is None else _ahead(session, job, at_ms)
    code, reason = _reason(session, job, ahead, at_ms, settings)
    return WaitView(ahead=ahead, code=code, reason=reason)


def _ahead(session: Session, job: JobRow, at_ms: int) -> int:
    """Count the jobs of its class that are given away before it.

    Other organizations take turns with its own: each goes ahead with as many jobs as its own has ahead of it, and one.
    That is exact while all run equally many.
    """
    waiting = (is_queued(), JobRow.lane.is_not(None), JobRow.available_ms <= at_ms)
    same_class = JobRow.priority_class == job.priority_class
    own = session.scalar(
        select(func.count()).select_from(JobRow).where(
            *waiting, same_class, JobRow.organization_id == job.organization_id, JobRow.id != job.id,
            tuple_(JobRow.rank_ms, JobRow.id) < (job.rank_ms, job.id),
        )
    ) or 0  # fmt: skip
    others = session.execute(
        select(JobRow.organization_id, func.count())
        .where(*waiting, same_class, JobRow.organization_id != job.organization_id)
        .group_by(JobRow.organization_id)
    )
    return own + sum(min(number, own + 1) for _, number in others)


def _reason(
    session: Session, job: JobRow, ahead: int, at_ms: int, settings: Settings
) -> tuple[WaitCode, str]:
    if job.lane is None:
        return "after", _after(unfinished(session, job))
    pause = session.get(PauseRow, job.priority_class)
    if pause is not None:
        why = f": {pause.why}" if pause.why else ""
        return "paused", f"the operator has paused the queue of {job.priority_class} jobs{why}"
    nobody = _nobody(session, job, at_ms, settings)
    if nobody is not None:
        return "nobody", nobody
    if job.available_ms > at_ms:
        return "backoff", f"the next attempt begins in {(job.available_ms - at_ms) / 1000:.0f} s"
    limited = _limited(session, job, settings)
    if limited is not None:
        return limited
    if ahead:
        return "queue", f"{ahead} {'job is' if ahead == 1 else 'jobs are'} ahead"
    return "next", "next in line: it starts as soon as a worker is free"


def _after(others: Sequence[JobRow]) -> str:
    ids = ", ".join(other.id for other in others[:3]) + (", ..." if len(others) > 3 else "")
    return f"it waits for {'job' if len(others) == 1 else f'{len(others)} jobs:'} {ids}"


def _nobody(session: Session, job: JobRow, at_ms: int, settings: Settings) -> str | None:
    """Say what is missing if no connected worker could run the job."""
    online = [
        worker
        for worker in session.scalars(select(WorkerSessionRow).where(WorkerSessionRow.replaced_ms.is_(None)))
        if at_ms - worker.seen_ms <= settings.silent_after_s * 1000
    ]
    running = [
        worker
        for worker in online
        if worker.workflows.get(job.workflow, 0) >= job.version
        and worker.organization_id in (None, job.organization_id)
    ]
    if not running:
        return f"no worker that runs {job.workflow} is connected; start one with `voxelworks worker`"
    able = [worker for worker in running if could_run(worker, job)]
    if not able:
        return f"no connected worker has what it needs: {_needs(job)}"
    if all(worker.paused_ms is not None for worker in able):
        return (
            f"every worker that runs {job.workflow} is paused after failures; the operator must look at them"
        )
    if all(worker.paused_ms is not None or worker.drained_ms is not None for worker in able):
        return f"every worker that runs {job.workflow} is about to leave; it waits for another one"
    return None


def _needs(job: JobRow) -> str:
    needs = [f"a slot for {job.priority_class} jobs"]
    if job.needs_gpu:
        needs.append("a GPU")
    if job.memory_bytes is not None:
        needs.append(f"{job.memory_bytes / 2**30:.1f} GiB of memory for one job")
    return ", ".join(needs)


def _limited(session: Session, job: JobRow, settings: Settings) -> tuple[WaitCode, str] | None:
    """Name the limit that holds the job back."""
    limits = Limits.from_settings(settings)
    alone: tuple[tuple[WaitCode, Limits, str], ...] = (
        (
            "organization",
            Limits(per_organization=limits.per_organization, of=limits.of),
            "its organization runs as many jobs as it may",
        ),
        ("user", Limits(per_user=limits.per_user), "its user runs as many jobs as one may"),
        ("workflow", Limits(per_workflow=limits.per_workflow), f"as many {job.workflow} jobs run as may"),
    )
    for code, limit, reason in alone:
        if limit == Limits():
            continue
        allowed = select(JobRow.id).where(JobRow.id == job.id, is_within_limits(JobRow, limit))
        if session.scalar(allowed) is None:
            return code, f"{reason}; it starts when one of them has ended"
    return None
