"""Scores along skeletons: cases whose scores are known, and random ones against a slow reference."""

import math
from itertools import combinations

import numpy as np
import pytest

from voxelworks.errors import InvalidDataset
from voxelworks.geometry import Box, VoxelSize
from voxelworks.ops.skeletons import Edges, Paths, score

SPACE = Box((0, 0, 0), (1000, 1000, 1000))
UNIT = VoxelSize(1, 1, 1)


def paths_of(trees, *, box=SPACE, voxel_size=UNIT, step=None):
    """Follow trees, each a list of nodes (x, y, z) of which each has an edge to the next."""
    nodes = [node for tree in trees for node in tree]
    neurons = [number for number, tree in enumerate(trees) for _ in tree]
    edges = [(i, i + 1) for i in range(len(nodes) - 1) if neurons[i] == neurons[i + 1]]
    return Edges(
        np.array(nodes, float).reshape(-1, 3), np.array(neurons, np.int64), np.array(edges, np.int64).reshape(-1, 2),
        box=box, voxel_size=voxel_size, step_nm_max=step,
    ).paths()  # fmt: skip


def lines(*lengths):
    """Give straight trees of so many nodes, each 10 from the next."""
    return [[(10 * x, 100 * number, 0) for x in range(length)] for number, length in enumerate(lengths)]


def scores_of(trees, labels, *, merger=15, **where):
    return score(paths_of(trees, **where), np.array(labels, np.uint64), merger_nm_min=merger)


def test_a_perfect_segmentation_has_the_mean_length_weighted_by_length():
    scores = scores_of(lines(5, 3), [7] * 5 + [2**63] * 3)
    assert (scores.erl_nm.value, scores.erl_share.value) == ((40**2 + 20**2) / 60, 1)
    assert (scores.voi, scores.adapted_rand_error) == (0, 0)
    assert scores.total[["pieces", "cut", "omitted", "segments", "mergers"]].tolist() == (6, 0, 0, 2, 0)
    assert scores.total["right_nm"] == scores.total["length_nm"] == 60


def test_a_cut_ends_a_run_and_a_background_node_spoils_both_of_its_edges():
    scores = scores_of(lines(6), [1, 1, 2, 2, 0, 2])
    # One edge right in segment 1, one in 2, one cut between them, two that have an end in no segment.
    (neuron,) = scores.neurons
    assert neuron[["pieces", "cut", "omitted", "segments"]].tolist() == (5, 1, 2, 2)
    assert neuron[["right_nm", "cut_nm", "omitted_nm", "merged_nm"]].tolist() == (20, 10, 20, 0)
    assert scores.erl_nm.value == neuron["erl_nm"] == (10**2 + 10**2) / 50
    assert scores.erl_share.value == 200 / 50**2
    (faulty,) = scores.worst
    assert (faulty.cuts, faulty.omissions) == (((15, 0, 0),), ((35, 0, 0), (45, 0, 0)))


def test_what_comes_back_into_a_segment_belongs_to_the_same_run():
    assert scores_of(lines(5), [1, 1, 2, 1, 1]).erl_nm.value == 20**2 / 40


def test_a_merger_needs_enough_path_of_two_neurons_and_nothing_in_it_is_right():
    trees, labels = lines(4, 4, 2), [5, 5, 5, 6, 6, 5, 5, 5, 5, 5]
    scores = scores_of(trees, labels, merger=20)
    assert scores.neurons["merged_nm"].tolist() == [20, 20, 10]
    assert scores.neurons["erl_nm"].tolist() == [0, 0, 0]
    assert scores.neurons["mergers"].tolist() == [1, 1, 1]
    (merger,) = scores.mergers
    assert (merger.segment, merger.length_nm, merger.neurons) == (5, 50, 3)
    # Where the first two are nearest: straight across.
    assert merger.parts == ((0, 20, (10, 0, 0)), (1, 20, (10, 100, 0)), (2, 10, (10, 200, 0)))
    apart = scores_of(trees, labels, merger=21)
    assert (apart.mergers, apart.neurons["right_nm"].tolist()) == ((), [20, 20, 10])


def test_with_a_threshold_of_0_a_node_is_enough_for_a_merger():
    trees, labels = lines(3, 3), [1, 1, 1, 2, 1, 2]
    assert scores_of(trees, labels, merger=0.1).mergers == ()
    assert [merger.segment for merger in scores_of(trees, labels, merger=0).mergers] == [1]


def test_long_edges_are_looked_at_in_steps_and_keep_their_length():
    tree = [(0, 0, 0), (0, 0, 10), (0, 0, 10.5)]
    paths = paths_of([tree], voxel_size=VoxelSize(4, 4, 10), step=30)
    assert paths.positions_xyz.tolist() == [*map(list, tree), [0, 0, 2.5], [0, 0, 5], [0, 0, 7.5]]
    assert paths.pieces.tolist() == [[0, 3], [3, 4], [4, 5], [5, 1], [1, 2]]
    assert paths.lengths_nm.tolist() == [25, 25, 25, 25, 5]
    between = score(paths, np.array([1, 1, 1, 1, 2, 1], np.uint32), merger_nm_min=800)
    assert (between.total["cut"], between.total["pieces"]) == (2, 5)


def test_only_what_lies_in_the_box_counts():
    box = Box((10, 0, 0), (20, 10, 10))
    tree = [(0, 5, 5), (10, 5, 5), (29.9, 5, 5), (30, 5, 5), (12, 5, 5)]
    whole = paths_of([tree], box=box)
    assert (whole.positions_xyz[:, 0].tolist(), whole.lengths_nm.tolist()) == ([10, 29.9, 12], [19.9])
    # In steps, an edge counts as far as it is inside; the third is, the last enters at its second step.
    steps = paths_of([tree], box=box, step=5)
    assert steps.lengths_nm.sum() == pytest.approx(19.9 + 18 / 4 * 3)
    crossing = paths_of([[(0, 5, 5), (40, 5, 5)], [(0, 50, 5), (40, 50, 5)]], box=box, step=10)
    assert (crossing.positions_xyz[:, 0].tolist(), crossing.pieces.tolist()) == ([10, 20], [[0, 1]])


def test_an_edge_that_reaches_far_out_of_the_box_takes_few_points():
    far = Edges(
        np.array([(-(2.0**52), 5, 5), (2.0**52, 5, 5)]), np.zeros(2, np.int64), np.array([[0, 1]]),
        box=Box((0, 0, 0), (8, 8, 8)), voxel_size=UNIT, step_nm_max=1,
    )  # fmt: skip
    assert far.points_max < 20
    paths = far.paths()
    assert sorted(paths.positions_xyz[:, 0].tolist()) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert paths.lengths_nm.tolist() == [1] * 7


def test_trees_of_one_node_have_no_run_length():
    scores = scores_of([[(1, 1, 1)], [(2, 2, 2)]], [4, 4])
    assert math.isnan(scores.erl_nm.value)
    assert math.isnan(scores.voi)
    assert (scores.rand_precision, scores.rand_recall) == (0.5, 1)
    assert scores.total["pieces"] == 0


def test_intervals_come_from_draws_of_neurons():
    alike = scores_of(lines(3, 3, 3), [1, 1, 1, 2, 2, 2, 3, 3, 3]).erl_nm
    assert alike.low == alike.value == alike.high == 20
    unlike = scores_of(lines(3, 3, 3), [1, 1, 1, 2, 0, 2, 3, 3, 4]).erl_nm
    assert unlike.low < unlike.value < unlike.high
    assert math.isnan(scores_of(lines(3), [1, 1, 1]).erl_nm.low)


def test_negative_ids_are_refused():
    with pytest.raises(InvalidDataset, match="-3"):
        score(paths_of(lines(2)), np.array([1, -3]), merger_nm_min=0)


def slow_scores(paths: Paths, labels, merger):
    """Compute by the definitions, edge by edge, with dictionaries."""
    neurons = paths.neurons.tolist()
    path, right, counts = {}, {}, {"cut": 0, "omitted": 0}
    weights, points = {}, {}
    lengths = dict.fromkeys(neurons, 0.0)
    for point, label in enumerate(labels):
        key = neurons[point], label
        points[key] = points.get(key, 0) + 1
        if label:
            path.setdefault(key, 0.0)
    for (one, other), length in zip(paths.pieces.tolist(), paths.lengths_nm.tolist(), strict=True):
        neuron, first, second = neurons[one], labels[one], labels[other]
        lengths[neuron] += length
        for label in (first, second):
            weights[neuron, label] = weights.get((neuron, label), 0) + length / 2
        if not (first and second):
            counts["omitted"] += 1
        elif first != second:
            counts["cut"] += 1
        else:
            path[neuron, first] += length
    mergers = {
        one[1] for one, other in combinations(path, 2)
        if one[1] == other[1] and path[one] >= merger and path[other] >= merger
    }  # fmt: skip
    for (neuron, label), length in path.items():
        if label not in mergers:
            right[neuron] = right.get(neuron, 0) + length**2
    total = sum(lengths.values())

    def entropy(parts):
        share = np.array([part for part in parts if part > 0]) / total
        return -(share * np.log2(share)).sum()

    def by(position, table, power=1):
        sums = {}
        for key, value in table.items():
            sums[key[position]] = sums.get(key[position], 0) + value
        return [value**power for value in sums.values()]

    together = sum(value**2 for value in points.values())
    joint = entropy(weights.values())
    return {
        "erl": sum(right.values()) / total,
        "share": sum(right.values()) / sum(length**2 for length in lengths.values()),
        "split": joint - entropy(by(0, weights)), "merge": joint - entropy(by(1, weights)),
        "precision": together / sum(by(1, points, 2)), "recall": together / sum(by(0, points, 2)),
        "mergers": sorted(mergers), **counts,
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_scores_are_those_of_a_slow_reference(seed):
    dice = np.random.default_rng(seed)
    steps = dice.normal(0, 12, (5, 40, 3))
    trees = (150 + np.cumsum(steps, axis=1)).tolist()
    paths = paths_of(
        trees,
        box=Box((100, 90, 110), (100, 90, 110)),
        voxel_size=VoxelSize(4, 4, 30),
        step=[None, 90][seed % 2],
    )
    blocks = np.floor(paths.positions_xyz / (9 + seed)).astype(int) % 4
    labels = (blocks @ [1, 2, 3] * (dice.random(len(blocks)) < 0.9)).astype(np.uint64)
    merger = [0, 100, 400, 2000][seed // 2]
    expected = slow_scores(paths, labels.tolist(), merger)
    found = score(paths, labels, merger_nm_min=merger)
    assert {
        "erl": found.erl_nm.value, "share": found.erl_share.value, "split": found.voi_split, "merge": found.voi_merge,
        "precision": found.rand_precision, "recall": found.rand_recall,
        "mergers": sorted(item.segment for item in found.mergers),
        "cut": found.total["cut"], "omitted": found.total["omitted"],
    } == {key: value if key == "mergers" else pytest.approx(value) for key, value in expected.items()}  # fmt: skip
    parts = ("right_nm", "merged_nm", "cut_nm", "omitted_nm")
    assert sum(found.neurons[part] for part in parts) == pytest.approx(found.neurons["length_nm"])
