"""Which jobs name which datasets. What old jobs named is found by the places that they had."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

JOBS = sa.table(
    "jobs", sa.column("id", sa.Text), sa.column("organization_id", sa.Text), sa.column("places", sa.JSON),
)  # fmt: skip
DATASETS = sa.table(
    "datasets", sa.column("id", sa.Text), sa.column("organization_id", sa.Text), sa.column("place", sa.Text),
    sa.column("is_linked", sa.Boolean),
)  # fmt: skip


def upgrade() -> None:
    pairs = op.create_table(
        "job_datasets",
        sa.Column("dataset_id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_datasets_job_id_jobs"),
        sa.PrimaryKeyConstraint("dataset_id", "job_id", name="pk_job_datasets"),
    )
    op.create_index("ix_job_datasets_job_id", "job_datasets", ["job_id"])
    connection = op.get_bind()
    datasets = connection.execute(sa.select(DATASETS)).all()
    own = {(row.organization_id, row.place): row.id for row in datasets}
    # Of other organizations jobs may name what is public, never what is linked.
    shared = {row.place: row.id for row in datasets if not row.is_linked}
    last = ""
    while True:
        rows = connection.execute(
            sa.select(JOBS).where(JOBS.c.id > last).order_by(JOBS.c.id).limit(1000)
        ).all()
        if not rows:
            return
        found = [
            {"dataset_id": dataset_id, "job_id": row.id}
            for row in rows
            for dataset_id in {
                own.get((row.organization_id, place)) or shared.get(place)
                # Images are named by their place; datasets by their name or id.
                for ref, place in row.places.items()
                if ref != place
            }
            if dataset_id is not None
        ]
        if found:
            connection.execute(sa.insert(pairs), found)
        last = rows[-1].id
