"""Bring the tables of a database to the form that this version needs."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
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
    config = _config()
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except (CommandError, ResolutionError) as error:
        raise StorageFailed(
            f"the database was made by another version of Voxelworks ({error}); "
            "install the version that made it, or a newer one"
        ) from error


def known_revisions() -> frozenset[str]:
    """List the forms of the tables that this version can bring up to date."""
    return frozenset(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def is_up_to_date(connection: Connection) -> bool:
    """Tell whether the tables have the form that this version needs."""
    heads = ScriptDirectory.from_config(_config()).get_heads()
    return set(MigrationContext.configure(connection).get_current_heads()) == set(heads)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config
