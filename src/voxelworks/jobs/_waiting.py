"""Why queued jobs do not run yet, how many go before each, and which ones nobody runs (R17)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Row, case, func, select, tuple_
from sqlalchemy.orm import Session

from voxelworks.db import among, now, texts
from voxelworks.jobs._dependencies import unfinished_of
from voxelworks.jobs._leases import milliseconds
from voxelworks.jobs._matching import NEEDS, Having, connected, could_run, needs_in_words, needs_of, runs_it
from voxelworks.jobs._order import Limits, is_queued, is_within_limits
from voxelworks.jobs._tables import JobRow, PauseRow
from voxelworks.protocol.messages import PriorityClass
from voxelworks.protocol.views import WaitCode, WaitView
from voxelworks.settings import Settings

Waiting = JobRow | Row[*tuple[Any, ...]]
"""A queued job, or a row with those columns of it that this module reads."""

COUNTED_MAX = 1000
"""Most queued jobs among which is counted who goes before whom, but for the one whose page is looked at: each count
takes longer the more there are."""


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
    workers = connected(session, at_ms - milliseconds(settings.silent_after_s))
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
        reason = _nobody(workers, needs, at_ms)
        if reason is None:
            continue
        oldest_s = (at_ms - needs.since_ms) / 1000
        known = found.get(needs.workflow, Stranded(needs.workflow, 0, 0.0, ()))
        found[needs.workflow] = Stranded(
            needs.workflow, known.count + needs.number, max(known.oldest_s, oldest_s),
            known.reasons if reason in known.reasons else (*known.reasons, reason),
        )  # fmt: skip
    return tuple(found.values())


def waits_of(
    session: Session,
    jobs: Sequence[Waiting],
    at_ms: int,
    settings: Settings,
    *,
    counted_max: int | None,
) -> dict[str, WaitView]:
    """Say why queued jobs wait: by id, with as many statements for a page of them as for one.

    Parameters
    ----------
    counted_max
        Leave their places out if more jobs than this are queued.
    """
    if not jobs:
        return {}
    lined_up = [job for job in jobs if job.lane is not None]
    is_counted = counted_max is None or not _are_more_than(session, counted_max)
    ahead = _ahead(session, lined_up, at_ms) if is_counted else {}
    reasons = _Reasons(
        at_ms=at_ms,
        unfinished=unfinished_of(session, [job.id for job in jobs if job.lane is None]),
        pauses={pause.priority_class: pause for pause in session.scalars(select(PauseRow))},
        workers=connected(session, at_ms - milliseconds(settings.silent_after_s)),
        limited=_limited(session, lined_up, settings),
    )
    waits = {}
    for job in jobs:
        number = ahead.get(job.id) if job.lane is not None else 0
        code, reason = reasons.of(job, number)
        waits[job.id] = WaitView(ahead=number, code=code, reason=reason)
    return waits


def _are_more_than(session: Session, number: int) -> bool:
    some = select(JobRow.lane).where(is_queued(), JobRow.lane.is_not(None)).limit(number + 1).subquery()
    return (session.scalar(select(func.count()).select_from(some)) or 0) > number


def _ahead(session: Session, jobs: Sequence[Waiting], at_ms: int) -> dict[str, int]:
    """Count the jobs of the class of each that are given away before it.

    Other organizations take turns with its own: each goes ahead with as many jobs as its own has ahead of it, and one.
    That is exact while all run equally many.
    """
    if not jobs:
        return {}
    is_ready = JobRow.available_ms <= at_ms
    own_ahead = _own_ahead(session, jobs, is_ready)
    lengths: dict[str, dict[str, int]] = defaultdict(dict)
    for organization_id, priority_class, number in session.execute(
        select(JobRow.organization_id, JobRow.priority_class, func.count())
        .where(is_queued(), JobRow.lane.is_not(None), is_ready)
        .group_by(JobRow.organization_id, JobRow.priority_class)
    ):
        lengths[priority_class][organization_id] = number
    return {
        job.id: own_ahead[job.id]
        + sum(
            min(number, own_ahead[job.id] + 1)
            for organization_id, number in lengths[job.priority_class].items()
            if organization_id != job.organization_id
        )
        for job in jobs
    }


def _own_ahead(session: Session, jobs: Sequence[Waiting], is_ready: ColumnElement[bool]) -> dict[str, int]:
    """Count those ahead of each that are of its own organization."""
    waiting = (is_queued(), JobRow.lane.is_not(None))
    if len(jobs) == 1:  # to sort them would take longer than to count them
        (job,) = jobs
        before = (
            JobRow.organization_id == job.organization_id, JobRow.priority_class == job.priority_class,
            tuple_(JobRow.rank_ms, JobRow.id) < (job.rank_ms, job.id),
        )  # fmt: skip
        counted = select(func.count()).select_from(JobRow).where(*waiting, is_ready, *before)
        return {job.id: session.scalar(counted) or 0}
    queues = {(job.organization_id, job.priority_class) for job in jobs}
    line = (
        select(
            JobRow.id,
            func.sum(case((is_ready, 1), else_=0))
            .over(
                partition_by=(JobRow.organization_id, JobRow.priority_class),
                order_by=(JobRow.rank_ms, JobRow.id),
                rows=(None, -1),
            )
            .label("number"),
        )
        .where(*waiting, tuple_(JobRow.organization_id, JobRow.priority_class).in_(sorted(queues)))
        .subquery()
    )
    counted_all = session.execute(
        select(line.c.id, line.c.number).where(among(line.c.id, texts("job_ids"))),
        {"job_ids": [job.id for job in jobs]},
    )
    return {job_id: number or 0 for job_id, number in counted_all}


@dataclass(frozen=True)
class _Reasons:
    """What holds jobs back now."""

    at_ms: int
    unfinished: Mapping[str, Sequence[str]]
    """Job -> those that it waits for."""
    pauses: Mapping[PriorityClass, PauseRow]
    workers: Sequence[Having]
    """Those that are connected."""
    limited: Mapping[str, tuple[WaitCode, str]]
    """Job -> the limit that is reached."""
    _nobody: dict[tuple[Any, ...], str | None] = field(default_factory=dict)

    def of(self, job: Waiting, ahead: int | None) -> tuple[WaitCode, str]:
        if job.lane is None:
            return "after", _after(self.unfinished.get(job.id, ()))
        pause = self.pauses.get(job.priority_class)
        if pause is not None:
            why = f": {pause.why}" if pause.why else ""
            return "paused", f"the operator has paused the queue of {job.priority_class} jobs{why}"
        needs = needs_of(job)
        if needs not in self._nobody:
            self._nobody[needs] = _nobody(self.workers, job, self.at_ms)
        nobody = self._nobody[needs]
        if nobody is not None:
            return "nobody", nobody
        if job.available_ms > self.at_ms:
            return "backoff", f"the next attempt begins in {(job.available_ms - self.at_ms) / 1000:.0f} s"
        if job.id in self.limited:
            return self.limited[job.id]
        if ahead is None:
            return "queue", f"more than {COUNTED_MAX:,} jobs wait for workers"
        if ahead:
            return "queue", f"{ahead} {'job is' if ahead == 1 else 'jobs are'} ahead"
        return "next", "next in line: it starts as soon as a worker is free"


def _nobody(workers: Sequence[Having], job: Waiting, at_ms: int) -> str | None:
    """Say what is missing if no connected worker could run a job, or one that needs the same: `NEEDS`."""
    running = [worker for worker in workers if runs_it(worker, job)]
    if not running:
        return f"no worker that runs {job.workflow} is connected; start one with `voxelworks worker`"
    able = [worker for worker in running if could_run(worker, job, at_ms)]
    if not able:
        needs = ", ".join([f"a slot for {job.priority_class} jobs", *needs_in_words(job)])
        return f"no connected worker has what it needs: {needs}"
    if all(worker.paused_ms is not None for worker in able):
        return (
            f"every worker that runs {job.workflow} is paused after failures; the operator must look at them"
        )
    if all(worker.paused_ms is not None or worker.drained_ms is not None for worker in able):
        return f"every worker that runs {job.workflow} is about to leave; it waits for another one"
    return None


def _after(ids: Sequence[str]) -> str:
    named = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
    return f"it waits for {'job' if len(ids) == 1 else f'{len(ids)} jobs:'} {named}"


def _limited(
    session: Session, jobs: Sequence[Waiting], settings: Settings
) -> dict[str, tuple[WaitCode, str]]:
    """Name the limit that holds each job back, if one does."""
    limits = Limits.from_settings(settings)
    alone: tuple[tuple[WaitCode, Limits, str], ...] = (
        ("workflow", Limits(per_workflow=limits.per_workflow), "as many {workflow} jobs run as may"),
        ("user", Limits(per_user=limits.per_user), "its user runs as many jobs as one may"),
        (
            "organization",
            Limits(per_organization=limits.per_organization, of=limits.of),
            "its organization runs as many jobs as it may",
        ),
    )
    workflow_of = {job.id: job.workflow for job in jobs}
    found: dict[str, tuple[WaitCode, str]] = {}
    for code, limit, reason in alone:
        if limit == Limits() or not jobs:
            continue
        held_back = select(JobRow.id).where(
            among(JobRow.id, texts("job_ids")), ~is_within_limits(JobRow, limit)
        )
        for job_id in session.scalars(held_back, {"job_ids": [*workflow_of]}):
            named = reason.format(workflow=workflow_of[job_id])
            found[job_id] = (code, f"{named}; it starts when one of them has ended")
    return found
