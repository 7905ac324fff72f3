"""Folders of datasets as older versions laid them out."""

from __future__ import annotations

import shutil
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from voxelworks.catalog._tables import DatasetRow
from voxelworks.errors import TargetNotWritable
from voxelworks.protocol.people import LOCAL_ORGANIZATION_ID
from voxelworks.protocol.places import Places, dataset_place
from voxelworks.settings import Settings

_WORK_FOLDER = ".voxelworks"
_OLD_ANNOTATIONS = "annotations"
_ASIDE = f".{LOCAL_ORGANIZATION_ID}.moving"


def adopt_old_layout(session: Session, places: Places) -> tuple[str, ...]:
    """Move datasets that lie directly in the folder of datasets to that of the organization they belong to now.

    Version 0.1 knew no organizations, and put the attempts of all jobs side by side. May be repeated after a crash at
    any moment, and does nothing the next time. No worker may be at work meanwhile.

    Returns
    -------
    tuple of str
        Names of the datasets that were moved.

    Raises
    ------
    TargetNotWritable
        If they cannot be moved.
    """
    known = session.scalars(
        select(DatasetRow.name)
        .where(
            DatasetRow.organization_id == LOCAL_ORGANIZATION_ID,
            DatasetRow.place == dataset_place(LOCAL_ORGANIZATION_ID, "") + DatasetRow.name,
        )
        .order_by(DatasetRow.name)
    )
    # First the one that lies where the folder for all of them shall be.
    names = dict.fromkeys([LOCAL_ORGANIZATION_ID, *known])
    try:
        moved = tuple(name for name in names if _has_moved(places.data_dir, name))
        _move_work_folder(places.data_dir)
        home = places.data_dir / LOCAL_ORGANIZATION_ID
        for folder in (home, *(home / name for name in names)):
            _regroup_attempts(folder / _WORK_FOLDER)
    except OSError as error:
        raise TargetNotWritable(
            f"the datasets in {places.data_dir} cannot be moved to its folder {LOCAL_ORGANIZATION_ID} "
            f"({error.strerror}); make it writable, or move them there by hand, and start again"
        ) from error
    return moved


def adopt_old_annotations(settings: Settings) -> int:
    """Move the files of annotations from the server's home, where workers on other machines do not find them.

    May be repeated after a crash at any moment, and does nothing the next time.

    Returns
    -------
    int
        How many files were moved.

    Raises
    ------
    TargetNotWritable
        If they cannot be moved.
    """
    old, moved = settings.home / _OLD_ANNOTATIONS, 0
    try:
        for file in sorted(path for path in old.glob("*/*") if path.is_file()):
            target = settings.annotations_dir / file.parent.name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            # The two may lie on different disks; what is copied gets its name when it is whole.
            part = target.with_name(f".{target.name}.part")
            shutil.copy2(file, part)
            part.replace(target)
            file.unlink()
            moved += 1
        for folder in (*old.glob("*/"), old):
            if folder.is_dir():
                folder.rmdir()
    except OSError as error:
        raise TargetNotWritable(
            f"the annotations in {old} cannot be moved to {settings.annotations_dir} ({error.strerror}); "
            "make both writable, or move them there by hand, and start again"
        ) from error
    return moved


def _has_moved(data_dir: Path, name: str) -> bool:
    home = data_dir / LOCAL_ORGANIZATION_ID
    old, new = data_dir / name, home / name
    if name == LOCAL_ORGANIZATION_ID:
        aside = data_dir / _ASIDE
        if _is_dataset(old):
            old.rename(aside)
        old = aside
    if new.exists() or not _is_dataset(old):
        return False
    home.mkdir(exist_ok=True)
    old.rename(new)
    return True


def _move_work_folder(data_dir: Path) -> None:
    """Move the folders of attempts too: results that were sealed, but not published yet."""
    old = data_dir / _WORK_FOLDER
    if not old.is_dir():
        return
    new = data_dir / LOCAL_ORGANIZATION_ID / _WORK_FOLDER
    new.mkdir(parents=True, exist_ok=True)
    for entry in sorted(old.iterdir()):
        entry.rename(new / entry.name)
    old.rmdir()


def _regroup_attempts(work_folder: Path) -> None:
    """Turn `JOB.NUMBER` into `JOB/NUMBER`."""
    if not work_folder.is_dir():
        return
    for entry in sorted(work_folder.iterdir()):
        work_key, _, number = entry.name.rpartition(".")
        if work_key and number.isdecimal():
            (work_folder / work_key).mkdir(exist_ok=True)
            entry.rename(work_folder / work_key / number)


def _is_dataset(folder: Path) -> bool:
    return (folder / "datasource-properties.json").is_file()
