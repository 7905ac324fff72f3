"""How well a segmentation agrees with the truth: scores of a table of overlaps.

An *overlap* is a pair of a segment and a segment of the truth, and how many voxels they share. Everything here is
computed from all overlaps of a volume; id 0 is the background and takes part like the others, so that what is not
assigned can be counted or left out.

References
----------
Meilă, M. (2007). Comparing clusterings: an information based distance. Journal of Multivariate Analysis 98(5), 873-895.
Arganda-Carreras, I. et al. (2015). Crowdsourcing the creation of image segmentation algorithms for connectomics.
Frontiers in Neuroanatomy 9, 142.
Kirillov, A., He, K., Girshick, R., Rother, C., Dollár, P. (2019). Panoptic segmentation. CVPR, 9404-9413.
Efron, B., Tibshirani, R. J. (1993). An introduction to the bootstrap. Chapman & Hall.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

OVERLAP = np.dtype([("segment", "<u8"), ("truth", "<u8"), ("count", "<i8")])
"""A segment, a segment of the truth, and the voxels that they share."""
THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""Intersection over union that a match must exceed: 0.5 to 0.95. From 0.5 on no object matches two others."""
RESAMPLES = 500
"""How often parts or objects are drawn for an interval."""
_IOU_BINS = 1000
CONFIDENCE = 0.95
"""Of all intervals."""
_SEED = 20_260_101

Floats = NDArray[np.float64]
Overlaps = NDArray[Any]
"""Structured, `OVERLAP`, sorted by segment and truth, each pair once."""


def count_overlaps(segments: NDArray[Any], truth: NDArray[Any]) -> Overlaps:
    """Count the voxels that each segment shares with each segment of the truth.

    Parameters
    ----------
    segments, truth : (z, y, x) integers
        Of the same shape, of any integer types.

    Returns
    -------
    overlaps

    Raises
    ------
    InvalidDataset
        If an id is negative.
    """
    from voxelworks.ops.segments import number_labels

    first, ids = number_labels(segments)
    second, truth_ids = number_labels(truth)
    # 0 is no number of a pair: it would be taken for the background, and lost.
    pairs = first.astype(np.uint64) * np.uint64(len(truth_ids)) + second.astype(np.uint64) + np.uint64(1)
    numbers, found = number_labels(pairs)
    counts = np.bincount(numbers.reshape(-1), minlength=len(found))[1:]
    one, other = np.divmod(found[1:] - np.uint64(1), np.uint64(len(truth_ids)))
    overlaps = np.empty(len(counts), OVERLAP)
    overlaps["segment"], overlaps["truth"], overlaps["count"] = ids[one], truth_ids[other], counts
    return overlaps[np.lexsort((overlaps["truth"], overlaps["segment"]))]


def merge_overlaps(parts: Sequence[Overlaps]) -> Overlaps:
    """Add up the overlaps of several blocks."""
    table, place = _index(parts)
    counts = np.zeros(len(table), np.int64)
    for part, places in zip(parts, place, strict=True):
        counts[places] += part["count"]  # a part has each pair once
    table["count"] = counts
    return table


@dataclass(frozen=True)
class Interval:
    """A score, and the range in which it lies with 95 % confidence."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Matches:
    """Objects that agree: those whose intersection over union exceeds a threshold."""

    threshold: float
    true_positives: int
    false_positives: int
    """Segments that match nothing in the truth."""
    false_negatives: int
    """Segments of the truth that match nothing."""
    precision: Interval
    recall: Interval
    f1: Interval
    panoptic_quality: Interval


@dataclass(frozen=True)
class Fault:
    """What one segment, or one of the truth, adds to the variation of information, and what it overlaps with."""

    id: int
    bits: float
    voxels: int
    parts: tuple[tuple[int, int], ...]
    """Its largest overlaps: id and voxels."""


@dataclass(frozen=True)
class Scores:
    """All scores of a segmentation."""

    voxels: int
    """Voxels in which the truth says something."""
    assigned: int
    """Those of them that the segmentation gives to a segment."""
    voxelwise: dict[str, Interval]
    """See `VOXELWISE`."""
    segments: int
    """Objects, without the background."""
    truths: int
    matches: tuple[Matches, ...]
    splits: tuple[Fault, ...]
    """Segments of the truth that are split worst."""
    merges: tuple[Fault, ...]
    """Segments that merge most."""


def count_matches(overlaps: Overlaps, threshold: float = 0.5) -> tuple[int, int, int]:
    """Count the objects that match one of the truth, those that match none, and those of the truth that none matches.

    Parameters
    ----------
    overlaps
        Of the whole volume.
    threshold : float
        Intersection over union that a match must exceed, at least 0.5.
    """
    frame = _Frame.of(overlaps)
    hits = int(np.count_nonzero(frame.ious(overlaps["count"].astype(float)) > threshold))
    segments, truths = np.count_nonzero(frame.segment_ids), np.count_nonzero(frame.truth_ids)
    return hits, int(segments - hits), int(truths - hits)


VOXELWISE = (
    "voi_split", "voi_merge", "voi", "adapted_rand_error", "rand_precision", "rand_recall", "assigned_voi_split",
    "assigned_voi_merge", "assigned_voi", "assigned_adapted_rand_error", "iou", "dice",
)  # fmt: skip
"""Variation of information in bits; what begins with `assigned` is over the voxels that both give to a segment."""


def score(
    samples: Sequence[Overlaps], *, faults_max: int = 10, check: Callable[[], None] = lambda: None
) -> Scores:
    """Compute all scores.

    Parameters
    ----------
    samples
        The overlaps of the parts of the volume, which together are the volume. Intervals of voxelwise scores say how
        much these would differ if other parts had been looked at (percentile bootstrap over the parts); those of
        objects come from a bootstrap over objects.
    faults_max
        How many of the worst splits and merges to name.
    check
        Called now and then; may raise.
    """
    table, places = _index(samples)
    frame = _Frame.of(table)
    counts = np.zeros(len(table))
    for sample, place in zip(samples, places, strict=True):
        counts[place] += sample["count"]
    random = np.random.default_rng(_SEED)
    drawn: list[Floats] = []
    if len(samples) > 1:
        for _ in range(RESAMPLES):
            check()
            chosen = np.bincount(random.integers(0, len(samples), len(samples)), minlength=len(samples))
            again = np.zeros(len(table))
            for number in np.flatnonzero(chosen).tolist():
                again[places[number]] += chosen[number] * samples[number]["count"]
            drawn.append(frame.voxelwise(again))
    values = frame.voxelwise(counts)
    intervals = _intervals(values, np.array(drawn) if drawn else None)
    return Scores(
        voxels=int(counts[~frame.is_unknown].sum()),
        assigned=int(counts[~frame.is_unknown & ~frame.is_unassigned].sum()),
        voxelwise=dict(zip(VOXELWISE, intervals, strict=True)),
        segments=int(np.count_nonzero(frame.segment_ids)),
        truths=int(np.count_nonzero(frame.truth_ids)),
        matches=_match(frame, counts, random),
        splits=frame.faults(counts, faults_max, of_truth=True),
        merges=frame.faults(counts, faults_max, of_truth=False),
    )


@dataclass(frozen=True)
class _Frame:
    """The pairs of a table, by numbers."""

    segment_ids: NDArray[np.uint64]
    truth_ids: NDArray[np.uint64]
    segment: NDArray[np.int64]
    """Of each pair: index into `segment_ids`."""
    truth: NDArray[np.int64]
    is_unassigned: NDArray[np.bool_]
    """Of each pair: whether its segment is the background."""
    is_unknown: NDArray[np.bool_]

    @classmethod
    def of(cls, table: Overlaps) -> _Frame:
        segment_ids, segment = np.unique(table["segment"], return_inverse=True)
        truth_ids, truth = np.unique(table["truth"], return_inverse=True)
        return cls(segment_ids, truth_ids, segment, truth, table["segment"] == 0, table["truth"] == 0)

    def voxelwise(self, counts: Floats) -> Floats:
        """Give the scores of `VOXELWISE`; those that are not defined are NaN."""
        known = np.where(self.is_unknown, 0, counts)
        assigned = np.where(self.is_unassigned, 0, known)
        both = assigned.sum()
        either = counts.sum() - counts[self.is_unknown & self.is_unassigned].sum()
        iou = both / either if either else np.nan
        one, other = self._variation(known), self._variation(assigned)
        return np.array([*one, *self._rand(known), *other, self._rand(assigned)[0], iou, 2 * iou / (1 + iou)])

    def _variation(self, counts: Floats) -> tuple[float, float, float]:
        return variation_of_information(self.segment, self.truth, counts)

    def _rand(self, counts: Floats) -> tuple[float, float, float]:
        return adapted_rand(self.segment, self.truth, counts)

    def ious(self, counts: Floats) -> Floats:
        """Give the intersection over union of each pair of objects."""
        sizes, truth_sizes = np.bincount(self.segment, counts), np.bincount(self.truth, counts)
        pairs = np.flatnonzero(~self.is_unassigned & ~self.is_unknown & (counts > 0))
        union = sizes[self.segment[pairs]] + truth_sizes[self.truth[pairs]] - counts[pairs]
        return np.asarray(counts[pairs] / union)

    def faults(self, counts: Floats, most: int, *, of_truth: bool) -> tuple[Fault, ...]:
        """Give what each object adds to the variation of information, worst first."""
        known = np.where(self.is_unknown, 0, counts)
        owner, part = (self.truth, self.segment) if of_truth else (self.segment, self.truth)
        ids, parts = (self.truth_ids, self.segment_ids) if of_truth else (self.segment_ids, self.truth_ids)
        sizes, total = np.bincount(owner, known, len(ids)), known.sum()
        if not total:
            return ()
        with np.errstate(divide="ignore", invalid="ignore"):
            bits = np.where(known > 0, -known / total * np.log2(known / sizes[owner]), 0)
        sums = np.bincount(owner, bits, len(ids))
        found: list[Fault] = []
        sums[ids == 0] = 0
        for number in np.argsort(-sums, kind="stable")[:most]:
            if sums[number] <= 0:
                break
            own = np.flatnonzero(owner == number)
            own = own[np.argsort(-known[own], kind="stable")][:5]
            overlaps = tuple((int(parts[part[pair]]), int(known[pair])) for pair in own if known[pair])
            found.append(Fault(int(ids[number]), float(sums[number]), int(sizes[number]), overlaps))
        return tuple(found)


def _index(parts: Sequence[Overlaps]) -> tuple[Overlaps, list[NDArray[np.intp]]]:
    """Give a table of all pairs, and where those of each part stand in it."""
    if not parts:
        return np.empty(0, OVERLAP), []
    together = np.concatenate(parts)
    order = np.lexsort((together["truth"], together["segment"]))
    ordered = together[order]
    is_new = np.ones(len(ordered), bool)
    is_new[1:] = (ordered["segment"][1:] != ordered["segment"][:-1]) | (
        ordered["truth"][1:] != ordered["truth"][:-1]
    )
    place = np.empty(len(ordered), np.intp)
    place[order] = np.cumsum(is_new) - 1
    borders = np.cumsum([len(part) for part in parts])[:-1]
    return ordered[is_new].copy(), np.split(place, borders)


def variation_of_information(
    segment: NDArray[np.int64], truth: NDArray[np.int64], weights: Floats
) -> tuple[float, float, float]:
    """Give split, merge and their sum: H(segments | truth), H(truth | segments), in bits.

    Parameters
    ----------
    segment, truth : (n,)
        Numbers of the segments of each pair, each pair once.
    weights : (n,)
        How much they share.
    """
    if not weights.sum():
        return (np.nan,) * 3
    joint = _entropy(weights)
    split = joint - _entropy(np.bincount(truth, weights))
    merge = joint - _entropy(np.bincount(segment, weights))
    split, merge = max(split, 0.0), max(merge, 0.0)  # rounding
    return split, merge, split + merge


def adapted_rand(
    segment: NDArray[np.int64], truth: NDArray[np.int64], counts: Floats
) -> tuple[float, float, float]:
    """Give the adapted Rand error, precision and recall of pairs of voxels in the same segment; arguments as above."""
    if not counts.sum():
        return (np.nan,) * 3
    together = (counts**2).sum()
    precision = together / (np.bincount(segment, counts) ** 2).sum()
    recall = together / (np.bincount(truth, counts) ** 2).sum()
    return max(0.0, 1 - 2 * precision * recall / (precision + recall)), precision, recall  # rounding


def _entropy(counts: NDArray[Any]) -> float:
    counts = counts[counts > 0]
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum())


def _intervals(values: Floats, drawn: Floats | None) -> list[Interval]:
    if drawn is None:
        return [Interval(float(value), np.nan, np.nan) for value in values]
    edge = (1 - CONFIDENCE) / 2
    low, high = (_quantile(drawn, share) for share in (edge, 1 - edge))
    return [Interval(*map(float, row)) for row in zip(values, low, high, strict=True)]


def _quantile(drawn: Floats, share: float) -> Floats:
    """Give a quantile of each column without its NaN; NaN if there is nothing else."""
    columns = (column[~np.isnan(column)] for column in drawn.T)
    return np.array([np.quantile(column, share) if len(column) else np.nan for column in columns])


def _match(frame: _Frame, counts: Floats, random: np.random.Generator) -> tuple[Matches, ...]:
    ious = frame.ious(counts)
    segments, truths = np.count_nonzero(frame.segment_ids), np.count_nonzero(frame.truth_ids)
    found: list[Matches] = []
    for threshold in THRESHOLDS:
        matched = ious[ious > threshold]
        hits = len(matched)
        wrong, missed = int(segments - hits), int(truths - hits)
        # What is drawn from: matches, by how well they match, segments without one, and segments of the truth without.
        bins = (matched * _IOU_BINS).astype(np.int64).clip(0, _IOU_BINS - 1)
        amounts = np.append(np.bincount(bins, minlength=_IOU_BINS), [wrong, missed])
        quality = np.bincount(bins, matched, _IOU_BINS) / np.maximum(amounts[:_IOU_BINS], 1)
        total = int(amounts.sum())
        drawn = random.multinomial(total, amounts / total, RESAMPLES) if total else None
        scores = [_object_scores(row, quality) for row in (amounts, *(drawn if drawn is not None else ()))]
        intervals = _intervals(scores[0], np.array(scores[1:]) if total > 1 else None)
        found.append(Matches(threshold, hits, wrong, missed, *intervals))
    return tuple(found)


def _object_scores(amounts: NDArray[np.int64], quality: Floats) -> Floats:
    """Give precision, recall, F1 and panoptic quality; those that are not defined are NaN.

    Parameters
    ----------
    amounts
        Matches in each bin of quality, then segments and segments of the truth without one.
    quality
        Mean intersection over union in each bin.
    """
    hits, wrong, missed = float(amounts[:-2].sum()), float(amounts[-2]), float(amounts[-1])

    def share(part: float, whole: float) -> float:
        return part / whole if whole else np.nan

    return np.array([
        share(hits, hits + wrong), share(hits, hits + missed), share(2 * hits, 2 * hits + wrong + missed),
        share(float(amounts[:-2] @ quality), hits + (wrong + missed) / 2),
    ])  # fmt: skip
