"""Probabilities become bytes as NumPy makes them."""

import numpy as np
import pytest

from voxelworks.ops.probabilities import to_bytes


def test_bytes_are_the_nearest_and_what_is_beyond_is_cut_off():
    values = np.random.default_rng(0).normal(0.5, 0.5, (5, 6, 7)).astype(np.float32)
    values[0, 0] = [0, 1, -0.0, 0.5, 1 / 255, 254.5 / 255, 2]
    found = np.empty((3, 6, 7), np.uint8)
    assert to_bytes(values[1:-1, :, ::-1], found)
    expected = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    assert np.array_equal(found, expected[1:-1, :, ::-1])


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_found(wrong):
    values = np.zeros((3, 3, 3), np.float32)
    values[2, 1, 0] = wrong
    assert not to_bytes(values, np.empty((3, 3, 3), np.uint8))
