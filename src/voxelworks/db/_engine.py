"""Engine and sessions."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    InterfaceError,
    InvalidatePoolError,
    NoSuchModuleError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from voxelworks.db._migrate import migrate
from voxelworks.db._mounts import require_local_database
from voxelworks.errors import InvalidInput, StorageFailed, TargetNotWritable
from voxelworks.settings import Settings

log = logging.getLogger(__name__)

_BUSY_TIMEOUT_MS = 30_000
_OPTIONS: dict[str, Any] = {
    "pool_size": 20, "max_overflow": 20, "pool_use_lifo": True, "hide_parameters": True,
    "json_deserializer": from_json,
}  # fmt: skip
"""The server answers up to 40 requests side by side, and to open a connection takes longer than most of them. The one
that was used last is used first: the others may rest. JSON is read by pydantic, twice as fast as by the standard
library: a long list holds a thousand texts.

Errors end in logs, where nobody looks for mail addresses and hashes of tokens: they show statements without values; see
`_hide_values`.
"""
_READING = "voxelworks_is_reading"
_TRUSTED_S = 1.0
"""A connection that was used so recently is used again without asking whether the server is still there. If it is not,
the request is told to try again."""
_USED_S = "voxelworks_used_s"
_OUT_OF_RANGE, _NO_SUCH_CHARACTER = "22003", "22021"
"""SQLSTATE of PostgreSQL: `numeric_value_out_of_range`, `character_not_in_repertoire`."""
_BAD_VALUE = "22"
"""Class of SQLSTATE: messages quote the value that does not fit."""


class Database:
    """A database with its connection pool.

    Parameters
    ----------
    url
        SQLAlchemy address: `sqlite:///FILE` or `postgresql+psycopg://...`.
    """

    def __init__(self, url: str | URL) -> None:
        parsed = make_url(url)
        self._write_lock: threading.Lock | None = None
        if parsed.get_backend_name() == "sqlite":
            self._engine = _sqlite_engine(parsed)
            self._write_lock = threading.Lock()
            self._reading_engine = self._engine.execution_options(**{_READING: True})
            self._glancing_engine = self._reading_engine
        elif parsed.get_backend_name() == "postgresql":
            self._engine = _postgresql_engine(parsed)
            self._reading_engine = self._engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            self._glancing_engine = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        else:
            raise InvalidInput(
                f"{parsed.get_backend_name()!r} is not a supported database; use PostgreSQL (postgresql+psycopg://...)"
            )

    @property
    def engine(self) -> Engine:
        return self._engine

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Give a session that may write: committed at the end of the block, rolled back if it raises.

        On SQLite its transaction takes the write lock at once, so what it has read cannot change before it writes.

        Raises
        ------
        StorageFailed
            If the database does not answer; the transaction may then be repeated.
        """
        with (
            _answering(),
            _taking_values(),
            self._turn_to_write(),
            Session(self._engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    @contextmanager
    def read_session(self) -> Iterator[Session]:
        """Give a session that sees one state of the database, cannot write, and holds up no writer."""
        with _answering(), _taking_values(), Session(self._reading_engine) as session, session.begin():
            yield session

    @contextmanager
    def glance(self) -> Iterator[Session]:
        """Give a session for one statement that reads: what begins and ends a transaction would take longer than it."""
        with _answering(), _taking_values(), Session(self._glancing_engine) as session:
            yield session

    @contextmanager
    def _turn_to_write(self) -> Iterator[None]:
        """Let the threads of this process write one after another where the database has one writer.

        SQLite itself sleeps and tries again, longer each time: many threads would wait although nobody writes.
        """
        if self._write_lock is None:
            yield
            return
        if not self._write_lock.acquire(timeout=_BUSY_TIMEOUT_MS / 1000):
            raise StorageFailed("the database is busy with another write; try again")
        try:
            yield
        finally:
            self._write_lock.release()

    def migrate(self) -> None:
        """Make or change the tables as this version needs them."""
        with _answering(), self._engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                with _foreign_keys_checked_at_end(connection):
                    migrate(connection)
            else:
                with connection.begin():
                    migrate(connection)

    def close(self) -> None:
        self._engine.dispose()


def open_database(settings: Settings) -> Database:
    """Open the database of the settings, with its tables in the form that this version needs.

    Raises
    ------
    NetworkFileSystem
        If SQLite would lie on a network file system.
    TargetNotWritable
        If the folder of the SQLite database cannot be made or written.
    StorageFailed
        If the database does not answer, or a newer version made it.
    """
    require_local_database(settings)
    if settings.database_url is not None:
        database = Database(settings.database_url.get_secret_value())
    else:
        _make_private_file(settings.sqlite_path)
        database = Database(URL.create("sqlite", database=str(settings.sqlite_path)))
    try:
        database.migrate()
    except BaseException:
        database.close()
        raise
    return database


def _make_private_file(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise TargetNotWritable(
            f"{path} cannot be written ({error.strerror}); set VOXELWORKS_HOME to a folder of yours"
        ) from error


@contextmanager
def _answering() -> Iterator[None]:
    """Tell a database that does not answer from a fault of ours."""
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeoutError) as error:
        # The driver's words only: the text of SQLAlchemy's error would show statements and values.
        reason = str(error.orig if isinstance(error, DBAPIError) else error).strip().partition("\n")[0]
        raise StorageFailed(f"the database does not answer ({reason}); try again when it is back") from error


@contextmanager
def _taking_values() -> Iterator[None]:
    """Tell values that no column can hold from a fault of ours. They come with requests, whose types are wider."""
    try:
        yield
    except (DataError, OverflowError) as error:
        if not _is_beyond_columns(error):
            raise
        log.warning("refused a value that the database cannot hold: %s", type(error).__name__)
        raise InvalidInput(
            "the database cannot take a value of this request: numbers have at most 64 bits, and texts no character 0"
        ) from error


def _is_beyond_columns(error: DataError | OverflowError) -> bool:
    if isinstance(error, OverflowError):
        return "SQLite" in str(error)
    # None: refused by the driver, which looks for the character 0.
    return getattr(error.orig, "sqlstate", None) in (None, _OUT_OF_RANGE, _NO_SUCH_CHARACTER)


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(url, **_OPTIONS)
    event.listen(engine, "connect", _prepare_sqlite_connection)
    event.listen(engine, "begin", _begin_sqlite_transaction)
    return engine


def _prepare_sqlite_connection(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # The driver would begin transactions by itself, and only before the first write: too late for R5.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    # With NORMAL a power cut could take back a job's end that a worker was already told.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite_transaction(connection: Connection) -> None:
    is_reading = connection.get_execution_options().get(_READING, False)
    connection.exec_driver_sql(f"PRAGMA query_only = {'ON' if is_reading else 'OFF'}")
    # IMMEDIATE: two transactions that read first and write later would refuse each other (R5).
    connection.exec_driver_sql("BEGIN" if is_reading else "BEGIN IMMEDIATE")


@contextmanager
def _foreign_keys_checked_at_end(connection: Connection) -> Iterator[None]:
    """Run a transaction that may break foreign keys on its way.

    SQLite changes a table by making it anew, and refuses to drop the old one while rows of others name its rows. It can
    be told to look away only outside of a transaction.
    """
    driver = connection.connection.driver_connection
    assert driver is not None
    driver.execute("PRAGMA foreign_keys = OFF")
    try:
        with connection.begin():
            yield
            broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
            if broken is not None:
                raise StorageFailed(
                    f"a row of table {broken[0]!r} names a row of {broken[2]!r} that is not there; nothing was "
                    "changed: restore the database from a backup, or ask for help"
                )
    finally:
        driver.execute("PRAGMA foreign_keys = ON")


def _postgresql_engine(url: URL) -> Engine:
    try:
        engine = create_engine(url, **_OPTIONS)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise InvalidInput(
            f"the driver for {url.drivername} is not installed; run `pip install 'voxelworks[postgres]'` "
            "and write the address as postgresql+psycopg://..."
        ) from error
    event.listen(engine, "checkin", _note_use)
    event.listen(engine, "handle_error", _hide_values)
    event.listen(engine, "checkout", _Pinging(engine))
    return engine


def _hide_values(context: ExceptionContext) -> None:
    """Take out of an error of PostgreSQL what quotes a row: its DETAIL, and the message where that names a value."""
    original = context.original_exception
    sqlstate = getattr(original, "sqlstate", None)
    if sqlstate is None:  # not said by the server
        return
    kind = type(original).__name__
    primary = getattr(original, "diag").message_primary  # noqa: B009 - of psycopg, which may not be installed
    message = kind if sqlstate.startswith(_BAD_VALUE) else str(primary or kind)
    original.args = (message,)
    if context.sqlalchemy_exception is not None:
        context.sqlalchemy_exception.args = (f"({type(original).__module__}.{kind}) {message}",)


def _note_use(_connection: DBAPIConnection | None, entry: ConnectionPoolEntry) -> None:
    entry.info[_USED_S] = time.monotonic()


@dataclass(frozen=True)
class _Pinging:
    """Finds connections that ended while nobody used them, before a transaction begins on one."""

    engine: Engine

    def __call__(
        self, connection: DBAPIConnection, entry: ConnectionPoolEntry, _proxy: PoolProxiedConnection
    ) -> None:
        used_s = entry.info.get(_USED_S)
        if used_s is None or time.monotonic() - used_s < _TRUSTED_S:
            return  # just made, or in use a moment ago
        dialect = self.engine.dialect
        try:
            dialect.do_ping(connection)
        except dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error
