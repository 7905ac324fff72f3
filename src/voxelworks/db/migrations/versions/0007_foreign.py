"""Workers that speak WEBKNOSSOS' job protocol, and their runs."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "foreign_workers",
        sa.Column("key_id", sa.Text(), primary_key=True),
        sa.Column("session_id", sa.Text(), nullable=False),
    )
    op.create_table(
        "foreign_runs",
        sa.Column("job_id", sa.Text(), primary_key=True),
        sa.Column("number", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("root_id", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("taken_ms", sa.BigInteger(), nullable=False),
        sa.Column("user_token_sealed", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("told_state", sa.Text(), nullable=False),
        sa.Column("is_done", sa.Boolean(), nullable=False),
        sa.Column("return_value", sa.Text(), nullable=True),
        sa.Column("error_details", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("workflow_hash", sa.Text(), nullable=True),
        sa.Column("dataset_id", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["job_id", "number"], ["attempts.job_id", "attempts.number"]),
    )
    op.create_index("ix_foreign_runs_open", "foreign_runs", ["key_id", "is_done"])
    op.create_index("ix_foreign_runs_root", "foreign_runs", ["root_id", "key_id"])
