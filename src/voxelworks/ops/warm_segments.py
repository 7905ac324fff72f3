"""Like `warm`, for blocks that look at segments: loads their compiled functions, for ids of 32 bits."""

import numpy as np

from voxelworks.ops import segments

_LABELS = np.ones((3, 3, 3), np.uint32)

segments.find_in_buckets(_LABELS, (0, 0, 0), 32)
segments.measure(_LABELS, segments.lattice_of((1.0, 1.0, 1.0)), before_zyx=(0, 0, 0), origin_zyx=(0, 0, 0))
