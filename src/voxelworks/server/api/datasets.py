"""Datasets of the catalog, the folders that images can be imported from, and what the storage holds."""

from __future__ import annotations

import logging
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from voxelworks import accounts, catalog, jobs
from voxelworks.accounts import Action
from voxelworks.client import FolderView, RootView
from voxelworks.errors import VoxelworksError
from voxelworks.geometry import VoxelSize
from voxelworks.protocol.modality import check_modality
from voxelworks.protocol.people import Principal
from voxelworks.protocol.views import DatasetView, LeftoverView, StorageView
from voxelworks.server import browse
from voxelworks.server.context import Context, Here, Who

router = APIRouter(tags=["datasets"])
_logger = logging.getLogger(__name__)


class DatasetLink(BaseModel):
    """A dataset that stays where it is."""

    model_config = ConfigDict(extra="forbid")

    name: str
    place: str
    """Below an import root, or an address on an allowed host."""


class DatasetChange(BaseModel):
    """What may be changed; what is not named stays."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str | None, Field(max_length=128)] = None
    is_public: bool | None = None
    voxel_size: Annotated[str | None, Field(max_length=100)] = None
    """Nanometres, `x,y,z`. Voxels and mags stay as they are."""
    modality: Annotated[str | None, Field(max_length=1000)] = None
    """Kind of microscopy of all images of the dataset, such as `FIB-SEM`; empty if it is not known."""


@router.get("/datasets")
def list_datasets(
    context: Here, who: Who, include_trashed: bool = False, include_public: bool = False
) -> tuple[DatasetView, ...]:
    """List the datasets of your organization by name; if asked for, also its trash and the public ones of others."""
    accounts.require(who, Action.SEE_DATASET)
    with context.database.read_session() as session:
        found = catalog.list_datasets(
            session, by=who, include_trashed=include_trashed, include_public=include_public
        )
    return tuple(_as_seen(dataset, who) for dataset in found)


@router.post("/datasets", status_code=201)
def link_dataset(context: Here, who: Who, link: DatasetLink) -> DatasetView:
    """Take a dataset into the catalog where it lies: it is neither copied nor ever written."""
    accounts.require(who, Action.MAKE_DATASET)
    context.limits.count_for("upload", who)
    places = context.places.for_organization(who.organization_id)
    # Metadata may come from a slow disk or a far host: no transaction waits for that.
    summary = jobs.describe_dataset(link.place, places, context.settings)
    with context.database.session() as session:
        linked = catalog.link_dataset(
            session, by=who, name=link.name, place=link.place, summary=summary, places=places
        )
        _ask_for_previews(context, session, who, linked)
        return linked


@router.get("/datasets/{ref}")
def show_dataset(context: Here, who: Who, ref: str) -> DatasetView:
    """Show a dataset by its name or id.

    The `preview` of a layer says at which `address` each slice is seen (WebP; the same token opens it) and which `box`
    of voxels it covers exactly: pixel (i, j) of a slice `xy` of `width` x `height` pixels with the box x,y,z,w,h,1
    shows the voxel x + floor((i + 0.5) w / width), y + floor((j + 0.5) h / height), z of mag 1, and voxel v of the
    first axis lies below pixel floor((v + 0.5 - x) width / w). In `xz` and `yz` the second axis is z.
    """
    accounts.require(who, Action.SEE_DATASET)
    return find_dataset(context, who, ref)


@router.patch("/datasets/{ref}")
def change_dataset(context: Here, who: Who, ref: str, change: DatasetChange) -> DatasetView:
    """Rename a dataset, let other organizations see it, or state another voxel size or kind of microscopy."""
    accounts.require(who, Action.CHANGE_DATASET)
    if change.is_public is not None:
        accounts.require(who, Action.PUBLISH_DATASET)
    if change.voxel_size is not None or change.modality is not None:
        ref = _restate(context, who, ref, change).id
    with context.database.session() as session:
        dataset = catalog.find(session, ref, by=who)
        if change.name is not None and change.name != dataset.name:
            old, dataset = dataset.name, catalog.rename_dataset(session, dataset.id, change.name, by=who)
            accounts.audit(session, who, "dataset.renamed", dataset.id, old=old, new=dataset.name)
        if change.is_public is not None and change.is_public != dataset.is_public:
            dataset = catalog.set_public(session, dataset.id, change.is_public, by=who)
            what = "dataset.published" if change.is_public else "dataset.unpublished"
            accounts.audit(session, who, what, dataset.id, name=dataset.name)
        return dataset


@router.delete("/datasets/{ref}")
def trash_dataset(context: Here, who: Who, ref: str) -> DatasetView:
    """Put a dataset into the trash, from which it can be taken back until its term has passed."""
    accounts.require(who, Action.DELETE_DATASET)
    with context.database.session() as session:
        dataset = catalog.find(session, ref, by=who)
        trashed = catalog.trash(session, dataset.id, by=who, settings=context.settings)
        accounts.audit(session, who, "dataset.trashed", trashed.id, name=trashed.name)
        return trashed


@router.post("/datasets/{dataset_id}/restore")
def restore_dataset(context: Here, who: Who, dataset_id: str) -> DatasetView:
    """Take a dataset back from the trash."""
    accounts.require(who, Action.DELETE_DATASET)
    with context.database.session() as session:
        restored = catalog.restore(session, dataset_id, by=who)
        accounts.audit(session, who, "dataset.restored", restored.id, name=restored.name)
        return restored


@router.post("/datasets/{dataset_id}/delete-now", status_code=204)
def delete_dataset(context: Here, who: Who, dataset_id: str) -> None:
    """Delete a dataset that is in the trash for good, without waiting for its term."""
    accounts.require(who, Action.DELETE_DATASET)
    with context.database.session() as session:
        catalog.delete_now(session, dataset_id, by=who)
        accounts.audit(session, who, "dataset.deleted", dataset_id)


@router.get("/roots")
def list_roots(context: Here, who: Who) -> tuple[RootView, ...]:
    """List the folders that the operator allowed jobs of your organization to read from."""
    return browse.list_roots(context.places.for_organization(who.organization_id))


@router.get("/folders")
def look_into(context: Here, who: Who, place: str) -> FolderView:
    """List a folder below an import root, such as `root:scope/run1`."""
    return browse.look_into(place, context.places.for_organization(who.organization_id))


@router.get("/storage")
def show_storage(context: Here, who: Who) -> StorageView:
    """Show how much your organization stores, and how much it may."""
    accounts.require(who, Action.SEE_DATASET)
    with context.database.read_session() as session:
        return catalog.storage_usage(session, who.organization_id, settings=context.settings)


@router.get("/leftovers")
def list_leftovers(context: Here, who: Who) -> tuple[LeftoverView, ...]:
    """List what lies in the trash or was left behind, with the day on which it is removed."""
    accounts.require(who, Action.SEE_DATASET)
    with context.database.read_session() as session:
        return catalog.leftovers(
            session, by=who, places=context.places, settings=context.settings,
            work_keys_in_use=jobs.work_keys_in_use(session), uploads_in_use=jobs.uploads_in_use(session),
        )  # fmt: skip


def _restate(context: Context, who: Principal, ref: str, change: DatasetChange) -> DatasetView:
    context.limits.count_for("submission", who)
    old = find_dataset(context, who, ref)
    changed = jobs.restate_dataset(
        context.database, old.id,
        voxel_size=None if change.voxel_size is None else VoxelSize.parse(change.voxel_size),
        modality=None if change.modality is None else check_modality(change.modality),
        by=who, places=context.places, settings=context.settings,
    )  # fmt: skip
    if changed.summary.voxel_size != old.summary.voxel_size and changed.summary.layers:
        # Pictures have the proportions of space.
        with context.database.session() as session:
            _ask_for_previews(context, session, who, changed)
    return changed


def _ask_for_previews(context: Context, session: Session, who: Principal, dataset: DatasetView) -> None:
    """Submit the job that makes the pictures of a dataset. It can be used in any case."""
    try:
        with session.begin_nested():
            jobs.submit(
                session, by=who, workflow="describe", params={"dataset": dataset.name}, places=context.places,
                settings=context.settings,
            )  # fmt: skip
    except VoxelworksError as error:
        _logger.warning("dataset %s has no pictures: %s", dataset.id, error)


def find_dataset(context: Context, who: Principal, ref: str) -> DatasetView:
    with context.database.read_session() as session:
        return _as_seen(catalog.find(session, ref, by=who), who)


def _as_seen(dataset: DatasetView, who: Principal) -> DatasetView:
    # Where the files of another organization lie is nobody else's business.
    return (
        dataset
        if dataset.organization_id == who.organization_id
        else dataset.model_copy(update={"place": ""})
    )
