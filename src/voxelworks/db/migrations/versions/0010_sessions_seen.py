"""An index for sessions of workers by when they were heard from: lists of jobs look for those that are there."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_index("ix_worker_sessions_seen_ms", "worker_sessions", ["seen_ms"])
