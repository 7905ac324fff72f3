"""KNOSSOS cubes: raw files of 128 x 128 x 128 voxels, and a text file that says how many there are.

Layout: https://knossos.app; `knossos.conf` states `boundary x 1024;`, `scale x 9.25;` in nanometres, and the folders
`x0000/y0000/z0000/` hold one cube each. It may stand beside the folders of several magnifications (`mag1`, `mag2`), or
in them. A cube that is not there is black.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxelworks.errors import InvalidGeometry, UnsupportedFormat
from voxelworks.geometry import Box, Mag, Vec3, VoxelSize, Zyx
from voxelworks.volumes.formats.chunked import Survey, require_stored, survey
from voxelworks.volumes.formats.source import (
    ReadOptions,
    SourceBase,
    SourceFile,
    Volume,
    listed,
    readable,
    require_inside,
)

NAME = "KNOSSOS cubes"
CONF_FILE = "knossos.conf"
_CUBE = 128
_CONF_BYTES_MAX = 2**16
_FOLDER = {axis: re.compile(rf"{axis}(\d{{4,}})") for axis in "xyz"}
_MAG_FOLDER = re.compile(r"(?:.*_)?mag(\d+)")
_LINE = re.compile(r"^\s*(boundary|scale)\s+([xyz])\s+([-+.\deE]+)\s*;", re.MULTILINE)
_MAG_LINE = re.compile(r"^\s*magnification\s+(\d+)\s*;", re.MULTILINE)


@dataclass(frozen=True)
class KnossosSource(SourceBase):
    """One magnification in cubes."""

    folder: str
    shape_zyx: Zyx
    prefix: str
    """How the names of the cubes begin: `experiment_mag1` of `experiment_mag1_x0000_y0000_z0000.raw`."""
    voxel_size: VoxelSize | None
    notes: tuple[str, ...] = ()
    voxel_size_from = CONF_FILE
    dtype = np.dtype(np.uint8)
    channel_count = 1
    has_random_access = True

    @property
    def decoding_bytes(self) -> int:
        """Nothing is decoded: memory of a section."""
        return self.shape_zyx[1] * self.shape_zyx[2]

    @property
    def files(self) -> tuple[str, ...]:
        """The folder, and what below it is a link."""
        return self._survey.links

    @property
    def fingerprint(self) -> str:
        """A text that changes when cubes are added, removed or replaced by new files; their contents are not read."""
        facts = (self.shape_zyx, self.prefix, self._survey.digest)
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
        UnsupportedFormat
            If a cube is of another size.
        StorageFailed
            If the file system does not answer.
        """
        require_inside(self, box)
        out: NDArray[Any] = np.zeros((1, *box.shape_zyx), np.uint8)
        x0, y0, z0 = box.topleft
        for part in box.tiles((_CUBE, _CUBE, _CUBE)):
            x, y, z = (start // _CUBE for start in part.topleft)
            path = os.path.join(self.folder, _cube_folder(x, y, z), f"{self.prefix}{_name_end(x, y, z)}")
            if os.path.exists(path):
                inside = part.moved((-x * _CUBE, -y * _CUBE, -z * _CUBE))
                out[0][part.moved((-x0, -y0, -z0)).slices_zyx] = _read_cube(path, inside)
        return out


def recognises(folder: Path) -> bool:
    return (folder / CONF_FILE).is_file() or any(_cube_folders(folder, "x")) or bool(_mag_folders(folder))


def open_volumes(folder: Path, options: ReadOptions) -> tuple[Volume, ...]:
    """Open the finest magnification.

    Raises
    ------
    UnsupportedFormat
        If there are no raw cubes, or they do not belong together.
    """
    place, mag = folder, 1
    notes: list[str] = []
    if not any(_cube_folders(folder, "x")):
        mags = _mag_folders(folder)
        if not mags:
            raise UnsupportedFormat(
                f"{folder} holds no cubes (x0000/y0000/z0000/*.raw); copy them beside {CONF_FILE}"
            )
        mag, place = min(mags)
    boundary, size, stated_mag = _read_conf(place if (place / CONF_FILE).is_file() else folder)
    if match := _MAG_FOLDER.fullmatch(place.name):
        mag = int(match[1])
    if stated_mag not in (None, mag) and place == folder:
        mag = stated_mag or mag
    try:
        factor = Mag(mag, mag, mag)
    except InvalidGeometry as error:
        raise UnsupportedFormat(f"{place} is of magnification {mag}, which is no power of two") from error
    cubes = list(_cubes(place))
    if not cubes:
        raise UnsupportedFormat(
            f"{place} holds no raw cubes; cubes that are packed as JPEG or JPEG 2000 are not read"
        )
    prefixes = sorted({prefix for _, prefix in cubes})
    if len(prefixes) > 1:
        raise UnsupportedFormat(
            f"the cubes in {place} belong to several volumes: {listed(prefixes)}; keep one"
        )
    ends = [max(cube[axis] for cube, _ in cubes) * _CUBE + _CUBE for axis in range(3)]
    # The boundary counts voxels of mag 1; without it the last cubes count as full.
    shape = [-(-stated // mag) or end for stated, end in zip(boundary, ends, strict=True)]
    if any(-(-extent // _CUBE) * _CUBE < end for extent, end in zip(shape, ends, strict=True)):
        notes.append(f"cubes behind the boundary that {CONF_FILE} states are not read")
    require_stored(str(place), folder.name, math.prod(shape))
    missing = math.prod(-(-extent // _CUBE) for extent in shape) - len(cubes)
    if missing > 0:
        notes.append(f"{missing:,} cubes are not there and read as zeros")
    if mag > 1:
        notes.append(f"read in mag {mag}, the finest that is there")
    width, height, depth = shape
    voxel_size = None if size is None else size.in_mag(factor)
    return (
        Volume("", KnossosSource(str(place), (depth, height, width), prefixes[0], voxel_size, tuple(notes))),
    )


def _read_conf(folder: Path) -> tuple[tuple[int, int, int], VoxelSize | None, int | None]:
    """Read boundary (0 where there is none), voxel size of mag 1 and magnification."""
    try:
        with (folder / CONF_FILE).open("rb") as stream:
            text = stream.read(_CONF_BYTES_MAX).decode("utf-8", "replace")
    except FileNotFoundError:
        return (0, 0, 0), None, None
    stated = {(key, axis): float(number) for key, axis, number in _LINE.findall(text) if _is_number(number)}
    mag = _MAG_LINE.search(text)
    x, y, z = (int(stated.get(("boundary", axis), 0)) for axis in "xyz")
    if min(x, y, z) < 0:
        raise UnsupportedFormat(
            f"{folder / CONF_FILE} states a boundary of {x} x {y} x {z} voxels; correct it"
        )
    try:
        size = VoxelSize(*(stated["scale", axis] for axis in "xyz"))
    except (KeyError, InvalidGeometry):
        size = None
    return (x, y, z), size, None if mag is None else int(mag[1])


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _mag_folders(folder: Path) -> list[tuple[int, Path]]:
    with readable(str(folder)):
        return [
            (int(match[1]), path)
            for path in folder.iterdir()
            if (match := _MAG_FOLDER.fullmatch(path.name)) and any(_cube_folders(path, "x"))
        ]


def _cube_folders(folder: Path, axis: str) -> Iterator[tuple[int, Path]]:
    with readable(str(folder)), os.scandir(folder) as entries:
        for entry in entries:
            if (match := _FOLDER[axis].fullmatch(entry.name)) and entry.is_dir():
                yield int(match[1]), Path(entry.path)


def _cubes(folder: Path) -> Iterator[tuple[Vec3, str]]:
    """Give the number on x, y and z of each cube, and how its name begins."""
    for x, x_folder in _cube_folders(folder, "x"):
        for y, y_folder in _cube_folders(x_folder, "y"):
            for z, z_folder in _cube_folders(y_folder, "z"):
                end = _name_end(x, y, z)
                with readable(str(z_folder)), os.scandir(z_folder) as entries:
                    names = [entry.name for entry in entries if entry.name.endswith(end)]
                for name in names:
                    yield (x, y, z), name.removesuffix(end)


def _cube_folder(x: int, y: int, z: int) -> str:
    return f"x{x:04d}/y{y:04d}/z{z:04d}"


def _name_end(x: int, y: int, z: int) -> str:
    return f"_x{x:04d}_y{y:04d}_z{z:04d}.raw"


def _read_cube(path: str, box: Box) -> NDArray[np.uint8]:
    """Read a part of a cube, by whole sections."""
    file = SourceFile.of(path)
    if file.size != _CUBE**3:
        raise UnsupportedFormat(
            f"{file.name} has {file.size:,} of {_CUBE**3:,} bytes; only cubes of {_CUBE}^3 voxels with 8 bits are "
            "read: copy it again"
        )
    z, height, width = box.slices_zyx
    with file.open() as handle:
        content = handle.read((z.stop - z.start) * _CUBE * _CUBE, z.start * _CUBE * _CUBE)
    return np.frombuffer(content, np.uint8).reshape(-1, _CUBE, _CUBE)[:, height, width]
