"""Tar files of strangers, plain or packed with gzip: read header by header, with little memory and nothing believed.

Formats: POSIX.1-2001 (ustar and pax) and GNU tar. Links, devices, sparse files and names that lead elsewhere are
refused.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple, cast

from voxelworks.archives.limits import ArchiveLimits
from voxelworks.archives.paths import check_paths
from voxelworks.errors import InvalidArchive

_BLOCK = 512
_PIECE_BYTES = 2**16
_GZIP = b"\x1f\x8b"
_MAGIC = b"ustar"
_EXTENDED_BYTES_MAX = 2**16
"""Of a header that only carries a long name."""
_FILES = (b"0", b"\0", b"7")
_FOLDER = b"5"
_LONG_NAME, _LONG_LINK = b"L", b"K"
_PAX, _PAX_OF_ALL = b"x", b"g"


class Entry(NamedTuple):
    """A file in the archive."""

    name: str
    size_bytes: int
    offset: int
    """Of its content in the archive, once that is unpacked by gzip."""


def looks_like_archive(stream: BinaryIO) -> bool:
    """Tell by the first header whether this is a tar, also one that is packed by gzip."""
    stream.seek(0)
    start = stream.read(_BLOCK)
    if start.startswith(_GZIP):
        # Far more than a header takes in packed form, and no more is unpacked of it.
        stream.seek(0)
        try:
            start = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(stream.read(2**16), _BLOCK)
        except zlib.error:
            return False
    return len(start) == _BLOCK and start[257:262] == _MAGIC and _is_sound(start)


@contextmanager
def opened(packed: BinaryIO) -> Iterator[BinaryIO]:
    """Open the archive for reading from its beginning, through gzip if it is packed."""
    packed.seek(0)
    is_packed = packed.read(2) == _GZIP
    packed.seek(0)
    if not is_packed:
        yield packed
        return
    with gzip.GzipFile(fileobj=packed, mode="rb") as stream:
        yield cast(BinaryIO, stream)


def list_entries(stream: BinaryIO, packed: BinaryIO, limits: ArchiveLimits) -> Iterator[Entry]:
    """Yield the files of a tar in order; folders are left out.

    Parameters
    ----------
    stream
        What `opened` gave.
    packed
        The file itself: the size of the archive is its.
    limits
        What it may hold.

    Raises
    ------
    InvalidArchive, UnsafeReference
        Naming the entry and what is wrong with it.
    """
    packed_bytes = packed.seek(0, 2)
    packed.seek(0)
    stream.seek(0)
    position = count = total = 0
    long_name: str | None = None
    long_size: int | None = None
    while True:
        header = _read_at(stream, position, _BLOCK)
        if not header.strip(b"\0"):
            return
        if not _is_sound(header):
            raise InvalidArchive("a header of the tar is damaged; pack it or copy it again")
        kind, size = header[156:157], _number(header[124:136])
        position += _BLOCK
        count += 1
        if count > limits.entries_max:
            raise InvalidArchive(f"the tar holds more than {limits.entries_max:,} entries; split it up")
        if kind in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_OF_ALL):
            if size > _EXTENDED_BYTES_MAX:
                raise InvalidArchive(f"the tar holds a header of {size:,} bytes; pack it anew")
            content = _read_at(stream, position, size)
            if kind == _LONG_NAME:
                long_name = _text(content.rstrip(b"\0"))
            elif kind == _PAX:
                long_name, long_size = _pax(content, long_name)
        else:
            name, size = long_name or _name(header), size if long_size is None else long_size
            long_name = long_size = None
            if kind == _FOLDER:
                size = 0
            elif kind not in _FILES:
                raise InvalidArchive(f"entry {name[:80]!r} is a link or a device; pack plain files only")
            name = name.removeprefix("./")
            total += size
            limits.check_growth("the tar", packed_bytes, total)
            if total > limits.bytes_max:
                raise InvalidArchive(
                    f"the tar unpacks to more than {limits.bytes_max / 2**20:,.0f} MiB, the most that is taken"
                )
            # Old programs mark a folder by its name alone.
            if kind != _FOLDER and not name.endswith("/"):
                check_paths([name])
                yield Entry(name, size, position)
        position += -(-size // _BLOCK) * _BLOCK


def unpack(stream: BinaryIO, entry: Entry) -> Iterator[bytes]:
    """Yield the content of an entry in pieces of at most 64 KiB.

    Raises
    ------
    InvalidArchive
        If the archive ends before.
    """
    for start in range(0, entry.size_bytes, _PIECE_BYTES):
        yield _read_at(stream, entry.offset + start, min(_PIECE_BYTES, entry.size_bytes - start))


def _read_at(stream: BinaryIO, position: int, length: int) -> bytes:
    try:
        if stream.tell() != position:
            stream.seek(position)
        data = stream.read(length)
    except (EOFError, OSError, zlib.error) as error:
        raise InvalidArchive(f"the tar cannot be unpacked ({error}); pack it or copy it again") from error
    if len(data) != length:
        raise InvalidArchive("the tar is cut off; pack it or copy it again")
    return data


def _is_sound(header: bytes) -> bool:
    """Compare the checksum of a header, which counts its own field as spaces."""
    try:
        stated = _number(header[148:156])
    except InvalidArchive:
        return False
    return sum(header[:148]) + 8 * ord(" ") + sum(header[156:]) == stated


def _number(field: bytes) -> int:
    """Read a number in octal digits, or, where these are too few, in binary."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    try:
        value = int(field.strip(b" \0") or b"0", 8)
    except ValueError as error:
        raise InvalidArchive("a header of the tar is damaged; pack it or copy it again") from error
    if value < 0:
        raise InvalidArchive("a header of the tar is damaged; pack it or copy it again")
    return value


def _name(header: bytes) -> str:
    name = _text(header[:100].partition(b"\0")[0])
    # GNU tar keeps times where POSIX has the beginning of a long name.
    is_posix = header[257:263] == _MAGIC + b"\0"
    prefix = _text(header[345:500].partition(b"\0")[0]) if is_posix else ""
    return f"{prefix}/{name}" if prefix else name


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArchive(
            f"an entry has the name {raw[:80]!r}, which is no UTF-8; pack it anew"
        ) from error


def _pax(content: bytes, name: str | None) -> tuple[str | None, int | None]:
    """Read name and size from records `LENGTH KEY=VALUE`, each with a line break, as far as they state them."""
    size: int | None = None
    while content:
        length_text, _, _ = content.partition(b" ")
        if not length_text.isdigit() or not len(length_text) + 2 < int(length_text) <= len(content):
            raise InvalidArchive("a header of the tar is damaged; pack it or copy it again")
        record = content[len(length_text) + 1 : int(length_text)].rstrip(b"\n")
        content = content[int(length_text) :]
        key, _, value = record.partition(b"=")
        if key == b"path":
            name = _text(value)
        elif key == b"size":
            if not value.isdigit() or len(value) > 20:
                raise InvalidArchive("a header of the tar is damaged; pack it or copy it again")
            size = int(value)
        elif key.startswith(b"GNU.sparse"):
            raise InvalidArchive("the tar holds a sparse file; pack it without --sparse")
    return name, size
