"""Like `warm`, for blocks of segmentations with networks: loads their compiled functions."""

import numpy as np

from voxelworks.ops import agglomeration, fragments, probabilities, region_graph

_OFFSETS = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 2)]
_VALUES = np.zeros((4, 6, 6, 6), np.uint8)
_VALUES[:, ::2] = 9

probabilities.to_bytes(np.zeros((4, 4, 4), np.float32)[1:-1, 1:-1, 1:-1], np.zeros((2, 2, 2), np.uint8))
_heights = np.ascontiguousarray(fragments.affinity_heights(_VALUES, np.array(_OFFSETS)))
fragments.smooth(_heights, (1, 1, 1))
fragments.smooth(_heights, (0, 1, 1))
_numbers, _trees = fragments.climb(_heights, (0, 0, 0), (4, 4, 4))
_saddles = fragments.find_saddles(_numbers, np.ascontiguousarray(_heights[1:-1, 1:-1, 1:-1]))
fragments.highest_ways(_saddles)
_count = len(_trees)
_roots = fragments.merge_by_depth(_saddles, np.ones(_count + 1, np.uint16), 1, 0)
fragments.add_at(np.zeros(_count + 1, np.int64), _roots, np.ones(_count + 1, np.int64))
fragments.add_at(np.zeros(_count + 1, np.int64), _roots.astype(np.uint32), np.ones(_count + 1, np.int64))
_pairs = region_graph.add_affinities(_numbers, _VALUES[:, 1:-1, 1:-1, 1:-1], _OFFSETS, (0, 0, 0))
_joins = agglomeration.agglomerate(_pairs, _count)
agglomeration.cut(_joins, np.ones(_count + 1, np.int64), threshold=0.5)
