"""Shrink volumes: mean, median and mode over windows of up to 2 x 2 x 2 voxels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from voxelworks.errors import InvalidGeometry, InvalidParams, UnsupportedDtype
from voxelworks.geometry import Zyx
from voxelworks.ops import _windows

Method = Literal["mean", "median", "mode"]


def downsample(array: NDArray[Any], factor_zyx: Zyx, method: Method) -> NDArray[Any]:
    """Shrink a volume by 1 or 2 along each axis.

    At an odd border the window holds the voxels that exist, so the size is rounded up and no value is
    invented.

    Parameters
    ----------
    array : (c, z, y, x) or (z, y, x) integers or floats of up to 64 bits
        Channels are shrunk one by one.
    factor_zyx : (z, y, x)
        1 or 2 for each axis.
    method : "mean", "median" or "mode"
        - ``mean``: of integers exact and rounded half up (towards plus infinity); floats are added in double
          precision.
        - ``median``: of two middle values the mean, of integers rounded down, as WEBKNOSSOS does.
        - ``mode``: the most frequent value. Of equally frequent ones the smallest that is not 0, so that thin
          objects survive beside the background. Exact for all integers; not for floats.

        Floats: a window with a NaN gives NaN.

    Returns
    -------
    array of the same type and number of axes, C order
        Shape ``ceil(n / factor)``. Shares memory with `array` if all factors are 1 and that is in C order.

    Raises
    ------
    InvalidGeometry
        If a factor is not 1 or 2, or the array has neither 3 nor 4 axes.
    InvalidParams
        If there is no such method.
    UnsupportedDtype
        If the method cannot be applied to values of this type.
    """
    loop = _loop_for(array.dtype, method)
    if not set(factor_zyx) <= {1, 2}:
        raise InvalidGeometry(f"factor {factor_zyx} (z, y, x): each part must be 1 or 2")
    if array.ndim not in (3, 4):
        raise InvalidGeometry(
            f"an array of {array.ndim} axes cannot be shrunk; it needs z, y, x or c, z, y, x"
        )
    source = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    if factor_zyx == (1, 1, 1):
        return source
    channels = source if source.ndim == 4 else source[np.newaxis]
    shape = [-(-extent // factor) for extent, factor in zip(source.shape[-3:], factor_zyx, strict=True)]
    target: NDArray[Any] = np.empty((len(channels), *shape), source.dtype)
    for channel, shrunk in zip(channels, target, strict=True):
        loop(channel, shrunk, *factor_zyx)
    return target.reshape(*source.shape[:-3], *shape)


def pyramid(array: NDArray[Any], factors_zyx: Sequence[Zyx], method: Method) -> list[NDArray[Any]]:
    """Shrink a volume step by step: each level is made from the one before.

    Parameters
    ----------
    array : (c, z, y, x) or (z, y, x)
        The finest level; it is not part of the result.
    factors_zyx : sequence of (z, y, x)
        Factor from each level to the next.
    method : "mean", "median" or "mode"
        As in `downsample`.

    Returns
    -------
    list of arrays
        Finest first.
    """
    levels: list[NDArray[Any]] = []
    for factor in factors_zyx:
        array = downsample(array, factor, method)
        levels.append(array)
    return levels


def _loop_for(dtype: np.dtype[Any], method: Method) -> Callable[..., None]:
    if method not in get_args(Method):
        raise InvalidParams(f"there is no downsampling method {method!r}; use {', '.join(get_args(Method))}")
    is_integer, is_float = dtype.kind in "iu", dtype.kind == "f" and dtype.itemsize in (4, 8)
    if not (is_integer or is_float) or (is_float and method == "mode"):
        raise UnsupportedDtype(
            f"the {method} of {dtype} cannot be taken; use {'mean' if is_float else 'integers'}"
        )
    if method == "mode":
        return _windows.mode_of_integers
    if method == "median":
        return _windows.median_of_floats if is_float else _windows.median_of_integers
    if is_float:
        return _windows.mean_of_floats
    return _windows.mean_of_long_integers if dtype.itemsize == 8 else _windows.mean_of_integers
