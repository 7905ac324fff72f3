"""Compiled functions: how they are made.

Every module with compiled functions takes the decorator `compiled` from here and imports numba in no other
way, so that all of them are kept in one folder. Compiling takes seconds, loading what was kept milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

from voxelworks.ops import cache

_F = TypeVar("_F", bound=Callable[..., Any])


def compiled(function: _F) -> _F:
    """Compile a function for each combination of types it is called with; it runs on one thread, without the GIL."""
    return cast(_F, numba.njit(cache=True, nogil=True, boundscheck=False)(function))


def inlined(function: _F) -> _F:
    """Compile a function into those that call it."""
    return cast(_F, numba.njit(inline="always", boundscheck=False)(function))


if not numba.config.CACHE_DIR:
    numba.config.CACHE_DIR = str(cache.folder())
