"""Files that jobs leave for download, and addresses under which anybody can have one."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.create_table(
        "artifacts",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("is_doomed", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name="pk_artifacts"),
    )
    op.create_index("ix_artifacts_organization_id", "artifacts", ["organization_id"])
    op.add_column("shares", sa.Column("job_id", sa.Text(), nullable=True))
    op.create_index("ix_shares_job", "shares", ["organization_id", "job_id"])
