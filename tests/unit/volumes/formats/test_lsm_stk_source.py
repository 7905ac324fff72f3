"""Stacks of Zeiss' LSM and MetaMorph's STK of an independent writer are read with their channels and voxel sizes."""

import contextlib
import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voxelworks.errors import UnsupportedDtype, UnsupportedFormat
from voxelworks.geometry import Box
from voxelworks.testing.independent_codings import write_lsm, write_stk
from voxelworks.volumes.formats import open_source, open_volumes

FILE_NUMBERS = itertools.count()


def noise(shape, dtype=np.uint8):
    return np.random.default_rng(4).integers(0, 200, shape).astype(dtype)


@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 1), ("uint8", 2), ("uint16", 3)])
def test_an_lsm_is_a_volume_for_each_time_point_and_channel(tmp_path, dtype, channels):
    voxels = noise((2, 3, channels, 5, 7), dtype)
    names = ["GFP", "DAPI", "Ch3"][:channels]
    volumes = open_volumes(write_lsm(tmp_path / "v.lsm", voxels, channel_names=names))
    called = [f"t{t} {name}" if channels > 1 else f"t{t}" for t in range(2) for name in names]
    assert [volume.name for volume in volumes] == called
    for volume, (t, c) in zip(volumes, itertools.product(range(2), range(channels)), strict=True):
        assert np.array_equal(volume.source.read(volume.source.box)[0], voxels[t, :, c])
        assert str(volume.source.voxel_size) == "100,100,500"
        assert volume.source.voxel_size_from == "the LSM tag"
    box = Box((1, 2, 1), (4, 2, 2))
    assert np.array_equal(volumes[-1].source.read(box)[0], voxels[1, :, -1][box.slices_zyx])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scan_type": 1}, "is an LSM file of scan type 1, whose images are no sections"),
        ({"other_axes": (3, 0)}, "has 3 positions; save the one you need"),
        ({"other_axes": (0, 4)}, "has 4 tiles of a mosaic; save the one you need"),
    ],
)
def test_other_lsm_are_refused(tmp_path, options, message):
    path = write_lsm(tmp_path / "v.lsm", noise((1, 2, 1, 5, 7)), **options)
    with pytest.raises(UnsupportedFormat, match=message):
        open_source(path)


def test_an_lsm_without_distance_of_sections_says_so(tmp_path):
    source = open_source(write_lsm(tmp_path / "v.lsm", noise((1, 1, 1, 5, 7)), voxel_size_m=(1e-7, 2e-7, 0)))
    assert source.voxel_size is None
    assert source.notes[-1] == "the LSM tag states pixels of 100 x 200 nm, but no distance of sections"


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_an_stk_is_a_stack(tmp_path, dtype):
    planes = noise((4, 5, 7), dtype)
    source = open_source(write_stk(tmp_path / "v.stk", planes, distances_um=[0.5] * 4, pixel_um=0.25))
    assert np.array_equal(source.read(source.box)[0], planes)
    assert (str(source.voxel_size), source.voxel_size_from) == ("250,250,500", "MetaMorph tags")


def test_wavelengths_and_time_points_of_an_stk_are_volumes(tmp_path):
    planes = noise((6, 5, 7))
    path = write_stk(tmp_path / "w.stk", planes, distances_um=[1] * 6, wavelengths_nm=[488, 561] * 3)
    volumes = {volume.name: volume.source for volume in open_volumes(path)}
    assert list(volumes) == ["488 nm", "561 nm"]
    assert np.array_equal(volumes["561 nm"].read(volumes["561 nm"].box)[0], planes[1::2])
    path = write_stk(tmp_path / "t.stk", planes, times_ms=range(1, 7))
    assert [volume.name for volume in open_volumes(path)] == [f"t{t}" for t in range(6)]
    path = write_stk(tmp_path / "u.stk", planes, wavelengths_nm=[488, 561, 561, 488, 561, 561])
    with pytest.raises(UnsupportedFormat, match="unequally many planes of its wavelengths"):
        open_volumes(path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(is_lsm=st.booleans(), data=st.data())
def test_damaged_files_are_refused(tmp_path, is_lsm, data):
    path = tmp_path / f"v{next(FILE_NUMBERS)}.tif"
    if is_lsm:
        write_lsm(path, noise((1, 2, 2, 5, 7)), channel_names=["a", "b"])
    else:
        write_stk(path, noise((3, 5, 7)), distances_um=[1] * 3, pixel_um=1)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 5))
    content[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4))
    path.write_bytes(content[: data.draw(st.integers(len(content) - 200, len(content)))])
    with contextlib.suppress(UnsupportedFormat, UnsupportedDtype):
        for volume in open_volumes(path):
            volume.source.read(volume.source.box)
