"""Datasets of organizations, annotations, storage, trash."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_LOCAL = "local"
"""The organization that everything belonged to before there were organizations."""


def upgrade() -> None:
    _add_columns()
    _rename_places()
    op.create_table(
        "annotations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("dataset_id", sa.Text(), nullable=True),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("sealed_token", sa.Text(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("summary", sa.JSON(), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("trashed_ms", sa.BigInteger(), nullable=True),
        sa.Column("purge_ms", sa.BigInteger(), nullable=True),
        sa.Column("is_purging", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_annotations"),
    )
    op.create_index("ix_annotations_organization_id", "annotations", ["organization_id"])


def _add_columns() -> None:
    with op.batch_alter_table("datasets") as batch:
        batch.add_column(sa.Column("organization_id", sa.Text(), nullable=True))
        batch.add_column(sa.Column("user_id", sa.Text(), nullable=True))
        batch.add_column(sa.Column("is_public", sa.Boolean(), nullable=True))
        batch.add_column(sa.Column("is_linked", sa.Boolean(), nullable=True))
        batch.add_column(sa.Column("size_bytes", sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column("trashed_ms", sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column("purge_ms", sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column("is_purging", sa.Boolean(), nullable=True))
    datasets = sa.table(
        "datasets",
        sa.column("id", sa.Text),
        sa.column("organization_id", sa.Text),
        sa.column("user_id", sa.Text),
        sa.column("is_public", sa.Boolean),
        sa.column("is_linked", sa.Boolean),
        sa.column("size_bytes", sa.BigInteger),
        sa.column("is_purging", sa.Boolean),
    )
    op.execute(
        datasets.update().values(
            organization_id=_LOCAL,
            user_id=_LOCAL,
            is_public=False,
            is_linked=False,
            size_bytes=0,
            is_purging=False,
        )
    )
    for dataset_id, size_bytes in _sizes().items():
        op.execute(datasets.update().where(datasets.c.id == dataset_id).values(size_bytes=size_bytes))
    with op.batch_alter_table("datasets") as batch:
        batch.alter_column("organization_id", existing_type=sa.Text(), nullable=False)
        for name in ("is_public", "is_linked", "is_purging"):
            batch.alter_column(name, existing_type=sa.Boolean(), nullable=False)
        batch.alter_column("size_bytes", existing_type=sa.BigInteger(), nullable=False)
        batch.drop_constraint("uq_datasets_name", type_="unique")
        batch.drop_constraint("uq_datasets_place", type_="unique")
        batch.create_unique_constraint("uq_datasets_organization_id_name", ["organization_id", "name"])
        batch.create_unique_constraint("uq_datasets_organization_id_place", ["organization_id", "place"])


def _sizes() -> dict[str, int]:
    """Sum up what the published results of jobs put into each dataset: nobody has counted it before."""
    connection = op.get_bind()
    jobs = sa.table("jobs", sa.column("result", sa.JSON), sa.column("publication", sa.Text))
    datasets = sa.table("datasets", sa.column("id", sa.Text), sa.column("place", sa.Text))
    by_place: dict[str, int] = {}
    for (result,) in connection.execute(sa.select(jobs.c.result).where(jobs.c.publication == "published")):
        place = (result or {}).get("place")
        if place is not None:
            by_place[place] = by_place.get(place, 0) + int(result.get("size_bytes") or 0)
    known = connection.execute(sa.select(datasets.c.id, datasets.c.place))
    return {dataset_id: by_place[place] for dataset_id, place in known if place in by_place}


def _rename_places() -> None:
    """Write `data:local/NAME` for `data:NAME`, wherever a place is written."""
    connection = op.get_bind()
    for name in ("datasets", "dataset_leases"):
        rows = sa.table(name, sa.column("place", sa.Text))
        for (place,) in connection.execute(sa.select(rows.c.place)).all():
            connection.execute(rows.update().where(rows.c.place == place).values(place=_renamed(place)))
    jobs = sa.table(
        "jobs", sa.column("id", sa.Text), sa.column("places", sa.JSON), sa.column("result", sa.JSON(none_as_null=True))
    )  # fmt: skip
    for job in connection.execute(sa.select(jobs.c.id, jobs.c.places, jobs.c.result)).all():
        places = {ref: _renamed(place) for ref, place in job.places.items()}
        changed = jobs.update().where(jobs.c.id == job.id)
        connection.execute(changed.values(places=places, result=_with_place(job.result)))
    attempts = sa.table(
        "attempts", sa.column("job_id", sa.Text), sa.column("number", sa.BigInteger),
        sa.column("sealed", sa.JSON(none_as_null=True)),
    )  # fmt: skip
    sealed = sa.select(attempts).where(attempts.c.sealed.is_not(None))
    for attempt in connection.execute(sealed).all():
        is_it = (attempts.c.job_id == attempt.job_id) & (attempts.c.number == attempt.number)
        connection.execute(attempts.update().where(is_it).values(sealed=_with_place(attempt.sealed)))


def _with_place(result: dict[str, Any] | None) -> dict[str, Any] | None:
    if result is None or result.get("place") is None:
        return result
    return {**result, "place": _renamed(result["place"])}


def _renamed(place: str) -> str:
    return place.replace("data:", f"data:{_LOCAL}/", 1) if place.startswith("data:") else place
