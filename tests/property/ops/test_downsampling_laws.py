"""Laws of downsampling, against a slow reference that looks at one window at a time."""

import statistics
from collections import Counter
from fractions import Fraction
from itertools import product
from math import floor

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from voxelworks.ops.downsampling import downsample, pyramid

FACTORS = st.sampled_from(list(product((1, 2), repeat=3)))
INTEGERS = st.sampled_from(["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"])
METHODS = st.sampled_from(["mean", "median", "mode"])


@st.composite
def volumes(draw, dtypes=INTEGERS):
    dtype = np.dtype(draw(dtypes))
    limits = np.iinfo(dtype)
    wide = st.integers(int(limits.min), int(limits.max))
    elements = draw(
        st.sampled_from([wide, st.integers(0, 2), st.integers(int(limits.max) - 1, int(limits.max))])
    )
    return draw(
        arrays(dtype, draw(array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7)), elements=elements)
    )


def reduce_window(values, method):
    if method == "mean":
        return floor(Fraction(sum(values), len(values)) + Fraction(1, 2))
    if method == "median":
        return floor(statistics.median([Fraction(value) for value in values]))
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value == 0, value))


def slow_downsample(volume, factor, method):
    shape = [-(-n // f) for n, f in zip(volume.shape, factor, strict=True)]
    result = np.empty(shape, volume.dtype)
    for index in np.ndindex(*shape):
        window = volume[tuple(slice(i * f, (i + 1) * f) for i, f in zip(index, factor, strict=True))]
        result[index] = reduce_window(window.ravel().tolist(), method)
    return result


@settings(deadline=None, max_examples=300)
@given(volumes(), FACTORS, METHODS)
def test_downsampling_is_what_its_description_says(volume, factor, method):
    assert downsample(volume, factor, method).tolist() == slow_downsample(volume, factor, method).tolist()


@settings(deadline=None)
@given(
    arrays(
        "float32", array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.floats(-1e6, 1e6, width=32)
    ),
    FACTORS,
    st.sampled_from(["mean", "median"]),
)
def test_floats_are_reduced_like_numpy_does(volume, factor, method):
    padding = [(0, n % f) for n, f in zip(volume.shape, factor, strict=True)]
    padded = np.pad(volume.astype("float64"), padding, mode="edge")
    (z, y, x), (fz, fy, fx) = padded.shape, factor
    reduce = np.mean if method == "mean" else np.median
    expected = reduce(padded.reshape(z // fz, fz, y // fy, fy, x // fx, fx), axis=(1, 3, 5))
    np.testing.assert_allclose(
        downsample(volume, factor, method), expected.astype("float32"), rtol=1e-6, atol=1e-7
    )


@settings(deadline=None)
@given(volumes(st.sampled_from(["uint8", "uint32"])), st.lists(FACTORS, min_size=1, max_size=3), METHODS)
def test_a_pyramid_made_in_blocks_equals_one_made_at_once(volume, factors, method):
    whole = pyramid(volume, factors, method)
    edge = 2 ** len(factors)
    for level, coarse in enumerate(whole):
        scale = np.prod(factors[: level + 1], axis=0)
        made = np.empty_like(coarse)
        for start in product(*(range(0, n, edge) for n in volume.shape)):
            block = volume[tuple(slice(a, a + edge) for a in start)]
            part = pyramid(block, factors, method)[level]
            made[
                tuple(slice(a // s, a // s + n) for a, s, n in zip(start, scale, part.shape, strict=True))
            ] = part
        assert made.tolist() == coarse.tolist()


@settings(deadline=None)
@given(volumes(), FACTORS)
def test_the_mode_is_always_a_value_of_its_window(volume, factor):
    assert set(downsample(volume, factor, "mode").ravel().tolist()) <= set(volume.ravel().tolist())
