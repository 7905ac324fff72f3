"""Writers of files that share no code with any reader: compressed DICOM, compresso, LSM and STK.

They follow the descriptions of the formats with `struct` and loops that are slow and plain.

References
----------
DICOM PS3.5, A.4 (encapsulated pixel data), G (RLE); https://github.com/seung-lab/compresso#compresso-stream-format
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import groupby, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxelworks.testing.independent_writers import DicomStyle, write_dicom


def write_coded_dicom(
    path: Path,
    image: NDArray[Any],
    frames: Sequence[bytes],
    syntax: str,
    style: DicomStyle = DicomStyle(),
    *,
    has_table: bool = False,
    piece_bytes: int | None = None,
) -> Path:
    """Write a DICOM file whose images are compressed; `path` is given back.

    Parameters
    ----------
    path : Path
    image
        What is in it, as `write_dicom` takes it: it makes the header.
    frames : sequence of bytes
        The compressed images.
    syntax : str
        Transfer syntax that they are in.
    style : DicomStyle
        With explicit types.
    has_table : bool
        Whether the offsets of the images are stated.
    piece_bytes : int, optional
        Cut each image into pieces of this length, which is even.
    """
    plain = write_dicom(path, image, style).read_bytes()
    start = plain.rindex(b"\xe0\x7f\x10\0O")
    name = syntax.encode() + b"\0" * (len(syntax) % 2)
    meta = struct.pack("<HH2sH", 2, 0x10, b"UI", len(name)) + name
    meta_start = plain.index(b"\2\0\x10\0UI")
    meta_end = meta_start + 8 + struct.unpack_from("<H", plain, meta_start + 6)[0]
    head = plain[: meta_start - 4] + struct.pack("<I", len(meta)) + meta + plain[meta_end:start]
    pieces: list[bytes] = []
    offsets: list[int] = []
    place = 0
    for frame in frames:
        padded = frame + b"\0" * (len(frame) % 2)
        offsets.append(place)
        step = piece_bytes or len(padded)
        for first in range(0, len(padded), step):
            part = padded[first : first + step]
            pieces.append(struct.pack("<HHI", 0xFFFE, 0xE000, len(part)) + part)
            place += len(pieces[-1])
    table = struct.pack(f"<{len(offsets)}I", *offsets) if has_table else b""
    items = struct.pack("<HHI", 0xFFFE, 0xE000, len(table)) + table + b"".join(pieces)
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    kind = struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, 2**32 - 1)
    path.write_bytes(head + kind + items + end)
    return path


def rle_frame(image: NDArray[Any]) -> bytes:
    """Pack an image (y, x) or (y, x, sample) as RLE of DICOM: a segment for each byte of each sample, highest first."""
    samples = image[..., None] if image.ndim == 2 else image
    segments = []
    for index in range(samples.shape[-1]):
        values = np.ascontiguousarray(samples[..., index])
        by_byte = values.astype(values.dtype.newbyteorder(">")).reshape(-1).view("u1")
        for byte in range(values.dtype.itemsize):
            rows = by_byte[byte :: values.dtype.itemsize].reshape(values.shape)
            segment = b"".join(_rle_row(row.tobytes()) for row in rows)
            segments.append(segment + b"\0" * (len(segment) % 2))
    offsets: list[int] = []
    place = 64
    for segment in segments:
        offsets.append(place)
        place += len(segment)
    header = struct.pack("<16I", len(segments), *offsets, *[0] * (15 - len(offsets)))
    return header + b"".join(segments)


def _rle_row(row: bytes) -> bytes:
    packed = b""
    for value, run in groupby(row):
        length = len(list(run))
        while length:
            part = min(length, 128)
            packed += bytes([257 - part, value]) if part > 1 else bytes([0, value])
            length -= part
    return packed


def compresso_chunk(
    labels: NDArray[Any], *, steps: tuple[int, int, int] = (4, 4, 1), connectivity: int = 4, version: int = 0
) -> bytes:
    """Encode labels (z, y, x) as compresso, with the windows `steps` (x, y, z)."""
    is_border = np.zeros(labels.shape, bool)
    axes = (1, 2) if connectivity == 4 else (0, 1, 2)
    for axis in axes:
        here = tuple(slice(None, -1) if index == axis else slice(None) for index in range(3))
        there = tuple(slice(1, None) if index == axis else slice(None) for index in range(3))
        is_border[here] |= labels[here] != labels[there]
    ids = _labels_of_regions(labels, is_border, axes)
    words = _border_words(labels, is_border, connectivity)
    window = np.dtype(f"<u{next(size for size in (1, 2, 4, 8) if np.prod(steps) <= 8 * size)}")
    bits = []
    grid = [range(0, extent, step) for extent, step in zip(labels.shape, steps[::-1], strict=True)]
    for z, y, x in product(*grid):
        part = np.zeros(steps[::-1], np.uint64)
        inside = is_border[z : z + steps[2], y : y + steps[1], x : x + steps[0]]
        part[: inside.shape[0], : inside.shape[1], : inside.shape[2]] = inside
        bits.append(sum(int(bit) << place for place, bit in enumerate(part.ravel())))
    values = sorted(set(bits))
    runs: list[int] = []
    for number, run in groupby(values.index(value) for value in bits):
        length = len(list(run))
        longest = int(np.iinfo(window).max) >> 1
        if number:
            runs += [number << 1] * length
        else:
            runs += [longest << 1 | 1] * (length // longest) + [length % longest << 1 | 1]
    header = struct.pack(
        "<4sBB3H3BQIQB", b"cpso", version, labels.itemsize, *labels.shape[::-1], *steps, len(ids), len(values),
        len(words), connectivity,
    )  # fmt: skip
    kind = labels.dtype.newbyteorder("<")
    index = np.min_scalar_type(2 * labels.shape[1] * labels.shape[2]).itemsize
    tail = bytes(2 * index * labels.shape[0]) if version == 1 else b""
    parts = (np.array(ids, kind), np.array(values, window), np.array(words, kind), np.array(runs, window))
    return header + b"".join(part.tobytes() for part in parts) + tail


def _labels_of_regions(labels: NDArray[Any], is_border: NDArray[np.bool_], axes: Sequence[int]) -> list[int]:
    """Fill one region after the other, in the order of their first voxels."""
    found: list[int] = []
    is_done = is_border.copy()
    for start in np.ndindex(labels.shape):
        if is_done[start]:
            continue
        found.append(int(labels[start]))
        waiting = [start]
        is_done[start] = True
        while waiting:
            voxel = waiting.pop()
            for axis, step in product(axes, (-1, 1)):
                beside = tuple(place + step * (index == axis) for index, place in enumerate(voxel))
                inside = all(0 <= place < extent for place, extent in zip(beside, labels.shape, strict=True))
                if inside and not is_done[beside]:
                    is_done[beside] = True
                    waiting.append(beside)
    return found


def _border_words(labels: NDArray[Any], is_border: NDArray[np.bool_], connectivity: int) -> list[int]:
    """State what neighbours to the left and above do not tell: by another neighbour where one is equal, or in full."""
    words: list[int] = []
    most = int(np.iinfo(labels.dtype).max)
    neighbours = [(2, -1), (2, 1), (1, -1), (1, 1), (0, -1), (0, 1)]
    implied = (0, 2, 4) if connectivity == 6 else (0, 2)
    for voxel in zip(*np.nonzero(is_border), strict=True):
        codes = []
        is_told = False
        for code, (axis, step) in enumerate(neighbours):
            beside = tuple(int(place) + step * (index == axis) for index, place in enumerate(voxel))
            if not all(0 <= place < extent for place, extent in zip(beside, labels.shape, strict=True)):
                continue
            is_told |= code in implied and not is_border[beside]
            # One further on may only be named if its label is known by then.
            if labels[beside] == labels[voxel] and (step < 0 or not is_border[beside]):
                codes.append(code)
        if is_told:
            continue
        value = int(labels[voxel])
        if codes:
            words.append(codes[value % len(codes)])
        elif value > most - 7:
            words += [6, value]
        else:
            words.append(value + 7)
    return words


def _entry(tag: int, kind: int, count: int, value: int) -> bytes:
    """Give an entry of a TIFF directory, whose value is a number or the place of more."""
    return struct.pack("<HHII", tag, kind, count, value)


def write_lsm(
    path: Path,
    volume: NDArray[Any],
    *,
    voxel_size_m: Sequence[float] = (1e-7, 1e-7, 5e-7),
    channel_names: Sequence[str] = (),
    scan_type: int = 6,
    other_axes: tuple[int, int] = (0, 0),
) -> Path:
    """Write a stack of Zeiss' LSM: images whose channels are planes, each followed by a thumbnail.

    Parameters
    ----------
    path : Path
    volume : (time, z, channel, y, x) uint8 or uint16
    voxel_size_m : (x, y, z)
    channel_names
    scan_type : int
        6 for a time series of stacks.
    other_axes : int, int
        Numbers of positions, and of tiles.

    References
    ----------
    Zeiss, LSM 5 file format, as tifffile and Bio-Formats document it.
    """
    times, depth, channels, height, width = volume.shape
    bits = volume.dtype.itemsize * 8
    data = bytearray(struct.pack("<2sHI", b"II", 42, 0))

    def put(content: bytes) -> int:
        place = len(data)
        data.extend(content + b"\0" * (len(content) % 2))
        return place

    names = b"".join(struct.pack("<I", len(name) + 1) + name.encode() + b"\0" for name in channel_names)
    colours_at = 0
    if channel_names:
        head = 24 + 4 * len(channel_names)
        colours = struct.pack("<6I", head + len(names), *[len(channel_names)] * 2, 24, head, 0)
        colours_at = put(colours + b"\xff\0\0\0" * len(channel_names) + names)
    fields = bytearray(408)
    struct.pack_into(
        "<II8i3d", fields, 0, 67127628, len(fields), width, height, depth, channels, times, bits // 8, width, height,
        *voxel_size_m,
    )  # fmt: skip
    struct.pack_into("<H", fields, 88, scan_type)
    struct.pack_into("<I", fields, 108, colours_at)
    struct.pack_into("<ii", fields, 264, *other_axes)
    info_at = put(bytes(fields))
    images = volume.reshape(times * depth, channels, height, width)
    link = 4
    for number, image in enumerate(images):
        for is_thumbnail in (False, True):
            planes = image[:, :1, :1] if is_thumbnail else image
            places = [put(plane.astype(plane.dtype.newbyteorder("<")).tobytes()) for plane in planes]
            sizes = [plane.nbytes for plane in planes]
            several = channels > 1
            # Zeiss puts two of these numbers elsewhere, too, though they would fit into the entry.
            bits_word = put(struct.pack(f"<{channels}H", *[bits] * channels)) if several else bits
            entries = [
                _entry(254, 4, 1, int(is_thumbnail)), _entry(256, 4, 1, planes.shape[2]),
                _entry(257, 4, 1, planes.shape[1]),
                _entry(258, 3, channels, bits_word),
                _entry(259, 3, 1, 1), _entry(262, 3, 1, 1),
                _entry(273, 4, channels, put(struct.pack(f"<{channels}I", *places)) if several else places[0]),
                _entry(277, 3, 1, channels),
                _entry(279, 4, channels, put(struct.pack(f"<{channels}I", *sizes)) if several else sizes[0]),
                _entry(284, 3, 1, 2),
            ]  # fmt: skip
            if not number and not is_thumbnail:
                entries.append(_entry(34412, 1, len(fields), info_at))
            struct.pack_into("<I", data, link, len(data))
            put(struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4))
            link = len(data) - 4
    path.write_bytes(bytes(data))
    return path


def write_stk(
    path: Path,
    planes: NDArray[Any],
    *,
    distances_um: Sequence[float] = (),
    wavelengths_nm: Sequence[float] = (),
    times_ms: Sequence[int] = (),
    pixel_um: float | None = None,
) -> Path:
    """Write a stack of MetaMorph: one directory, behind whose first image all others follow.

    Parameters
    ----------
    path : Path
    planes : (plane, y, x) uint8 or uint16
    distances_um, wavelengths_nm, times_ms
        One for each plane.
    pixel_um : float, optional

    References
    ----------
    Universal Imaging, MetaMorph stack (STK) image file format.
    """
    count, height, width = planes.shape
    data = bytearray(struct.pack("<2sHI", b"II", 42, 0))

    def put(content: bytes) -> int:
        place = len(data)
        data.extend(content + b"\0" * (len(content) % 2))
        return place

    pixels_at = put(planes.astype(planes.dtype.newbyteorder("<")).tobytes())
    distances, times = distances_um or [0] * count, times_ms or [0] * count
    second = b"".join(
        struct.pack("<6I", round(distance * 1000), 1000, 2459000, time, 2459000, time)
        for distance, time in zip(distances, times, strict=True)
    )
    first: list[tuple[int, int]] = []
    if pixel_um is not None:
        size_at = put(struct.pack("<II", round(pixel_um * 1000), 1000))
        unit_at = put(struct.pack("<I", 3) + b"um\0")
        first = [(4, size_at), (5, size_at), (3, 1), (6, unit_at)]
    first = [(0, 0), *(sorted(first) or [(3, 0)])]
    entries = [
        _entry(254, 4, 1, 0), _entry(256, 4, 1, width), _entry(257, 4, 1, height),
        _entry(258, 3, 1, planes.itemsize * 8), _entry(259, 3, 1, 1), _entry(262, 3, 1, 1),
        _entry(273, 4, 1, pixels_at), _entry(277, 3, 1, 1), _entry(278, 3, 1, height),
        _entry(279, 4, 1, planes[0].nbytes),
        _entry(33628, 4, len(first), put(b"".join(struct.pack("<II", *pair) for pair in first))),
        _entry(33629, 5, count, put(second)),
    ]  # fmt: skip
    if wavelengths_nm:
        rationals = b"".join(struct.pack("<II", round(value), 1) for value in wavelengths_nm)
        entries.append(_entry(33630, 5, count, put(rationals)))
    struct.pack_into("<I", data, 4, len(data))
    put(struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4))
    path.write_bytes(bytes(data))
    return path
