"""Tables that only grow: the database itself refuses to change or delete their rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import DDL, Table, event, text
from sqlalchemy.orm import Session

from voxelworks.db._base import Base

APPEND_ONLY = "append_only"
"""Key in `Table.info` of the tables that `refuse_changes` was called for."""


def refuse_changes(row: type[Base]) -> None:
    """Let both databases refuse UPDATE and DELETE on a table, whoever asks.

    This covers tables made from the declarations; the migration that makes the table executes
    `append_only_statements` itself.
    """
    table = row.__table__
    assert isinstance(table, Table), "a mapped class without a table of its own"
    table.info[APPEND_ONLY] = True
    for dialect in ("sqlite", "postgresql"):
        for statement in append_only_statements(table.name, dialect):
            # DDL() takes a per cent sign for a placeholder.
            ddl = DDL(statement.replace("%", "%%"))  # type: ignore[no-untyped-call]
            event.listen(table, "after_create", ddl.execute_if(dialect=dialect))


def append_only_statements(table: str, dialect: str) -> tuple[str, ...]:
    """Give the statements that protect a table.

    Parameters
    ----------
    table
        One of our own names.
    dialect
        `sqlite` or `postgresql`.
    """
    refusal = f"{table} is append-only"
    if dialect == "sqlite":
        return tuple(
            f"CREATE TRIGGER {table}_refuses_{verb.lower()} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{refusal}'); END"
            for verb in ("UPDATE", "DELETE")
        )
    make_function = (
        f"CREATE FUNCTION {table}_refuses() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{refusal}' USING ERRCODE = 'restrict_violation'; END $$"
    )
    make_trigger = (
        f"CREATE TRIGGER {table}_refuses_changes BEFORE UPDATE OR DELETE ON {table} "
        f"FOR EACH ROW EXECUTE FUNCTION {table}_refuses()"
    )
    return make_function, make_trigger


@contextmanager
def changes_let_through(session: Session, table: Table) -> Iterator[None]:
    """Lift the protection of a table inside this transaction: for tests that let time pass."""
    assert table.info.get(APPEND_ONLY), f"{table.name} is not append-only"
    if session.get_bind().dialect.name == "sqlite":
        for verb in ("update", "delete"):
            session.execute(text(f"DROP TRIGGER {table.name}_refuses_{verb}"))
        yield
        for statement in append_only_statements(table.name, "sqlite"):
            session.execute(text(statement))
    else:
        session.execute(text(f"ALTER TABLE {table.name} DISABLE TRIGGER {table.name}_refuses_changes"))
        yield
        session.execute(text(f"ALTER TABLE {table.name} ENABLE TRIGGER {table.name}_refuses_changes"))
