"""Zip archives of entries whose sizes and checksums are known before they are written.

Where an entry begins follows from the sizes of those before it, nothing depends on the time or the machine, and an
archive may be as large as the disk (zip64). Format: PKWARE, APPNOTE.TXT 6.3.10.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

MEDIA_TYPE = "application/zip"
_LIMIT32, _LIMIT16 = 0xFFFFFFFF, 0xFFFF
"""What is as large or larger stands in the fields of zip64."""
_DATE = 0x21
"""1980-01-01, the earliest there is: equal inputs give equal archives."""
_UTF8_NAME = 0x800
_STORED, _DEFLATED = 0, 8
_PLAIN, _ZIP64 = 20, 45
"""Version of the format that a reader must know."""
_MADE_BY_UNIX = 3 << 8
_PLAIN_FILE = 0o100644 << 16


@dataclass(frozen=True)
class Entry:
    """A file in an archive."""

    name: str
    offset: int
    """Where its header begins."""
    size: int
    crc: int
    """Of what it unpacks to, as `size`."""
    deflated: int | None = None
    """How many bytes it takes, if it is deflated instead of stored."""

    @property
    def stored_size(self) -> int:
        """How many bytes of it stand in the archive."""
        return self.size if self.deflated is None else self.deflated

    @property
    def _method(self) -> int:
        return _STORED if self.deflated is None else _DEFLATED

    @property
    def header(self) -> bytes:
        """What stands before its bytes."""
        name = self.name.encode()
        is_large = max(self.size, self.stored_size) >= _LIMIT32
        extra = struct.pack("<HHQQ", 1, 16, self.size, self.stored_size) if is_large else b""
        size, stored = (_LIMIT32, _LIMIT32) if is_large else (self.size, self.stored_size)
        return (
            struct.pack(
                "<4sHHHHHIIIHH", b"PK\3\4", _ZIP64 if is_large else _PLAIN, _UTF8_NAME, self._method, 0, _DATE,
                self.crc, stored, size, len(name), len(extra),
            )
            + name
            + extra
        )  # fmt: skip

    @property
    def end(self) -> int:
        """Offset of the first byte after it."""
        return self.offset + len(self.header) + self.stored_size

    @property
    def listing(self) -> bytes:
        """How the directory at the end of the archive lists it."""
        name = self.name.encode()
        large = [value for value in (self.size, self.stored_size, self.offset) if value >= _LIMIT32]
        extra = struct.pack(f"<HH{len(large)}Q", 1, 8 * len(large), *large) if large else b""
        version = _ZIP64 if large else _PLAIN
        size, stored, offset = (min(value, _LIMIT32) for value in (self.size, self.stored_size, self.offset))
        return (
            struct.pack(
                "<4sHHHHHHIIIHHHHHII", b"PK\1\2", _MADE_BY_UNIX | version, version, _UTF8_NAME, self._method, 0, _DATE,
                self.crc, stored, size, len(name), len(extra), 0, 0, 0, _PLAIN_FILE, offset,
            )
            + name
            + extra
        )  # fmt: skip


def directory(entries: Iterable[Entry], offset: int) -> bytes:
    """Give the end of an archive: the list of its entries, which begins at `offset`."""
    listings = [entry.listing for entry in entries]
    count, size = len(listings), sum(map(len, listings))
    end = b""
    if count >= _LIMIT16 or size >= _LIMIT32 or offset >= _LIMIT32:
        made_by = _MADE_BY_UNIX | _ZIP64
        end = struct.pack(
            "<4sQHHIIQQQQ", b"PK\6\6", 44, made_by, _ZIP64, 0, 0, count, count, size, offset
        ) + struct.pack("<4sIQI", b"PK\6\7", 0, offset + size, 1)
    count16 = min(count, _LIMIT16)
    end += struct.pack(
        "<4sHHHHIIH", b"PK\5\6", 0, 0, count16, count16, min(size, _LIMIT32), min(offset, _LIMIT32), 0
    )
    return b"".join(listings) + end


def combine_crcs(first: int, second: int, second_size: int) -> int:
    """Give the CRC-32 of two byte strings one after the other by those of each.

    Appending a zero bit is linear in the bits of the checksum, so that appending many is a power of one matrix.

    References
    ----------
    Gailly, J.-L. and Adler, M., zlib: the function crc32_combine.
    """
    return _times(_zeros(second_size), first) ^ second


_Matrix = tuple[int, ...]
"""Over the field of two elements: one column for each bit."""


@lru_cache(maxsize=4096)
def _zeros(count: int) -> _Matrix:
    """Give what appending so many zero bytes does to a checksum."""
    power: _Matrix = (0xEDB88320, *(1 << bit for bit in range(31)))  # one zero bit
    for _ in range(3):
        power = _squared(power)
    result: _Matrix = tuple(1 << bit for bit in range(32))
    while count:
        if count & 1:
            result = tuple(_times(power, column) for column in result)
        power = _squared(power)
        count >>= 1
    return result


def _times(matrix: _Matrix, vector: int) -> int:
    total = 0
    for column in matrix:
        if vector & 1:
            total ^= column
        vector >>= 1
    return total


def _squared(matrix: _Matrix) -> _Matrix:
    return tuple(_times(matrix, column) for column in matrix)
