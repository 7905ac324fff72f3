"""How a dataset is opened in other programs: what somebody copies and runs."""

from __future__ import annotations

import json
import shlex
from pathlib import PurePosixPath

from voxelworks.server.copies import Copy
from voxelworks.server.viewing import folder_of
from voxelworks.volumes.metadata import DataSource, LayerProperties

_ZARR_DRIVERS = {"zarr3": "zarr3", "zarr": "zarr"}


def openings(source: DataSource | None, place: str) -> tuple[Copy, ...]:
    """Say how to open the first layer of a dataset in napari, Fiji and Python.

    Parameters
    ----------
    source
        None if its metadata cannot be read here: then our own package is offered, which reads all formats.
    place
        Folder of the dataset, or address of its files.
    """
    layer = next(iter(source.data_layers), None) if source is not None else None
    own = Copy("open-voxelworks", "Python with Voxelworks", _voxelworks(layer, place))
    folder = folder_of(layer, layer.sorted_mags[0]) if layer is not None and layer.mags else None
    if layer is None or folder is None or layer.data_format not in _ZARR_DRIVERS:
        return (own,)
    image, array = _join(place, folder.parent), _join(place, folder)
    axes = ", ".join(layer.sorted_mags[0].axes or "cxyz")
    return (
        Copy(
            "open-napari",
            "napari, with the plugin napari-ome-zarr",
            shlex.join(["napari", "--plugin", "napari-ome-zarr", image]),
        ),
        Copy("open-fiji", "Fiji: File > Import > HDF5/N5/Zarr/OME-NGFF", image),
        Copy("open-zarr", "Python with zarr", _zarr(array, axes)),
        Copy(
            "open-tensorstore",
            "Python with tensorstore",
            _tensorstore(_ZARR_DRIVERS[layer.data_format], array, axes),
        ),
        own,
    )


def _join(place: str, below: PurePosixPath) -> str:
    return place if below == PurePosixPath() else f"{place}/{below}"


def _zarr(array: str, axes: str) -> str:
    needs = '  # for addresses: pip install "fsspec[http]"' if "://" in array else ""
    return f'import zarr{needs}\n\narray = zarr.open_array({json.dumps(array)}, mode="r")  # axes {axes}\n'


def _tensorstore(driver: str, array: str, axes: str) -> str:
    kvstore = array if "://" in array else f"file://{array}"
    spec = f'{{"driver": "{driver}", "kvstore": {json.dumps(kvstore + "/")}}}'
    return f"import tensorstore as ts\n\narray = ts.open({spec}).result()  # axes {axes}\n"


def _voxelworks(layer: LayerProperties | None, place: str) -> str:
    name = json.dumps(layer.name if layer is not None else "color")
    return (
        "from voxelworks.volumes.dataset import Dataset\n\n"
        f"layer = Dataset.open({json.dumps(place)}).layer({name})\n"
        "block = layer.finest.read(layer.finest.box)  # axes c, z, y, x\n"
    )
