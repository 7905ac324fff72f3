"""Which magnifications a layer should have."""

from __future__ import annotations

import math

from voxelworks.geometry import MAG1, Box, Mag, VoxelSize


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


def _next_mag(voxel_size: VoxelSize, mag: Mag, until: Mag | None) -> Mag:
    sizes = voxel_size.in_mag(mag).xyz
    limits = until.xyz if until else (math.inf,) * 3
    may_grow = [now < last for now, last in zip(mag.xyz, limits, strict=True)]
    smallest = min(size for size, grows in zip(sizes, may_grow, strict=True) if grows)
    x, y, z = (2 if grows and size < 2 * smallest else 1 for size, grows in zip(sizes, may_grow, strict=True))
    return mag.times(Mag(x, y, z))
