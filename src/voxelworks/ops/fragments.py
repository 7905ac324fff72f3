"""Fragments of a volume of heights: what climbs to the same top, the same however the volume is cut into blocks.

Voxels are ordered by height, equal ones by their position in the volume (z, y, x). Each points to the greatest of
itself and its six neighbours in this order. Following these pointers, each reaches a *top*, a voxel greater than all
its neighbours; voxels that reach the same one are a fragment (a catchment basin of the watershed by steepest ascent).
Where a voxel points depends on nothing but its neighbours, so blocks with one voxel around them give what the whole
volume gives: within a block, pointers lead to *trees*, which end in a top or leave the block through a face and go on
in the tree of the voxel beyond. Six neighbours, not 26: through corners fragments would leak across thin membranes, and
would not always be connected through faces, by which it is told what touches.

Heights are unsigned 16-bit numbers. 0 is outside of all fragments, and 1 the lowest height of the others.

References
----------
Cousty, J., Bertrand, G., Najman, L., Couprie, M. (2009). Watershed cuts: minimum spanning forests and the drop of water
principle. IEEE Transactions on Pattern Analysis and Machine Intelligence 31(8), 1362-1374.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxelworks.geometry import Zyx
from voxelworks.ops import _pair_tables as tables
from voxelworks.ops._compile import compiled
from voxelworks.ops._pair_tables import BRICK, NEAR_SLOTS, ROW

HEIGHT_OF_ONE = 255 * 256
"""What a prediction of 1 (a byte of 255) is higher than one of 0."""
TREE = np.dtype([("top", "<i8"), ("count", "<i8"), ("place", "<i4"), ("height", "<u2"), ("face", "i1")])
"""A tree of a block: where its top lies in the volume, its voxels, the height of the top; or, if it leaves the block,
`face` from 0 to 5, and where on that face (flat). A top has face -1, and what leaves has top -1."""
SADDLE = np.dtype([("a", "<u4"), ("b", "<u4"), ("height", "<u2")])
"""Two that touch, a < b, and the highest way from one to the other: the greatest minimum of two touching voxels."""
FACE = np.dtype([("number", "<u4"), ("height", "<u2")])
"""A voxel on a face of a block: number of its tree, and its height."""
FACES = 6
"""In the order -z, -y, -x, x, y, z: face `5 - n` lies opposite to face `n`."""

Heights = NDArray[np.uint16]
Numbers = NDArray[np.uint32]
Rows = NDArray[Any]


def climb(heights: Heights, start_zyx: Zyx, volume_zyx: Zyx) -> tuple[Numbers, Rows]:
    """Find the trees of a block.

    Parameters
    ----------
    heights : (z + 2, y + 2, x + 2) uint16
        The block and one voxel around it; 0 beyond the volume.
    start_zyx : (z, y, x)
        Where the block begins in the volume.
    volume_zyx : (z, y, x)
        Size of the volume.

    Returns
    -------
    numbers : (z, y, x) uint32
        Of the tree of each voxel, from 1 on; 0 where the height is 0.
    trees : (n,) TREE
    """
    shape = tuple(extent - 2 for extent in heights.shape)
    numbers = np.zeros(shape, np.uint32)
    towards = np.empty(shape, np.int8)
    count = _point(heights, towards, numbers)
    trees = np.empty(count, TREE)
    tops, faces = np.full(count, -1, np.int64), np.full(count, -1, np.int8)
    places, top_heights = np.zeros(count, np.int32), np.zeros(count, np.uint16)
    sizes = np.zeros(count, np.int64)
    start, volume = np.array(start_zyx, np.int64), np.array(volume_zyx, np.int64)
    _root(heights, towards, numbers, start, volume, tops, places, top_heights, faces)
    _follow(towards, numbers, sizes)
    trees["top"], trees["count"], trees["place"] = tops, sizes, places
    trees["height"], trees["face"] = top_heights, faces
    return numbers, trees


_TOP, _OUTSIDE, _LEAVES = 6, 7, 8
"""Where a voxel points: 0 to 5, as faces are numbered; to itself; nowhere; and `_LEAVES` + face out of the block."""


@compiled
def _point(heights: Heights, towards: NDArray[np.int8], numbers: Numbers) -> int:
    """Find where each voxel points. Voxels at which trees end get their numbers; returns how many there are."""
    depth, height, width = towards.shape
    count = 0
    for z in range(depth):
        for y in range(height):
            own = heights[z + 1, y + 1]
            below, above = heights[z, y + 1], heights[z + 2, y + 1]
            before, behind = heights[z + 1, y], heights[z + 1, y + 2]
            for x in range(width):
                value = own[x + 1]
                if value == 0:
                    towards[z, y, x] = _OUTSIDE
                    continue
                # In the order of positions: of equal heights the later one is the greater.
                best, to = below[x + 1], 0
                if before[x + 1] >= best:
                    best, to = before[x + 1], 1
                if own[x] >= best:
                    best, to = own[x], 2
                if value >= best:
                    best, to = value, _TOP
                if own[x + 2] >= best:
                    best, to = own[x + 2], 3
                if behind[x + 1] >= best:
                    best, to = behind[x + 1], 4
                if above[x + 1] >= best:
                    best, to = above[x + 1], 5
                if (
                    (to == 0 and z == 0) or (to == 5 and z == depth - 1) or (to == 1 and y == 0)
                    or (to == 4 and y == height - 1) or (to == 2 and x == 0) or (to == 3 and x == width - 1)
                ):  # fmt: skip
                    to += _LEAVES
                towards[z, y, x] = to
                if to >= _TOP:
                    count += 1
                    numbers[z, y, x] = count
    return count


@compiled
def _root(
    heights: Heights,
    towards: NDArray[np.int8],
    numbers: Numbers,
    start: NDArray[np.int64],
    volume: NDArray[np.int64],
    tops: NDArray[np.int64],
    places: NDArray[np.int32],
    top_heights: NDArray[np.uint16],
    faces: NDArray[np.int8],
) -> None:
    """Note where trees end."""
    depth, height, width = towards.shape
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                to = towards[z, y, x]
                if to == _TOP:
                    tree = numbers[z, y, x] - 1
                    tops[tree] = ((z + start[0]) * volume[1] + y + start[1]) * volume[2] + x + start[2]
                    top_heights[tree] = heights[z + 1, y + 1, x + 1]
                elif to >= _LEAVES:
                    tree, face = numbers[z, y, x] - 1, to - _LEAVES
                    faces[tree] = face
                    if face == 0 or face == 5:
                        places[tree] = y * width + x
                    elif face == 1 or face == 4:
                        places[tree] = z * width + x
                    else:
                        places[tree] = z * height + y


@compiled
def _follow(towards: NDArray[np.int8], numbers: Numbers, sizes: NDArray[np.int64]) -> None:
    """Give all voxels the number of the tree that they reach, and count them. Each voxel is passed twice at most."""
    steps = np.zeros(8, np.int64)
    plane = towards.shape[1] * towards.shape[2]
    steps[0], steps[1], steps[2] = -plane, -towards.shape[2], -1
    steps[3], steps[4], steps[5] = 1, towards.shape[2], plane
    to, flat = towards.ravel(), numbers.ravel()
    for first in range(flat.size):
        if to[first] == _OUTSIDE:
            continue
        voxel = first
        while flat[voxel] == 0:
            voxel += steps[to[voxel]]
        number = flat[voxel]
        voxel = first
        while flat[voxel] == 0:
            flat[voxel] = number
            voxel += steps[to[voxel]]
        sizes[number - 1] += 1


def find_saddles(numbers: Numbers, heights: Heights) -> Rows:
    """Find which trees of a block touch, and how high.

    Parameters
    ----------
    numbers : (z, y, x) uint32
    heights : (z, y, x) uint16
        Of the same voxels.

    Returns
    -------
    (n,) SADDLE
        Each pair once.
    """
    keys, found = _find_saddles(numbers, heights)
    return _saddles(keys, found)


def faces_of(block: NDArray[Any]) -> list[NDArray[Any]]:
    """Give the voxels on the six faces of a block (z, y, x), flat."""
    sides = (block[0], block[:, 0], block[:, :, 0], block[:, :, -1], block[:, -1], block[-1])
    return [side.reshape(-1) for side in sides]


def join_faces(ids: Numbers, heights: Heights, other_ids: Numbers, other_heights: Heights) -> Rows:
    """Find what touches across two faces that lie on each other.

    Parameters
    ----------
    ids, other_ids : (n,) uint32
        Of the fragments on either side.
    heights, other_heights : (n,) uint16

    Returns
    -------
    (m,) SADDLE
    """
    touches = (ids != 0) & (other_ids != 0) & (ids != other_ids)
    rows = np.empty(np.count_nonzero(touches), SADDLE)
    rows["a"] = np.minimum(ids, other_ids)[touches]
    rows["b"] = np.maximum(ids, other_ids)[touches]
    rows["height"] = np.minimum(heights, other_heights)[touches]
    return rows


def rename(saddles: Rows, ids: Numbers) -> Rows:
    """Give saddles between trees as those between their fragments, `ids` by number; what is within one is left out."""
    a, b = ids[saddles["a"]], ids[saddles["b"]]
    differs = a != b
    rows = np.empty(np.count_nonzero(differs), SADDLE)
    rows["a"], rows["b"] = np.minimum(a, b)[differs], np.maximum(a, b)[differs]
    rows["height"] = saddles["height"][differs]
    return rows


def highest_ways(saddles: Rows) -> Rows:
    """Leave out saddles that no highest way between two fragments needs: those not in a maximum spanning forest.

    Equal heights are ordered by ids. `merge_by_depth` gives the same with the rest alone: where two are connected by
    higher saddles that did not join them, a lower one does not join them either.

    Parameters
    ----------
    saddles : (n,) SADDLE
        Of any order; pairs may repeat.

    Returns
    -------
    (m,) SADDLE
        Highest first; of each part of the graph, one less than it has fragments.
    """
    saddles = saddles[_descending(saddles)]
    ids, places = np.unique(np.r_[saddles["a"], saddles["b"]], return_inverse=True)
    first, second = places[: len(saddles)], places[len(saddles) :]
    found: Rows = saddles[_spanning(np.arange(len(ids)), first, second)]
    return found


def merge_by_depth(saddles: Rows, heights: Heights, depth: int, height_min: int) -> NDArray[np.int64]:
    """Join fragments that are hardly higher than the way to a higher neighbour, and those that are low.

    Saddles are taken from the highest to the lowest, equal ones by their ids. What lies on both sides is joined if the
    lower of both tops is less than `depth` above the saddle, or lower than `height_min`. So each low one joins the
    neighbour to which the way is highest.

    Parameters
    ----------
    saddles : (m,) SADDLE
    heights : (n + 1,) uint16
        Of the top of each fragment, by id.
    depth : int
        At least 1: parts of a plateau always belong together.
    height_min : int
        0 if a top may be as low as it likes.

    Returns
    -------
    (n + 1,) int64
        The fragment with the highest top of those that each is joined with.

    References
    ----------
    Najman, L., Schmitt, M. (1996). Geodesic saliency of watershed contours and hierarchical segmentation. IEEE
    Transactions on Pattern Analysis and Machine Intelligence 18(12), 1163-1173.
    """
    assert depth >= 1
    roots = np.arange(len(heights))
    order = _descending(saddles)
    _merge(
        roots, np.ascontiguousarray(saddles["a"]), np.ascontiguousarray(saddles["b"]),
        np.ascontiguousarray(saddles["height"]), order, np.asarray(heights, np.int64), depth, height_min,
    )  # fmt: skip
    resolve(roots)
    return roots


@compiled
def resolve(parents: NDArray[np.int64]) -> None:
    """Replace pointers (n,), which lead to one that points to itself, by where they lead."""
    for first in range(parents.size):
        root = first
        while parents[root] != root:
            root = parents[root]
        place = first
        while place != root:
            following = parents[place]
            parents[place] = root
            place = following


@compiled
def add_at(totals: NDArray[np.int64], places: NDArray[Any], values: NDArray[np.int64]) -> None:
    """Add values (n,) to the totals at their places."""
    for number in range(places.size):
        totals[places[number]] += values[number]


def affinity_heights(affinities: NDArray[np.uint8], offsets: NDArray[np.int64]) -> Heights:
    """Give how well each voxel belongs together with its direct neighbours: the mean affinity in all directions.

    Parameters
    ----------
    affinities : (c, z, y, x) uint8
        Of each voxel v and v + offset. Pairs with a voxel outside of the array do not count.
    offsets : (c, 3) int
        z, y, x, of direct neighbours; channels with other offsets are left out.

    Returns
    -------
    (z, y, x) uint16
        From 1 to 1 + `HEIGHT_OF_ONE`.
    """
    near = np.flatnonzero(np.abs(offsets).sum(axis=1) == 1)
    sums, counts = np.zeros(affinities.shape[1:], np.uint16), np.zeros(affinities.shape[1:], np.uint8)
    for channel in near:
        back, ahead = _pair_slices(offsets[channel], affinities.shape[1:])
        values = affinities[channel][back]
        for side in (back, ahead):
            sums[side] += values
            counts[side] += 1
    return _means(sums, counts)


def _pair_slices(
    offset: NDArray[np.int64], shape: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Give where v and where v + offset lie, for all pairs inside an array."""
    back = tuple(
        slice(max(0, -step), extent - max(0, step)) for step, extent in zip(offset, shape, strict=True)
    )
    ahead = tuple(
        slice(max(0, step), extent - max(0, -step)) for step, extent in zip(offset, shape, strict=True)
    )
    return back, ahead


@compiled
def _means(sums: NDArray[np.uint16], counts: NDArray[np.uint8]) -> Heights:
    heights = np.empty(sums.shape, np.uint16)
    flat, total, amount = heights.ravel(), sums.ravel(), counts.ravel()
    for voxel in range(flat.size):
        count = max(1, amount[voxel])
        flat[voxel] = 1 + (256 * np.int64(total[voxel]) + count // 2) // count
    return heights


def smooth(heights: Heights, passes_zyx: Zyx) -> Heights:
    """Average heights with their neighbours along each axis, in weights 1, 2, 1, so and so often; in whole numbers.

    Parameters
    ----------
    heights : (z, y, x) uint16
    passes_zyx : (z, y, x)
        How often along each axis; n times is nearly a Gaussian with a variance of n / 2 voxels.

    Returns
    -------
    (z - 2 passes, ...) uint16
        What has all neighbours: with each pass an axis becomes two voxels shorter.
    """
    for axis, passes in enumerate(passes_zyx):
        for _ in range(passes):
            length = heights.shape[axis]
            before, middle, behind = (
                heights[(slice(None),) * axis + (slice(start, length - 2 + start),)] for start in range(3)
            )
            heights = _average(before, middle, behind)
    return heights


@compiled
def _average(before: Heights, middle: Heights, behind: Heights) -> Heights:
    averaged = np.empty(middle.shape, np.uint16)
    for z in range(middle.shape[0]):
        for y in range(middle.shape[1]):
            for x in range(middle.shape[2]):
                total = (
                    np.uint32(before[z, y, x]) + 2 * np.uint32(middle[z, y, x]) + np.uint32(behind[z, y, x])
                )
                averaged[z, y, x] = (total + 2) >> 2
    return averaged


def _saddles(keys: NDArray[np.uint64], heights: NDArray[np.int64]) -> Rows:
    rows = np.empty(len(keys), SADDLE)
    rows["a"], rows["b"] = keys >> np.uint64(32), keys & np.uint64(2**32 - 1)
    rows["height"] = heights
    return rows


def _descending(saddles: Rows) -> NDArray[np.int64]:
    """Order saddles from the highest to the lowest, equal ones by ids."""
    return np.lexsort((saddles["b"], saddles["a"], -saddles["height"].astype(np.int32)))


@compiled
def _find_saddles(numbers: Numbers, heights: Heights) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Collect the pairs and their saddles; see `_pair_tables`."""
    near = tables.near_table(1)
    keys, places, found, values = tables.far_table(1)
    near_used = used = 0
    row_keys, run_keys = np.zeros(ROW, np.uint64), np.zeros(ROW + 1, np.uint64)
    saddles = np.zeros(ROW + 1, np.int64)
    depth, height, width = numbers.shape
    deep, high, wide = -(-depth // BRICK), -(-height // BRICK), -(-width // ROW)
    for brick in range(deep * high * wide):
        bz, by, bx = brick // (high * wide), brick // wide % high, brick % wide
        first = bx * ROW
        for axis in range(3):
            dz, dy, dx = int(axis == 0), int(axis == 1), int(axis == 2)
            stop = min(width - dx, first + ROW)
            for z in range(bz * BRICK, min(depth - dz, (bz + 1) * BRICK)):
                for y in range(by * BRICK, min(height - dy, (by + 1) * BRICK)):
                    own = numbers[z, y, first:stop]
                    ahead = numbers[z + dz, y + dy, first + dx : stop + dx]
                    tables.pair_keys(own, ahead, row_keys)
                    own_heights = heights[z, y, first:stop]
                    ahead_heights = heights[z + dz, y + dy, first + dx : stop + dx]
                    runs = _highest_in_runs(row_keys, own_heights, ahead_heights, run_keys, saddles)
                    for run in range(runs):
                        slot = tables.near_slot(near, run_keys[run])
                        near_used += near[slot, 0] == 0
                        near[slot, 0] = np.int64(run_keys[run])
                        near[slot, 1] = max(near[slot, 1], saddles[run])
                    if 2 * near_used > NEAR_SLOTS:
                        keys, places, found, values, used = tables.carry_over(
                            near, keys, places, found, values, used, True
                        )
                        near_used = 0
        keys, places, found, values, used = tables.carry_over(near, keys, places, found, values, used, True)
        near_used = 0
    return found[:used], values[:used, 0]


@compiled
def _highest_in_runs(
    keys: NDArray[np.uint64],
    heights: Heights,
    ahead: Heights,
    run_keys: NDArray[np.uint64],
    saddles: NDArray[np.int64],
) -> int:
    """Find the highest way over each run of equal keys in a row; give how many runs there are, without those of 0."""
    runs, last, highest = 0, np.uint64(0), 0
    for x in range(heights.size):
        if keys[x] != last:
            run_keys[runs], saddles[runs] = last, highest
            runs += last != 0
            last, highest = keys[x], 0
        highest = max(highest, min(heights[x], ahead[x]))
    run_keys[runs], saddles[runs] = last, highest
    return runs + int(last != 0)


@compiled
def root_of(parents: NDArray[np.int64], node: Any) -> Any:
    """Follow parents to the root, and halve the way for who comes next."""
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


@compiled
def _spanning(
    parents: NDArray[np.int64], first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.bool_]:
    is_kept = np.zeros(first.size, np.bool_)
    for edge in range(first.size):
        a, b = root_of(parents, first[edge]), root_of(parents, second[edge])
        if a != b:
            parents[a] = b
            is_kept[edge] = True
    return is_kept


@compiled
def _merge(
    roots: NDArray[np.int64],
    first: Numbers,
    second: Numbers,
    saddles: Heights,
    order: NDArray[np.int64],
    heights: NDArray[np.int64],
    depth: int,
    height_min: int,
) -> None:
    for edge in order:
        a, b = root_of(roots, np.int64(first[edge])), root_of(roots, np.int64(second[edge]))
        if a == b:
            continue
        if heights[a] > heights[b] or (heights[a] == heights[b] and a > b):
            a, b = b, a
        # The highest top stands for all: `a` is the lower one.
        if heights[a] < height_min or heights[a] - saddles[edge] < depth:
            roots[a] = b
