"""What people change in a dataset's own metadata: under the same lease as the jobs that add to it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sqlalchemy import delete
from sqlalchemy.orm import Session

from voxelworks import accounts, catalog
from voxelworks.db import Database, insert_into, now
from voxelworks.errors import IllegalTransition, InvalidGeometry, StorageFailed, TargetNotWritable
from voxelworks.geometry import VoxelSize
from voxelworks.jobs._describe import describe_dataset
from voxelworks.jobs._leases import milliseconds
from voxelworks.jobs._tables import DatasetLeaseRow
from voxelworks.protocol.people import Principal
from voxelworks.protocol.places import Places
from voxelworks.protocol.views import DatasetView
from voxelworks.settings import Settings
from voxelworks.volumes.metadata import DataSource
from voxelworks.workflows.publishing import change_properties

VOXEL_NM = (0.01, 1e8)
"""Sides that voxels may have, in nanometres: from less than an atom to 10 cm."""
SIDES_RATIO_MAX = 1000.0
"""Longest to shortest side."""


def restate_dataset(
    database: Database,
    dataset_id: str,
    *,
    voxel_size: VoxelSize | None = None,
    modality: str | None = None,
    by: Principal,
    places: Places,
    settings: Settings,
) -> DatasetView:
    """State another voxel size or kind of microscopy of a dataset, without touching its voxels and mags.

    Written are `datasource-properties.json` and the OME-Zarr groups derived from it. May be repeated after a crash at
    any moment: it completes what is missing.

    Parameters
    ----------
    voxel_size : VoxelSize, optional
        Of mag 1.
    modality : str, optional
        Kind of microscopy of all images in it; empty if it is not known.

    Raises
    ------
    InvalidGeometry
        If no microscope has such voxels.
    DatasetNotFound
    NotAllowed, TargetNotWritable
        If the dataset can only be read.
    IllegalTransition
        If a job writes into it right now.
    InvalidDataset, StorageFailed
        If its metadata cannot be read or written.
    """
    if voxel_size is not None:
        _check_plausible(voxel_size)
    with database.session() as session:
        dataset = catalog.find(session, dataset_id, by=by)
        catalog.require_changeable(dataset, by=by)
        until_ms = _lease(session, dataset, settings)
    try:
        _write(Path(places.locate(dataset.place)), dataset, partial(_restated, voxel_size, modality))
        # Read as it is now: a job may have added to it before we had the lease.
        summary = describe_dataset(dataset.place, places)
        with database.session() as session:
            changed = catalog.register(
                session, organization_id=dataset.organization_id, user_id=dataset.user_id, name=dataset.name,
                place=dataset.place, summary=summary,
            )  # fmt: skip
            if voxel_size is not None:
                accounts.audit(
                    session, by, "dataset.voxel_size", dataset.id, name=dataset.name, old=dataset.summary.voxel_size,
                    new=summary.voxel_size,
                )  # fmt: skip
            if modality is not None:
                accounts.audit(session, by, "dataset.modality", dataset.id, name=dataset.name, new=modality)
    finally:
        with database.session() as session:
            session.execute(
                delete(DatasetLeaseRow).where(
                    DatasetLeaseRow.place == dataset.place, DatasetLeaseRow.job_id.is_(None),
                    DatasetLeaseRow.until_ms == until_ms,
                )
            )  # fmt: skip
    return changed


def _check_plausible(voxel_size: VoxelSize) -> None:
    least, most = VOXEL_NM
    remedy = "give x,y,z in nanometres, such as 4,4,40"
    if not all(least <= side <= most for side in voxel_size.xyz):
        raise InvalidGeometry(
            f"voxel size {str(voxel_size)!r}: sides from {least:g} nm to {most:,.0f} nm are taken; {remedy}"
        )
    if max(voxel_size.xyz) > SIDES_RATIO_MAX * min(voxel_size.xyz):
        raise InvalidGeometry(
            f"voxel size {str(voxel_size)!r}: one side is over {SIDES_RATIO_MAX:,.0f} times another; {remedy}"
        )


def _lease(session: Session, dataset: DatasetView, settings: Settings) -> int:
    """Get the right to change a dataset's metadata, for as long as a publisher would; give until when."""
    at_ms = now(session)
    until_ms = at_ms + milliseconds(settings.dataset_lease_s)
    taking = insert_into(session, DatasetLeaseRow).values(place=dataset.place, until_ms=until_ms)
    taken = session.execute(
        taking.on_conflict_do_update(
            index_elements=[DatasetLeaseRow.place],
            set_={"job_id": None, "attempt": None, "until_ms": until_ms},
            where=DatasetLeaseRow.until_ms < at_ms,
        ).returning(DatasetLeaseRow.place)
    ).first()
    if taken is None:
        raise IllegalTransition(
            f"dataset {dataset.name!r} is being written to right now; try again in a minute"
        )
    return until_ms


def _restated(voxel_size: VoxelSize | None, modality: str | None, source: DataSource) -> DataSource:
    changed = source if voxel_size is None else source.with_voxel_size(voxel_size)
    if modality is None:
        return changed
    images = [layer.name for layer in source.data_layers if layer.category == "color"]
    return changed.with_modality(modality or None, images)


def _write(folder: Path, dataset: DatasetView, change: Callable[[DataSource], DataSource]) -> None:
    try:
        change_properties(folder, change)
    except FileNotFoundError as error:
        raise StorageFailed(f"the files of dataset {dataset.name!r} are gone; tell the operator") from error
    except OSError as error:
        why = f"the metadata of dataset {dataset.name!r} cannot be written: {error.strerror}"
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise TargetNotWritable(f"{why}; tell the operator") from error
        raise StorageFailed(f"{why}; try again later") from error
