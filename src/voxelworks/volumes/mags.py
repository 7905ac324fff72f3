"""Which magnifications a layer should have."""

from __future__ import annotations

import math
from collections.abc import Iterable

from voxelworks.geometry import MAG1, Box, Mag, VoxelSize
from voxelworks.protocol.views import DatasetSummary


def mag_sequence(
    voxel_size: VoxelSize, box: Box, *, start: Mag = MAG1, until: Mag | None = None, fits: int = 256
) -> list[Mag]:
    """Choose the magnifications coarser than `start`, finest first.

    Each step doubles every axis whose voxels are less than twice as long as the shortest ones, so that voxels
    become as cubic as powers of two allow: voxels of 4 x 4 x 40 nm give 2-2-1, 4-4-1, 8-8-1, 16-16-2.

    Parameters
    ----------
    voxel_size : VoxelSize
        Of mag 1.
    box : Box
        Of the layer, in mag 1. An axis with a single voxel is doubled like the others.
    start : Mag
        Finest mag that exists.
    until : Mag, optional
        The last mag. An axis that has reached it is doubled no further; the others go on by the same rule.
    fits : int
        Without `until` the sequence ends with the first mag in which the layer has at most so many voxels on
        each axis; a layer that already has so few gets none.

    Raises
    ------
    InvalidGeometry
        If `until` is not coarser than `start`.
    """
    if until is not None:
        until.relative_to(start)
    found: list[Mag] = []
    mag = start
    while mag != until if until is not None else max(box.in_mag(mag).size) > fits:
        mag = _next_mag(voxel_size, mag, until)
        found.append(mag)
    return found


def odd_mags(voxel_size: VoxelSize, mags: Iterable[Mag]) -> list[Mag]:
    """Give the mags of a layer that `mag_sequence` would not have chosen after its finest one, finest first."""
    first, *others = sorted(mags, key=lambda mag: (math.prod(mag.xyz), mag.xyz))
    odd, mag = [], first
    for other in others:
        while math.prod(mag.xyz) < math.prod(other.xyz):
            mag = _next_mag(voxel_size, mag, None)
        if mag != other:
            odd.append(other)
    return odd


def mags_remark(summary: DatasetSummary) -> str:
    """Say which mags of a dataset do not fit its voxel size; nothing if all do."""
    if summary.voxel_size is None:
        return ""
    voxel_size = VoxelSize.parse(summary.voxel_size)
    odd = [
        f"{layer.name} ({', '.join(map(str, mags))})"
        for layer in summary.layers
        if layer.mags and (mags := odd_mags(voxel_size, map(Mag.parse, layer.mags)))
    ]
    if not odd:
        return ""
    return (
        f"The mags stay as they are, though others would be made for this voxel size: {'; '.join(odd)}. "
        "They are shown where they belong, but their voxels are longer on some axes than need be; "
        "to get others, convert the images again."
    )


def _next_mag(voxel_size: VoxelSize, mag: Mag, until: Mag | None) -> Mag:
    sizes = voxel_size.in_mag(mag).xyz
    limits = until.xyz if until else (math.inf,) * 3
    may_grow = [now < last for now, last in zip(mag.xyz, limits, strict=True)]
    smallest = min(size for size, grows in zip(sizes, may_grow, strict=True) if grows)
    x, y, z = (2 if grows and size < 2 * smallest else 1 for size, grows in zip(sizes, may_grow, strict=True))
    return mag.times(Mag(x, y, z))
