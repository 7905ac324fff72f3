from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import URL, inspect, text

import voxelworks.accounts
import voxelworks.catalog
import voxelworks.credits
import voxelworks.db
import voxelworks.jobs
import voxelworks.notify
from voxelworks.db import Base, Database
from voxelworks.errors import StorageFailed
from voxelworks.testing.databases import new_postgresql_database

VERSIONS = Path(voxelworks.db.__file__).parent / "migrations" / "versions"


@pytest.fixture(params=["sqlite", "postgresql"])
def make_empty(request, tmp_path):
    """A function that makes a context with a database without tables."""
    if request.param == "postgresql":
        server = request.getfixturevalue("postgresql_server")
        return lambda: new_postgresql_database(server)
    numbers = iter(range(10))
    return lambda: _SqliteDatabase(tmp_path / f"{next(numbers)}.sqlite3")


class _SqliteDatabase:
    def __init__(self, file):
        self.database = Database(URL.create("sqlite", database=str(file)))

    def __enter__(self):
        return self.database

    def __exit__(self, *error):
        self.database.close()


def test_migrations_make_the_tables_that_the_code_declares(make_empty):
    with make_empty() as migrated, make_empty() as declared:
        migrated.migrate()
        with declared.engine.begin() as connection:
            Base.metadata.create_all(connection)
        assert _form(migrated) == _form(declared)


def test_migrating_twice_changes_nothing(make_empty):
    with make_empty() as database:
        database.migrate()
        form = _form(database)
        database.migrate()
        assert _form(database) == form


def test_servers_that_start_together_migrate_once(make_empty):
    with make_empty() as database:
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(database.migrate) for _ in range(4)]:
                done.result()
        with database.engine.begin() as connection:
            versions = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
        newest = max(file.name[:4] for file in VERSIONS.glob("0*.py"))
        assert versions == [newest]


def test_a_database_of_a_newer_version_is_refused(make_empty):
    with make_empty() as database:
        database.migrate()
        with database.engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(StorageFailed, match=r"made by another version of Voxelworks .*9999"):
            database.migrate()


def _form(database):
    """Everything that the database says about its tables."""
    with database.engine.connect() as connection:
        seen = inspect(connection)
        return {
            table: _table_form(seen, connection, table)
            for table in seen.get_table_names()
            if table != "alembic_version"
        }


def _table_form(seen, connection, table):
    return {
        # By name: columns that were added later stand behind the others.
        "columns": {
            column["name"]: {**column, "type": str(column["type"])} for column in seen.get_columns(table)
        },
        "primary key": seen.get_pk_constraint(table),
        "foreign keys": _sorted(seen.get_foreign_keys(table)),
        "unique": _sorted(seen.get_unique_constraints(table)),
        "checks": _sorted(seen.get_check_constraints(table)),
        "indexes": _index_texts(connection, table),
    }


def _sorted(constraints):
    return sorted(constraints, key=lambda constraint: constraint["name"])


def _index_texts(connection, table):
    # As the database itself writes them: the inspector of SQLite knows no order and no condition.
    if connection.dialect.name == "sqlite":
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = :table ORDER BY name"
    else:
        query = "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = :table ORDER BY indexname"
    return [tuple(row) for row in connection.execute(text(query), {"table": table})]
