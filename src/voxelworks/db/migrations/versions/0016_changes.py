"""People change datasets too, under the same lease as jobs; and what an annotation holds is kept for its page."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    with op.batch_alter_table("dataset_leases") as leases:
        leases.alter_column("job_id", existing_type=sa.Text(), nullable=True)
        leases.alter_column("attempt", existing_type=sa.BigInteger(), nullable=True)
    op.add_column("annotations", sa.Column("contents", sa.JSON(), nullable=True))
