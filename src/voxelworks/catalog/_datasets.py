"""Datasets: who sees which, their names, and how they come in."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from voxelworks.catalog._models import require_model
from voxelworks.catalog._previews import with_addresses
from voxelworks.catalog._tables import AnnotationRow, DatasetRow, UploadRow
from voxelworks.db import now
from voxelworks.errors import (
    DatasetNotFound,
    InvalidParams,
    NotAllowed,
    NotFound,
    TargetExists,
    TargetNotWritable,
    UnsafeReference,
)
from voxelworks.protocol.people import Principal
from voxelworks.protocol.places import (
    DATASET_NAME,
    MODEL,
    OWN_PLACES,
    Places,
    annotation_parts,
    dataset_place,
    is_remote,
    upload_parts,
)
from voxelworks.protocol.views import DatasetSummary, DatasetView, LayerPreview

_NAME_LENGTH_MAX = 128


def find(session: Session, ref: str, *, by: Principal, include_trashed: bool = False) -> DatasetView:
    """Find a dataset by its name or id in the organization that asks, or by the id of a public one.

    Raises
    ------
    DatasetNotFound
        Also for what others keep to themselves, and, unless wanted, for what is in the trash.
    """
    is_own = DatasetRow.organization_id == by.organization_id
    row = session.scalar(select(DatasetRow).where(is_own, DatasetRow.name == ref)) or session.scalar(
        select(DatasetRow).where(DatasetRow.id == ref, is_visible(by))
    )
    if row is None:
        raise DatasetNotFound(f"there is no dataset {ref!r}; see the list of datasets for the names")
    if not (include_trashed and row.organization_id == by.organization_id):
        _refuse_trashed(row, by.organization_id)
    return view(row)


def find_by_place(session: Session, place: str) -> DatasetView | None:
    """Find the dataset that a job made, added to or drew, whoever asks.

    Linked datasets are not found by their own place, which several may have, but by that of their pictures.
    """
    kind, _, rest = place.partition(":")
    organization_id, _, name = rest.partition("/")
    if kind == "previews" and name.startswith("@"):
        is_it = and_(DatasetRow.id == name[1:], DatasetRow.organization_id == organization_id)
    elif kind == "previews":
        is_it = and_(
            DatasetRow.place == dataset_place(organization_id, name), DatasetRow.is_linked.is_(False)
        )
    else:
        is_it = and_(DatasetRow.place == place, DatasetRow.is_linked.is_(False))
    row = session.scalar(select(DatasetRow).where(is_it))
    return None if row is None else view(row)


def has_files_at(session: Session, place: str) -> bool:
    """Whether the files of a dataset lie at a place, be it made there, linked or in the trash."""
    return session.scalar(select(DatasetRow.id).where(DatasetRow.place == place).limit(1)) is not None


def list_datasets(
    session: Session, *, by: Principal, include_trashed: bool = False, include_public: bool = False
) -> tuple[DatasetView, ...]:
    """Give the datasets of the organization by name, then, if wanted, the public ones of others."""
    is_own = DatasetRow.organization_id == by.organization_id
    wanted = select(DatasetRow).where(is_visible(by) if include_public else is_own)
    if not include_trashed:
        wanted = wanted.where(DatasetRow.trashed_ms.is_(None))
    elif include_public:
        wanted = wanted.where(or_(is_own, DatasetRow.trashed_ms.is_(None)))
    rows = session.scalars(wanted.order_by(DatasetRow.name, DatasetRow.id))
    return tuple(
        sorted((view(row) for row in rows), key=lambda item: item.organization_id != by.organization_id)
    )


def register(
    session: Session,
    *,
    organization_id: str,
    user_id: str | None,
    name: str,
    place: str,
    summary: DatasetSummary,
    size_bytes: int = 0,
    made_by_job: str | None = None,
) -> DatasetView:
    """Add a dataset whose files are there, or renew what is known of the one at this place.

    Parameters
    ----------
    name
        If another dataset has taken it meanwhile, a number is appended: what was published must be found.
    size_bytes
        Of the files of a new dataset, or of those that were added to a known one.
    """
    at_ms = now(session)
    row = _lock_by_place(session, organization_id, place)
    while row is None:
        free = next(item for item in _numbered(name) if not _has_name(session, organization_id, item))
        made = DatasetRow(
            id=secrets.token_hex(8), name=free, place=place, summary=summary.model_dump(mode="json"), created_ms=at_ms,
            updated_ms=at_ms, made_by_job=made_by_job, organization_id=organization_id, user_id=user_id,
            is_public=False, is_linked=False, size_bytes=size_bytes, is_purging=False,
        )  # fmt: skip
        if _can_add(session, made):
            return view(made)
        row = _lock_by_place(session, organization_id, place)  # or only the name was taken just now
    row.summary = summary.model_dump(mode="json")
    row.size_bytes += size_bytes
    row.updated_ms = at_ms
    session.flush()
    return view(row)


def link_dataset(
    session: Session, *, by: Principal, name: str, place: str, summary: DatasetSummary, places: Places
) -> DatasetView:
    """Enter a dataset that stays where it is: below an import root, or on an allowed remote host. It can only be read.

    Parameters
    ----------
    summary
        What its metadata say; read before, because that takes time.

    Raises
    ------
    UnsafeReference
        If the organization may not read the place.
    InvalidParams
        If the name cannot be one.
    TargetExists
        If the name is taken, or the place is linked already.
    """
    _check_name(name)
    place = _normal(place)
    if place.startswith(OWN_PLACES):
        raise UnsafeReference(
            f"{place!r} is in the folder of datasets; link what lies below an import root or on a remote host"
        )
    places.for_organization(by.organization_id).locate(place)
    linked = _lock_by_place(session, by.organization_id, place)
    if linked is not None:
        where = "in the trash" if linked.trashed_ms is not None else "in the list of datasets"
        raise TargetExists(f"{place} is linked already, as {linked.name!r}; it is {where}")
    reason = why_taken(session, by.organization_id, name, places)
    if reason is not None:
        raise TargetExists(f"the name {name!r} is taken ({reason}); choose another name")
    at_ms = now(session)
    row = DatasetRow(
        id=secrets.token_hex(8), name=name, place=place, summary=summary.model_dump(mode="json"), created_ms=at_ms,
        updated_ms=at_ms, organization_id=by.organization_id, user_id=by.user_id, is_public=False, is_linked=True,
        size_bytes=0, is_purging=False,
    )  # fmt: skip
    if not _can_add(session, row):
        raise TargetExists(
            f"the name {name!r} or the place {place} was taken just now; look at the list of datasets"
        )
    return view(row)


def set_public(session: Session, dataset_id: str, is_public: bool, *, by: Principal) -> DatasetView:
    """Let the members of all organizations read a dataset, or only its own.

    Raises
    ------
    DatasetNotFound
    """
    row = lock_own(session, dataset_id, by)
    row.is_public, row.updated_ms = is_public, now(session)
    session.flush()
    return view(row)


def rename_dataset(session: Session, dataset_id: str, name: str, *, by: Principal) -> DatasetView:
    """Give a dataset another name. Its files stay where they are.

    Raises
    ------
    DatasetNotFound
    InvalidParams
        If the name cannot be one.
    TargetExists
        If it is taken.
    """
    row = lock_own(session, dataset_id, by)
    if name == row.name:
        return view(row)
    _check_name(name)
    try:
        with session.begin_nested():
            row.name, row.updated_ms = name, now(session)
            session.flush()
    except IntegrityError as error:
        session.refresh(row)
        raise TargetExists(f"there is already a dataset {name!r}; choose another name") from error
    return view(row)


def set_previews(session: Session, dataset_id: str, previews: Mapping[str, LayerPreview]) -> None:
    """Remember which pictures the layers of a dataset have; nothing else of it has changed."""
    row = session.scalar(
        select(DatasetRow).where(DatasetRow.id == dataset_id).with_for_update(),
        execution_options={"populate_existing": True},
    )
    if row is not None:
        summary = DatasetSummary.model_validate(row.summary)
        row.summary = summary.with_previews(previews).model_dump(mode="json")


def why_taken(session: Session, organization_id: str, name: str, places: Places) -> str | None:
    """Say why a dataset cannot be made under a name; None if it can."""
    row = session.scalar(
        select(DatasetRow).where(DatasetRow.organization_id == organization_id, DatasetRow.name == name)
    )
    if row is not None:
        return "it exists" if row.trashed_ms is None else "it is in the trash"
    place = dataset_place(organization_id, name)
    row = session.scalar(
        select(DatasetRow).where(DatasetRow.organization_id == organization_id, DatasetRow.place == place)
    )
    if row is not None:
        return f"the files of {row.name!r} lie under it"
    path = places.data_dir / organization_id / name
    return "a folder of this name is there" if path.exists() or path.is_symlink() else None


def require_readable(session: Session, place: str, *, organization_id: str, places: Places) -> None:
    """Refuse a place that an organization may not read, or not any more. One where it may make a dataset passes.

    Raises
    ------
    DatasetNotFound, ModelNotFound, NotFound, UnsafeReference
    """
    if place.startswith("upload:"):
        owner, upload_id, _ = upload_parts(place)
        upload = session.get(UploadRow, upload_id)
        if upload is None or not upload.organization_id == owner == organization_id:
            raise NotFound(f"there is no upload {upload_id!r} any more; send its files again")
        return
    if place.startswith("annotation:"):
        owner, file_name = annotation_parts(place)
        annotation = session.get(AnnotationRow, file_name.partition(".")[0])
        if annotation is None or not annotation.organization_id == owner == organization_id:
            raise NotFound("the annotation is not there any more; upload it again")
        if annotation.trashed_ms is not None:
            raise NotFound(f"annotation {annotation.name!r} is in the trash; restore it first")
        return
    if place.startswith(MODEL):
        require_model(session, place, organization_id=organization_id)
        return
    if not place.startswith("data:"):
        places.for_organization(organization_id).locate(place)
        return
    row = session.scalar(select(DatasetRow).where(DatasetRow.place == place))
    is_own = place.startswith(dataset_place(organization_id, ""))
    if (row is None and not is_own) or (row is not None and not is_own and not row.is_public):
        raise DatasetNotFound(f"there is no dataset at {place!r} that this organization may read")
    if row is not None:
        _refuse_trashed(row, organization_id)


def is_changeable(dataset: DatasetView, *, by: Principal) -> bool:
    """Whether jobs may add to a dataset."""
    return dataset.organization_id == by.organization_id and not dataset.is_linked


def require_own(dataset: DatasetView, *, by: Principal) -> None:
    """Refuse to change anything of a dataset of another organization.

    Raises
    ------
    NotAllowed
    """
    if dataset.organization_id != by.organization_id:
        raise NotAllowed(f"dataset {dataset.name!r} belongs to another organization and can only be read")


def require_changeable(dataset: DatasetView, *, by: Principal) -> None:
    """Refuse to add to a dataset that can only be read.

    Raises
    ------
    NotAllowed
        If it belongs to another organization.
    TargetNotWritable
        If it is linked.
    """
    require_own(dataset, by=by)
    if dataset.is_linked:
        raise TargetNotWritable(
            f"dataset {dataset.name!r} is linked from {dataset.place} and can only be read; make a copy of it to change"
        )


def lock_own(
    session: Session, dataset_id: str, by: Principal, *, is_trashed: bool | None = False
) -> DatasetRow:
    """Lock a dataset of the organization that asks, in the trash or not (None: either).

    Raises
    ------
    DatasetNotFound
    """
    row = session.scalar(
        select(DatasetRow)
        .where(DatasetRow.id == dataset_id, DatasetRow.organization_id == by.organization_id)
        .with_for_update(),
        execution_options={"populate_existing": True},
    )
    if row is None or (is_trashed is True and row.trashed_ms is None):
        where = " in the trash" if is_trashed else ""
        raise DatasetNotFound(f"there is no dataset {dataset_id!r}{where}; see the list of datasets")
    if is_trashed is False:
        _refuse_trashed(row, by.organization_id)
    return row


def view(row: DatasetRow) -> DatasetView:
    return DatasetView(
        id=row.id, name=row.name, place=row.place,
        summary=with_addresses(DatasetSummary.model_validate(row.summary), row.id),
        created_ms=row.created_ms, updated_ms=row.updated_ms, made_by_job=row.made_by_job,
        organization_id=row.organization_id, user_id=row.user_id, is_public=row.is_public, is_linked=row.is_linked,
        size_bytes=row.size_bytes, trashed_ms=row.trashed_ms, purge_ms=row.purge_ms,
    )  # fmt: skip


def is_visible(by: Principal) -> ColumnElement[bool]:
    return or_(DatasetRow.organization_id == by.organization_id, DatasetRow.is_public)


def _refuse_trashed(row: DatasetRow, organization_id: str) -> None:
    if row.trashed_ms is None:
        return
    if row.organization_id != organization_id:
        raise DatasetNotFound(f"there is no dataset {row.id!r}; see the list of datasets for the names")
    raise DatasetNotFound(f"dataset {row.name!r} is in the trash; restore it first")


def _lock_by_place(session: Session, organization_id: str, place: str) -> DatasetRow | None:
    return session.scalar(
        select(DatasetRow)
        .where(DatasetRow.organization_id == organization_id, DatasetRow.place == place)
        .with_for_update(),
        execution_options={"populate_existing": True},
    )


def _has_name(session: Session, organization_id: str, name: str) -> bool:
    taken = select(DatasetRow.id).where(
        DatasetRow.organization_id == organization_id, DatasetRow.name == name
    )
    return session.scalar(taken) is not None


def _can_add(session: Session, row: DatasetRow) -> bool:
    """Insert a row unless another transaction was first with its name or place."""
    try:
        with session.begin_nested():
            session.add(row)
            session.flush()
    except IntegrityError:
        return False
    return True


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        suffix = f"-{number}"
        yield name[: _NAME_LENGTH_MAX - len(suffix)] + suffix
        number += 1


def _check_name(name: str) -> None:
    if not DATASET_NAME.fullmatch(name) or name.endswith(".lock"):
        raise InvalidParams(
            f"{name!r} is not a dataset name; use letters, digits, '-', '_' and '.', beginning with a letter or digit"
        )


def _normal(place: str) -> str:
    """Write a place in one way, so that it is linked once."""
    if is_remote(place):
        return place.rstrip("/")
    kind, separator, rest = place.partition(":")
    return f"{kind}{separator}{PurePosixPath(rest)}" if rest else place
