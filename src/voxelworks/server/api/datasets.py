"""Datasets of the catalog, and the folders that images can be imported from."""

from __future__ import annotations

from fastapi import APIRouter

from voxelworks import catalog
from voxelworks.client import FolderView, RootView
from voxelworks.protocol.views import DatasetView
from voxelworks.server import browse
from voxelworks.server.context import Here

router = APIRouter(tags=["datasets"])


@router.get("/datasets")
def list_datasets(context: Here) -> tuple[DatasetView, ...]:
    """List the datasets by name."""
    with context.database.read_session() as session:
        return catalog.list_datasets(session)


@router.get("/datasets/{ref}")
def show_dataset(context: Here, ref: str) -> DatasetView:
    """Show a dataset by its name or id."""
    with context.database.read_session() as session:
        return catalog.find(session, ref)


@router.get("/roots")
def list_roots(context: Here) -> tuple[RootView, ...]:
    """List the folders that the operator allowed jobs to read from."""
    return browse.list_roots(context.places)


@router.get("/folders")
def look_into(context: Here, place: str) -> FolderView:
    """List a folder below an import root, such as `root:scope/run1`."""
    return browse.look_into(place, context.places)
