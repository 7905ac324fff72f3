"""Jobs as a table for spreadsheets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from voxelworks.csv_lines import csv_line, harmless, iso_time
from voxelworks.protocol.credits import in_credits
from voxelworks.protocol.views import JobView
from voxelworks.server.rendering import worked_s
from voxelworks.server.subjects import subject

HEAD = (
    "job", "workflow", "dataset", "owner", "organization", "state", "submitted", "started", "ended", "seconds",
    "attempts", "credits", "returned", "priority", "group", "failure", "reason",
)  # fmt: skip


def job_lines(jobs: Iterable[JobView]) -> Iterator[str]:
    """Write jobs as the lines of a CSV file, while they are read. Times are in UTC; what is not known yet is empty."""
    yield csv_line(HEAD)
    for job in jobs:
        yield csv_line(_cells(job))


def _cells(job: JobView) -> tuple[str, ...]:
    worked = worked_s(job)
    return (
        job.id, job.workflow, harmless(subject(job.workflow, job.params)), harmless(job.owner),
        harmless(job.organization_id), job.state, iso_time(job.created_ms), _time(job.started_ms),
        _time(job.ended_ms), "" if worked is None else f"{worked:.3f}", str(job.attempt),
        _credits(job.charge_millicredits), _credits(job.refunded_millicredits), str(job.priority),
        harmless(job.group or ""), job.failure_class or "", harmless(job.publish_error or job.message or ""),
    )  # fmt: skip


def _time(at_ms: int | None) -> str:
    return "" if at_ms is None else iso_time(at_ms)


def _credits(amount: int | None) -> str:
    return "" if amount is None else in_credits(amount)
