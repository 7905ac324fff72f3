"""The files of a dataset, for whoever may read it: which there are, and where they lie.

Viewers ask for hundreds of them each second, so that a look at the database is one statement, and a look at the disk a
few calls.
"""

from __future__ import annotations

import errno
import os
import stat
from io import FileIO

from sqlalchemy import select
from sqlalchemy.orm import Session

from voxelworks.archives.paths import HIDDEN_METADATA
from voxelworks.catalog._datasets import is_visible
from voxelworks.catalog._tables import DatasetRow
from voxelworks.errors import DatasetNotFound, InvalidDataset, InvalidInput, NotFound, StorageFailed
from voxelworks.protocol.people import Principal
from voxelworks.protocol.places import Places, is_remote

METADATA_BYTES_MAX = 16 * 2**20
_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENXIO})


def folder_of(session: Session, dataset_id: str, *, by: Principal, places: Places) -> str:
    """Give the folder of a dataset that somebody may read.

    Raises
    ------
    DatasetNotFound
        Also for what others keep to themselves, and for what is in the trash.
    InvalidInput
        If it lies at an address elsewhere: its files are read there.
    UnsafeReference
        If the operator has closed the place since.
    """
    row = session.execute(
        select(DatasetRow.place, DatasetRow.organization_id, DatasetRow.name).where(
            DatasetRow.id == dataset_id, is_visible(by), DatasetRow.trashed_ms.is_(None)
        )
    ).first()
    if row is None:
        raise DatasetNotFound(f"there is no dataset {dataset_id!r}; see the list of datasets")
    if is_remote(row.place):
        raise InvalidInput(f"the files of dataset {row.name!r} lie on another server; read them there")
    return places.for_organization(row.organization_id).locate(row.place)


def open_file(folder: str, path: str) -> FileIO:
    """Open a file of a dataset for reading.

    Parameters
    ----------
    folder
        As `folder_of` gives it, without symbolic links.
    path
        Below the folder, with slashes. It may lead through symbolic links as long as they stay in the folder.

    Raises
    ------
    NotFound
        If there is no such file for readers. Chunks that are not stored are missing all the time.
    StorageFailed
        If it cannot be read.
    """
    parts = path.split("/")
    if not all(map(_is_for_readers, parts)):
        raise _missing(path)
    resolved = os.path.realpath(os.path.join(folder, *parts))
    if not resolved.startswith(os.path.join(folder, "")):
        raise _missing(path)
    try:
        # Not blocking: opening a pipe would wait for whoever writes into it.
        descriptor = os.open(resolved, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in _MISSING:
            raise _missing(path) from error
        raise StorageFailed(f"{path} cannot be read: {error.strerror}; try again later") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _missing(path)
    return FileIO(descriptor)


def read_metadata(folder: str, path: str) -> bytes | None:
    """Read a small file of a dataset; None if there is none.

    Raises
    ------
    InvalidDataset
        If it is too large for metadata.
    StorageFailed
    """
    try:
        with open_file(folder, path) as file:
            text = file.read(METADATA_BYTES_MAX + 1)
    except NotFound:
        return None
    if len(text) > METADATA_BYTES_MAX:
        raise InvalidDataset(f"{path} is larger than {METADATA_BYTES_MAX // 2**20} MiB: that is no metadata")
    return text


def _is_for_readers(part: str) -> bool:
    if not part or "\\" in part or "\0" in part:
        return False
    return not part.startswith(".") or part in HIDDEN_METADATA


def _missing(path: str) -> NotFound:
    return NotFound(f"the dataset has no file {path[:200]!r}")
