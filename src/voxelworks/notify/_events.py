"""How jobs ended, written down for people and programs in the transaction that ends them (R10, R11)."""

from __future__ import annotations

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from voxelworks.db import now
from voxelworks.notify._messages import UNTOLD, UNTOLD_FOREIGN_SUCCESSES, JobEnd
from voxelworks.notify._outbox import add_row
from voxelworks.notify._preferences import DIGEST_MS, preferences
from voxelworks.notify._tables import OutboxRow, OutboxState
from voxelworks.notify._webhooks import webhooks_for


def job_ended(session: Session, end: JobEnd, *, is_waiting: bool) -> None:
    """Write the mail and the calls of webhooks that tell of a job's end.

    Parameters
    ----------
    is_waiting
        The result is not published yet: nothing is sent before `job_published`.
    """
    at_ms = now(session)
    if _is_mailed(end):
        _add_mail(session, end, is_waiting=is_waiting, at_ms=at_ms)
    state: OutboxState = "held" if is_waiting else "due"
    for webhook_id in webhooks_for(session, end):
        add_row(
            session, end, key=_key(end.job_id, webhook_id), channel="webhook", state=state, recipient=webhook_id,
            template=f"job.{end.state}", at_ms=at_ms, organization_id=end.organization_id, job_id=end.job_id,
        )  # fmt: skip


def job_published(session: Session, job_id: str) -> None:
    """Let go what waited for the result of a job to be published. A second call finds nothing."""
    at_ms = now(session)
    held = OutboxRow.job_id == job_id, OutboxRow.state == "held"
    for row in session.scalars(select(OutboxRow).where(*held, OutboxRow.channel == "mail")):
        # Asked now: the owner may have chosen otherwise since.
        row.state, row.available_ms = _way(session, JobEnd.model_validate(row.context), at_ms=at_ms)
        row.due_ms = at_ms if row.state == "due" else None
        row.done_ms = at_ms if row.state == "dropped" else None
    session.flush()
    session.execute(
        update(OutboxRow)
        .where(*held, OutboxRow.channel == "webhook")
        .values(state="due", due_ms=at_ms, available_ms=at_ms),
        execution_options={"synchronize_session": False},
    )


def job_not_published(session: Session, job_id: str, end: JobEnd) -> None:
    """Tell of a failure in place of the success that waited: the result could not be published.

    Parameters
    ----------
    end
        With state `failed`, and why.
    """
    session.execute(
        delete(OutboxRow).where(OutboxRow.job_id == job_id, OutboxRow.state == "held"),
        execution_options={"synchronize_session": False},
    )
    job_ended(session, end, is_waiting=False)


def _add_mail(session: Session, end: JobEnd, *, is_waiting: bool, at_ms: int) -> None:
    assert end.email is not None
    state: OutboxState
    if is_waiting:
        state, available_ms = "held", at_ms
    else:
        state, available_ms = _way(session, end, at_ms=at_ms)
    if state == "dropped":
        return
    add_row(
        session, end, key=_key(end.job_id, end.email), channel="mail", state=state, recipient=end.email,
        template="job", at_ms=at_ms, available_ms=available_ms, user_id=end.user_id,
        organization_id=end.organization_id, job_id=end.job_id,
    )  # fmt: skip


def _way(session: Session, end: JobEnd, *, at_ms: int) -> tuple[OutboxState, int]:
    """Decide by its owner's wishes whether a mail goes now, with a digest, or not at all, and when."""
    wishes = preferences(session, end.user_id)
    if not wishes.wants(end):
        return "dropped", at_ms
    if wishes.digest == "none":
        return "due", at_ms
    first_ms = session.scalar(
        select(func.min(OutboxRow.available_ms)).where(
            OutboxRow.user_id == end.user_id, OutboxRow.state == "digest"
        )
    )
    # All go with the one that waits the longest.
    at_latest_ms = at_ms + DIGEST_MS[wishes.digest]
    return "digest", at_latest_ms if first_ms is None else min(first_ms, at_latest_ms)


def _is_mailed(end: JobEnd) -> bool:
    if end.email is None or end.state == "cancelled" or end.workflow in UNTOLD:
        return False
    if end.state == "failed":
        return not end.is_free_rerun
    return not (end.is_foreign and end.workflow in UNTOLD_FOREIGN_SUCCESSES)


def _key(job_id: str, recipient: str) -> str:
    return f"job/{job_id}/ended/{recipient}"
