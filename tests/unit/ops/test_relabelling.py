"""Segments are merged and labels changed as a slow, obvious reference does it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxelworks.errors import UnsupportedDtype
from voxelworks.ops.relabelling import merged_ids, replace_labels

LABELS = st.integers(0, 12)


def components(groups):
    """Merge sets that share a label until none do."""
    sets = [{label for label in group if label} for group in groups]
    while True:
        pairs = [(a, b) for i, a in enumerate(sets) for b in sets[i + 1 :] if a & b]
        if not pairs:
            return sets
        a, b = pairs[0]
        sets = [item for item in sets if item is not a and item is not b] + [a | b]


@given(st.lists(st.lists(LABELS, max_size=5), max_size=6))
def test_what_stands_together_gets_the_id_that_came_first(groups):
    order = [label for group in groups for label in group if label]
    expected = {
        label: first
        for component in components(groups)
        if component
        for first in [min(component, key=order.index)]
        for label in component
        if label != first
    }
    assert merged_ids(groups) == expected


def test_the_background_joins_nothing():
    assert merged_ids([[0, 1], [0, 2], [0], []]) == {}


@settings(deadline=None)
@given(
    labels=st.lists(LABELS, max_size=30),
    changes=st.dictionaries(LABELS, LABELS),
    dtype=st.sampled_from(["uint8", "uint64", "int32"]),
)
def test_labels_become_what_is_said_and_others_stay(labels, changes, dtype):
    array = np.array(labels, dtype).reshape(1, -1)
    pairs = sorted(changes.items())
    old, new = (np.array([pair[i] for pair in pairs], dtype) for i in (0, 1))
    replace_labels(array, old, new)
    assert array.tolist() == [[changes.get(label, label) for label in labels]]


def test_ids_of_64_bits_stay_exact():
    array = np.array([2**64 - 1, 2**64 - 2, 2**53 + 1], np.uint64)
    replace_labels(array, np.array([2**53 + 1, 2**64 - 2], np.uint64), np.array([2**63 + 1, 5], np.uint64))
    assert array.tolist() == [2**64 - 1, 5, 2**63 + 1]


def test_floats_are_no_labels():
    with pytest.raises(UnsupportedDtype, match="labels of float32"):
        replace_labels(np.zeros(1, np.float32), np.zeros(0, np.float32), np.zeros(0, np.float32))
