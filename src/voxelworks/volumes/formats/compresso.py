"""Chunks of labels in the encoding compresso, as CloudVolume and Neuroglancer write them.

The voxels at the borders of labels are stored as bits, in windows of a few voxels each. Between them lie connected
regions, for each of which one label is stored. A voxel of a border has the label of its neighbour to the left or
above, where that is none of a border; for every other voxel of a border a word says what it is.

References
----------
Matejek et al. (2017). Compresso: Efficient compression of segmentation data for connectomics. MICCAI, 781-788; the
stream: https://github.com/seung-lab/compresso#compresso-stream-format. How runs and words are coded is not described
there; these facts are those of that program.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxelworks.geometry import Zyx

_HEADER = struct.Struct("<4sBB3H3BQIQB")
_MAGIC = b"cpso"
_WITH_INDEX = 1
"""Version whose streams end with an index of sections, which is of no use for whole chunks."""
_IN_PLANE, _IN_SPACE = 4, 6
_NEXT_IS_LABEL, _FIRST_LABEL = 6, 7
"""Words of the borders: below 6 a neighbour, 6 for a label that follows, else a label and 7."""


def decode(data: bytes, shape_zyx: Zyx, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Decode a chunk.

    Parameters
    ----------
    data : bytes
    shape_zyx : (z, y, x)
        What the chunk must hold.
    dtype : dtype
        Unsigned; what it must hold.

    Returns
    -------
    (z, y, x), dtype

    Raises
    ------
    ValueError
        If it is something else, or damaged.
    """
    if len(data) < _HEADER.size:
        raise ValueError(f"{len(data)} bytes are too few for compresso")
    magic, version, width, sx, sy, sz, *steps, id_count, value_count, word_count, connectivity = (
        _HEADER.unpack_from(data)
    )
    if magic != _MAGIC or version > _WITH_INDEX or connectivity not in (_IN_PLANE, _IN_SPACE):
        raise ValueError("it is no compresso of version 0 or 1")
    if (sz, sy, sx) != shape_zyx or width != dtype.itemsize:
        raise ValueError(
            f"it holds {sx} x {sy} x {sz} labels of {width} bytes instead of {' x '.join(map(str, shape_zyx[::-1]))}"
        )
    window_voxels = steps[0] * steps[1] * steps[2]
    if not 0 < window_voxels <= 64:
        raise ValueError(f"its windows have {window_voxels} voxels")
    label = dtype.newbyteorder("<")
    window = np.dtype(f"<u{next(size for size in (1, 2, 4, 8) if window_voxels <= 8 * size)}")
    parts: list[NDArray[Any]] = []
    position = _HEADER.size
    for kind, count in ((label, id_count), (window, value_count), (label, word_count)):
        if position + count * kind.itemsize > len(data):
            raise ValueError("it is cut short")
        parts.append(np.frombuffer(data, kind, count, position))
        position += count * kind.itemsize
    ids, values, words = parts
    end = len(data) - (2 * sz * np.min_scalar_type(2 * sx * sy).itemsize if version == _WITH_INDEX else 0)
    if position > end:
        raise ValueError("it is cut short")
    runs = np.frombuffer(data, window, (end - position) // window.itemsize, position)
    is_border = _borders(runs, values, shape_zyx, (steps[2], steps[1], steps[0]))
    regions, region_count = _regions(~is_border, is_connected_in_z=connectivity == _IN_SPACE)
    if region_count > len(ids):
        raise ValueError(f"it has {region_count} regions and {len(ids)} labels")
    labels = np.concatenate([np.zeros(1, dtype), ids.astype(dtype)])[regions]
    _fill_borders(labels, is_border, words.astype(dtype), is_connected_in_z=connectivity == _IN_SPACE)
    return labels


def _borders(runs: NDArray[Any], values: NDArray[Any], shape: Zyx, steps: Zyx) -> NDArray[np.bool_]:
    """Spread the bits of the windows: each is a number of `values`, and runs of the first are stored by length."""
    grid = tuple(-(-extent // step) for extent, step in zip(shape, steps, strict=True))
    count = grid[0] * grid[1] * grid[2]
    is_border = np.zeros(shape, bool)
    if not len(values):
        return is_border
    is_run = (runs & runs.dtype.type(1)).astype(bool)
    numbers = (runs >> runs.dtype.type(1)).astype(np.uint64)
    lengths = np.where(is_run, np.minimum(numbers, count + 1), 1).astype(np.int64)
    ends = np.cumsum(lengths)
    if (len(ends) and ends[-1] > count) or np.any(numbers[~is_run] >= len(values)):
        raise ValueError("its windows are damaged")
    windows = np.zeros(count, np.int64)
    windows[(ends - 1)[~is_run]] = numbers[~is_run]
    bits = values[windows].reshape(grid)
    for index in np.ndindex(*steps):
        z, y, x = index
        shift = bits.dtype.type(x + steps[2] * (y + steps[1] * z))
        part = is_border[z :: steps[0], y :: steps[1], x :: steps[2]]
        depth, height, width = part.shape
        part[:] = (bits[:depth, :height, :width] >> shift) & bits.dtype.type(1)
    return is_border


def _regions(is_inside: NDArray[np.bool_], *, is_connected_in_z: bool) -> tuple[NDArray[np.int64], int]:
    """Number the connected regions from 1 on, by their first voxels; 0 is outside."""
    depth, height, width = is_inside.shape
    rows = np.zeros((depth * height, width + 2), np.int8)
    rows[:, 1:-1] = is_inside.reshape(-1, width)
    edges = np.diff(rows, axis=1)
    first_row, first = np.nonzero(edges == 1)
    _, stop = np.nonzero(edges == -1)
    count = len(first)
    starts = np.zeros(depth * height * width + 1, np.int64)
    starts[first_row * width + first] += np.arange(1, count + 1)
    starts[first_row * width + stop] -= np.arange(1, count + 1)
    # Which run of voxels along x each voxel is in; 0 outside.
    volume = np.cumsum(starts[:-1]).reshape(is_inside.shape)
    pairs = [_touching(volume[:, :-1], volume[:, 1:])]
    if is_connected_in_z:
        pairs.append(_touching(volume[:-1], volume[1:]))
    one, other = (np.concatenate(ends) for ends in zip(*pairs, strict=True))
    roots = _smallest(one, other, count + 1)
    is_root = roots == np.arange(count + 1)
    is_root[0] = False
    numbers = np.cumsum(is_root)
    numbers[0] = 0
    of_run = numbers[roots]
    of_run[0] = 0
    return of_run[volume], int(is_root.sum())


def _touching(a: NDArray[np.int64], b: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give the pairs of runs that touch, each where it begins."""
    touches = (a > 0) & (b > 0)
    touches[..., 1:] &= (a[..., 1:] != a[..., :-1]) | (b[..., 1:] != b[..., :-1])
    return a[touches], b[touches]


def _smallest(a: NDArray[np.int64], b: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Give each of `count` numbers the smallest one that is linked to it by pairs."""
    roots = np.arange(count)
    while True:
        of_a, of_b = roots[a], roots[b]
        differ = of_a != of_b
        if not differ.any():
            return roots
        a, b, of_a, of_b = a[differ], b[differ], of_a[differ], of_b[differ]
        np.minimum.at(roots, np.maximum(of_a, of_b), np.minimum(of_a, of_b))
        while np.any(roots != (above := roots[roots])):
            roots = above


def _fill_borders(
    labels: NDArray[Any], is_border: NDArray[np.bool_], words: NDArray[Any], *, is_connected_in_z: bool
) -> None:
    """Give the voxels of borders their labels, in place."""
    depth, height, width = labels.shape
    is_open = is_border.copy()
    beside = [(2, slice(1, None), slice(None, -1)), (1, slice(1, None), slice(None, -1))]
    if is_connected_in_z:
        beside.append((0, slice(1, None), slice(None, -1)))
    for axis, here, there in beside:
        at = tuple(here if index == axis else slice(None) for index in range(3))
        before = tuple(there if index == axis else slice(None) for index in range(3))
        taken = is_open[at] & ~is_border[before]
        labels[at][taken] = labels[before][taken]
        is_open[at] &= ~taken
    places = np.flatnonzero(is_open)
    codes, stated = _words(words, len(places))
    flat, flat_border = labels.reshape(-1), is_border.reshape(-1)
    is_stated = codes >= _NEXT_IS_LABEL
    flat[places[is_stated]] = stated[is_stated]
    copied, codes = places[~is_stated], codes[~is_stated].astype(np.int64)
    z, y, x = np.unravel_index(copied, labels.shape)
    distances = np.array([-1, 1, -width, width, -width * height, width * height])
    room = np.stack([x > 0, x < width - 1, y > 0, y < height - 1, z > 0, z < depth - 1])
    if not room[codes, np.arange(len(codes))].all():
        raise ValueError("it refers to voxels outside of the chunk")
    # What is copied may have been copied itself: each voxel leads back to one that was not.
    source = np.arange(flat.size)
    source[copied] = copied + distances[codes]
    is_ahead = codes % 2 == 1
    if flat_border[source[copied[is_ahead]]].any():
        raise ValueError("it refers to voxels that are not known yet")
    while np.any(source[copied] != (above := source[source[copied]])):
        source[copied] = above
    flat[copied] = flat[source[copied]]


def _words(words: NDArray[Any], count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Split the words of the borders into codes, and the labels that they state."""
    is_code = np.ones(len(words), bool)
    for at in np.flatnonzero(words == _NEXT_IS_LABEL):  # they are rare
        if is_code[at] and at + 1 < len(words):
            is_code[at + 1] = False
    places = np.flatnonzero(is_code)[:count]
    if len(places) < count or (
        count and words[places[-1]] == _NEXT_IS_LABEL and places[-1] + 1 >= len(words)
    ):
        raise ValueError("its words for borders are cut short")
    codes = words[places]
    follows = codes == _NEXT_IS_LABEL
    stated = codes - codes.dtype.type(_FIRST_LABEL)
    stated[follows] = words[places[follows] + 1]
    return codes, stated
