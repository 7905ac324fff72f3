"""Boxes read from NIfTI files of an independent writer equal slices of what was written."""

import gzip
import itertools
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voxelworks.errors import SourceNotFound, UnsupportedDtype, UnsupportedFormat
from voxelworks.geometry import Box
from voxelworks.testing.independent_writers import NiftiStyle, write_nifti
from voxelworks.volumes.formats import open_source, open_volumes

FILE_NUMBERS = itertools.count()
VOLUME = np.random.default_rng(5).integers(0, 1000, (3, 4, 5), dtype=np.int16)
DTYPES = ["uint8", "int16", "int32", "float32", "int8", "uint16", "uint32", "int64", "uint64"]


def whole(source):
    return source.read(Box.from_zyx((0, 0, 0), source.shape_zyx))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)), dtype=st.sampled_from(DTYPES),
    order=st.sampled_from(["little", "big"]), version=st.sampled_from([1, 2]), is_pair=st.booleans(),
    is_packed=st.booleans(), data=st.data(),
)  # fmt: skip
def test_a_box_of_any_nifti_equals_the_slice(
    tmp_path, shape, dtype, order, version, is_pair, is_packed, data
):
    values = np.random.default_rng(1).integers(0, 100, shape).astype(dtype)
    path = tmp_path / f"v{next(FILE_NUMBERS)}.{'hdr' if is_pair else 'nii'}"
    write_nifti(path, values, NiftiStyle(byte_order=order, version=version, is_pair=is_pair))
    if is_packed:
        packed = path.with_suffix(".img") if is_pair else path
        (tmp_path / f"{packed.name}.gz").write_bytes(gzip.compress(packed.read_bytes()))
        packed.unlink()
        path = path if is_pair else tmp_path / f"{path.name}.gz"
    source = open_source(path)
    assert (source.shape_zyx, source.dtype, len(source.files)) == (shape, dtype, 1 + is_pair)
    start = [data.draw(st.integers(0, size)) for size in shape]
    box = Box.from_zyx(tuple(start), tuple(size - first for size, first in zip(shape, start, strict=True)))
    assert np.array_equal(source.read(box), values[None, *box.slices_zyx])


@pytest.mark.parametrize(("units", "size"), [(1, "1000000000,2000000000,3000000000"), (3, "1000,2000,3000")])
def test_the_voxel_size_is_pixdim_in_its_unit(tmp_path, units, size):
    source = open_source(
        write_nifti(tmp_path / "v.nii", VOLUME, NiftiStyle(spacings=(1, 2, -3), units=units))
    )
    assert (str(source.voxel_size), source.voxel_size_from) == (size, "NIfTI pixdim")


def test_without_a_unit_there_is_no_voxel_size(tmp_path):
    source = open_source(write_nifti(tmp_path / "v.nii", VOLUME))
    assert (source.voxel_size, source.notes) == (None, ("pixdim states 1, 1, 1 without a unit",))


def test_slope_and_turned_axes_are_noted(tmp_path):
    style = NiftiStyle(units=2, slope=0.5, intercept=-10, rows=(-1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0))
    source = open_source(write_nifti(tmp_path / "v.nii", VOLUME, style))
    assert np.array_equal(whole(source)[0], VOLUME)
    assert source.notes == (
        "the stored values are kept; the header says that value = 0.5 x stored + -10",
        "the header turns or mirrors the axes; the voxels are kept in the order in which they are stored",
    )


def test_time_points_become_volumes(tmp_path):
    volumes = open_volumes(write_nifti(tmp_path / "v.nii", np.stack([VOLUME, VOLUME + 1])))
    assert [volume.name for volume in volumes] == ["time-1", "time-2"]
    assert all(np.array_equal(whole(v.source)[0], VOLUME + i) for i, v in enumerate(volumes))


def test_rgb_is_read(tmp_path):
    stored = np.random.default_rng(1).integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)
    source = open_source(write_nifti(tmp_path / "v.nii", stored, NiftiStyle(datatype=128)))
    assert np.array_equal(whole(source), np.moveaxis(stored, -1, 0))


def test_the_image_of_a_pair_opens_it_too(tmp_path):
    write_nifti(tmp_path / "v.hdr", VOLUME, NiftiStyle(is_pair=True))
    assert np.array_equal(whole(open_source(tmp_path / "v.img"))[0], VOLUME)
    assert np.array_equal(whole(open_source(tmp_path))[0], VOLUME)


def test_a_missing_image_is_named(tmp_path):
    write_nifti(tmp_path / "v.hdr", VOLUME, NiftiStyle(is_pair=True))
    (tmp_path / "v.img").unlink()
    with pytest.raises(SourceNotFound) as error:
        open_source(tmp_path / "v.hdr")
    assert error.value.message == f"{tmp_path / 'v.img'} does not exist; check the name"


@pytest.mark.parametrize(
    ("at", "code", "value", "kind", "message"),
    [
        (42, "h", 32767, UnsupportedFormat, "v.nii is cut short: it has 472 of 786760 bytes; copy it again"),
        (42, "h", -5, UnsupportedFormat, "v.nii states a size of -5 x 4 x 3 voxels; it is damaged or empty"),
        (40, "h", 9, UnsupportedFormat, "v.nii states 9 axes; it is damaged"),
        (108, "f", float("nan"), UnsupportedFormat, "v.nii states that voxels begin at byte nan; it is damaged"),
        (70, "h", 64, UnsupportedDtype,
         "v.nii holds float64 values, which no layer can have; save images as float32, labels as uint64"),
        (70, "h", 32, UnsupportedDtype, "v.nii holds complex64 values (type 32); save it as float32"),
    ],
)  # fmt: skip
def test_damaged_headers_are_named(tmp_path, at, code, value, kind, message):
    path = write_nifti(tmp_path / "v.nii", VOLUME)
    data = bytearray(path.read_bytes())
    struct.pack_into("<" + code, data, at, value)
    path.write_bytes(data)
    with pytest.raises(kind) as error:
        open_source(path)
    assert error.value.message == message


def test_five_axes_are_refused(tmp_path):
    with pytest.raises(UnsupportedFormat) as error:
        open_source(write_nifti(tmp_path / "v.nii", np.zeros((2, 3, 4, 5, 6), np.uint8)))
    assert error.value.message == (
        "v.nii has more axes than x, y, z and time (6 x 5 x 4 x 3 x 2); save the volumes you need by themselves"
    )


def test_a_packed_header_that_claims_too_much_is_refused(tmp_path):
    path = write_nifti(tmp_path / "v.nii", VOLUME)
    data = bytearray(path.read_bytes())
    struct.pack_into("<3h", data, 42, 32767, 32767, 32767)
    path.write_bytes(gzip.compress(data, mtime=0))
    with pytest.raises(UnsupportedFormat, match="it claims 70362301923678 bytes packed in"):
        open_source(path)


def test_a_packed_file_that_is_cut_short_is_named(tmp_path):
    path = write_nifti(tmp_path / "v.nii", VOLUME)
    path.write_bytes(gzip.compress(path.read_bytes())[:-60])
    with pytest.raises(
        UnsupportedFormat, match=r"v\.nii is cut short: it unpacks to \d+ of 472 bytes; copy it again"
    ):
        whole(open_source(path))


def test_many_packed_streams_one_after_the_other_are_one(tmp_path):
    path = write_nifti(tmp_path / "v.nii", VOLUME)
    data = path.read_bytes()
    path.write_bytes(gzip.compress(data[:360]) + gzip.compress(data[360:]))
    assert np.array_equal(whole(open_source(path))[0], VOLUME)
