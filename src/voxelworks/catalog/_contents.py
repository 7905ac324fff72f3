"""What an annotation holds, one by one: read from its file when it is looked at for the first time."""

from __future__ import annotations

from typing import BinaryIO

from voxelworks.archives.limits import ArchiveLimits
from voxelworks.archives.zips import PIECE_BYTES, list_entries, unpack
from voxelworks.catalog._annotations import annotation_file, lock_own_annotation, require_file
from voxelworks.catalog._tables import AnnotationRow
from voxelworks.db import Database
from voxelworks.errors import StorageFailed
from voxelworks.protocol.nml import ENTRIES_MAX, find_skeleton, read_contents
from voxelworks.protocol.people import Principal
from voxelworks.protocol.views import AnnotationContents, AnnotationView
from voxelworks.settings import Settings


def annotation_contents(
    database: Database, annotation: AnnotationView, *, by: Principal, settings: Settings
) -> AnnotationContents:
    """Describe the trees and volume layers of an annotation.

    Raises
    ------
    InvalidInput
        If it is not fetched yet.
    NotFound
        If it was deleted meanwhile.
    StorageFailed
        If its file cannot be read.
    """
    require_file(annotation)
    with database.read_session() as session:
        row = session.get(AnnotationRow, annotation.id)
        if row is not None and row.contents is not None:
            return AnnotationContents.model_validate(row.contents)
    # A large file takes seconds: no transaction waits for that.
    try:
        with annotation_file(annotation, settings).open("rb") as stream:
            found = _read_zip(stream, settings) if annotation.kind == "zip" else _read_plain(stream, settings)
    except OSError as error:
        raise StorageFailed(
            f"the file of annotation {annotation.name!r} cannot be read ({error.strerror}); tell the operator"
        ) from error
    with database.session() as session:
        row = lock_own_annotation(session, annotation.id, by)
        if row.sha256 == annotation.sha256:  # it may have been fetched anew meanwhile
            row.contents = found.model_dump(mode="json")
    return found


def _read_plain(stream: BinaryIO, settings: Settings) -> AnnotationContents:
    found = read_contents(iter(lambda: stream.read(PIECE_BYTES), b""), settings.nml_bytes_max)
    without_data = [layer.model_copy(update={"location": None}) for layer in found.volume_layers]
    return found.model_copy(update={"volume_layers": tuple(without_data)})


def _read_zip(stream: BinaryIO, settings: Settings) -> AnnotationContents:
    limits = ArchiveLimits(ENTRIES_MAX, settings.annotation_bytes_max)
    entries = {entry.name: entry for entry in list_entries(stream, limits)}
    found = read_contents(unpack(stream, find_skeleton(entries)), settings.nml_bytes_max)
    sized = [
        layer.model_copy(update={"size_bytes": entries[layer.location].size_bytes})
        if layer.location
        else layer
        for layer in found.volume_layers
    ]
    return found.model_copy(update={"volume_layers": tuple(sized)})
