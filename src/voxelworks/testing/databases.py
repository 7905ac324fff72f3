"""Databases for tests, with empty tables, on SQLite and on PostgreSQL."""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from sqlalchemy import URL, create_engine, make_url, text

from voxelworks.db import Base, Database

_names = itertools.count()
_filling = threading.Lock()


def test_server_url() -> str | None:
    """Address of a PostgreSQL server on which tests may make databases."""
    return os.environ.get("VOXELWORKS_TEST_POSTGRES") or None


test_server_url.__test__ = False  # type: ignore[attr-defined] # pytest would take it for a test


@contextmanager
def sqlite_database() -> Iterator[Database]:
    """Make a database in a file, in memory where the system can: the tests commit thousands of times."""
    in_memory = Path("/dev/shm")  # noqa: S108 - a fresh folder below it
    with tempfile.TemporaryDirectory(dir=in_memory if os.access(in_memory, os.W_OK) else None) as folder:
        file = Path(folder) / "test.sqlite3"
        shutil.copyfile(_sqlite_template(), file)
        database = Database(URL.create("sqlite", database=str(file)))
        try:
            yield database
        finally:
            database.close()


@contextmanager
def postgresql_database(server_url: str) -> Iterator[Database]:
    """Give a database on a server with empty tables. It is made once for all tests of a process."""
    database = _shared_postgresql_database(server_url)
    names = [table.name for table in Base.metadata.sorted_tables]
    with database.session() as session:
        # Emptying a table takes ten milliseconds even if it is empty, and a test fills only a few.
        looks = " UNION ALL ".join(
            f"SELECT '{name}' WHERE EXISTS (SELECT 1 FROM {name})"  # noqa: S608 - our own names
            for name in names
        )
        filled = session.scalars(text(looks)).all()
        if filled:
            session.execute(text(f"TRUNCATE {', '.join(filled)} RESTART IDENTITY CASCADE"))
    yield database
    # Forked or hanging users of this test's connections must not meet those of the next.
    database.close()


@contextmanager
def new_postgresql_database(server_url: str) -> Iterator[Database]:
    """Make a database without tables on a server, and drop it in the end."""
    name = f"test_{os.getpid()}_{next(_names)}"
    _on_server(server_url, f"CREATE DATABASE {name}")
    database = Database(make_url(server_url).set(database=name))
    try:
        yield database
    finally:
        database.close()
        _on_server(server_url, f"DROP DATABASE {name} WITH (FORCE)")


def fill_sqlite_file(file: Path) -> None:
    """Give an empty or missing file of SQLite all tables: a copy takes a tenth of the time of the migrations."""
    with _filling:
        file.touch(0o600)
        if file.stat().st_size == 0:
            shutil.copyfile(_sqlite_template(), file)


@cache
def _sqlite_template() -> Path:
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    file = Path(folder) / "template.sqlite3"
    database = Database(URL.create("sqlite", database=str(file)))
    database.migrate()
    database.close()
    return file


@cache
def _shared_postgresql_database(server_url: str) -> Database:
    stack = ExitStack()
    atexit.register(stack.close)
    database = stack.enter_context(new_postgresql_database(server_url))
    database.migrate()
    return database


def _on_server(server_url: str, statement: str) -> None:
    engine = create_engine(server_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()
