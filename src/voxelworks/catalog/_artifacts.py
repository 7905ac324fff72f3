"""Artifacts: files that jobs leave for download, each for a term.

Such a file lies under the id of its job, whatever it is called when it is downloaded. Who may have it is what they may
see of the job; whose it is, is looked at here once more.
"""

from __future__ import annotations

import logging
from io import FileIO
from pathlib import Path

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from voxelworks.catalog._files import open_file
from voxelworks.catalog._tables import ArtifactRow
from voxelworks.catalog._trash import DAY_MS
from voxelworks.db import Database, now
from voxelworks.errors import NotFound, VoxelworksError
from voxelworks.protocol.messages import ArtifactFile
from voxelworks.protocol.places import Places, artifact_place
from voxelworks.protocol.views import ArtifactView
from voxelworks.settings import Settings

_logger = logging.getLogger(__name__)


def register_artifact(session: Session, job_id: str, file: ArtifactFile, *, organization_id: str) -> None:
    """Enter the file that a job has left. Repeating changes nothing."""
    if session.get(ArtifactRow, job_id) is None:
        session.add(
            ArtifactRow(
                job_id=job_id, organization_id=organization_id, name=file.name, media_type=file.media_type,
                size_bytes=file.size_bytes, sha256=file.sha256, created_ms=now(session),
            )
        )  # fmt: skip
        session.flush()


def find_artifact(session: Session, job_id: str, *, settings: Settings) -> ArtifactView | None:
    """Give the file of a job that one may see; None if it left none, or its term is over."""
    row = session.get(ArtifactRow, job_id)
    if row is None or removal_ms(row, settings) <= now(session):
        return None
    return _view(row, settings)


def open_artifact(artifact: ArtifactView, *, places: Places) -> FileIO:
    """Open a file for download.

    Raises
    ------
    NotFound
        If it is gone from the disk.
    StorageFailed
    """
    path = Path(places.locate(artifact_place(artifact.organization_id, artifact.job_id)))
    try:
        return open_file(str(path.parent), path.name)
    except NotFound as error:
        raise NotFound(f"the file {artifact.name!r} is no longer there; run the job again") from error


def remove_artifact(session: Session, job_id: str) -> None:
    """Let the file of a job be removed in the next round, and nobody have it any more. Repeating changes nothing."""
    session.get_one(ArtifactRow, job_id).is_doomed = True
    session.flush()


def remove_expired_artifacts(database: Database, *, places: Places, settings: Settings) -> int:
    """Remove the files whose term is over; give how many went.

    Several servers may do so at once. First the file, then its entry: a crash between the two is made up for by the
    next round, and nobody is given an expired file meanwhile.
    """
    with database.read_session() as session:
        at_ms = now(session)
        due = [
            (row.job_id, artifact_place(row.organization_id, row.job_id))
            for row in session.scalars(select(ArtifactRow).where(ArtifactRow.created_ms <= at_ms))
            if removal_ms(row, settings) <= at_ms
        ]
    gone = [job_id for job_id, place in due if _has_removed(place, places)]
    with database.session() as session:
        session.execute(delete(ArtifactRow).where(ArtifactRow.job_id.in_(gone)))
    return len(gone)


def removal_ms(row: ArtifactRow, settings: Settings) -> int:
    """Tell when the term of a file is over."""
    return row.created_ms if row.is_doomed else row.created_ms + round(settings.artifact_term_days * DAY_MS)


def _has_removed(place: str, places: Places) -> bool:
    try:
        Path(places.locate(place)).unlink(missing_ok=True)
    except (OSError, VoxelworksError) as error:
        _logger.warning("%s stays for now: %s", place, error)
        return False
    return True


def _view(row: ArtifactRow, settings: Settings) -> ArtifactView:
    return ArtifactView(
        job_id=row.job_id, organization_id=row.organization_id, name=row.name, media_type=row.media_type,
        size_bytes=row.size_bytes, sha256=row.sha256, created_ms=row.created_ms,
        expires_ms=removal_ms(row, settings),
    )  # fmt: skip
