"""Polls of workers that speak WEBKNOSSOS' job protocol: what they hold, get, and must stop (`_foreign_runs`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, not_, select
from sqlalchemy.orm import Session

from voxelworks.db import SecretBox, now
from voxelworks.errors import WorkerDrained
from voxelworks.jobs._claiming import claim
from voxelworks.jobs._foreign_runs import (
    ForeignRunRow,
    ForeignWorker,
    keep,
    lock_session,
    note_run,
    params_of,
)
from voxelworks.jobs._leases import HELD_STATES, lock_attempt, touch
from voxelworks.jobs._tables import JobRow
from voxelworks.protocol.messages import Claim, Json
from voxelworks.protocol.people import WorkerKeyView
from voxelworks.settings import Settings

CLAIMS_PER_POLL = 10
"""Jobs that one poll may add to those that the worker has."""


@dataclass(frozen=True)
class ForeignOrder:
    """One job of a poll's answer."""

    root_id: str
    workflow: str
    params: Json
    places: Mapping[str, str]
    organization_id: str
    user_token: str


@dataclass(frozen=True)
class ForeignOrders:
    """What a poll answers."""

    to_run: tuple[ForeignOrder, ...]
    """All jobs that the worker holds, oldest first."""
    to_cancel: tuple[ForeignOrder, ...]
    """Runs that it must stop, until it says that they are cancelled."""


def keep_foreign(
    session: Session, worker: ForeignWorker, *, version: str, box: SecretBox, settings: Settings
) -> None:
    """Begin a poll: renew all that a worker holds, and revive what it lost if nobody else took it since.

    Parameters
    ----------
    version
        Of the worker, as it says.
    """
    row = lock_session(session, worker.key, version, settings)
    at_ms = now(session)
    touch(row, at_ms, settings)
    for job_id, number in _held_runs(session, worker.key):
        job, attempt = lock_attempt(session, job_id, number, worker.token(job_id, number))
        keep(session, job, attempt, box, at_ms=at_ms, settings=settings)


def take_foreign(
    session: Session, worker: ForeignWorker, *, box: SecretBox, settings: Settings
) -> Claim | None:
    """Give a worker one more job, if it has a slot for one; None if not.

    In a transaction of its own, after `keep_foreign`: claims follow each other, and one that held other jobs locked
    could wait for somebody who waits for those.
    """
    row = lock_session(session, worker.key, None, settings)
    try:
        claimed = claim(session, row.id, settings=settings)
    except WorkerDrained:
        return None
    if claimed is not None:
        note_run(session, worker, claimed, box)
    return claimed


def foreign_orders(session: Session, worker: ForeignWorker, *, box: SecretBox) -> ForeignOrders:
    """End a poll: say what a worker shall run, and what it must stop."""
    return ForeignOrders(
        tuple(_order(job, run, box) for job, run in _open_runs(session, worker.key, _is_running)),
        tuple(_order(job, run, box) for job, run in _open_runs(session, worker.key, not_(_is_running))),
    )


def _held_runs(session: Session, key: WorkerKeyView) -> list[tuple[str, int]]:
    rows = session.execute(
        select(ForeignRunRow.job_id, ForeignRunRow.number)
        .join(JobRow, and_(JobRow.id == ForeignRunRow.job_id, JobRow.attempt == ForeignRunRow.number))
        .where(
            ForeignRunRow.key_id == key.id, ForeignRunRow.is_done.is_(False),
            JobRow.state.in_((*HELD_STATES, "queued")),
        )
        .order_by(JobRow.created_ms, JobRow.id)  # the order of `_locks`
    )  # fmt: skip
    return [(job_id, number) for job_id, number in rows]


_is_running = and_(JobRow.attempt == ForeignRunRow.number, JobRow.state.in_(("claimed", "running")))


def _open_runs(
    session: Session, key: WorkerKeyView, which: ColumnElement[bool]
) -> list[tuple[JobRow, ForeignRunRow]]:
    rows = session.execute(
        select(JobRow, ForeignRunRow)
        .join(ForeignRunRow, ForeignRunRow.job_id == JobRow.id)
        .where(ForeignRunRow.key_id == key.id, ForeignRunRow.is_done.is_(False), which)
        .order_by(JobRow.created_ms, JobRow.id)
    )
    return [(job, run) for job, run in rows]


def _order(job: JobRow, run: ForeignRunRow, box: SecretBox) -> ForeignOrder:
    params = params_of(job)
    return ForeignOrder(
        run.root_id, job.workflow, job.params if params is None else params.model_dump(mode="json"), job.places,
        job.organization_id, box.open(run.user_token_sealed),
    )  # fmt: skip
