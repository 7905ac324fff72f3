import stat
import time
import traceback
from contextlib import closing

import pytest
from pydantic import SecretStr
from sqlalchemy import URL, event, text
from sqlalchemy.exc import DBAPIError

from voxelworks.db import Database, now, open_database
from voxelworks.errors import InvalidInput, StorageFailed, TargetNotWritable
from voxelworks.jobs._locks import _FINDING_WAITING
from voxelworks.settings import Settings


def _insert(session, name):
    session.execute(
        text(
            "INSERT INTO idempotency_keys (user_id, organization_id, key, body_sha256, job_id, created_ms)"
            " VALUES ('ada', 'lab', :name, 'sha', 'job', 0)"
        ),
        {"name": name},
    )


def _names(session):
    return session.execute(text("SELECT key FROM idempotency_keys ORDER BY key")).scalars().all()


def test_a_session_commits_at_its_end(database):
    with database.session() as session:
        _insert(session, "kept")
    with database.read_session() as session:
        assert _names(session) == ["kept"]


def test_a_session_that_raises_leaves_nothing(database):
    with pytest.raises(ZeroDivisionError), database.session() as session:  # noqa: PT012 - both belong together
        _insert(session, "lost")
        _ = 1 / 0
    with database.read_session() as session:
        assert _names(session) == []


def test_errors_show_no_values_of_statements(database):
    address = "@".join(["ada", "lab.example"])
    with pytest.raises((DBAPIError, StorageFailed)) as failed, database.session() as session:
        session.execute(text("INSERT INTO no_such_table VALUES (:value)"), {"value": address})
    logged = "".join(traceback.format_exception(failed.value))
    assert "INSERT INTO no_such_table" in logged
    assert address not in logged


def test_errors_show_no_values_of_rows(database):
    address = "@".join(["ada", "lab.example"])
    with database.session() as session:
        _insert(session, address)
    with pytest.raises(DBAPIError) as failed, database.session() as session:
        _insert(session, address)
    logged = "".join(traceback.format_exception(failed.value))
    assert "idempotency_keys" in logged
    assert address not in logged


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT CAST(:value AS integer)",
        "SELECT CAST(:value AS timestamptz)",
        "DO $$ BEGIN RAISE EXCEPTION 'refused' USING DETAIL = 'row ' || current_setting('application_name'); END $$",
    ],
)
def test_errors_of_postgresql_name_no_values(postgresql_server, statement):
    address = "@".join(["ada", "lab.example"])
    with closing(Database(postgresql_server)) as database:
        with database.session() as session:
            session.execute(text("SELECT set_config('application_name', :value, false)"), {"value": address})
        with pytest.raises(DBAPIError) as failed, database.session() as session:
            session.execute(text(statement), {"value": address} if ":value" in statement else {})
    logged = "".join(traceback.format_exception(failed.value))
    assert type(failed.value.orig).__name__ in logged
    assert address not in logged


def test_a_read_session_cannot_write(database):
    with pytest.raises(Exception, match=r"readonly|read-only"), database.read_session() as session:
        _insert(session, "refused")
    with database.session() as session:
        _insert(session, "accepted")  # the connection that refused writes them again
        assert _names(session) == ["accepted"]


def test_a_read_session_sees_one_state_and_holds_up_no_writer(database):
    with database.read_session() as reader:
        assert _names(reader) == []
        with database.session() as session:
            _insert(session, "later")
        assert _names(reader) == []
    with database.read_session() as reader:
        assert _names(reader) == ["later"]


def test_a_glance_sees_what_was_committed_and_leaves_nothing_open(database):
    with database.glance() as glance:
        assert _names(glance) == []
    with database.session() as session:
        _insert(session, "later")
    with database.glance() as glance:
        assert _names(glance) == ["later"]
    # The same connection then keeps transactions again.
    with pytest.raises(ZeroDivisionError), database.session() as session:  # noqa: PT012 - both belong together
        _insert(session, "lost")
        _ = 1 / 0
    with database.read_session() as session:
        assert _names(session) == ["later"]


def test_the_clock_of_the_database_counts_milliseconds_in_utc(database):
    with database.session() as session:
        before = time.time_ns() // 1_000_000
        told = now(session)
        after = time.time_ns() // 1_000_000
    assert before - 1 <= told <= after + 1  # the one on this machine: only rounding may differ


def test_the_clock_does_not_stand_still_within_a_transaction(database):
    with database.session() as session:
        first = now(session)
        deadline = time.monotonic() + 10
        while (second := now(session)) == first:
            assert time.monotonic() < deadline
        assert second > first


def test_sqlite_is_made_in_the_home_folder_for_its_user_alone(tmp_path):
    settings = Settings(home=tmp_path / "home")
    database = open_database(settings)
    with database.session() as session:
        _insert(session, "a")
    database.close()
    assert stat.S_IMODE(settings.home.stat().st_mode) == 0o700
    assert stat.S_IMODE(settings.sqlite_path.stat().st_mode) == 0o600


def test_sqlite_keeps_what_it_committed_and_its_references(tmp_path):
    database = open_database(Settings(home=tmp_path))
    with database.session() as session:
        pragmas = {
            name: session.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    database.close()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}


def test_postgresql_is_opened_by_its_address(postgresql_server):
    database = open_database(Settings(database_url=SecretStr(postgresql_server)))
    assert database.engine.dialect.name == "postgresql"
    database.close()


def test_a_home_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TargetNotWritable) as refused:
        open_database(Settings(home=tmp_path / "file" / "home"))
    assert str(refused.value) == (
        f"{tmp_path}/file/home/voxelworks.sqlite3 cannot be written (Not a directory); "
        "set VOXELWORKS_HOME to a folder of yours"
    )


def test_other_databases_are_refused():
    with pytest.raises(InvalidInput) as refused:
        Database("mysql://localhost/jobs")
    assert (
        str(refused.value) == "'mysql' is not a supported database; use PostgreSQL (postgresql+psycopg://...)"
    )


def test_a_server_that_does_not_answer_is_told_without_its_password():
    url = URL.create(
        "postgresql+psycopg", "ada", "lovelace", "127.0.0.1", 1, "jobs", query={"connect_timeout": "2"}
    )
    database = Database(url)
    with (
        pytest.raises(StorageFailed, match="the database does not answer") as refused,
        database.session() as session,
    ):
        now(session)
    assert "lovelace" not in str(refused.value)


def test_the_database_is_asked_for_the_time_once_in_a_session(database):
    asked = []
    event.listen(
        database.engine, "before_cursor_execute", lambda *arguments: asked.append(arguments[2]), named=False
    )
    with database.session() as session:
        times = [now(session)]
        asked.clear()
        time.sleep(0.02)
        times.append(now(session))
    assert asked == []
    assert 20 <= times[1] - times[0] < 5000


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_connections_that_ended_while_nobody_used_them_are_made_anew(database, monkeypatch):
    with database.session() as session:
        pid = session.scalar(text("SELECT pg_backend_pid()"))
    with closing(Database(database.engine.url)) as other, other.session() as session:
        session.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
    monkeypatch.setattr("voxelworks.db._engine._TRUSTED_S", 0.0)
    with database.session() as session:
        assert session.scalar(text("SELECT pg_backend_pid()")) != pid


def test_a_number_that_no_database_can_take_is_bad_input(database):
    with pytest.raises(InvalidInput, match="cannot take a"), database.session() as session:
        session.execute(text("UPDATE queue_counts SET value = :value"), {"value": 2**70})


def test_lists_of_texts_are_looked_up_by_an_index(database):
    waiting = str(_FINDING_WAITING.compile(database.engine))
    assert "= 1" not in waiting
    with database.session() as session:
        assert session.scalars(_FINDING_WAITING, {"after_ids": ["some", "other"]}).all() == []


def test_a_text_that_no_database_can_take_is_bad_input(postgresql_server):
    with (
        closing(Database(postgresql_server)) as database,
        pytest.raises(InvalidInput, match="character 0"),
        database.session() as session,
    ):
        session.execute(text("SELECT :text"), {"text": "a\0b"})


def test_a_connection_that_ended_a_moment_ago_fails_once(postgresql_server):
    with closing(Database(postgresql_server)) as database, closing(Database(postgresql_server)) as other:
        with database.session() as session:
            pid = session.scalar(text("SELECT pg_backend_pid()"))
        with other.session() as session:
            session.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        with pytest.raises(StorageFailed, match="try again"), database.session() as session:
            session.scalar(text("SELECT 1"))
        with database.session() as session:
            assert session.scalar(text("SELECT 1")) == 1


def test_a_fault_of_ours_is_no_bad_input(database):
    with pytest.raises(OverflowError), database.session():
        int(float("inf"))
