"""The server ends what nobody holds any more: leases that have run out, and jobs that nobody can run (R16, R17)."""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, case, literal, literal_column, or_, select
from sqlalchemy.orm import Session

from voxelworks.db import Database, now
from voxelworks.jobs._counts import count
from voxelworks.jobs._ending import end_job
from voxelworks.jobs._failures import Failure
from voxelworks.jobs._leases import EXPIRED, HELD_STATES, is_current, lose, milliseconds
from voxelworks.jobs._matching import NEEDS, could_run, heard_since, in_words, needs_in_words
from voxelworks.jobs._tables import AttemptRow, JobRow, PauseRow
from voxelworks.protocol.messages import JobState
from voxelworks.settings import Settings
from voxelworks.workflows import workflows


class Reaper:
    """Reaps in rounds, and waits for one lease after a time in which workers may have had nobody to talk to.

    Such a time lies before the first round, and wherever rounds are missing: the database was away, or the machine
    slept. Workers that live are heard from again before others can take their jobs. What no worker has begun needs no
    such time: a worker begins with a first renewal, and one that never had the answer to its claim will not.
    """

    def __init__(self) -> None:
        self._last_ms: int | None = None
        """Time of the last round, by the database's clock."""
        self._waits_until_ms = 0

    def run_round(self, database: Database, *, settings: Settings) -> int:
        """Reap, if workers have had the time to renew their leases; count what was ended."""
        with database.read_session() as session:
            at_ms = now(session)
        if not self._was_there(at_ms, settings):
            self._waits_until_ms = at_ms + milliseconds(settings.lease_s)
        self._last_ms = at_ms
        return reap_all(database, settings=settings, only_not_begun=self.is_waiting)

    @property
    def is_waiting(self) -> bool:
        """Whether workers may not have been heard from that are there."""
        return self._last_ms is None or self._last_ms < self._waits_until_ms

    def _was_there(self, at_ms: int, settings: Settings) -> bool:
        # Half a lease leaves workers the other half; a round that is a little late is no outage.
        longest_ms = milliseconds(max(settings.lease_s / 2, 4 * settings.reap_every_s))
        # The clock may have been turned back, too.
        return self._last_ms is not None and 0 <= at_ms - self._last_ms <= longest_ms


def reap_all(database: Database, *, settings: Settings, only_not_begun: bool = False) -> int:
    """End every lease that has run out and every job that nobody can run; count them.

    Each has a transaction of its own. Several servers may do it at the same time.

    Parameters
    ----------
    only_not_begun
        Only leases of jobs that were given away and that no worker has begun.
    """
    ended = 0
    while True:
        with database.session() as session:
            if not _reap_next(session, settings, only_not_begun=only_not_begun):
                return ended
        ended += 1


def _reap_next(session: Session, settings: Settings, *, only_not_begun: bool) -> bool:
    """End one lease that has run out, one cancel that takes too long, or one job that nobody can run; False if none."""
    at_ms = now(session)
    if only_not_begun:
        return _reap_attempt(session, at_ms, settings, ("claimed",))
    return _reap_attempt(session, at_ms, settings, HELD_STATES) or _fail_unrunnable(session, at_ms, settings)


def _reap_attempt(session: Session, at_ms: int, settings: Settings, states: tuple[JobState, ...]) -> bool:
    found = session.execute(
        select(JobRow, AttemptRow)
        .join(AttemptRow, is_current)
        .where(
            JobRow.state.in_(states),
            or_(
                AttemptRow.lease_end_ms < at_ms,
                and_(
                    JobRow.state == "cancelling",
                    JobRow.cancel_requested_ms + _stuck_ms(settings) < at_ms,
                ),
            ),
        )
        .order_by(AttemptRow.lease_end_ms)
        .limit(1)
        .with_for_update(skip_locked=True),
        execution_options={"populate_existing": True},
    ).first()
    if found is None:
        return False
    job, attempt = found
    silent_s = (at_ms - attempt.renewed_ms) / 1000
    failure = Failure(
        "infrastructure", EXPIRED, f"the worker was not heard from for {silent_s:.0f} s", is_lost_lease=True
    )
    if attempt.lease_end_ms >= at_ms:
        failure = Failure("cancelled", "cancel-stuck", "the worker did not stop the job in time")
    count(session, "reaper_actions")
    lose(session, job, attempt, failure, at_ms=at_ms, settings=settings)
    return True


def _stuck_ms(settings: Settings) -> ColumnElement[int]:
    """How long a job may be cancelling: longer if its workflow takes longer to stop."""
    usual_ms = milliseconds(settings.cancel_stuck_s)
    own_ms = {
        workflow.name: usual_ms + milliseconds(max(0, workflow.cancel_grace_s - settings.cancel_grace_s))
        for workflow in workflows().values()
        if workflow.cancel_grace_s is not None
    }
    return case(own_ms, value=JobRow.workflow, else_=usual_ms) if own_ms else literal(usual_ms)


def _fail_unrunnable(session: Session, at_ms: int, settings: Settings) -> bool:
    """Fail a job that no worker could run for a long time (R17)."""
    since_ms = at_ms - milliseconds(settings.unrunnable_after_s)
    job = _unrunnable(session, since_ms)
    if job is None:
        return False
    having = "".join(f", with {need}" for need in needs_in_words(job))
    after = in_words(settings.unrunnable_after_s)
    why = f"no worker that runs {job.workflow}{having} was connected for {after}"
    failure = Failure("infrastructure", "nobody-can-run", why)
    count(session, "reaper_actions")
    end_job(session, job, "failed", at_ms=at_ms, who="server", why=why, failure=failure)
    return True


def _unrunnable(session: Session, since_ms: int) -> JobRow | None:
    """Lock a job that could have been given away since, if a worker for it had been heard from."""
    waiting = (
        JobRow.state == literal_column("'queued'"), JobRow.lane.is_not(None), JobRow.available_ms < since_ms,
        JobRow.priority_class.not_in(select(PauseRow.priority_class)),
    )  # fmt: skip
    # Thousands may wait, and need only a few different things.
    needed = session.execute(select(*NEEDS).where(*waiting).distinct()).all()
    if not needed:
        return None
    workers = heard_since(session, since_ms)
    for needs in needed:
        # With all the time that it had in these days.
        if any(could_run(worker, needs, max(since_ms, worker.opened_ms)) for worker in workers):
            continue
        same = [column.is_not_distinct_from(need) for column, need in zip(NEEDS, needs, strict=True)]
        job: JobRow | None = session.scalar(
            select(JobRow)
            .where(*waiting, *same)
            .order_by(JobRow.rank_ms)
            .limit(1)
            .with_for_update(skip_locked=True),
            execution_options={"populate_existing": True},
        )
        if job is not None:
            return job
    return None
