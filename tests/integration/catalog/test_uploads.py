import dataclasses
import io
import time
import zipfile

import pytest
from sqlalchemy import update

from voxelworks import catalog
from voxelworks.catalog import _unpacking, _uploads
from voxelworks.catalog._tables import UploadRow
from voxelworks.errors import (
    DiskFull,
    IllegalTransition,
    InvalidArchive,
    InvalidInput,
    NotFound,
    QuotaExceeded,
    UnsafeReference,
)
from voxelworks.protocol.uploads import PIECE_BYTES, MissingFile, pack
from voxelworks.testing.queues import at_once

from .catalog_stock import ADA, BOB
from .upload_files import (
    FILES,
    begin,
    finish,
    folder,
    manifest,
    missing,
    piece_at,
    pieces_of,
    send,
    send_all,
    stored,
)

COLLEAGUE = dataclasses.replace(ADA, user_id="cyd")


def _remove(stock, in_use=()):
    return catalog.remove_expired_uploads(
        stock.database, places=stock.places, settings=stock.settings, uploads_in_use=in_use
    )


def _expire(stock, days):
    """Let time pass for the uploads."""
    with stock.database.session() as session:
        gone_ms = round(days * 86_400_000)
        session.execute(
            update(UploadRow).values(
                used_ms=UploadRow.used_ms - gone_ms, converted_ms=UploadRow.converted_ms - gone_ms
            )
        )


def test_files_arrive_as_they_were_sent(stock):
    upload = begin(stock, FILES)
    assert (upload.state, upload.file_count, upload.size_bytes, upload.received_bytes) == (
        "receiving", 3, PIECE_BYTES + 6, 0,
    )  # fmt: skip
    assert [(file.path, file.received_bytes) for file in missing(stock, upload)] == [
        ("more/s3.tif", 0), ("s1.tif", 0),
    ]  # fmt: skip
    send_all(stock, upload, FILES)
    assert missing(stock, upload) == ()
    done = finish(stock, upload)
    assert (done.state, done.received_bytes) == ("complete", done.size_bytes)
    assert stored(stock, upload) == FILES
    assert finish(stock, upload) == done


def test_several_files_come_in_one_request(stock):
    files = {f"s{number}.tif": bytes([number]) * number for number in range(1, 21)}
    upload = begin(stock, files)
    pieces = [piece for file in missing(stock, upload) for piece in pieces_of(file, files[file.path])]
    received = send(stock, upload, pieces)
    assert sum(file.received_bytes for file in received) == upload.size_bytes
    finish(stock, upload)
    assert stored(stock, upload) == files


def test_the_same_files_of_the_same_person_are_the_same_upload_and_only_what_is_missing_is_asked_for(stock):
    upload = begin(stock, FILES)
    large, small = missing(stock, upload)
    send(stock, upload, [piece_at(large.number, 0, FILES["more/s3.tif"])])
    again = begin(stock, dict(reversed(FILES.items())))
    assert (again.id, again.received_bytes) == (upload.id, PIECE_BYTES)
    assert missing(stock, again) == (
        MissingFile(number=0, path="more/s3.tif", size_bytes=PIECE_BYTES + 3, received_bytes=PIECE_BYTES),
        small,
    )
    assert begin(stock, FILES, by=COLLEAGUE).id != upload.id
    assert begin(stock, {**FILES, "s1.tif": b"other"}).id != upload.id


def test_a_piece_that_comes_twice_or_too_early_changes_nothing(stock):
    content = bytes(PIECE_BYTES) + b"1" * PIECE_BYTES + b"end"
    upload = begin(stock, {"a.tif": content})
    first, second, third = pieces_of(missing(stock, upload)[0], content)
    assert [file.received_bytes for file in send(stock, upload, [second])] == [0]
    send(stock, upload, [first])
    assert [file.received_bytes for file in send(stock, upload, [first])] == [PIECE_BYTES]
    assert [file.received_bytes for file in send(stock, upload, [third])] == [PIECE_BYTES]
    other = piece_at(0, 0, b"x" * len(content))
    assert [file.received_bytes for file in send(stock, upload, [other])] == [PIECE_BYTES]
    send(stock, upload, [second])
    send(stock, upload, [third])
    finish(stock, upload)
    assert stored(stock, upload) == {"a.tif": content}


def test_two_requests_with_the_same_piece_at_once_count_once(stock):
    content = b"x" * PIECE_BYTES + b"y"
    upload = begin(stock, {"a.tif": content})
    pieces = pieces_of(missing(stock, upload)[0], content)
    for piece in pieces:
        at_once([lambda piece=piece: send(stock, upload, [piece])] * 4)
    finish(stock, upload)
    assert stored(stock, upload) == {"a.tif": content}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "does not begin with a list"),
        (b"\xff\xff\xff\xff{}", "does not begin with a list"),
        (pack([]), "0 pieces"),
        (pack([piece_at(1, 0, b"one")])[:-1], "cut off"),
        (pack([piece_at(1, 0, b"one")]) + b"x", "holds more than its pieces"),
        (pack([(piece_at(1, 0, b"one")[0], b"eno")]), "changed on its way"),
        (pack([piece_at(1, 0, b"on")]), "are no piece of 's1.tif'"),
        (pack([piece_at(9, 0, b"one")]), "has no file 9"),
        (pack([piece_at(1, 0, b"one")] * 33), "33 pieces"),
    ],
)
def test_a_request_that_cannot_be_is_refused_and_leaves_nothing(stock, body, told):
    upload = begin(stock, FILES)
    with pytest.raises(InvalidInput, match=told):
        catalog.receive_pieces(stock.database, upload.id, body, by=ADA, places=stock.places)
    assert not folder(stock, upload).exists()


def test_a_piece_does_not_count_that_was_not_forced_to_the_disk(stock, monkeypatch):
    upload = begin(stock, FILES)

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(_uploads.os, "fsync", fail)
        with pytest.raises(DiskFull, match="does not fit"):
            send(stock, upload, [piece_at(1, 0, b"one")])
    assert [file.received_bytes for file in missing(stock, upload)] == [0, 0]
    send_all(stock, upload, FILES)
    finish(stock, upload)
    assert stored(stock, upload) == FILES


def test_what_the_disk_has_lost_is_missing_again(stock):
    upload = begin(stock, FILES)
    with pytest.raises(IllegalTransition, match="2 of 3 files are not there as a whole"):
        finish(stock, upload)
    send_all(stock, upload, FILES)
    (folder(stock, upload) / "files" / "s1.tif").unlink()
    with pytest.raises(IllegalTransition, match=r"1 of 3 .*'s1\.tif'"):
        finish(stock, upload)
    assert [(file.path, file.received_bytes) for file in missing(stock, upload)] == [("s1.tif", 0)]
    send_all(stock, upload, FILES)
    finish(stock, upload)
    assert stored(stock, upload) == FILES


def test_files_never_leave_their_folder(stock, tmp_path):
    for path in ("../a", "/etc/a", "a/../../b"):
        with pytest.raises(UnsafeReference):
            begin(stock, {path: b"x"})
    upload = begin(stock, {"a.tif": b"one"})
    outside = tmp_path / "outside"
    outside.write_bytes(b"")
    (folder(stock, upload) / "files").mkdir(parents=True)
    (folder(stock, upload) / "files" / "a.tif").symlink_to(outside)
    with pytest.raises(Exception, match="cannot be stored"):
        send(stock, upload, [piece_at(0, 0, b"one")])
    assert outside.read_bytes() == b""


def test_an_upload_is_found_by_its_own_person_alone(stock):
    upload = begin(stock, FILES)
    for stranger in (BOB, COLLEAGUE):
        with pytest.raises(NotFound):
            missing(stock, upload, by=stranger)
        with pytest.raises(NotFound):
            send(stock, upload, [piece_at(1, 0, b"one")], by=stranger)
        with pytest.raises(NotFound):
            finish(stock, upload, by=stranger)
        with pytest.raises(NotFound):
            stock.call(catalog.abandon_upload, upload.id, by=stranger)
        assert stock.look(catalog.list_uploads, by=stranger, settings=stock.settings) == ()
    assert [found.id for found in stock.look(catalog.list_uploads, by=ADA, settings=stock.settings)] == [
        upload.id
    ]


def test_the_room_of_an_upload_is_taken_when_it_begins(stock):
    limited = stock.settings.model_copy(update={"storage_bytes_max": 100})

    def start(size, **options):
        return stock.call(
            catalog.begin_upload, manifest({f"{size}.tif": bytes(size)}, **options), by=ADA, places=stock.places,
            settings=limited,
        )  # fmt: skip

    upload = start(60)
    assert stock.look(catalog.storage_usage, "neuro", settings=limited).used_bytes == 60
    with pytest.raises(QuotaExceeded, match="has 40 B of 100 B left"):
        start(41)
    with pytest.raises(QuotaExceeded, match="42 B are needed"):
        start(20, is_converted=True)
    assert start(60).id == upload.id
    stock.call(catalog.abandon_upload, upload.id, by=ADA)
    assert stock.look(catalog.storage_usage, "neuro", settings=limited).used_bytes == 0


def test_what_does_not_fit_on_the_disk_is_refused_before_the_first_byte(stock, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(_uploads.shutil, "disk_usage", lambda _: usage)
    spare = stock.settings.model_copy(update={"free_bytes_min": 400})

    def start(name, size):
        new = manifest({name: bytes(size)})
        return stock.call(catalog.begin_upload, new, by=ADA, places=stock.places, settings=spare)

    start("a.tif", 400)
    with pytest.raises(DiskFull, match="201 B are needed, and the disk of the server has 200 B to spare"):
        start("b.tif", 201)
    start("b.tif", 200)


def test_uploads_go_when_nobody_goes_on_with_them_and_those_of_jobs_after_their_own_term(stock):
    idle, held, converted = (begin(stock, {f"{name}.tif": b"x"}) for name in "abc")
    for upload, name in ((held, "b"), (converted, "c")):
        send_all(stock, upload, {f"{name}.tif": b"x"})
        finish(stock, upload)
        stock.call(catalog.hold_upload, stock.look(catalog.place_of_upload, upload.ref, by=ADA))
    stock.call(catalog.note_converted, f"upload:neuro/{converted.id}")
    assert _remove(stock) == 0
    _expire(stock, 1.5)
    assert _remove(stock) == 1
    assert not folder(stock, converted).exists()
    _expire(stock, 6)
    assert _remove(stock, in_use={held.id}) == 1
    assert [view.id for view in stock.look(catalog.list_uploads, by=ADA, settings=stock.settings)] == [
        held.id
    ]
    assert folder(stock, held).exists()
    with pytest.raises(NotFound):
        missing(stock, idle)


def test_a_converted_upload_that_another_job_gets_stays(stock):
    upload = begin(stock, {"a.tif": b"x"})
    send_all(stock, upload, {"a.tif": b"x"})
    finish(stock, upload)
    place = f"upload:neuro/{upload.id}"
    stock.call(catalog.note_converted, place)
    _expire(stock, 5)
    stock.call(catalog.hold_upload, place)
    assert _remove(stock) == 0
    assert stored(stock, upload) == {"a.tif": b"x"}


def test_leftovers_show_uploads_and_folders_that_nobody_knows(stock):
    upload = begin(stock, FILES)
    send_all(stock, upload, FILES)
    unknown = stock.places.upload_folder("neuro", "0" * 16)
    (unknown / "files").mkdir(parents=True)
    (unknown / "files" / "a.tif").write_bytes(b"12345")

    def listed(**options):
        return stock.look(
            catalog.leftovers,
            by=ADA,
            places=stock.places,
            settings=stock.settings,
            work_keys_in_use=(),
            **options,
        )

    assert [
        (item.kind, item.name, item.size_bytes) for item in sorted(listed(), key=lambda item: item.kind)
    ] == [
        ("file", f"neuro/.uploads/{'0' * 16}", 5),
        ("upload", f"neuro/.uploads/{upload.id}", upload.size_bytes),
    ]
    in_use = [item for item in listed(uploads_in_use={upload.id}) if item.kind == "upload"]
    assert [item.removal_ms for item in in_use] == [None]


# What jobs may name


def test_jobs_name_complete_uploads_of_their_organization(stock):
    upload = begin(stock, FILES)
    assert (
        stock.look(catalog.place_of_upload, f"{upload.ref}/more", by=COLLEAGUE)
        == f"upload:neuro/{upload.id}/more"
    )
    with pytest.raises(InvalidInput, match="is not complete"):
        stock.call(catalog.hold_upload, f"upload:neuro/{upload.id}")
    for ref in (upload.ref, "upload:0123", "upload:../../x", f"upload:neuro/{upload.id}"):
        with pytest.raises(NotFound):
            stock.look(catalog.place_of_upload, ref, by=BOB)
    place = f"upload:neuro/{upload.id}"
    stock.look(catalog.require_readable, place, organization_id="neuro", places=stock.places)
    for owner, asked in (("neuro", "other"), ("other", "other")):
        with pytest.raises(NotFound):
            stock.look(
                catalog.require_readable,
                f"upload:{owner}/{upload.id}",
                organization_id=asked,
                places=stock.places,
            )


# Zips


def _zip(files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def _send_zip(stock, content):
    upload = begin(stock, {"stack.zip": content})
    send_all(stock, upload, {"stack.zip": content})
    return upload


def test_a_zip_is_unpacked_without_what_file_managers_add(stock):
    packed = _zip(
        {
            "run/s1.tif": b"one",
            "run/s2.tif": b"two",
            "__MACOSX/run/._s1.tif": b"x",
            "run/.DS_Store": b"x",
            "run/": b"",
        }
    )
    upload = _send_zip(stock, packed)
    done = finish(stock, upload)
    assert (done.state, done.file_count, done.size_bytes) == ("complete", 2, 6)
    assert stored(stock, upload) == {"s1.tif": b"one", "s2.tif": b"two"}
    assert [path.name for path in folder(stock, upload).iterdir()] == ["files"]
    assert begin(stock, {"stack.zip": packed}).state == "complete"


def test_a_zip_keeps_the_hidden_metadata_of_zarr(stock):
    files = {".zattrs": b"{}", "0/.zarray": b"{}", "0/0.0.0": b"voxels"}
    upload = _send_zip(stock, _zip({f"a.zarr/{name}": content for name, content in files.items()}))
    assert finish(stock, upload).state == "complete"
    home = folder(stock, upload) / "files"
    assert {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()} == set(files)


def test_unpacking_goes_on_where_a_call_stopped(stock, monkeypatch):
    files = {f"s{number}.tif": bytes([number]) * 10 for number in range(5)}
    upload = _send_zip(stock, _zip(files))
    monkeypatch.setattr(_unpacking, "UNPACK_S", -1.0)
    assert finish(stock, upload).state == "unpacking"
    assert finish(stock, upload).state == "unpacking"
    monkeypatch.undo()
    assert finish(stock, upload).state == "complete"
    assert stored(stock, upload) == files


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"../a": b"x"}, "relative paths"),
        ({"a": b"x", "A": b"y"}, "the same name"),
        ({".hidden": b"x"}, "no files"),
        ({"bomb": bytes(2**22)}, "looks like an attack"),
    ],
)
def test_a_harmful_zip_is_refused_and_nothing_of_it_is_unpacked(stock, files, told):
    upload = _send_zip(stock, _zip(files))
    with pytest.raises(InvalidInput, match=told):
        finish(stock, upload)
    assert stored(stock, upload) == {}


def test_a_broken_zip_is_refused(stock):
    upload = _send_zip(stock, _zip({"a": b"x"})[:-5])
    with pytest.raises(InvalidArchive):
        finish(stock, upload)


def test_what_is_in_a_zip_counts_against_the_quota(stock):
    packed = _zip({"a.tif": b"x" * 10_000})
    upload = _send_zip(stock, packed)
    limited = stock.settings.model_copy(update={"storage_bytes_max": len(packed) + 9_999})
    with pytest.raises(QuotaExceeded):
        catalog.finish_upload(stock.database, upload.id, by=ADA, places=stock.places, settings=limited)
    assert stored(stock, upload) == {}


def test_four_thousand_files_begin_and_are_asked_for_at_once(stock):
    new = {f"s{number:05}.tif": b"x" for number in range(4000)}
    began_s = time.monotonic()
    upload = begin(stock, new)
    assert len(missing(stock, upload)) == 4000
    assert time.monotonic() - began_s < 10
