"""Workers say what their GPUs are."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    with op.batch_alter_table("worker_sessions") as sessions:
        sessions.add_column(sa.Column("gpu_names", sa.JSON(), nullable=True))
