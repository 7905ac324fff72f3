"""A catalog on both databases."""

from __future__ import annotations

from pathlib import Path

import pytest

from voxelworks.db import Database
from voxelworks.settings import Settings

from .catalog_stock import Stock


@pytest.fixture
def stock(database: Database, tmp_path: Path) -> Stock:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "scope").mkdir()
    (tmp_path / "private").mkdir()
    roots = {
        "scope": tmp_path / "scope",
        "private": {"path": tmp_path / "private", "organizations": ["neuro"]},
    }
    settings = Settings(
        home=tmp_path, import_roots=roots, remote_hosts={"data.example.org", "wk.example.org"}
    )
    return Stock(database, settings)
