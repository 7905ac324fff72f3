"""The database: engine, sessions, the base of all tables, and migrations.

SQLite is the default and serves one machine; PostgreSQL serves several. Both keep the same promises:

* writers of one row follow each other (row locks, or SQLite's one writer at a time),
* a transaction that was committed is there after a crash,
* every date is the clock of the database, in UTC, in integer milliseconds.
"""

from voxelworks.db._base import Base, NullableJson
from voxelworks.db._clock import now, now_ms
from voxelworks.db._engine import Database, open_database
from voxelworks.db._insert import insert_into
from voxelworks.db._migrate import migrate
from voxelworks.db._mounts import Mount, refuse_network_file_system

__all__ = [
    "Base", "Database", "Mount", "NullableJson", "insert_into", "migrate", "now", "now_ms", "open_database",
    "refuse_network_file_system",
]  # fmt: skip
