"""STK, the TIFF of MetaMorph: many planes behind one directory, and what its own tags say of them.

tifffile reads the tags: distances of planes in micrometres, wavelengths and times of each, and the calibration.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any, NamedTuple

from voxelworks.errors import InvalidGeometry, UnsupportedFormat
from voxelworks.geometry import VoxelSize
from voxelworks.volumes.formats.parts import distinct, numbered, part_name

_UNITS_NM = {"um": 1e3, "µm": 1e3, "micron": 1e3, "microns": 1e3, "nm": 1.0, "mm": 1e6}
_MICROMETRE_NM = 1e3


class Stated(NamedTuple):
    """What a file states of its planes."""

    volumes: list[tuple[str, list[int]]]
    """Name of each wavelength or time point, and numbers of its planes."""
    voxel_size: VoxelSize | None
    voxel_size_from: str
    notes: tuple[str, ...]


def stated(name: str, info: Mapping[str, Any], plane_count: int) -> Stated:
    """Read what the tags say.

    Parameters
    ----------
    name : str
        Of the file.
    info : mapping
        Of the tags 33628 to 33631.
    plane_count : int

    Raises
    ------
    UnsupportedFormat
        If planes of several wavelengths are not equally many.
    """
    distances = _numbers(info.get("ZDistance"), plane_count)
    wavelengths = _numbers(info.get("Wavelengths"), plane_count)
    colours = list(dict.fromkeys(wavelengths)) or [0.0]
    by_colour = [
        [at for at in range(plane_count) if not wavelengths or wavelengths[at] == colour]
        for colour in colours
    ]
    if len({len(planes) for planes in by_colour}) > 1:
        found = ", ".join(
            f"{len(planes)} of {colour:g} nm" for colour, planes in zip(colours, by_colour, strict=True)
        )
        raise UnsupportedFormat(
            f"{name} has unequally many planes of its wavelengths ({found}); save one by itself"
        )
    names = distinct([f"{colour:g} nm" if colour else None for colour in colours], "c")
    times = _numbers(info.get("TimeCreated"), plane_count)
    # Planes without distance are time points if each was taken at another time.
    are_times = not any(distances) and plane_count > len(colours) and len(set(times)) == plane_count
    volumes: list[tuple[str, list[int]]] = []
    for word, planes in zip(names, by_colour, strict=True):
        if are_times:
            volumes += [
                (part_name(time, word), [at])
                for time, at in zip(numbered("t", len(planes)), planes, strict=True)
            ]
        else:
            volumes.append((word, planes))
    return Stated(volumes, *_voxel_size(info, [abs(distance) for distance in distances if distance]))


def _numbers(values: Any, count: int) -> list[float]:
    """Give one number for each plane; none if they are not there."""
    found = [] if values is None else [float(value) for value in values]
    return found if len(found) == count and all(value == value for value in found) else []


def _voxel_size(
    info: Mapping[str, Any], distances: list[float]
) -> tuple[VoxelSize | None, str, tuple[str, ...]]:
    unit_nm = _UNITS_NM.get(str(info.get("CalibrationUnits", "")).strip("\0 ").lower())
    try:
        x, y = (float(f"{float(info[f'{axis}Calibration']) * (unit_nm or 0):.7g}") for axis in "XY")
    except (KeyError, ValueError, TypeError):
        return None, "", ()
    if not (x > 0 and y > 0 and info.get("SpatialCalibration", 1)):
        return None, "", ()
    if not distances:
        return None, "", (f"MetaMorph states pixels of {x:g} x {y:g} nm, but no distance of sections",)
    z = float(f"{median(distances) * _MICROMETRE_NM:.7g}")
    try:
        return VoxelSize(x, y, z), "MetaMorph tags", ()
    except InvalidGeometry:
        return None, "", (f"MetaMorph states a voxel size of {x:g}, {y:g}, {z:g} nm, which cannot be used",)
