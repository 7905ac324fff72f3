"""The database: engine, sessions, the base of all tables, and migrations.

SQLite is the default and serves one machine; PostgreSQL serves several. Both keep the same promises:

* writers of one row follow each other (row locks, or SQLite's one writer at a time),
* a transaction that was committed is there after a crash,
* every date is the clock of the database, in UTC, in integer milliseconds.
"""

from voxelworks.db._among import among, texts
from voxelworks.db._append_only import (
    APPEND_ONLY,
    append_only_statements,
    changes_let_through,
    refuse_changes,
)
from voxelworks.db._base import Base, NullableJson
from voxelworks.db._clock import now, now_ms
from voxelworks.db._dump import (
    dump_postgresql,
    dump_sqlite,
    require_known,
    restore_postgresql,
    revision_of,
)
from voxelworks.db._engine import Database, open_database
from voxelworks.db._insert import dialect_of, insert_into
from voxelworks.db._migrate import is_up_to_date, migrate
from voxelworks.db._mounts import Mount, refuse_network_file_system, require_local_database
from voxelworks.db._secrets import SecretBox

__all__ = [
    "APPEND_ONLY", "Base", "Database", "Mount", "NullableJson", "SecretBox", "among", "append_only_statements",
    "changes_let_through", "dialect_of", "dump_postgresql", "dump_sqlite", "insert_into", "is_up_to_date", "migrate",
    "now", "now_ms", "open_database", "refuse_changes", "refuse_network_file_system", "require_known",
    "require_local_database", "restore_postgresql", "revision_of", "texts",
]  # fmt: skip
