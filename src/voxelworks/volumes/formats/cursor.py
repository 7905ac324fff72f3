"""Headers that are read from front to back, without asking the system for every few bytes."""

from __future__ import annotations

import struct
from typing import Any

from voxelworks.errors import UnsupportedFormat
from voxelworks.volumes.formats.source import OpenFile

_WINDOW_BYTES = 2**16


class Cursor:
    """A position in an open file, and some bytes of it in advance."""

    def __init__(self, handle: OpenFile, position: int = 0) -> None:
        self.handle = handle
        self.name = handle.file.name
        self.position = position
        self._window, self._window_at = b"", 0

    def take(self, code: str) -> tuple[Any, ...]:
        """Read numbers, as `struct` names them."""
        return struct.unpack(code, self.bytes(struct.calcsize(code)))

    def bytes(self, size: int) -> bytes:
        """Read some bytes; `UnsupportedFormat` if the file has not that many."""
        start = self.position - self._window_at
        if start < 0 or start + size > len(self._window):
            self.require(size)
            left = self.handle.file.size - self.position
            self._window = self.handle.read(max(size, min(_WINDOW_BYTES, left)), self.position)
            self._window_at, start = self.position, 0
        self.position += size
        return self._window[start : start + size]

    def skip(self, size: int) -> None:
        """Go on without reading; `UnsupportedFormat` if that is behind the end of the file."""
        self.require(size)
        self.position += size

    def require(self, size: int) -> None:
        """Refuse a file that has not so many bytes left, before they are made room for."""
        end, has = self.position + size, self.handle.file.size
        if end > has:
            raise UnsupportedFormat(
                f"{self.name} is cut short: it has {has} of at least {end} bytes; copy it again"
            )
