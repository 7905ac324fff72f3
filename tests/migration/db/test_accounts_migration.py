"""What a database from before accounts becomes."""

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import URL, text
from sqlalchemy.exc import DBAPIError

from voxelworks import accounts
from voxelworks.db import Database, _migrate
from voxelworks.testing.databases import new_postgresql_database


@pytest.fixture(params=["sqlite", "postgresql"])
def old(request, tmp_path):
    """A database as the version without accounts left it, without rows."""
    if request.param == "postgresql":
        with new_postgresql_database(request.getfixturevalue("postgresql_server")) as database:
            _upgrade(database, "0001")
            yield database
    else:
        database = Database(URL.create("sqlite", database=str(tmp_path / "old.sqlite3")))
        _upgrade(database, "0001")
        yield database
        database.close()


def _upgrade(database, revision):
    config = Config()
    config.set_main_option("script_location", str(_migrate._MIGRATIONS))
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def _add_dataset(database):
    with database.session() as session:
        session.execute(
            text(
                "INSERT INTO datasets (id, name, place, summary, created_ms, updated_ms) "
                "VALUES ('d', 'demo', 'data:demo', '{}', 1, 1)"
            )
        )


def test_a_database_with_datasets_gets_the_user_they_belong_to(old):
    _add_dataset(old)
    _upgrade(old, "0002")
    with old.session() as session:
        (user,) = accounts.list_users(session)
        assert (user.id, user.name, user.email, user.is_operator) == ("local", "Local operator", None, True)
        assert accounts.owner_of(session, "local").id == "local"
        assert session.execute(text("SELECT name FROM datasets")).scalars().all() == ["demo"]
        accounts.prepare(session)
        assert accounts.local_principal(session).role == "owner"


def test_an_empty_database_gets_nobody_until_its_server_starts(old):
    _upgrade(old, "0002")
    with old.session() as session:
        assert accounts.list_users(session) == ()
        accounts.prepare(session)
        assert [user.id for user in accounts.list_users(session)] == ["local"]


@pytest.mark.parametrize("statement", ["UPDATE audit_log SET who = 'x'", "DELETE FROM audit_log"])
def test_the_audit_log_is_protected_from_the_first_line_on(old, statement):
    _upgrade(old, "0002")
    with old.session() as session:
        accounts.audit(session, "server", "x", "y")
    with pytest.raises(DBAPIError, match="audit_log is append-only"), old.session() as session:
        session.execute(text(statement))
