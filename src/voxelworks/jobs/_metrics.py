"""What an operator watches: depths and counts (R25)."""

from __future__ import annotations

from sqlalchemy import Text, cast, func, select
from sqlalchemy.orm import Session

from voxelworks.db import now
from voxelworks.jobs._counts import counted
from voxelworks.jobs._order import is_held, is_queued
from voxelworks.jobs._tables import JobRow
from voxelworks.protocol.messages import PriorityClass
from voxelworks.protocol.places import upload_parts
from voxelworks.protocol.uploads import UPLOAD_REF
from voxelworks.protocol.views import QueueDepth, QueueMetrics


def metrics(session: Session) -> QueueMetrics:
    """Measure the queue."""
    at_ms = now(session)
    running = _held(session)
    queued = {
        (workflow, priority_class): (number, oldest_ms)
        for workflow, priority_class, number, oldest_ms in session.execute(
            select(JobRow.workflow, JobRow.priority_class, func.count(), func.min(JobRow.available_ms))
            .where(is_queued())
            .group_by(JobRow.workflow, JobRow.priority_class)
        )
    }
    depths = tuple(
        QueueDepth(
            workflow=workflow, priority_class=priority_class, queued=queued.get((workflow, priority_class), (0, 0))[0],
            running=running.get((workflow, priority_class), 0),
            oldest_s=max(0, at_ms - queued[workflow, priority_class][1]) / 1000
            if (workflow, priority_class) in queued
            else None,
        )
        for workflow, priority_class in sorted(queued.keys() | running.keys())
    )  # fmt: skip
    counts = counted(session)
    return QueueMetrics(
        depths=depths,
        unpublished=session.scalar(
            select(func.count()).select_from(JobRow).where(JobRow.publication == "pending")
        )
        or 0,
        claims=counts.get("claims", 0), late_renewals=counts.get("late_renewals", 0),
        lost_leases=counts.get("lost_leases", 0), reaper_actions=counts.get("reaper_actions", 0),
        refunds=counts.get("refunds", 0), refunded_millicredits=counts.get("refunded_millicredits", 0),
    )  # fmt: skip


def work_keys_in_use(session: Session) -> frozenset[str]:
    """Give the names of the folders of attempts that somebody still works in, or will clear up."""
    is_over = JobRow.ended_ms.is_not(None) & (JobRow.publication != "pending") & JobRow.cleanup_ms.is_(None)
    return frozenset(session.scalars(select(JobRow.id).where(~is_over)))


def uploads_in_use(session: Session) -> frozenset[str]:
    """Give the ids of the uploads that jobs name which have not ended, or whose result is not published yet."""
    is_open = JobRow.ended_ms.is_(None) | (JobRow.publication == "pending")
    names_upload = cast(JobRow.places, Text).contains(f'"{UPLOAD_REF}')
    return frozenset(
        upload_parts(place)[1]
        for places in session.scalars(select(JobRow.places).where(is_open, names_upload))
        for place in places.values()
        if place.startswith(UPLOAD_REF)
    )


def _held(session: Session) -> dict[tuple[str, PriorityClass], int]:
    rows = session.execute(
        select(JobRow.workflow, JobRow.priority_class, func.count())
        .where(is_held())
        .group_by(JobRow.workflow, JobRow.priority_class)
    )
    return {(workflow, priority_class): number for workflow, priority_class, number in rows}
