"""Laws of the choice of mags, shards and groups of levels."""

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from voxelworks.geometry import MAG1, Box, Mag, VoxelSize
from voxelworks.volumes.mags import mag_sequence
from voxelworks.volumes.shards import plan_levels

SIZES_NM = st.floats(0.5, 5000)
VOXEL_SIZES = st.builds(VoxelSize, SIZES_NM, SIZES_NM, SIZES_NM)
EXTENTS = st.integers(1, 100_000)
BOXES = st.builds(Box, st.tuples(*[st.integers(0, 5000)] * 3), st.tuples(EXTENTS, EXTENTS, EXTENTS))
MAGS = st.builds(lambda *log2: Mag(*(2**n for n in log2)), *[st.integers(0, 8)] * 3)


@given(VOXEL_SIZES, BOXES, st.none() | MAGS)
def test_every_step_doubles_some_axes_and_the_last_is_the_wanted_one(voxel_size, box, until):
    mags = [MAG1, *mag_sequence(voxel_size, box, until=until)]
    for finer, coarser in pairwise(mags):
        factor = coarser.relative_to(finer)
        assert set(factor.xyz) <= {1, 2}
        assert factor != MAG1
    if until is not None:
        assert mags[-1] == until
    else:
        assert max(box.in_mag(mags[-1]).size) <= 256
        assert len(mags) == 1 or max(box.in_mag(mags[-2]).size) > 256


@given(
    VOXEL_SIZES,
    BOXES,
    st.sampled_from([("uint8", 1), ("uint8", 3), ("uint32", 1), ("uint64", 1)]),
    st.integers(1, 64),
    st.sampled_from([2**18, 2**22, 2**27]),
    st.booleans(),
)
def test_a_plan_writes_every_level_once_in_whole_shards(
    voxel_size, box, kind, slots, shard_bytes_max, write_source
):
    dtype, channel_count = kind
    mags = [MAG1, *mag_sequence(voxel_size, box)]
    plan = plan_levels(
        box,
        mags,
        dtype,
        channel_count,
        slots=slots,
        shard_bytes_max=shard_bytes_max,
        write_source=write_source,
    )
    written = [mag for group in plan for mag, _ in group.levels]
    assert written == (mags if write_source else mags[1:])
    source = MAG1
    for group in plan:
        assert group.source_mag == source
        for mag, shard in group.levels:
            factor = mag.relative_to(group.source_mag).zyx
            # A block is exactly one shard on every level, so no shard has two writers.
            assert tuple(s * f for s, f in zip(shard, factor, strict=True)) == group.block_zyx
            assert all(s >= 64 and s & (s - 1) == 0 for s in shard)
        source = group.levels[-1][0]


@given(
    st.builds(Box, st.tuples(*[st.integers(0, 5000)] * 3), st.tuples(*[st.integers(1, 3000)] * 3)),
    st.integers(1, 8),
)
def test_the_blocks_of_a_group_cover_the_box_without_overlap(box, slots):
    [group, *_] = plan_levels(box, [MAG1], "uint64", 1, slots=slots, shard_bytes_max=2**40, write_source=True)
    blocks = group.blocks(box)
    assert sum(block.voxel_count for block in blocks) == box.voxel_count
    assert all(box.contains(block) for block in blocks)
    assert math.prod(group.block_zyx) * 8 <= 2**40
