"""Pictures are small and made of few steps; each is checked by numbers that can be worked out by hand."""

import io

import numpy as np
import pytest
from PIL import Image

from voxelworks.ops.pictures import (
    contrast_limits,
    encode,
    image_picture,
    mean_between,
    segment_picture,
)


def test_voxels_that_an_edge_cuts_count_by_their_part():
    values = np.array([[2, 4, 8]], np.uint8)
    means = mean_between(values, np.array([0, 1.5, 3.0]))
    assert means.tolist() == [[(2 + 4 / 2) / 1.5, (4 / 2 + 8) / 1.5]]


def test_pixels_that_are_smaller_than_voxels_repeat_them():
    means = mean_between(np.array([3, 7], np.uint16), np.linspace(0, 2, 5))
    assert means.tolist() == [3, 3, 7, 7]


def test_part_of_the_first_and_of_the_last_voxel_may_be_left_out():
    assert mean_between(np.array([10, 20, 30]), np.array([0.5, 2.5])).tolist() == [20]


def test_a_few_extreme_voxels_do_not_decide_the_contrast():
    values = np.concatenate([np.full(10, 60_000), np.linspace(1000, 2000, 10_000), np.zeros(50_000)])
    low, high = contrast_limits(values.astype(np.uint16))
    assert 1000 <= low < 1010
    assert 1990 < high < 2000


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int16", "float32"])
def test_the_darkest_becomes_black_and_the_brightest_white_in_every_type(dtype):
    values = np.arange(1, 101, dtype=dtype).reshape(10, 10)
    picture = image_picture(values[np.newaxis].astype(float), [contrast_limits(values)])
    assert picture.dtype == np.uint8
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert picture[-1, -1].tolist() == [255, 255, 255]
    assert (np.diff(picture[..., 0].ravel().astype(int)) >= 0).all()


def test_one_value_alone_is_grey_and_nothing_is_black():
    assert (
        image_picture(np.full((1, 2, 2), 7.0), [contrast_limits(np.full(4, 7.0))]).tolist()
        == [[[128, 128, 128]] * 2] * 2
    )
    assert image_picture(np.full((1, 1, 1), -0.25), [contrast_limits(np.full(4, -0.25))]).max() == 128
    assert image_picture(np.zeros((1, 2, 2)), [contrast_limits(np.zeros(4))]).max() == 0


def test_what_is_no_number_does_not_decide_the_contrast():
    assert contrast_limits(np.array([np.nan, np.inf, 1, 2, 3], np.float32)) == pytest.approx((1.01, 2.99))


def test_rgb_is_shown_as_it_is_and_channels_are_mixed_in_colours():
    rgb = np.arange(12.0).reshape(3, 2, 2)
    assert (image_picture(rgb, None) == np.moveaxis(rgb, 0, -1)).all()
    two = image_picture(np.array([[[1.0, 0]], [[0, 1]]]), [(0.0, 1.0), (0.0, 1.0)])
    assert two.tolist() == [[[0, 255, 0], [255, 0, 255]]]


@pytest.mark.parametrize("dtype", ["uint8", "uint32", "uint64", "int64"])
def test_a_segment_has_the_same_colour_everywhere_and_background_is_transparent(dtype):
    labels = np.array([[0, 1, 2], [2, 1, 0]], dtype)
    picture = segment_picture(labels)
    assert (picture[0] == picture[1, ::-1]).all()
    assert picture[0, 0].tolist() == [0, 0, 0, 0]
    assert picture[..., 3].tolist() == [[0, 255, 255], [255, 255, 0]]
    assert (segment_picture(labels[:, 1:2])[0, 0] == picture[0, 1]).all()


def test_colours_of_neighbouring_ids_differ_and_are_bright():
    colors = segment_picture(np.arange(1, 2001, dtype=np.uint64)[np.newaxis])[0, :, :3].astype(int)
    assert len(np.unique(colors, axis=0)) > 1900
    assert colors.max(axis=1).min() >= 178
    assert np.abs(np.diff(colors, axis=0)).sum(axis=1).mean() > 100


def test_equal_pictures_give_equal_bytes_and_labels_are_kept_exactly():
    labels = np.random.default_rng(0).integers(0, 9, (40, 50)).astype(np.uint32)
    picture = segment_picture(labels)
    data = encode(picture)
    assert data == encode(picture.copy())
    assert (np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")) == picture).all()
    grey = image_picture(np.random.default_rng(0).random((1, 40, 50)), [(0.0, 1.0)])
    assert encode(grey) == encode(grey.copy())
    assert Image.open(io.BytesIO(encode(grey))).format == "WEBP"
