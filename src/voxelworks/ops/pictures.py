"""Pictures of slices, for people to look at: shrink, stretch the contrast, colour segments, encode as WebP."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Rgb = NDArray[np.uint8]
"""(height, width, 3), or 4 with opacity."""

_QUALITY = 80
_PERCENTILES = (0.5, 99.5)
_CHANNEL_COLORS = ((0, 255, 0), (255, 0, 255), (0, 160, 255), (255, 200, 0), (255, 60, 60), (200, 200, 200))
"""Of the channels of a layer that is not RGB; a single one is grey."""


def mean_between(values: NDArray[Any], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average the last axis between consecutive edges; voxels that an edge cuts count by their part.

    Parameters
    ----------
    values : (..., n)
    edges : (m + 1,) float
        Strictly increasing, from 0 to at most `n`, in voxels.

    Returns
    -------
    (..., m) float64
    """
    sums = np.zeros((*values.shape[:-1], values.shape[-1] + 1))
    np.cumsum(values, axis=-1, dtype=np.float64, out=sums[..., 1:])
    whole = np.minimum(np.floor(edges).astype(np.intp), values.shape[-1] - 1)
    until_edge = sums[..., whole] + (edges - whole) * values[..., whole]
    means: NDArray[np.float64] = np.diff(until_edge, axis=-1) / np.diff(edges)
    return means


def contrast_limits(values: NDArray[Any]) -> tuple[float, float]:
    """Choose what is shown black and what white, so that a few extreme voxels do not decide.

    Zeros do not count: they are what surrounds the images. One value alone is shown as middle grey.
    """
    known = values[np.isfinite(values) & (values != 0)]
    if known.size == 0:
        return 0.0, 1.0
    low, high = (float(limit) for limit in np.percentile(known, _PERCENTILES))
    if low < high:
        return low, high
    low, high = float(known.min()), float(known.max())
    return (low, high) if low < high else (low - abs(low), low + abs(low))


def image_picture(values: NDArray[np.float64], limits: list[tuple[float, float]] | None) -> Rgb:
    """Colour a slice of an image layer.

    Parameters
    ----------
    values : (c, height, width)
    limits
        What is black and what white, for each channel; None for RGB, which is shown as it is.
    """
    if limits is None:
        return _as_bytes(np.moveaxis(values, 0, -1))
    shown = np.zeros((*values.shape[1:], 3))
    colors = ((255, 255, 255),) if len(values) == 1 else _CHANNEL_COLORS
    for channel, (low, high), color in zip(values, limits, colors, strict=False):
        share = ((np.nan_to_num(channel) - low) / (high - low)).clip(0, 1)
        shown += share[..., np.newaxis] * np.array(color)
    return _as_bytes(shown)


def segment_picture(labels: NDArray[Any]) -> Rgb:
    """Colour a slice of a segmentation by a hash of the ids, (height, width) -> RGBA; 0 is transparent.

    References
    ----------
    The hash is the last step of SplitMix64: Steele, G. L., Lea, D., Flood, C. H. (2014). Fast splittable pseudorandom
    number generators. OOPSLA 2014.
    """
    ids, index = np.unique(labels, return_inverse=True)
    mixed = ids.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    hue, saturation, value = (
        (mixed >> np.uint64(shift) & np.uint64(0xFFFF)) / 65536 for shift in (0, 16, 32)
    )
    colors = np.zeros((len(ids), 4), np.uint8)
    colors[:, :3] = _rgb(hue, 0.55 + 0.4 * saturation, 0.7 + 0.3 * value)
    colors[:, 3] = 255
    colors[ids == 0] = 0
    return colors[index.reshape(labels.shape)]


def encode(picture: Rgb) -> bytes:
    """Encode as WebP: images with loss, pictures with opacity without. Equal pictures give equal bytes."""
    stream = io.BytesIO()
    is_image = picture.shape[-1] == 3
    # Labels have sharp borders, which loss would blur; they also take less room without.
    Image.fromarray(picture).save(stream, "WEBP", lossless=not is_image, quality=_QUALITY, method=4)
    return stream.getvalue()


def _rgb(hue: NDArray[Any], saturation: NDArray[Any], value: NDArray[Any]) -> NDArray[np.uint8]:
    """Turn hue, saturation and value, each of 0 to 1, (n,), into (n, 3)."""
    parts = np.array([[5.0], [3.0], [1.0]])
    sector = (parts + 6 * hue) % 6
    channels = value - value * saturation * np.minimum(sector, 4 - sector).clip(0, 1)
    return _as_bytes(255 * channels.T)


def _as_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    rounded: NDArray[np.uint8] = np.rint(values).clip(0, 255).astype(np.uint8)
    return rounded
