"""Why a queued job does not run yet, how many go before it, and which jobs nobody runs (R17)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, func, select, tuple_
from sqlalchemy.orm import Session

from voxelworks.db import now
from voxelworks.jobs._dependencies import unfinished
from voxelworks.jobs._leases import NEEDS, could_run, milliseconds
from voxelworks.jobs._order import Limits, is_queued, is_within_limits
from voxelworks.jobs._tables import JobRow, PauseRow, WorkerSessionRow
from voxelworks.protocol.views import WaitCode, WaitView
from voxelworks.settings import Settings


def wait_of(session: Session, job: JobRow, at_ms: int, settings: Settings) -> WaitView:
    """Say why a queued job waits."""
    ahead = 0 if job.lane is None else _ahead(session, job, at_ms)
    code, reason = _reason(session, job, ahead, at_ms, settings)
    return WaitView(ahead=ahead, code=code, reason=reason)


@dataclass(frozen=True)
class Stranded:
    """Jobs of a workflow that wait, and no connected worker takes them."""

    workflow: str
    count: int
    oldest_s: float
    """How long the oldest could have been given away."""
    reasons: tuple[str, ...]


def stranded(session: Session, *, waited_s: float, settings: Settings) -> tuple[Stranded, ...]:
    """Find the jobs that have waited for so long, that nobody paused, and that no connected worker takes."""
    at_ms = now(session)
    workers = _online(session, at_ms, settings)
    # Thousands may wait, and need only a few different things.
    waiting = session.execute(
        select(*NEEDS, func.count().label("number"), func.min(JobRow.available_ms).label("since_ms"))
        .where(
            is_queued(), JobRow.lane.is_not(None), JobRow.available_ms < at_ms - milliseconds(waited_s),
            JobRow.priority_class.not_in(select(PauseRow.priority_class)),
        )
        .group_by(*NEEDS)
        .order_by(*NEEDS)
    ).all()  # fmt: skip
    found: dict[str, Stranded] = {}
    for needs in waiting:
        reason = _nobody(workers, needs)
        if reason is None:
            continue
        oldest_s = (at_ms - needs.since_ms) / 1000
        known = found.get(needs.workflow, Stranded(needs.workflow, 0, 0.0, ()))
        found[needs.workflow] = Stranded(
            needs.workflow, known.count + needs.number, max(known.oldest_s, oldest_s),
            known.reasons if reason in known.reasons else (*known.reasons, reason),
        )  # fmt: skip
    return tuple(found.values())


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
    nobody = _nobody(_online(session, at_ms, settings), job)
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


def _online(session: Session, at_ms: int, settings: Settings) -> Sequence[WorkerSessionRow]:
    """Give the workers that were heard from lately."""
    return session.scalars(
        select(WorkerSessionRow).where(
            WorkerSessionRow.replaced_ms.is_(None),
            WorkerSessionRow.seen_ms >= at_ms - milliseconds(settings.silent_after_s),
        )
    ).all()


def _nobody(online: Sequence[WorkerSessionRow], job: JobRow | Row[*tuple[Any, ...]]) -> str | None:
    """Say what is missing if no connected worker could run a job, or one that needs the same: `NEEDS`."""
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


def _needs(job: JobRow | Row[*tuple[Any, ...]]) -> str:
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
