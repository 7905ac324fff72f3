"""Laws of stored arrays."""

import tempfile

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from voxelworks.geometry import Box, Mag
from voxelworks.volumes.arrays import create_mag_array
from voxelworks.volumes.metadata import CXYZ, CZYX

BOXES = st.builds(Box, st.tuples(*[st.integers(-20, 150)] * 3), st.tuples(*[st.integers(0, 90)] * 3))


@settings(deadline=None, max_examples=40)
@given(
    layer_box=st.builds(Box, st.tuples(*[st.integers(0, 70)] * 3), st.tuples(*[st.integers(1, 200)] * 3)),
    mag=st.sampled_from([Mag(1, 1, 1), Mag(2, 2, 1), Mag(1, 1, 4)]),
    kind=st.sampled_from([("uint8", 1), ("uint8", 3), ("uint32", 1), ("float32", 1)]),
    axes=st.sampled_from([CZYX, CXYZ]),
    read_boxes=st.lists(BOXES, min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_reading_any_box_gives_what_was_written_and_zero_around_it(
    layer_box, mag, kind, axes, read_boxes, seed
):
    dtype, channel_count = kind
    with tempfile.TemporaryDirectory() as folder:
        array = create_mag_array(
            folder,
            mag=mag, layer_box=layer_box, dtype=dtype, channel_count=channel_count, shard_zyx=(128, 64, 128),
            category="color", axes=axes,
        )  # fmt: skip
        box = layer_box.in_mag(mag)
        everything = np.zeros((channel_count, 300, 300, 300), dtype)  # begins at -30, -30, -30
        data = np.random.default_rng(seed).integers(0, 200, (channel_count, *box.shape_zyx)).astype(dtype)
        everything[:, *box.moved((30, 30, 30)).slices_zyx] = data
        shard_xyz = array.shard_shape_zyx[::-1]
        for block in box.tiles(shard_xyz):
            array.write(block, everything[:, *block.moved((30, 30, 30)).slices_zyx])
        for read_box in read_boxes:
            expected = everything[:, *read_box.moved((30, 30, 30)).slices_zyx]
            assert np.array_equal(array.read(read_box), expected)
