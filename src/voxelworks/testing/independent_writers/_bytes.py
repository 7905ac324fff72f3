"""What several formats have in common: the order of bytes, and pixels as bytes."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

ByteOrder = Literal["little", "big"]


def pixel_bytes(pixels: NDArray[Any], order: str) -> bytes:
    if pixels.dtype == bool:
        return np.packbits(pixels.reshape(pixels.shape[0], -1), axis=1).tobytes()
    return pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()  # type: ignore[arg-type]
