"""Scores of segmentations: cases whose scores are known."""

import numpy as np
import pytest

from voxelworks.errors import InvalidDataset
from voxelworks.ops.evaluation import count_overlaps, merge_overlaps, score


def scores_of(segments, truth, parts=1):
    pieces = zip(
        np.array_split(np.array(segments), parts), np.array_split(np.array(truth), parts), strict=True
    )
    return score([count_overlaps(one[None, None], other[None, None]) for one, other in pieces])


def value(scores, name):
    return scores.voxelwise[name].value


def test_equal_partitions_are_perfect_whatever_their_ids():
    scores = scores_of([5, 5, 7, 7, 2**63], [1, 1, 2, 2, 3], parts=2)
    assert value(scores, "voi") == value(scores, "adapted_rand_error") == 0
    assert value(scores, "iou") == value(scores, "dice") == 1
    assert [(match.true_positives, match.f1.value) for match in scores.matches] == [(3, 1)] * 10
    assert scores.splits == scores.merges == ()


def test_halving_every_object_is_one_bit_of_split():
    scores = scores_of([1, 1, 2, 2, 3, 3, 4, 4], [9, 9, 9, 9, 8, 8, 8, 8])
    assert (value(scores, "voi_split"), value(scores, "voi_merge")) == (1, 0)
    # Of 16 pairs within each true object 8 stay together.
    assert (value(scores, "rand_precision"), value(scores, "rand_recall")) == (1, 0.5)
    assert value(scores, "adapted_rand_error") == pytest.approx(1 / 3)
    assert scores.matches[0].true_positives == 0  # an intersection over union of exactly 0.5 is no match
    assert [(fault.id, fault.bits, fault.voxels, fault.parts) for fault in scores.splits] == [
        (8, 0.5, 4, ((3, 2), (4, 2))), (9, 0.5, 4, ((1, 2), (2, 2))),
    ]  # fmt: skip


def test_one_segment_over_all_is_a_merge():
    scores = scores_of([7] * 8, [1] * 4 + [2] * 4)
    assert (value(scores, "voi_split"), value(scores, "voi_merge")) == (0, 1)
    assert [(fault.id, fault.parts) for fault in scores.merges] == [(7, ((1, 4), (2, 4)))]


def test_what_the_truth_does_not_know_is_not_counted_but_is_no_object_either():
    scores = scores_of([0, 0, 3, 3, 3], [1, 1, 1, 0, 0])
    assert (scores.voxels, scores.assigned) == (3, 1)
    assert value(scores, "voi") == pytest.approx(-(2 / 3) * np.log2(2 / 3) - (1 / 3) * np.log2(1 / 3))
    assert value(scores, "assigned_voi") == 0
    assert (value(scores, "iou"), value(scores, "dice")) == (0.2, pytest.approx(1 / 3))


def test_objects_are_counted_by_their_overlap():
    # 4 of 5 voxels are shared: more than 0.75, but not more than 0.8. Beside it one object too many, and one missed.
    scores = scores_of([1, 1, 1, 1, 0, 0, 2, 0, 0], [6, 6, 6, 6, 6, 0, 0, 5, 5])
    found = {match.threshold: match for match in scores.matches}
    for threshold, hits in ((0.5, 1), (0.75, 1), (0.8, 0), (0.95, 0)):
        match = found[threshold]
        assert (match.true_positives, match.false_positives, match.false_negatives) == (
            hits,
            2 - hits,
            2 - hits,
        )
    assert found[0.5].f1.value == 0.5
    assert found[0.5].panoptic_quality.value == pytest.approx(0.8 / 2)
    assert found[0.5].f1.low <= 0.5 <= found[0.5].f1.high


def test_scores_that_are_not_defined_are_no_numbers():
    scores = scores_of([0, 0], [0, 0])
    assert np.isnan([value(scores, "voi"), value(scores, "iou"), scores.matches[0].f1.value]).all()
    assert scores_of([4, 4], [0, 0]).voxels == 0


def test_intervals_say_how_parts_differ():
    even = scores_of([1, 2] * 20, [1, 1] * 20, parts=10).voxelwise["voi"]
    assert even.low == even.value == even.high
    uneven = scores_of([1, 2] * 10 + [3] * 20, [1, 1] * 10 + [3] * 20, parts=10).voxelwise["voi"]
    assert uneven.low < uneven.value < uneven.high
    whole = scores_of([1, 2], [1, 1]).voxelwise["voi"]
    assert np.isnan([whole.low, whole.high]).all()


def test_negative_ids_are_refused():
    with pytest.raises(InvalidDataset, match="-3"):
        count_overlaps(np.full((1, 1, 2), -3, np.int32), np.ones((1, 1, 2), np.uint8))


def test_parts_add_up():
    dice = np.random.default_rng(3)
    segments, truth = dice.integers(0, 4, (2, 6, 6, 6)).astype(np.uint16), dice.integers(0, 3, (2, 6, 6, 6))
    parts = [count_overlaps(one, other) for one, other in zip(segments, truth, strict=True)]
    whole = count_overlaps(segments.reshape(12, 6, 6), truth.reshape(12, 6, 6))
    assert (merge_overlaps(parts) == whole).all()
    expected = {}
    for one, other in zip(segments.flat, truth.flat, strict=True):
        expected[int(one), int(other)] = expected.get((int(one), int(other)), 0) + 1
    assert {(int(row["segment"]), int(row["truth"])): int(row["count"]) for row in whole} == expected
