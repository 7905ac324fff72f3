"""The trash: what is deleted can be restored for a term, and is then removed for good.

Removal takes three steps, so that a crash between any two is made up for by the next round: the row is marked, then the
files are removed, then the row. A name is free again only when nothing lies under it.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from voxelworks.catalog._annotations import annotation_file, annotation_view, lock_own_annotation
from voxelworks.catalog._datasets import lock_own, view
from voxelworks.catalog._previews import place_of_previews
from voxelworks.catalog._tables import AnnotationRow, DatasetRow
from voxelworks.db import Database, now
from voxelworks.errors import IllegalTransition, StorageFailed, UnsafeReference
from voxelworks.protocol.people import Principal
from voxelworks.protocol.places import Places, dataset_place
from voxelworks.protocol.views import AnnotationView, DatasetView
from voxelworks.settings import Settings

DAY_MS = 86_400_000
DOOMED_PREFIX = ".deleting-"
"""How the folder of a dataset is named while its files are being removed."""

_logger = logging.getLogger(__name__)


def trash(session: Session, dataset_id: str, *, by: Principal, settings: Settings) -> DatasetView:
    """Put a dataset into the trash: it can be restored until its term is over. Repeating changes nothing.

    Raises
    ------
    DatasetNotFound
    """
    row = lock_own(session, dataset_id, by, is_trashed=None)
    _trash(session, row, settings)
    return view(row)


def restore(session: Session, dataset_id: str, *, by: Principal) -> DatasetView:
    """Take a dataset out of the trash.

    Raises
    ------
    DatasetNotFound
        If it is not in the trash.
    IllegalTransition
        If its files are being removed.
    """
    row = lock_own(session, dataset_id, by, is_trashed=True)
    _restore(session, row)
    return view(row)


def delete_now(session: Session, dataset_id: str, *, by: Principal) -> None:
    """Let a dataset in the trash be removed in the next round.

    Raises
    ------
    DatasetNotFound
        If it is not in the trash.
    """
    lock_own(session, dataset_id, by, is_trashed=True).purge_ms = now(session)


def trash_annotation(
    session: Session, annotation_id: str, *, by: Principal, settings: Settings
) -> AnnotationView:
    """Put an annotation into the trash; `NotFound` if there is none."""
    row = lock_own_annotation(session, annotation_id, by)
    _trash(session, row, settings)
    return annotation_view(row)


def restore_annotation(session: Session, annotation_id: str, *, by: Principal) -> AnnotationView:
    """Take an annotation out of the trash; `NotFound` or `IllegalTransition` as for datasets."""
    row = lock_own_annotation(session, annotation_id, by, is_trashed=True)
    _restore(session, row)
    return annotation_view(row)


def delete_annotation_now(session: Session, annotation_id: str, *, by: Principal) -> None:
    """Let an annotation in the trash be removed in the next round; `NotFound` if it is not in the trash."""
    lock_own_annotation(session, annotation_id, by, is_trashed=True).purge_ms = now(session)


def purge_expired(database: Database, *, places: Places, settings: Settings) -> int:
    """Remove what has been in the trash for its term; give how many datasets and annotations went.

    Several servers may do so at once. What cannot be removed now is tried again in the next round.
    """
    with database.session() as session:
        at_ms = now(session)
        for table in (DatasetRow, AnnotationRow):
            session.execute(
                update(table)
                .where(table.purge_ms <= at_ms, table.trashed_ms.is_not(None))
                .values(is_purging=True)
            )
    with database.read_session() as session:
        datasets = [view(row) for row in session.scalars(select(DatasetRow).where(DatasetRow.is_purging))]
        annotations = [
            annotation_view(row)
            for row in session.scalars(select(AnnotationRow).where(AnnotationRow.is_purging))
        ]
    gone_datasets = [item.id for item in datasets if _has_removed_dataset(item, places)]
    gone_annotations = [item.id for item in annotations if _has_removed_annotation(item, settings)]
    with database.session() as session:
        for table, ids in ((DatasetRow, gone_datasets), (AnnotationRow, gone_annotations)):
            session.execute(delete(table).where(table.id.in_(ids)))
    return len(gone_datasets) + len(gone_annotations)


def _trash(session: Session, row: DatasetRow | AnnotationRow, settings: Settings) -> None:
    if row.trashed_ms is not None:
        return
    row.trashed_ms = now(session)
    row.purge_ms = row.trashed_ms + round(settings.trash_term_days * DAY_MS)
    session.flush()


def _restore(session: Session, row: DatasetRow | AnnotationRow) -> None:
    if row.is_purging:
        raise IllegalTransition(f"{row.name!r} is being deleted for good; it cannot be restored any more")
    row.trashed_ms = row.purge_ms = None
    session.flush()


def _has_removed_dataset(dataset: DatasetView, places: Places) -> bool:
    """Remove the files of a dataset; of a linked one, whose files are not ours, only its pictures."""
    try:
        if dataset.is_linked:
            _remove_previews(dataset, places)
            return True
        folder = _own_folder(dataset, places)
        doomed = folder.with_name(f"{DOOMED_PREFIX}{dataset.id}")
        if folder.exists():
            folder.rename(doomed)  # in one step: nobody shall open half of it
        if doomed.exists():
            shutil.rmtree(doomed)
    except (OSError, UnsafeReference, StorageFailed) as error:
        _logger.warning("the files of dataset %s stay for now: %s", dataset.id, error)
        return False
    return True


def _remove_previews(dataset: DatasetView, places: Places) -> None:
    folder = Path(places.locate(place_of_previews(dataset)))
    if folder.exists():
        shutil.rmtree(folder)


def _own_folder(dataset: DatasetView, places: Places) -> Path:
    if not dataset.place.startswith(dataset_place(dataset.organization_id, "")):
        raise StorageFailed(
            f"{dataset.place} is not in the folder of its organization; nothing is deleted there"
        )
    folder = places.data_dir / dataset.place.removeprefix("data:")
    if folder.is_symlink() or str(folder.resolve()) != places.locate(dataset.place):
        raise StorageFailed(f"{folder} is a link; nothing is deleted through it")
    return folder


def _has_removed_annotation(annotation: AnnotationView, settings: Settings) -> bool:
    try:
        if annotation.kind != "webknossos":
            annotation_file(annotation, settings).unlink(missing_ok=True)
    except OSError as error:
        _logger.warning("the file of annotation %s stays for now: %s", annotation.id, error)
        return False
    return True
