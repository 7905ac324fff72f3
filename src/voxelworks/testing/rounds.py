"""How often random tests repeat: a little in every run, long when asked."""

from __future__ import annotations

import os


def rounds(short: int, long: int) -> int:
    """Choose a number of repetitions: `long` if the environment sets VOXELWORKS_TEST_LONG."""
    return long if os.environ.get("VOXELWORKS_TEST_LONG") else short
