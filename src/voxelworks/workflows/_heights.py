"""Heights of a volume, whose tops are the middles of objects, from what a network predicts of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxelworks.geometry import Box, VoxelSize, Zyx
from voxelworks.ops import fragments, region_graph
from voxelworks.ops.fragments import HEIGHT_OF_ONE
from voxelworks.volumes.arrays import MagArray

if TYPE_CHECKING:
    from voxelworks.ai.inference import Predictions

Predicted: TypeAlias = "MagArray | Predictions"
"""Bytes (c, z, y, x) on the voxels of a layer: 255 is a probability, an affinity or a distance of 1."""


class HeightMap(Protocol):
    """The heights of a volume, from its predictions. Cheap, picklable."""

    @property
    def predictions(self) -> Predicted: ...

    def read(self, box: Box) -> NDArray[np.uint16]:
        """Read a box (z, y, x); 0 where nothing is, also beyond the volume."""


@dataclass(frozen=True)
class InstanceHeights:
    """The predicted distance from the surface, inside of the foreground."""

    predictions: Predicted
    foreground: int
    """Number of the channel."""
    distance: int | None
    """Number of the channel; without one all of the foreground is equally high."""
    threshold: int
    """Bytes of at least this are foreground."""
    smoothing: Zyx = (0, 0, 0)

    def read(self, box: Box) -> NDArray[np.uint16]:
        heights = np.zeros(box.shape_zyx, np.uint16)
        wanted = grown(box, self.smoothing)
        there, inside = wanted.intersect(self.predictions.box), box.intersect(self.predictions.box)
        if inside.is_empty:
            return heights
        values = self.predictions.read(there)
        foreground = values[self.foreground][within(inside, there)] >= self.threshold
        if self.distance is None:
            heights[within(inside, box)] = foreground
            return heights
        distances = raised(values[self.distance])
        smoothed = fragments.smooth(_extended(distances, there, wanted), self.smoothing)
        heights[within(inside, box)] = np.where(foreground, smoothed[within(inside, box)], 0)
        return heights


@dataclass(frozen=True)
class AffinityHeights:
    """How well each voxel belongs together with its direct neighbours."""

    predictions: Predicted
    offsets: tuple[Zyx, ...]
    """Of all channels."""
    smoothing: Zyx = (0, 0, 0)
    height_min: int = 0
    """What is lower is outside of all fragments."""

    def read(self, box: Box) -> NDArray[np.uint16]:
        heights = np.zeros(box.shape_zyx, np.uint16)
        volume = self.predictions.box
        wanted = grown(box, self.smoothing)
        inside = box.intersect(volume)
        if inside.is_empty:
            return heights
        # One voxel more: the affinity with the voxel before it stands at that one.
        there = grown(wanted, (1, 1, 1)).intersect(volume)
        near = [channel for channel, offset in enumerate(self.offsets) if region_graph.is_short(offset)]
        first, stop = near[0], near[-1] + 1
        part = replace(
            self.predictions,
            channel_index=self.predictions.channel_index + first,
            channel_count=stop - first,
        )
        found = fragments.affinity_heights(part.read(there), np.array(self.offsets[first:stop], np.int64))
        known = wanted.intersect(volume)
        smoothed = fragments.smooth(_extended(found[within(known, there)], known, wanted), self.smoothing)
        cut = smoothed[within(inside, box)]
        heights[within(inside, box)] = np.where(cut < self.height_min, 0, cut) if self.height_min else cut
        return heights


def raised(distances: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Give the heights of distances: that of 1 is `HEIGHT_OF_ONE` above that of 0, which is 1."""
    heights: NDArray[np.uint16] = distances.astype(np.uint16) * np.uint16(HEIGHT_OF_ONE // 255) + np.uint16(1)
    return heights


def smoothing(voxel_size: VoxelSize, passes: int) -> Zyx:
    """Give how often to average along each axis: as far in nm along all, so not along axes with much longer voxels."""
    shortest = min(voxel_size.zyx)
    return zyx(math.floor(passes * (shortest / length) ** 2 + 0.5) for length in voxel_size.zyx)


def grown(box: Box, by: Zyx) -> Box:
    return Box.from_zyx(
        zyx(start - more for start, more in zip(box.start_zyx, by, strict=True)),
        zyx(extent + 2 * more for extent, more in zip(box.shape_zyx, by, strict=True)),
    )


def within(part: Box, whole: Box) -> tuple[slice, slice, slice]:
    """Index a part of an array that holds a box."""
    x, y, z = whole.topleft
    return part.moved((-x, -y, -z)).slices_zyx


def _extended(values: NDArray[Any], there: Box, wanted: Box) -> NDArray[Any]:
    """Repeat what lies at the border of the volume, until a box is full."""
    if there == wanted:
        return values
    missing = [
        (start - first, last - stop)
        for start, first, last, stop in zip(
            there.start_zyx, wanted.start_zyx, wanted.stop_zyx, there.stop_zyx, strict=True
        )
    ]
    return np.pad(values, missing, mode="edge")


def zyx(values: Iterable[int]) -> Zyx:
    z, y, x = values
    return z, y, x
