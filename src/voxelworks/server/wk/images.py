"""Where a worker of WEBKNOSSOS looks for the images of a conversion, and what a broken one leaves behind.

Such a worker is told no places: it reads `ORGANIZATION/.forConversion/NAME` and writes `ORGANIZATION/NAME`, below the
folder of datasets that it shares with the server. So the images are linked there, one folder for each layer.

The folder of links stays until what the job has left is put away: by the report of its end, before somebody else tries
it again, or in the end by `put_away_forgotten`. WEBKNOSSOS unpacks uploads in the same `.forConversion`: nothing but
links, and folders that are empty without them, is removed there.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from voxelworks import jobs
from voxelworks.db import Database
from voxelworks.errors import InvalidParams, VoxelworksError
from voxelworks.jobs import ForeignOrder, Remains
from voxelworks.protocol.places import DATASET_NAME, ORGANIZATION_ID, Places, dataset_place, is_remote
from voxelworks.workflows import NewDatasetRef, SourceRef, get_workflow, references
from voxelworks.workflows.publishing import WORK_FOLDER

INPUT_FOLDER = ".forConversion"

log = logging.getLogger(__name__)


def lay_out(order: ForeignOrder, places: Places) -> None:
    """Link the images of a job that makes a dataset of them, and nothing else; other jobs need nothing.

    What cannot be linked is for the worker to find missing: it reports the failure, with the name of its folder.
    """
    try:
        params = get_workflow(order.workflow).parse(order.params)
    except InvalidParams:  # of a version that is not installed any more
        return
    target = next((str(ref) for ref in references(params) if isinstance(ref, NewDatasetRef)), None)
    if target is None or not any(isinstance(ref, SourceRef) for ref in references(params)):
        return
    readable = places.for_organization(order.organization_id)
    folder = _input_folder(places.folder_of(order.places[target]))
    wanted: dict[Path, Path] = {}
    for layer in order.params["layers"]:
        name, source = layer.get("layer_name") or layer["category"], str(layer["source"])
        with _logging(f"the images of layer {name} of job {order.root_id} cannot be linked"):
            wanted |= _wanted_link(folder / name, readable.locate(order.places[source]))
    with _logging(f"links for an earlier job than {order.root_id} stay"):
        # First: a new link could otherwise land in what an old one leads to.
        _remove_links(folder, keep=wanted)
    for link, path in wanted.items():
        with _logging(f"the images of job {order.root_id} cannot be linked"):
            _link(link, path)


def put_away(remains: Remains, places: Places) -> None:
    """Remove the links of a job, and move a dataset that is nobody's to the folders of attempts.

    There it is cleared up like any attempt: a folder of many files takes longer to delete than a request may take.
    What cannot be moved or removed stays: whoever needs its name fails with the reason.
    """
    with _logging(f"what is left at {remains.place} stays"):
        path = places.folder_of(remains.place)
        if remains.is_half_made:
            _move_aside(path)
        # Last: they tell `put_away_forgotten` that something may be left to do.
        if remains.has_links:
            _remove_links(_input_folder(path))


def put_away_forgotten(database: Database, places: Places) -> None:
    """Put away what jobs have left that ended without their worker, because it died or was not asked any more."""
    for folder in sorted(places.data_dir.glob(f"*/{INPUT_FOLDER}/*")):
        organization_id, name = folder.parent.parent.name, folder.name
        if not (ORGANIZATION_ID.fullmatch(organization_id) and DATASET_NAME.fullmatch(name)):
            continue
        with _logging(f"what is left at {folder} stays"):
            if next(_links(folder), None) is None:
                continue
            place = dataset_place(organization_id, name)
            with database.session() as session, jobs.forgotten_at(session, place) as remains:
                if remains is not None:
                    put_away(remains, places)


@contextmanager
def _logging(what: str) -> Iterator[None]:
    try:
        yield
    except (VoxelworksError, OSError) as error:
        log.warning("%s: %s", what, error)


def _input_folder(target: Path) -> Path:
    return target.parent / INPUT_FOLDER / target.name


def _wanted_link(layer_folder: Path, source: str) -> dict[Path, Path]:
    """Make a folder look like the images of a layer, also if they are a single file."""
    if is_remote(source):
        log.warning("%s is remote: a worker of WEBKNOSSOS looks for images in %s", source, layer_folder)
        return {}
    path = Path(source)
    return {layer_folder if path.is_dir() else layer_folder / path.name: path}


def _link(link: Path, path: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink():
        if link.readlink() == path:
            return
        link.unlink()
    link.symlink_to(path)


def _move_aside(path: Path) -> None:
    if path.is_symlink():
        path.unlink()  # what it leads to has a name of its own
    elif path.exists():
        aside = path.parent / WORK_FOLDER / f"{path.name}.{secrets.token_hex(4)}"
        aside.parent.mkdir(exist_ok=True)
        path.rename(aside)


def _links(folder: Path) -> Iterator[Path]:
    """Find what `_link` has made: layers that are links, and links in layers."""
    for layer in _entries(folder):
        if layer.is_symlink():
            yield Path(layer)
        else:
            yield from (Path(entry) for entry in _entries(Path(layer)) if entry.is_symlink())


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """List a folder; what is none, or only leads to one, is empty."""
    if folder.is_dir() and not folder.is_symlink():
        with os.scandir(folder) as entries:
            yield from entries


def _remove_links(folder: Path, *, keep: Collection[Path] = ()) -> None:
    for link in list(_links(folder)):
        if link not in keep:
            link.unlink(missing_ok=True)
    for emptied in (*(Path(layer) for layer in list(_entries(folder)) if not layer.is_symlink()), folder):
        with suppress(OSError):  # it is not empty
            emptied.rmdir()
