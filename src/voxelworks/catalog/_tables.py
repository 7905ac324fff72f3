"""The table of datasets."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Mapped, mapped_column

from voxelworks.db import Base


class DatasetRow(Base):
    """A dataset that jobs may name."""

    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    place: Mapped[str] = mapped_column(unique=True)
    summary: Mapped[dict[str, Any]]
    created_ms: Mapped[int]
    updated_ms: Mapped[int]
    # Not a foreign key: a dataset outlives the records of the job that made it.
    made_by_job: Mapped[str | None]
