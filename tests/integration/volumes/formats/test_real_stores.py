"""Real chunked stores of other programs, compared with what independent readers find in them."""

import io
import shutil
import zlib

import numpy as np
import pytest
import zarr
from PIL import Image

from voxelworks.errors import MissingSections, UnsupportedFormat
from voxelworks.geometry import VoxelSize
from voxelworks.volumes.formats import open_source, open_volumes


def whole(source):
    return source.read(source.box)


@pytest.fixture
def cube(test_data):
    """One image of three colours (c, z, y, x), which was stored in several formats; here as zarr-python reads it."""
    stored = zarr.open_array(test_data / "formats/zarr_v2/simple_zarr_dataset/color/1-1-1", mode="r")
    return np.asarray(stored[...])


def test_one_image_is_the_same_in_every_format_it_was_stored_in(test_data, cube):
    names = ["zarr_v2/simple_zarr_dataset", "n5/simple_n5_dataset", "precomputed/simple_ng_dataset"]
    sources = [open_source(test_data / "formats" / name) for name in names]
    assert {source.shape_zyx for source in sources} == {(24, 24, 24)}
    assert {str(source.voxel_size) for source in sources} == {"1,1,1"}
    # WEBKNOSSOS stores x first, whatever the format.
    assert all(np.array_equal(whole(source).transpose(0, 3, 2, 1), cube) for source in sources)


def test_a_chunk_of_png_equals_what_pillow_reads(test_data):
    folder = test_data / "formats/precomputed/simple_ng_dataset/color"
    with Image.open(io.BytesIO((folder / "1" / "0-24_0-24_0-24").read_bytes())) as opened:
        expected = np.asarray(opened).reshape(24, 24, 24, 3)
    source = open_source(folder)
    assert np.array_equal(whole(source), np.moveaxis(expected, -1, 0))
    assert source.voxel_size == VoxelSize(1, 1, 1)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("ome_zarr/simple_0.4", "scale0/image"),
        ("ome_zarr/simple_0.5", "scale0/image"),
        ("zarr_v3/examples/single_res", ""),
        *[
            (f"zarr_v2/from_zarr-python/data.zarr/{name}", "")
            for name in ("2d.chunked.ragged.i2", "3d.contiguous.i2", "3d.chunked.mixed.i2.F", "3d.chunked.mixed.i2.C")
        ],
    ],
)  # fmt: skip
def test_zarr_arrays_equal_what_zarr_python_reads(test_data, name, array):
    place = test_data / "formats" / name
    expected = zarr.open_array(place / array if array else place, mode="r")[...]
    source = open_source(place)
    assert np.array_equal(whole(source).reshape(expected.shape), expected)


def test_the_sizes_of_an_ome_zarr_image_are_those_of_its_metadata(test_data):
    for version in ("0.4", "0.5"):
        source = open_source(test_data / f"formats/ome_zarr/simple_{version}")
        assert (source.voxel_size, source.voxel_size_from) == (VoxelSize(30, 4, 30), "OME-Zarr scale")


def test_a_group_of_many_arrays_gives_those_that_are_images(test_data):
    volumes = open_volumes(test_data / "formats/zarr_v2/from_zarr-python/data.zarr")
    assert [volume.name for volume in volumes] == [
        "2d.chunked.i2", "2d.chunked.ragged.i2", "2d.contiguous.i2", "3d.chunked.i2", "3d.chunked.mixed.i2.C",
        "3d.chunked.mixed.i2.F", "3d.contiguous.i2",
    ]  # fmt: skip
    assert "1d.contiguous.f8 (has 1 axes, which is no image" in volumes[0].source.notes[-1]


@pytest.mark.parametrize("packing", ["raw", "gzip", "blosc"])
def test_n5_arrays_hold_the_numbers_that_were_written(test_data, packing):
    source = open_source(test_data / "formats/n5/tensorstore" / packing)
    # Written as 0, 1, 2 ... over an array of 5 x 4, whose first axis is x.
    assert np.array_equal(whole(source)[0, 0], np.arange(20).reshape(5, 4).T)


def test_a_segmentation_in_compresso_equals_what_its_authors_decode(test_data):
    (volume,) = open_volumes(test_data / "formats/precomputed/pinky_seg_compresso")
    source = volume.source
    facts = (source.shape_zyx, source.dtype, volume.category, str(source.voxel_size))
    assert facts == ((256, 256, 256), "uint32", "segmentation", "32,32,40")
    # The checksum is that of compresso 3.3.3 on PyPI, which was asked by hand.
    assert zlib.crc32(np.ascontiguousarray(whole(source)).tobytes()) == 3907995054


def test_what_is_no_image_is_named(test_data):
    with pytest.raises(UnsupportedFormat, match="holds no volume, but neuroglancer_annotations_v1"):
        open_source(test_data / "formats/precomputed/test_precomputed_annotation")


def test_tiles_of_electron_microscopy_equal_what_pillow_reads(test_data, tmp_path):
    tiles = test_data / "formats/jpeg_tiles/temca2"
    with pytest.raises(
        MissingSections, match="sections 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 27 more are missing"
    ):
        open_source(tiles)
    assert open_source(tiles, fill_missing=True).shape_zyx[0] == 40
    for section in ("1", "2"):
        shutil.copytree(tiles / section, tmp_path / section)
    source = open_source(tmp_path)
    with Image.open(tiles / "2" / "61" / "140.jpg") as opened:
        tile = np.asarray(opened)
    height, width = tile.shape
    assert source.shape_zyx == (2, 2 * height, 2 * width)
    difference = source.read_section(1)[0, height:, :width].astype(int) - tile
    assert np.abs(difference).max() <= 1  # two decoders round differently
