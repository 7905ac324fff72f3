"""Boxes read from files of an independent writer equal slices of what was written."""

import errno
import itertools
import os
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voxelworks.errors import InvalidGeometry, SourceNotFound, StorageFailed, UnsupportedFormat
from voxelworks.geometry import Box
from voxelworks.testing.independent_writers import TiffStyle, write_png, write_tiff
from voxelworks.volumes.formats import FILE_FORMATS, open_source
from voxelworks.volumes.formats.source import readable

FILE_NUMBERS = itertools.count()
DTYPES = ["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "float32"]


@st.composite
def stacks(draw):
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40)))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(
        0, 256, (*shape, dtype.itemsize), dtype=np.uint8
    )
    layout = draw(st.sampled_from(["strip", "strips", "scattered strips", "tiles"]))
    return (
        np.nan_to_num(values.view(dtype)[..., 0]) if dtype.kind == "f" else values.view(dtype)[..., 0]
    ), TiffStyle(
        byte_order=draw(st.sampled_from(["little", "big"])),
        is_big=draw(st.booleans()),
        rows_per_strip=draw(st.integers(1, 40)) if "strips" in layout else None,
        strip_gap=3 if layout == "scattered strips" else 0,
        tile=(16, 32) if layout == "tiles" else None,
        is_deflated=draw(st.booleans()),
    )


@st.composite
def boxes_in(draw, shape_zyx):
    start = [draw(st.integers(0, size)) for size in shape_zyx]
    shape = [draw(st.integers(0, size - first)) for first, size in zip(start, shape_zyx, strict=True)]
    return Box.from_zyx(tuple(start), tuple(shape))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stack=stacks(), data=st.data())
def test_a_box_of_any_tiff_equals_the_slice(tmp_path, stack, data):
    pages, style = stack
    source = open_source(write_tiff(tmp_path / f"stack{next(FILE_NUMBERS)}.tif", pages, style))
    assert (source.shape_zyx, source.dtype, source.channel_count) == (pages.shape, pages.dtype, 1)
    box = data.draw(boxes_in(pages.shape))
    assert np.array_equal(source.read(box), pages[None, *box.slices_zyx])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    is_planar=st.booleans(), is_tiled=st.booleans(), is_deflated=st.booleans(), has_alpha=st.booleans(), data=st.data()
)  # fmt: skip
def test_a_box_of_any_rgb_tiff_equals_the_slice(tmp_path, is_planar, is_tiled, is_deflated, has_alpha, data):
    pages = np.random.default_rng(1).integers(0, 256, (2, 20, 35, 3 + has_alpha), dtype=np.uint8)
    pages[..., 3:] = 255
    style = TiffStyle(
        is_planar=is_planar, tile=(16, 16) if is_tiled else None, is_deflated=is_deflated, rows_per_strip=7,
        extra_sample=2 if has_alpha else None,
    )  # fmt: skip
    source = open_source(write_tiff(tmp_path / f"stack{next(FILE_NUMBERS)}.tif", pages, style))
    assert (source.shape_zyx, source.dtype, source.channel_count) == ((2, 20, 35), np.uint8, 3)
    box = data.draw(boxes_in((2, 20, 35)))
    assert np.array_equal(source.read(box), np.moveaxis(pages[..., :3], -1, 0)[:, *box.slices_zyx])


def test_wide_gaps_between_rows_are_not_read(tmp_path):
    page = np.random.default_rng(2).integers(0, 65536, (12, 40_000), dtype=np.uint16)
    source = open_source(write_tiff(tmp_path / "wide.tif", [page]))
    assert source.has_random_access
    assert np.array_equal(source.read(Box((39_000, 2, 0), (1_000, 7, 1)))[0, 0], page[2:9, 39_000:])


def test_an_array_is_reused(tmp_path):
    pages = np.random.default_rng(3).integers(0, 256, (2, 9, 11), dtype=np.uint8)
    source = open_source(write_tiff(tmp_path / "s.tif", pages))
    out = np.ones((1, 2, 9, 11), np.uint8)
    assert source.read(source.box, out) is out
    assert np.array_equal(out[0], pages)
    with pytest.raises(ValueError, match="needed is"):
        source.read(source.box, np.ones((1, 2, 9, 11), np.uint16))


def test_one_section_is_read_by_its_number(tmp_path):
    pages = np.random.default_rng(3).integers(0, 256, (3, 9, 11), dtype=np.uint8)
    source = open_source(write_tiff(tmp_path / "s.tif", pages))
    assert np.array_equal(source.read_section(2), pages[None, 2])
    assert source.section_bytes == 99


def test_a_box_outside_is_refused(tmp_path):
    source = open_source(write_tiff(tmp_path / "s.tif", np.zeros((3, 9, 11), np.uint8)))
    with pytest.raises(InvalidGeometry) as error:
        source.read(Box((0, 0, 2), (11, 9, 2)))
    assert error.value.message == "box 0,0,2,11,9,2 is not inside the images, which are 0,0,0,11,9,3"


@pytest.mark.parametrize("style", [TiffStyle(), TiffStyle(is_deflated=True)])
def test_a_copy_in_another_process_reads_the_same(tmp_path, style):
    pages = np.random.default_rng(4).integers(0, 256, (3, 9, 11), dtype=np.uint8)
    source = open_source(write_tiff(tmp_path / "s.tif", pages, style))
    source.read(source.box)
    copy = pickle.loads(pickle.dumps(source))
    assert np.array_equal(copy.read(copy.box)[0], pages)
    assert (copy.fingerprint, copy.files, copy.notes) == (source.fingerprint, source.files, source.notes)


def test_no_file_stays_open(tmp_path):
    pages = np.zeros((3, 9, 11), np.uint8)
    source = open_source(write_tiff(tmp_path / "s.tif", pages, TiffStyle(is_deflated=True)))
    source.read(source.box)
    if os.path.isdir("/proc/self/fd"):
        links = [
            os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{fd}")
        ]
        assert str(tmp_path / "s.tif") not in links


def test_the_fingerprint_tells_changed_files(tmp_path):
    path = write_png(tmp_path / "s.png", np.zeros((9, 11), np.uint8))
    before = open_source(path).fingerprint
    assert open_source(path).fingerprint == before
    os.utime(path, ns=(1, 1))
    assert open_source(path).fingerprint != before


@pytest.mark.parametrize("style", [TiffStyle(), TiffStyle(is_deflated=True)])
def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path, style):
    path = write_tiff(tmp_path / "s.tif", np.zeros((3, 9, 11), np.uint8), style)
    source = open_source(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UnsupportedFormat) as error:
        source.read(source.box)
    assert error.value.message == "s.tif was changed while it was read; start again when it is complete"


def test_a_file_that_is_gone_is_named(tmp_path):
    path = write_png(tmp_path / "s.png", np.zeros((9, 11), np.uint8))
    source = open_source(path)
    path.unlink()
    with pytest.raises(SourceNotFound) as error:
        source.read(source.box)
    assert error.value.message == f"{path} does not exist; check the name"


def test_a_place_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(SourceNotFound) as error:
        open_source(tmp_path / "nothing")
    assert error.value.message == f"{tmp_path / 'nothing'} does not exist; check the name"


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("section 7 is bad")
    with pytest.raises(UnsupportedFormat) as error:
        open_source(tmp_path / "notes.txt")
    known = [form.NAME for form in FILE_FORMATS]
    assert {"TIFF", "PNG", "JPEG"} <= set(known)
    listing = f"{', '.join(known[:-1])} and {known[-1]}"
    assert error.value.message == (
        f"notes.txt is none of {listing}; save it as one of them, or, if it holds nothing but voxels, say how many and "
        "of which type (`raw_size`, `raw_dtype`)"
    )


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "s.tif").touch()
    with pytest.raises(UnsupportedFormat) as error:
        open_source(tmp_path / "s.tif")
    assert error.value.message == "s.tif is empty; copy it again or remove it"


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied"),
            SourceNotFound,
            "a/s.tif may not be read; change its permissions",
        ),
        (
            OSError(errno.EIO, "Input/output error"),
            StorageFailed,
            "a/s.tif could not be read: Input/output error",
        ),
        (
            OSError(errno.ESTALE, "Stale file handle"),
            StorageFailed,
            "a/s.tif could not be read: Stale file handle",
        ),
        (NotADirectoryError(errno.ENOTDIR, ""), SourceNotFound, "a/s.tif does not exist; check the name"),
    ],
)
def test_what_the_system_says_becomes_a_sentence(said, kind, message):
    with pytest.raises(kind) as error, readable("a/s.tif"):
        raise said
    assert (type(error.value), error.value.message) == (kind, message)
