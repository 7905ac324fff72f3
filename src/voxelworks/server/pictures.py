"""Which pictures pages show of a dataset: what lies on what, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from voxelworks.geometry import Box, VoxelSize
from voxelworks.protocol.views import DatasetSummary, DatasetView, LayerSummary, PictureView, Plane, SliceView

_AXES: dict[Plane, tuple[int, int, int]] = {"xy": (0, 1, 2), "xz": (0, 2, 1), "yz": (1, 2, 0)}
"""Axes (of x, y, z) that go to the right, downwards and across."""
_COARSE_PIXELS = 256
"""A picture with fewer pixels is enlarged, and then shows its voxels as squares."""
ShownLayer = tuple[str, "tuple[ShownSlice, ...]"]
"""Name and slices."""


@dataclass(frozen=True)
class ShownSlice:
    """A slice as a page shows it."""

    slice: SliceView
    below: str | None
    """Address of the image that it lies on; None for images, and where there is no image of the same extent."""
    alt: str
    where: str
    """Such as ``z = 32``."""
    extent: str
    """Such as ``5.1 × 5.1 µm``; in voxels if their size is not known."""
    proportion: float
    """Width by height, as it is in space."""

    @property
    def is_coarse(self) -> bool:
        return max(self.slice.width, self.slice.height) < _COARSE_PIXELS


def shown_slices(dataset: DatasetView, layer: LayerSummary) -> tuple[ShownSlice, ...]:
    """Give the slices of a layer; none if it has no pictures."""
    if layer.preview is None:
        return ()
    image = image_below(dataset.summary, layer)
    return tuple(_shown(dataset, layer, item, image) for item in layer.preview.slices)


def image_below(summary: DatasetSummary, layer: LayerSummary) -> LayerSummary | None:
    """Find the image layer that the pictures of a segmentation lie on: the first of the same extent."""
    if layer.category != "segmentation":
        return None
    images = (item for item in summary.layers if item.category == "color" and item.box == layer.box)
    return next((item for item in images if item.preview is not None), None)


def thumbnail(dataset: DatasetView) -> PictureView | None:
    """Choose the picture that stands for a dataset: that of its first image layer, or else of its first layer."""
    shown = [layer for layer in dataset.summary.layers if layer.preview is not None]
    first = next((layer for layer in shown if layer.category == "color"), shown[0] if shown else None)
    return None if first is None or first.preview is None else first.preview.thumbnail


def shown_layers(dataset: DatasetView, names: Sequence[str]) -> tuple[ShownLayer, ...]:
    """Give the named layers that have pictures, with their slices."""
    found = {layer.name: shown_slices(dataset, layer) for layer in dataset.summary.layers}
    return tuple((name, found[name]) for name in names if found.get(name))


def _shown(
    dataset: DatasetView, layer: LayerSummary, item: SliceView, image: LayerSummary | None
) -> ShownSlice:
    box = Box.parse(item.box)
    right, down, across = _AXES[item.plane]
    voxel_nm = VoxelSize.parse(dataset.summary.voxel_size or "1,1,1").xyz
    where = f"{'xyz'[across]} = {box.topleft[across]}"
    below = None
    if image is not None and image.preview is not None:
        below = next((other.address for other in image.preview.slices if other.box == item.box), None)
    return ShownSlice(
        slice=item,
        below=below,
        alt=f"Slice {item.plane} through layer {layer.name} of {dataset.name} at {where}",
        where=where,
        extent=extent_text((box.size[right], box.size[down]), (right, down), dataset.summary.voxel_size),
        proportion=box.size[right] * voxel_nm[right] / (box.size[down] * voxel_nm[down]),
    )


def extent_text(size: tuple[int, int], axes: tuple[int, int], voxel_size: str | None) -> str:
    """Say how wide and high a slice is, in micrometres."""
    if voxel_size is None:
        return f"{size[0]} × {size[1]} voxels"
    voxel_nm = VoxelSize.parse(voxel_size).xyz
    width, height = (f"{extent * voxel_nm[axis] / 1000:.3g}" for extent, axis in zip(size, axes, strict=True))
    return f"{width} × {height} µm"
