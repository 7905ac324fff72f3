"""The log of a job: kept, and sent without loss."""

from __future__ import annotations

import random
import time
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxelworks.client import Client
from voxelworks.errors import LeaseLost, LogGap, ServerUnreachable, StorageFailed, VoxelworksError
from voxelworks.worker import logs
from voxelworks.worker.logs import LogForwarder, LogSpool


class UnreliableServer:
    """Takes a log as the real one does, but sometimes fails, before or after it has taken something."""

    FAILURES = (
        ServerUnreachable("no answer"),
        StorageFailed("the database does not answer"),
        VoxelworksError("a defect of the server"),
    )

    def __init__(self, seed: int, failures: int) -> None:
        self.log = b""
        self._random = random.Random(seed)
        self._failures = failures

    def append_log(self, job_id: str, attempt: int, token: str, offset: int, data: bytes) -> int:
        fault = self._random.choice(["before", "after", "restart", "none"]) if self._failures else "none"
        self._failures -= fault != "none"
        if fault == "before":
            raise self._random.choice(self.FAILURES)
        if fault == "restart":
            self.log = self.log[: len(self.log) // 2]
        if offset > len(self.log):
            raise LogGap("a gap", len(self.log))
        self.log = self.log[:offset] + data if offset + len(data) > len(self.log) else self.log
        if fault == "after":
            raise self._random.choice(self.FAILURES)
        return len(self.log)


@given(
    seed=st.integers(0, 2**32),
    pieces=st.lists(st.binary(max_size=200), max_size=8),
    failures=st.integers(0, 6),
)
def test_the_server_gets_every_byte_once_whatever_network_and_server_do(
    seed: int, pieces: list[bytes], failures: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "CHUNK_BYTES", 64)
        patch.setattr(logs, "SEND_EVERY_S", 0.001)
        patch.setattr(logs, "RETRY_S", 0.0)
        spool, server = LogSpool(10**6), UnreliableServer(seed, failures)
        forwarder = LogForwarder(spool, cast(Client, server), "job", 1, "token")
        forwarder.start()
        for piece in pieces:
            spool.write(piece)
        assert forwarder.finish(10)
        forwarder.stop(10)
        spool.close()
    assert server.log == b"".join(pieces)


class ClosedServer:
    def append_log(self, *_: object) -> int:
        raise LeaseLost("its log is closed")


def test_a_server_that_takes_no_more_is_not_asked_for_ever() -> None:
    spool = LogSpool(10**6)
    spool.write(b"too late")
    forwarder = LogForwarder(spool, cast(Client, ClosedServer()), "job", 1, "token")
    forwarder.start()
    assert forwarder.finish(10)
    forwarder.join(10)
    assert not forwarder.is_alive()
    spool.close()


class BrokenServer:
    def append_log(self, *_: object) -> int:
        raise KeyError("offset")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_a_forwarder_that_has_died() -> None:
    spool = LogSpool(10**6)
    spool.write(b"never sent")
    forwarder = LogForwarder(spool, cast(Client, BrokenServer()), "job", 1, "token")
    forwarder.start()
    began_at = time.monotonic()
    assert not forwarder.finish(30)
    forwarder.stop(30)
    assert time.monotonic() - began_at < 10
    spool.close()


def test_a_forwarder_gives_up_in_time() -> None:
    spool, server = LogSpool(10**6), UnreliableServer(0, failures=10**9)
    spool.write(b"never sent")
    server.append_log = lambda *_: (_ for _ in ()).throw(ServerUnreachable("no answer"))  # type: ignore[method-assign]
    forwarder = LogForwarder(spool, cast(Client, server), "job", 1, "token")
    forwarder.start()
    began_at = time.monotonic()
    forwarder.stop(0.2)
    forwarder.join(10)
    assert not forwarder.is_alive()
    assert time.monotonic() > began_at
    spool.close()


def test_what_exceeds_the_limit_is_dropped_but_the_server_can_see_that_there_was_more() -> None:
    spool = LogSpool(1000)
    for _ in range(10):
        spool.write(b"x" * 100_000)
    assert spool.size == 1000 + logs.CHUNK_BYTES
    spool.close()


def test_the_last_lines_are_whole_lines() -> None:
    spool = LogSpool(10**6)
    spool.write("".join(f"Zeile {number} µ\n" for number in range(1000)).encode())
    assert spool.last_lines(2) == "Zeile 998 µ\nZeile 999 µ"
    assert spool.last_lines(1000, bytes_max=20) == "Zeile 999 µ"
    spool.close()
