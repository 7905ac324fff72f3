"""Boxes that people label: what their files are called, so that what was painted finds its place again.

Programs for painting drop what a file says about itself when they save it. So its name tells the place, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from voxelworks.errors import InvalidGeometry, InvalidParams
from voxelworks.geometry import Box, Mag, VoxelSize

if TYPE_CHECKING:
    from voxelworks.volumes.dataset import Layer

POSITION_FILE = "position.json"
RAW, LABELS = "raw", "labels"
"""How the names of the files of a box end."""
LABEL_IMAGE = "ground_truth"
"""Name of the image of labels in an OME-Zarr."""
SIZES_MIN = {"neurons": (85, 85, 30), "instances": (32, 32, 32)}
"""Voxels (x, y, z) that a box must have for training, in the mag that is trained in."""
_PART_MAX = 60
"""Characters of the names of dataset and layer: file systems end at 255 for all."""
_POSITION_BYTES_MAX = 2**22
_NAME = re.compile(
    r"(?P<dataset>[A-Za-z0-9._-]+?)__(?P<layer>[A-Za-z0-9._-]+?)__mag(?P<mag>\d{1,9}(?:-\d{1,9}){2}|\d{1,9})"
    r"__box(?P<box>\d{1,15}(?:-\d{1,15}){5})(?!\d)"
)


@dataclass(frozen=True)
class BoxPlace:
    """Where a box lies that is labelled."""

    mag: Mag
    box: Box
    """In mag 1."""
    dataset: str | None = None
    """Name of the dataset, if it is known."""

    @classmethod
    def in_name(cls, name: str) -> Self | None:
        """Read the place in the name of a file; None if there is none, or what stands there makes no sense."""
        found = _NAME.search(name)
        if found is None:
            return None
        try:
            place = cls(Mag.parse(found["mag"]), Box.parse(found["box"].replace("-", ",")), found["dataset"])
        except InvalidGeometry:
            return None
        return None if place.box.is_empty else place

    @property
    def size(self) -> tuple[int, int, int]:
        """Voxels of the mag, x, y, z."""
        return self.box.in_mag(self.mag).size

    def __str__(self) -> str:
        return f"box {self.box} in mag {self.mag}"


def box_name(dataset: str, layer: str, place: BoxPlace) -> str:
    """Name the files of a box; what they hold is written after it."""
    numbers = str(place.box).replace(",", "-")
    return f"{_short(dataset)}__{_short(layer)}__mag{place.mag}__box{numbers}"


def is_of(place: BoxPlace, dataset: str) -> bool:
    """Tell whether a box is of the dataset of this name, as far as the names of its files say."""
    return place.dataset in (None, dataset, _short(dataset))


def _short(name: str) -> str:
    return re.sub("_+", "_", re.sub("[^A-Za-z0-9._-]+", "-", name))[:_PART_MAX].strip("-._") or "data"


class Position(BaseModel):
    """What `position.json` says, beside the files of a box."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    dataset: str
    layer: str
    mag: Mag
    box: Box
    """In mag 1."""
    voxel_size: VoxelSize
    """Of mag 1, in nanometres."""
    start_from: str | None = None
    """Layer whose labels were the start."""
    unpainted: dict[str, str] = {}
    """Files with labels as they were given out, and their CRC-32: those that are still so were not painted in."""

    @property
    def place(self) -> BoxPlace:
        return BoxPlace(self.mag, self.box, self.dataset)


def read_position(folder: Path) -> Position | None:
    """Read `position.json` in a folder; None if there is none.

    Raises
    ------
    InvalidParams
        If it is damaged.
    """
    path = folder / POSITION_FILE
    if not path.is_file():
        return None
    try:
        with path.open("rb") as stream:
            return Position.model_validate_json(stream.read(_POSITION_BYTES_MAX))
    except (ValidationError, ValueError) as error:
        raise InvalidParams(
            f"{POSITION_FILE} is damaged; take it from the zip that was exported, or upload the painted file alone"
        ) from error


def place_in_ome(
    attributes: Mapping[str, Any], voxel_size: VoxelSize, size: tuple[int, int, int]
) -> BoxPlace | None:
    """Find the place of an OME-Zarr image by its coordinates, as `ome_image` writes them.

    Parameters
    ----------
    attributes
        Of the group of the image.
    voxel_size
        Of mag 1 of the dataset.
    size
        Of the image in voxels, x, y, z.

    Returns
    -------
    BoxPlace or None
        None if they are no whole voxels of a magnification of this dataset.
    """
    try:
        multiscale = attributes["multiscales"][0]
        axes = [str(axis["name"]) for axis in multiscale["axes"]]
        told = {item["type"]: item for item in multiscale["datasets"][0]["coordinateTransformations"]}
        scale = dict(zip(axes, map(float, told["scale"]["scale"]), strict=True))
        shift = dict(zip(axes, map(float, told["translation"]["translation"]), strict=True))
        factors = [_whole(scale[axis] / nm) for axis, nm in zip("xyz", voxel_size.xyz, strict=True)]
        mag = Mag(*factors)
        starts = [
            _whole((shift[axis] / nm - (factor - 1) / 2) / factor)
            for axis, nm, factor in zip("xyz", voxel_size.xyz, factors, strict=True)
        ]
    except (KeyError, TypeError, IndexError, ValueError, OverflowError, InvalidGeometry):
        return None
    x, y, z = starts
    return BoxPlace(mag, Box((x, y, z), size).from_mag(mag))


def _whole(number: float) -> int:
    nearest = round(number)
    if abs(number - nearest) > 0.01:
        raise ValueError(f"{number} is not whole")
    return nearest


def labelled_boxes(layer: Layer) -> list[Box]:
    """Give the boxes of a layer that were labelled as a whole, in voxels of mag 1.

    Returns
    -------
    list of Box
        In the order in which they came in; empty if the layer does not say.
    """
    return list(layer.properties.labelled_boxes or ())


def with_boxes(earlier: Iterable[Box], new: Iterable[Box]) -> tuple[Box, ...]:
    """Add boxes to those that are labelled; what lies inside a new one is labelled anew."""
    found = list(earlier)
    for box in new:
        found = [*(other for other in found if not box.contains(other)), box]
    return tuple(found)


def trains(size: tuple[int, int, int]) -> list[str]:
    """Tell what a box of so many voxels (x, y, z) is large enough to train for."""
    return [
        name for name, least in SIZES_MIN.items() if all(a >= b for a, b in zip(size, least, strict=True))
    ]
