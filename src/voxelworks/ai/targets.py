"""What networks learn to give for labelled voxels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from voxelworks.geometry import Vec3, VoxelSize, Zyx

Labels = NDArray[np.integer]


def affinities(labels: Labels, offsets: Sequence[Vec3]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Tell for each voxel and offset whether the voxel and the one at the offset from it belong together.

    Parameters
    ----------
    labels : (Z, Y, X) integer
        0 belongs to nothing: its affinities are 0.
    offsets : sequence of (x, y, z)
        In voxels.

    Returns
    -------
    affinities : (n, Z, Y, X) float32
        0 or 1.
    is_known : (n, Z, Y, X) bool
        False where the other voxel is outside.
    """
    found = np.zeros((len(offsets), *labels.shape), np.float32)
    is_known = np.zeros(found.shape, bool)
    for channel, offset in enumerate(offsets):
        here, there = _overlap(labels.shape, offset)
        found[channel][here] = (labels[here] == labels[there]) & (labels[here] != 0)
        is_known[channel][here] = True
    return found, is_known


def foreground(labels: Labels) -> NDArray[np.float32]:
    """Tell which voxels belong to an object: (1, Z, Y, X) float32 of 0 and 1."""
    found: NDArray[np.float32] = (labels != 0)[np.newaxis].astype(np.float32)
    return found


def distances(labels: Labels, voxel_size: VoxelSize, scale_nm: float) -> NDArray[np.float32]:
    """Tell how far each voxel is from the surface of its object.

    Parameters
    ----------
    labels : (Z, Y, X) integer
        0 is background.
    voxel_size : VoxelSize
    scale_nm : float
        The distance that is given as 1; larger ones are, too.

    Returns
    -------
    (1, Z, Y, X) float32
        0 outside of objects and on their surface.
    """
    is_inside = labels != 0
    for axis in range(3):
        low, high = [slice(None)] * 3, [slice(None)] * 3
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        touches = (
            (labels[tuple(low)] != labels[tuple(high)])
            & (labels[tuple(low)] != 0)
            & (labels[tuple(high)] != 0)
        )
        is_inside[tuple(low)] &= ~touches
        is_inside[tuple(high)] &= ~touches
    if is_inside.all():
        return np.ones((1, *labels.shape), np.float32)
    lengths = ndimage.distance_transform_edt(is_inside, sampling=voxel_size.zyx)
    found: NDArray[np.float32] = np.minimum(lengths / scale_nm, 1)[np.newaxis].astype(np.float32)
    return found


def offsets_for(voxel_size: VoxelSize, lengths_nm: Sequence[float] = (0, 30, 90, 180)) -> tuple[Vec3, ...]:
    """Choose offsets: on each axis the next voxel, and those at some distances.

    Lee, K. et al. (2017). Superhuman accuracy on the SNEMI3D connectomics challenge. arXiv:1706.00120.
    Affinities to voxels far away are learned beside those to the next, and tell small gaps from membranes.

    Parameters
    ----------
    voxel_size : VoxelSize
    lengths_nm : sequence of float
        Lengths; on an axis with long voxels those that come out equal are taken once.
    """
    found: list[Vec3] = []
    for length in lengths_nm:
        for axis in (2, 1, 0):  # z, y, x
            steps = max(1, round(length / voxel_size.xyz[axis]))
            offset = [0, 0, 0]
            offset[axis] = -steps
            if (item := (offset[0], offset[1], offset[2])) not in found:
                found.append(item)
    return tuple(found)


def _overlap(shape: tuple[int, ...], offset: Vec3) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Give the voxels that have one at the offset, and those others."""
    zyx: Zyx = (offset[2], offset[1], offset[0])
    here = tuple(slice(max(0, -step), size - max(0, step)) for step, size in zip(zyx, shape, strict=True))
    there = tuple(slice(max(0, step), size - max(0, -step)) for step, size in zip(zyx, shape, strict=True))
    return here, there
