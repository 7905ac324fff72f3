"""An index for jobs by state: the numbers above a list, and the list of one state."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_index("ix_jobs_states", "jobs", ["organization_id", "state", "created_ms", "id"])
