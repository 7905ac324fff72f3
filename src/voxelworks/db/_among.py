"""`IN` with all values in one parameter, on both databases.

With a parameter for each value, the statement is another one for each number of them: it is put together, read and
planned anew every time.
"""

from __future__ import annotations

from typing import Any, Self

from sqlalchemy import JSON, BindParameter, Boolean, Text, bindparam
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.operators import OperatorType
from sqlalchemy.types import TypeDecorator, TypeEngine


class among(FunctionElement[bool]):  # noqa: N801 - an SQL function, written like those of sqlalchemy.func
    """Whether a text is one of several: `among(JobRow.id, texts("ids"))`."""

    type = Boolean()
    inherit_cache = True

    def self_group(self, against: OperatorType | None = None) -> Self:  # noqa: ARG002 - as in SQLAlchemy
        # SQLAlchemy would compare it with 1 on SQLite, which has no booleans: no index serves that.
        return self


def texts(name: str) -> BindParameter[list[str]]:
    """Make a parameter whose value is a list of texts."""
    return bindparam(name, type_=_Texts())


class _Texts(TypeDecorator[list[str]]):
    impl = JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(ARRAY(Text()) if dialect.name == "postgresql" else JSON())


@compiles(among, "postgresql")
def _among_in_postgresql(element: among, compiler: SQLCompiler, **options: Any) -> str:
    text, several = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{text} = ANY ({several})"


@compiles(among, "sqlite")
def _among_in_sqlite(element: among, compiler: SQLCompiler, **options: Any) -> str:
    text, several = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{text} IN (SELECT value FROM json_each({several}))"  # noqa: S608 - clauses, not values
