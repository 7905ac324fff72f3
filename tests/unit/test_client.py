"""The client against a server that answers as the test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from voxelworks.client import Client, ServerInfo
from voxelworks.errors import (
    InvalidInput,
    LeaseLost,
    LogGap,
    NotAllowed,
    ServerUnreachable,
    VoxelworksError,
)
from voxelworks.protocol.messages import RenewRequest


class Answering(ThreadingHTTPServer):
    """Answers every request with the next of its answers; the last one again and again."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, bytes]] = []
        self.asked: list[str] = []
        self.bodies: list[bytes] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Answering

    def answer(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        self.server.asked.append(f"{self.command} {self.path}")
        status, body = self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def answering() -> Iterator[Answering]:
    with Answering() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def client(answering: Answering) -> Iterator[Client]:
    with Client(answering.url, "token") as client:
        yield client


def problem(status: int, code: str, message: str, **more: int) -> tuple[int, bytes]:
    return status, json.dumps({"code": code, "message": message, **more}).encode()


def test_a_submission_says_only_what_was_asked_for(answering, client):
    """An older server refuses what it does not know."""
    answering.answers = [problem(422, "invalid-input", "the test takes no jobs")]
    options = {"after": ["j"], "group": "g", "priority": -1, "quote_id": "q"}
    for given in ({}, options):
        with pytest.raises(InvalidInput):
            client.submit("downsample", {}, **given)
    assert [json.loads(body) for body in answering.bodies] == [
        {"workflow": "downsample", "params": {}},
        {"workflow": "downsample", "params": {}, **options},
    ]


def test_an_error_arrives_as_the_class_that_the_server_raised(answering, client):
    answering.answers = [problem(409, "lease-lost", "another attempt holds the job")]
    with pytest.raises(LeaseLost, match="another attempt holds the job"):
        client.renew("j", 1, RenewRequest(token="t"))
    answering.answers = [problem(409, "log-gap", "gap", offset=17)]
    with pytest.raises(LogGap) as gap:
        client.append_log("j", 1, "t", 99, b"x")
    assert gap.value.__dict__["offset"] == 17
    answering.answers = [problem(418, "unheard-of", "a newer server's error")]
    with pytest.raises(VoxelworksError, match="a newer server's error"):
        client.list_datasets()
    answering.answers = [problem(401, "not-let-in", "open the address")]
    with pytest.raises(NotAllowed, match="open the address"):
        client.list_datasets()


def test_reading_is_tried_again_when_the_server_is_away_for_a_moment(answering, client):
    answering.answers = [(502, b"bad gateway"), (503, b""), (200, b"[]")]
    assert client.list_datasets() == ()
    assert answering.asked == ["GET /api/v1/datasets"] * 3


def test_a_claim_is_never_repeated_by_itself(answering, client):
    answering.answers = [(502, b""), (204, b"")]
    with pytest.raises(ServerUnreachable):
        client.claim("s")
    assert len(answering.asked) == 1
    assert client.claim("s") is None


def test_no_answer_is_one_clear_error():
    with (
        Client("http://127.0.0.1:9", "token") as client,
        pytest.raises(ServerUnreachable, match="does not answer"),
    ):
        client.show("x")


def test_something_else_than_our_server_is_named(answering, client):
    answering.answers = [(200, b"<html>")]
    with pytest.raises(VoxelworksError, match="is not JSON"):
        client.list_datasets()
    answering.answers = [(404, b"<html>")]
    with pytest.raises(VoxelworksError, match="answers 404 without a reason"):
        client.list_datasets()


def test_names_cannot_change_the_address(answering, client):
    answering.answers = [(404, b"{}")]
    with pytest.raises(VoxelworksError):
        client.show_dataset("../jobs?x=1#y")
    assert answering.asked == ["GET /api/v1/datasets/..%2Fjobs%3Fx%3D1%23y"]


@pytest.mark.parametrize("address", ["http://[", "127.0.0.1:8440", "ftp://host", "", "http://"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(InvalidInput, match="is not the address of a server"):
        Client(address, "token")


def test_server_info_is_read_only_when_it_is_whole(tmp_path):
    file = tmp_path / "server.json"
    assert ServerInfo.read(file) is None
    file.write_text('{"url": "http://127.0.0.1:1"')
    assert ServerInfo.read(file) is None
    info = ServerInfo(url="http://127.0.0.1:1", token="t", pid=3)
    file.write_text(info.model_dump_json())
    assert ServerInfo.read(file) == info
    assert info.entry_url == "http://127.0.0.1:1/?token=t"
