"""Real files of microscopes and programs, compared with what Pillow and tifffile read from them."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from voxelworks.geometry import Box
from voxelworks.testing.independent_writers import TiffStyle, write_png, write_tiff
from voxelworks.volumes.formats import open_source, open_volumes

TIFF_FILES = {
    "formats/tiff/D75_08b_3page.tiff": ((3, 172, 306), "uint8", 3),
    "formats/tiff/D75_08b_tiled.tiff": ((1, 172, 306), "uint8", 3),
    "formats/tiff/D75_16b_grey.tiff": ((1, 172, 306), "uint16", 1),
    "formats/tiff/CH1_16bit.tif": ((1, 408, 406), "uint16", 1),
    "formats/tiff/rgb_tiff/test_rgb.tif": ((1, 32, 32), "uint8", 3),
    "formats/tiff/tiff_with_different_shapes/1.tif": ((1, 250, 250), "uint8", 1),
    "formats/tiff/various_tiff_formats/test_I.tif": ((64, 128, 64), "uint32", 1),
    "formats/tiff/test_loading_image_saved_with_DM_stack.tif": ((2, 68, 68), "float32", 1),
    "formats/tiff/test_loading_image_saved_with_imageJ_stack.tif": ((2, 68, 68), "float32", 1),
    "formats/tiff_stack/tiff/test.0000.tiff": ((1, 265, 265), "uint8", 1),
    "formats/ome_tiff/single-channel.ome.tiff": ((1, 167, 439), "int8", 1),
    "formats/czi/FOV7_HV110_P0500510000.ome.tiff": ((1, 512, 512), "uint8", 1),
}


@pytest.mark.parametrize("name", TIFF_FILES)
def test_real_tiff_files_equal_what_tifffile_reads(test_data, name):
    source = open_source(test_data / name)
    assert (source.shape_zyx, str(source.dtype), source.channel_count) == TIFF_FILES[name]
    whole = tifffile.imread(test_data / name)
    samples_last = whole.reshape(*source.shape_zyx, source.channel_count)
    assert np.array_equal(source.read(source.box), np.moveaxis(samples_last, -1, 0))
    box = Box((5, 7, 0), (20, 19, 1))
    assert np.array_equal(source.read(box), np.moveaxis(samples_last, -1, 0)[:, *box.slices_zyx])


@pytest.mark.parametrize("name", ["D75_08b.jpeg", "D75_16b_grey.png"])
def test_real_png_and_jpeg_files_equal_what_pillow_reads(test_data, name):
    source = open_source(test_data / "formats/png_jpeg" / name)
    with Image.open(test_data / "formats/png_jpeg" / name) as opened:
        expected = np.atleast_3d(np.asarray(opened))
    assert np.array_equal(source.read_section(0), np.moveaxis(expected, -1, 0))


def test_a_real_imagej_stack_states_its_voxel_size(test_data):
    source = open_source(test_data / "formats/tiff/test_loading_image_saved_with_imageJ_stack.tif")
    pixel_nm = 1000 * 1_000_000 / 5_928_571
    assert source.voxel_size is not None
    assert source.voxel_size.xyz == pytest.approx((pixel_nm, pixel_nm, 2500.0))
    assert source.voxel_size_from == "ImageJ properties"


def test_channels_of_a_real_ome_tiff_equal_what_tifffile_reads(test_data):
    path = test_data / "formats/ome_tiff/multi-channel-z-series.ome.tif"
    volumes = open_volumes(path)
    assert [volume.name for volume in volumes] == ["Channel:0:0", "Channel:0:1", "Channel:0:2"]
    expected = tifffile.imread(path)
    assert expected.shape == (3, 5, 167, 439)
    for volume, channel in zip(volumes, expected, strict=True):
        assert np.array_equal(volume.source.read(Box((0, 0, 0), (439, 167, 5)))[0], channel)


def test_a_picture_and_the_measurement_behind_it_are_two_volumes(test_data):
    path = test_data / "formats/tiff/olympus_SIS.tif"
    picture, measured = open_volumes(path)
    assert (picture.name, picture.source.channel_count, picture.source.notes) == ("page 1", 3, ())
    assert (measured.name, str(measured.source.dtype)) == ("page 2", "uint16")
    assert measured.source.notes == (
        "the Olympus SIS tag states pixels of 0.0239279 x 0.0239279 nm, but no distance of sections",
    )
    assert np.array_equal(measured.source.read_section(0)[0], tifffile.imread(path, key=1))


CZI_FILES = {
    "100x100.czi": {"": ((1, 10, 10), 4950)},
    "CellDivision_T3_Z5_CH2_X240_Y170_comp1.czi": {
        f"t{t} c{c}": ((5, 170, 240), total)
        for (t, c), total in {
            (0, 0): 51219458, (0, 1): 397799773, (1, 0): 52807277,
            (1, 1): 392325881, (2, 0): 55809607, (2, 1): 358393535,
        }.items()
    },
    "DAPI_GFP.czi": {"DAPI": ((1, 640, 640), 8488476), "GFP": ((1, 640, 640), 8587250)},
    "FOV7_HV110_P0500510000.czi": {"": ((1, 512, 512), 3216305)},
    "S3_1Pos_2Mosaic_T1_Z1_CH1.czi": {
        "s0": ((1, 122, 295), 40470502), "s1": ((1, 64, 64), 3902787), "s2": ((1, 237, 352), 63468447),
    },
    "newCZI_compressed.czi": {"": ((1, 512, 512), 38944539)},
    "s_1_t_1_c_1_z_1.czi": {"": ((1, 325, 475), 563709458)},
}  # fmt: skip
"""Volumes, their shapes and the sums of their voxels, as pylibCZIrw 6.1 of Zeiss reads them."""


@pytest.mark.parametrize("name", CZI_FILES)
def test_real_czi_files_hold_what_zeiss_reads_from_them(test_data, name):
    found = {
        volume.name: volume.source.read(Box.from_zyx((0, 0, 0), volume.source.shape_zyx))
        for volume in open_volumes(test_data / "formats/czi" / name)
    }
    sums = {part: (array.shape[1:], int(array.sum(dtype=np.uint64))) for part, array in found.items()}
    assert sums == CZI_FILES[name]


def test_a_czi_file_equals_the_ome_tiff_of_the_same_image(test_data):
    czi, tiff = (
        open_source(test_data / "formats/czi" / f"FOV7_HV110_P0500510000.{suffix}")
        for suffix in ("czi", "ome.tiff")
    )
    assert np.array_equal(czi.read_section(0), tiff.read_section(0))


def test_the_scaling_of_a_real_czi_file_is_its_voxel_size(test_data):
    source = open_source(test_data / "formats/czi/S3_1Pos_2Mosaic_T1_Z1_CH1.czi", part="s2")
    assert source.voxel_size is not None
    assert source.voxel_size.xyz == pytest.approx((1600, 1600, 1000))
    assert source.notes == ("what no tile of the mosaic covers is filled with zeros",)


def test_a_real_klb_file_holds_what_pyklb_reads_from_it(test_data):
    source = open_source(test_data / "formats/klb/klbOut_Cam_Long_00006.lux.label.klb")
    assert (source.shape_zyx, str(source.dtype)) == ((81, 2048, 2048), "uint16")
    nuclei = source.read(Box((811, 501, 21), (370, 290, 18)))[0]
    counts = np.bincount(nuclei.ravel())
    assert counts.tolist() == [1822367, 20031, 17793, 16660, 15006, 11001, 7025, 9673, 11844]


@pytest.mark.parametrize(
    "name", ["neuron_fib25/raw.npz", "neuron_fib25/labels_neuron.npz", "membrane_isbi2012/raw.npz"]
)
@pytest.mark.parametrize("kind", ["tiff", "deflated tiff", "png", "multi-page tiff"])
def test_real_volumes_written_as_stacks_come_back(test_data, tmp_path, name, kind):
    volume = np.load(test_data / name)["data"][:12]
    if kind == "multi-page tiff":
        place = write_tiff(tmp_path / "stack.tif", volume, TiffStyle(byte_order="big", rows_per_strip=64))
    else:
        place = tmp_path
        if kind == "png" and volume.dtype.itemsize > 2:
            volume = (volume % 65536).astype(np.uint16)
        for z, section in enumerate(volume):
            if kind == "png":
                write_png(tmp_path / f"z{z}.png", section)
            else:
                write_tiff(tmp_path / f"z{z}.tif", [section], TiffStyle(is_deflated=kind == "deflated tiff"))
    source = open_source(place)
    assert source.dtype == volume.dtype
    assert np.array_equal(source.read(source.box)[0], volume)
