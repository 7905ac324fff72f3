"""Series and multi-frame files of an independent writer are read in the order of their places."""

import contextlib
import itertools

import imagecodecs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voxelworks.errors import MissingSections, UnsupportedDtype, UnsupportedFormat
from voxelworks.geometry import Box
from voxelworks.testing.independent_codings import rle_frame, write_coded_dicom
from voxelworks.testing.independent_writers import DicomStyle, write_dicom
from voxelworks.volumes.formats import open_source, open_volumes

FILE_NUMBERS = itertools.count()
COMPRESSED = (
    "v.dcm is compressed in a way that is not read (transfer syntax 1.2.840.10008.1.2.9); save it uncompressed, "
    "such as by `gdcmconv --raw`"
)
VOLUME = np.random.default_rng(5).integers(-500, 500, (4, 5, 6), dtype=np.int16)


def whole(source):
    return source.read(Box.from_zyx((0, 0, 0), source.shape_zyx))


def write_series(folder, volume=VOLUME, heights=None, suffix=".dcm", **style):
    """Write each section to a file, named so that names say nothing of the order."""
    folder.mkdir(exist_ok=True)
    heights = range(len(volume)) if heights is None else heights
    for index, (section, height) in enumerate(zip(volume, heights, strict=True)):
        position = None if height is None else (3.0, -4.0, height * 2.0)
        name = f"{(index * 7 + 3) % 11}-{style.get('series', '')}{suffix}"
        write_dicom(folder / name, section, DicomStyle(position=position, spacing=(0.5, 0.25), **style))
    return folder


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from(["uint8", "int8", "uint16", "int16", "uint32", "int32"]),
    syntax=st.sampled_from(["implicit", "explicit", "big"]), undefined=st.booleans(), data=st.data(),
)  # fmt: skip
def test_a_box_of_any_multi_frame_file_equals_the_slice(tmp_path, shape, dtype, syntax, undefined, data):
    values = np.random.default_rng(1).integers(0, 100, shape).astype(dtype)
    order = data.draw(st.permutations(range(shape[0])))
    style = DicomStyle(
        syntax=syntax, has_undefined_lengths=undefined, spacing=(0.5, 0.25),
        frame_positions=tuple((0.0, 0.0, order.index(place) * 2.0) for place in range(shape[0])),
    )  # fmt: skip
    source = open_source(write_dicom(tmp_path / f"v{next(FILE_NUMBERS)}.dcm", values, style))
    assert (source.shape_zyx, source.dtype) == (shape, dtype)
    start = [data.draw(st.integers(0, size)) for size in shape]
    box = Box.from_zyx(tuple(start), tuple(size - first for size, first in zip(shape, start, strict=True)))
    assert np.array_equal(source.read(box), values[list(order)][None, *box.slices_zyx])
    if shape[0] > 1:
        assert str(source.voxel_size) == "250000,500000,2000000"


@pytest.mark.parametrize("suffix", [".dcm", ".IMA", ""])
def test_a_series_is_put_in_order_by_positions(tmp_path, suffix):
    source = open_source(write_series(tmp_path / "s", VOLUME[::-1], heights=[3, 2, 1, 0], suffix=suffix))
    assert np.array_equal(whole(source)[0], VOLUME)
    assert (str(source.voxel_size), source.voxel_size_from, source.notes) == (
        "250000,500000,2000000",
        "DICOM pixel spacing and positions",
        (),
    )


def test_series_of_one_folder_are_volumes_and_other_files_are_noted(tmp_path):
    folder = write_series(tmp_path / "s", series="1.1", description="T1")
    write_series(folder, VOLUME[:2] + 1, series="1.2", description="T2")
    (folder / "readme.txt").write_text("hello")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    volumes = {volume.name: volume.source for volume in open_volumes(folder)}
    assert sorted(volumes) == ["T1", "T2"]
    assert np.array_equal(whole(volumes["T1"])[0], VOLUME)
    assert np.array_equal(whole(volumes["T2"])[0], VOLUME[:2] + 1)
    assert [note for source in volumes.values() for note in source.notes] == ["ignored in s: readme.txt"]


def test_without_positions_the_instance_numbers_count(tmp_path):
    for number, section in zip([2, 10, 1], VOLUME, strict=False):
        write_dicom(tmp_path / f"{section[0, 0]}.dcm", section, DicomStyle(number=number))
    source = open_source(tmp_path)
    assert np.array_equal(whole(source)[0], VOLUME[[2, 0, 1]])
    assert source.notes == (
        "the images state no positions; they are in the order of their instance numbers",
        "the images state no common pixel spacing",
    )


def test_missing_images_are_named_or_filled(tmp_path):
    folder = write_series(tmp_path / "s", VOLUME, heights=[0, 1, 3, 4])
    with pytest.raises(MissingSections) as error:
        open_source(folder)
    assert error.value.message == (
        "missing images: 1 between 3-.dcm and 2-.dcm, the first behind 10-.dcm; "
        "add them, or ask for missing sections to be filled"
    )
    source = open_source(folder, fill_missing=True)
    assert np.array_equal(whole(source)[0], np.insert(VOLUME, 2, 0, axis=0))


def test_uneven_distances_are_noted(tmp_path):
    source = open_source(write_series(tmp_path / "s", VOLUME, heights=[0, 1, 2.3, 3]))
    assert source.notes == ("the distances of the images go from 1.4 to 2.6 mm; they are taken as equal",)
    assert str(source.voxel_size) == "250000,500000,2000000"


def test_two_images_at_one_place_are_refused(tmp_path):
    with pytest.raises(UnsupportedFormat, match=r"3-\.dcm and 10-\.dcm are at the same place"):
        open_source(write_series(tmp_path / "s", VOLUME, heights=[0, 0, 1, 1]))


def test_scale_and_inversion_are_noted_and_scales_that_differ_are_refused(tmp_path):
    folder = write_series(tmp_path / "s", VOLUME, scale=(2, -1024), photometric="MONOCHROME1")
    source = open_source(folder)
    assert np.array_equal(whole(source)[0], VOLUME)
    assert source.notes == (
        "the stored values are kept; the header says that value = 2 x stored + -1024",
        "the header says that low values are shown bright (MONOCHROME1); the values are kept",
    )
    style = DicomStyle(position=(3, -4, 8), spacing=(0.5, 0.25), photometric="MONOCHROME1", scale=(3, 0))
    write_dicom(folder / "99.dcm", VOLUME[0], style)
    with pytest.raises(UnsupportedFormat, match="count in different units"):
        open_source(folder)


@pytest.mark.parametrize("is_planar", [False, True])
def test_colours_are_read(tmp_path, is_planar):
    image = np.random.default_rng(1).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    source = open_source(
        write_dicom(tmp_path / "v.dcm", image, DicomStyle(photometric="RGB", is_planar=is_planar))
    )
    assert np.array_equal(whole(source)[:, 0], np.moveaxis(image, -1, 0))


@pytest.mark.parametrize(
    ("style", "size", "note"),
    [
        (DicomStyle(spacing=(0.5, 0.25)), "None",
         "the images state pixels of 0.25 x 0.5 mm, but no distance of sections"),
        (DicomStyle(spacing=(0.5, 0.25), thickness=3), "250000,500000,3000000",
         "the distance of the images is not stated; their thickness is taken"),
    ],
)  # fmt: skip
def test_one_image_has_no_distance(tmp_path, style, size, note):
    source = open_source(write_dicom(tmp_path / "v.dcm", VOLUME[0], style))
    assert (str(source.voxel_size), source.notes) == (size, (note,))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0",
         COMPRESSED),
        (b"MONOCHROME2 ", b"PALETTE     ", "v.dcm has colours of kind PALETTE; save it as grey or RGB"),
        (b"\x28\0\x10\0US\2\0\5\0", b"\x28\0\x10\0US\2\0\xff\xff",
         "v.dcm states 1 images of 6 x 65535 pixels, but stores only 60 bytes; copy it again"),
        (b"\x28\0\x10\0US\2\0\5\0", b"\x28\0\x10\0US\2\0\0\0",
         "v.dcm states 1 images of 6 x 0 pixels; save it anew"),
        (b"\x28\0\2\1US\2\0\x0f\0", b"\x28\0\2\1US\2\0\x0e\0",
         "v.dcm keeps something else in the low bits of its pixels; save it anew"),
        (b"\xe0\x7f\x10\0OW\0\0\x3c\0\0\0", b"\xe0\x7f\x20\0OW\0\0\x3c\0\0\0", "v.dcm holds no image; remove it"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path, old, new, message):
    path = write_dicom(tmp_path / "v.dcm", VOLUME[0])
    assert path.read_bytes().count(old) == 1
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(UnsupportedFormat) as error:
        open_source(path)
    assert error.value.message == message


RLE, LOSSLESS_JPEG, JPEG_LS, JPEG_2000 = (f"1.2.840.10008.1.2.{end}" for end in ("5", "4.70", "4.80", "4.90"))
ENCODERS = {
    RLE: rle_frame,
    LOSSLESS_JPEG: lambda image: imagecodecs.jpeg8_encode(image, lossless=True, bitspersample=16),
    JPEG_LS: imagecodecs.jpegls_encode,
    JPEG_2000: lambda image: imagecodecs.jpeg2k_encode(image, codecformat="J2K", level=0, reversible=True),
}


@pytest.mark.parametrize("dtype", ["uint16", "int16"])
@pytest.mark.parametrize("syntax", [RLE, LOSSLESS_JPEG, JPEG_LS, JPEG_2000])
def test_compressed_images_equal_what_was_packed(tmp_path, syntax, dtype):
    values = VOLUME.astype(dtype)
    # What has a sign is packed as if it had none, but by JPEG 2000, which knows signs.
    frames = [ENCODERS[syntax](image if syntax == JPEG_2000 else image.view("u2")) for image in values]
    style = DicomStyle(spacing=(0.5, 0.25), frame_positions=tuple((0.0, 0.0, z * 2.0) for z in range(4)))
    source = open_source(write_coded_dicom(tmp_path / "v.dcm", values, frames, syntax, style))
    assert (source.dtype, str(source.voxel_size)) == (dtype, "250000,500000,2000000")
    assert np.array_equal(whole(source)[0], values)
    box = Box((1, 2, 1), (4, 2, 2))
    assert np.array_equal(source.read(box)[0], values[box.slices_zyx])


def test_compressed_colours_are_red_green_and_blue(tmp_path):
    image = np.random.default_rng(1).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    style = DicomStyle(photometric="RGB")
    source = open_source(write_coded_dicom(tmp_path / "r.dcm", image, [rle_frame(image)], RLE, style))
    assert np.array_equal(whole(source)[:, 0], np.moveaxis(image, -1, 0))
    packed = imagecodecs.jpeg8_encode(image, level=100, colorspace="RGB", outcolorspace="RGB")
    coded = write_coded_dicom(tmp_path / "j.dcm", image, [packed], "1.2.840.10008.1.2.4.50", style)
    assert np.abs(whole(open_source(coded))[:, 0].astype(int) - np.moveaxis(image, -1, 0)).max() <= 2


@pytest.mark.parametrize("has_table", [False, True])
def test_images_in_several_pieces_are_told_apart(tmp_path, has_table):
    frames = [ENCODERS[JPEG_LS](image.view("u2")) for image in VOLUME]
    path = tmp_path / "v.dcm"
    write_coded_dicom(path, VOLUME, frames, JPEG_LS, has_table=has_table, piece_bytes=40)
    assert np.array_equal(whole(open_source(path))[0], VOLUME)


def test_pieces_that_say_nothing_of_their_images_are_refused(tmp_path):
    path = tmp_path / "v.dcm"
    write_coded_dicom(path, VOLUME, [rle_frame(image) for image in VOLUME], RLE, piece_bytes=40)
    with pytest.raises(UnsupportedFormat, match=r"v\.dcm has 4 images in \d+ pieces, and does not say which"):
        open_source(path)


def test_a_stream_of_another_size_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "v.dcm"
    write_coded_dicom(path, VOLUME[0], [ENCODERS[JPEG_LS](np.zeros((50, 6), "u2"))], JPEG_LS)
    source = open_source(path)
    with pytest.raises(
        UnsupportedFormat, match=r"its image is \(50, 6, 1\), and the header says \(5, 6, 1\)"
    ):
        whole(source)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(syntax=st.sampled_from([RLE, LOSSLESS_JPEG, JPEG_LS, JPEG_2000]), data=st.data())
def test_damaged_compressed_files_are_refused(tmp_path, syntax, data):
    frames = [ENCODERS[syntax](image.view("u2")) for image in VOLUME]
    path = write_coded_dicom(tmp_path / f"v{next(FILE_NUMBERS)}.dcm", VOLUME, frames, syntax)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        path.write_bytes(content[: data.draw(st.integers(132, len(content) - 9))])
        with pytest.raises(UnsupportedFormat, match=path.name):
            open_volumes(path)
        return
    at = data.draw(st.integers(132, len(content) - 9))
    content[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4))
    path.write_bytes(content)
    with contextlib.suppress(UnsupportedFormat, UnsupportedDtype, MissingSections):
        for volume in open_volumes(path):
            whole(volume.source)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(undefined=st.booleans(), syntax=st.sampled_from(["implicit", "explicit"]), data=st.data())
def test_damaged_files_are_refused(tmp_path, undefined, syntax, data):
    style = DicomStyle(
        syntax=syntax, has_undefined_lengths=undefined, spacing=(1, 1),
        frame_positions=tuple((0.0, 0.0, z) for z in range(4)),
    )  # fmt: skip
    path = write_dicom(tmp_path / f"v{next(FILE_NUMBERS)}.dcm", VOLUME, style)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        path.write_bytes(content[: data.draw(st.integers(132, len(content) - 1))])
        with pytest.raises(UnsupportedFormat, match=path.name):
            open_volumes(path)
        return
    at = data.draw(st.integers(132, len(content) - 9))
    content[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4))
    path.write_bytes(content)
    with contextlib.suppress(UnsupportedFormat, UnsupportedDtype, MissingSections):
        open_volumes(path)
