"""WKW folders, written by an independent writer, are read voxel for voxel; what is damaged or hostile is refused."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxelworks.errors import InvalidDataset, MagNotFound, UnsupportedFormat
from voxelworks.geometry import MAG1, Box
from voxelworks.testing.independent_volumes import write_wkw
from voxelworks.volumes.arrays import MagArray

DTYPES = ("uint8", "uint16", "uint32", "uint64", "float32", "int8", "int16", "int32", "int64")
PACKINGS = ("raw", "lz4", "lz4hc")


def volume(dtype="uint8", channels=1, shape=(20, 9, 17)):
    """Labels with runs, so that LZ4 finds something to pack, and a corner without data."""
    generator = np.random.default_rng(0)
    voxels = generator.integers(1, 100, (channels, *shape)).repeat(4, axis=-1)[..., : shape[-1]].astype(dtype)
    voxels[:, :16, :, 8:] = 0
    return voxels


def opened(folder, voxels):
    box = Box.from_zyx((0, 0, 0), voxels.shape[1:])
    return MagArray(str(folder), MAG1, box, voxels.dtype, len(voxels), "wkw", axes=None)


@settings(max_examples=25, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    packing=st.sampled_from(PACKINGS),
    channels=st.sampled_from((1, 3)),
    edges=st.sampled_from(((2, 4), (4, 2), (8, 1), (8, 2))),
    start=st.tuples(*[st.integers(-3, 18)] * 3),
    shape=st.tuples(*[st.integers(1, 30)] * 3),
)
def test_any_box_of_any_kind_is_read_as_it_was_written(
    tmp_path_factory, dtype, packing, channels, edges, start, shape
):
    voxels = volume(dtype, channels)
    block, blocks = edges
    folder = write_wkw(
        tmp_path_factory.mktemp("wkw"), voxels, block_edge=block, blocks_per_edge=blocks, packing=packing
    )
    expected = np.zeros((channels, 80, 80, 80), dtype)
    expected[:, 10:30, 10:19, 10:27] = voxels
    inside = tuple(slice(10 + first, 10 + first + extent) for first, extent in zip(start, shape, strict=True))
    assert np.array_equal(
        opened(folder, voxels).read(Box.from_zyx(start, shape)), expected[(slice(None), *inside)]
    )


def test_an_array_says_how_it_is_cut(tmp_path):
    array = opened(write_wkw(tmp_path, volume(), block_edge=4, blocks_per_edge=2), volume())
    assert (array.chunk_shape_zyx, array.shard_shape_zyx) == ((4, 4, 4), (8, 8, 8))
    assert array.stored_box == Box((0, 0, 0), (24, 16, 24))


def test_raw_and_packed_cubes_may_lie_side_by_side(tmp_path):
    voxels = volume()
    write_wkw(tmp_path / "raw", voxels)
    packed = write_wkw(tmp_path / "packed", voxels, packing="lz4")
    (tmp_path / "raw/z0/y0/x0.wkw").replace(packed / "z0/y0/x0.wkw")
    array = opened(packed, voxels)
    assert np.array_equal(array.read(array.box), voxels)


def test_a_cube_without_a_file_is_zero(tmp_path):
    voxels = volume()
    write_wkw(tmp_path, voxels)
    assert not (tmp_path / "z0/y0/x1.wkw").exists()
    (tmp_path / "z1/y0/x0.wkw").unlink()
    voxels[:, 16:, :, :16] = 0
    assert np.array_equal(opened(tmp_path, voxels).read(Box((0, 0, 0), (17, 9, 20))), voxels)


def changed(path, at, content):
    data = bytearray(path.read_bytes())
    data[at : at + len(content)] = content
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("at", "content", "message"),
    [
        (0, b"WKX", "is no WKW file"),
        (3, b"\2", "is of version 2"),
        (4, b"\x1f", "claims blocks of 33,554,432 MiB"),
        (5, b"\4", "has blocks of type 4"),
        (6, b"\0", "voxels of type 0"),
        (6, b"\x0b", "voxels of type 11"),
        (6, b"\2", "a voxel of uint16 takes 1 bytes"),
        (7, b"\0", "a voxel of uint8 takes 0 bytes"),
    ],
)
def test_a_header_that_cannot_be_is_refused(tmp_path, at, content, message):
    write_wkw(tmp_path, volume())
    changed(tmp_path / "header.wkw", at, content)
    with pytest.raises((InvalidDataset, UnsupportedFormat), match=message):
        opened(tmp_path, volume()).read(Box((0, 0, 0), (1, 1, 1)))


@pytest.mark.parametrize(
    ("packing", "damage", "message"),
    [
        ("raw", lambda path: changed(path, 4, b"\x22"), "is not what header.wkw"),
        ("raw", lambda path: changed(path, 0, b"abc"), "is no WKW file"),
        ("raw", lambda path: path.write_bytes(path.read_bytes()[:-1]), "it is cut off"),
        ("raw", lambda path: path.write_bytes(b""), "is no WKW file"),
        ("raw", lambda path: changed(path, 8, struct.pack("<Q", 2**40)), "it is cut off"),
        ("lz4", lambda path: path.write_bytes(path.read_bytes()[:-1]), "it is cut off"),
        ("lz4", lambda path: path.write_bytes(path.read_bytes()[:40]), "it is cut off"),
        ("lz4", lambda path: changed(path, 16, struct.pack("<Q", 2**63)), "block [01] cannot lie from byte"),
        ("lz4", lambda path: changed(path, 24, struct.pack("<Q", 0)), "block [12] cannot lie from byte"),
        ("lz4", lambda path: changed(path, 80, b"\xff" * 20), "the data is damaged"),
        ("lz4", lambda path: changed(path, 80, b"\x10\x00"), "the data is damaged"),
    ],
)  # fmt: skip
def test_a_damaged_cube_is_named(tmp_path, packing, damage, message):
    write_wkw(tmp_path, volume(), packing=packing)
    damage(tmp_path / "z0/y0/x0.wkw")
    array = opened(tmp_path, volume())
    with pytest.raises(InvalidDataset, match=message):
        array.read(array.box)
    assert array.read(Box((0, 0, 17), (1, 1, 1))).any()


def test_a_folder_without_a_header_is_no_array(tmp_path):
    with pytest.raises(MagNotFound, match="no wkw array at"):
        opened(tmp_path, volume()).read(Box((0, 0, 0), (1, 1, 1)))


def test_remote_folders_are_refused():
    with pytest.raises(UnsupportedFormat, match="from folders of this machine only; copy it here"):
        opened("https://example.org/color/1", volume()).read(Box((0, 0, 0), (1, 1, 1)))


def test_a_dataset_that_states_other_channels_is_refused(tmp_path):
    write_wkw(tmp_path, volume())
    with pytest.raises(InvalidDataset, match="has 1 channels, but the dataset says 3"):
        opened(tmp_path, volume(channels=3)).read(Box((0, 0, 0), (1, 1, 1)))
