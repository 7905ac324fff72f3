"""How a pyramid is cut into shards and groups of levels."""

import pytest

from voxelworks.errors import InvalidGeometry
from voxelworks.geometry import MAG1, Box, Mag, VoxelSize
from voxelworks.volumes.mags import mag_sequence
from voxelworks.volumes.shards import plan_levels

LARGE = Box((0, 0, 0), (8192, 8192, 8192))
MIB = 2**20


def plan(
    box, voxel_size, *, dtype="uint8", channel_count=1, slots=2, shard_bytes_max=128 * MIB, write_source=True
):
    mags = [MAG1, *mag_sequence(VoxelSize.parse(voxel_size), box)]
    groups = plan_levels(
        box,
        mags,
        dtype,
        channel_count,
        slots=slots,
        shard_bytes_max=shard_bytes_max,
        write_source=write_source,
    )
    return [(str(group.source_mag), [(str(mag), shard) for mag, shard in group.levels]) for group in groups]


def test_shards_shrink_with_the_level_and_the_next_group_starts_from_the_last_one():
    assert plan(LARGE, "8,8,8") == [
        ("1", [("1", (512, 512, 512)), ("2", (256, 256, 256)), ("4", (128, 128, 128)), ("8", (64, 64, 64))]),
        ("8", [("16", (256, 256, 256)), ("32", (128, 128, 128))]),
    ]


def test_levels_have_the_same_shards_when_they_are_added_later():
    assert plan(LARGE, "8,8,8", write_source=False) == [
        ("1", [("2", (256, 256, 256)), ("4", (128, 128, 128)), ("8", (64, 64, 64))]),
        ("8", [("16", (256, 256, 256)), ("32", (128, 128, 128))]),
    ]


def test_axes_that_do_not_shrink_keep_their_extent():
    assert plan(LARGE, "4,4,40")[0] == (
        "1",
        [
            ("1", (512, 512, 512)),
            ("2-2-1", (512, 256, 256)),
            ("4-4-1", (512, 128, 128)),
            ("8-8-1", (512, 64, 64)),
        ],
    )


@pytest.mark.parametrize(
    ("dtype", "channel_count", "edge"),
    [("uint8", 1, 512), ("uint8", 3, 256), ("uint32", 1, 256), ("uint64", 1, 256)],
)
def test_a_shard_holds_at_most_the_bytes_allowed(dtype, channel_count, edge):
    assert plan(LARGE, "8,8,8", dtype=dtype, channel_count=channel_count)[0][1][0] == ("1", (edge,) * 3)


def test_there_are_four_blocks_for_each_slot():
    box = Box((0, 0, 0), (1024, 1024, 1024))
    assert plan(box, "8,8,8", slots=2)[0][1][0] == ("1", (512, 512, 512))
    assert plan(box, "8,8,8", slots=3)[0][1][0] == ("1", (256, 256, 256))


def test_small_blocks_are_not_split_to_busy_more_slots():
    assert plan(Box((0, 0, 0), (300, 300, 300)), "8,8,8", slots=16)[0][1][0] == ("1", (256, 256, 256))


def test_a_layer_without_coarser_mags_is_one_group():
    assert plan(Box((0, 0, 0), (100, 80, 30)), "8,8,8") == [("1", [("1", (128, 128, 128))])]


def test_the_smallest_limit_gives_single_chunks():
    assert plan(Box((0, 0, 0), (300, 300, 300)), "8,8,8", shard_bytes_max=2**18) == [
        ("1", [("1", (64, 64, 64))]),
        ("1", [("2", (64, 64, 64))]),
    ]


def test_a_group_knows_its_factors_blocks_and_memory():
    box = Box((100, 0, 0), (1000, 600, 300))
    [group, *_] = plan_levels(
        box,
        [MAG1, Mag(2, 2, 1), Mag(4, 4, 2)],
        "uint16",
        1,
        slots=1,
        shard_bytes_max=64 * MIB,
        write_source=True,
    )
    assert group.factors_zyx == ((1, 2, 2), (2, 2, 2))
    assert group.block_zyx == (256, 256, 256)
    assert len(group.blocks(box)) == 5 * 3 * 2
    assert group.blocks(box)[0] == Box((100, 0, 0), (156, 256, 256))
    assert group.memory_bytes("uint16", 1) == 4 * 256**3 * 2
    [added] = plan_levels(box, [Mag(2, 2, 1), Mag(4, 4, 2)], "uint16", 1, slots=1, shard_bytes_max=64 * MIB)
    assert added.factors_zyx == ((2, 2, 2),)
    assert added.blocks(box)[0] == Box((50, 0, 0), (206, 256, 256))


def test_mags_must_follow_by_doubling():
    with pytest.raises(InvalidGeometry, match="mag 4 cannot follow mag 1"):
        plan_levels(LARGE, [MAG1, Mag(4, 4, 4)], "uint8", 1, slots=1, shard_bytes_max=MIB)
