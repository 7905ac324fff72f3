"""Sections that are cut into tiles: `section/row/column.jpg`, as TEMCA2 and FAFB are stored.

Every folder and file is a number, and all tiles are of one size. A tile that is not there is black.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxelworks.errors import MissingSections, MixedSections, UnsupportedFormat
from voxelworks.geometry import Box, VoxelSize, Zyx
from voxelworks.volumes.formats import jpeg, png
from voxelworks.volumes.formats.chunked import Survey, require_stored, survey
from voxelworks.volumes.formats.source import (
    Plane,
    PlaneForm,
    ReadOptions,
    SourceBase,
    SourceFile,
    Volume,
    Window,
    listed,
    readable,
    require_inside,
)

NAME = "folder of tiles"
_READERS: dict[str, Callable[[SourceFile], Plane]] = {
    **dict.fromkeys(jpeg.SUFFIXES, jpeg.read_section),
    **dict.fromkeys(png.SUFFIXES, png.read_section),
}
_NUMBER = re.compile(r"0|[1-9]\d{0,8}", re.ASCII)
_PADDED = re.compile(r"\d{1,9}", re.ASCII)
_TRIED = 3
_FILLED_ALWAYS = 100
"""So many missing sections are filled on demand, though fewer are there: of large tiles often only some are at hand."""


@dataclass(frozen=True)
class TileSource(SourceBase):
    """Tiles that lie side by side."""

    folder: str
    sections: tuple[str | None, ...]
    """Names of the folders of the sections, in order; None for one that is missing."""
    rows: tuple[int, int]
    columns: tuple[int, int]
    """Numbers of the first and of the last."""
    suffix: str
    form: PlaneForm
    """Of a tile."""
    notes: tuple[str, ...] = ()
    voxel_size: VoxelSize | None = None
    voxel_size_from = ""
    has_random_access = True

    @property
    def shape_zyx(self) -> Zyx:
        (first_row, last_row), (first_column, last_column) = self.rows, self.columns
        return (
            len(self.sections),
            (last_row - first_row + 1) * self.form.height,
            (last_column - first_column + 1) * self.form.width,
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.form.dtype

    @property
    def channel_count(self) -> int:
        return self.form.channel_count

    @property
    def decoding_bytes(self) -> int:
        """Memory of a section, and of a tile while it is decoded."""
        _, height, width = self.shape_zyx
        pixels = height * width + 3 * self.form.height * self.form.width
        return pixels * self.channel_count * self.dtype.itemsize

    @property
    def files(self) -> tuple[str, ...]:
        """The folder, and what below it is a link."""
        return self._survey.links

    @property
    def fingerprint(self) -> str:
        """A text that changes when tiles are added, removed or replaced by new files; their contents are not read."""
        facts = (self.sections, self.rows, self.columns, self.form, self._survey.digest)
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    @cached_property
    def _survey(self) -> Survey:
        return survey(self.folder)

    def read(self, box: Box) -> NDArray[Any]:
        """Read a box as (c, z, y, x).

        Raises
        ------
        InvalidGeometry
            If the box is not inside the source.
        UnsupportedFormat, MixedSections
            If a tile is damaged or of another size.
        StorageFailed
            If the file system does not answer.
        """
        require_inside(self, box)
        out: NDArray[Any] = np.zeros((self.channel_count, *box.shape_zyx), self.dtype)
        x0, y0, z0 = box.topleft
        for part in box.tiles((self.form.width, self.form.height, 1)):
            left, top, z = part.topleft
            section = self.sections[z]
            column, row = left // self.form.width, top // self.form.height
            tile = None if section is None else self._tile(section, row, column)
            if tile is None:
                continue
            width, height, _ = part.size
            window = Window(top - row * self.form.height, left - column * self.form.width, height, width)
            with tile.file.open() as handle:
                into = out[:, z - z0, top - y0 : top - y0 + height, left - x0 : left - x0 + width]
                tile.read_into(handle, window, into)
        return out

    def _tile(self, section: str, row: int, column: int) -> Plane | None:
        path = os.path.join(
            self.folder, section, str(self.rows[0] + row), f"{self.columns[0] + column}{self.suffix}"
        )
        if not os.path.exists(path):
            return None
        tile = _READERS[self.suffix.lower()](SourceFile.of(path))
        if tile.form != self.form:
            raise MixedSections(
                f"{path} is {tile.form}, but the first tile is {self.form}; save all tiles alike"
            )
        return tile


def recognises(folder: Path) -> bool:
    """Tell by the first few: only numbers, on all three levels, and at least a tile."""
    with readable(str(folder)):
        sections = list(islice(_numbered(folder), _TRIED))
        rows = [row for _, section in sections for row in islice(_numbered(section, padded=False), _TRIED)]
        return any(True for _, row in rows for _ in islice(_tiles(row), 1))


def open_volumes(folder: Path, options: ReadOptions) -> tuple[Volume, ...]:
    """Find out which tiles there are, and read the header of the first.

    Raises
    ------
    UnsupportedFormat
        If tiles are of several formats.
    MissingSections
        If there are gaps in the numbers of the sections, or two with the same.
    """
    found: dict[int, str] = {}
    rows: set[int] = set()
    columns: set[int] = set()
    first: dict[str, Path] = {}
    for z, section in sorted(_numbered(folder)):
        for row, row_folder in _numbered(section, padded=False):
            for column, tile in _tiles(row_folder):
                if found.setdefault(z, section.name) != section.name:
                    raise MissingSections(f"{found[z]} and {section.name} are both section {z}; remove one")
                rows.add(row)
                columns.add(column)
                first.setdefault(tile.suffix, tile)
    if len(first) > 1:
        raise UnsupportedFormat(
            f"{folder.name} holds tiles of several kinds ({listed(sorted(first))}); keep one"
        )
    ((suffix, tile),) = first.items()
    form = _READERS[suffix.lower()](SourceFile.of(tile)).form
    sections, notes = _sections(found, fill_missing=options.fill_missing)
    corner = f"{min(columns)},{min(rows)},{min(found)}"
    note = f"the first tile has the numbers {corner} (column, row, section); tiles that are not there read as zeros"
    source = TileSource(
        str(folder),
        sections,
        (min(rows), max(rows)),
        (min(columns), max(columns)),
        suffix,
        form,
        (note, *notes),
    )
    depth, height, width = source.shape_zyx
    require_stored(
        str(folder), folder.name, depth * height * width * form.channel_count * form.dtype.itemsize
    )
    return (Volume("", source),)


def _sections(found: dict[int, str], *, fill_missing: bool) -> tuple[tuple[str | None, ...], tuple[str, ...]]:
    numbers = range(min(found), max(found) + 1)
    missing_count = len(numbers) - len(found)
    if not missing_count:
        return tuple(found[number] for number in numbers), ()
    missing = [str(number) for number in islice((n for n in numbers if n not in found), 10)]
    text = ", ".join(missing) + (
        f" and {missing_count - len(missing)} more" if missing_count > len(missing) else ""
    )
    most = max(len(found), _FILLED_ALWAYS)
    if not fill_missing or missing_count > most:
        step = "add them, or ask for missing sections to be filled"
        if missing_count > most:
            step = f"only {len(found)} are there: if these are not section numbers, rename the folders"
        raise MissingSections(f"sections {text} are missing; {step}")
    return tuple(found.get(number) for number in numbers), (f"missing sections filled with zeros: {text}",)


def _numbered(folder: Path, *, padded: bool = True) -> Iterator[tuple[int, Path]]:
    """Give the folders in a folder whose names are numbers, perhaps padded with zeros."""
    pattern = _PADDED if padded else _NUMBER
    with readable(str(folder)), os.scandir(folder) as entries:
        for entry in entries:
            if pattern.fullmatch(entry.name) and entry.is_dir():
                yield int(entry.name), folder / entry.name


def _tiles(folder: Path) -> Iterator[tuple[int, Path]]:
    with readable(str(folder)), os.scandir(folder) as entries:
        for entry in entries:
            stem, suffix = os.path.splitext(entry.name)
            if suffix.lower() in _READERS and _NUMBER.fullmatch(stem) and not entry.is_dir():
                yield int(stem), folder / entry.name
