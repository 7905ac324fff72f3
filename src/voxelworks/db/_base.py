"""The base of all tables."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, MetaData, Text
from sqlalchemy.orm import DeclarativeBase

NullableJson = JSON(none_as_null=True)
"""JSON whose None is the database's NULL."""


class Base(DeclarativeBase):
    """Base of all tables: every constraint has a name, so that migrations can speak of it."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {
        str: Text(),
        int: BigInteger(),  # milliseconds and bytes do not fit into 32 bits
        dict[str, Any]: NullableJson,
        list[Any]: NullableJson,
    }
