"""Datasets, as far as clients and workers look them up, and the addresses of results."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request

from voxelworks import accounts, catalog
from voxelworks.accounts import Action
from voxelworks.errors import DatasetNotFound, InvalidDataset, UnsafeReference, VoxelworksError
from voxelworks.protocol.foreign import foreign_id, native_id
from voxelworks.protocol.messages import Json
from voxelworks.protocol.people import Principal
from voxelworks.protocol.places import is_remote
from voxelworks.protocol.views import DatasetView
from voxelworks.server.context import Context, Here, Who
from voxelworks.server.origin import BASE_PATH
from voxelworks.server.wk.models import DatasetCompact, DatasetId, DataStore, ForeignDataset
from voxelworks.server.wk.translate import directory_name_of
from voxelworks.volumes.metadata import PROPERTIES_FILE

router = APIRouter()

DATA_STORE = "voxelworks"
"""Name of the one data store that there is: this server."""

PROPERTIES_BYTES_MAX = 16 * 2**20

log = logging.getLogger(__name__)


@router.get("/datasets")
def list_datasets(context: Here, who: Who) -> list[DatasetCompact]:
    """List the datasets of the organization, and the public ones."""
    accounts.require(who, Action.SEE_DATASET)
    with context.database.read_session() as session:
        found = catalog.list_datasets(session, by=who, include_public=True)
    return [write_compact(dataset) for dataset in found]


@router.get("/datasets/disambiguate/{organization_id}/{directory_name}/toId")
def find_id(context: Here, who: Who, organization_id: str, directory_name: str) -> DatasetId:
    """Find the id of a dataset by its name."""
    if organization_id != who.organization_id:
        raise DatasetNotFound(f"there is no dataset {directory_name!r} of {organization_id!r} for you")
    dataset = _find(context, who, directory_name)
    return DatasetId(
        id=foreign_id(dataset.id), name=dataset.name, organization=dataset.organization_id,
        directory_name=directory_name_of(dataset),
    )  # fmt: skip


@router.get("/datasets/{dataset_id}")
def show_dataset(context: Here, request: Request, who: Who, dataset_id: str) -> ForeignDataset:
    """Show a dataset with what its own metadata says."""
    dataset = _find(context, who, native_id(dataset_id))
    return ForeignDataset(
        id=foreign_id(dataset.id), name=dataset.name, directory_name=directory_name_of(dataset),
        owning_organization=dataset.organization_id, data_source=_data_source(context, dataset, who),
        data_store=DataStore(
            name=DATA_STORE, url=str(request.base_url).rstrip("/") + BASE_PATH.get(), allows_upload=False
        ),
        is_public=dataset.is_public, is_active=True, folder_id=foreign_id(dataset.organization_id),
        allowed_teams=[], tags=[], created=dataset.created_ms, used_storage_bytes=dataset.size_bytes,
    )  # fmt: skip


def write_compact(dataset: DatasetView) -> DatasetCompact:
    """Write a dataset as lists show it."""
    return DatasetCompact(
        id=foreign_id(dataset.id), name=dataset.name, owning_organization=dataset.organization_id, tags=[],
        is_active=True, created=dataset.created_ms,
    )  # fmt: skip


def _find(context: Context, who: Principal, ref: str) -> DatasetView:
    accounts.require(who, Action.SEE_DATASET)
    with context.database.read_session() as session:
        return catalog.find(session, ref, by=who)


def _data_source(context: Context, dataset: DatasetView, who: Principal) -> Json:
    """Give the metadata of a dataset as it lies on disk, or say why it cannot be given."""
    source_id = {"name": directory_name_of(dataset), "team": dataset.organization_id}
    try:
        folder = context.places.for_organization(dataset.organization_id).locate(dataset.place)
        if is_remote(folder):
            where = folder if dataset.organization_id == who.organization_id else "another address"
            return {"id": source_id, "status": f"its metadata lies at {where}"}
        source = json.loads(_read_properties(Path(folder)))
    except (VoxelworksError, OSError, ValueError, RecursionError) as error:
        log.warning("the metadata of dataset %s cannot be read: %s", dataset.id, error)
        return {"id": source_id, "status": "its metadata cannot be read on the server"}
    if not isinstance(source, dict):
        return {"id": source_id, "status": "its metadata is not a JSON object"}
    return {**source, "id": source_id}


def _read_properties(folder: Path) -> bytes:
    path = folder / PROPERTIES_FILE
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UnsafeReference(f"{PROPERTIES_FILE} leads out of its dataset")
    if path.stat().st_size > PROPERTIES_BYTES_MAX:
        raise InvalidDataset(f"{PROPERTIES_FILE} is too large for metadata")
    return path.read_bytes()
