"""Whatever pieces come, in any order, however often, and wherever the server dies: the files are as they were sent."""

import hashlib
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from voxelworks import catalog
from voxelworks.archives.paths import check_paths, without_common_folder
from voxelworks.catalog import _uploads
from voxelworks.errors import UnsafeReference
from voxelworks.protocol.people import Principal
from voxelworks.protocol.places import Places
from voxelworks.protocol.uploads import NewFile, NewUpload, Piece, pack
from voxelworks.settings import Settings
from voxelworks.testing.databases import sqlite_database
from voxelworks.testing.rounds import rounds

PIECE = 4
ADA = Principal(user_id="ada", organization_id="neuro", role="member", name="Ada")
CONTENTS = st.lists(st.binary(max_size=4 * PIECE), min_size=1, max_size=4)
REQUESTS = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=5, unique=True),
        st.sampled_from(
            [None, None, "before writing", "half written", "before the disk has it", "before it counts"]
        ),
    ),
    max_size=12,
)


class Killed(BaseException):
    """The server was killed: nothing in it runs any more."""


@contextmanager
def small_pieces():
    known = _uploads.PIECE_BYTES
    _uploads.PIECE_BYTES = PIECE
    try:
        yield
    finally:
        _uploads.PIECE_BYTES = known


@contextmanager
def dying(moment):
    """Let the server die at a moment of its next request."""
    real_os, real_there = _uploads.os, _uploads._still_there

    class DyingOs:
        def __getattr__(self, name):
            return getattr(real_os, name)

        def pwrite(self, descriptor, content, offset):
            if moment == "before writing":
                raise Killed
            written = real_os.pwrite(descriptor, content[: len(content) // 2 or 1], offset)
            if moment == "half written":
                raise Killed
            return written

        def fsync(self, descriptor):
            if moment == "before the disk has it":
                raise Killed
            real_os.fsync(descriptor)

    def still_there(session, upload_id):
        if moment == "before it counts":
            raise Killed
        return real_there(session, upload_id)

    _uploads.os, _uploads._still_there = DyingOs(), still_there
    try:
        yield
    except Killed:
        pass
    finally:
        _uploads.os, _uploads._still_there = real_os, real_there


@settings(max_examples=rounds(40, 1000), deadline=None)
@given(contents=CONTENTS, requests=REQUESTS)
def test_files_arrive_as_they_were_sent_whatever_happens_on_the_way(contents, requests):
    files = {f"run/s{number}.tif": content for number, content in enumerate(contents)}
    with TemporaryDirectory() as home, sqlite_database() as database, small_pieces():
        site = Settings(home=Path(home))
        site.datasets_dir.mkdir()
        places = Places.of(site)
        new = NewUpload(
            files=tuple(NewFile(path=path, size_bytes=len(content)) for path, content in files.items())
        )

        def begin():
            with database.session() as session:
                return catalog.begin_upload(session, new, by=ADA, places=places, settings=site)

        def missing():
            with database.read_session() as session:
                return catalog.missing_files(session, upload.id, by=ADA)

        def send(pieces):
            catalog.receive_pieces(database, upload.id, pack(pieces), by=ADA, places=places)

        upload = begin()
        for wanted, moment in requests:
            pieces = [
                _piece(number, index * PIECE, contents[number])
                for number, index in wanted
                if number < len(contents) and index * PIECE < len(contents[number])
            ]
            if pieces:
                before = {file.path: file.received_bytes for file in missing()}
                with dying(moment):
                    send(pieces)
                assert all(file.received_bytes >= before[file.path] for file in missing())
        assert begin().id == upload.id
        while left := missing():
            send([_piece(file.number, file.received_bytes, files[file.path]) for file in left])
        done = catalog.finish_upload(database, upload.id, by=ADA, places=places, settings=site)
        folder = places.upload_folder("neuro", upload.id) / "files"
        assert done.state == "complete"
        assert {path: (folder / path).read_bytes() for path in files} == files


def _piece(number, offset, content):
    part = content[offset : offset + PIECE]
    digest = hashlib.sha256(part).hexdigest()
    return Piece(number=number, offset=offset, size_bytes=len(part), sha256=digest), part


@given(paths=st.lists(st.text(max_size=12), min_size=1, max_size=4))
def test_paths_that_are_taken_stay_below_their_folder_and_do_not_meet(paths):
    try:
        check_paths(paths)
    except UnsafeReference:
        return
    below = [Path("/uploads/1").joinpath(path) for path in paths]
    assert all(path.is_relative_to("/uploads/1") and ".." not in path.parts for path in below)
    assert len({str(path).casefold() for path in below}) == len(paths)


@given(
    paths=st.lists(st.from_regex(r"[ab](/[ab]){0,3}", fullmatch=True), min_size=1, max_size=4, unique=True)
)
def test_leaving_out_common_folders_keeps_paths_apart(paths):
    shorter = without_common_folder(paths)
    assert len(set(shorter.values())) == len(paths)
    assert all(path == short or path.endswith(f"/{short}") for path, short in shorter.items())
