"""The coarser buckets of an annotation: shrunk from the finer ones, and from the layer below where there are none."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxelworks.errors import UnsupportedDtype
from voxelworks.geometry import Box, Mag, Vec3, VoxelSize, Zyx
from voxelworks.ops.downsampling import downsample
from voxelworks.volumes.annotation_writer import PackedPart, write_part
from voxelworks.volumes.annotations import Buckets, shard_of
from voxelworks.volumes.arrays import MagArray
from voxelworks.volumes.dataset import Layer
from voxelworks.volumes.mags import mag_sequence
from voxelworks.workflows._materialize import Below, Fallback, MergedVolume

_TILE: Vec3 = (64, 64, 64)
"""Voxels (x, y, z) that are made at once by one step: what it reads is at most eight times that."""
Voxels = NDArray[Any]


def mags_to_make(
    start: Mag, known: Sequence[Mag], voxel_size: VoxelSize, box: Box, until: Mag | None
) -> list[Mag]:
    """Choose the magnifications coarser than `start`, finest first, each at most twice as coarse as the one before.

    Parameters
    ----------
    start
        The coarsest that is there.
    known
        Those of the dataset, in which WEBKNOSSOS shows an annotation: the way leads over them.
    voxel_size
    box
        Of the layer, in mag 1.
    until
        The last to make; by default that of the dataset, or a coarser one in which the layer fits into 256 voxels.

    Raises
    ------
    InvalidGeometry
        If `until` is not coarser than `start`.
    """
    if until is not None:
        until.relative_to(start)
    found: list[Mag] = []
    mag = start
    for other in sorted(known, key=lambda mag: (math.prod(mag.xyz), mag)):
        if other != mag and _is_within(mag, other) and (until is None or _is_within(other, until)):
            found += mag_sequence(voxel_size, box, start=mag, until=other)
            mag = other
    return [*found, *mag_sequence(voxel_size, box, start=mag, until=until)]


def _is_within(finer: Mag, coarser: Mag) -> bool:
    return all(a <= b for a, b in zip(finer.xyz, coarser.xyz, strict=True))


@dataclass(frozen=True)
class Narrowed:
    """An array whose ids are given in the type of the annotation."""

    array: MagArray
    dtype: np.dtype[Any]

    @property
    def mag(self) -> Mag:
        return self.array.mag

    def read(self, box: Box) -> Voxels:
        voxels = self.array.read(box)
        if voxels.dtype == self.dtype:
            return voxels
        limits = np.iinfo(self.dtype)
        lowest, highest = (int(voxels.min()), int(voxels.max())) if voxels.size else (0, 0)
        if lowest < limits.min or highest > limits.max:
            raise UnsupportedDtype(
                f"{self.array.location} holds the id {highest if highest > limits.max else lowest}, which the "
                f"annotation, of {self.dtype}, cannot hold; make a dataset of it with materialize_volume_annotation"
            )
        return voxels.astype(self.dtype)


@dataclass(frozen=True)
class Shrunk:
    """A segmentation in a coarser mag, made of a finer one while it is read, piece by piece."""

    source: Below
    steps: tuple[Mag, ...]
    """From mag to mag, each at most twice as coarse along each axis as the one before; the last is the one to read."""
    box: Box | None = None
    """Of the layer, in mag 1: where it ends within a window, only what is in it counts."""

    @property
    def mag(self) -> Mag:
        return self.steps[-1] if self.steps else self.source.mag

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.source.dtype

    def read(self, box: Box) -> Voxels:
        return self._read(box, len(self.steps))

    def memory_bytes(self) -> int:
        """Give the memory that reading takes at most beside what is read, in bytes."""
        inner = (
            self.source.fallback.array
            if isinstance(self.source, MergedVolume) and self.source.fallback
            else None
        )
        below = inner.memory_bytes() if isinstance(inner, Shrunk) else 0
        return (len(self.steps) + 1) * 4 * 8 * math.prod(_TILE) * self.dtype.itemsize + below

    def _read(self, box: Box, depth: int) -> Voxels:
        """Read a box of the mag that so many steps lead to."""
        if depth == 0:
            return self.source.read(box)
        finer = self.steps[depth - 2] if depth > 1 else self.source.mag
        factor = self.steps[depth - 1].relative_to(finer)
        voxels = np.empty((1, *box.shape_zyx), self.dtype)
        x, y, z = box.topleft
        for tile in box.tiles(_TILE):
            below = tile.from_mag(factor)
            found = self._read(below, depth - 1)
            if self.box is not None:
                _continue_border(found, below, self.box.in_mag(finer), factor.zyx)
            voxels[:, *tile.moved((-x, -y, -z)).slices_zyx] = downsample(found, factor.zyx, "mode")
        return voxels


def _continue_border(voxels: Voxels, box: Box, layer_box: Box, factor: Zyx) -> None:
    """Repeat the outermost voxels of a layer where it ends within a window.

    So each voxel of the window that exists has the same weight, as in the pyramid of a dataset. What was painted
    outside of the layer stays.
    """
    for axis in range(3):
        start, stop, step = box.start_zyx[axis], box.stop_zyx[axis], factor[axis]
        first, last = layer_box.start_zyx[axis], layer_box.stop_zyx[axis] - 1
        for inside, outside in ((first, first - 1), (last, last + 1)):
            if (
                inside // step == outside // step
                and start <= min(inside, outside)
                and max(inside, outside) < stop
            ):
                planes = np.moveaxis(voxels[0], axis, 0)
                planes[outside - start] = np.where(
                    planes[outside - start] == 0, planes[inside - start], planes[outside - start]
                )


def below_in(layer: Layer, mag: Mag, dtype: np.dtype[Any]) -> Fallback:
    """Give the layer below an annotation in a mag: as it is stored, or else made of the next finer mag that is.

    Where it has none that is finer, the finest is enlarged by who reads it.
    """
    arrays = [layer.mag(stored) for stored in layer.mags] or [layer.finest]
    by_size = sorted(arrays, key=lambda array: math.prod(array.mag.xyz))
    finer = [array for array in by_size if _is_within(array.mag, mag)]
    array = finer[-1] if finer else by_size[0]
    x, y, z = (max(parts) for parts in zip(array.mag.xyz, mag.xyz, strict=True))
    steps = mag_sequence(layer.voxel_size, layer.box, start=array.mag, until=Mag(x, y, z))
    stored = Fallback(Narrowed(array, dtype), layer.box)
    if not steps:
        return stored
    return Fallback(Shrunk(MergedVolume(array.mag, dtype, stored), tuple(steps), layer.box), layer.box)


def shrunk_to(mag: Mag, finer: Buckets, below: Layer | None) -> Shrunk:
    """Give an annotation in the next mag, made of its buckets in the finer one, over the layer below."""
    dtype = finer.array.dtype
    fallback = None if below is None else below_in(below, finer.mag, dtype)
    box = None if below is None else below.box
    return Shrunk(MergedVolume(finer.mag, dtype, fallback, finer), (mag,), box)


@dataclass(frozen=True)
class MakeBuckets:
    """Make the buckets of a magnification, those of a shard in one call. Runs in the processes of the executor."""

    source: Shrunk
    target: Buckets

    def __call__(self, members: Sequence[Vec3]) -> PackedPart:
        return write_part(self.target, shard_of(members[0]), self._voxels(members))

    def _voxels(self, members: Sequence[Vec3]) -> Iterator[tuple[Vec3, Voxels]]:
        width, height, depth = self.target.edges
        for x, y, z in members:
            box = Box((x * width, y * height, z * depth), self.target.edges)
            yield (x, y, z), self.source.read(box)[0]
