"""Boxes read from DM3 and DM4 files of an independent writer equal slices of what was written."""

import contextlib
import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voxelworks.errors import UnsupportedDtype, UnsupportedFormat
from voxelworks.geometry import Box
from voxelworks.testing.independent_writers import DmStyle, write_dm
from voxelworks.volumes.formats import open_source, open_volumes

FILE_NUMBERS = itertools.count()
VOLUME = np.random.default_rng(5).integers(0, 1000, (3, 4, 5), dtype=np.uint16)
DTYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "int64", "uint64"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)), dtype=st.sampled_from(DTYPES),
    order=st.sampled_from(["little", "big"]), version=st.sampled_from([3, 4]), has_thumbnail=st.booleans(),
    data=st.data(),
)  # fmt: skip
def test_a_box_of_any_dm_file_equals_the_slice(tmp_path, shape, dtype, order, version, has_thumbnail, data):
    values = np.random.default_rng(1).integers(0, 100, shape).astype(dtype)
    path = tmp_path / f"v{next(FILE_NUMBERS)}.dm{version}"
    source = open_source(
        write_dm(path, values, DmStyle(byte_order=order, version=version, has_thumbnail=has_thumbnail))
    )
    assert (source.shape_zyx, source.dtype) == (shape, dtype)
    start = [data.draw(st.integers(0, size)) for size in shape]
    box = Box.from_zyx(tuple(start), tuple(size - first for size, first in zip(shape, start, strict=True)))
    assert np.array_equal(source.read(box), values[None, *box.slices_zyx])


@pytest.mark.parametrize(
    ("scales", "units", "size", "notes"),
    [
        ((0.5, 0.25, 2.0), ("nm", "nm", "nm"), "0.5,0.25,2", ()),
        ((0.5, 0.5, 2.0), ("\u03bcm", "\u00b5m", "\u03bcm"), "500,500,2000", ()),
        ((0.5, 0.5, 1.0), ("nm", "nm", ""), "None",
         ("DigitalMicrograph states 0.5 nm, 0.5 nm, 1 along x, y, z, which is no voxel size",)),
        ((0.5, 0.5, 0.5), ("1/nm", "1/nm", "1/nm"), "None",
         ("DigitalMicrograph states 0.5 1/nm, 0.5 1/nm, 0.5 1/nm along x, y, z, which is no voxel size",)),
        ((0.5, 0.5), ("nm", "nm"), "None",
         ("DigitalMicrograph states 0.5 nm, 0.5 nm, nothing along x, y, z, which is no voxel size",)),
        ((1.0, 1.0, 1.0), ("", "", ""), "None", ()),
    ],
)  # fmt: skip
def test_the_voxel_size_is_the_calibration(tmp_path, scales, units, size, notes):
    source = open_source(write_dm(tmp_path / "v.dm3", VOLUME, DmStyle(scales=scales, units=units)))
    assert (str(source.voxel_size), source.notes) == (size, notes)


def test_colours_are_read(tmp_path):
    stored = np.random.default_rng(1).integers(0, 256, (2, 3, 4, 4), dtype=np.uint8)
    source = open_source(write_dm(tmp_path / "v.dm4", stored, DmStyle(version=4, datatype=23)))
    voxels = source.read(Box((0, 0, 0), (4, 3, 2)))
    assert np.array_equal(voxels, np.moveaxis(stored[..., 2::-1], -1, 0))


@pytest.mark.parametrize(
    ("volume", "kind", "message"),
    [
        (VOLUME.astype("complex64"), UnsupportedDtype,
         "v.dm3 holds complex64 values (type 3); save it as float32"),
        (VOLUME.astype("float64"), UnsupportedDtype,
         "v.dm3 holds float64 values, which no layer can have; save images as float32, labels as uint64"),
        (np.zeros((2, 3, 4, 5), "u1"), UnsupportedFormat,
         "v.dm3 has more axes than x, y and z (5 x 4 x 3 x 2); save the image you need"),
    ],
)  # fmt: skip
def test_what_is_no_volume_is_refused(tmp_path, volume, kind, message):
    with pytest.raises(kind) as error:
        open_source(write_dm(tmp_path / "v.dm3", volume))
    assert error.value.message == message


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(version=st.sampled_from([3, 4]), data=st.data())
def test_damaged_files_are_refused_by_name(tmp_path, version, data):
    path = write_dm(tmp_path / f"v{next(FILE_NUMBERS)}.dm{version}", VOLUME, DmStyle(version=version))
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        path.write_bytes(content[: data.draw(st.integers(8, len(content) - 150))])
        with pytest.raises(UnsupportedFormat, match=path.name):
            open_source(path)
        return
    at = data.draw(st.integers(4, len(content) - 9))
    content[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
    path.write_bytes(content)
    with contextlib.suppress(UnsupportedFormat, UnsupportedDtype):
        open_volumes(path)
