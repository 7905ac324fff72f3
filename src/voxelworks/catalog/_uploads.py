"""Uploads: files that come in piece by piece, and that jobs then read.

What counts as received is what the table says, and it says so only after the bytes were forced to the disk: a server or
a machine may stop at any moment. Pieces are appended to their file under a lock on it, so that a request that is sent
again changes nothing.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy import ColumnElement, delete, func, insert, select, update
from sqlalchemy.orm import Session

from voxelworks.archives.paths import check_paths
from voxelworks.catalog._storage import check_quota
from voxelworks.catalog._tables import UploadFileRow, UploadRow
from voxelworks.catalog._trash import DAY_MS
from voxelworks.catalog._unpacking import PACKED_FILE, sweep_up, unpack_some, unpacked_sizes
from voxelworks.db import Database, insert_into, now
from voxelworks.errors import DiskFull, IllegalTransition, InvalidInput, NotFound, StorageFailed
from voxelworks.protocol.people import Principal
from voxelworks.protocol.places import UPLOAD_ID, Places, upload_parts, upload_place
from voxelworks.protocol.uploads import (
    LENGTH_BYTES,
    PIECE_BYTES,
    PIECES,
    PIECES_MAX,
    UPLOAD_REF,
    MissingFile,
    NewUpload,
    Piece,
    ReceivedFile,
    UploadState,
    UploadView,
)
from voxelworks.settings import Settings
from voxelworks.sizes import size_text

FILES_FOLDER = "files"


def begin_upload(
    session: Session, new: NewUpload, *, by: Principal, places: Places, settings: Settings
) -> UploadView:
    """Begin an upload, or go on with the one of the same files that the same person has begun before.

    Everything that can be told before the first byte is: names, room in the quota and on the disk.

    Raises
    ------
    UnsafeReference
        If a path leads elsewhere, or two are the same to some file systems.
    QuotaExceeded, DiskFull
    """
    check_paths([file.path for file in new.files])
    files = sorted(new.files, key=lambda file: file.path)
    manifest = hashlib.sha256(
        json.dumps([[file.path, file.size_bytes, file.modified_ms] for file in files]).encode()
    ).hexdigest()
    size_bytes = sum(file.size_bytes for file in files)
    is_own = (
        UploadRow.organization_id == by.organization_id, UploadRow.user_id == by.user_id,
        UploadRow.manifest_sha256 == manifest,
    )  # fmt: skip
    if (known := _touch(session, *is_own)) is not None:
        return _view(session, known, settings)
    # The images once more, packed no tighter than they are, and a seventh of that for the pyramid.
    needed_bytes = size_bytes + (size_bytes * 8 // 7 if new.is_converted else 0)
    check_quota(session, by.organization_id, needed_bytes, settings=settings, is_taken_at_once=True)
    _check_disk(session, needed_bytes, places, settings)
    at_ms = now(session)
    row_id = secrets.token_hex(8)
    made = session.execute(
        insert_into(session, UploadRow)
        .values(
            id=row_id, organization_id=by.organization_id, user_id=by.user_id, manifest_sha256=manifest,
            state="receiving", file_count=len(files), size_bytes=size_bytes,
            is_archive=len(files) == 1 and files[0].path.lower().endswith(".zip"), created_ms=at_ms, used_ms=at_ms,
        )
        .on_conflict_do_nothing()
        .returning(UploadRow.id)
    ).first()  # fmt: skip
    if made is not None:
        session.execute(
            insert(UploadFileRow),
            [
                {
                    "upload_id": row_id, "number": number, "path": file.path, "size_bytes": file.size_bytes,
                    "received_bytes": 0,
                }
                for number, file in enumerate(files)
            ],
        )  # fmt: skip
    row = _touch(session, *is_own)  # perhaps that of another tab, which was first
    assert row is not None
    return _view(session, row, settings)


def list_uploads(session: Session, *, by: Principal, settings: Settings) -> tuple[UploadView, ...]:
    """Give the uploads of a person, latest first."""
    rows = session.scalars(
        select(UploadRow)
        .where(UploadRow.organization_id == by.organization_id, UploadRow.user_id == by.user_id)
        .order_by(UploadRow.created_ms.desc(), UploadRow.id)
    )
    return tuple(_view(session, row, settings) for row in rows)


def find_upload(session: Session, upload_id: str, *, by: Principal, settings: Settings) -> UploadView:
    """Find an upload of the person who asks; `NotFound` if there is none."""
    return _view(session, _own(session, upload_id, by), settings)


def missing_files(session: Session, upload_id: str, *, by: Principal) -> tuple[MissingFile, ...]:
    """Tell which files of an upload are not there as a whole; `NotFound` if there is no such upload."""
    _own(session, upload_id, by)
    is_missing = UploadFileRow.received_bytes < UploadFileRow.size_bytes
    return tuple(_files(session, upload_id, is_missing).values())


def receive_pieces(
    database: Database, upload_id: str, body: bytes, *, by: Principal, places: Places
) -> tuple[ReceivedFile, ...]:
    """Take in pieces; tell how much of each of their files is there now, and so where to go on.

    A piece that does not begin where its file ends now is left out: it came twice, or too early.

    Raises
    ------
    NotFound
    InvalidInput
        If the request cannot be read, or what arrived is not what was sent. Nothing of it is kept.
    DiskFull, StorageFailed
    """
    pieces = _read_pieces(body)
    are_named = UploadFileRow.number.in_({piece.number for piece, _ in pieces})
    with database.read_session() as session:
        upload = _Upload.of(_own(session, upload_id, by), places)
        files = _files(session, upload_id, are_named)
    _check_pieces(pieces, files)
    if upload.state != "receiving":
        return tuple(
            ReceivedFile(number=file.number, received_bytes=file.size_bytes) for file in files.values()
        )
    with _storing("the upload"), ExitStack() as stack:
        # In one order: of two requests for the same files neither waits for the other for ever.
        streams = {
            number: stack.enter_context(_opened(upload.path_of(file), upload.folder))
            for number, file in files.items()
        }
        with database.read_session() as session:
            before = {
                number: file.received_bytes for number, file in _files(session, upload_id, are_named).items()
            }
        after = _append(pieces, streams, before)
        with database.session() as session:
            _still_there(session, upload_id)
            for number, received in after.items():
                session.execute(
                    update(UploadFileRow)
                    .where(UploadFileRow.upload_id == upload_id, UploadFileRow.number == number)
                    .where(UploadFileRow.received_bytes < received)
                    .values(received_bytes=received)
                )
    return tuple(ReceivedFile(number=number, received_bytes=received) for number, received in after.items())


def finish_upload(
    database: Database, upload_id: str, *, by: Principal, places: Places, settings: Settings
) -> UploadView:
    """Check that all files are there; then jobs can read them.

    A zip is unpacked for some seconds in each call: call again until the upload is complete. Repeating is harmless.

    Raises
    ------
    NotFound
    IllegalTransition
        If files are missing.
    InvalidArchive, UnsafeReference
        If it is a zip that is broken, harmful, or has names that cannot be.
    QuotaExceeded, DiskFull
        If there is no room for what is in the zip.
    StorageFailed
    """
    with database.read_session() as session:
        row = _own(session, upload_id, by)
        if row.state == "complete":
            return _view(session, row, settings)
        upload = _Upload.of(row, places)
        files = tuple(_files(session, upload_id).values())
    with _storing("the upload"):
        lost = [file for file in files if not _is_whole(upload.path_of(file), file)]
    if lost:
        with database.session() as session:
            row = _still_there(session, upload_id)
            if row.state == "complete":  # another call has just unpacked the zip, and removed it
                return _view(session, row, settings)
            for file in lost:
                _forget(session, upload_id, file)
        raise IllegalTransition(
            f"{len(lost)} of {len(files)} files are not there as a whole, such as {lost[0].path!r}; "
            "send what is missing"
        )
    if upload.is_archive and not _has_unpacked(database, upload, by, places, settings):
        with database.read_session() as session:
            return find_upload(session, upload_id, by=by, settings=settings)
    with database.session() as session:
        row = _still_there(session, upload_id)
        row.state = "complete"
        session.flush()
        done = _view(session, row, settings)
    if upload.is_archive:
        sweep_up(upload.folder)
    return done


def abandon_upload(session: Session, upload_id: str, *, by: Principal) -> None:
    """Forget an upload; `remove_upload_files` then removes what it has left.

    Until the transaction ends no job can be given it. The caller looks afterwards whether one was, and rolls back then.

    Raises
    ------
    NotFound
    """
    _own(session, upload_id, by)
    _delete(session, UploadRow.id == upload_id)


def remove_upload_files(upload_id: str, organization_id: str, *, places: Places) -> None:
    """Remove the files of an upload that is forgotten. What cannot be removed goes as a leftover."""
    shutil.rmtree(places.upload_folder(organization_id, upload_id), ignore_errors=True)


# For jobs


def place_of_upload(session: Session, ref: str, *, by: Principal) -> str:
    """Give the place of `upload:ID`, or of a folder in it: an upload of the organization, complete or not.

    Raises
    ------
    NotFound
    """
    upload_id, _, relative = ref.removeprefix(UPLOAD_REF).partition("/")
    if UPLOAD_ID.fullmatch(upload_id):
        row = session.get(UploadRow, upload_id)
        if row is not None and row.organization_id == by.organization_id:
            return upload_place(row.organization_id, row.id, relative)
    raise NotFound(f"there is no upload {upload_id!r}; its files were removed, or never sent")


def hold_upload(session: Session, place: str) -> None:
    """Keep the files of an upload for a job that is being submitted.

    Raises
    ------
    NotFound
    InvalidInput
        If not all of its files are there.
    """
    _, upload_id, _ = upload_parts(place)
    row = _still_there(session, upload_id)
    if row.state != "complete":
        raise InvalidInput(f"upload {upload_id!r} is not complete; send what is missing, and finish it")
    row.converted_ms = None


def note_converted(session: Session, place: str) -> None:
    """Note that a job has made of an upload what it was for."""
    _, upload_id, _ = upload_parts(place)
    session.execute(update(UploadRow).where(UploadRow.id == upload_id).values(converted_ms=now(session)))


# Removal


def removal_ms(upload: UploadRow, settings: Settings) -> int:
    """Tell when an upload is removed that no job needs."""
    if upload.converted_ms is not None:
        return upload.converted_ms + round(settings.upload_kept_days * DAY_MS)
    return upload.used_ms + round(settings.leftover_term_days * DAY_MS)


def remove_expired_uploads(
    database: Database, *, places: Places, settings: Settings, uploads_in_use: Collection[str]
) -> int:
    """Remove uploads whose time has come; give how many went.

    Parameters
    ----------
    uploads_in_use
        Ids of those that jobs which have not ended name, read at most a moment ago.
    """
    with database.read_session() as session:
        at_ms = now(session)
        due = [
            (row.id, row.organization_id, row.used_ms)
            for row in session.scalars(select(UploadRow))
            if row.id not in uploads_in_use and removal_ms(row, settings) <= at_ms
        ]
    gone = 0
    for upload_id, organization_id, used_ms in due:
        with database.session() as session:
            # Who has begun to use it meanwhile has touched it.
            is_same = _delete(session, UploadRow.id == upload_id, UploadRow.used_ms == used_ms)
        if is_same:
            remove_upload_files(upload_id, organization_id, places=places)
            gone += 1
    return gone


# Records


@dataclass(frozen=True)
class _Upload:
    """An upload as it was when it was looked at, with its folder."""

    id: str
    state: UploadState
    is_archive: bool
    folder: Path

    @classmethod
    def of(cls, row: UploadRow, places: Places) -> _Upload:
        return cls(row.id, row.state, row.is_archive, places.upload_folder(row.organization_id, row.id))

    def path_of(self, file: MissingFile) -> Path:
        return self.folder / PACKED_FILE if self.is_archive else self.folder / FILES_FOLDER / file.path


def _own(session: Session, upload_id: str, by: Principal) -> UploadRow:
    row = session.get(UploadRow, upload_id)
    if row is None or (row.organization_id, row.user_id) != (by.organization_id, by.user_id):
        raise NotFound(f"there is no upload {upload_id!r}; choose the files again to begin it anew")
    return row


def _touch(session: Session, *conditions: ColumnElement[bool]) -> UploadRow | None:
    """Lock an upload and note that somebody uses it: until the term has passed again it stays."""
    row = session.scalar(
        select(UploadRow).where(*conditions).with_for_update(),
        execution_options={"populate_existing": True},
    )
    if row is not None:
        row.used_ms = max(now(session), row.used_ms + 1)
        session.flush()
    return row


def _delete(session: Session, *conditions: ColumnElement[bool]) -> bool:
    row = session.scalar(select(UploadRow).where(*conditions).with_for_update())
    if row is None:
        return False
    session.execute(delete(UploadFileRow).where(UploadFileRow.upload_id == row.id))
    session.delete(row)
    session.flush()
    return True


def _view(session: Session, row: UploadRow, settings: Settings) -> UploadView:
    received = session.scalar(
        select(func.coalesce(func.sum(UploadFileRow.received_bytes), 0)).where(
            UploadFileRow.upload_id == row.id
        )
    )
    return UploadView(
        id=row.id, organization_id=row.organization_id, user_id=row.user_id, state=row.state,
        file_count=row.file_count, size_bytes=row.size_bytes, received_bytes=int(received or 0),
        created_ms=row.created_ms, removal_ms=removal_ms(row, settings),
    )  # fmt: skip


def _still_there(session: Session, upload_id: str) -> UploadRow:
    row = _touch(session, UploadRow.id == upload_id)
    if row is None:
        raise NotFound(f"there is no upload {upload_id!r} any more; send its files again")
    return row


def _files(session: Session, upload_id: str, *conditions: ColumnElement[bool]) -> dict[int, MissingFile]:
    """Give files of an upload by their numbers, in their order, missing or not."""
    columns = (
        UploadFileRow.number, UploadFileRow.path, UploadFileRow.size_bytes, UploadFileRow.received_bytes
    )  # fmt: skip
    rows = session.execute(
        select(*columns)
        .where(UploadFileRow.upload_id == upload_id, *conditions)
        .order_by(UploadFileRow.number)
    )
    return {
        number: MissingFile(number=number, path=path, size_bytes=size, received_bytes=received)
        for number, path, size, received in rows
    }


def _forget(session: Session, upload_id: str, file: MissingFile) -> None:
    """Count a file as not received that the disk does not have, whatever the table says."""
    session.execute(
        update(UploadFileRow)
        .where(UploadFileRow.upload_id == upload_id, UploadFileRow.number == file.number)
        .where(UploadFileRow.received_bytes == file.size_bytes)
        .values(received_bytes=0)
    )


# Pieces


def _read_pieces(body: bytes) -> list[tuple[Piece, memoryview]]:
    """Take a request of pieces apart, and compare their checksums."""
    view = memoryview(body)
    length = int.from_bytes(view[:LENGTH_BYTES], "big")
    at = LENGTH_BYTES + length
    try:
        pieces = PIECES.validate_json(bytes(view[LENGTH_BYTES:at]))
    except ValidationError as error:
        raise InvalidInput("the request does not begin with a list of pieces; see the API") from error
    if not 0 < len(pieces) <= PIECES_MAX:
        raise InvalidInput(
            f"the request has {len(pieces)} pieces; at most {PIECES_MAX} are taken, and at least one"
        )
    if at + sum(piece.size_bytes for piece in pieces) != len(view):
        raise InvalidInput("the request is cut off, or holds more than its pieces; send it again")
    found = []
    for piece in pieces:
        content = view[at : at + piece.size_bytes]
        at += piece.size_bytes
        if hashlib.sha256(content).hexdigest() != piece.sha256:
            raise InvalidInput(f"a piece of file {piece.number} was changed on its way; send it again")
        found.append((piece, content))
    return sorted(found, key=lambda item: (item[0].number, item[0].offset))


def _check_pieces(pieces: Sequence[tuple[Piece, memoryview]], files: Mapping[int, MissingFile]) -> None:
    for piece, _ in pieces:
        file = files.get(piece.number)
        if file is None:
            raise InvalidInput(f"the upload has no file {piece.number}; ask for what is missing")
        if piece.offset % PIECE_BYTES or piece.size_bytes != min(PIECE_BYTES, file.size_bytes - piece.offset):
            raise InvalidInput(
                f"{piece.size_bytes} bytes at {piece.offset} are no piece of {file.path!r}, which has "
                f"{file.size_bytes}; all pieces but the last one have {PIECE_BYTES}"
            )


def _append(
    pieces: Sequence[tuple[Piece, memoryview]], streams: Mapping[int, int], before: Mapping[int, int]
) -> dict[int, int]:
    """Write the pieces that go on where their files end; give where these end now, forced to the disk."""
    after = dict(before)
    for piece, content in pieces:
        if piece.offset == after[piece.number]:
            _write(streams[piece.number], content, piece.offset)
            after[piece.number] += piece.size_bytes
    for number, descriptor in streams.items():
        if after[number] != before[number]:
            os.fsync(descriptor)
    return after


def _write(descriptor: int, content: memoryview, offset: int) -> None:
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written


# Files


@contextmanager
def _opened(path: Path, folder: Path) -> Iterator[int]:
    """Open a file for adding to it, which nobody else does meanwhile."""
    is_new = not path.exists()
    if is_new:
        path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        if is_new:
            _sync_names(path, folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _sync_names(path: Path, folder: Path) -> None:
    """Force the name of a new file to the disk, with those of the folders that it lies in."""
    for parent in path.parents:
        descriptor = os.open(parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if parent == folder.parent:
            return


def _is_whole(path: Path, file: MissingFile) -> bool:
    """Look whether a file is there as a whole; an empty one, which has no pieces, is made."""
    if file.size_bytes == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    try:
        return file.received_bytes == file.size_bytes == path.lstat().st_size
    except FileNotFoundError:
        return False


@contextmanager
def _storing(what: str) -> Iterator[None]:
    """Turn what the system says about the disk into our errors."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"{what} does not fit on the disk of the server; ask the operator for room"
            ) from error
        raise StorageFailed(f"{what} cannot be stored ({error.strerror}); try again") from error


def _check_disk(session: Session, needed_bytes: int, places: Places, settings: Settings) -> None:
    """Refuse what the disk has no room for, beside what others have begun to send."""
    awaited = session.scalar(
        select(func.coalesce(func.sum(UploadFileRow.size_bytes - UploadFileRow.received_bytes), 0))
    )
    there = next(path for path in (places.data_dir, *places.data_dir.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free - settings.free_bytes_min - int(awaited or 0)
    if needed_bytes > free:
        raise DiskFull(
            f"{size_text(needed_bytes)} are needed, and the disk of the server has {size_text(max(0, free))} to spare; "
            "send less, or ask the operator for room"
        )


# Zips


def _has_unpacked(
    database: Database, upload: _Upload, by: Principal, places: Places, settings: Settings
) -> bool:
    """Unpack for some seconds; tell whether all of it is done."""
    with _storing("the zip"):
        sizes = unpacked_sizes(upload.folder)
    if upload.state == "receiving":
        with database.session() as session:
            row = _still_there(session, upload.id)
            if row.state == "receiving":
                more = sum(sizes.values())
                check_quota(session, by.organization_id, more, settings=settings, is_taken_at_once=True)
                _check_disk(session, more, places, settings)
                row.size_bytes, row.file_count, row.state = row.size_bytes + more, len(sizes), "unpacking"
    with _storing("what is in the zip"):
        is_done = unpack_some(upload.folder)
    if is_done:
        with database.session() as session:
            _still_there(session, upload.id).size_bytes = sum(sizes.values())
    return is_done
