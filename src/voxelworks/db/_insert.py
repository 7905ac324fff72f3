"""`INSERT ... ON CONFLICT` on both databases."""

from __future__ import annotations

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from voxelworks.db._base import Base


def insert_into(where: Session | str, table: type[Base]) -> postgresql.Insert | sqlite.Insert:
    """Begin an INSERT that may say what happens on a conflict.

    Parameters
    ----------
    where
        A session, or what `dialect_of` gives for it: for statements that are made once.
    """
    if (where if isinstance(where, str) else dialect_of(where)) == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


def dialect_of(session: Session) -> str:
    """Name the kind of database: `sqlite` or `postgresql`."""
    return session.get_bind().dialect.name
