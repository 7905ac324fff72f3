"""Copies of the whole database: taken while it is in use, and put back."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

from alembic.runtime.migration import MigrationContext
from sqlalchemy import URL, Engine, create_engine, inspect, text

from voxelworks.db._migrate import known_revisions
from voxelworks.errors import InvalidInput, StorageFailed, TargetExists


def dump_sqlite(source: Path, target: Path) -> None:
    """Copy a SQLite database as it is at one moment, while others read and write it.

    Raises
    ------
    StorageFailed
        If it cannot be read, or is damaged.
    """
    try:
        with (
            closing(
                sqlite3.connect(source.absolute().as_uri() + "?mode=rw", uri=True, timeout=30)
            ) as original,
            closing(sqlite3.connect(target)) as copy,
        ):
            # In one go: in several, each write of others would make it begin anew. With its log it holds up nobody.
            original.backup(copy)
            # One file, without a log beside it.
            copy.execute("PRAGMA journal_mode = DELETE")
            verdict = copy.execute("PRAGMA quick_check").fetchone()[0]
    except sqlite3.Error as error:
        raise StorageFailed(f"the database {source} cannot be copied: {error}") from error
    if verdict != "ok":
        raise StorageFailed(f"the database {source} is damaged ({verdict}); restore an earlier backup")


def dump_postgresql(url: URL, target: Path) -> None:
    """Copy a PostgreSQL database as it is at one moment.

    Raises
    ------
    InvalidInput
        If `pg_dump` is not installed.
    StorageFailed
    """
    _run("pg_dump", url, "--format=custom", "--no-owner", "--no-privileges", f"--file={target}")


def restore_postgresql(url: URL, dump: Path, *, put_aside: str | None) -> bool:
    """Fill a PostgreSQL database from a copy, all or nothing.

    Parameters
    ----------
    url
    dump
    put_aside
        Name of the schema that keeps the tables that are there; None to refuse a database that has some.

    Returns
    -------
    bool
        Whether there were tables, which are now in the schema `put_aside`.

    Raises
    ------
    TargetExists
        If it has tables already that shall stay, or somebody is connected to it.
    InvalidInput
        If `pg_restore` is not installed.
    StorageFailed
    """
    engine = create_engine(url)
    try:
        has_tables = _require_free(engine, put_aside)
        if has_tables:
            with engine.begin() as connection:
                connection.execute(text(f"ALTER SCHEMA public RENAME TO {put_aside}"))
                connection.execute(text("CREATE SCHEMA public"))
        try:
            _run(
                "pg_restore", url, "--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges",
                str(dump),
            )  # fmt: skip
        except BaseException:
            if has_tables:
                with engine.begin() as connection:
                    connection.execute(text("DROP SCHEMA public"))
                    connection.execute(text(f"ALTER SCHEMA {put_aside} RENAME TO public"))
            raise
    finally:
        engine.dispose()
    return has_tables


def _require_free(engine: Engine, put_aside: str | None) -> bool:
    """Refuse a database that is in use; tell whether it has tables."""
    with engine.connect() as connection:
        has_tables = bool(inspect(connection).get_table_names())
        others = connection.scalar(
            text(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        )
    if others:
        raise TargetExists(
            f"{others} programs are connected to the database {engine.url.database}; stop all servers first"
        )
    if has_tables and put_aside is None:
        raise TargetExists(
            f"the database {engine.url.database} has tables already; name an empty one, or give --replace"
        )
    return has_tables


def revision_of(url: URL) -> str | None:
    """Give the form of a database's tables; None if it has none of ours."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()


def require_known(revision: str | None) -> None:
    """Refuse tables that a newer version of the program made.

    Raises
    ------
    InvalidInput
    """
    if revision is not None and revision not in known_revisions():
        raise InvalidInput(
            f"the backup was made by another version of Voxelworks (its tables are {revision});"
            " install the version that made it, or a newer one"
        )


def _run(program: str, url: URL, *arguments: str) -> None:
    if shutil.which(program) is None:
        raise InvalidInput(
            f"{program} is not installed; it comes with PostgreSQL's client programs (Debian: postgresql-client)"
        )
    # The password goes through the environment: others on this machine can read arguments.
    plain = url._replace(drivername="postgresql", password=None).render_as_string(hide_password=False)
    environment = {**os.environ, "PGCONNECT_TIMEOUT": "30"}
    if url.password is not None:
        environment["PGPASSWORD"] = url.password
    ended = subprocess.run(
        [program, f"--dbname={plain}", *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    if ended.returncode:
        reason = (ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"])[-1]
        raise StorageFailed(f"{program} failed: {reason}")
