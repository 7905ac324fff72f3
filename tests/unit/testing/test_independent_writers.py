"""The writers that other tests trust are read back by two libraries."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from voxelworks.testing.independent_writers import TiffStyle, write_png, write_tiff


def noise(shape, dtype, seed=0):
    random = np.random.default_rng(seed)
    if dtype is bool:
        return random.integers(0, 2, shape).astype(bool)
    return random.integers(0, 256, (*shape, np.dtype(dtype).itemsize), dtype=np.uint8).view(dtype)[..., 0]


STYLES = {
    "one strip": TiffStyle(),
    "big-endian": TiffStyle(byte_order="big"),
    "BigTIFF": TiffStyle(is_big=True),
    "big-endian BigTIFF": TiffStyle(is_big=True, byte_order="big"),
    "strips": TiffStyle(rows_per_strip=3),
    "scattered strips": TiffStyle(rows_per_strip=4, strip_gap=5),
    "tiles": TiffStyle(tile=(16, 32)),
    "deflated strips": TiffStyle(rows_per_strip=5, is_deflated=True),
    "deflated big-endian tiles": TiffStyle(tile=(16, 16), is_deflated=True, byte_order="big"),
}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64", "int16"])
@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_tifffile_reads_what_was_written(tmp_path, style, dtype):
    pages = noise((3, 21, 37), dtype)
    path = write_tiff(tmp_path / "stack.tif", pages, style)
    assert np.array_equal(tifffile.imread(path), pages)


def test_tifffile_reads_floats_bits_and_rgb(tmp_path):
    floats = np.random.default_rng(0).normal(size=(2, 9, 11)).astype(np.float32)
    bits = noise((2, 9, 11), bool)
    colours = noise((2, 9, 11, 3), np.uint8)
    assert np.array_equal(tifffile.imread(write_tiff(tmp_path / "f.tif", floats)), floats)
    assert np.array_equal(tifffile.imread(write_tiff(tmp_path / "b.tif", bits)), bits)
    assert np.array_equal(tifffile.imread(write_tiff(tmp_path / "c.tif", colours)), colours)
    planar = write_tiff(tmp_path / "p.tif", colours, TiffStyle(is_planar=True))
    assert np.array_equal(tifffile.imread(planar), np.moveaxis(colours, -1, 1))


@pytest.mark.parametrize("style", [TiffStyle(), TiffStyle(byte_order="big"), TiffStyle(rows_per_strip=3)])
def test_pillow_reads_the_same_tiff(tmp_path, style):
    image = noise((21, 37), np.uint8)
    with Image.open(write_tiff(tmp_path / "s.tif", [image], style)) as opened:
        assert np.array_equal(np.asarray(opened), image)


@pytest.mark.parametrize("shape", [(7, 9), (7, 9, 2), (7, 9, 3), (7, 9, 4)])
def test_pillow_reads_the_same_png(tmp_path, shape):
    image = noise(shape, np.uint8)
    with Image.open(write_png(tmp_path / "s.png", image)) as opened:
        assert np.array_equal(np.asarray(opened), image)


def test_pillow_reads_the_same_png_of_16_bits_and_of_1_bit(tmp_path):
    grey, bits = noise((7, 9), np.uint16), noise((7, 9), bool)
    with Image.open(write_png(tmp_path / "g.png", grey)) as opened:
        assert np.array_equal(np.asarray(opened), grey)
    with Image.open(write_png(tmp_path / "b.png", bits)) as opened:
        assert np.array_equal(np.asarray(opened), bits)
