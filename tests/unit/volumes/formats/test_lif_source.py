import struct

import liffile
import numpy as np
import pytest

from voxelworks.errors import UnsupportedDtype, UnsupportedFormat
from voxelworks.geometry import Box, VoxelSize
from voxelworks.testing.independent_makers import LifImage, write_lif, write_lof
from voxelworks.volumes.formats import format_name, open_source, open_volumes

RANDOM = np.random.default_rng(0)
METRES = {"x": 6 * 0.2e-6, "y": 4 * 0.2e-6, "z": 2 * 1e-6}
"""Of 7 x 5 x 3 voxels of 200 x 200 x 1000 nm."""


def voxels(*shape, dtype=np.uint16):
    return RANDOM.integers(0, 200, shape).astype(dtype)


def by_liffile(path, index=0):
    """Give what liffile reads, with all axes that have a length."""
    with liffile.LifFile(path) as lif:
        image = lif.images[index]
        return image.dims, image.asarray()


def test_channels_times_and_positions_become_volumes(tmp_path):
    stored = voxels(2, 2, 3, 2, 5, 7)
    image = LifImage("a", stored, "ptzcyx", METRES, ("Green", "Red"))
    path = write_lif(tmp_path / "s.lif", [image])
    dims, seen = by_liffile(path)
    assert dims == ("M", "T", "Z", "C", "Y", "X")
    assert (seen == stored).all()
    found = open_volumes(path)
    assert format_name(path) == "LIF/LOF"
    assert [v.name for v in found] == [
        f"position{p} t{t} {c}" for p in (0, 1) for t in (0, 1) for c in ("Green", "Red")
    ]
    for volume, wanted in zip(found, seen.transpose(0, 1, 3, 2, 4, 5).reshape(8, 3, 5, 7), strict=True):
        assert (volume.source.read(volume.source.box)[0] == wanted).all()
        assert (volume.source.voxel_size, volume.source.voxel_size_from) == (
            VoxelSize(200, 200, 1000),
            "LIF dimensions",
        )
    part = found[3].source.read(Box((2, 1, 1), (4, 3, 2)))
    assert (part[0] == seen[0, 1, 1:3, 1, 1:4, 2:6]).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
@pytest.mark.parametrize("axes", ["czyx", "zcyx", "zyxc"])
def test_values_and_orders(tmp_path, dtype, axes):
    shape = {"c": 2, "z": 3, "y": 5, "x": 7}
    stored = voxels(*(shape[axis] for axis in axes), dtype=dtype)
    path = write_lif(tmp_path / "s.lif", [LifImage("a", stored, axes, METRES, ("Cy5", "DAPI"))])
    dims, seen = by_liffile(path)
    assert sorted(dims) == sorted(axes.upper().replace("C", "S" if axes == "zyxc" else "C"))
    wanted = seen.transpose([axes.index(axis) for axis in "czyx"])
    for volume, channel in zip(open_volumes(path), wanted, strict=True):
        assert volume.source.dtype == np.dtype(dtype)
        assert (volume.source.read(volume.source.box)[0] == channel).all()
        assert (volume.source.read(Box((1, 2, 1), (5, 2, 1)))[0] == channel[1:2, 2:4, 1:6]).all()


def test_images_of_folders_have_their_names_and_empty_ones_are_left_out(tmp_path):
    images = [
        LifImage("a", voxels(5, 7), "yx"),
        LifImage("none", voxels(0, 7), "yx"),
        LifImage("tile/b", voxels(3, 5, 7), "zyx"),
    ]
    found = open_volumes(write_lif(tmp_path / "s.lif", images))
    assert [volume.name for volume in found] == ["a", "tile/b"]
    assert found[0].source.notes[-1] == "ignored in s.lif: none (empty)"
    assert [volume.source.shape_zyx for volume in found] == [(1, 5, 7), (3, 5, 7)]
    assert (found[1].source.read(found[1].source.box)[0] == images[2].voxels).all()


@pytest.mark.parametrize("colours", [("Red", "Green", "Blue"), ("Blue", "Green", "Red")])
@pytest.mark.parametrize("padding", [0, 3])
def test_colours_are_one_volume_in_the_order_red_green_blue(tmp_path, colours, padding):
    stored = voxels(2, 5, 7, 3, dtype=np.uint8)
    image = LifImage("a", stored, "zyxc", {}, colours, are_colours=True, row_padding=padding)
    path = write_lif(tmp_path / "s.lif", [image])
    source = open_source(path)
    _, seen = by_liffile(path)
    assert (seen == stored[..., [colours.index(name) for name in ("Red", "Green", "Blue")]]).all()
    assert source.channel_count == 3
    assert (source.read(source.box).transpose(1, 2, 3, 0) == seen).all()
    assert (source.read(Box((4, 3, 1), (3, 2, 1))).transpose(1, 2, 3, 0) == seen[1:, 3:, 4:]).all()


def test_scans_from_the_side_come_back_in_order(tmp_path):
    stored = voxels(5, 3, 7)
    source = open_source(write_lif(tmp_path / "s.lif", [LifImage("a", stored, "yzx", METRES)]))
    assert (source.read(source.box)[0] == stored.transpose(1, 0, 2)).all()
    flat = open_source(write_lif(tmp_path / "f.lif", [LifImage("a", stored[0], "zx", METRES)]))
    assert (flat.shape_zyx, flat.notes) == (
        (3, 1, 7),
        ("LIF states the voxel size only in part (x: 2e-07 m, z: 1e-06 m)",),
    )
    assert (flat.read(flat.box)[0, :, 0] == stored[0]).all()


def test_lof_files_hold_one_image(tmp_path):
    stored = voxels(3, 5, 7)
    path = write_lof(tmp_path / "s.lof", LifImage("a", stored, "zyx", METRES, bits=12))
    assert (by_liffile(path)[1] == stored).all()
    source = open_source(path)
    assert (source.voxel_size, source.dtype) == (VoxelSize(200, 200, 1000), np.uint16)
    assert (source.read(source.box)[0] == stored).all()


def test_what_cannot_be_is_refused(tmp_path):
    path = write_lif(tmp_path / "s.lif", [LifImage("a", voxels(3, 5, 7), "zyx")])
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(UnsupportedFormat, match=r"s\.lif is cut short"):
        open_volumes(path)
    larger = 'NumberOfElements="3"'.encode("utf-16-le")
    path.write_bytes(whole.replace(larger, larger.replace(b"3", b"9")))
    with pytest.raises(UnsupportedFormat, match="describes an image of 630 bytes, of which 210 are there"):
        open_volumes(path)
    path.write_bytes(whole.replace(larger, larger.replace(b"3", b"0")))
    with pytest.raises(UnsupportedFormat, match="states a size of 7 x 5 x 0 voxels"):
        open_volumes(path)
    step = 'BytesInc="70"'.encode("utf-16-le")
    path.write_bytes(whole.replace(step, step.replace(b"7", b"0")))
    with pytest.raises(UnsupportedFormat, match="whose axes lie in an order that is not read"):
        open_volumes(path)
    path.write_bytes(whole[:9] + struct.pack("<I", 2**31) + whole[13:])
    with pytest.raises(UnsupportedFormat, match="is damaged near byte 13"):
        open_volumes(path)
    with pytest.raises(UnsupportedDtype, match="holds float64 values"):
        open_volumes(write_lif(tmp_path / "d.lif", [LifImage("a", voxels(5, 7, dtype=np.float64), "yx")]))
    with pytest.raises(UnsupportedFormat, match=r"e\.lif holds no image"):
        open_volumes(write_lif(tmp_path / "e.lif", []))
