from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor

from voxelworks.client import worker_key_file
from voxelworks.server.keys import SESSIONS_MAX, BrowserSessions, Keys
from voxelworks.server.security import is_loopback
from voxelworks.server.sse import Frame


def test_the_token_is_new_at_every_start_and_the_worker_key_stays(tmp_path):
    first, second = Keys.prepare(tmp_path), Keys.prepare(tmp_path)
    assert first.token != second.token
    assert first.worker_key == second.worker_key
    assert stat.S_IMODE(worker_key_file(tmp_path).stat().st_mode) == 0o600
    assert len(first.token) >= 43
    assert first.token not in repr(first)


def test_servers_that_start_together_agree_on_the_worker_key(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(Keys.prepare, [tmp_path] * 16))
    assert len({key.worker_key for key in keys}) == 1


def test_a_key_opens_only_when_it_is_right(tmp_path):
    keys = Keys.prepare(tmp_path)
    assert keys.is_token(keys.token)
    assert not keys.is_token(keys.worker_key)
    assert not keys.is_worker_key("")
    assert not keys.is_token("ü")


def test_a_browser_session_ends_when_it_is_closed_or_pushed_out():
    sessions = BrowserSessions()
    first = sessions.open()
    assert sessions.is_open(first)
    sessions.close(first)
    assert not sessions.is_open(first)
    oldest, *_ = [sessions.open() for _ in range(SESSIONS_MAX + 1)]
    assert not sessions.is_open(oldest)


def test_loopback_names():
    assert [
        name for name in ("localhost", "127.0.0.1", "127.9.9.9", "::1", "LocalHost.") if not is_loopback(name)
    ] == []
    for name in ("0.0.0.0", "::", "192.168.0.1", "localhost.evil.example", "", "2130706433"):
        assert not is_loopback(name)


def test_an_event_cannot_leave_its_frame():
    assert Frame("a\n\nevent: evil\rdata: b", event="job", id="1").encode() == (
        b"event: job\nid: 1\ndata: a\ndata: \ndata: event: evil\ndata: data: b\n\n"
    )
