"""Boxes, magnifications and voxel sizes; the one translator between x,y,z and (z, y, x).

Everything a person or another program types or reads is x,y,z; arrays in memory are NumPy (z, y, x), channels
first. Only this module turns one into the other. It imports no array library: the server uses it too.

Text forms are those of WEBKNOSSOS: boxes ``x,y,z,width,height,depth`` in voxels of mag 1, mags ``4-4-1`` (or ``4``
for ``4-4-4``), voxel sizes ``4,4,40`` in nanometres.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from voxelworks.errors import InvalidGeometry

Vec3 = tuple[int, int, int]
"""x, y, z."""
Zyx = tuple[int, int, int]
"""z, y, x: the order of array axes."""


class _TextForm:
    """A value object that pydantic reads from its text form (or itself) and writes as text."""

    @classmethod
    def parse(cls, text: str) -> Self:
        raise NotImplementedError

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def read(value: object) -> object:
            if isinstance(value, cls):
                return value
            if isinstance(value, list | tuple):
                value = ",".join(str(part) for part in value)
            if isinstance(value, int | float) and not isinstance(value, bool):
                value = str(value)
            if not isinstance(value, str):
                raise InvalidGeometry(f"{value!r} is not a {cls.__name__}; write it as text")
            return cls.parse(value)

        return core_schema.no_info_plain_validator_function(
            read, serialization=core_schema.to_string_ser_schema(), metadata={"title": cls.__name__}
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "title": cls.__name__, "format": cls.__name__.lower()}


@dataclass(frozen=True, order=True)
class Mag(_TextForm):
    """Magnification: the size of a voxel in voxels of the finest level, a power of two on each axis."""

    x: int
    y: int
    z: int

    def __post_init__(self) -> None:
        for value in (self.x, self.y, self.z):
            if value < 1 or value & (value - 1):
                raise InvalidGeometry(
                    f"mag {self.x}-{self.y}-{self.z}: each part must be a power of two, such as 4-4-1"
                )

    @classmethod
    def parse(cls, text: str) -> Mag:
        parts = text.replace(",", "-").split("-")
        try:
            numbers = [int(part) for part in parts]
        except ValueError:
            numbers = []
        if len(numbers) == 1:
            numbers *= 3
        if len(numbers) != 3:
            raise InvalidGeometry(f"{text!r} is not a mag; write it as 4-4-1, or 4 for 4-4-4")
        return cls(*numbers)

    @classmethod
    def from_zyx(cls, zyx: Zyx) -> Mag:
        return cls(*zyx[::-1])

    def __str__(self) -> str:
        return str(self.x) if self.x == self.y == self.z else f"{self.x}-{self.y}-{self.z}"

    @property
    def xyz(self) -> Vec3:
        return self.x, self.y, self.z

    @property
    def zyx(self) -> Zyx:
        return self.z, self.y, self.x

    def relative_to(self, finer: Mag) -> Mag:
        """Give the factor from a finer mag to this one; `InvalidGeometry` if it is not finer on every axis."""
        if any(mine < other for mine, other in zip(self.xyz, finer.xyz, strict=True)):
            raise InvalidGeometry(f"mag {self} is not coarser than mag {finer}")
        return Mag(self.x // finer.x, self.y // finer.y, self.z // finer.z)

    def times(self, factor: Mag) -> Mag:
        return Mag(self.x * factor.x, self.y * factor.y, self.z * factor.z)


MAG1 = Mag(1, 1, 1)

_SAME_LENGTH = 0.02
_SECTION_FROM = 1.5
"""Voxels so many times as long in z as in x and y are those of sections that were imaged one by one."""
_NM_PER_UNIT = {
    "ym": 1e-15, "zm": 1e-12, "am": 1e-9, "fm": 1e-6, "pm": 1e-3, "nm": 1.0, "nanometer": 1.0,
    "µm": 1e3, "um": 1e3, "micrometer": 1e3, "mm": 1e6, "millimeter": 1e6, "cm": 1e7, "dm": 1e8,
    "m": 1e9, "meter": 1e9, "angstrom": 0.1, "Å": 0.1,
    "inch": 2.54e7, "in": 2.54e7,
}  # fmt: skip


def same_length(one: float, other: float) -> bool:
    """Tell whether voxels differ by so little of their length that nothing is gained by resampling."""
    return abs(one - other) <= _SAME_LENGTH * max(one, other)


@dataclass(frozen=True)
class VoxelSize(_TextForm):
    """Size of a voxel of mag 1, in nanometres."""

    x: float
    y: float
    z: float

    def __post_init__(self) -> None:
        for value in (self.x, self.y, self.z):
            if not (math.isfinite(value) and value > 0):
                raise InvalidGeometry(
                    f"voxel size {self}: each part must be a positive number of nanometres, such as 4,4,40"
                )

    @classmethod
    def parse(cls, text: str) -> VoxelSize:
        try:
            numbers = [float(part) for part in text.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) != 3:
            raise InvalidGeometry(f"{text!r} is not a voxel size; write x,y,z in nanometres, such as 4,4,40")
        return cls(*numbers)

    @classmethod
    def in_unit(cls, x: float, y: float, z: float, unit: str) -> VoxelSize:
        """Make a voxel size from numbers in `unit`, such as ``nm``, ``micrometer`` or ``inch``."""
        if unit not in _NM_PER_UNIT:
            raise InvalidGeometry(f"unit {unit!r} is not known; use one of {', '.join(_NM_PER_UNIT)}")
        nm = _NM_PER_UNIT[unit]
        return cls(x * nm, y * nm, z * nm)

    def __str__(self) -> str:
        return ",".join(format(value, ".12g") for value in self.xyz)

    @property
    def xyz(self) -> tuple[float, float, float]:
        return self.x, self.y, self.z

    @property
    def zyx(self) -> tuple[float, float, float]:
        return self.z, self.y, self.x

    def in_mag(self, mag: Mag) -> VoxelSize:
        return VoxelSize(self.x * mag.x, self.y * mag.y, self.z * mag.z)

    def mag_for(self, wanted: VoxelSize, mags: Sequence[Mag]) -> Mag:
        """Choose the mag to read where voxels of another size are wanted: the coarsest that shows as much.

        Its voxels are nowhere longer than those that are wanted, but on axes on which the finest ones are as long.

        Parameters
        ----------
        wanted
        mags
            Of a layer whose voxels of mag 1 have this size; finest first, at least one.
        """
        finest = self.in_mag(mags[0]).xyz

        def shows(mag: Mag) -> bool:
            lengths = zip(self.in_mag(mag).xyz, wanted.xyz, finest, strict=True)
            return all(own <= most or same_length(own, most) or own == least for own, most, least in lengths)

        return max(filter(shows, mags), key=lambda mag: (math.prod(mag.xyz), mag.xyz))

    def shown_as(self, wanted: VoxelSize) -> VoxelSize:
        """Give the voxels that an image with these is resampled to, for a network that works on others.

        They are those of the network, but sections stay sections: what was imaged plane by plane is not mixed along z,
        unless so much thinner that two or more make one of the network's.

        Isensee, F. et al. (2021). nnU-Net: a self-configuring method for deep learning-based biomedical image
        segmentation. Nature Methods 18, 203-211 (anisotropic images are not interpolated between sections).
        """
        kept = VoxelSize(wanted.x, wanted.y, self.z)
        return kept if wanted.has_sections and kept.has_sections and wanted.z < 2 * self.z else wanted

    @property
    def has_sections(self) -> bool:
        """Whether planes of z are sections that were imaged one by one, as far as the lengths tell."""
        return self.z >= _SECTION_FROM * min(self.x, self.y)


@dataclass(frozen=True)
class Box(_TextForm):
    """A half-open box of voxels: `topleft` (x, y, z) is its first voxel, `size` (x, y, z) its extent.

    The text form is ``x,y,z,width,height,depth``. A box belongs to one mag, by default mag 1.
    """

    topleft: Vec3
    size: Vec3

    def __post_init__(self) -> None:
        if any(extent < 0 for extent in self.size):
            raise InvalidGeometry(f"box {self}: width, height and depth must not be negative")

    @classmethod
    def parse(cls, text: str) -> Box:
        try:
            numbers = [int(part) for part in text.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) != 6:
            raise InvalidGeometry(f"{text!r} is not a box; write x,y,z,width,height,depth in whole voxels")
        return cls((numbers[0], numbers[1], numbers[2]), (numbers[3], numbers[4], numbers[5]))

    @classmethod
    def from_zyx(cls, start: Zyx, shape: Zyx) -> Box:
        return cls((start[2], start[1], start[0]), (shape[2], shape[1], shape[0]))

    def __str__(self) -> str:
        return ",".join(str(value) for value in (*self.topleft, *self.size))

    @property
    def bottomright(self) -> Vec3:
        """First voxel after the box on each axis (x, y, z)."""
        x, y, z = (start + extent for start, extent in zip(self.topleft, self.size, strict=True))
        return x, y, z

    @property
    def start_zyx(self) -> Zyx:
        return self.topleft[2], self.topleft[1], self.topleft[0]

    @property
    def shape_zyx(self) -> Zyx:
        return self.size[2], self.size[1], self.size[0]

    @property
    def stop_zyx(self) -> Zyx:
        x, y, z = self.bottomright
        return z, y, x

    @property
    def slices_zyx(self) -> tuple[slice, slice, slice]:
        """Index of the box in an array (z, y, x) whose first voxel is 0, 0, 0."""
        z, y, x = (slice(a, b) for a, b in zip(self.start_zyx, self.stop_zyx, strict=True))
        return z, y, x

    @property
    def voxel_count(self) -> int:
        return math.prod(self.size)

    @property
    def is_empty(self) -> bool:
        return self.voxel_count == 0

    def in_mag(self, mag: Mag) -> Box:
        """Give the smallest box of `mag` that covers this box of mag 1."""
        start = tuple(a // m for a, m in zip(self.topleft, mag.xyz, strict=True))
        stop = tuple(-(-b // m) for b, m in zip(self.bottomright, mag.xyz, strict=True))
        return Box._between(start, stop)

    def from_mag(self, mag: Mag) -> Box:
        """Give the box of mag 1 that this box of `mag` covers."""
        start = tuple(a * m for a, m in zip(self.topleft, mag.xyz, strict=True))
        stop = tuple(b * m for b, m in zip(self.bottomright, mag.xyz, strict=True))
        return Box._between(start, stop)

    def intersect(self, other: Box) -> Box:
        """Give the common part; an empty box (size 0) if there is none."""
        start = tuple(max(a, b) for a, b in zip(self.topleft, other.topleft, strict=True))
        stop = tuple(min(a, b) for a, b in zip(self.bottomright, other.bottomright, strict=True))
        return Box._between(start, tuple(max(a, b) for a, b in zip(start, stop, strict=True)))

    def union(self, other: Box) -> Box:
        """Give the smallest box that covers both; an empty box adds nothing."""
        if self.is_empty:
            return other
        if other.is_empty:
            return self
        start = tuple(min(a, b) for a, b in zip(self.topleft, other.topleft, strict=True))
        stop = tuple(max(a, b) for a, b in zip(self.bottomright, other.bottomright, strict=True))
        return Box._between(start, stop)

    def contains(self, other: Box) -> bool:
        return other.is_empty or self.intersect(other) == other

    def middle(self, size: Vec3, mag: Mag) -> Box:
        """Give the box of at most `size` voxels of `mag` in the middle of this box of mag 1.

        It lies on the grid of `mag`, except where this box ends between two of its voxels.
        """
        coarse = self.in_mag(mag)
        width, height, depth = (min(most, extent) for most, extent in zip(size, coarse.size, strict=True))
        x, y, z = (
            start + (extent - part) // 2
            for start, extent, part in zip(coarse.topleft, coarse.size, (width, height, depth), strict=True)
        )
        return Box((x, y, z), (width, height, depth)).from_mag(mag).intersect(self)

    def moved(self, by: Vec3) -> Box:
        x, y, z = (a + b for a, b in zip(self.topleft, by, strict=True))
        return Box((x, y, z), self.size)

    def tiles(self, tile_size: Vec3) -> Iterator[Box]:
        """Cut the box along the grid of `tile_size` (x, y, z) that starts at voxel 0, in order z, y, x.

        Tiles at the border are smaller: they never leave the box.
        """
        if self.is_empty:
            return
        ranges = [
            range(start // step * step, stop, step)
            for start, stop, step in zip(self.topleft, self.bottomright, tile_size, strict=True)
        ]
        for z, y, x in product(*ranges[::-1]):
            yield Box((x, y, z), tile_size).intersect(self)

    @staticmethod
    def _between(start: tuple[int, ...], stop: tuple[int, ...]) -> Box:
        x, y, z = start
        width, height, depth = (b - a for a, b in zip(start, stop, strict=True))
        return Box((x, y, z), (width, height, depth))
