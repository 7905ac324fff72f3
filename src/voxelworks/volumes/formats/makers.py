"""Files that nothing here reads, of microscope makers and others: refused by their name, with what to do instead."""

from __future__ import annotations

from voxelworks.volumes.formats import bioio_adapter
from voxelworks.volumes.formats.source import SourceFile

_AS_OME_TIFF = "open it in Fiji (Bio-Formats) and save it as OME-TIFF"
_BIOFORMATS = bioio_adapter.INSTALL
_ND2 = "pip install bioio bioio-nd2"

_BY_START: tuple[tuple[bytes, str, str, str], ...] = (
    (
        b"\xda\xce\xbe\x0a",
        "an ND2 file (Nikon NIS-Elements)",
        f"export it as TIFF there, or {_AS_OME_TIFF}",
        _ND2,
    ),
    (
        b"\0\0\0\x0cjP  \r\n\x87\n",
        "a JPEG 2000 or old ND2 file",
        f"save it as TIFF, or {_AS_OME_TIFF}",
        _BIOFORMATS,
    ),
    (
        b"OLYMPUSRAWFORMAT",
        "an OIR file (Olympus, Evident)",
        f"export it as OME-TIFF there, or {_AS_OME_TIFF}",
        _BIOFORMATS,
    ),
    (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "an OLE file, such as .oib (Olympus), .zvi (Zeiss) or .ipw (Media Cybernetics)",
        f"export it as TIFF in the maker's program, or {_AS_OME_TIFF}",
        _BIOFORMATS,
    ),
    (b"%PDF", "a PDF", "export its images as TIFF or PNG", ""),
    (b"GIF8", "a GIF", "save it as TIFF or PNG", ""),
)
"""The first bytes, what it is, what to do, and what installs the plugin of BioIO that reads it."""
_BY_SUFFIX: dict[str, tuple[str, str, str]] = {
    ".vsi": (
        "a VSI file (Olympus, Evident)",
        f"export it as OME-TIFF there, or {_AS_OME_TIFF}",
        _BIOFORMATS,
    ),
    ".mrxs": ("an MRXS slide (3DHISTECH)", f"export it as TIFF there, or {_AS_OME_TIFF}", ""),
    ".ndpi": ("an NDPI slide (Hamamatsu)", f"export it as TIFF there, or {_AS_OME_TIFF}", _BIOFORMATS),
    ".svs": ("an SVS slide (Aperio)", f"export it as TIFF there, or {_AS_OME_TIFF}", _BIOFORMATS),
    ".scn": ("an SCN slide (Leica)", f"export it as TIFF there, or {_AS_OME_TIFF}", _BIOFORMATS),
}
"""Of files that begin like TIFF or JPEG, but keep their images elsewhere or in a way of their own."""
_LISTS = (".xlif", ".xlef", ".xlcf")


def refusal(file: SourceFile, start: bytes) -> str:
    """Say why a file whose maker is known is not read, and what to do; empty for all others."""
    found = _by_suffix(file) or _by_start(start)
    if found is None:
        return ""
    kind, step, install = found
    by_bioio = f"; BioIO reads it where it is installed: {install}" if install else ""
    return f"{file.name} is {kind}, which is not read; {step}{by_bioio}"


def what_else(file: SourceFile, start: bytes) -> str | None:
    """Tell what a file is that holds no image itself but may well be given, and what to do with it; else None.

    Beside images such files do not matter, so that nothing refuses them there.
    """
    if start.startswith(b"PK\3\4"):
        return (
            f"{file.name} is a zip archive: `voxelworks inspect` and `convert` unpack it; if it is an annotation of "
            "WEBKNOSSOS, import it with `voxelworks annotations upload`"
        )
    if file.name.lower().endswith(".nml") or b"<things" in start:
        return (
            f"{file.name} is an annotation of WEBKNOSSOS (NML), which holds no voxels; import it with "
            "`voxelworks annotations upload`"
        )
    if file.name.lower().endswith(_LISTS):
        return f"{file.name} only names the files of its images (Leica LAS X); name these, or their folder"
    return None


def _by_suffix(file: SourceFile) -> tuple[str, str, str] | None:
    for suffix, found in _BY_SUFFIX.items():
        if file.name.lower().endswith(suffix):
            return found
    return None


def _by_start(start: bytes) -> tuple[str, str, str] | None:
    for magic, kind, step, install in _BY_START:
        if start.startswith(magic):
            return kind, step, install
    return None
