"""Fixtures for tests that need a database: each such test runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from voxelworks.db import Database, _engine
from voxelworks.testing.databases import (
    fill_sqlite_file,
    postgresql_database,
    sqlite_database,
    test_server_url,
)
from voxelworks.testing.queues import Queue


@pytest.fixture(scope="session", autouse=True)
def new_homes_have_tables() -> Iterator[None]:
    """Let each new home of a test begin with a copy of a migrated database. Tests of migrations make their own."""
    make_file = _engine._make_private_file

    def make_with_tables(path: Path) -> None:
        make_file(path)
        fill_sqlite_file(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_engine, "_make_private_file", make_with_tables)
        yield


@pytest.fixture(scope="session")
def postgresql_server() -> str:
    """Address of a PostgreSQL server on which databases may be made."""
    url = test_server_url()
    if url is None:
        pytest.skip("VOXELWORKS_TEST_POSTGRES is not set")
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """An own database with all tables."""
    if request.param == "sqlite":
        with sqlite_database() as database:
            yield database
    else:
        with postgresql_database(request.getfixturevalue("postgresql_server")) as database:
            yield database


@pytest.fixture
def queue(database: Database, tmp_path: Path) -> Queue:
    return Queue.over(database, tmp_path)
