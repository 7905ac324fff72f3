"""Layers of a new dataset that is made from another one: a segmentation with other labels, and copies of the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from voxelworks.errors import UnsupportedDtype, UnsupportedFormat
from voxelworks.geometry import Box, Mag
from voxelworks.volumes.dataset import Dataset, Layer, MagArray
from voxelworks.volumes.mags import mag_sequence
from voxelworks.volumes.metadata import LayerProperties
from voxelworks.volumes.shards import LevelGroup, plan_levels
from voxelworks.workflows._pyramid import method_for, write_blocks, write_group
from voxelworks.workflows._refs import check_name

if TYPE_CHECKING:
    from voxelworks.workflows._job import Job

_LEFT_OUT = ("attachments", "mappings")
"""What belongs to a layer and lies in files of its own."""


class Labels(Protocol):
    """Labels in one magnification that become a layer. Picklable."""

    @property
    def mag(self) -> Mag: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def read(self, box: Box) -> NDArray[Any]:
        """Read a box, given in voxels of `mag`, as (1, z, y, x)."""

    def touches(self, box: Box) -> bool:
        """Whether there can be anything in a box."""


class LayerPlan:
    """The new segmentation layer, and the groups of levels that are written together."""

    def __init__(
        self, made: Dataset, name: str, box: Box, labels: Labels, job: Job, *, within: str = ""
    ) -> None:
        self.name, self.box, self.made = name, box, made
        self.labels = labels
        self.mags = [labels.mag, *mag_sequence(made.voxel_size, box, start=labels.mag)]
        layer = made.add_layer(name, "segmentation", labels.dtype.name, 1, box)
        groups = plan_levels(
            box, self.mags, labels.dtype, 1, slots=job.slots, shard_bytes_max=job.settings.shard_bytes_max,
            write_source=True,
        )  # fmt: skip
        for group in groups:
            job.require_memory(group.memory_bytes(labels.dtype, 1))
        self.arrays: dict[Mag, MagArray] = {
            mag: layer.add_mag(mag, shard_zyx=shard, within=within)
            for group in groups
            for mag, shard in group.levels
        }
        self.groups = [(group, self._tiles(group)) for group in groups]

    @property
    def units(self) -> int:
        return sum(tile.voxel_count for _, tiles in self.groups for tile in tiles)

    def write(self, job: Job, labels: Labels | None = None) -> int:
        """Write all levels, of labels that were only planned for if others are given now; give the largest id."""
        largest = 0
        for group, tiles in self.groups:
            first, last = group.levels[0][0], group.levels[-1][0]
            phase = f"{self.name}: mag {first}" + (f" to {last}" if last != first else "")
            source = labels or self.labels if group.includes_source else self.arrays[group.source_mag]
            found = write_blocks(
                job, phase, group, source, self.arrays, tiles, method_for("segmentation"),
                units=sum(tile.voxel_count for tile in tiles),
            )  # fmt: skip
            largest = found if group.includes_source else largest
        self.made.source = self.made.source.with_largest_segment_id(self.name, largest)
        return largest

    def _tiles(self, group: LevelGroup) -> list[Box]:
        """Leave out the blocks in which nothing can be: a small annotation may lie in a large empty space."""
        return [
            tile
            for tile in group.blocks(self.box)
            if self.labels.touches(tile.from_mag(group.source_mag).in_mag(self.labels.mag))
        ]


class LayerCopy:
    """Another layer of the dataset, or a box of it: every voxel of every mag as it is, in our own layout."""

    def __init__(self, made: Dataset, layer: Layer, job: Job, box: Box | None = None) -> None:
        self.layer = layer
        self.box = box or layer.box
        stated = layer.properties
        kept = {key: value for key, value in (stated.model_extra or {}).items() if key not in _LEFT_OUT}
        if len(kept) < len(stated.model_extra or {}):
            job.log(f"{layer.name}: meshes, mappings and the like are not copied")
        if layer.largest_segment_id is not None:
            kept["largest_segment_id"] = layer.largest_segment_id
        if stated.modality is not None:
            kept["modality"] = stated.modality
        copied = LayerProperties(
            name=layer.name, category=layer.category, bounding_box=self.box, element_class=stated.element_class,
            data_format="zarr3", num_channels=layer.channel_count, mags=(), **kept,
        )  # fmt: skip
        made.source = made.source.with_layer(copied)
        self.plans: list[tuple[LevelGroup, MagArray, MagArray]] = []
        for mag in layer.mags:
            (group,) = plan_levels(
                self.box, [mag], layer.dtype, layer.channel_count, slots=job.slots,
                shard_bytes_max=job.settings.shard_bytes_max, write_source=True,
            )  # fmt: skip
            job.require_memory(group.memory_bytes(layer.dtype, layer.channel_count))
            target = made.layer(layer.name).add_mag(mag, shard_zyx=group.levels[0][1])
            self.plans.append((group, layer.mag(mag), target))

    @property
    def units(self) -> int:
        return sum(self.box.in_mag(group.source_mag).voxel_count for group, _, _ in self.plans)

    def write(self, job: Job) -> None:
        for group, source, target in self.plans:
            phase = f"{self.layer.name}: copying mag {group.source_mag}"
            method = method_for(self.layer.category)
            write_group(job, phase, group, source, {group.source_mag: target}, self.box, method)


def other_layers(dataset: Dataset, replaced: Layer | None) -> list[Layer]:
    """Find the layers to copy beside the one that is made anew, and see that they can be read.

    Raises
    ------
    UnsupportedFormat, UnsupportedDtype
    """
    others = [layer for layer in dataset.layers if replaced is None or layer.name != replaced.name]
    for layer in others:
        check_name("layer", layer.name)  # it becomes a folder
        try:
            for mag in layer.mags:
                layer.mag(mag)
            _ = layer.dtype
        except (UnsupportedFormat, UnsupportedDtype) as error:
            raise type(error)(
                f"layer {layer.name!r} cannot be copied: {error.message}; leave the others out with copy_other_layers"
            ) from error
    return [layer for layer in others if layer.mags]
