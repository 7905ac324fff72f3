import os
import pickle

import numpy as np
import pytest
from PIL import Image

from voxelworks.errors import MissingSections, MixedSections, SourceNotFound, UnsupportedFormat
from voxelworks.geometry import Box, VoxelSize
from voxelworks.testing.independent_writers import TiffStyle, write_png, write_tiff
from voxelworks.volumes.formats import open_source, section_folder

BETWEEN = "numbers between the steps do not count as missing"


def noise(shape, dtype=np.uint8):
    return np.random.default_rng(8).integers(0, 200, shape).astype(dtype)


def write_sections(folder, pages, numbers=None, name="s_{:03d}.tif", style=TiffStyle()):
    for number, page in zip(numbers or range(len(pages)), pages, strict=True):
        path = folder / name.format(number)
        if path.suffix == ".png":
            write_png(path, page)
        else:
            write_tiff(path, [page], style)


def refusal(kind, path, **options):
    with pytest.raises(kind) as error:
        open_source(path, **options)
    assert type(error.value) is kind
    return error.value.message


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
@pytest.mark.parametrize("byte_order", ["little", "big"])
def test_tiff_sections_stand_in_natural_order(tmp_path, dtype, byte_order):
    pages = noise((12, 5, 7), dtype)
    write_sections(tmp_path, pages, name="s_{}.tif", style=TiffStyle(byte_order=byte_order))
    source = open_source(tmp_path)
    assert (source.shape_zyx, source.dtype, source.notes) == ((12, 5, 7), dtype, ())
    assert np.array_equal(source.read(source.box)[0], pages)
    box = Box((2, 1, 9), (4, 3, 2))
    assert np.array_equal(source.read(box)[0], pages[box.slices_zyx])


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_png_sections_are_read(tmp_path, dtype):
    pages = noise((4, 5, 7), dtype)
    write_sections(tmp_path, pages, name="s_{}.png")
    source = open_source(tmp_path)
    assert np.array_equal(source.read(source.box)[0], pages)


def test_sections_of_pillow_are_read(tmp_path):
    pages = noise((4, 50, 70))
    for index, compression in enumerate([None, "tiff_lzw", "tiff_adobe_deflate", "packbits"]):
        Image.fromarray(pages[index]).save(tmp_path / f"{index}.TIFF", compression=compression)
    source = open_source(tmp_path)
    assert np.array_equal(source.read(source.box)[0], pages)
    assert not source.has_random_access


def test_jpeg_sections_with_all_suffixes_are_one_stack(tmp_path):
    image = Image.fromarray(noise((50, 70)))
    for name in ("0.jpg", "1.jpeg", "2.JPG"):
        image.save(tmp_path / name, "JPEG")
    assert open_source(tmp_path).shape_zyx == (3, 50, 70)


def test_two_processes_may_share_a_source(tmp_path):
    pages = noise((4, 5, 7))
    write_sections(tmp_path, pages)
    source = pickle.loads(pickle.dumps(open_source(tmp_path)))
    assert np.array_equal(source.read(source.box)[0], pages)


def test_many_headers_are_read_in_order(tmp_path, monkeypatch):
    pages = noise((section_folder._TRIED_FIRST + 5, 5, 7))
    write_sections(tmp_path, pages)
    source = open_source(tmp_path)
    assert np.array_equal(source.read(source.box)[0], pages)
    assert [os.path.basename(path) for path in source.files] == [f"s_{z:03d}.tif" for z in range(len(pages))]


@pytest.mark.parametrize("first", [0, 17])
def test_sections_may_begin_anywhere(tmp_path, first):
    pages = noise((3, 5, 7))
    write_sections(tmp_path, pages, [first, first + 1, first + 2])
    source = open_source(tmp_path)
    assert np.array_equal(source.read(source.box)[0], pages)
    assert source.notes == ()


@pytest.mark.parametrize(
    ("numbers", "note"),
    [
        ([1, 3, 5], "sections are numbered in steps of 2: s_001.tif, s_003.tif, s_005.tif"),
        ([1, 4], "sections are numbered in steps of 3: s_001.tif, s_004.tif"),
        (
            [100, 110, 120, 130],
            "sections are numbered in steps of 10: s_100.tif, s_110.tif, s_120.tif and 1 more",
        ),
    ],
)
def test_sections_that_step_evenly_are_a_whole_stack_and_the_step_is_mentioned(tmp_path, numbers, note):
    pages = noise((len(numbers), 5, 7))
    write_sections(tmp_path, pages, numbers)
    source = open_source(tmp_path)
    assert np.array_equal(source.read(source.box)[0], pages)
    assert source.notes == (f"{note}; {BETWEEN}",)


def test_the_step_is_mentioned_when_sections_are_missing_too(tmp_path):
    write_sections(tmp_path, noise((3, 5, 7)), [10, 20, 40])
    assert open_source(tmp_path, fill_missing=True).notes == (
        f"sections are numbered in steps of 10: s_010.tif, s_020.tif, s_040.tif; {BETWEEN}",
        "missing sections filled with zeros: s_030.tif",
    )


def test_missing_sections_are_named(tmp_path):
    write_sections(tmp_path, noise((4, 5, 7)), [1, 2, 4, 6])
    assert refusal(MissingSections, tmp_path) == (
        "missing between s_001.tif and s_006.tif: s_003.tif, s_005.tif; "
        "add them, or ask for missing sections to be filled"
    )


def test_missing_sections_are_filled_with_zeros(tmp_path):
    pages = noise((6, 5, 7))
    write_sections(tmp_path, pages[[0, 1, 3, 5]], [1, 2, 4, 6])
    source = open_source(tmp_path, fill_missing=True)
    pages[[2, 4]] = 0
    assert np.array_equal(source.read(source.box, np.ones((1, 6, 5, 7), np.uint8))[0], pages)
    assert source.notes == ("missing sections filled with zeros: s_003.tif, s_005.tif",)
    assert source.has_random_access


def test_numbers_that_are_no_section_numbers_do_not_make_a_giant(tmp_path):
    write_sections(tmp_path, noise((3, 5, 7)), [20240101, 20240102, 20240201])
    missing = (
        "missing between s_20240101.tif and s_20240201.tif: s_20240103.tif, s_20240104.tif, s_20240105.tif, "
        "s_20240106.tif, s_20240107.tif, s_20240108.tif, s_20240109.tif, s_20240110.tif, s_20240111.tif, "
        "s_20240112.tif and 88 more; "
    )
    assert refusal(MissingSections, tmp_path) == (
        missing + "only 3 are there: if these are not section numbers, rename the files"
    )
    assert refusal(MissingSections, tmp_path, fill_missing=True) == (
        missing
        + "98 are too many to fill where only 3 are there: rename the files if these are not section numbers, "
        "or add empty sections if they are"
    )


def test_as_many_sections_are_filled_as_are_there(tmp_path):
    write_sections(tmp_path, noise((3, 5, 7)), [1, 2, 6])
    assert open_source(tmp_path, fill_missing=True).shape_zyx == (6, 5, 7)
    (tmp_path / "s_006.tif").rename(tmp_path / "s_007.tif")
    assert refusal(MissingSections, tmp_path, fill_missing=True) == (
        "missing between s_001.tif and s_007.tif: s_003.tif, s_004.tif, s_005.tif, s_006.tif; 4 are too many to fill "
        "where only 3 are there: rename the files if these are not section numbers, or add empty sections if they are"
    )


def test_two_files_for_one_section_are_refused(tmp_path):
    write_sections(tmp_path, noise((3, 5, 7)))
    write_tiff(tmp_path / "s_1.tif", noise((1, 5, 7)))
    assert refusal(MissingSections, tmp_path) == "s_001.tif and s_1.tif are both section 1; remove one"


def test_names_without_one_number_are_taken_as_they_are(tmp_path):
    for name in ("anna.tif", "berta.tif"):
        write_tiff(tmp_path / name, noise((1, 5, 7)))
    source = open_source(tmp_path)
    assert source.shape_zyx == (2, 5, 7)
    assert source.notes == (
        "the names do not differ in one number only, so missing sections could not be noticed",
    )


def test_other_files_are_ignored_and_mentioned(tmp_path):
    write_sections(tmp_path, noise((2, 5, 7)))
    (tmp_path / ".hidden.tif").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "more").mkdir()
    source = open_source(tmp_path)
    assert source.shape_zyx == (2, 5, 7)
    assert source.notes == (f"ignored in {tmp_path.name}: more, notes.txt",)


def test_one_file_in_a_folder_is_opened_as_itself(tmp_path):
    write_tiff(tmp_path / "stack.tif", noise((6, 5, 7)))
    (tmp_path / "notes.txt").touch()
    source = open_source(tmp_path)
    assert (source.shape_zyx, source.notes) == ((6, 5, 7), (f"ignored in {tmp_path.name}: notes.txt",))


def test_several_formats_are_refused(tmp_path):
    write_sections(tmp_path, noise((2, 5, 7)))
    write_sections(tmp_path, noise((2, 5, 7)), name="s_{:03d}.png")
    assert refusal(UnsupportedFormat, tmp_path) == (
        f"{tmp_path.name} holds images of several formats (s_000.png, s_000.tif); keep one"
    )


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    assert refusal(UnsupportedFormat, tmp_path) == (
        f"{tmp_path} holds no TIFF, PNG, JPEG or WebP files; name the folder that does"
    )


def test_a_section_of_another_size_is_named(tmp_path):
    write_sections(tmp_path, [noise((5, 7)), noise((5, 7)), noise((4, 7)), noise((3, 7))])
    assert refusal(MixedSections, tmp_path) == (
        "s_002.tif is 7 x 4 uint8, but s_000.tif is 7 x 5 uint8; "
        "correct it, or ask for smaller sections to be filled with zeros"
    )


def test_smaller_sections_are_padded_with_zeros(tmp_path):
    pages = [noise((4, 7)), noise((5, 6)), noise((5, 7))]
    write_sections(tmp_path, pages)
    source = open_source(tmp_path, fill_missing=True)
    expected = np.zeros((3, 5, 7), np.uint8)
    for z, page in enumerate(pages):
        expected[z, : page.shape[0], : page.shape[1]] = page
    assert np.array_equal(source.read(source.box, np.ones((1, 3, 5, 7), np.uint8))[0], expected)
    assert source.notes == ("s_000.tif, s_001.tif padded with zeros to 7 x 5",)


@pytest.mark.parametrize("other", [np.zeros((5, 7), np.uint16), np.zeros((5, 7, 3), np.uint8)])
@pytest.mark.parametrize("fill_missing", [False, True])
def test_a_section_of_another_type_is_named(tmp_path, other, fill_missing):
    write_sections(tmp_path, [noise((5, 7)), other])
    kind = "uint16" if other.ndim == 2 else "uint8 RGB"
    assert refusal(MixedSections, tmp_path, fill_missing=fill_missing) == (
        f"s_001.tif is 7 x 5 {kind}, but s_000.tif is 7 x 5 uint8; save all sections with the same kind of values"
    )


def test_a_stack_among_the_sections_is_refused(tmp_path):
    write_sections(tmp_path, noise((3, 5, 7)))
    write_tiff(tmp_path / "s_001.tif", noise((4, 5, 7)))
    assert refusal(UnsupportedFormat, tmp_path) == (
        "s_001.tif has 4 pages; a folder must hold one section per file: give the file itself, or split it"
    )


@pytest.mark.parametrize("name", ["s_001.tif", "s_001.png"])
def test_empty_and_wrong_files_are_named(tmp_path, name):
    suffix = name[-4:]
    write_sections(tmp_path, noise((3, 5, 7)), name="s_{:03d}" + suffix)
    (tmp_path / name).write_bytes(b"")
    assert refusal(UnsupportedFormat, tmp_path) == f"{name} is empty; copy it again or remove it"
    (tmp_path / name).write_bytes(b"an HTML page that says: file not found")
    assert refusal(UnsupportedFormat, tmp_path).startswith(f"{name} ")


def test_a_dangling_link_is_not_overlooked(tmp_path):
    write_sections(tmp_path, noise((3, 5, 7)))
    path = tmp_path / "s_001.tif"
    path.unlink()
    path.symlink_to(tmp_path / "gone.tif")
    assert refusal(SourceNotFound, tmp_path) == f"{path} does not exist; check the name"


def test_the_voxel_size_of_the_first_section_counts(tmp_path):
    description = "ImageJ=1.54f\nunit=nm\nspacing=40\n"
    write_sections(
        tmp_path, noise((3, 5, 7)), style=TiffStyle(description=description, pixels_per_unit=(1, 4))
    )
    assert open_source(tmp_path).voxel_size == VoxelSize(4.0, 4.0, 40.0)
