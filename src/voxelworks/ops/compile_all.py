"""``python -m voxelworks.ops.compile_all``: compile every function for every type of voxel, and keep the result."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from itertools import product
from typing import get_args

import numpy as np

from voxelworks.errors import UnsupportedDtype
from voxelworks.ops import segments
from voxelworks.ops.downsampling import Method, downsample
from voxelworks.ops.relabelling import replace_labels

DTYPES = (
    "uint8", "uint16", "uint32", "uint64", "float32", "int8", "int16", "int32", "int64", "float64",
)  # fmt: skip
"""Most frequent first: whoever comes while this runs finds these."""

LABEL_DTYPES = ("uint8", "uint16", "uint32", "uint64")
"""Ids without a sign; those with one are looked at as such."""


def compile_all(*, may_go_on: Callable[[], bool] = lambda: True) -> None:
    for dtype, method in product(DTYPES, get_args(Method)):
        if not may_go_on():
            sys.exit("whoever wanted it has ended")
        try:
            downsample(np.zeros((2, 2, 2), dtype), (2, 2, 2), method)
        except UnsupportedDtype:
            continue
    for dtype in DTYPES:
        if not may_go_on():
            sys.exit("whoever wanted it has ended")
        # With the voxels beside it, a block is a part of an array, which is another type than a whole one.
        labels = np.zeros((3, 3, 3), dtype if dtype in LABEL_DTYPES else np.uint32)
        values = np.zeros((2, 2, 2), dtype)
        segments.find_in_buckets(labels, (0, 0, 0), 32)
        segments.measure(
            labels, segments.lattice_of((1.0, 1.0, 1.0)), before_zyx=(0, 0, 0), origin_zyx=(0, 0, 0),
            values=[((0, 0, 0), values)],
        )  # fmt: skip
        if np.dtype(dtype).kind in "iu":
            replace_labels(np.zeros(1, dtype), np.ones(1, dtype), np.ones(1, dtype))
    import voxelworks.ops.warm_fragments  # noqa: F401  # of one type each


if __name__ == "__main__":
    os.nice(10)  # never urgent: a job that needs a function before it is there compiles it for itself
    parent = os.getppid()
    compile_all(may_go_on=lambda: os.getppid() == parent)
