"""Names that programs give to units of length."""

from __future__ import annotations

_NAMES = {
    "micron": "micrometer", "microns": "micrometer", "micrometers": "micrometer", "nanometers": "nanometer",
    "millimeters": "millimeter", "angstroms": "angstrom",
}  # fmt: skip
_MU, _MICRO = "\u03bc", "\u00b5"
"""The Greek letter and the sign look the same."""


def unit_name(text: str) -> str:
    """Give the name of a unit as `VoxelSize.in_unit` knows it; what is not known comes back as it is."""
    text = text.strip().replace(_MU, _MICRO)
    return _NAMES.get(text.lower(), text)
