"""Databases that earlier versions left."""

import pytest
from sqlalchemy import URL

from voxelworks.db import Database
from voxelworks.testing.databases import new_postgresql_database


@pytest.fixture(params=["sqlite", "postgresql"])
def old_database(request, tmp_path):
    """A database without tables, to be migrated step by step."""
    if request.param == "postgresql":
        with new_postgresql_database(request.getfixturevalue("postgresql_server")) as database:
            yield database
        return
    database = Database(URL.create("sqlite", database=str(tmp_path / "old.sqlite3")))
    yield database
    database.close()
