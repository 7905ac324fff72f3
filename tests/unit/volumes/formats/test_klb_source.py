"""KLB files of a writer that follows the header of the format with `struct` alone."""

import bz2
import itertools
import math
import pickle
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voxelworks.errors import UnsupportedDtype, UnsupportedFormat
from voxelworks.geometry import Box, VoxelSize
from voxelworks.volumes.formats import open_source, open_volumes

FILE_NUMBERS = itertools.count()
DTYPES = ["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32"]
PACK = [bytes, bz2.compress, zlib.compress]


def write_klb(path, array, block_zyx, *, packing=1, steps=(0.4, 0.4, 2.0)):
    """Write (t, c, z, y, x)."""
    sizes, blocks = array.shape, (1, 1, *block_zyx)
    packed = []
    for at in np.ndindex(*(math.ceil(size / block) for size, block in zip(sizes, blocks, strict=True))):
        part = array[tuple(slice(i * block, (i + 1) * block) for i, block in zip(at, blocks, strict=True))]
        packed.append(PACK[packing](part.astype(part.dtype.newbyteorder("<")).tobytes()))
    ends = np.cumsum([len(part) for part in packed])
    header = struct.pack(
        "<B5I5fBB256s5I",
        2,
        *sizes[::-1],
        *steps,
        1,
        1,
        DTYPES.index(array.dtype.name),
        packing,
        b"",
        *blocks[::-1],
    )
    path.write_bytes(header + struct.pack(f"<{len(ends)}Q", *ends) + b"".join(packed))
    return path


def read_whole(path):
    source = open_source(path)
    return source.read(source.box)


def refusal(kind, path):
    with pytest.raises(kind) as error:
        read_whole(path)
    return error.value.message


def noise(shape, dtype="uint16"):
    return np.random.default_rng(3).integers(0, 200, shape).astype(dtype)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_box_equals_the_slice(tmp_path, data):
    shape, block = (data.draw(st.tuples(*[st.integers(1, 12)] * 3)) for _ in range(2))
    array = noise((1, 1, *shape), data.draw(st.sampled_from(DTYPES)))
    packing = data.draw(st.integers(0, 2))
    path = write_klb(tmp_path / f"s{next(FILE_NUMBERS)}.klb", array, block, packing=packing)
    source = pickle.loads(pickle.dumps(open_source(path)))
    assert (source.shape_zyx, source.dtype) == (shape, array.dtype)
    start = [data.draw(st.integers(0, size)) for size in shape]
    size = [data.draw(st.integers(0, whole - first)) for first, whole in zip(start, shape, strict=True)]
    box = Box.from_zyx(tuple(start), tuple(size))
    assert np.array_equal(source.read(box), array[0, 0][box.slices_zyx][None])


def test_channels_and_time_points_are_volumes(tmp_path):
    array = noise((2, 3, 4, 5, 7))
    volumes = open_volumes(write_klb(tmp_path / "s.klb", array, (3, 3, 3)))
    assert [volume.name for volume in volumes] == [f"t{t} c{c}" for t in range(2) for c in range(3)]
    for volume, expected in zip(volumes, array.reshape(6, 4, 5, 7), strict=True):
        assert np.array_equal(volume.source.read_section(3)[0], expected[3])


@pytest.mark.parametrize(
    ("steps", "size", "notes"),
    [
        ((0.4, 0.4, 2.0), VoxelSize(400.0, 400.0, 2000.0), ()),
        ((1, 1, 1), None, ("KLB states voxels of 1 x 1 x 1 µm, as it does where nobody gave a size",)),
        ((0, 1, 1), None, ("KLB states a voxel size of 0, 1, 1 µm, which cannot be used",)),
    ],
)
def test_the_header_states_the_voxel_size(tmp_path, steps, size, notes):
    source = open_source(write_klb(tmp_path / "s.klb", noise((1, 1, 2, 3, 4)), (2, 2, 2), steps=steps))
    assert (source.voxel_size, source.notes) == (size, notes)
    assert source.voxel_size_from == ("KLB header" if size else "")


def test_damaged_files_are_refused(tmp_path):
    path = write_klb(tmp_path / "s.klb", noise((1, 1, 4, 5, 7)), (2, 2, 2))
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    assert refusal(UnsupportedFormat, path) == "s.klb is cut short: it has no header; copy it again"
    path.write_bytes(whole[:400])
    assert (
        refusal(UnsupportedFormat, path) == "s.klb is cut short: its list of blocks is missing; copy it again"
    )
    path.write_bytes(whole[:-20])
    assert refusal(UnsupportedFormat, path) == (
        "s.klb is cut short or damaged: a block is missing; copy it again"
    )
    path.write_bytes(whole[:41] + b"\x09" + whole[42:])
    assert refusal(UnsupportedDtype, path) == (
        "s.klb has values of a kind that is not supported (KLB type 9); "
        "save it as uint8, uint16, uint32 or float32"
    )
    start = whole.index(b"BZh")
    path.write_bytes(whole[:start] + b"XXX" + whole[start + 3 :])
    assert refusal(UnsupportedFormat, path) == (
        "s.klb cannot be decoded: a block is damaged; copy it again or save it anew"
    )


def test_a_block_that_unpacks_to_more_than_it_should_is_refused(tmp_path):
    path = write_klb(tmp_path / "s.klb", np.zeros((1, 1, 4, 50, 70), "uint16"), (4, 50, 70))
    data = bytearray(path.read_bytes())
    struct.pack_into("<3I", data, 1, 7, 5, 4)
    struct.pack_into("<3I", data, 299, 7, 5, 4)
    path.write_bytes(data)
    assert refusal(UnsupportedFormat, path) == (
        "s.klb cannot be decoded: a block has 281 bytes instead of 280; copy it again or save it anew"
    )
