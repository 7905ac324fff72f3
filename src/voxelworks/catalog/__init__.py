"""The datasets that a server knows: name, place, and what their metadata said when they were last changed.

Plain functions that take a session and never commit.
"""

from __future__ import annotations

import secrets

from sqlalchemy import select
from sqlalchemy.orm import Session

from voxelworks.catalog._tables import DatasetRow
from voxelworks.db import now
from voxelworks.errors import DatasetNotFound, TargetExists
from voxelworks.protocol.views import DatasetSummary, DatasetView

__all__ = ["find", "find_by_place", "list_datasets", "register"]


def find(session: Session, ref: str) -> DatasetView:
    """Find a dataset by its name or its id.

    Raises
    ------
    DatasetNotFound
    """
    row = session.scalar(select(DatasetRow).where(DatasetRow.name == ref)) or session.get(DatasetRow, ref)
    if row is None:
        raise DatasetNotFound(
            f"there is no dataset {ref!r} on this server; see the list of datasets for the names"
        )
    return _view(row)


def find_by_place(session: Session, place: str) -> DatasetView | None:
    row = session.scalar(select(DatasetRow).where(DatasetRow.place == place))
    return None if row is None else _view(row)


def list_datasets(session: Session) -> tuple[DatasetView, ...]:
    """Give all datasets by name."""
    return tuple(_view(row) for row in session.scalars(select(DatasetRow).order_by(DatasetRow.name)))


def register(
    session: Session, *, name: str, place: str, summary: DatasetSummary, made_by_job: str | None = None
) -> DatasetView:
    """Add a dataset, or renew the summary of the one at this place.

    Raises
    ------
    TargetExists
        If another dataset has this name.
    """
    at_ms = now(session)
    row = session.scalar(select(DatasetRow).where(DatasetRow.place == place).with_for_update())
    if row is None:
        if session.scalar(select(DatasetRow.id).where(DatasetRow.name == name)) is not None:
            raise TargetExists(f"there is already a dataset {name!r}; choose another name")
        row = DatasetRow(
            id=secrets.token_hex(8), name=name, place=place, created_ms=at_ms, made_by_job=made_by_job
        )
        session.add(row)
    row.summary = summary.model_dump(mode="json")
    row.updated_ms = at_ms
    session.flush()
    return _view(row)


def _view(row: DatasetRow) -> DatasetView:
    return DatasetView(
        id=row.id, name=row.name, place=row.place, summary=DatasetSummary.model_validate(row.summary),
        created_ms=row.created_ms, updated_ms=row.updated_ms, made_by_job=row.made_by_job,
    )  # fmt: skip
