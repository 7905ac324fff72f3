"""Uploads over HTTP: sent by the client, resumed, and converted."""

from __future__ import annotations

import hashlib
import threading

import pytest

from voxelworks.client import Client, _sending, _transport
from voxelworks.errors import InvalidInput, NotAllowed, ServerUnreachable, SourceNotFound, TargetExists
from voxelworks.protocol.messages import SealedResult
from voxelworks.protocol.uploads import PIECE_BYTES, MissingFile, NewFile, NewUpload, Piece, pack

PROPERTIES = {
    "id": {"name": "made", "team": ""}, "scale": {"factor": [4, 4, 40], "unit": "nanometer"},
    "dataLayers": [
        {
            "name": "color", "category": "color", "elementClass": "uint8", "dataFormat": "zarr3", "numChannels": 1,
            "boundingBox": {"topLeft": [0, 0, 0], "width": 8, "height": 8, "depth": 8},
            "mags": [{"mag": [1, 1, 1], "path": "./color/1"}],
        }
    ],
}  # fmt: skip


@pytest.fixture
def stack(tmp_path):
    """Files of a few bytes, and one of several pieces."""
    contents = {f"s{number}.tif": f"{tmp_path} {number}".encode() for number in range(40)}
    contents["more/large.tif"] = bytes(range(256)) * (2 * PIECE_BYTES // 256) + b"end"
    for path, content in contents.items():
        (tmp_path / "stack" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "stack" / path).write_bytes(content)
    return {path: tmp_path / "stack" / path for path in contents}


def _stored(served, upload):
    home = served.settings.datasets_dir / "local" / ".uploads" / upload.id / "files"
    return {
        path.relative_to(home).as_posix(): path.read_bytes() for path in home.rglob("*") if path.is_file()
    }


def _contents(files):
    return {path: file.read_bytes() for path, file in files.items()}


def test_a_client_sends_files_and_tells_how_far_it_is(served, stack):
    told = []
    upload = served.client.upload(stack, on_progress=lambda done, total: told.append((done, total)))
    assert upload.state == "complete"
    assert _stored(served, upload) == _contents(stack)
    size = sum(file.stat().st_size for file in stack.values())
    assert told[0] == (0, size)
    assert told[-1] == (size, size)
    assert told == sorted(told)
    assert served.client.upload(stack).id == upload.id
    assert upload.id in {view.id for view in served.client.list_uploads()}
    served.client.remove_upload(upload.id)
    assert _stored(served, upload) == {}


def test_only_what_is_missing_is_sent_again(served, stack, monkeypatch):
    sent = []

    class Cut(Exception):
        pass

    def count(client, upload_id, pieces, *, cut_after):
        sent.append(sum(piece.size_bytes for piece, _ in pieces))
        if sum(sent) > cut_after:
            raise Cut
        return receive(client, upload_id, pieces)

    receive = Client.send_pieces
    size = sum(file.stat().st_size for file in stack.values())
    monkeypatch.setattr(Client, "send_pieces", lambda *given: count(*given, cut_after=size // 2))
    with pytest.raises(Cut):
        served.client.upload(stack)
    [view] = [view for view in served.client.list_uploads() if view.state == "receiving"]
    assert 0 < view.received_bytes < size
    sent.clear()
    monkeypatch.setattr(Client, "send_pieces", lambda *given: count(*given, cut_after=size))
    upload = served.client.upload(stack)
    assert (upload.id, sum(sent)) == (view.id, size - view.received_bytes)
    assert _stored(served, upload) == _contents(stack)


def test_a_server_that_is_away_is_waited_for(served, stack, monkeypatch):
    failures = iter(range(6))
    real = Client._send_once

    def flaky(client, method, path, **options):
        answer = real(client, method, path, **options)
        if path.startswith("uploads") and next(failures, None) is not None:
            raise ServerUnreachable("the answer was lost")  # what was asked for is done all the same
        return answer

    monkeypatch.setattr(Client, "_send_once", flaky)
    monkeypatch.setattr(_sending, "BACKOFF_BASE_S", 0.01)
    monkeypatch.setattr(_transport, "RETRY_WAITS_S", ())
    upload = served.client.upload(stack)
    assert next(failures, None) is None
    assert _stored(served, upload) == _contents(stack)


def test_a_token_that_is_not_valid_is_told_at_once(served, stack):
    with Client(served.info.url, "vxt_" + "0" * 40) as stranger, pytest.raises(NotAllowed):
        stranger.upload(stack)


def test_a_file_that_is_changed_while_it_is_sent_is_refused(served, stack):
    def change(_):
        stack["s1.tif"].write_bytes(b"changed meanwhile")

    with pytest.raises(InvalidInput, match=r"s1\.tif was changed while it was sent"):
        served.client.upload(stack, on_begun=change)


def test_a_file_that_is_not_there_is_named(served, tmp_path):
    with pytest.raises(SourceNotFound, match=r"gone\.tif cannot be read"):
        served.client.upload({"gone.tif": tmp_path / "gone.tif"})


def test_what_is_wrong_is_told_before_the_first_byte_and_keeps_no_room(served, stack):
    served.convert("taken-name")

    def check(begun):
        params = {"layers": [{"source": begun.ref}], "target": "taken-name", "voxel_size": "4,4,40"}
        served.client.quote("convert", params)

    before = {view.id for view in served.client.list_uploads()}
    with pytest.raises(TargetExists, match="'taken-name' is taken"):
        served.client.upload(stack, on_begun=check)
    assert {view.id for view in served.client.list_uploads()} == before


def test_an_upload_is_converted_and_then_goes_after_its_term(served, tmp_path):
    (tmp_path / "s1.tif").write_bytes(b"1234")
    begun = served.client.begin_upload(NewUpload(files=(NewFile(path="s1.tif", size_bytes=4),)))
    params = {"layers": [{"source": begun.ref}], "target": "made", "voxel_size": "4,4,40"}
    with pytest.raises(InvalidInput, match="is not complete"):
        served.client.submit("convert", params)
    piece = Piece(number=0, offset=0, size_bytes=4, sha256=hashlib.sha256(b"1234").hexdigest())
    served.client.send_pieces(begun.id, [(piece, b"1234")])
    assert served.client.finish_upload(begun.id).state == "complete"
    job = served.client.submit("convert", params)
    worker = served.worker("converter")
    while worker.claim().job_id != job.id:
        worker.fail("user_input", "not-wanted", "left over from another test")
    assert worker.claimed.places[begun.ref] == f"upload:local/{begun.id}"
    listed = {item["name"]: item for item in _get(served, "/api/v1/leftovers")}
    name = f"local/.uploads/{begun.id}"
    assert (listed[name]["kind"], listed[name]["removal_ms"]) == ("upload", None)
    with pytest.raises(Exception, match="a job reads upload"):
        served.client.remove_upload(begun.id)
    worker.write_dataset("made", PROPERTIES)
    value = {"dataset": "made", "layers": ["color"]}
    worker.succeed(
        SealedResult(
            kind="dataset", place="data:local/made", value=value, manifest_sha256="0" * 64, size_bytes=4096
        )
    )
    worker.publish()
    after = {item["name"]: item for item in _get(served, "/api/v1/leftovers")}
    days = (after[name]["removal_ms"] - job.created_ms) / 86_400_000
    assert days == pytest.approx(served.settings.upload_kept_days, abs=0.1)


def _get(served, path):
    return served.browser.get(path).json()


@pytest.mark.parametrize(
    "source", ["upload:0123456789abcdef", "upload:local/0123456789abcdef", "upload:../x"]
)
def test_an_upload_that_is_not_there_cannot_be_converted(served, source):
    params = {"layers": [{"source": source}], "target": "nothing", "voxel_size": "4,4,40"}
    with pytest.raises(SourceNotFound, match="there is no upload"):
        served.client.submit("convert", params)


def test_a_request_of_pieces_needs_a_page_of_this_server(served):
    begun = served.client.begin_upload(NewUpload(files=(NewFile(path="a.tif", size_bytes=1),)))
    body = pack([(Piece(number=0, offset=0, size_bytes=1, sha256=hashlib.sha256(b"x").hexdigest()), b"x")])
    address = f"/api/v1/uploads/{begun.id}/pieces"
    assert (
        served.browser.put(address, content=body, headers={"Origin": "https://evil.example"}).status_code
        == 403
    )
    with served.anonymous() as nobody:
        assert nobody.put(address, content=body, headers={"Origin": served.info.url}).status_code == 401
    answer = served.browser.put(address, content=body)
    assert (answer.status_code, answer.json()) == (200, [{"number": 0, "received_bytes": 1}])


def test_a_request_that_is_too_large_is_refused_unread(served):
    begun = served.client.begin_upload(NewUpload(files=(NewFile(path="b.tif", size_bytes=1),)))
    answer = served.browser.put(f"/api/v1/uploads/{begun.id}/pieces", content=bytes(9 * 2**20))
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "files",
    [
        [],
        [{"path": "a", "size_bytes": -1}],
        [{"path": "../a", "size_bytes": 1}],
        [{"path": "a"}],
        [{"size_bytes": 1}],
    ],
)
def test_a_list_of_files_that_cannot_be_is_refused(served, files):
    assert served.browser.post("/api/v1/uploads", json={"files": files}).status_code == 422


def test_stopping_ends_a_sending_soon_and_it_goes_on_later(served, stack, monkeypatch):
    def interrupted(*_given, **_more):
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr(_sending, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            served.client.upload(stack)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("upload")]
    assert _stored(served, served.client.upload(stack)) == _contents(stack)


def test_small_files_go_together_and_large_ones_alone():
    def file(number, size, received=0):
        return MissingFile(number=number, path=str(number), size_bytes=size, received_bytes=received)

    mib = 2**20
    given = [
        file(0, mib),
        file(1, 4 * mib),
        file(2, 2 * mib),
        file(3, 9 * mib),
        *(file(n, 1) for n in range(4, 40)),
    ]
    groups = [[one.number for one in group] for group in _sending._together(given)]
    assert groups == [[0, 1], [2], [3], [*range(4, 36)], [*range(36, 40)]]


def test_the_page_knows_the_protocol_and_shows_what_is_not_finished(served):
    begun = served.client.begin_upload(NewUpload(files=(NewFile(path="c.tif", size_bytes=3 * 2**20),)))
    page = served.browser.get("/uploads/new").text
    assert "0 B of 3 MiB in 1 file" in page
    assert f'"piece_bytes": {PIECE_BYTES}' in page
    gone = served.browser.post(f"/uploads/{begun.id}/remove", follow_redirects=True)
    assert "The upload and its files are gone." in gone.text
    assert begun.id not in {view.id for view in served.client.list_uploads()}


def test_the_page_leads_to_the_dialog_that_takes_what_is_sent(served):
    known = {"then": "import_training_labels", "dataset": "a&b", "box": "1,2,3,4,5,6", "unknown": "x"}
    page = served.browser.get("/uploads/new", params=known).text
    dialog = "/workflows/import_training_labels/new?dataset=a%26b&amp;box=1%2C2%2C3%2C4%2C5%2C6&amp;source="
    assert f'data-then="{dialog}"' in page
    assert "Upload and go on" in page
    assert 'id="dataset-name"' not in page
    for name in ("downsample", "nothing"):
        refused = served.browser.get("/uploads/new", params={"then": name})
        assert refused.status_code == 404
        assert "data-then" not in refused.text
    link = "/uploads/new?then=import_training_labels&amp;dataset="
    assert link in served.browser.get("/workflows/import_training_labels/new").text
