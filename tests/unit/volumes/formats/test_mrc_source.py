"""Boxes read from MRC files of an independent writer equal slices of what was written."""

import gzip
import itertools
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voxelworks.errors import UnsupportedDtype, UnsupportedFormat
from voxelworks.geometry import Box
from voxelworks.testing.independent_writers import MrcStyle, write_mrc
from voxelworks.volumes.formats import open_source, open_volumes

FILE_NUMBERS = itertools.count()
VOLUME = np.random.default_rng(5).integers(-100, 100, (3, 4, 5), dtype=np.int16)


def whole(source):
    return source.read(Box.from_zyx((0, 0, 0), source.shape_zyx))


@st.composite
def boxes_in(draw, shape_zyx):
    start = [draw(st.integers(0, size)) for size in shape_zyx]
    shape = [draw(st.integers(0, size - first)) for first, size in zip(start, shape_zyx, strict=True)]
    return Box.from_zyx(tuple(start), tuple(shape))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from(["int8", "int16", "uint16", "float32", "float16"]),
    order=st.sampled_from(["little", "big"]), axes=st.sampled_from(["xyz", "yxz", "zxy", "zyx"]),
    extended=st.sampled_from([0, 80]), is_packed=st.booleans(), data=st.data(),
)  # fmt: skip
def test_a_box_of_any_mrc_equals_the_slice(tmp_path, shape, dtype, order, axes, extended, is_packed, data):
    values = np.random.default_rng(1).integers(-100, 100, shape).astype(dtype)
    path = tmp_path / f"v{next(FILE_NUMBERS)}.mrc"
    write_mrc(path, values, MrcStyle(byte_order=order, axes=axes, extended_bytes=extended))
    if is_packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    source = open_source(path)
    expected = values.astype("float32") if dtype == "float16" else values
    assert (source.shape_zyx, source.dtype, source.has_random_access) == (
        shape,
        expected.dtype,
        not is_packed,
    )
    box = data.draw(boxes_in(shape))
    assert np.array_equal(source.read(box), expected[None, *box.slices_zyx])


def test_the_voxel_size_is_that_of_the_cell(tmp_path):
    source = open_source(write_mrc(tmp_path / "v.mrc", VOLUME, MrcStyle(voxel_angstrom=(40.1, 40.1, 300))))
    assert (str(source.voxel_size), source.voxel_size_from) == ("4.01,4.01,30", "MRC cell dimensions")


@pytest.mark.parametrize(("flags", "dtype"), [(None, "int8"), (1, "int8"), (0, "uint8")])
def test_bytes_have_a_sign_unless_imod_says_otherwise(tmp_path, flags, dtype):
    stored = np.arange(125, 137, dtype=np.uint8).reshape(1, 3, 4)
    source = open_source(write_mrc(tmp_path / "v.mrc", stored, MrcStyle(imod_flags=flags)))
    assert np.array_equal(whole(source)[0], stored.view(dtype))
    assert source.dtype == dtype


def test_rgb_of_imod_is_read(tmp_path):
    stored = np.random.default_rng(1).integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)
    source = open_source(write_mrc(tmp_path / "v.mrc", stored))
    assert np.array_equal(whole(source), np.moveaxis(stored, -1, 0))


def test_a_stack_of_volumes_becomes_several(tmp_path):
    stacked = np.concatenate([VOLUME, VOLUME + 1])
    volumes = open_volumes(write_mrc(tmp_path / "v.mrc", stacked, MrcStyle(space_group=401, volume_depth=3)))
    assert [volume.name for volume in volumes] == ["volume-1", "volume-2"]
    assert all(np.array_equal(whole(v.source)[0], VOLUME + i) for i, v in enumerate(volumes))


def test_files_without_the_magic_word_are_known_by_their_name(tmp_path):
    source = open_source(write_mrc(tmp_path / "v.rec", VOLUME, MrcStyle(has_magic=False, byte_order="big")))
    assert np.array_equal(whole(source)[0], VOLUME)


def test_notes_say_what_was_made_of_the_header(tmp_path):
    style = MrcStyle(voxel_angstrom=(1, 1, 1), axes="zyx", space_group=0)
    source = open_source(write_mrc(tmp_path / "v.mrc", VOLUME.astype(np.int8), style))
    assert source.notes == (
        "the voxel size of 1 angstrom may be a placeholder: many programs write it when they know none",
        "bytes are read with a sign, as MRC2014 says",
        "the file stores its axes in the order xyz (slowest first); they were put in order",
        "the header calls this a stack of images, such as frames of a movie; they become sections",
    )


@pytest.mark.parametrize(
    ("at", "code", "value", "kind", "message"),
    [
        (8, "i", 4, UnsupportedFormat, "v.mrc is cut short: it has 1144 of 1184 bytes; copy it again"),
        (8, "i", 0, UnsupportedFormat, "v.mrc states a size of 5 x 4 x 0 voxels; it is damaged or empty"),
        (0, "i", 2**31 - 1, UnsupportedFormat, "v.mrc is cut short: it has 1144 of 51539608552 bytes; copy it again"),
        (92, "i", -9, UnsupportedFormat, "v.mrc has an extended header of -9 bytes; save it anew"),
        (64, "i", 2, UnsupportedFormat, "v.mrc orders its axes as 2, 2, 3, not as some order of 1, 2, 3; save it anew"),
        (12, "i", 4, UnsupportedDtype, "v.mrc holds complex float32 values (mode 4); save it as int16 or float32"),
        (12, "i", 55, UnsupportedDtype, "v.mrc holds unknown values (mode 55); save it as int16 or float32"),
    ],
)  # fmt: skip
def test_damaged_headers_are_named(tmp_path, at, code, value, kind, message):
    path = write_mrc(tmp_path / "v.mrc", VOLUME)
    data = bytearray(path.read_bytes())
    struct.pack_into("<" + code, data, at, value)
    path.write_bytes(data)
    with pytest.raises(kind) as error:
        open_source(path)
    assert error.value.message == message


def test_an_unusable_cell_is_noted(tmp_path):
    source = open_source(write_mrc(tmp_path / "v.mrc", VOLUME, MrcStyle(voxel_angstrom=(-10, 10, 10))))
    assert (source.voxel_size, source.notes) == (
        None,
        ("the header states a voxel size of -10, 10, 10 angstrom, which cannot be used",),
    )


def test_voxels_beyond_four_gigabytes_are_found(tmp_path):
    shape = (3, 40_000, 50_000)
    path = write_mrc(tmp_path / "v.mrc", np.zeros((1, 1, 1), np.uint8), MrcStyle(imod_flags=0))
    header = bytearray(path.read_bytes()[:1024])
    struct.pack_into("<3i", header, 0, *shape[::-1])
    last = np.arange(7, dtype=np.uint8)
    with path.open("wb") as stream:  # a sparse file: it takes hardly any disk
        stream.write(header)
        stream.truncate(1024 + np.prod(shape, dtype=np.int64))
        stream.seek(-7, 2)
        stream.write(last)
    assert np.array_equal(open_source(path).read(Box((49_990, 39_999, 2), (10, 1, 1)))[0, 0, 0, 3:], last)
