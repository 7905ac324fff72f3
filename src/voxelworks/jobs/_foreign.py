"""Workers that speak WEBKNOSSOS' job protocol, on the same queue.

Such a worker shows its key and nothing else: no session, no lease, no token of an attempt. Its key and the run id that
it makes for each run stand for the attempt (R7):

- a poll is the renewal of every job that it lists; a worker that stays silent loses its jobs like any other;
- the first report of a run binds the run id to the attempt. A start under another run id comes from a worker that was
  started anew: it is a new attempt, and what the earlier run still says of its end is refused;
- reports go through `renew`, `finish` and `published` like those of our own workers, so that ends are final, in one
  transaction, and charged or returned once.

Weaker than with our own workers: a second run under the same run id cannot be told from the first, and files that such
a worker writes are not fenced, as it writes where it likes.

A job that is repeated keeps its id in this protocol: that of the first of the repeats (`_repeats`).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ColumnElement,
    ForeignKeyConstraint,
    Index,
    Text,
    and_,
    cast,
    exists,
    not_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from voxelworks import catalog
from voxelworks.db import Base, SecretBox, now
from voxelworks.errors import (
    DatasetNotFound,
    InvalidParams,
    LeaseLost,
    NotFound,
    VoxelworksError,
    WorkerDrained,
)
from voxelworks.jobs import _transitions
from voxelworks.jobs._claiming import claim, hand_over, mint_token
from voxelworks.jobs._describe import describe_dataset
from voxelworks.jobs._failures import Failure
from voxelworks.jobs._finishing import finish
from voxelworks.jobs._leases import (
    HELD_STATES,
    LOCK,
    hash_token,
    hold,
    is_revivable,
    lock_attempt,
    lose,
    renew,
    touch,
    worker_name,
)
from voxelworks.jobs._masking import mask
from voxelworks.jobs._publication import published
from voxelworks.jobs._repeats import chain_of
from voxelworks.jobs._submission import upgraded
from voxelworks.jobs._tables import AttemptRow, JobRow, WorkerSessionRow
from voxelworks.jobs._workers import open_session
from voxelworks.protocol.foreign import TERMINAL_WIRE_STATES, ForeignReport, WireState, failure_text
from voxelworks.protocol.messages import (
    PROTOCOL_VERSION,
    Claim,
    FinishRequest,
    Json,
    PublishedRequest,
    RenewRequest,
    SealedResult,
    SessionRequest,
)
from voxelworks.protocol.people import WorkerKeyView
from voxelworks.protocol.places import Places, dataset_place
from voxelworks.protocol.views import TERMINAL_STATES, DatasetSummary
from voxelworks.settings import Settings
from voxelworks.workflows import (
    ForeignResult,
    NewDatasetRef,
    Params,
    get_workflow,
    references,
    workflows,
)

CLAIMS_PER_POLL = 10
"""Jobs that one poll may add to those that the worker has."""
ERROR_DETAILS_BYTES_MAX = 64 * 2**10
"""Longer details of a failure are stored as their message alone."""


class ForeignWorkerRow(Base):
    """The session in which a worker of WEBKNOSSOS works: opened by its first poll, as it opens none itself."""

    __tablename__ = "foreign_workers"

    key_id: Mapped[str] = mapped_column(primary_key=True)
    session_id: Mapped[str]


class ForeignRunRow(Base):
    """One attempt of a worker of WEBKNOSSOS, with what the worker said of it."""

    __tablename__ = "foreign_runs"
    __table_args__ = (
        ForeignKeyConstraint(["job_id", "number"], ["attempts.job_id", "attempts.number"]),
        Index("ix_foreign_runs_open", "key_id", "is_done"),
        Index("ix_foreign_runs_root", "root_id", "key_id"),
    )

    job_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    root_id: Mapped[str]
    """The job by its name in the protocol: the first of its repeats."""
    key_id: Mapped[str]
    taken_ms: Mapped[int]
    user_token_sealed: Mapped[str]
    """Token of the job's user, which every poll tells the worker anew."""
    run_id: Mapped[str | None]
    """Made by the worker; None until its first report."""
    told_state: Mapped[WireState] = mapped_column(Text)
    is_done: Mapped[bool]
    """Nothing more is to be told to the worker, or to be heard from it."""
    return_value: Mapped[str | None]
    error_details: Mapped[dict[str, Any] | None]
    workflow_hash: Mapped[str | None]
    dataset_id: Mapped[str | None]
    """Dataset that the worker said it made by an inference."""


@dataclass(frozen=True)
class ForeignWorker:
    """A worker of WEBKNOSSOS that has shown its key."""

    key: WorkerKeyView
    secret: str = field(repr=False)
    """The key itself."""

    def token(self, job_id: str, number: int) -> str:
        """Derive the token of an attempt, which the worker is never told, from the key that it always shows."""
        return hmac.new(self.secret.encode(), f"{job_id}:{number}".encode(), hashlib.sha256).hexdigest()


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


@dataclass(frozen=True)
class ForeignRunView:
    """What a worker of WEBKNOSSOS said of the last attempt of a job."""

    return_value: str | None
    error_details: Json | None
    workflow_hash: str | None
    dataset_id: str | None


@dataclass(frozen=True)
class MadeDataset:
    """What lies where a worker should have made a dataset."""

    summary: DatasetSummary
    size_bytes: int


@dataclass(frozen=True)
class Remains:
    """What attempts that are over have left where a job makes, or should have made, a dataset."""

    place: str
    is_half_made: bool
    """What lies at the place is nobody's: it must go before another job can make a dataset there."""
    has_links: bool = True
    """No worker reads the images any more that are linked for one."""


def keep_foreign(
    session: Session, worker: ForeignWorker, *, version: str, box: SecretBox, settings: Settings
) -> None:
    """Begin a poll: renew all that a worker holds, and revive what it lost if nobody else took it since.

    Parameters
    ----------
    version
        Of the worker, as it says.
    """
    row = _lock_session(session, worker.key, version, settings)
    at_ms = now(session)
    touch(row, at_ms, settings)
    for job_id, number in _held_runs(session, worker.key):
        job, attempt = lock_attempt(session, job_id, number, worker.token(job_id, number))
        _keep(session, job, attempt, box, at_ms=at_ms, settings=settings)


def take_foreign(
    session: Session, worker: ForeignWorker, *, box: SecretBox, settings: Settings
) -> Claim | None:
    """Give a worker one more job, if it has a slot for one; None if not.

    In a transaction of its own, after `keep_foreign`: claims follow each other, and one that held other jobs locked
    could wait for somebody who waits for those.
    """
    row = _lock_session(session, worker.key, None, settings)
    try:
        claimed = claim(session, row.id, settings=settings)
    except WorkerDrained:
        return None
    if claimed is not None:
        _note_run(session, worker, claimed, box)
    return claimed


def foreign_orders(session: Session, worker: ForeignWorker, *, box: SecretBox) -> ForeignOrders:
    """End a poll: say what a worker shall run, and what it must stop."""
    return ForeignOrders(
        tuple(_order(job, run, box) for job, run in _open_runs(session, worker.key, _is_running)),
        tuple(_order(job, run, box) for job, run in _open_runs(session, worker.key, not_(_is_running))),
    )


def report_foreign(
    session: Session,
    worker: ForeignWorker,
    root_id: str,
    told: ForeignReport,
    *,
    made: MadeDataset | None,
    box: SecretBox,
    places: Places,
    settings: Settings,
) -> Remains | None:
    """Take in what a worker says of a job. Saying the same end again is harmless.

    Parameters
    ----------
    made
        What lies at `awaited_place`; None if nothing can be read there, or nothing is awaited.

    Returns
    -------
    Remains or None
        What must be put away, before the name is free or the worker begins, if the job has ended or starts anew.

    Raises
    ------
    NotFound
        If the worker never had the job.
    LeaseLost
        If the run is not, or no longer, the one that counts.
    """
    run = _run_told_of(session, worker.key, root_id, told.latest_run_id)
    row = _lock_session(session, worker.key, None, settings)
    job, attempt = lock_attempt(session, run.job_id, run.number, worker.token(run.job_id, run.number))
    at_ms = now(session)
    touch(row, at_ms, settings)
    is_held = _keep(session, job, attempt, box, at_ms=at_ms, settings=settings)
    was_done = run.is_done
    if told.state == "CANCELLED":
        _take_stop(session, worker, run, job, attempt, told, is_held=is_held, settings=settings)
    elif not is_held:
        _refuse_unless_repeated(run, job, told)
    elif told.state in TERMINAL_WIRE_STATES:
        _take_end(session, worker, run, job, told, made=made, places=places, settings=settings)
    elif told.state == "STARTED" and _is_same_run(run, told):
        _take_start(session, worker, run, told, settings)
    elif told.state == "STARTED":
        _lose_to_restart(session, worker, job, attempt, at_ms=at_ms, settings=settings)
        again = _take_again(session, row, job, at_ms=at_ms, settings=settings)
        if again is not None:
            _take_start(session, worker, _note_run(session, worker, again, box), told, settings)
            before = remains_before(session, again)
            return None if before is None else replace(before, has_links=False)
    place = _new_place(job)
    # What lies there when an end is told again is not of this run.
    if place is None or was_done or job.state not in TERMINAL_STATES or _is_reserved(session, place):
        return None
    return _remains_at(session, place)


@contextmanager
def forgotten_at(session: Session, place: str) -> Iterator[Remains | None]:
    """Say what a worker of WEBKNOSSOS has left at a place, and keep the name from new jobs until the session ends.

    None unless such a worker had a job that was to make a dataset there, and no job is making one now.
    """
    job = _last_job_at(session, place)
    if job is None or not _reserve_again(session, job, place):
        yield None
        return
    yield _remains_at(session, place)
    job.reserved_place = None


def _last_job_at(session: Session, place: str) -> JobRow | None:
    """Find the last job that should have made a dataset at a place and was with a worker of WEBKNOSSOS."""
    organization_id = place.removeprefix("data:").partition("/")[0]
    jobs = session.scalars(
        select(JobRow)
        .where(
            JobRow.organization_id == organization_id, JobRow.state.in_(TERMINAL_STATES),
            cast(JobRow.places, Text).contains(f'"{place}"', autoescape=True),
            exists().where(ForeignRunRow.job_id == JobRow.id),
        )
        .order_by(JobRow.created_ms.desc())
    )  # fmt: skip
    return next((job for job in jobs if _new_place(job) == place), None)


def _reserve_again(session: Session, job: JobRow, place: str) -> bool:
    if _is_reserved(session, place):
        return False
    try:
        with session.begin_nested():
            job.reserved_place = place
            session.flush()
    except IntegrityError:  # another job was submitted just now
        return False
    return True


def _is_reserved(session: Session, place: str) -> bool:
    return session.scalar(select(JobRow.id).where(JobRow.reserved_place == place)) is not None


def _remains_at(session: Session, place: str) -> Remains:
    return Remains(place, is_half_made=not catalog.has_files_at(session, place))


def remains_before(session: Session, claimed: Claim) -> Remains | None:
    """Say what earlier attempts of workers of WEBKNOSSOS may have left in the way of one that was just given away."""
    if claimed.attempt == 1:
        return None
    earlier = select(ForeignRunRow.number).where(
        ForeignRunRow.job_id == claimed.job_id, ForeignRunRow.number < claimed.attempt
    )
    if session.scalar(earlier.limit(1)) is None:
        return None
    place = _new_place(session.get_one(JobRow, claimed.job_id))
    return None if place is None else _remains_at(session, place)


def awaited_place(session: Session, worker: ForeignWorker, root_id: str, told: ForeignReport) -> str | None:
    """Give the place of the dataset that must be there if a report is to count; None for other reports and workflows.

    Raises
    ------
    NotFound
        If the worker never had the job.
    """
    if told.state != "SUCCESS":
        return None
    run = _run_told_of(session, worker.key, root_id, told.latest_run_id)
    return _new_place(session.get_one(JobRow, run.job_id))


def look_at(place: str, places: Places) -> MadeDataset | None:
    """Describe what lies at a place; None if it is not a dataset. Slow for large ones: not within a transaction."""
    try:
        summary = describe_dataset(place, places)
        size_bytes = sum(
            (Path(parent) / name).lstat().st_size
            for parent, _, names in os.walk(places.locate(place))
            for name in names
        )
    except (VoxelworksError, OSError):
        return None
    return MadeDataset(summary, size_bytes)


def attach_foreign_workflow(
    session: Session, worker: ForeignWorker, root_id: str, workflow_hash: str
) -> None:
    """Note the name that a worker gives to its own report of a job.

    Raises
    ------
    NotFound
        If the worker never had the job.
    """
    _run_told_of(session, worker.key, root_id, None).workflow_hash = workflow_hash


def attach_foreign_dataset(session: Session, worker: ForeignWorker, root_id: str, name: str) -> None:
    """Note which dataset an inference made.

    Raises
    ------
    NotFound
        If the worker never had the job, or it is no inference.
    DatasetNotFound
        If the organization of the job has no dataset of this name.
    """
    run = _run_told_of(session, worker.key, root_id, None)
    job = session.get_one(JobRow, run.job_id)
    commands = [foreign.command for foreign in get_workflow(job.workflow).foreign]
    if not any(command.startswith("infer_") for command in commands):
        raise NotFound(f"job {root_id} is no inference; a dataset can be attached to inferences only")
    dataset = catalog.find_by_place(session, dataset_place(job.organization_id, name))
    if dataset is None:
        raise DatasetNotFound(f"organization {job.organization_id!r} has no dataset {name!r}")
    run.dataset_id = dataset.id


def foreign_runs(session: Session, job_ids: Collection[str]) -> dict[str, ForeignRunView]:
    """Give what workers of WEBKNOSSOS said of jobs, by id; jobs whose last attempt none of them had are missing."""
    rows = session.scalars(
        select(ForeignRunRow)
        .join(JobRow, and_(JobRow.id == ForeignRunRow.job_id, JobRow.attempt == ForeignRunRow.number))
        .where(ForeignRunRow.job_id.in_(job_ids))
    )
    return {
        row.job_id: ForeignRunView(row.return_value, row.error_details, row.workflow_hash, row.dataset_id)
        for row in rows
    }


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
    params = _params_of(job)
    return ForeignOrder(
        run.root_id, job.workflow, job.params if params is None else params.model_dump(mode="json"), job.places,
        job.organization_id, box.open(run.user_token_sealed),
    )  # fmt: skip


def _lock_session(
    session: Session, key: WorkerKeyView, version: str | None, settings: Settings
) -> WorkerSessionRow:
    """Lock the session of a worker, before any other row; open one if it has none.

    Parameters
    ----------
    version
        Of the worker; None if this request does not say it.
    """
    known = session.get(ForeignWorkerRow, key.id)
    session_id = known.session_id if known is not None else ""
    row = session.get(WorkerSessionRow, session_id, with_for_update=LOCK, populate_existing=True)
    runs = _workflows_of(key.commands)
    if row is None or row.replaced_ms is not None:
        request = SessionRequest(
            # With the key's id: names of keys need not be unique, and a session ends earlier ones of its name.
            name=f"{key.name} (WEBKNOSSOS {key.id[:6]})", version=version or "unknown", protocol=PROTOCOL_VERSION,
            workflows=runs, slots={"short": key.high_slots, "long": key.low_slots},
        )  # fmt: skip
        session_id = open_session(session, request, key=key, settings=settings).session_id
        session.merge(ForeignWorkerRow(key_id=key.id, session_id=session_id))
        session.flush()
        row = session.get_one(WorkerSessionRow, session_id, with_for_update=LOCK)
    # Workflows come and go with the programs of the server, and the worker may be of another version by now.
    if row.workflows != runs:
        row.workflows = runs
    if version and row.version != version:
        row.version = version
    return row


def _workflows_of(commands: Collection[str]) -> dict[str, int]:
    """Give the workflows, with their versions, behind commands of the protocol; no commands stand for all."""
    return {
        declared.name: declared.version
        for declared in workflows().values()
        for foreign in declared.foreign
        # The files that such workers leave are not taken over: where they lie, and whole, only they know.
        if declared.outcome_type.kind != "artifact"
        if not commands or foreign.command in commands or declared.name in commands
    }


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


def _keep(
    session: Session, job: JobRow, attempt: AttemptRow, box: SecretBox, *, at_ms: int, settings: Settings
) -> bool:
    """Renew a lease; False if the job is not the worker's any more."""
    is_held = job.state in HELD_STATES or is_revivable(job, attempt)
    was_lost = attempt.ended_ms is not None
    if not is_held or not hold(session, job, attempt, at_ms=at_ms, settings=settings):
        return False
    if was_lost:
        # The token ended with the attempt, which has come back to life.
        run = session.get_one(ForeignRunRow, (job.id, attempt.number))
        run.user_token_sealed = box.seal(mint_token(session, job, at_ms))
    return True


def _note_run(session: Session, worker: ForeignWorker, claimed: Claim, box: SecretBox) -> ForeignRunRow:
    attempt = session.get_one(AttemptRow, (claimed.job_id, claimed.attempt))
    attempt.token_hash = hash_token(worker.token(claimed.job_id, claimed.attempt))
    root_id = chain_of(session, claimed.job_id).root_id
    # The protocol names both runs alike, so the worker can no longer be told to stop the earlier one.
    session.execute(
        update(ForeignRunRow)
        .where(ForeignRunRow.root_id == root_id, ForeignRunRow.key_id == worker.key.id)
        .values(is_done=True)
    )
    run = ForeignRunRow(
        job_id=claimed.job_id, number=claimed.attempt, root_id=root_id, key_id=worker.key.id,
        taken_ms=attempt.claimed_ms, user_token_sealed=box.seal(claimed.job_token or ""), told_state="PENDING",
        is_done=False,
    )  # fmt: skip
    session.add(run)
    session.flush()
    return run


def _run_told_of(session: Session, key: WorkerKeyView, root_id: str, run_id: str | None) -> ForeignRunRow:
    """Find the run that a worker speaks of: by the run id if it is known, otherwise the latest."""
    runs = session.scalars(
        select(ForeignRunRow)
        .where(ForeignRunRow.root_id == root_id, ForeignRunRow.key_id == key.id)
        .order_by(ForeignRunRow.taken_ms.desc(), ForeignRunRow.number.desc())
    ).all()
    if not runs:
        raise NotFound(f"this worker was never given a job {root_id!r}")
    return next((run for run in runs if run_id is not None and run.run_id == run_id), runs[0])


def _is_same_run(run: ForeignRunRow, told: ForeignReport) -> bool:
    return None in (run.run_id, told.latest_run_id) or run.run_id == told.latest_run_id


def _require_same_run(run: ForeignRunRow, told: ForeignReport) -> None:
    if not _is_same_run(run, told):
        raise LeaseLost(
            f"run {told.latest_run_id!r} of job {run.root_id} does not count any more: {run.run_id!r} does"
        )


def _take_start(
    session: Session, worker: ForeignWorker, run: ForeignRunRow, told: ForeignReport, settings: Settings
) -> None:
    run.run_id = told.latest_run_id or run.run_id
    run.told_state = "STARTED"
    request = RenewRequest(token=worker.token(run.job_id, run.number))
    renew(session, run.job_id, run.number, request, settings=settings)


def _lose_to_restart(
    session: Session,
    worker: ForeignWorker,
    job: JobRow,
    attempt: AttemptRow,
    *,
    at_ms: int,
    settings: Settings,
) -> None:
    """End the attempt of a worker that was started anew.

    It counts as a lost worker: a job that brings its worker down is not started for ever.
    """
    why = f"worker {worker.key.name} was started anew"
    failure = Failure("infrastructure", "worker-restarted", why, is_lost_lease=True, waits=False)
    lose(session, job, attempt, failure, at_ms=at_ms, settings=settings)
    session.flush()


def _take_again(
    session: Session, row: WorkerSessionRow, job: JobRow, *, at_ms: int, settings: Settings
) -> Claim | None:
    """Give a worker the job that it had until now. None if that was given up: the next poll says so."""
    again = session.scalar(
        update(JobRow)
        .where(JobRow.id == job.id, JobRow.state == "queued")
        .values(
            state="claimed", attempt=JobRow.attempt + 1, updated_ms=at_ms, failure_class=None, code=None, message=None
        )
        .returning(JobRow),
        execution_options={"populate_existing": True, "synchronize_session": False},
    )  # fmt: skip
    return None if again is None else hand_over(session, row, again, at_ms, settings)


def _take_end(
    session: Session,
    worker: ForeignWorker,
    run: ForeignRunRow,
    job: JobRow,
    told: ForeignReport,
    *,
    made: MadeDataset | None,
    places: Places,
    settings: Settings,
) -> None:
    _require_same_run(run, told)
    _write_down(run, told)
    token = worker.token(run.job_id, run.number)
    answer = finish(session, run.job_id, run.number, _end_of(job, told, made, token), settings=settings)
    if answer.publish:
        published(session, run.job_id, run.number, PublishedRequest(token=token), places=places)
    # After a cancel only CANCELLED ends the conversation.
    run.is_done = answer.state != "cancelled"


def _end_of(job: JobRow, told: ForeignReport, made: MadeDataset | None, token: str) -> FinishRequest:
    message = failure_text(told.error_details)
    if told.state == "SUCCESS":
        try:
            return FinishRequest(token=token, outcome="succeeded", result=_result_of(job, told, made))
        except VoxelworksError as error:
            message = f"the worker reported a success, but {error.message}"
    return FinishRequest(
        token=token, outcome="failed", failure_class="program_error", code="worker-failed", message=message
    )


def _result_of(job: JobRow, told: ForeignReport, made: MadeDataset | None) -> SealedResult:
    declared = get_workflow(job.workflow)
    assert declared.foreign, f"{job.workflow} was given to a worker of WEBKNOSSOS"
    outcome = declared.foreign[0].outcome_of(
        declared.parse(upgraded(job, declared)),
        ForeignResult(told.return_value, made.summary if made else None),
    )
    value = outcome.model_dump(mode="json")
    place = _new_place(job)
    if place is None:
        # What such a worker adds to a dataset it enters there by itself: there is nothing to publish.
        return SealedResult(kind="value", value=value)
    return SealedResult(kind="dataset", place=place, value=value, size_bytes=made.size_bytes if made else 0)


def _new_place(job: JobRow) -> str | None:
    """Give the place of the dataset that a job makes, if it makes one."""
    params = _params_of(job)
    names = [str(ref) for ref in references(params) if isinstance(ref, NewDatasetRef)] if params else []
    return job.places[names[0]] if names else None


def _params_of(job: JobRow) -> Params | None:
    """Read the params of a job; None if they are of a version that the installed one cannot read."""
    declared = get_workflow(job.workflow)
    try:
        return declared.parse(upgraded(job, declared))
    except InvalidParams:
        return None


def _take_stop(
    session: Session,
    worker: ForeignWorker,
    run: ForeignRunRow,
    job: JobRow,
    attempt: AttemptRow,
    told: ForeignReport,
    *,
    is_held: bool,
    settings: Settings,
) -> None:
    """Take in that a run was stopped: because it was told to, or by the worker's own decision."""
    is_asked = job.state == "cancelling"
    if is_held and not is_asked:
        _require_same_run(run, told)
    _write_down(run, told)
    run.is_done = True
    if not is_held:
        return
    if not is_asked:
        at_ms = now(session)
        _transitions.move(
            session, job, "cancelling", at_ms=at_ms, who=worker_name(attempt),
            why="the worker stopped the job", cancel_requested_ms=at_ms,
        )  # fmt: skip
    request = FinishRequest(token=worker.token(run.job_id, run.number), outcome="cancelled")
    finish(session, run.job_id, run.number, request, settings=settings)


def _refuse_unless_repeated(run: ForeignRunRow, job: JobRow, told: ForeignReport) -> None:
    is_repeated = (
        told.state in TERMINAL_WIRE_STATES
        and told.state == run.told_state
        and _is_same_run(run, told)
        and told.return_value == run.return_value
    )
    if not is_repeated:
        raise LeaseLost(f"this worker no longer has job {run.root_id}, which is {job.state}; stop it")


def _write_down(run: ForeignRunRow, told: ForeignReport) -> None:
    run.run_id = told.latest_run_id or run.run_id
    run.told_state = told.state
    run.return_value = told.return_value
    run.error_details = _stored_details(told.error_details)


def _stored_details(details: Json | None) -> Json | None:
    if details is None:
        return None
    # Details may quote the last lines of a log.
    text = mask(json.dumps(details).encode())
    if len(text) <= ERROR_DETAILS_BYTES_MAX:
        with suppress(ValueError):  # masked across a quotation mark
            stored: Json = json.loads(text)
            return stored
    return {"message": mask(failure_text(details).encode()).decode()}
