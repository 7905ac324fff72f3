"""Loaded by fork servers: calls a compiled function once, so that the processes forked from it need not.

The first call sets up numba's registries, 0.3 s of work that every process would otherwise repeat.
"""

import numpy as np

from voxelworks.ops.downsampling import downsample

downsample(np.zeros((1, 1, 1), np.uint8), (2, 2, 2), "mean")
