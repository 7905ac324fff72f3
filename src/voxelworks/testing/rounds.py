"""How often random tests repeat: a little in every run, long when asked."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")


def rounds(short: T, long: T) -> T:
    """Choose how often, or what, to repeat: `long` if the environment sets VOXELWORKS_TEST_LONG."""
    return long if os.environ.get("VOXELWORKS_TEST_LONG") else short
