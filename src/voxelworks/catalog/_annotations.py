"""Annotations: files that were uploaded, or fetched from a WEBKNOSSOS.

A file is looked through and stored without any transaction, because that takes time; a short one enters it then. A
file that never got its entry is removed as a leftover.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, Literal, Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from voxelworks.archives.limits import ArchiveLimits
from voxelworks.archives.zips import PIECE_BYTES, Entry, list_entries, looks_like_archive, unpack
from voxelworks.catalog._datasets import find
from voxelworks.catalog._storage import check_quota
from voxelworks.catalog._tables import AnnotationRow
from voxelworks.db import now
from voxelworks.errors import (
    InvalidAnnotation,
    InvalidArchive,
    InvalidInput,
    InvalidParams,
    NotFound,
    TargetNotWritable,
)
from voxelworks.protocol.nml import BUCKETS_MAX, ENTRIES_MAX, find_skeleton, read_nml
from voxelworks.protocol.people import Principal
from voxelworks.protocol.places import annotation_place
from voxelworks.protocol.views import AnnotationSummary, AnnotationView
from voxelworks.settings import Settings

PART_SUFFIX = ".part"
"""Of a file that is being received."""
NAME_LENGTH_MAX = 200


class Content(Protocol):
    """What a file is read from."""

    def read(self, size: int, /) -> bytes:
        """Give the next bytes; none at the end."""


@dataclass(frozen=True)
class StoredAnnotation:
    """A file that was checked and stored, and has no entry yet."""

    id: str
    organization_id: str
    kind: Literal["nml", "zip"]
    path: Path
    size_bytes: int
    sha256: str
    summary: AnnotationSummary


def store_annotation(content: Content, *, organization_id: str, settings: Settings) -> StoredAnnotation:
    """Check an NML or annotation zip, told apart by its content, and store it.

    Not for use within a transaction: large files take seconds. `add_annotation_file` enters it then.

    Raises
    ------
    InvalidAnnotation, InvalidArchive
        Saying what is wrong with the file; nothing of it is kept.
    TargetNotWritable
        If it cannot be stored.
    """
    folder = settings.annotations_dir / organization_id
    annotation_id = secrets.token_hex(8)
    part = folder / f".{annotation_id}{PART_SUFFIX}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with part.open("x+b") as stream:
            size, digest = _receive(content, stream, settings.annotation_bytes_max)
            kind: Literal["nml", "zip"] = "zip" if looks_like_archive(stream) else "nml"
            summary = _read_zip(stream, folder, settings) if kind == "zip" else _read_plain(stream, settings)
            stream.flush()
            os.fsync(stream.fileno())
        path = folder / f"{annotation_id}.{kind}"
        part.rename(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise TargetNotWritable(
            f"the annotation cannot be stored ({error.strerror}); tell the operator"
        ) from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return StoredAnnotation(annotation_id, organization_id, kind, path, size, digest, summary)


def discard_stored(stored: StoredAnnotation) -> None:
    """Remove a stored file whose entry was refused.

    Not when the database failed to answer: the entry may be there all the same. If not, the file goes as a leftover.
    """
    with suppress(OSError):
        stored.path.unlink()


def add_annotation_file(
    session: Session,
    stored: StoredAnnotation,
    *,
    by: Principal,
    name: str,
    dataset: str | None = None,
    settings: Settings,
) -> AnnotationView:
    """Enter a stored file into the catalog.

    Parameters
    ----------
    dataset
        Name or id of the dataset that it belongs to, if that is known.

    Raises
    ------
    InvalidParams
        If the name cannot be one.
    DatasetNotFound
    QuotaExceeded
    """
    assert stored.organization_id == by.organization_id, "stored for the organization that enters it"
    check_quota(session, by.organization_id, stored.size_bytes, settings=settings, is_taken_at_once=True)
    row = AnnotationRow(
        id=stored.id, organization_id=by.organization_id, user_id=by.user_id, name=checked_name(name),
        kind=stored.kind, dataset_id=find(session, dataset, by=by).id if dataset else None, fetch_tries=0,
        size_bytes=stored.size_bytes, sha256=stored.sha256, summary=stored.summary.model_dump(mode="json"),
        created_ms=now(session), is_purging=False,
    )  # fmt: skip
    session.add(row)
    session.flush()
    return annotation_view(row)


def list_annotations(
    session: Session, *, by: Principal, include_trashed: bool = False
) -> tuple[AnnotationView, ...]:
    """Give the annotations of the organization, newest first."""
    wanted = select(AnnotationRow).where(AnnotationRow.organization_id == by.organization_id)
    if not include_trashed:
        wanted = wanted.where(AnnotationRow.trashed_ms.is_(None))
    rows = session.scalars(wanted.order_by(AnnotationRow.created_ms.desc(), AnnotationRow.id))
    return tuple(annotation_view(row) for row in rows)


def find_annotation(
    session: Session, annotation_id: str, *, by: Principal, include_trashed: bool = False
) -> AnnotationView:
    """Find an annotation of the organization that asks.

    Raises
    ------
    NotFound
        Also, unless wanted, if it is in the trash.
    """
    row = _own(session, annotation_id, by)
    if row.trashed_ms is not None and not include_trashed:
        raise _is_trashed(row)
    return annotation_view(row)


def require_file(annotation: AnnotationView) -> None:
    """Refuse an annotation that has no file here yet.

    Raises
    ------
    InvalidInput
    """
    if annotation.kind != "webknossos":
        return
    if annotation.is_fetching:
        raise InvalidInput(f"annotation {annotation.name!r} is being fetched; wait until it is here")
    why = f" ({annotation.fetch_problem})" if annotation.fetch_problem else ""
    raise InvalidInput(f"annotation {annotation.name!r} is not fetched{why}; fetch it on its page")


def annotation_file(annotation: AnnotationView, settings: Settings) -> Path:
    """Give the file of an annotation."""
    assert annotation.kind != "webknossos", "it has no file here"
    return settings.annotations_dir / annotation.organization_id / f"{annotation.id}.{annotation.kind}"


def place_of_annotation(annotation: AnnotationView) -> str:
    """Give the place of the file of an annotation, for jobs.

    Raises
    ------
    InvalidInput
        If it is not fetched yet, or being fetched anew.
    """
    require_file(annotation)
    if annotation.is_fetching:
        raise InvalidInput(f"annotation {annotation.name!r} is being fetched anew; wait until that is done")
    return annotation_place(annotation.organization_id, f"{annotation.id}.{annotation.kind}")


def lock_own_annotation(
    session: Session, annotation_id: str, by: Principal, *, is_trashed: bool = False
) -> AnnotationRow:
    """Lock an annotation of the organization that asks; with `is_trashed` only one in the trash; else `NotFound`."""
    row = session.scalar(
        select(AnnotationRow)
        .where(AnnotationRow.id == annotation_id, AnnotationRow.organization_id == by.organization_id)
        .with_for_update(),
        execution_options={"populate_existing": True},
    )
    if row is None or (is_trashed and row.trashed_ms is None):
        where = " in the trash" if is_trashed else ""
        raise NotFound(f"there is no annotation {annotation_id!r}{where}; see the list of annotations")
    return row


def annotation_view(row: AnnotationRow) -> AnnotationView:
    summary = None if row.summary is None else AnnotationSummary.model_validate(row.summary)
    return AnnotationView(
        id=row.id, organization_id=row.organization_id, user_id=row.user_id, name=row.name, kind=row.kind,
        dataset_id=row.dataset_id, address=row.address, has_token=row.sealed_token is not None,
        streams_at=row.streams_at, fetched_ms=row.fetched_ms, is_fetching=row.fetch_due_ms is not None,
        fetch_problem=row.fetch_problem, size_bytes=row.size_bytes, sha256=row.sha256, summary=summary,
        created_ms=row.created_ms, trashed_ms=row.trashed_ms, purge_ms=row.purge_ms,
    )  # fmt: skip


def _own(session: Session, annotation_id: str, by: Principal) -> AnnotationRow:
    row = session.get(AnnotationRow, annotation_id)
    if row is None or row.organization_id != by.organization_id:
        raise NotFound(f"there is no annotation {annotation_id!r}; see the list of annotations")
    return row


def refuse_trashed(row: AnnotationRow) -> None:
    """Refuse an annotation that is in the trash; `NotFound`."""
    if row.trashed_ms is not None:
        raise _is_trashed(row)


def _is_trashed(row: AnnotationRow) -> NotFound:
    return NotFound(f"annotation {row.name!r} is in the trash; restore it first")


def _receive(content: Content, stream: BinaryIO, bytes_max: int) -> tuple[int, str]:
    """Copy what arrives; give its size and SHA-256."""
    size, digest = 0, hashlib.sha256()
    while piece := content.read(PIECE_BYTES):
        size += len(piece)
        if size > bytes_max:
            raise InvalidAnnotation(
                f"the annotation is larger than {bytes_max / 2**20:,.0f} MiB, the most that is taken; split it up"
            )
        digest.update(piece)
        stream.write(piece)
    return size, digest.hexdigest()


def _read_plain(stream: BinaryIO, settings: Settings) -> AnnotationSummary:
    stream.seek(0)
    summary = read_nml(iter(lambda: stream.read(PIECE_BYTES), b""), settings.nml_bytes_max)
    without_data = [layer.model_copy(update={"location": None}) for layer in summary.volume_layers]
    return summary.model_copy(update={"volume_layers": tuple(without_data)})


def _read_zip(stream: BinaryIO, folder: Path, settings: Settings) -> AnnotationSummary:
    """Look through an annotation's zip, and the zips of volume data in it."""
    limits = ArchiveLimits(ENTRIES_MAX, settings.annotation_bytes_max)
    entries = {entry.name: entry for entry in list_entries(stream, limits)}
    summary = read_nml(unpack(stream, find_skeleton(entries)), settings.nml_bytes_max)
    for layer in summary.volume_layers:
        if layer.location is None:
            continue
        if layer.location not in entries:
            raise InvalidAnnotation(
                f"the NML names volume data {layer.location[:NAME_LENGTH_MAX]!r}, not in the zip; download it anew"
            )
        _check_volume(stream, entries[layer.location], folder, settings)
    return summary


def _check_volume(stream: BinaryIO, entry: Entry, folder: Path, settings: Settings) -> None:
    """Look through the zip of one volume layer; an empty one stands for no data."""
    limits = ArchiveLimits(BUCKETS_MAX, settings.annotation_bytes_max)
    with TemporaryFile(dir=folder) as inner:
        for piece in unpack(stream, entry):
            inner.write(piece)
        if inner.tell() == 0:
            return
        if not looks_like_archive(inner):
            raise InvalidAnnotation(
                f"volume data {entry.name!r} is no zip file; download the annotation anew"
            )
        try:
            for _ in list_entries(inner, limits):
                pass
        except InvalidArchive as error:
            raise InvalidArchive(f"volume data {entry.name!r}: {error}") from error


def checked_name(name: str) -> str:
    name = name.strip()
    if not name or len(name) > NAME_LENGTH_MAX or not name.isprintable():
        raise InvalidParams(
            f"{name[:NAME_LENGTH_MAX]!r} is no name; give one line of at most {NAME_LENGTH_MAX} characters"
        )
    return name
