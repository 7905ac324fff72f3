"""A folder of sections, one in each file, in natural order of their names."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from voxelworks.errors import MissingSections, UnsupportedFormat
from voxelworks.volumes.formats import jpeg, png, tiff, webp
from voxelworks.volumes.formats.names import SectionNumbers, natural_key, section_numbers
from voxelworks.volumes.formats.source import (
    ImageSource,
    Plane,
    ReadOptions,
    SourceFile,
    Volume,
    common_form,
    listed,
    readable,
)

NAME = "folder of sections"
_READERS: dict[str, Callable[[SourceFile], Plane]] = {
    **dict.fromkeys(tiff.SECTION_SUFFIXES, tiff.read_section),
    **dict.fromkeys(png.SUFFIXES, png.read_section),
    **dict.fromkeys(jpeg.SUFFIXES, jpeg.read_section),
    **dict.fromkeys(webp.SUFFIXES, webp.read_section),
}
_TRIED_FIRST = 32
_THREADS_WHILE_WAITING = 16


def recognises(folder: Path) -> bool:
    """Take any folder: what is wrong with it is said when it is opened."""
    return True


def open_volumes(folder: Path, options: ReadOptions) -> tuple[Volume, ...]:
    """Open a folder: one image for itself, several as a stack; see `open_folder`."""
    names, notes = image_names(folder)
    if len(names) > 1:
        return (Volume("", open_folder(folder, fill_missing=options.fill_missing)),)
    file = SourceFile.of(folder / names[0])
    if _suffix(file.name) not in tiff.SECTION_SUFFIXES:
        plane = _READERS[_suffix(file.name)](file)
        return (Volume("", ImageSource((plane,), plane.form, notes=notes)),)
    volumes = tiff.open_volumes(file, options)
    return tuple(
        replace(volume, source=replace(volume.source, notes=(*notes, *volume.source.notes)))
        for volume in volumes
        if isinstance(volume.source, ImageSource)
    )


def has_images(folder: Path) -> bool:
    """Whether any file in a folder looks like a section."""
    with readable(str(folder)), os.scandir(folder) as entries:
        return any(_is_image(entry) for entry in entries)


def _is_image(entry: os.DirEntry[str]) -> bool:
    # A dangling link counts as an image: it is refused by name when its header is read.
    return not entry.name.startswith(".") and _suffix(entry.name) in _READERS and not entry.is_dir()


def has_sections(folder: Path) -> bool:
    """Tell whether a folder holds any file that could be a section."""
    with readable(str(folder)):
        names = os.listdir(folder)
    return any(_suffix(name) in _READERS and not name.startswith(".") for name in names)


def image_names(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    """List the image files of a folder in natural order, with a note on what else is in it.

    Raises
    ------
    UnsupportedFormat
        If there are no images, or images of several formats.
    """
    names: list[str] = []
    ignored: list[str] = []
    with readable(str(folder)), os.scandir(folder) as entries:
        for entry in entries:
            # Hidden files are leftovers of file managers, even those that end in .tif.
            if not entry.name.startswith("."):
                (names if _is_image(entry) else ignored).append(entry.name)
    if not names:
        raise UnsupportedFormat(f"{folder} holds no TIFF, PNG, JPEG or WebP files; name the folder that does")
    names.sort(key=natural_key)
    first_of = {_READERS[_suffix(name)]: name for name in reversed(names)}
    if len(first_of) > 1:
        raise UnsupportedFormat(
            f"{folder.name} holds images of several formats ({listed(sorted(first_of.values()))}); keep one"
        )
    ignored.sort(key=natural_key)
    return names, (f"ignored in {folder.name}: {listed(ignored)}",) if ignored else ()


def open_folder(folder: Path, *, fill_missing: bool) -> ImageSource:
    """Open a folder as a stack.

    Raises
    ------
    UnsupportedFormat, UnsupportedDtype
        Naming the first file that cannot be read.
    MissingSections
        If the numbers in the names have gaps, naming the missing files; with `fill_missing` only if more are missing
        than are there: numbers such as dates would make a giant of zeros.
    MixedSections
        If a section differs from the others.
    """
    names, notes = image_names(folder)
    numbers = section_numbers([os.path.splitext(name)[0] for name in names])
    if numbers is not None:
        _check_numbers(numbers, names, fill_missing=fill_missing)
        notes += _step_note(numbers, names)
    elif len(names) > 1:
        notes += ("the names do not differ in one number only, so missing sections could not be noticed",)
    files, planes = _read_headers([folder / name for name in names])
    form, padded = common_form(list(zip(names, planes, strict=True)), pad=fill_missing)
    stack, filled = _with_gaps(planes, numbers, os.path.splitext(names[0])[1])
    size, size_from, size_notes = (
        tiff.read_voxel_size(files[0]) if _suffix(names[0]) in tiff.SECTION_SUFFIXES else (None, "", ())
    )
    return ImageSource(stack, form, size, size_from, (*notes, *filled, *padded, *size_notes))


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _check_numbers(numbers: SectionNumbers, names: Sequence[str], *, fill_missing: bool) -> None:
    for (number, name), (next_number, next_name) in pairwise(zip(numbers.numbers, names, strict=True)):
        if number == next_number:
            raise MissingSections(f"{name} and {next_name} are both section {number}; remove one")
    count = numbers.missing_count
    if count == 0 or (fill_missing and count <= len(names)):
        return
    suffix = os.path.splitext(names[0])[1]
    missing = [name + suffix for name in numbers.missing_names(10)]
    more = f" and {count - len(missing)} more" if count > len(missing) else ""
    if fill_missing:
        step = (
            f"{count} are too many to fill where only {len(names)} are there: rename the files if these are not "
            "section numbers, or add empty sections if they are"
        )
    elif count > len(names):
        step = f"only {len(names)} are there: if these are not section numbers, rename the files"
    else:
        step = "add them, or ask for missing sections to be filled"
    raise MissingSections(f"missing between {names[0]} and {names[-1]}: {', '.join(missing)}{more}; {step}")


def _step_note(numbers: SectionNumbers, names: Sequence[str]) -> tuple[str, ...]:
    if numbers.step == 1:
        return ()
    first = listed(names, at_most=3)
    return (
        f"sections are numbered in steps of {numbers.step}: {first}; numbers between the steps do not count as missing",
    )


def _read_headers(paths: Sequence[Path]) -> tuple[list[SourceFile], list[Plane]]:
    def read(path: Path) -> tuple[SourceFile, Plane]:
        file = SourceFile.of(path)
        return file, _READERS[path.suffix.lower()](file)

    wall_s, compute_s = time.perf_counter(), time.thread_time()
    found = [read(path) for path in paths[:_TRIED_FIRST]]
    wall_s, compute_s = time.perf_counter() - wall_s, time.thread_time() - compute_s
    # On a network file system opening a file is mostly waiting, and threads help; on a disk they hinder each other.
    thread_count = _THREADS_WHILE_WAITING if wall_s > 2 * compute_s else 1
    with ThreadPoolExecutor(thread_count) as threads:
        found += threads.map(read, paths[_TRIED_FIRST:])
    return [file for file, _ in found], [plane for _, plane in found]


def _with_gaps(
    planes: Sequence[Plane], numbers: SectionNumbers | None, suffix: str
) -> tuple[tuple[Plane | None, ...], tuple[str, ...]]:
    """Put None where a section is missing."""
    if numbers is None or numbers.missing_count == 0:
        return tuple(planes), ()
    by_number = dict(zip(numbers.numbers, planes, strict=True))
    steps = range(numbers.numbers[0], numbers.numbers[-1] + 1, numbers.step)
    names = [name + suffix for name in numbers.missing_names(numbers.missing_count)]
    return tuple(by_number.get(number) for number in steps), (
        f"missing sections filled with zeros: {listed(names)}",
    )
