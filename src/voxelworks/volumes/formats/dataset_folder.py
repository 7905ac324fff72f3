"""A dataset in the layout of WEBKNOSSOS, which is also ours: each layer is a volume, read at its finest mag."""

from __future__ import annotations

from pathlib import Path

from voxelworks.errors import UnsupportedFormat
from voxelworks.volumes.dataset import Dataset, Layer
from voxelworks.volumes.formats.chunked import Description, require_stored, split
from voxelworks.volumes.formats.source import ReadOptions, Volume, listed
from voxelworks.volumes.metadata import PROPERTIES_FILE

NAME = "dataset"


def recognises(folder: Path) -> bool:
    return (folder / PROPERTIES_FILE).is_file()


def open_volumes(folder: Path, options: ReadOptions) -> tuple[Volume, ...]:
    """Open every layer that has a magnification.

    Raises
    ------
    InvalidDataset
        If the metadata cannot be understood.
    UnsafeReference
        If a mag lies outside of the folder, and `options` do not allow it.
    UnsupportedFormat
        If there is no layer to read.
    """
    dataset = Dataset.open(folder, may_leave_folder=options.may_leave_folder)
    filled = [layer for layer in dataset.layers if layer.mags and not layer.box.is_empty]
    names = {layer.name for layer in filled}
    empty = [layer.name for layer in dataset.layers if layer.name not in names]
    if not filled:
        raise UnsupportedFormat(f"the dataset {folder.name} has no layer with voxels; name another folder")
    notes = (f"not read, as they hold nothing: {listed(empty)}",) if empty else ()
    is_single = len(filled) == 1
    return tuple(
        volume for layer in filled for volume in _volumes(layer, "" if is_single else layer.name, notes)
    )


def _volumes(layer: Layer, name: str, notes: tuple[str, ...]) -> list[Volume]:
    array = layer.finest
    if array.mag.xyz != (1, 1, 1):
        notes = (*notes, f"layer {layer.name} is read in mag {array.mag}, the finest that it has")
    claimed = array.box.voxel_count * array.channel_count * array.dtype.itemsize
    require_stored(array.location, layer.name, claimed)
    said = Description(
        voxel_size=layer.voxel_size.in_mag(array.mag),
        voxel_size_from=PROPERTIES_FILE,
        category=layer.category,
        is_rgb=layer.properties.element_class == "uint24",
        notes=notes,
    )
    return split(name, array, said)
