"""Probabilities as bytes."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from voxelworks.ops._compile import compiled


def to_bytes(values: NDArray[np.float32], found: NDArray[np.uint8]) -> bool:
    """Turn probabilities into bytes: 1 becomes 255; what is beyond 0 and 1 is cut off.

    Parameters
    ----------
    values : (z, y, x) float32
    found : (z, y, x) uint8
        Where they go.

    Returns
    -------
    bool
        False if a value is not a number, or not finite.
    """
    return cast(bool, _to_bytes(values, found))


@compiled
def _to_bytes(values: NDArray[np.float32], found: NDArray[np.uint8]) -> Any:
    is_finite = True
    depth, height, width = values.shape
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                value = values[z, y, x]
                # The difference is 0 for finite numbers alone.
                is_finite &= value - value == 0
                value = min(max(value, np.float32(0)), np.float32(1))
                found[z, y, x] = np.uint8(np.rint(value * np.float32(255)))
    return is_finite
