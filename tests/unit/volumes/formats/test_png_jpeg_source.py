import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from voxelworks.errors import UnsupportedDtype, UnsupportedFormat
from voxelworks.geometry import Box
from voxelworks.testing.independent_writers import write_png
from voxelworks.volumes.formats import open_source


def noise(shape, dtype=np.uint8):
    return np.random.default_rng(7).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


def read_whole(path):
    source = open_source(path)
    return source.read(source.box)


def refusal(kind, path):
    with pytest.raises(kind) as error:
        read_whole(path)
    assert type(error.value) is kind
    return error.value.message


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_png_is_read(tmp_path, dtype):
    image = noise((9, 11), dtype)
    source = open_source(write_png(tmp_path / "s.png", image))
    assert (source.shape_zyx, source.dtype, source.channel_count) == ((1, 9, 11), dtype, 1)
    assert not source.has_random_access
    assert np.array_equal(source.read_section(0)[0], image)
    assert np.array_equal(source.read(Box((2, 3, 0), (5, 4, 1)))[0, 0], image[3:7, 2:7])


def test_rgb_png_is_read(tmp_path):
    image = noise((9, 11, 3))
    source = open_source(write_png(tmp_path / "s.png", image))
    assert np.array_equal(source.read_section(0), np.moveaxis(image, -1, 0))


def test_rgb_png_of_16_bits_is_refused(tmp_path):
    path = write_png(tmp_path / "s.png", noise((9, 11, 3), np.uint16))
    assert refusal(UnsupportedDtype, path) == (
        "s.png is RGB with uint16 values; save it as RGB with 8 bits, or each channel by itself"
    )


@pytest.mark.parametrize(("sample_count", "dtype"), [(2, np.uint8), (2, np.uint16), (4, np.uint8)])
def test_opaque_alpha_is_dropped_and_transparency_refused(tmp_path, sample_count, dtype):
    image = noise((9, 11, sample_count), dtype)
    image[..., -1] = np.iinfo(dtype).max
    source = open_source(write_png(tmp_path / "s.png", image))
    assert np.array_equal(source.read_section(0), np.moveaxis(image[..., :-1], -1, 0))
    image[4, 5, -1] = 3
    path = write_png(tmp_path / "t.png", image)
    assert (
        refusal(UnsupportedFormat, path) == "t.png is transparent in places; save it without an alpha channel"
    )


def test_bits_become_zeros_and_ones(tmp_path):
    image = noise((9, 11)) > 100
    source = open_source(write_png(tmp_path / "s.png", image))
    assert np.array_equal(source.read_section(0)[0], image.astype(np.uint8))


def test_a_colour_table_is_looked_up(tmp_path):
    table = noise((7, 3))
    image = Image.fromarray(noise((9, 11)) % 7)
    image.putpalette(table.tobytes())
    image.save(tmp_path / "s.png")
    source = open_source(tmp_path / "s.png")
    assert np.array_equal(source.read_section(0), np.moveaxis(table[np.asarray(image)], -1, 0))


def test_a_grey_table_makes_a_grey_image(tmp_path):
    greys = np.array([200, 3, 77, 150, 9], np.uint8)
    image = Image.fromarray(noise((9, 11)) % 5)
    image.putpalette(np.repeat(greys, 3).tobytes())
    image.save(tmp_path / "s.png")
    source = open_source(tmp_path / "s.png")
    assert source.channel_count == 1
    assert np.array_equal(source.read_section(0)[0], greys[np.asarray(image)])


@pytest.mark.parametrize(
    ("sample_count", "dtype", "bytes_per_pixel"),
    [
        (1, np.uint8, 3),
        (1, np.uint16, 6),
        (2, np.uint8, 5),
        (2, np.uint16, 10),
        (3, np.uint8, 9),
        (4, np.uint8, 11),
    ],
)
def test_decoding_takes_memory_for_the_file_the_samples_and_the_voxels(
    tmp_path, sample_count, dtype, bytes_per_pixel
):
    source = open_source(write_png(tmp_path / "s.png", noise((9, 11, sample_count), dtype)))
    assert source.decoding_bytes == bytes_per_pixel * 9 * 11


def test_decoding_a_grey_table_takes_memory_for_its_colours(tmp_path):
    image = Image.fromarray(noise((9, 11)) % 5)
    image.putpalette(np.repeat(noise(5), 3).tobytes())
    image.save(tmp_path / "s.png")
    assert open_source(tmp_path / "s.png").decoding_bytes == 7 * 9 * 11


def test_transparent_tables_are_refused(tmp_path):
    image = Image.fromarray(noise((9, 11)) % 7)
    image.putpalette(noise((7, 3)).tobytes())
    image.save(tmp_path / "s.png", transparency=3)
    assert refusal(UnsupportedFormat, tmp_path / "s.png") == (
        "s.png is transparent in places; save it without an alpha channel"
    )


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_damaged_pixels_are_named_when_they_are_read(tmp_path, damage):
    path = write_png(tmp_path / "s.png", noise((99, 110)))
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[500] ^= 255
    path.write_bytes(data if damage == "flipped" else data[:-200])
    message = refusal(UnsupportedFormat, path)
    assert message.startswith("s.png cannot be decoded: ")
    assert message.endswith("; copy it again or save it anew")


@pytest.mark.parametrize("length", [8, 20, 33, 40])
def test_a_cut_header_is_refused(tmp_path, length):
    path = write_png(tmp_path / "s.png", noise((9, 11)))
    path.write_bytes(path.read_bytes()[:length])
    assert refusal(UnsupportedFormat, path).startswith("s.png is ")


def jpeg(mode, image, **options):
    stream = io.BytesIO()
    Image.fromarray(image).convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


def wave(channels=()):
    y, x, *_ = np.indices((90, 110, *channels))
    return (128 + 60 * np.sin(x / 9) + 50 * np.cos(y / 7)).astype(np.uint8)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 100, "subsampling": 0}])
@pytest.mark.parametrize(("mode", "channel_count"), [("L", 1), ("RGB", 3)])
def test_jpeg_equals_what_pillow_reads(tmp_path, mode, channel_count, options):
    (tmp_path / "s.jpg").write_bytes(jpeg(mode, wave((3,)), **options))
    source = open_source(tmp_path / "s.jpg")
    assert (source.shape_zyx, source.dtype, source.channel_count) == ((1, 90, 110), np.uint8, channel_count)
    with Image.open(tmp_path / "s.jpg") as opened:
        expected = np.atleast_3d(np.asarray(opened))
    assert np.array_equal(source.read_section(0), np.moveaxis(expected, -1, 0))


def test_a_cut_jpeg_is_refused_though_decoders_fill_it_with_grey(tmp_path):
    (tmp_path / "s.jpg").write_bytes(jpeg("L", wave())[:-300])
    assert (
        refusal(UnsupportedFormat, tmp_path / "s.jpg")
        == "s.jpg is cut short: its end is missing; copy it again"
    )


@pytest.mark.parametrize("length", [4, 20, 50])
def test_a_jpeg_without_its_header_is_refused(tmp_path, length):
    (tmp_path / "s.jpg").write_bytes(jpeg("L", wave())[:length])
    assert refusal(UnsupportedFormat, tmp_path / "s.jpg") == (
        "s.jpg is cut short or damaged: it has no frame header; copy it again"
    )


def test_cmyk_is_refused(tmp_path):
    (tmp_path / "s.jpg").write_bytes(jpeg("CMYK", wave((3,))))
    assert (
        refusal(UnsupportedFormat, tmp_path / "s.jpg")
        == "s.jpg is JPEG with 4 colours (CMYK?); save it as grey or RGB"
    )


def test_jpeg_of_12_bits_is_refused(tmp_path):
    data = bytearray(jpeg("L", wave()))
    data[data.index(b"\xff\xc0") + 4] = 12
    (tmp_path / "s.jpg").write_bytes(data)
    assert (
        refusal(UnsupportedDtype, tmp_path / "s.jpg") == "s.jpg is JPEG with 12 bits; save it as TIFF or PNG"
    )


@pytest.mark.parametrize("bits", [2, 4])
def test_values_of_few_bits_are_not_stretched(tmp_path, bits):
    values = noise((9, 12)) % 2**bits
    digits = np.unpackbits(values[..., None], axis=2)[..., -bits:].reshape(9, 12 * bits).astype(bool)
    path = write_png(tmp_path / "s.png", digits)
    data = bytearray(path.read_bytes())
    data[16:20], data[24] = struct.pack(">I", 12), bits
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    assert np.array_equal(open_source(path).read_section(0)[0], values)
