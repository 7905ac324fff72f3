"""What takes room and will go: the trash, uploads, artifacts, files without an entry, and folders of attempts."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from voxelworks.catalog._annotations import PART_SUFFIX
from voxelworks.catalog._artifacts import removal_ms as artifact_removal_ms
from voxelworks.catalog._models import known_models
from voxelworks.catalog._tables import AnnotationRow, ArtifactRow, DatasetRow, UploadRow
from voxelworks.catalog._trash import DAY_MS
from voxelworks.catalog._uploads import removal_ms
from voxelworks.db import Database
from voxelworks.protocol.people import Principal
from voxelworks.protocol.places import (
    ARTIFACTS_FOLDER,
    DATASET_NAME,
    MODELS_FOLDER,
    ORGANIZATION_ID,
    PREVIEW_FOLDER,
    UPLOADS_FOLDER,
    Places,
)
from voxelworks.protocol.views import LeftoverKind, LeftoverView
from voxelworks.settings import Settings

_WORK_FOLDER = ".voxelworks"
_logger = logging.getLogger(__name__)


def leftovers(
    session: Session,
    *,
    by: Principal,
    places: Places,
    settings: Settings,
    work_keys_in_use: Collection[str],
    uploads_in_use: Collection[str] = (),
) -> tuple[LeftoverView, ...]:
    """List what will be removed, soonest first: of the organization that asks, or of all for the operator.

    Parameters
    ----------
    work_keys_in_use
        Of jobs that have not ended, whose result is not published yet, or that a worker is still to clear up.
    uploads_in_use
        Ids of those that jobs which have not ended name.
    """
    # The token of an operator is one of an organization, as all tokens, unless it may operate.
    sees_all = by.is_operator and (by.scopes is None or "admin" in by.scopes)
    organization_id = None if sees_all else by.organization_id
    found = [*_trashed(session, organization_id)]
    found += _uploads(session, settings, uploads_in_use, organization_id)
    found += _artifacts(session, settings, organization_id)
    found += [item.view for item in _files(session, places, settings, organization_id)]
    found += [item.view for item in _lost_artifacts(session, places, settings, organization_id)]
    found += [item.view for item in _lost_models(session, places, settings, organization_id)]
    found += [item.view for item in _previews(session, places, settings, organization_id)]
    found += [item.view for item in _attempts(places, settings, work_keys_in_use, organization_id)]
    return tuple(sorted(found, key=lambda item: (item.removal_ms is None, item.removal_ms or 0, item.name)))


def remove_leftovers(
    database: Database, *, places: Places, settings: Settings, work_keys_in_use: Collection[str]
) -> int:
    """Remove files and folders of attempts whose time has come; give how many went.

    The trash, and the uploads and artifacts that are known, have their own rounds.

    Parameters
    ----------
    work_keys_in_use
        As for `leftovers`, read at most a moment ago: nothing of these is touched.
    """
    with database.read_session() as session:
        found = [
            *_files(session, places, settings, None), *_lost_artifacts(session, places, settings, None),
            *_lost_models(session, places, settings, None), *_previews(session, places, settings, None),
            *_attempts(places, settings, work_keys_in_use, None),
        ]  # fmt: skip
    now_ms = time.time() * 1000
    due = [item for item in found if item.view.removal_ms is not None and item.view.removal_ms <= now_ms]
    return sum(_has_removed(item.path) for item in due)


@dataclass(frozen=True)
class _Leftover:
    view: LeftoverView
    path: Path


def _trashed(session: Session, organization_id: str | None) -> Iterator[LeftoverView]:
    datasets = select(DatasetRow).where(DatasetRow.trashed_ms.is_not(None))
    annotations = select(AnnotationRow).where(AnnotationRow.trashed_ms.is_not(None))
    if organization_id is not None:
        datasets = datasets.where(DatasetRow.organization_id == organization_id)
        annotations = annotations.where(AnnotationRow.organization_id == organization_id)
    for dataset in session.scalars(datasets):
        yield _in_trash("dataset", dataset)
    for annotation in session.scalars(annotations):
        yield _in_trash("annotation", annotation)


def _in_trash(kind: LeftoverKind, row: DatasetRow | AnnotationRow) -> LeftoverView:
    return LeftoverView(
        kind=kind, organization_id=row.organization_id, name=row.name, size_bytes=row.size_bytes,
        removal_ms=row.purge_ms,
    )  # fmt: skip


def _uploads(
    session: Session, settings: Settings, uploads_in_use: Collection[str], organization_id: str | None
) -> Iterator[LeftoverView]:
    wanted = select(UploadRow)
    if organization_id is not None:
        wanted = wanted.where(UploadRow.organization_id == organization_id)
    for row in session.scalars(wanted):
        yield LeftoverView(
            kind="upload", organization_id=row.organization_id,
            name=f"{row.organization_id}/{UPLOADS_FOLDER}/{row.id}", size_bytes=row.size_bytes,
            removal_ms=None if row.id in uploads_in_use else removal_ms(row, settings),
        )  # fmt: skip


def _files(
    session: Session, places: Places, settings: Settings, organization_id: str | None
) -> Iterator[_Leftover]:
    """Find files in the folder of annotations that no annotation has, and folders of uploads that are not known."""
    uploads = set(session.scalars(select(UploadRow.id)))
    for home in _organization_folders(places.data_dir, organization_id):
        for entry in _entries(home / UPLOADS_FOLDER):
            if entry.name not in uploads:
                yield _lost(
                    Path(entry.path), home.name, f"{home.name}/{UPLOADS_FOLDER}/{entry.name}", settings
                )
    known = set(session.scalars(select(AnnotationRow.id)))
    for home in _organization_folders(settings.annotations_dir, organization_id):
        for entry in _entries(home):
            if not (entry.name.endswith(PART_SUFFIX) or entry.name.partition(".")[0] not in known):
                continue
            yield _lost(Path(entry.path), home.name, f"annotations/{home.name}/{entry.name}", settings)


def _artifacts(session: Session, settings: Settings, organization_id: str | None) -> Iterator[LeftoverView]:
    wanted = select(ArtifactRow)
    if organization_id is not None:
        wanted = wanted.where(ArtifactRow.organization_id == organization_id)
    for row in session.scalars(wanted):
        yield LeftoverView(
            kind="artifact", organization_id=row.organization_id, name=row.name, size_bytes=row.size_bytes,
            removal_ms=artifact_removal_ms(row, settings),
        )  # fmt: skip


def _lost_artifacts(
    session: Session, places: Places, settings: Settings, organization_id: str | None
) -> Iterator[_Leftover]:
    """Find files for download that no job has: the server forgot them, or never heard of them."""
    known = set(session.scalars(select(ArtifactRow.job_id)))
    for home in _organization_folders(places.data_dir, organization_id):
        for entry in _entries(home / ARTIFACTS_FOLDER):
            if entry.name in known or entry.name == _WORK_FOLDER:
                continue
            yield _lost(Path(entry.path), home.name, f"{home.name}/{ARTIFACTS_FOLDER}/{entry.name}", settings)


def _lost_models(
    session: Session, places: Places, settings: Settings, organization_id: str | None
) -> Iterator[_Leftover]:
    """Find versions of models that are not known: the server never heard of them."""
    known = known_models(session)
    for home in _organization_folders(places.data_dir, organization_id):
        for model in _entries(home / MODELS_FOLDER):
            for entry in _entries(Path(model.path)):
                is_number = entry.name.isdecimal()
                if not is_number or (home.name, model.name, int(entry.name)) in known:
                    continue
                name = f"{home.name}/{MODELS_FOLDER}/{model.name}/{entry.name}"
                yield _lost(Path(entry.path), home.name, name, settings)


def _previews(
    session: Session, places: Places, settings: Settings, organization_id: str | None
) -> Iterator[_Leftover]:
    """Find pictures of linked datasets that are gone: a job may have drawn one while it was being deleted."""
    known = set(session.scalars(select(DatasetRow.id).where(DatasetRow.is_linked)))
    for home in _organization_folders(places.data_dir, organization_id):
        for entry in _entries(home):
            prefix, _, dataset_id = entry.name.rpartition("-")
            if prefix != PREVIEW_FOLDER or dataset_id in known:
                continue
            yield _lost(Path(entry.path), home.name, f"{home.name}/{entry.name}", settings)


def _lost(path: Path, organization_id: str, name: str, settings: Settings) -> _Leftover:
    """Tell of a file or folder that nothing knows: it is removed a term after its last change."""
    size, changed_ms = _measure(path)
    view = LeftoverView(
        kind="file", organization_id=organization_id, name=name, size_bytes=size,
        removal_ms=changed_ms + _term_ms(settings),
    )  # fmt: skip
    return _Leftover(view, path)


def _attempts(
    places: Places, settings: Settings, work_keys_in_use: Collection[str], organization_id: str | None
) -> Iterator[_Leftover]:
    """Find what the attempts of jobs have written, beside the datasets and in them, and beside artifacts and models."""
    for home in _organization_folders(places.data_dir, organization_id):
        inside = [Path(entry.path) for entry in _entries(home) if DATASET_NAME.fullmatch(entry.name)]
        models = [Path(entry.path) for entry in _entries(home / MODELS_FOLDER)]
        parents = (home, home / ARTIFACTS_FOLDER, *models, *inside)
        for folder in (path for parent in parents for path in _work_folders(parent)):
            size, changed_ms = _measure(folder)
            is_in_use = folder.name in work_keys_in_use
            view = LeftoverView(
                kind="attempt", organization_id=home.name, name=str(folder.relative_to(places.data_dir)),
                size_bytes=size, removal_ms=None if is_in_use else changed_ms + _term_ms(settings),
            )  # fmt: skip
            yield _Leftover(view, folder)


def _work_folders(parent: Path) -> list[Path]:
    """List the folders of jobs, each with those of its attempts in it."""
    entries = _entries(parent / _WORK_FOLDER)
    return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]


def _organization_folders(parent: Path, organization_id: str | None) -> list[Path]:
    if organization_id is not None:
        return [parent / organization_id]
    return [Path(entry.path) for entry in _entries(parent) if ORGANIZATION_ID.fullmatch(entry.name)]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError:  # not there, or going away just now
        return []


def _measure(path: Path) -> tuple[int, int]:
    """Give the size of a file or folder, and when anything in it changed last, in milliseconds."""
    size, newest_s = _status(path)
    for parent, folders, files in os.walk(path):
        for name in (*folders, *files):
            more, changed_s = _status(Path(parent) / name)
            size, newest_s = size + more, max(newest_s, changed_s)
    return size, round(newest_s * 1000)


def _status(path: Path) -> tuple[int, float]:
    try:
        status = path.lstat()
    except OSError:
        return 0, time.time()  # it is changing just now
    return 0 if path.is_dir() else status.st_size, status.st_mtime


def _has_removed(path: Path) -> bool:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        _logger.warning("%s stays for now: %s", path, error)
        return False
    return True


def _term_ms(settings: Settings) -> int:
    return round(settings.leftover_term_days * DAY_MS)
