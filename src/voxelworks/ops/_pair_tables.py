"""Tables of pairs of fragments, which a block is gone through for: brick by brick, and in a brick row by row.

Most pairs of neighbouring voxels are of one fragment, and where they are not, the same two fragments mostly meet for
some voxels along x. So a row is first turned into keys, without branches, then into runs of equal keys, and each run
is looked up once. Pairs of a brick are noted in a *near* table, which fits into the cache: a key stands beside its
values, in one line of it. What that holds is carried over to the *far* table when a brick is done.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxelworks.ops._compile import compiled, inlined
from voxelworks.ops._segment_loops import slot_of

BRICK = 32
"""Edge of what is looked at together; along x it is twice as long."""
ROW = 2 * BRICK
NEAR_SLOTS = 2**14
"""A power of two. A table that is more than half full is emptied after the row."""

Ids: TypeAlias = NDArray[np.uint32]
Keys: TypeAlias = NDArray[np.uint64]
Values: TypeAlias = NDArray[np.int64]


@inlined
def pair_key(a: Any, b: Any) -> Any:
    """Make one number of two ids, the smaller in the upper bits."""
    return (np.uint64(min(a, b)) << np.uint64(32)) | np.uint64(max(a, b))


@compiled
def pair_keys(own: Ids, other: Ids, keys: Keys) -> None:
    """Give the key of each two ids of equally long rows; 0 where they are equal, or one is 0."""
    for x in range(np.uint32(own.size)):  # without a sign: compiled for vector units
        a, b = own[x], other[x]
        keys[x] = np.uint64(0) if (a == b) | (min(a, b) == 0) else pair_key(a, b)


@compiled
def near_table(columns: int) -> Values:
    """Make a near table (slots, 1 + columns): key, and values; a key of 0 is an empty slot."""
    return np.zeros((NEAR_SLOTS, 1 + columns), np.int64)


@inlined
def near_slot(near: Values, key: Any) -> Any:
    """Find the slot of a key, or the empty one where it belongs."""
    slot = slot_of(key, NEAR_SLOTS)
    while near[slot, 0] != 0 and near[slot, 0] != np.int64(key):
        slot = (slot + 1) & (NEAR_SLOTS - 1)
    return slot


@compiled
def far_table(columns: int) -> tuple[Keys, NDArray[np.int64], Keys, Values]:
    """Make a far table: the slots, with keys and the places of these; and by place, keys and values."""
    size = 2 * NEAR_SLOTS
    keys, places = np.zeros(size, np.uint64), np.zeros(size, np.int64)
    return keys, places, np.zeros(size // 2, np.uint64), np.zeros((size // 2, columns), np.int64)


@compiled
def carry_over(
    near: Values,
    keys: Keys,
    places: NDArray[np.int64],
    found: Keys,
    values: Values,
    used: int,
    keeps_largest: bool,
) -> tuple[Keys, NDArray[np.int64], Keys, Values, int]:
    """Empty the near table into the far one, which grows where it must. Values are added, or the larger one is kept."""
    columns = values.shape[1]
    for row in range(near.shape[0]):
        if near[row, 0] == 0:
            continue
        if 2 * used + 2 > keys.size:
            size = 2 * keys.size
            more, more_values = np.zeros(size // 2, np.uint64), np.zeros((size // 2, columns), np.int64)
            more[:used], more_values[:used] = found[:used], values[:used]
            keys, places = _rehash(found, used, size)
            found, values = more, more_values
        key = np.uint64(near[row, 0])
        slot = slot_of(key, keys.size)
        while keys[slot] != 0 and keys[slot] != key:
            slot = (slot + 1) & (keys.size - 1)
        if keys[slot] == 0:
            keys[slot], places[slot], found[used] = key, used, key
            used += 1
        place = places[slot]
        near[row, 0] = 0
        for column in range(columns):
            value = near[row, 1 + column]
            near[row, 1 + column] = 0
            if keeps_largest:
                values[place, column] = max(values[place, column], value)
            else:
                values[place, column] += value
    return keys, places, found, values, used


@compiled
def _rehash(found: Keys, used: int, size: int) -> tuple[Keys, NDArray[np.int64]]:
    """Make the slots for the first `used` keys anew."""
    keys, places = np.zeros(size, np.uint64), np.zeros(size, np.int64)
    for number in range(used):
        slot = slot_of(found[number], size)
        while keys[slot] != 0:
            slot = (slot + 1) & (size - 1)
        keys[slot], places[slot] = found[number], number
    return keys, places
