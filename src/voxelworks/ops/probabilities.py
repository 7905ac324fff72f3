"""Probabilities as bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxelworks.ops._compile import compiled


def to_bytes(values: NDArray[np.float32]) -> NDArray[np.uint8] | None:
    """Turn probabilities into bytes: 1 becomes 255; what is beyond 0 and 1 is cut off.

    Parameters
    ----------
    values : (c, z, y, x) float32

    Returns
    -------
    (c, z, y, x) uint8 or None
        None if a value is not a number, or not finite.
    """
    found = np.empty(values.shape, np.uint8)
    return found if _to_bytes(values, found) else None


@compiled
def _to_bytes(values: NDArray[np.float32], found: NDArray[np.uint8]) -> Any:
    is_finite = True
    channels, depth, height, width = values.shape
    for channel in range(channels):
        for z in range(depth):
            for y in range(height):
                for x in range(width):
                    value = values[channel, z, y, x]
                    # The difference is 0 for finite numbers alone.
                    is_finite &= value - value == 0
                    value = min(max(value, np.float32(0)), np.float32(1))
                    found[channel, z, y, x] = np.uint8(np.rint(value * np.float32(255)))
    return is_finite
