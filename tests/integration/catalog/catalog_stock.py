"""Two organizations with people, and the catalog of an instance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import update

from voxelworks import catalog
from voxelworks.db import Base, Database
from voxelworks.protocol.people import Principal
from voxelworks.protocol.places import Places, dataset_place
from voxelworks.protocol.views import DatasetSummary, DatasetView
from voxelworks.settings import Settings

T = TypeVar("T")

ADA = Principal(user_id="ada", organization_id="neuro", role="member", name="Ada")
BOB = Principal(user_id="bob", organization_id="other", role="owner", name="Bob")
SMALL = DatasetSummary(voxel_size="4,4,40", layers=())


@dataclass(frozen=True)
class Stock:
    """The catalog of an instance; every call is a transaction of its own."""

    database: Database
    settings: Settings

    @property
    def places(self) -> Places:
        return Places.of(self.settings)

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        with self.database.session() as session:
            return function(session, *args, **kwargs)

    def look(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function that must not write."""
        with self.database.read_session() as session:
            return function(session, *args, **kwargs)

    def register(self, name: str = "cortex", by: Principal = ADA, **given: Any) -> DatasetView:
        """Enter a dataset whose folder is there, with a file in it."""
        folder = self.settings.datasets_dir / by.organization_id / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "datasource-properties.json").write_text("{}")
        chosen = {
            "organization_id": by.organization_id, "user_id": by.user_id, "name": name,
            "place": dataset_place(by.organization_id, name), "summary": SMALL, "size_bytes": 1000, **given,
        }  # fmt: skip
        return self.call(catalog.register, **chosen)

    def advance(self, days: float) -> None:
        """Let time pass: every date of the catalog moves into the past."""
        with self.database.session() as session:
            for name in ("datasets", "annotations"):
                table = Base.metadata.tables[name]
                dates = {
                    column: column - round(days * 86_400_000)
                    for column in table.columns
                    if column.name.endswith("_ms")
                }
                session.execute(update(table).values(dates))
