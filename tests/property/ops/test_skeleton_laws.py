"""What holds of scores along skeletons, however trees and segments lie."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from voxelworks.geometry import Box, VoxelSize
from voxelworks.ops.skeletons import Edges, score

BOX = Box((0, 0, 0), (64, 64, 64))
COORDINATE = st.floats(0, 63, width=32)


@st.composite
def forests(draw):
    """Draw the paths of up to four trees, each node hanging on an earlier one of its tree."""
    sizes = draw(st.lists(st.integers(2, 8), min_size=1, max_size=4))
    count, edges, start = sum(sizes), [], 0
    for size in sizes:
        edges += [(start + draw(st.integers(0, node - 1)), start + node) for node in range(1, size)]
        start += size
    positions = draw(arrays(np.float64, (count, 3), elements=COORDINATE))
    step = draw(st.sampled_from([None, 50, 200]))
    return Edges(
        positions, np.repeat(np.arange(len(sizes)), sizes), np.array(edges), box=BOX,
        voxel_size=VoxelSize(4, 4, 30), step_nm_max=step,
    ).paths()  # fmt: skip


def labels_for(paths, largest):
    return arrays(np.uint64, len(paths.neurons), elements=st.integers(0, largest))


@settings(max_examples=25, deadline=None)
@given(paths=forests())
def test_a_perfect_segmentation_makes_no_mistake(paths):
    scores = score(paths, (paths.neurons + 3).astype(np.uint64), merger_nm_min=0)
    lengths = scores.neurons["length_nm"]
    assert (scores.total["cut"], scores.total["omitted"], scores.mergers) == (0, 0, ())
    assert scores.adapted_rand_error == pytest.approx(0, abs=1e-12)
    if lengths.sum():
        assert scores.erl_nm.value == pytest.approx((lengths**2).sum() / lengths.sum())
        assert (scores.erl_share.value, scores.voi) == (pytest.approx(1), pytest.approx(0, abs=1e-9))


@settings(max_examples=25, deadline=None)
@given(data=st.data(), paths=forests())
def test_splitting_a_segment_never_raises_the_run_length_of_what_is_not_merged(data, paths):
    labels = data.draw(labels_for(paths, 3))
    split = np.where((labels == 1) & data.draw(arrays(bool, len(labels))), np.uint64(9), labels)
    before, after = (score(paths, item, merger_nm_min=1e9) for item in (labels, split))
    assert (after.neurons["erl_nm"] <= before.neurons["erl_nm"] * (1 + 1e-12)).all()
    assert after.total["cut"] >= before.total["cut"]


@settings(max_examples=25, deadline=None)
@given(data=st.data(), paths=forests())
def test_joining_segments_never_lets_fewer_neurons_be_merged(data, paths):
    labels = data.draw(labels_for(paths, 3))
    joined = np.where(labels == 2, np.uint64(1), labels)
    before, after = (score(paths, item, merger_nm_min=60) for item in (labels, joined))
    assert after.total["merged_nm"] >= before.total["merged_nm"] - 1e-6
    assert after.total["cut"] <= before.total["cut"]


@settings(max_examples=25, deadline=None)
@given(data=st.data(), paths=forests())
def test_scores_ignore_how_segments_are_numbered(data, paths):
    labels = data.draw(labels_for(paths, 4))
    other = np.array([0, 2**63, 5, 77, 1], np.uint64)[labels]
    before, after = (score(paths, item, merger_nm_min=30) for item in (labels, other))
    assert before.neurons.tolist() == after.neurons.tolist()
