"""How often random tests repeat: a little in every run, long when asked."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")


def rounds(short: T, long: T) -> T:
    """Choose how often, or what, to repeat: `long` if the environment sets VOXELWORKS_TEST_LONG.

    With VOXELWORKS_TEST_BRIEF, which mutation tests set, a number that is `short` becomes a fiftieth of it.
    """
    if os.environ.get("VOXELWORKS_TEST_LONG"):
        return long
    if os.environ.get("VOXELWORKS_TEST_BRIEF") and isinstance(short, int) and not isinstance(short, bool):
        return type(short)(max(1, short // 50))
    return short
