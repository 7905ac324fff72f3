"""Where a worker of WEBKNOSSOS looks for the images of a conversion, and what a broken one leaves behind.

Such a worker is told no places: it reads `ORGANIZATION/.forConversion/NAME` and writes `ORGANIZATION/NAME`, below the
folder of datasets that it shares with the server. So the images are linked there, one folder for each layer.

The folder of links stays until what the job has left is put away: by the report of its end, before somebody else tries
it again, or in the end by `put_away_forgotten`.
"""

from __future__ import annotations

import logging
import secrets
import shutil
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
    """Link the images of a job that makes a dataset of them; anything else needs nothing.

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
    for layer in order.params["layers"]:
        name, source = str(layer["layer_name"]), str(layer["source"])
        try:
            folder = _input_folder(places.locate(order.places[target]))
            _link(folder / name, readable.locate(order.places[source]))
        except (VoxelworksError, OSError) as error:
            log.warning("the images of layer %s of job %s cannot be linked: %s", name, order.root_id, error)


def put_away(remains: Remains, places: Places) -> None:
    """Remove the links of a job, and move a dataset that is nobody's to the folders of attempts.

    There it is cleared up like any attempt: a folder of many files takes longer to delete than a request may take.
    """
    path = Path(places.locate(remains.place))
    if remains.is_half_made and path.exists():
        aside = path.parent / WORK_FOLDER / f"{path.name}.{secrets.token_hex(4)}"
        aside.parent.mkdir(exist_ok=True)
        path.rename(aside)
    # Last: they tell `put_away_forgotten` that something may be left to do.
    shutil.rmtree(_input_folder(str(path)), ignore_errors=True)


def put_away_forgotten(database: Database, places: Places) -> None:
    """Put away what jobs have left that ended without their worker, because it died or was not asked any more."""
    for folder in sorted(places.data_dir.glob(f"*/{INPUT_FOLDER}/*")):
        organization_id, name = folder.parent.parent.name, folder.name
        if not (ORGANIZATION_ID.fullmatch(organization_id) and DATASET_NAME.fullmatch(name)):
            continue
        with database.read_session() as session:
            remains = jobs.remains_at(session, dataset_place(organization_id, name))
        try:
            if remains is not None:
                put_away(remains, places)
        except OSError as error:
            log.warning("%s stays for now: %s", remains.place if remains else folder, error)


def _input_folder(target: str) -> Path:
    path = Path(target)
    return path.parent / INPUT_FOLDER / path.name


def _link(layer_folder: Path, source: str) -> None:
    """Make a folder look like the images of a layer, also if they are a single file."""
    if is_remote(source):
        log.warning("%s is remote: a worker of WEBKNOSSOS looks for images in %s", source, layer_folder)
        return
    path = Path(source)
    link = layer_folder if path.is_dir() else layer_folder / path.name
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink() and link.readlink() == path:
        return
    link.unlink(missing_ok=True)
    link.symlink_to(path)
