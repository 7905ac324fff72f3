"""A volume annotation over its fallback layer, as something to read block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from voxelworks.errors import InvalidAnnotation, UnsupportedDtype, WrongCategory
from voxelworks.geometry import Box, Mag
from voxelworks.ops.relabelling import merged_ids, replace_labels
from voxelworks.volumes.annotations import Buckets, Skeleton
from voxelworks.volumes.dataset import Dataset, Layer

if TYPE_CHECKING:
    from voxelworks.protocol.views import VolumeLayerSummary
    from voxelworks.volumes.streaming import StreamedArray
    from voxelworks.workflows._job import Job
    from voxelworks.workflows._refs import AnnotationRef

PIECE = (128, 128, 128)
"""Voxels (x, y, z) that are looked at together: nodes of skeletons, and what is read in another mag."""
Voxels = NDArray[Any]


class Below(Protocol):
    """A layer in one magnification. Picklable."""

    @property
    def mag(self) -> Mag: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def read(self, box: Box) -> Voxels:
        """Read a box, given in voxels of its mag, as (1, z, y, x)."""


def segmentation_below(dataset: Dataset, name: str) -> Layer:
    """Give the layer that an annotation lies over.

    Raises
    ------
    LayerNotFound, WrongCategory
    """
    layer = dataset.layer(name)
    if layer.category != "segmentation":
        raise WrongCategory(
            f"layer {name!r} is a {layer.category} layer; name a segmentation with fallback_layer"
        )
    return layer


def open_proofread(ref: AnnotationRef, volume: VolumeLayerSummary, job: Job) -> StreamedArray:
    """Open a layer that was proofread where the mapping is applied: in its WEBKNOSSOS.

    Raises
    ------
    InvalidAnnotation
        If nothing is known of one.
    """
    streamed = job.open_stream(ref, volume.name or "")
    if streamed is None:
        raise InvalidAnnotation(
            f"volume layer {volume.name!r} was split and merged by proofreading, which only the WEBKNOSSOS that it "
            "comes from can apply; add the annotation to a server by its address there"
        )
    job.log(f"{volume.name} was proofread: its voxels are read from {streamed.location}, as they are now")
    return streamed


def dtype_of(below: Below | None, edits: Buckets | None) -> np.dtype[Any]:
    """Give the type that holds the ids of a layer and of what is painted over it; one of them is there.

    Raises
    ------
    UnsupportedDtype
    """
    types = [
        array.dtype for array in (below, edits.array if edits is not None else None) if array is not None
    ]
    dtype = np.result_type(*types)
    if dtype.kind not in "iu":
        raise UnsupportedDtype(
            f"no type holds the ids of both {types[0]}, of the layer below, and {types[-1]}"
        )
    return dtype


@dataclass(frozen=True)
class Fallback:
    """The layer below an annotation."""

    array: Below
    """With a `StreamedArray` the edits are in it, too."""
    box: Box
    """Of the layer, in mag 1: what lies outside does not count."""


class LabelChange(Protocol):
    """Gives segments other ids. Picklable."""

    def apply(self, voxels: Voxels) -> None:
        """Change labels in place."""


@dataclass(frozen=True)
class Merges:
    """Which segments become which, in a file."""

    file: str
    """Of an array (2, n): the old ids, sorted, and the new ones."""

    @classmethod
    def save(cls, ids: dict[int, int], file: Path, dtype: np.dtype[Any]) -> Merges:
        pairs = sorted(ids.items())
        np.save(file, np.array(pairs, dtype).reshape(-1, 2).T)
        return cls(str(file))

    def apply(self, voxels: Voxels) -> None:
        old, new = np.load(self.file)
        replace_labels(voxels, np.ascontiguousarray(old), np.ascontiguousarray(new))


@dataclass(frozen=True)
class MergedVolume:
    """The buckets of an annotation over its fallback layer. Cheap, picklable, opened when it is read.

    A bucket is kept whole as soon as one voxel of it was changed. So it replaces all that lies below it, also by
    zeros: what was erased stays erased.
    """

    mag: Mag
    """As fine as the finer of the two on each axis; the other is enlarged, voxel by voxel."""
    dtype: np.dtype[Any]
    fallback: Fallback | None = None
    edits: Buckets | None = None
    merges: LabelChange | None = None

    @property
    def channel_count(self) -> int:
        return 1

    def read(self, box: Box) -> Voxels:
        """Read a box, given in voxels of `mag`, as (1, z, y, x)."""
        voxels = self._below(box)
        if self.edits is not None:
            for bucket in self._buckets_in(box):
                self._copy(self.edits.array, bucket.intersect(box), voxels, box)
        if self.merges is not None:
            self.merges.apply(voxels)
        return voxels

    def touches(self, box: Box) -> bool:
        """Whether there can be anything in a box."""
        return self.fallback is not None or any(True for _ in self._buckets_in(box))

    def _below(self, box: Box) -> Voxels:
        """Read the fallback layer; zeros where there is none."""
        if self.fallback is None:
            return np.zeros((1, *box.shape_zyx), self.dtype)
        array = self.fallback.array
        inside = box.intersect(self.fallback.box.in_mag(self.mag))
        if array.mag == self.mag and array.dtype == self.dtype and inside == box:
            return array.read(box)  # at once: it needs no second copy
        voxels = np.zeros((1, *box.shape_zyx), self.dtype)
        for piece in inside.tiles(PIECE):
            self._copy(array, piece, voxels, box)
        return voxels

    def _buckets_in(self, box: Box) -> Iterator[Box]:
        """Yield the buckets that touch a box, in voxels of `mag`."""
        if self.edits is not None:
            factor = self.edits.mag.relative_to(self.mag)
            for bucket in self.edits.within(box.in_mag(factor)):
                yield bucket.from_mag(factor)

    def _copy(self, array: Below, part: Box, voxels: Voxels, box: Box) -> None:
        """Copy a part of `box` from an array, enlarged if that is coarser."""
        factor = array.mag.relative_to(self.mag)
        covering = part.in_mag(factor)
        found = array.read(covering)
        for axis, times in enumerate(factor.zyx, start=1):
            found = found.repeat(times, axis) if times > 1 else found
        start = covering.from_mag(factor).topleft
        cut = part.moved((-start[0], -start[1], -start[2]))
        place = part.moved((-box.topleft[0], -box.topleft[1], -box.topleft[2]))
        voxels[:, *place.slices_zyx] = found[:, *cut.slices_zyx]


def beyond(edits: Buckets, whole: Box, check: Callable[[], None]) -> Box:
    """Find the smallest box of what an annotation adds outside of a box, both in mag 1; empty if that is nothing."""
    inside = whole.in_mag(edits.mag)
    found = Box((0, 0, 0), (0, 0, 0))
    for bucket in edits:
        if inside.contains(bucket):
            continue
        check()
        voxels = edits.array.read(bucket)[0]
        common = bucket.intersect(inside)
        if not common.is_empty:
            start = bucket.topleft
            voxels[common.moved((-start[0], -start[1], -start[2])).slices_zyx] = 0
        where = np.nonzero(voxels)
        if len(where[0]):
            first = [int(axis.min()) for axis in where]
            shape = [int(axis.max()) + 1 - low for axis, low in zip(where, first, strict=True)]
            tight = Box.from_zyx((first[0], first[1], first[2]), (shape[0], shape[1], shape[2]))
            found = found.union(tight.moved(bucket.topleft).from_mag(edits.mag))
    return found


def merges_of(skeleton: Skeleton, labels: Voxels) -> dict[int, int]:
    """Merge what lies under the nodes of each tree; `labels` are those under the nodes, in their order."""
    borders = np.flatnonzero(np.diff(skeleton.trees)) + 1
    return merged_ids(tree.tolist() for tree in np.split(labels, borders))
