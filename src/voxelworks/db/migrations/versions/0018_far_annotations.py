"""Annotations in a WEBKNOSSOS are fetched, and can be fetched anew."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    with op.batch_alter_table("annotations") as annotations:
        annotations.add_column(sa.Column("streams_at", sa.Text(), nullable=True))
        annotations.add_column(sa.Column("fetched_ms", sa.BigInteger(), nullable=True))
        annotations.add_column(sa.Column("fetch_due_ms", sa.BigInteger(), nullable=True))
        annotations.add_column(sa.Column("fetch_tries", sa.BigInteger(), nullable=False, server_default="0"))
        annotations.add_column(sa.Column("fetch_problem", sa.Text(), nullable=True))
    with op.batch_alter_table("annotations") as annotations:
        annotations.alter_column("fetch_tries", existing_type=sa.BigInteger(), server_default=None)
