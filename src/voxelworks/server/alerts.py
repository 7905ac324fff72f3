"""Telling the operator of trouble, once per kind of trouble and cool-down."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy.orm import Session

from voxelworks import jobs, notify
from voxelworks.db import now
from voxelworks.protocol.views import FailureGroup
from voxelworks.server.context import Context
from voxelworks.server.readiness import free_bytes

LOOK_BACK_S = 3600.0
"""Failures that lie further back were told before, or the server was not there to see them."""
WAIT_MAX_S = 600.0
"""Jobs that wait for longer, and that no worker to be heard takes, need somebody."""
ERRORS_MAX = 5
"""More different program errors of one code are told as one: only their messages may differ, and not what broke."""
MAILS_LOOK_BACK_S = 24 * 3600.0


@dataclass(frozen=True)
class Trouble:
    """Something that an operator should know."""

    condition: str
    """Tells it from other trouble: each is told at most once within the cool-down."""
    title: str
    text: str
    path: str | None = None
    """Page that shows it."""


def look(context: Context) -> int:
    """Look for trouble and tell the operator; give how much of it was told now."""
    with context.database.read_session() as session:
        found = [*_program_errors(session), *_workers(session, context), *_mails(session)]
    found += _disks(context)
    if not found:
        return 0
    with context.database.session() as session:
        return sum(
            notify.alert(
                session, settings=context.settings, condition=trouble.condition, title=trouble.title,
                text=trouble.text, path=trouble.path, cool_down_s=context.settings.alert_again_s,
            )
            for trouble in found
        )  # fmt: skip


def _program_errors(session: Session) -> Iterator[Trouble]:
    alike: defaultdict[tuple[str, str], list[FailureGroup]] = defaultdict(list)
    for group in jobs.failures(session, since_s=LOOK_BACK_S, with_repeated=True):
        if group.failure_class == "program_error":
            alike[group.workflow, group.code].append(group)
    for (workflow, code), groups in alike.items():
        if len(groups) > ERRORS_MAX:
            count = sum(group.count for group in groups)
            yield Trouble(
                f"program-errors/{workflow}/{code}",
                f"{_jobs(count)} of {workflow} failed because of {len(groups)} program errors",
                "\n".join(f"{group.message} (job {group.job_ids[0]})" for group in groups[:ERRORS_MAX]),
                "/operator/failures",
            )
            continue
        for group in groups:
            yield Trouble(
                f"program-error/{group.id}",
                f"{_jobs(group.count)} of {workflow} failed because of a program error",
                f"{group.message}\n\nThe latest: {', '.join(group.job_ids)}",
                f"/jobs/{group.job_ids[0]}",
            )


def _workers(session: Session, context: Context) -> Iterator[Trouble]:
    workers = jobs.list_workers(session, settings=context.settings)
    for worker in workers:
        if worker.paused_ms is not None:
            yield Trouble(
                f"worker-paused/{worker.name}", f"Worker {worker.name} gets no more jobs",
                f"{worker.paused_why or 'Too many jobs failed on it in a row.'} Look at its machine, then resume it.",
                "/operator/workers",
            )  # fmt: skip
        # It was asked to end, or said that it ends; workers of WEBKNOSSOS cannot say so.
        may_be_silent = not worker.job_ids and (worker.is_draining or not worker.is_native)
        if not (worker.is_online or may_be_silent or context.reaper.is_waiting):
            held = f" and holds {', '.join(worker.job_ids)}" if worker.job_ids else ""
            yield Trouble(
                f"worker-silent/{worker.name}",
                f"Worker {worker.name} is not heard from{', and holds jobs' if held else ''}",
                f"It was last heard from {worker.heard_s:.0f} s ago{held}, and did not say that it ends."
                f"{' Its jobs go to others when their leases end.' if held else ''}",
                "/operator/workers",
            )  # fmt: skip
    if context.reaper.is_waiting:
        return
    stranded = jobs.stranded(session, waited_s=WAIT_MAX_S, settings=context.settings)
    if stranded and not any(worker.is_online for worker in workers):
        oldest_s = max(item.oldest_s for item in stranded)
        yield Trouble(
            "no-worker", "Jobs wait, and no worker is there",
            f"The oldest has waited for {oldest_s:.0f} s. Start a worker: `voxelworks worker`.", "/operator/workers",
        )  # fmt: skip
        return
    for item in stranded:
        yield Trouble(
            f"nobody-runs/{item.workflow}",
            f"{_jobs(item.count)} of {item.workflow} {'waits' if item.count == 1 else 'wait'}, and no worker takes"
            f" {'it' if item.count == 1 else 'them'}",
            f"The oldest has waited for {item.oldest_s:.0f} s: {'; '.join(item.reasons)}.", "/operator/workers",
        )  # fmt: skip


def _jobs(count: int) -> str:
    return f"{count} job{'s' if count != 1 else ''}"


def _mails(session: Session) -> Iterator[Trouble]:
    count = notify.mails_failed(session, since_ms=now(session) - round(MAILS_LOOK_BACK_S * 1000))
    if count:
        yield Trouble(
            "mails", f"{count} {'mail or webhook' if count == 1 else 'mails or webhooks'} could not be sent",
            "What cannot be delivered is given up after a while. The page shows why.",
            "/operator/mails",
        )  # fmt: skip


def _disks(context: Context) -> Iterator[Trouble]:
    for what, free in free_bytes(context):
        if free < context.settings.free_bytes_min:
            yield Trouble(
                f"disk/{what}", f"The disk of {what} is almost full",
                f"{free / 2**20:.0f} MiB are left, {context.settings.free_bytes_min / 2**20:.0f} MiB should be."
                " Jobs will fail for want of space.",
            )  # fmt: skip
