"""Digests: one mail about all jobs of a user that ended within some time."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from voxelworks.db import Database, now
from voxelworks.notify._messages import Digest, JobEnd
from voxelworks.notify._outbox import add_row
from voxelworks.notify._preferences import preferences
from voxelworks.notify._tables import OutboxRow


def make_digests(database: Database) -> int:
    """Make the digests whose time has come, each in its own transaction; give their number."""
    with database.read_session() as session:
        users = session.scalars(
            select(OutboxRow.user_id)
            .where(OutboxRow.state == "digest", OutboxRow.available_ms <= now(session))
            .distinct()
        ).all()
    made = 0
    for user_id in users:
        with database.session() as session:
            made += user_id is not None and _make_digest(session, user_id)
    return made


def _make_digest(session: Session, user_id: str) -> bool:
    rows = session.scalars(
        select(OutboxRow)
        .where(OutboxRow.user_id == user_id, OutboxRow.state == "digest")
        .order_by(OutboxRow.id)
        # Another server makes it at this moment if the rows are locked.
        .with_for_update(skip_locked=True)
    ).all()
    if not rows:
        return False
    at_ms = now(session)
    if preferences(session, user_id).is_off:
        for row in rows:
            row.state, row.done_ms = "dropped", at_ms
        return False
    if len(rows) == 1:
        rows[0].state, rows[0].due_ms, rows[0].available_ms = "due", at_ms, at_ms
        return True
    for row in rows:
        row.state, row.done_ms = "merged", at_ms
    told = Digest(ends=tuple(JobEnd.model_validate(row.context) for row in rows))
    return add_row(
        session, told, key=f"digest/{user_id}/{rows[0].id}", channel="mail", state="due",
        recipient=rows[-1].recipient, template="digest", at_ms=at_ms, user_id=user_id,
        organization_id=rows[-1].organization_id,
    )  # fmt: skip
