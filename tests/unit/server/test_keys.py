from __future__ import annotations

import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from voxelworks import accounts
from voxelworks.client import worker_key_file
from voxelworks.db import Database, open_database
from voxelworks.server.keys import Keys
from voxelworks.server.origin import is_loopback
from voxelworks.server.security import own_path
from voxelworks.server.sse import Frame
from voxelworks.settings import Settings


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(Settings(home=tmp_path))
    with database.session() as session:
        accounts.prepare(session)
    yield database
    database.close()


def test_the_token_is_new_at_every_start_and_the_worker_key_stays(tmp_path, database):
    first = Keys.prepare(tmp_path, database)
    key = worker_key_file(tmp_path).read_text()
    second = Keys.prepare(tmp_path, database)
    assert first.token != second.token
    assert worker_key_file(tmp_path).read_text() == key
    assert stat.S_IMODE(worker_key_file(tmp_path).stat().st_mode) == 0o600
    assert len(first.token) >= 43
    assert first.token not in repr(first)


def test_the_database_knows_the_worker_key_but_does_not_hold_it(tmp_path, database):
    Keys.prepare(tmp_path, database)
    key = worker_key_file(tmp_path).read_text()
    with database.read_session() as session:
        view = accounts.find_worker_key(session, key)
    assert view is not None
    assert view.name == "this machine"
    assert key.encode() not in (tmp_path / "voxelworks.sqlite3").read_bytes()
    assert accounts.enter_by_worker_key(database, key + "x") is None


def test_a_worker_key_that_was_taken_back_is_replaced_at_the_next_start(tmp_path, database):
    Keys.prepare(tmp_path, database)
    revoked = worker_key_file(tmp_path).read_text()
    with database.session() as session:
        [view] = accounts.list_worker_keys(session)
        accounts.revoke_worker_key(session, accounts.local_principal(session), view.id)
    assert accounts.enter_by_worker_key(database, revoked) is None
    Keys.prepare(tmp_path, database)
    fresh = worker_key_file(tmp_path).read_text()
    assert fresh != revoked
    assert accounts.enter_by_worker_key(database, fresh) is not None
    assert accounts.enter_by_worker_key(database, revoked) is None


def test_servers_that_start_together_agree_on_the_worker_key(tmp_path, database):
    def prepare(_: int) -> str:
        Keys.prepare(tmp_path, database)
        return worker_key_file(tmp_path).read_text()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(prepare, range(16)))) == 1
    with database.read_session() as session:
        assert len(accounts.list_worker_keys(session)) == 1


def test_a_token_opens_only_when_it_is_right(tmp_path, database):
    keys = Keys.prepare(tmp_path, database)
    assert keys.is_token(keys.token)
    assert not keys.is_token(worker_key_file(tmp_path).read_text())
    assert not keys.is_token("ü")


def test_loopback_names():
    assert [
        name for name in ("localhost", "127.0.0.1", "127.9.9.9", "::1", "LocalHost.") if not is_loopback(name)
    ] == []
    for name in ("0.0.0.0", "::", "192.168.0.1", "localhost.evil.example", "", "2130706433"):
        assert not is_loopback(name)


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example/x",
        "/\\evil.example/x",
        "\\\\evil.example/x",
        "/\t/evil.example/x",
        " //evil.example/x",
    ],
)
def test_a_redirect_stays_on_this_server(target):
    assert own_path(target) == "/evil.example/x"
    assert own_path("/jobs?state=failed") == "/jobs?state=failed"
    assert own_path("https://evil.example/") == "/https://evil.example/"


def test_an_event_cannot_leave_its_frame():
    assert Frame("a\n\nevent: evil\rdata: b", event="job", id="1").encode() == (
        b"event: job\nid: 1\ndata: a\ndata: \ndata: event: evil\ndata: data: b\n\n"
    )
