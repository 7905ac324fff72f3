"""A file is sent as a whole, in ranges, or not again, as RFC 9110 has it."""

import asyncio
from email.utils import formatdate
from io import FileIO
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from voxelworks.server import sending
from voxelworks.server.sending import send_file

CONTENT = bytes(range(200))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("sending") / "shard"
    path.write_bytes(CONTENT)
    return path


def ask(path, method="GET", name="shard", **headers):
    """Give status, headers and body, as they go over the wire."""
    sent = []

    async def receive():
        await asyncio.sleep(3600)

    async def send(message):
        sent.append(message)

    raw = [(key.replace("_", "-").encode(), value.encode()) for key, value in headers.items()]
    scope = {"type": "http", "method": method, "path": "/", "headers": raw, "query_string": b""}
    file = FileIO(path)
    response = send_file(Request(scope), file, name)
    asyncio.run(response(scope, receive, send))
    assert file.closed
    start, *rest = sent
    told = {key.decode(): value.decode() for key, value in start["headers"]}
    return start["status"], told, b"".join(message.get("body", b"") for message in rest)


def test_a_file_is_given_whole(path):
    status, headers, body = ask(path)
    assert (status, body) == (200, CONTENT)
    assert headers["content-length"] == "200"
    assert headers["accept-ranges"] == "bytes"
    assert headers["cache-control"] == "private, no-cache"
    assert headers["last-modified"] == formatdate(path.stat().st_mtime, usegmt=True)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("bytes=0-0", (0, 1)), ("bytes=10-19", (10, 20)), ("bytes=190-", (190, 200)), ("bytes=-20", (180, 200)),
        ("bytes=0-999", (0, 200)), ("bytes=-999", (0, 200)), ("bytes= 10 - 19", (10, 20)),
    ],
)  # fmt: skip
def test_a_range_is_given_as_a_part(path, asked, expected):
    start, stop = expected
    status, headers, body = ask(path, range=asked)
    assert (status, body) == (206, CONTENT[start:stop])
    assert headers["content-range"] == f"bytes {start}-{stop - 1}/200"
    assert headers["content-length"] == str(stop - start)


@pytest.mark.parametrize("asked", ["bytes=200-", "bytes=500-600", "bytes=-0"])
def test_a_range_outside_the_file_is_refused_with_its_size(path, asked):
    status, headers, body = ask(path, range=asked)
    assert (status, body, headers["content-range"]) == (416, b"", "bytes */200")


@pytest.mark.parametrize(
    "asked",
    ["bytes=5-2", "bytes=-", "bytes=a-b", "lines=0-1", "bytes=0-1,5-6", "bytes=" + "9" * 30 + "-", ""],
)
def test_what_is_no_single_range_gets_the_whole_file(path, asked):
    status, _, body = ask(path, range=asked)
    assert (status, body) == (200, CONTENT)


def test_a_question_for_the_head_gets_no_body(path):
    status, headers, body = ask(path, "HEAD", range="bytes=0-9")
    assert (status, body, headers["content-length"]) == (200, b"", "200")


def test_who_has_the_file_as_it_is_gets_it_not_again(path):
    _, known, _ = ask(path)
    for headers in (
        {"if_none_match": known["etag"]},
        {"if_none_match": f'"other", W/{known["etag"]}'},
        {"if_none_match": "*"},
        {"if_modified_since": known["last-modified"]},
        {"if_none_match": known["etag"], "range": "bytes=0-9"},
    ):
        status, told, body = ask(path, **headers)
        assert (status, body, told["etag"]) == (304, b"", known["etag"])


def test_who_has_another_file_gets_it(path):
    for headers in (
        {"if_none_match": '"other"'},
        {"if_none_match": '"other"', "if_modified_since": formatdate(2**31, usegmt=True)},
        {"if_modified_since": formatdate(0, usegmt=True)},
        {"if_modified_since": "yesterday"},
    ):
        assert ask(path, **headers)[0] == 200


def test_a_range_of_a_file_that_has_changed_since_gets_the_whole_file(path):
    _, known, _ = ask(path)
    assert ask(path, range="bytes=0-9", if_range=known["etag"])[0] == 206
    assert ask(path, range="bytes=0-9", if_range=known["last-modified"])[0] == 206
    assert ask(path, range="bytes=0-9", if_range='"other"')[0] == 200


def test_a_file_that_takes_the_place_of_another_has_another_tag(tmp_path):
    path = tmp_path / "zarr.json"
    tags = []
    for text in ("{}", "[]"):
        fresh = tmp_path / "fresh"
        fresh.write_text(text)
        fresh.replace(path)
        tags.append(ask(path)[1]["etag"])
    assert tags[0] != tags[1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("zarr.json", "application/json"), (".zattrs", "application/json"), ("info", "application/json"),
        ("c.0", "application/octet-stream"), ("page.html", "application/octet-stream"),
        ("image.svg", "application/octet-stream"),
    ],
)  # fmt: skip
def test_only_metadata_is_told_apart(path, name, expected):
    assert ask(path, name=name)[1]["content-type"] == expected


def test_an_empty_file_is_given(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert ask(tmp_path / "empty")[0] == 200
    assert ask(tmp_path / "empty", range="bytes=0-")[0] == 416


@settings(deadline=None)
@given(
    piece=st.integers(1, 250),
    cuts=st.lists(st.integers(1, 199), unique=True, max_size=5).map(sorted),
)
def test_ranges_side_by_side_make_the_file_however_it_is_read(path, piece, cuts):
    """Small pieces make the answer a stream."""
    before, sending.PIECE_BYTES = sending.PIECE_BYTES, piece
    try:
        bounds = [0, *cuts, 200]
        parts = [ask(path, range=f"bytes={a}-{b - 1}")[2] for a, b in pairwise(bounds)]
        assert b"".join(parts) == ask(path)[2] == CONTENT
    finally:
        sending.PIECE_BYTES = before
