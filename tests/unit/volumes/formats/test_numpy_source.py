"""Arrays that NumPy saved are read box by box; what could run code is not."""

import itertools
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voxelworks.errors import UnsupportedDtype, UnsupportedFormat
from voxelworks.geometry import Box
from voxelworks.volumes.formats import open_source, open_volumes

FILE_NUMBERS = itertools.count()
VOLUME = np.random.default_rng(5).integers(0, 1000, (3, 4, 5), dtype=np.uint16)


def whole(source):
    return source.read(Box.from_zyx((0, 0, 0), source.shape_zyx))


def saved(path, array):
    np.save(path, array, allow_pickle=True)
    return path


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(4, 9)),
    dtype=st.sampled_from(["u1", "<u2", ">u2", "<i4", ">u8", "<f4", ">f4", "i1", "?"]),
    is_fortran=st.booleans(), suffix=st.sampled_from(["npy", "stored.npz", "packed.npz"]), data=st.data(),
)  # fmt: skip
def test_a_box_of_any_array_equals_the_slice(tmp_path, shape, dtype, is_fortran, suffix, data):
    values = np.random.default_rng(1).integers(0, 100, shape).astype(dtype)
    values = np.asfortranarray(values) if is_fortran else values
    path = tmp_path / f"v{next(FILE_NUMBERS)}.{suffix}"
    {"npy": np.save, "stored.npz": np.savez, "packed.npz": np.savez_compressed}[suffix](path, values)
    source = open_source(path)
    assert (source.shape_zyx, source.has_random_access) == (shape, "packed" not in suffix)
    start = [data.draw(st.integers(0, size)) for size in shape]
    box = Box.from_zyx(tuple(start), tuple(size - first for size, first in zip(shape, start, strict=True)))
    assert np.array_equal(source.read(box), values[None, *box.slices_zyx])


def test_channels_sections_and_colours_are_told_apart(tmp_path):
    channels = np.stack([VOLUME, VOLUME + 1])
    volumes = open_volumes(saved(tmp_path / "c.npy", channels))
    assert [volume.name for volume in volumes] == ["channel-1", "channel-2"]
    assert all(np.array_equal(whole(v.source)[0], VOLUME + i) for i, v in enumerate(volumes))
    assert np.array_equal(whole(open_source(saved(tmp_path / "s.npy", VOLUME[0])))[0, 0], VOLUME[0])
    rgb = np.random.default_rng(1).integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)
    assert np.array_equal(whole(open_source(saved(tmp_path / "r.npy", rgb))), np.moveaxis(rgb, -1, 0))


def test_members_of_an_archive_are_volumes_and_what_is_none_is_noted(tmp_path):
    np.savez(tmp_path / "v.npz", raw=VOLUME, labels=VOLUME.astype(np.uint64), offset=np.arange(3))
    volumes = open_volumes(tmp_path / "v.npz")
    assert [(volume.name, volume.source.dtype.name) for volume in volumes] == [
        ("raw", "uint16"),
        ("labels", "uint64"),
    ]
    assert volumes[0].source.notes == (
        "ignored: offset.npy of v.npz is an array of 1 axes; save it as z,y,x",
    )


@pytest.mark.parametrize(
    ("array", "kind", "message"),
    [
        (np.array([[{}]]), UnsupportedDtype,
         "v.npy holds Python objects, which are never loaded; save it as numbers"),
        (np.zeros((2, 2), "u1,f4"), UnsupportedDtype, "v.npy holds records; save each field by itself"),
        (np.zeros((2, 2)), UnsupportedDtype,
         "v.npy holds float64 values, which no layer can have; save images as float32, labels as uint64"),
        (np.zeros(5, "u1"), UnsupportedFormat, "v.npy is an array of 1 axes; save it as z,y,x"),
        (np.zeros((0, 2, 2), "u1"), UnsupportedFormat,
         "v.npy states a size of 2 x 2 x 0 voxels; it is damaged or empty"),
        (np.zeros((33, 2, 2, 2), "u1"), UnsupportedFormat, "v.npy has 33 channels (its first axis); save it as z,y,x"),
    ],
)  # fmt: skip
def test_what_is_no_volume_is_refused(tmp_path, array, kind, message):
    with pytest.raises(kind) as error:
        open_source(saved(tmp_path / "v.npy", array))
    assert error.value.message == message


@pytest.mark.parametrize(
    "shape", ["(3, 4, 500)", "(3, -4, 5)", "(3, 4, 5", "__import__('os')", "(1e3, 2, 2)", "9" * 70_000]
)
def test_damaged_headers_are_refused(tmp_path, shape):
    path = saved(tmp_path / "v.npy", VOLUME)
    data = path.read_bytes()[128:]
    header = f"{{'descr': '<u2', 'fortran_order': False, 'shape': {shape}}}".encode()
    path.write_bytes(b"\x93NUMPY\x02\0" + len(header).to_bytes(4, "little") + header + data)
    with pytest.raises(UnsupportedFormat):
        open_source(path)


def test_a_damaged_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "v.npz", "w") as archive:
        archive.writestr("readme.npy", "hello")
    with pytest.raises(UnsupportedFormat):
        open_source(tmp_path / "v.npz")
    (tmp_path / "w.npz").write_bytes((tmp_path / "v.npz").read_bytes()[:30])
    with pytest.raises(UnsupportedFormat):
        open_source(tmp_path / "w.npz")
