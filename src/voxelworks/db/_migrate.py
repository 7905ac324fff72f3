"""Bring the tables of a database to the form that this version needs."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from sqlalchemy import Connection, text

from voxelworks.errors import StorageFailed

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK_KEY = 0x766F78656C  # "voxel"


def migrate(connection: Connection) -> None:
    """Run the migrations that the database lacks, in the caller's transaction.

    Several servers may start at once: the first one migrates, the others wait and find nothing to do. On SQLite the
    caller's transaction must be a writing one.

    Raises
    ------
    StorageFailed
        If a newer version of the program made the database.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except (CommandError, ResolutionError) as error:
        raise StorageFailed(
            f"the database was made by another version of Voxelworks ({error}); "
            "install the version that made it, or a newer one"
        ) from error
