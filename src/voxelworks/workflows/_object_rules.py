"""Choose, by labelled boxes, how a network's predictions become objects: at which necks they are parted, and what is
too small to be one.

What is one object is told by the labels: nuclei that touch are two, and a mitochondrion with a waist is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxelworks.geometry import VoxelSize
from voxelworks.ops import evaluation, fragments
from voxelworks.protocol.models import PostProcessing
from voxelworks.workflows._fragments import SMOOTHING, Rules
from voxelworks.workflows._heights import raised, smoothing

if TYPE_CHECKING:
    from voxelworks.ai.training import LabelledBox

_SEED_SHARE = 0.2
"""Of the distance that is told as 1, the typical radius: so far inside of an object its middle lies at least."""
_DEPTH_SHARES = (0.25, 0.4, 0.6, 0.8, 1.0)
"""Of that distance: objects are parted at necks that are thinner by this. The first is the usual one."""
_SIZE_SHARES = (0.02, 0.1)
"""Of a ball with this radius: what is smaller is taken for noise."""
_VOXELS_MAX = 8_000_000
"""Of all boxes together."""
_OBJECTS_MIN = 10
"""Fewer say too little, and the first rules stay."""
_GAIN_MIN = 0.01
"""What F1 gains at least by other rules than the first."""


@dataclass(frozen=True)
class Choice:
    """The rules that are best for the labels, and how much better than the first they are."""

    rules: PostProcessing
    f1: float
    first_f1: float
    objects: int


def usual_rules(radius_nm: float) -> PostProcessing:
    """Give the rules for objects of a typical radius, of which nothing else is known."""
    rules = PostProcessing(seed_distance_nm=_SEED_SHARE * radius_nm)
    return _with(rules, radius_nm, _DEPTH_SHARES[0], _SIZE_SHARES[0])


def _with(rules: PostProcessing, radius_nm: float, depth_share: float, size_share: float) -> PostProcessing:
    return rules.model_copy(
        update={"min_depth_nm": depth_share * radius_nm, "size_min_nm3": size_share * 4.19 * radius_nm**3}
    )


def choose_rules(
    boxes: Sequence[LabelledBox],
    predict: Callable[[NDArray[np.float32]], NDArray[np.uint8]],
    first: PostProcessing,
    radius_nm: float,
    voxel_size: VoxelSize,
) -> Choice:
    """Choose the rules with the best F1 (intersection over union above 0.5) of objects in labelled boxes.

    Parameters
    ----------
    boxes
        Also those that were learned from: it is the shape of objects that is asked for, not how well they are found.
    predict : callable
        Gives the predictions (2, z, y, x) uint8, foreground and distance, for an image (c, z, y, x).
    first
        The rules that stay if no others are better.
    radius_nm
        The distance from the surface that is told as 1.
    voxel_size
        Of the network.
    """
    parts = [_Trees.of(part, predict(part.image), first, voxel_size) for part in _parts(boxes)]
    objects = sum(part.object_count for part in parts)
    before = _f1(parts, first, radius_nm, voxel_size)
    best, best_f1 = first, before
    if objects >= _OBJECTS_MIN:
        for depth_share, size_share in product(_DEPTH_SHARES, _SIZE_SHARES):
            rules = _with(first, radius_nm, depth_share, size_share)
            found = _f1(parts, rules, radius_nm, voxel_size)
            # The shallowest and smallest that is as good: it drops and joins least.
            if found > max(best_f1, before + _GAIN_MIN):
                best, best_f1 = rules, found
    return Choice(best, best_f1, before, objects)


@dataclass(frozen=True)
class _Trees:
    """What climbs to the same tops in a box, and how it overlaps with the labels."""

    saddles: NDArray[Any]
    heights: NDArray[np.uint16]
    sizes: NDArray[np.int64]
    overlaps: NDArray[Any]
    object_count: int

    @classmethod
    def of(
        cls, box: LabelledBox, values: NDArray[np.uint8], rules: PostProcessing, voxel_size: VoxelSize
    ) -> _Trees:
        threshold = math.ceil(rules.threshold * 255 - 1e-9)
        passes = smoothing(voxel_size, SMOOTHING)
        smoothed = fragments.smooth(
            np.pad(raised(values[1]), [(by, by) for by in passes], mode="edge"), passes
        )
        heights = np.where(values[0] >= threshold, smoothed, np.uint16(0))
        numbers, trees = fragments.climb(np.pad(heights, 1), (0, 0, 0), heights.shape)
        return cls(
            fragments.highest_ways(fragments.find_saddles(numbers, heights)),
            np.r_[np.uint16(0), trees["height"]],
            np.r_[np.int64(0), trees["count"]],
            evaluation.count_overlaps(numbers, box.labels),
            int(np.count_nonzero(np.unique(box.labels))),
        )

    def overlaps_with(self, rules: Rules) -> NDArray[Any]:
        """Give how the objects that rules make overlap with the labels."""
        roots, _, is_kept = rules.apply(self.saddles, self.heights, self.sizes)
        found = self.overlaps.copy()
        owners = roots[found["segment"].astype(np.int64)]
        found["segment"] = np.where(is_kept[owners], owners, 0)
        pairs, places = np.unique(found[["segment", "truth"]], return_inverse=True)
        merged = np.empty(len(pairs), evaluation.OVERLAP)
        merged["segment"], merged["truth"] = pairs["segment"], pairs["truth"]
        merged["count"] = np.bincount(places, found["count"], len(pairs)).astype(np.int64)
        return merged


def _f1(parts: Sequence[_Trees], rules: PostProcessing, radius_nm: float, voxel_size: VoxelSize) -> float:
    applied = Rules.for_objects(rules, radius_nm, voxel_size)
    hits = wrong = missed = 0
    for part in parts:
        found = evaluation.count_matches(part.overlaps_with(applied))
        hits, wrong, missed = (sum(pair) for pair in zip((hits, wrong, missed), found, strict=True))
    return 2 * hits / max(1, 2 * hits + wrong + missed)


def _parts(boxes: Sequence[LabelledBox]) -> list[LabelledBox]:
    """Give the boxes, or the middle of each where they are larger than is needed."""
    share = min(1.0, _VOXELS_MAX / sum(box.labels.size for box in boxes))
    found = []
    for box in boxes:
        where = []
        for length in box.labels.shape:
            kept = max(1, int(length * share ** (1 / 3)))
            where.append(slice((length - kept) // 2, (length - kept) // 2 + kept))
        z, y, x = where
        found.append(replace(box, image=box.image[:, z, y, x], labels=box.labels[z, y, x]))
    return found
