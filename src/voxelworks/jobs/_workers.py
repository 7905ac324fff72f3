"""Workers come, are judged by how their jobs end, and are drained, paused and resumed."""

from __future__ import annotations

import secrets

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from voxelworks import __version__, accounts
from voxelworks.db import insert_into, now
from voxelworks.errors import DiskFull, NotAllowed, NotFound, OutdatedWorker
from voxelworks.jobs._failures import Failure
from voxelworks.jobs._leases import held_by, lock_worker, lose, milliseconds
from voxelworks.jobs._tables import AttemptRow, JobRow, PauseRow, WorkerSessionRow
from voxelworks.protocol.messages import (
    PRIORITY_CLASSES,
    PROTOCOL_OLDEST,
    PROTOCOL_VERSION,
    PriorityClass,
    SessionAnswer,
    SessionRequest,
)
from voxelworks.protocol.people import Principal, WorkerKeyView
from voxelworks.protocol.views import PauseView
from voxelworks.settings import Settings

_REPLACED = "worker-restarted"
_BLAMED = ("infrastructure", "resources", "program_error", "timed_out")
"""Failure classes that may be the worker's fault."""


def open_session(
    session: Session, request: SessionRequest, *, key: WorkerKeyView | None = None, settings: Settings
) -> SessionAnswer:
    """Let a worker in. What an earlier session of the same name held is free at once: its process is gone.

    Parameters
    ----------
    key
        What the worker may do: the organization it works for, and the workflows that it may run.

    Raises
    ------
    OutdatedWorker
        If the worker is too old for this server (R26).
    NotAllowed
        If a worker of this name works for another organization.
    """
    _refuse_outdated(request)
    at_ms = now(session)
    earlier = _earlier_sessions(session, request.name, key, at_ms, settings)
    living = [row for row in earlier if row.replaced_ms is None]
    for row in living:
        row.replaced_ms = at_ms
    session.flush()
    _free_jobs_of(session, living, request.name, at_ms, settings)
    last = earlier[0] if earlier else None
    row = WorkerSessionRow(
        id=secrets.token_hex(16), name=request.name, version=request.version, protocol=request.protocol,
        workflows=_allowed(request.workflows, key), slots=_slots(request), gpus=request.gpus,
        gpu_names=list(request.gpu_names),
        memory_bytes=request.memory_bytes, isolation=request.isolation,
        leaves_ms=None if request.walltime_s is None else at_ms + milliseconds(request.walltime_s),
        key_id=key.id if key else None, organization_id=key.organization_id if key else None,
        opened_ms=at_ms, seen_ms=at_ms,
        # A bad worker does not become a good one by starting anew.
        failed_jobs=last.failed_jobs if last else [], paused_ms=last.paused_ms if last else None,
        paused_why=last.paused_why if last else None,
    )  # fmt: skip
    session.add(row)
    return SessionAnswer(
        session_id=row.id, poll_s=settings.poll_s, protocol=PROTOCOL_VERSION, version=__version__
    )


def judge(attempt: AttemptRow, failure: Failure | None, *, at_ms: int, settings: Settings) -> None:
    """Note how an attempt ended for its worker: it is paused when too many different jobs in a row failed on it (R15).

    The caller holds the lock of the worker's session. What the user did wrong is not held against it, nor a full disk:
    all that jobs write lies beside the datasets, where every worker would have failed.
    """
    worker = attempt.worker
    if failure is None:
        worker.failed_jobs = []
        return
    is_blamed = failure.failure_class in _BLAMED and failure.code != DiskFull.code
    if not is_blamed or attempt.job_id in worker.failed_jobs:
        return
    worker.failed_jobs = [*worker.failed_jobs, attempt.job_id]
    number = len(worker.failed_jobs)
    if number >= settings.worker_failures_max and worker.paused_ms is None:
        worker.paused_ms = at_ms
        worker.paused_why = f"{number} different jobs in a row failed on it; the last one: {failure.message}"


def leave(session: Session, session_id: str, *, key: WorkerKeyView | None = None) -> None:
    """Take in that a worker ends in good order: that it falls silent is no trouble then.

    Raises
    ------
    LeaseLost
        If its session was replaced, is not known, or was opened with another key.
    """
    worker = lock_worker(session, session_id, key)
    worker.drained_ms = worker.drained_ms or now(session)


def drain_worker(session: Session, name: str, *, by: Principal) -> None:
    """Let a worker end its jobs, take no new ones, and leave. It works again when it is started anew.

    Raises
    ------
    NotAllowed
        For all but operators.
    NotFound
    """
    accounts.require(by, accounts.Action.OPERATE)
    at_ms = now(session)
    for worker in _living(session, name):
        worker.drained_ms = worker.drained_ms or at_ms
    accounts.audit(session, by, "worker.drained", f"worker:{name}")


def resume_worker(session: Session, name: str, *, by: Principal) -> None:
    """Give jobs again to a worker that was paused because too many failed on it.

    Raises
    ------
    NotAllowed
        For all but operators.
    NotFound
    """
    accounts.require(by, accounts.Action.OPERATE)
    for worker in _living(session, name):
        worker.failed_jobs, worker.paused_ms, worker.paused_why = [], None, None
    accounts.audit(session, by, "worker.resumed", f"worker:{name}")


def pause_queue(
    session: Session, *, by: Principal, priority_class: PriorityClass | None = None, why: str = ""
) -> None:
    """Give no jobs away, or none of a class, until the queue is resumed; those that run go on.

    Raises
    ------
    NotAllowed
        For all but operators.
    """
    accounts.require(by, accounts.Action.OPERATE)
    at_ms = now(session)
    for name in PRIORITY_CLASSES if priority_class is None else (priority_class,):
        session.execute(
            insert_into(session, PauseRow)
            .values(priority_class=name, since_ms=at_ms, who=by.who, why=why)
            .on_conflict_do_nothing()
        )
    accounts.audit(session, by, "queue.paused", f"queue:{priority_class or 'all'}", why=why)


def resume_queue(session: Session, *, by: Principal, priority_class: PriorityClass | None = None) -> None:
    """Give jobs away again, those of all classes or of one.

    Raises
    ------
    NotAllowed
        For all but operators.
    """
    accounts.require(by, accounts.Action.OPERATE)
    for name in PRIORITY_CLASSES if priority_class is None else (priority_class,):
        row = session.get(PauseRow, name, with_for_update=True)
        if row is not None:
            session.delete(row)
    accounts.audit(session, by, "queue.resumed", f"queue:{priority_class or 'all'}")


def queue_pauses(session: Session) -> tuple[PauseView, ...]:
    """List the classes of which no jobs are given away."""
    rows = session.scalars(select(PauseRow).order_by(PauseRow.priority_class.desc()))
    return tuple(
        PauseView(priority_class=row.priority_class, since_ms=row.since_ms, who=row.who, why=row.why)
        for row in rows
    )


def _refuse_outdated(request: SessionRequest) -> None:
    if request.protocol < PROTOCOL_OLDEST:
        raise OutdatedWorker(
            f"worker {request.name} is too old: Voxelworks {request.version} with protocol {request.protocol}, this "
            f"server needs protocol {PROTOCOL_OLDEST} or newer; run `pip install voxelworks=={__version__}` there"
        )


def _earlier_sessions(
    session: Session, name: str, key: WorkerKeyView | None, at_ms: int, settings: Settings
) -> list[WorkerSessionRow]:
    """Lock the earlier sessions of a worker, newest first."""
    organization_id = key.organization_id if key else None
    rows = session.scalars(
        select(WorkerSessionRow)
        .where(WorkerSessionRow.name == name)
        .order_by(WorkerSessionRow.opened_ms.desc(), WorkerSessionRow.id)
        .limit(100)
        .with_for_update(key_share=True),
        execution_options={"populate_existing": True},
    ).all()
    for row in rows:
        is_online = row.replaced_ms is None and at_ms - row.seen_ms <= milliseconds(settings.silent_after_s)
        # Keys are boundaries between tenants: nobody ends another's worker by taking its name.
        if is_online and row.organization_id != organization_id:
            raise NotAllowed(
                f"a worker named {name!r} works for another organization; choose another name with --name"
            )
    return [row for row in rows if row.organization_id == organization_id]


def _free_jobs_of(
    session: Session, sessions: list[WorkerSessionRow], name: str, at_ms: int, settings: Settings
) -> None:
    ids = [row.id for row in sessions]
    for job, attempt in held_by(session, ids):
        why = f"worker {name} was started anew"
        failure = Failure("infrastructure", _REPLACED, why, is_lost_lease=True, waits=False)
        lose(session, job, attempt, failure, at_ms=at_ms, settings=settings)
    session.execute(
        update(JobRow)
        .where(JobRow.publication == "pending", JobRow.publish_session_id.in_(ids))
        .values(publish_until_ms=at_ms),
        execution_options={"synchronize_session": False},
    )


def _allowed(workflows: dict[str, int], key: WorkerKeyView | None) -> dict[str, int]:
    if key is None or not key.commands:
        return dict(workflows)
    return {name: version for name, version in workflows.items() if name in key.commands}


def _slots(request: SessionRequest) -> dict[str, int]:
    """Give the slots of each class. Workers of protocol 1 know no classes: they ask only while they have room."""
    if request.slots is None:
        return dict.fromkeys(PRIORITY_CLASSES, request.job_slots)
    return {name: request.slots.get(name, 0) for name in PRIORITY_CLASSES}


def _living(session: Session, name: str) -> list[WorkerSessionRow]:
    rows = list(
        session.scalars(
            select(WorkerSessionRow)
            .where(WorkerSessionRow.name == name, WorkerSessionRow.replaced_ms.is_(None))
            .order_by(WorkerSessionRow.opened_ms.desc(), WorkerSessionRow.id)
            .with_for_update(key_share=True),
            execution_options={"populate_existing": True},
        )
    )
    if not rows:
        raise NotFound(f"there is no worker {name!r}; see the list of workers")
    return rows
