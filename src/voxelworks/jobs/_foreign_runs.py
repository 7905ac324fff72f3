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
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ForeignKeyConstraint, Index, Text, and_, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from voxelworks.db import Base, SecretBox
from voxelworks.errors import InvalidParams, NotFound
from voxelworks.jobs._claiming import mint_token
from voxelworks.jobs._leases import HELD_STATES, LOCK, hash_token, hold, is_revivable
from voxelworks.jobs._repeats import chain_of
from voxelworks.jobs._submission import upgraded
from voxelworks.jobs._tables import AttemptRow, JobRow, WorkerSessionRow
from voxelworks.jobs._workers import open_session
from voxelworks.protocol.foreign import WireState
from voxelworks.protocol.messages import PROTOCOL_VERSION, Claim, Json, SessionRequest
from voxelworks.protocol.people import WorkerKeyView
from voxelworks.settings import Settings
from voxelworks.workflows import NewDatasetRef, Params, get_workflow, references, workflows


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
class ForeignRunView:
    """What a worker of WEBKNOSSOS said of the last attempt of a job."""

    return_value: str | None
    error_details: Json | None
    workflow_hash: str | None
    dataset_id: str | None


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


def run_told_of(session: Session, key: WorkerKeyView, root_id: str, run_id: str | None) -> ForeignRunRow:
    """Find the run that a worker speaks of: by the run id if it is known, otherwise the latest."""
    runs = session.scalars(
        select(ForeignRunRow)
        .where(ForeignRunRow.root_id == root_id, ForeignRunRow.key_id == key.id)
        .order_by(ForeignRunRow.taken_ms.desc(), ForeignRunRow.number.desc())
    ).all()
    if not runs:
        raise NotFound(f"this worker was never given a job {root_id!r}")
    return next((run for run in runs if run_id is not None and run.run_id == run_id), runs[0])


def lock_session(
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
        if declared.outcome_type.kind != "artifact" and foreign.outcome_of is not None
        if not commands or foreign.command in commands or declared.name in commands
    }


def keep(
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


def note_run(session: Session, worker: ForeignWorker, claimed: Claim, box: SecretBox) -> ForeignRunRow:
    """Note that a worker was given a job."""
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


def params_of(job: JobRow) -> Params | None:
    """Read the params of a job; None if they are of a version that the installed one cannot read."""
    declared = get_workflow(job.workflow)
    try:
        return declared.parse(upgraded(job, declared))
    except InvalidParams:
        return None


def new_place(job: JobRow) -> str | None:
    """Give the place of the dataset that a job makes, if it makes one."""
    params = params_of(job)
    names = [str(ref) for ref in references(params) if isinstance(ref, NewDatasetRef)] if params else []
    return job.places[names[0]] if names else None
