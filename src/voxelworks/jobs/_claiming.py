"""Workers take jobs: one at a time, in the order of `_order`.

On PostgreSQL claims follow each other: two at once would both see the last free place of a limit. They are short, and
workers that find nothing take no turn.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import BigInteger, Select, and_, bindparam, exists, func, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from voxelworks import accounts, catalog
from voxelworks.db import dialect_of, insert_into, now_ms
from voxelworks.errors import InvalidParams, QuotaExceeded, UnknownWorkflow, VoxelworksError, WorkerDrained
from voxelworks.jobs import _transitions
from voxelworks.jobs._counts import count
from voxelworks.jobs._dependencies import awaited_by
from voxelworks.jobs._ending import end_attempt, end_job
from voxelworks.jobs._failures import Failure
from voxelworks.jobs._leases import hash_token, lock_worker, milliseconds, touch
from voxelworks.jobs._order import NOW, Shape, claiming, is_held, next_job, values
from voxelworks.jobs._references import Resolved
from voxelworks.jobs._submission import check_room, upgraded
from voxelworks.jobs._tables import AttemptRow, JobRow, PauseRow, TurnRow, WorkerSessionRow
from voxelworks.protocol.messages import PRIORITY_CLASSES, Claim, PriorityClass
from voxelworks.protocol.people import WorkerKeyView
from voxelworks.protocol.places import ARTIFACT, Places
from voxelworks.settings import Settings
from voxelworks.workflows import Needs, get_workflow

_TAKING_TURN = text(f"SELECT pg_advisory_xact_lock({0x766F78656C})")
"""The number says "voxel"; any would do that nothing else in the database locks."""
_REFUSALS_MAX = 10
"""Jobs that one call ends because they must no longer run; the next call goes on."""
_JOB_TOKEN_MS = 30 * 86_400_000
"""A job's token ends with its attempt; this is the end of those whose attempt nobody ended."""


def claim(
    session: Session,
    session_id: str,
    *,
    key: WorkerKeyView | None = None,
    free: Mapping[PriorityClass, int] | None = None,
    gpus_free: int | None = None,
    settings: Settings,
) -> Claim | None:
    """Give a worker the next job that it can run, if there is one; see `_order`.

    Parameters
    ----------
    key
        That the worker has shown; None inside the server.
    free
        Slots that the worker says are free. What it holds is counted here too.
    gpus_free
        GPUs that the worker says are free; by default all that it has.

    Raises
    ------
    LeaseLost
        If the worker's session was replaced, is not known, or was opened with another key.
    WorkerDrained
        If the operator asked the worker to take no more jobs.
    """
    worker = lock_worker(session, session_id, key)
    if worker.drained_ms is not None:
        raise WorkerDrained(f"worker {worker.name} shall take no more jobs; start it anew when it may again")
    has_gpu = (worker.gpus if gpus_free is None else gpus_free) > 0
    workflows = _capable_of(worker, has_gpu)
    offered = tuple(
        name for name in PRIORITY_CLASSES if worker.slots.get(name, 0) > 0 and _may_take(free, name)
    )
    shape = Shape.of(worker, workflows, offered, settings, has_gpu=has_gpu)
    found = _look_around(session, worker, shape)
    at_ms = found.at_ms
    touch(worker, at_ms, settings)
    classes = [name for name in offered if found.can_serve(worker, name)]
    has_left = worker.leaves_ms is not None and worker.leaves_ms <= at_ms
    if worker.paused_ms is not None or has_left or not classes or not found.has_work:
        return None
    _take_turn(session)
    taking = claiming(replace(shape, classes=tuple(classes)))
    for _ in range(_REFUSALS_MAX):
        job: JobRow | None = session.scalar(
            taking, {**values(worker), NOW.key: at_ms},
            execution_options={"populate_existing": True, "synchronize_session": False},
        )  # fmt: skip
        if job is None:
            return None
        handed_over = hand_over(session, worker, job, at_ms, settings)
        if handed_over is not None:
            return handed_over
    return None


@dataclass(frozen=True)
class _Found:
    """What a worker that asks for a job finds."""

    at_ms: int
    has_work: bool
    """Whether a job would be for it, if it held none and nothing were paused. Its turn shows which one."""
    paused: frozenset[PriorityClass]
    held: Mapping[PriorityClass, int]
    """Jobs that the worker holds."""

    def can_serve(self, worker: WorkerSessionRow, name: PriorityClass) -> bool:
        """Whether the worker has a slot left for a class that is not paused."""
        return name not in self.paused and worker.slots.get(name, 0) > self.held[name]


def _may_take(told: Mapping[PriorityClass, int] | None, name: PriorityClass) -> bool:
    return told is None or told.get(name, 0) > 0


def _look_around(session: Session, worker: WorkerSessionRow, shape: Shape) -> _Found:
    at_ms, job_id, *rest = session.execute(_looking(shape), values(worker) | {"session_id": worker.id}).one()
    paused, held = rest[: len(PRIORITY_CLASSES)], rest[len(PRIORITY_CLASSES) :]
    return _Found(
        at_ms=at_ms, has_work=job_id is not None,
        paused=frozenset(name for name, is_paused in zip(PRIORITY_CLASSES, paused, strict=True) if is_paused),
        held=dict(zip(PRIORITY_CLASSES, held, strict=True)),
    )  # fmt: skip


@lru_cache(maxsize=256)
def _looking(shape: Shape) -> Select[*tuple[Any, ...]]:
    """Make the one statement with which every poll begins: most polls end with it."""
    at_ms = select(now_ms()).scalar_subquery()
    holds = (
        select(func.count())
        .select_from(JobRow)
        .join(AttemptRow, and_(AttemptRow.job_id == JobRow.id, AttemptRow.number == JobRow.attempt))
        .where(AttemptRow.session_id == bindparam("session_id"), is_held())
    )
    return select(
        now_ms(),
        next_job(shape, at_ms),
        *(exists().where(PauseRow.priority_class == name) for name in PRIORITY_CLASSES),
        *(holds.where(JobRow.priority_class == name).scalar_subquery() for name in PRIORITY_CLASSES),
    )


def _take_turn(session: Session) -> None:
    """Wait until no other claim is under way. SQLite has one writer at a time anyway."""
    if dialect_of(session) == "postgresql":
        session.execute(_TAKING_TURN)


def _capable_of(worker: WorkerSessionRow, has_gpu: bool) -> dict[str, int]:
    """Give the workflows that the worker runs and that need nothing it does not have now.

    Without this a worker without a GPU would look through every job of a lane that needs one, at each of its polls.
    """
    return {
        name: version
        for name, version in worker.workflows.items()
        if _meets(worker, has_gpu, _needs_of(name))
    }


def _meets(worker: WorkerSessionRow, has_gpu: bool, needs: Needs) -> bool:
    has_memory = (
        needs.memory_bytes is None or worker.memory_bytes is None or needs.memory_bytes <= worker.memory_bytes
    )
    return has_memory and (has_gpu or not needs.gpu)


def cancel_grace_s(workflow: str, settings: Settings) -> float:
    """Give the time that a cancelled job of a workflow has to stop by itself, in seconds."""
    try:
        own = get_workflow(workflow).cancel_grace_s
    except UnknownWorkflow:
        own = None
    return settings.cancel_grace_s if own is None else own


def _needs_of(workflow: str) -> Needs:
    try:
        return get_workflow(workflow).needs
    except UnknownWorkflow:  # the worker has it, this server does not: nobody can have submitted it here
        return Needs()


def hand_over(
    session: Session, worker: WorkerSessionRow, job: JobRow, at_ms: int, settings: Settings
) -> Claim | None:
    """Begin the attempt. None if the job must no longer run: its owner may not read its input any more."""
    token = secrets.token_urlsafe(16)  # 128 bits
    attempt = AttemptRow(
        job_id=job.id, number=job.attempt, session_id=worker.id, token_hash=hash_token(token),
        claimed_ms=at_ms, renewed_ms=at_ms, lease_end_ms=at_ms + milliseconds(settings.lease_s),
        memory_bytes_max=job.memory_bytes, samples=[], log_received=0, log_stored=0,
    )  # fmt: skip
    session.add(attempt)
    who = f"worker:{worker.name}"
    _transitions.note(session, job, at_ms=at_ms, who=who, why="claimed", from_state="queued")
    session.flush()
    refusal = _refusal(session, job, settings)
    if refusal is not None:
        end_attempt(session, attempt, "failed", at_ms=at_ms, failure=refusal)
        end_job(session, job, "failed", at_ms=at_ms, who="server", why=refusal.message, failure=refusal)
        return None
    _note_turn(session, job, at_ms)
    count(session, "claims")
    return Claim(
        job_id=job.id, attempt=job.attempt, token=token, workflow=job.workflow, version=job.version, params=job.params,
        places=job.places, work_key=job.id, lease_s=settings.lease_s, renew_s=settings.renew_s,
        cancel_grace_s=cancel_grace_s(job.workflow, settings), organization_id=job.organization_id,
        memory_bytes_max=job.memory_bytes, walltime_s=job.walltime_s, job_token=mint_token(session, job, at_ms),
    )  # fmt: skip


def mint_token(session: Session, job: JobRow, at_ms: int) -> str:
    """Make the token with which an attempt asks the server as the job's user. Earlier ones of the job end."""
    return accounts.mint_job_token(
        session, user_id=job.user_id, organization_id=job.organization_id, job_id=job.id, at_ms=at_ms,
        expires_ms=at_ms + _JOB_TOKEN_MS,
    )  # fmt: skip


def _refusal(session: Session, job: JobRow, settings: Settings) -> Failure | None:
    """Look again whether the job may run, and read what it names: days may have passed since it was submitted."""
    if accounts.find_principal(session, job.user_id, job.organization_id) is None:
        why = f"whoever submitted it is no member of {job.organization_id!r} any more"
        return Failure("user_input", "not-allowed", why)
    places = Places.of(settings).for_organization(job.organization_id)
    try:
        for place in job.places.values():
            if place != job.reserved_place and not place.startswith(ARTIFACT):
                catalog.require_readable(session, place, organization_id=job.organization_id, places=places)
    except VoxelworksError as error:
        return Failure("user_input", error.code, f"its input cannot be used any more: {error}")
    try:
        _check_room(session, job, settings)
    except QuotaExceeded as error:
        return Failure("user_input", error.code, str(error))
    return None


def _check_room(session: Session, job: JobRow, settings: Settings) -> None:
    """Compare with the quota what a job makes of what others have made: its size was not known at submission."""
    try:
        declared = get_workflow(job.workflow)
        if declared.result_bytes is None or not awaited_by(session, [job.id]):
            return
        params = declared.parse(upgraded(job, declared))
    except (UnknownWorkflow, InvalidParams):  # the worker, which is of another version, may know better
        return
    found = {ref: catalog.find_by_place(session, place) for ref, place in job.places.items()}
    datasets = {ref: dataset for ref, dataset in found.items() if dataset is not None}
    check_room(
        session, declared, params, Resolved(job.places, datasets, None, {}, {}), job.organization_id, settings
    )


def _note_turn(session: Session, job: JobRow, at_ms: int) -> None:
    session.execute(
        _noting_turn(dialect_of(session)),
        {"organization": job.organization_id, "class": job.priority_class, "at_ms": at_ms},
    )


@cache
def _noting_turn(dialect: str) -> postgresql.Insert | sqlite.Insert:
    at_ms = bindparam("at_ms", type_=BigInteger())
    return (
        insert_into(dialect, TurnRow)
        .values(
            organization_id=bindparam("organization"), priority_class=bindparam("class"), claimed_ms=at_ms
        )
        .on_conflict_do_update(
            index_elements=[TurnRow.organization_id, TurnRow.priority_class], set_={"claimed_ms": at_ms}
        )
    )
