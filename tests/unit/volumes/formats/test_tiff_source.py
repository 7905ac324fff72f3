import os
from dataclasses import replace

import numpy as np
import pytest
import tifffile

from voxelworks.errors import MixedSections, UnsupportedDtype, UnsupportedFormat
from voxelworks.geometry import Box, VoxelSize
from voxelworks.testing.independent_writers import TiffStyle, write_tiff
from voxelworks.volumes.formats import open_source, open_volumes


def noise(shape, dtype=np.uint8):
    return np.random.default_rng(5).integers(0, 200, shape).astype(dtype)


def read_whole(path, **options):
    source = open_source(path, **options)
    return source.read(source.box)


def refusal(kind, path, **options):
    with pytest.raises(kind) as error:
        read_whole(path, **options)
    assert type(error.value) is kind
    return error.value.message


def test_a_section_alone_is_a_stack_of_one(tmp_path):
    page = noise((5, 7))
    source = open_source(write_tiff(tmp_path / "s.tif", [page]))
    assert source.shape_zyx == (1, 5, 7)
    assert np.array_equal(source.read_section(0), page[None])
    assert (source.voxel_size, source.voxel_size_from, source.notes) == (None, "", ())
    assert source.files == (str(tmp_path / "s.tif"),)


def test_the_suffix_of_a_single_file_does_not_matter(tmp_path):
    assert open_source(write_tiff(tmp_path / "stack", noise((2, 5, 7)))).shape_zyx == (2, 5, 7)


def test_bits_become_zeros_and_ones(tmp_path):
    pages = noise((2, 5, 7)) > 100
    source = open_source(write_tiff(tmp_path / "s.tif", pages))
    assert source.dtype == np.uint8
    assert np.array_equal(source.read(source.box)[0], pages.astype(np.uint8))


def test_half_floats_become_floats(tmp_path):
    pages = noise((2, 5, 7), np.float16)
    source = open_source(write_tiff(tmp_path / "s.tif", pages))
    assert source.dtype == np.float32
    assert np.array_equal(source.read(source.box)[0], pages.astype(np.float32))


@pytest.mark.parametrize(
    "said",
    [
        "holds float64 values, which no layer can have; save images as float32, labels as uint64",
        "holds complex64 values; save it as uint8, uint16, uint32 or float32",
    ],
)
def test_other_types_are_refused_by_name_with_the_way_out(tmp_path, said):
    path = write_tiff(tmp_path / "s.tif", np.zeros((2, 5, 7), said.split()[1]))
    assert refusal(UnsupportedDtype, path) == f"s.tif {said}"


def read_all(path, **options):
    """Give all volumes of a file (c, z, y, x) by their names."""
    return {
        volume.name: volume.source.read(Box.from_zyx((0, 0, 0), volume.source.shape_zyx))
        for volume in open_volumes(path, **options)
    }


def assert_volumes(path, expected, **options):
    found = read_all(path, **options)
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name][0], array)


LAYOUTS = [
    TiffStyle(),
    TiffStyle(is_planar=True),
    TiffStyle(is_deflated=True, is_planar=True),
    TiffStyle(tile=(16, 16), is_deflated=True),
]


@pytest.mark.parametrize("style", LAYOUTS)
def test_rgb_of_16_bits_is_three_volumes(tmp_path, style):
    pages = noise((2, 5, 7, 3), np.uint16)
    expected = {name: pages[..., i] for i, name in enumerate(["red", "green", "blue"])}
    assert_volumes(write_tiff(tmp_path / "s.tif", pages, style), expected)


@pytest.mark.parametrize("style", LAYOUTS)
@pytest.mark.parametrize("count", [2, 5])
def test_channels_in_a_pixel_are_volumes(tmp_path, style, count):
    pages = noise((2, 5, 7, count), np.int16)
    path = write_tiff(tmp_path / "s.tif", pages, replace(style, photometric=1, extra_sample=0))
    assert_volumes(path, {f"c{i}": pages[..., i] for i in range(count)})
    box = Box((2, 1, 1), (4, 3, 1))
    assert np.array_equal(open_source(path, part="c1").read(box)[0], pages[..., 1][box.slices_zyx])


def test_channels_in_a_pixel_are_refused_in_a_folder(tmp_path):
    for z in range(2):
        write_tiff(tmp_path / f"s{z}.tif", noise((1, 5, 7, 3), np.uint16))
    assert refusal(UnsupportedFormat, tmp_path) == (
        "s0.tif has 3 channels in each pixel; a folder must hold one channel: "
        "give the file itself, or save each channel into its own folder"
    )


def test_opaque_alpha_is_dropped_and_transparency_refused(tmp_path):
    pages = noise((2, 5, 7, 2))
    pages[..., 1] = 255
    style = TiffStyle(photometric=1, extra_sample=2)
    source = open_source(write_tiff(tmp_path / "s.tif", pages, style))
    assert source.channel_count == 1
    assert np.array_equal(source.read(source.box)[0], pages[..., 0])
    pages[1, 2, 3, 1] = 254
    path = write_tiff(tmp_path / "t.tif", pages, style)
    assert (
        refusal(UnsupportedFormat, path) == "t.tif is transparent in places; save it without an alpha channel"
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("is_deflated", [False, True])
def test_values_that_count_from_white_are_turned_round(tmp_path, dtype, is_deflated):
    pages = noise((2, 5, 7), dtype)
    path = write_tiff(tmp_path / "s.tif", pages, TiffStyle(photometric=0, is_deflated=is_deflated))
    source = open_source(path)
    assert np.array_equal(source.read(source.box)[0], np.iinfo(dtype).max - pages)


def test_values_from_white_of_a_signed_type_are_refused(tmp_path):
    path = write_tiff(tmp_path / "s.tif", noise((1, 5, 7), np.int16), TiffStyle(photometric=0))
    assert (
        refusal(UnsupportedFormat, path)
        == "s.tif counts int16 values from white to black; save it as black to white"
    )


@pytest.mark.parametrize("photometric", [0, 3])
def test_imagej_keeps_measured_values_whatever_it_displays(tmp_path, photometric):
    pages = noise((2, 5, 7))
    style = TiffStyle(photometric=photometric, description="ImageJ=1.54f\nimages=2\nslices=2\n")
    source = open_source(write_tiff(tmp_path / "s.tif", pages, style))
    assert np.array_equal(source.read(source.box)[0], pages)


def test_a_grey_table_is_grey(tmp_path):
    pages = noise((1, 5, 7))
    source = open_source(write_tiff(tmp_path / "s.tif", pages, TiffStyle(photometric=3)))
    assert np.array_equal(source.read(source.box)[0], pages)


def test_a_colour_table_is_refused(tmp_path):
    colours = np.random.default_rng(0).integers(0, 65536, (3, 256), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "s.tif", noise((5, 7)), photometric="palette", colormap=colours)
    assert (
        refusal(UnsupportedFormat, tmp_path / "s.tif") == "s.tif uses a colour table; save it as grey or RGB"
    )


IMAGEJ_SIZE = "ImageJ=1.54f\nimages=2\nslices=2\nunit={unit}\nspacing=0.05\nloop=false\n"


@pytest.mark.parametrize(
    ("unit", "size"),
    [
        ("micron", VoxelSize(4.0, 4.0, 50.0)),
        ("\\u00B5m", VoxelSize(4.0, 4.0, 50.0)),
        ("nm", VoxelSize(0.004, 0.004, 0.05)),
    ],
)
def test_imagej_states_the_voxel_size(tmp_path, unit, size):
    style = TiffStyle(description=IMAGEJ_SIZE.format(unit=unit), pixels_per_unit=(250, 1))
    source = open_source(write_tiff(tmp_path / "s.tif", noise((2, 5, 7)), style))
    assert (source.voxel_size, source.voxel_size_from, source.notes) == (size, "ImageJ properties", ())


def test_a_voxel_size_without_depth_is_only_mentioned(tmp_path):
    style = TiffStyle(description="ImageJ=1.54f\nimages=2\nslices=2\nunit=nm\n", pixels_per_unit=(1, 4))
    source = open_source(write_tiff(tmp_path / "s.tif", noise((2, 5, 7)), style))
    assert source.voxel_size is None
    assert source.notes == ("ImageJ states pixels of 4 x 4 nm, but no distance of sections",)


def test_pixels_without_a_unit_have_no_size(tmp_path):
    style = TiffStyle(description=IMAGEJ_SIZE.format(unit="pixel"), pixels_per_unit=(250, 1))
    assert open_source(write_tiff(tmp_path / "s.tif", noise((2, 5, 7)), style)).voxel_size is None


def test_a_unit_nobody_knows_is_only_mentioned(tmp_path):
    style = TiffStyle(description=IMAGEJ_SIZE.format(unit="furlong"), pixels_per_unit=(250, 1))
    source = open_source(write_tiff(tmp_path / "s.tif", noise((2, 5, 7)), style))
    assert source.notes == ("ImageJ states a voxel size of 0.004, 0.004, 0.05 furlong, which cannot be used",)


def imagej_with_one_directory(path, pages, byte_order, description=""):
    """Write a stack as ImageJ does beyond 4 GiB: all pixels, but a directory of the first section only."""
    whole = np.concatenate(list(pages))
    description = description or f"ImageJ=1.54f\nimages={len(pages)}\nslices={len(pages)}\n"
    write_tiff(path, [whole], TiffStyle(description=description, byte_order=byte_order))
    data = bytearray(path.read_bytes())
    order = "<" if byte_order == "little" else ">"
    at = data.index(
        np.array([257, 4], order + "u2").tobytes() + np.array([1, whole.shape[0]], order + "u4").tobytes()
    )
    data[at + 8 : at + 12] = np.array([pages.shape[1]], order + "u4").tobytes()
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("byte_order", ["little", "big"])
def test_imagej_stacks_with_one_directory_have_all_sections(tmp_path, byte_order):
    pages = noise((4, 5, 7), np.uint16)
    source = open_source(imagej_with_one_directory(tmp_path / "s.tif", pages, byte_order))
    assert source.shape_zyx == (4, 5, 7)
    assert np.array_equal(source.read(source.box)[0], pages)


def test_imagej_stacks_that_are_cut_short_are_refused(tmp_path):
    path = write_tiff(
        tmp_path / "s.tif", noise((1, 5, 7)), TiffStyle(description="ImageJ=1.54f\nimages=90\nslices=90\n")
    )
    size = path.stat().st_size
    assert (
        refusal(UnsupportedFormat, path) == f"s.tif is cut short: it has {size} of 3158 bytes; copy it again"
    )


def test_tifffile_stacks_with_one_directory_have_all_sections(tmp_path):
    pages = noise((4, 5, 7), np.float32)
    tifffile.imwrite(tmp_path / "s.tif", pages, truncate=True, photometric="minisblack")
    source = open_source(tmp_path / "s.tif")
    assert np.array_equal(source.read(source.box)[0], pages)


def test_time_points_of_imagej_are_refused(tmp_path):
    path = write_tiff(
        tmp_path / "s.tif", noise((6, 5, 7)), TiffStyle(description="ImageJ=1.54f\nimages=6\nframes=6\n")
    )
    assert refusal(UnsupportedFormat, path) == (
        "s.tif has 6 time points; save the one you need, or, if they are sections, "
        "swap frames and slices in Fiji (Image > Properties)"
    )


HYPERSTACK = "ImageJ=1.54f\nimages=12\nchannels=2\nslices=3\nframes=2\nhyperstack=true\n"


@pytest.mark.parametrize("directory_count", ["all", "one"])
def test_channels_and_time_points_of_imagej_are_volumes(tmp_path, directory_count):
    pages = noise((2, 3, 2, 5, 7), np.uint16)
    flat, style = pages.reshape(12, 5, 7), TiffStyle(byte_order="big", description=HYPERSTACK)
    if directory_count == "one":
        path = imagej_with_one_directory(tmp_path / "s.tif", flat, "big", HYPERSTACK)
    else:
        path = write_tiff(tmp_path / "s.tif", flat, style)
    assert_volumes(path, {f"t{t} c{c}": pages[t, :, c] for t in range(2) for c in range(2)})


@pytest.mark.parametrize(
    ("axes", "names"),
    [
        ("CZYX", ["c0", "c1"]),
        ("ZCYX", ["c0", "c1"]),
        ("TZYX", ["t0", "t1"]),
        ("CYX", ["c0", "c1"]),
        ("ZTCYX", ["t0 c0", "t0 c1", "t1 c0", "t1 c1"]),
    ],
)
@pytest.mark.parametrize("truncate", [False, True])
def test_axes_that_tifffile_states_are_volumes(tmp_path, axes, names, truncate):
    sizes = {"Z": 3, "T": 2, "C": 2, "Y": 5, "X": 7}
    pages = noise([sizes[axis] for axis in axes])
    options = {"photometric": "minisblack", "metadata": {"axes": axes}, "truncate": truncate}
    tifffile.imwrite(tmp_path / "s.tif", pages, **options)
    wide = pages.reshape(
        [sizes[axis] if axis in axes else 1 for axis in (axes if "Z" in axes else "Z" + axes)]
    )
    order = ("" if "Z" in axes else "Z") + axes
    expected = {}
    for name in names:
        at = {word[0].upper(): int(word[1]) for word in name.split()}
        expected[name] = wide[tuple(at.get(axis, slice(None)) for axis in order)]
    assert_volumes(tmp_path / "s.tif", expected)


def test_axes_that_nothing_is_known_of_are_refused(tmp_path):
    tifffile.imwrite(
        tmp_path / "s.tif", noise((2, 3, 5, 7)), photometric="minisblack", metadata={"axes": "RZYX"}
    )
    assert refusal(UnsupportedFormat, tmp_path / "s.tif") == (
        "s.tif has more axes than x, y, z, channel and time (R: 2, Z: 3); save the part you need by itself"
    )


@pytest.mark.parametrize(
    ("unit", "notes"),
    [
        ({"resolution": (25e5, 25e4), "resolutionunit": 3},
         ("the resolution states pixels of 4 x 40 nm, but no distance of sections",)),
        ({"resolution": (25400, 25400), "resolutionunit": 2},
         ("the resolution states pixels of 1000 x 1000 nm, but no distance of sections",)),
        ({"resolution": (72, 72), "resolutionunit": 2}, ()),
        ({"resolution": (25e5, 25e5), "resolutionunit": 1}, ()),
    ],
)  # fmt: skip
def test_the_resolution_of_a_microscope_is_mentioned(tmp_path, unit, notes):
    tifffile.imwrite(tmp_path / "s.tif", noise((5, 7)), metadata=None, **unit)
    source = open_source(tmp_path / "s.tif")
    assert (source.voxel_size, source.notes) == (None, notes)


DM_SIZES = [(65009, 12, 1, 0.004, True), (65010, 12, 1, 0.004, True), (65011, 12, 1, 0.05, True)]


@pytest.mark.parametrize(
    ("unit", "size", "notes"),
    [
        ("\xb5m", VoxelSize(4.0, 4.0, 50.0), ()),
        (
            "s",
            None,
            ("DigitalMicrograph states steps of 0.004 \xb5m, 0.004 \xb5m, 0.05 s, which are no voxel size",),
        ),
    ],
)
def test_digitalmicrograph_states_the_voxel_size(tmp_path, unit, size, notes):
    units = [(tag, 2, 0, text.encode("latin1"), True) for tag, text in
             [(65003, "\xb5m"), (65004, "\xb5m"), (65005, unit), (65012, "Micrometer")]]  # fmt: skip
    with tifffile.TiffWriter(tmp_path / "s.tif") as writer:
        for page in noise((2, 5, 7)):
            writer.write(page, metadata=None, extratags=[*units, *DM_SIZES])
    source = open_source(tmp_path / "s.tif")
    assert (source.voxel_size, source.notes) == (size, notes)


def test_a_pyramid_is_read_at_its_finest_level(tmp_path):
    finest = noise((200, 300))
    with tifffile.TiffWriter(tmp_path / "s.tif") as writer:
        for step in (1, 2, 4):
            writer.write(finest[::step, ::step], tile=(16, 16), metadata=None, photometric="minisblack")
    source = open_source(tmp_path / "s.tif")
    assert np.array_equal(source.read(source.box)[0, 0], finest)
    assert source.notes == ("2 coarser levels in s.tif were ignored",)


def test_pages_of_unequal_size_are_named_or_padded(tmp_path):
    small, large = noise((4, 7)), noise((5, 6))
    path = write_tiff(tmp_path / "s.tif", [small, large])
    assert refusal(MixedSections, path) == (
        "page 2 of s.tif is 6 x 5 uint8, but page 1 of s.tif is 7 x 4 uint8; "
        "correct it, or ask for smaller sections to be filled with zeros"
    )
    source = open_source(path, fill_missing=True)
    expected = np.zeros((2, 5, 7), np.uint8)
    expected[0, :4], expected[1, :, :6] = small, large
    assert np.array_equal(source.read(source.box)[0], expected)
    assert source.notes == ("page 1 of s.tif, page 2 of s.tif padded with zeros to 7 x 5",)
    assert np.array_equal(source.read(Box((5, 3, 0), (2, 2, 2)))[0], expected[:, 3:, 5:])


def test_pages_of_unequal_type_are_refused_even_if_padded(tmp_path):
    path = write_tiff(tmp_path / "s.tif", [noise((5, 7)), noise((5, 7), np.uint16)])
    assert refusal(MixedSections, path, fill_missing=True) == (
        "page 2 of s.tif is 7 x 5 uint16, but page 1 of s.tif is 7 x 5 uint8; "
        "save all sections with the same kind of values"
    )


def test_thumbnails_are_ignored(tmp_path):
    pages = noise((2, 40, 50))
    with tifffile.TiffWriter(tmp_path / "s.tif") as writer:
        writer.write(pages, photometric="minisblack", metadata=None)
        writer.write(pages[0, ::4, ::4], photometric="minisblack", metadata=None, subfiletype=1)
    source = open_source(tmp_path / "s.tif")
    assert np.array_equal(source.read(source.box)[0], pages)
    assert source.notes == ("1 thumbnail or mask pages of s.tif were ignored",)


@pytest.mark.parametrize("compression", ["lzw", "zstd", "jpeg", "jpeg2000", "packbits"])
def test_compressed_pages_equal_what_tifffile_reads(tmp_path, compression):
    pages = noise((2, 70, 90))
    predictor = compression in ("lzw", "zstd")
    options = {
        "compression": compression,
        "predictor": predictor,
        "rowsperstrip": 16,
        "photometric": "minisblack",
    }
    tifffile.imwrite(tmp_path / "s.tif", pages, **options)
    source = open_source(tmp_path / "s.tif")
    expected = tifffile.imread(tmp_path / "s.tif")
    box = Box((11, 13, 1), (50, 41, 1))
    assert np.array_equal(source.read(source.box)[0], expected)
    assert np.array_equal(source.read(box)[0], expected[box.slices_zyx])
    assert not source.has_random_access


def test_tiles_and_plain_pages_are_read_where_they_are_needed(tmp_path):
    pages = noise((1, 70, 90))
    assert open_source(write_tiff(tmp_path / "a.tif", pages)).has_random_access
    assert open_source(
        write_tiff(tmp_path / "b.tif", pages, TiffStyle(tile=(16, 16), is_deflated=True))
    ).has_random_access
    assert not open_source(
        write_tiff(tmp_path / "c.tif", pages, TiffStyle(is_deflated=True))
    ).has_random_access


@pytest.mark.parametrize("style", [TiffStyle(), TiffStyle(rows_per_strip=4, strip_gap=2)])
def test_a_file_cut_short_is_refused_when_it_is_opened(tmp_path, style):
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, noise((64, 64)))
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-100])
    assert (
        refusal(UnsupportedFormat, path)
        == f"s.tif is cut short: it has {size - 100} of {size} bytes; copy it again"
    )


def test_a_file_without_its_directory_is_refused(tmp_path):
    path = write_tiff(tmp_path / "s.tif", noise((1, 64, 64)))
    path.write_bytes(path.read_bytes()[:2000])
    assert (
        refusal(UnsupportedFormat, path) == "s.tif is cut short or damaged: it holds no image; copy it again"
    )


@pytest.mark.parametrize("style", [TiffStyle(), TiffStyle(is_big=True, byte_order="big")])
@pytest.mark.parametrize("is_alone", [True, False])
def test_pages_lost_at_the_end_are_noticed(tmp_path, style, is_alone):
    path = tmp_path / "s_1.tif"
    one, three = noise((1, 64, 64)), noise((3, 64, 64))
    second_page = write_tiff(path, one, style).stat().st_size
    write_tiff(path, three, style)
    path.write_bytes(path.read_bytes()[: second_page + 100])
    if not is_alone:
        write_tiff(tmp_path / "s_2.tif", one)
    message = refusal(UnsupportedFormat, path if is_alone else tmp_path)
    assert message.startswith("s_1.tif is cut short or damaged: page 2 at byte ")


def test_damaged_strips_are_named_when_they_are_read(tmp_path):
    path = write_tiff(tmp_path / "s.tif", noise((1, 64, 64)), TiffStyle(is_deflated=True))
    data = bytearray(path.read_bytes())
    data[8:300] = bytes(292)
    path.write_bytes(data)
    source = open_source(path)
    with pytest.raises(UnsupportedFormat) as error:
        source.read(source.box)
    assert error.value.message.startswith("s.tif cannot be decoded: ")
    assert error.value.message.endswith("; copy it again or save it anew")


@pytest.mark.parametrize("length", [1, 3, 8, 9, 20])
def test_garbage_with_the_right_beginning_is_refused(tmp_path, length):
    (tmp_path / "s.tif").write_bytes((b"II*\0" + b"\xff" * 40)[:length])
    assert refusal(UnsupportedFormat, tmp_path / "s.tif").startswith("s.tif ")


def test_an_image_bomb_is_refused_when_it_is_opened(tmp_path):
    path = write_tiff(tmp_path / "s.tif", noise((1, 64, 64)), TiffStyle(is_deflated=True))
    data = path.read_bytes()
    for tag in (256, 257, 278):
        old = np.array([tag, 4], "<u2").tobytes() + np.array([1, 64], "<u4").tobytes()
        data = data.replace(old, old[:8] + np.array([2_000_000], "<u4").tobytes())
    path.write_bytes(data)
    with tifffile.TiffFile(path) as tiff:
        packed = sum(tiff.pages[0].databytecounts)
    assert refusal(UnsupportedFormat, path) == (
        f"s.tif claims 2000000 x 2000000 pixels in {packed} bytes; it is no usable image"
    )


def test_a_raw_page_whose_count_of_bytes_has_overflowed_is_no_bomb(tmp_path):
    path = write_tiff(tmp_path / "s.tif", noise((1, 64, 64), np.uint16))
    data = path.read_bytes()
    for tag, old, new in [(256, 64, 65536), (257, 64, 65536), (278, 64, 65536), (279, 64 * 64 * 2, 0)]:
        entry = np.array([tag, 4], "<u2").tobytes() + np.array([1, old], "<u4").tobytes()
        assert entry in data
        data = data.replace(entry, entry[:8] + np.array([new], "<u4").tobytes())
    path.write_bytes(data)
    os.truncate(path, len(data) + 65536 * 65536 * 2)  # takes no room on the disk
    source = open_source(path)
    assert (source.shape_zyx, source.dtype) == ((1, 65536, 65536), np.uint16)


def test_kinds_of_tiff_with_values_of_their_own_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "s.tif", noise((5, 7)), extratags=[(33445, 4, 1, 2, True)])
    assert refusal(UnsupportedFormat, tmp_path / "s.tif") == (
        "s.tif is a TIFF of kind MDGEL; save it as OME-TIFF or as plain sections"
    )
