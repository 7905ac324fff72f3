"""Run migrations on the connection that `db.migrate` hands over, in its transaction.

A new migration is a file in `versions/`, written by hand; `tests/migration` compares its outcome with the tables.
"""

from alembic import context

from voxelworks.db._base import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite cannot alter columns in place
)
context.run_migrations()
