"""Draw the pictures that pages show of a layer: three slices through one point, and a small one.

The layer is read from the coarsest mag that is fine enough, in strips, so that neither time nor memory grow with it:
each picture costs at most `READ_BYTES_MAX` of decoded chunks. A layer that has no such mag and is too large for that
is shown in part, around the point.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from voxelworks.geometry import Box, Mag, Vec3, VoxelSize
from voxelworks.ops import pictures
from voxelworks.protocol.views import PICTURE_EDGE_MAX, LayerPreview, PictureView, Plane, SliceView
from voxelworks.volumes.dataset import Layer, MagArray
from voxelworks.volumes.metadata import Category

if TYPE_CHECKING:
    from voxelworks.ops.pictures import Rgb

READ_BYTES_MAX = 512 * 2**20
"""Most that is decoded for one slice, in bytes."""
MEMORY_BYTES = 256 * 2**20
"""Memory that drawing takes."""
THUMBNAIL_EDGE = 160
"""Longest side of the small picture, in pixels: twice what pages show, for screens with fine pixels."""
_STRIP_VOXELS = 2**22
"""Read at a time, or one row of chunks if that is more."""
_PIECE_VALUES = 2**20
"""Sums are taken of so many values at a time: they need eight bytes each."""
_SEARCHED_EDGE = 128
"""Of the parts in which data is looked for, in voxels."""
_DEPTH_MIN = 32
"""Flatter chunks are taken for so deep, in voxels."""
_AXES: dict[Plane, tuple[int, int, int]] = {"xy": (0, 1, 2), "xz": (0, 2, 1), "yz": (1, 2, 0)}
"""Axes (of x, y, z) that go to the right, downwards and across."""


@dataclass(frozen=True)
class Drawable:
    """A layer, as far as its pictures depend on it."""

    name: str
    category: Category
    box: Box
    """In mag 1."""
    voxel_size: VoxelSize
    """Of mag 1."""
    mags: tuple[MagArray, ...]
    """Finest first."""

    @classmethod
    def of(cls, layer: Layer, more: Sequence[MagArray] = ()) -> Self:
        """Take a layer as it is, and mags that are about to be added to it."""
        new = {array.mag: array for array in more}
        arrays = {**{mag: layer.mag(mag) for mag in layer.mags if mag not in new}, **new}
        finest_first = sorted(arrays.values(), key=lambda array: (math.prod(array.mag.xyz), array.mag.xyz))
        return cls(layer.name, layer.category, layer.box, layer.voxel_size, tuple(finest_first))

    @property
    def is_rgb(self) -> bool:
        finest = self.mags[0]
        return finest.channel_count == 3 and finest.dtype == np.uint8


@dataclass(frozen=True)
class _Cut:
    """A slice to draw: from which mag, what it covers, and how large its picture becomes."""

    plane: Plane
    source: MagArray
    box: Box
    """In mag 1, one voxel thick."""
    width: int
    height: int

    @property
    def in_source(self) -> Box:
        return self.box.in_mag(self.source.mag)

    def edges(self, axis: int, count: int) -> NDArray[np.float64]:
        """Give where the pixels begin and end, in voxels of what is read, (count + 1,)."""
        first, extent, mag = self.box.topleft[axis], self.box.size[axis], self.source.mag.xyz[axis]
        ends = first + np.arange(count + 1) * (extent / count)
        return ends / mag - self.in_source.topleft[axis]

    def middles(self, axis: int, count: int) -> NDArray[np.intp]:
        """Give the voxel of what is read that lies below the middle of each pixel, (count,)."""
        first, extent, mag = self.box.topleft[axis], self.box.size[axis], self.source.mag.xyz[axis]
        # In whole numbers: a middle may fall onto the border of two voxels.
        middles = first + (2 * np.arange(count) + 1) * extent // (2 * count)
        return (middles // mag - self.in_source.topleft[axis]).astype(np.intp)


def draw(layer: Drawable, folder: Path) -> LayerPreview | None:
    """Write the pictures of a layer into a folder; None if it covers nothing.

    Raises
    ------
    VoxelworksError
        If it cannot be read.
    """
    if layer.box.is_empty or not layer.mags:
        return None
    point = _middle(layer.box)
    slices = _slices(layer, point)
    if not all(values.any() for _, values in slices):
        point = _where_data_is(layer) or point
        slices = _slices(layer, point)
    limits = None if layer.category == "segmentation" or layer.is_rgb else _limits(slices)
    views: list[SliceView] = []
    small: PictureView | None = None
    for cut, values in slices:
        is_labels = layer.category == "segmentation"
        picture = pictures.segment_picture(values[0]) if is_labels else pictures.image_picture(values, limits)
        file = _write(folder, picture)
        views.append(
            SliceView(file=file, width=cut.width, height=cut.height, plane=cut.plane, box=str(cut.box))
        )
        small = small or _write_small(folder, picture)
    assert small is not None
    return LayerPreview(slices=tuple(views), thumbnail=small)


def _slices(layer: Drawable, point: Vec3) -> list[tuple[_Cut, NDArray[Any]]]:
    """Read the three slices through a point, (c, height, width) each."""
    read = _read_labels if layer.category == "segmentation" else _read_means
    return [(cut, read(cut)) for cut in (_plan(layer, plane, point) for plane in _AXES)]


def _plan(layer: Drawable, plane: Plane, point: Vec3) -> _Cut:
    """Choose the mag to read, the part that can be afforded, and the size of the picture."""
    right, down, across = _AXES[plane]
    nm = layer.voxel_size.xyz
    pixel_nm = _pixel_nm(layer.box, layer.voxel_size, layer.mags[0].mag, plane)
    source = layer.mags[0]
    for array in layer.mags[1:]:
        if all(array.mag.xyz[axis] * nm[axis] <= pixel_nm for axis in (right, down)):
            source = array
    box = _affordable(source, layer.box, point, plane)
    pixel_nm = _pixel_nm(box, layer.voxel_size, source.mag, plane)
    width, height = (
        min(PICTURE_EDGE_MAX, max(1, round(box.size[axis] * nm[axis] / pixel_nm))) for axis in (right, down)
    )
    return _Cut(plane, source, _cut(box, across, point[across], 1), width, height)


def _pixel_nm(box: Box, voxel_size: VoxelSize, mag: Mag, plane: Plane) -> float:
    """Give the size of a pixel: the box fits, and no pixel is smaller than a voxel."""
    axes = _AXES[plane][:2]
    voxel_nm = voxel_size.xyz
    fitting = max(box.size[axis] * voxel_nm[axis] for axis in axes) / PICTURE_EDGE_MAX
    return max(fitting, min(mag.xyz[axis] * voxel_nm[axis] for axis in axes))


def _affordable(source: MagArray, box: Box, point: Vec3, plane: Plane) -> Box:
    """Cut a box to what may be decoded for one slice: the same part of both axes, around the point."""
    right, down, across = _AXES[plane]
    # Flat chunks too: what is read of one slice is held as a whole row of chunks.
    depth = max(_chunk(source)[across], _DEPTH_MIN)
    depth_bytes = depth * source.channel_count * source.dtype.itemsize
    extents = box.in_mag(source.mag).size
    needed = extents[right] * extents[down] * depth_bytes
    if needed <= READ_BYTES_MAX:
        return box
    share = math.sqrt(READ_BYTES_MAX / needed)
    for axis in (right, down):
        extent = max(1, math.floor(box.size[axis] * share))
        first = max(point[axis] - extent // 2, box.topleft[axis])
        box = _cut(box, axis, min(first, box.bottomright[axis] - extent), extent)
    return box


def _read_means(cut: _Cut) -> NDArray[np.float64]:
    """Read a slice of images: each pixel is the mean of what it covers."""
    right, down, _ = _AXES[cut.plane]
    edges = cut.edges(right, cut.width)
    rows = [pictures.mean_between(piece, edges) for strip in _strips(cut) for piece in _pieces(strip)]
    columns = np.concatenate(rows, axis=1).swapaxes(1, 2)
    return pictures.mean_between(columns, cut.edges(down, cut.height)).swapaxes(1, 2)


def _pieces(strip: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Cut a strip into few rows each; what is no number counts as nothing."""
    count = max(1, _PIECE_VALUES // (strip.shape[0] * strip.shape[2]))
    for start in range(0, strip.shape[1], count):
        yield np.nan_to_num(strip[:, start : start + count], posinf=0, neginf=0)


def _read_labels(cut: _Cut) -> NDArray[Any]:
    """Read a slice of labels: each pixel is the segment below its middle."""
    right, down, _ = _AXES[cut.plane]
    chosen = cut.middles(right, cut.width)
    rows = np.concatenate([strip[:, :, chosen] for strip in _strips(cut)], axis=1)
    return rows[:, cut.middles(down, cut.height)]


def _strips(cut: _Cut) -> Iterator[NDArray[Any]]:
    """Read a slice in strips of whole chunks, from the top: (c, rows, columns)."""
    right, down, _ = _AXES[cut.plane]
    box, source = cut.in_source, cut.source
    chunk = _chunk(source)[down]
    rows = max(1, _STRIP_VOXELS // (box.size[right] * chunk)) * chunk
    first, stop = box.topleft[down], box.bottomright[down]
    for start in range(first // rows * rows, stop, rows):
        begin, end = max(start, first), min(start + rows, stop)
        strip = _cut(box, down, begin, end - begin)
        yield source.read(strip).reshape(source.channel_count, strip.size[down], strip.size[right])


def _limits(slices: Sequence[tuple[_Cut, NDArray[Any]]]) -> list[tuple[float, float]]:
    """Choose one contrast for all slices of a layer, for each channel."""
    channels = zip(*(values for _, values in slices), strict=True)
    return [pictures.contrast_limits(np.concatenate([part.ravel() for part in parts])) for parts in channels]


def _where_data_is(layer: Drawable) -> Vec3 | None:
    """Find a point with data on each of its three slices: the median of where voxels are not 0; None if all are.

    The coarsest mag is looked at, as much of it around the middle as may be decoded.
    """
    source = layer.mags[-1]
    whole = layer.box.in_mag(source.mag)
    voxel_bytes = source.channel_count * source.dtype.itemsize
    share = min(1.0, (READ_BYTES_MAX / (whole.voxel_count * voxel_bytes)) ** (1 / 3))
    size = [max(1, math.floor(extent * share)) for extent in whole.size]
    start = [
        first + (extent - cut) // 2
        for first, extent, cut in zip(whole.topleft, whole.size, size, strict=True)
    ]
    searched = Box((start[0], start[1], start[2]), (size[0], size[1], size[2]))
    counts = [np.zeros(extent, np.int64) for extent in searched.shape_zyx]
    for tile in searched.tiles((_SEARCHED_EDGE,) * 3):
        filled = (source.read(tile) != 0).any(axis=0)
        for axis, (first, origin) in enumerate(zip(tile.start_zyx, searched.start_zyx, strict=True)):
            others = tuple({0, 1, 2} - {axis})
            counts[axis][first - origin : first - origin + tile.shape_zyx[axis]] += filled.sum(axis=others)
    if not counts[0].any():
        return None
    medians = [int(np.searchsorted(np.cumsum(count), count.sum() / 2)) for count in counts]
    at = Box.from_zyx(searched.start_zyx, (1, 1, 1)).moved((medians[2], medians[1], medians[0]))
    return _middle(at.from_mag(source.mag).intersect(layer.box))


def _middle(box: Box) -> Vec3:
    x, y, z = (start + extent // 2 for start, extent in zip(box.topleft, box.size, strict=True))
    return x, y, z


def _cut(box: Box, axis: int, first: int, extent: int) -> Box:
    """Take the part of a box that begins at `first` on one axis."""
    start, size = list(box.topleft), list(box.size)
    start[axis], size[axis] = first, extent
    return Box((start[0], start[1], start[2]), (size[0], size[1], size[2]))


def _chunk(source: MagArray) -> Vec3:
    """Give the size of what is decoded at once."""
    return Box.from_zyx((0, 0, 0), source.chunk_shape_zyx).size


def _write(folder: Path, picture: Rgb) -> str:
    data = pictures.encode(picture)
    name = f"{hashlib.sha256(data).hexdigest()[:32]}.webp"
    (folder / name).write_bytes(data)
    return name


def _write_small(folder: Path, picture: Rgb) -> PictureView:
    """Write a picture smaller, if it is larger than pages show in lists."""
    height, width = picture.shape[:2]
    step = max(height, width) / THUMBNAIL_EDGE
    if step > 1:
        height, width = max(1, round(height / step)), max(1, round(width / step))
        rows = (2 * np.arange(height) + 1) * picture.shape[0] // (2 * height)
        columns = (2 * np.arange(width) + 1) * picture.shape[1] // (2 * width)
        if picture.shape[-1] == 4:
            picture = picture[rows][:, columns]
        else:
            across = pictures.mean_between(
                np.moveaxis(picture, -1, 0), np.linspace(0, picture.shape[1], width + 1)
            )
            both = pictures.mean_between(across.swapaxes(1, 2), np.linspace(0, picture.shape[0], height + 1))
            picture = pictures.image_picture(both.swapaxes(1, 2), None)
    return PictureView(file=_write(folder, picture), width=width, height=height)
