"""Zip files of strangers: looked through entry by entry, before anything of them is believed.

The list of entries is read as a stream with counts and sizes checked on the way, so that an archive that claims a
million entries costs no memory. An entry is unpacked by ourselves, in pieces, and stopped when it grows beyond what it
claimed. Encryption, links, devices and names that lead elsewhere are refused.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple, Protocol

from voxelworks.archives.limits import ArchiveLimits
from voxelworks.errors import InvalidArchive

STORED, DEFLATED = 0, 8
PIECE_BYTES = 2**16
NAME_LENGTH_MAX = 1024
PART_LENGTH_MAX = 255

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_END_SIGNATURE, _END64_SIGNATURE, _LOCATOR64_SIGNATURE = b"PK\5\6", b"PK\6\6", b"PK\6\7"
_ENTRY_SIGNATURE, _LOCAL_SIGNATURE = b"PK\1\2", b"PK\3\4"
_COMMENT_MAX = 2**16 - 1
_FULL16, _FULL32 = 2**16 - 1, 2**32 - 1
_ENCRYPTED, _UTF8 = 1, 1 << 11
_ZIP64_FIELD = 1
_UNIX = 3
_TYPE_MASK, _REGULAR, _FOLDER = 0o170000, 0o100000, 0o040000


class Entry(NamedTuple):
    """What the archive says about a file in it."""

    name: str
    method: int
    crc: int
    packed_bytes: int
    size_bytes: int
    offset: int
    """Of its local header in the archive."""


def looks_like_archive(stream: BinaryIO) -> bool:
    """Tell by the first bytes whether this may be a zip; an empty one begins with its end."""
    stream.seek(0)
    return stream.read(4) in (_LOCAL_SIGNATURE, _END_SIGNATURE)


@contextmanager
def opened(packed: BinaryIO) -> Iterator[BinaryIO]:
    """Give the file itself: a zip is read anywhere."""
    yield packed


def list_entries(stream: BinaryIO, limits: ArchiveLimits) -> Iterator[Entry]:
    """Yield the files of a zip in order; folders are left out. Every check that needs no unpacking is made on the way.

    Raises
    ------
    InvalidArchive
        Naming the entry and what is wrong with it.
    """
    directory = _find_directory(stream)
    if directory.entry_count > limits.entries_max:
        raise InvalidArchive(
            f"the zip holds {directory.entry_count:,} entries, more than {limits.entries_max:,}; split it up"
        )
    position, end = directory.offset, directory.offset + directory.size
    names: set[int] = set()  # hashes: whole names of many entries would fill the memory
    count = packed = unpacked = 0
    while position < end:
        entry, position, is_folder = _read_entry(stream, position, end)
        count += 1
        if count > limits.entries_max:
            raise InvalidArchive(
                f"the zip holds more than {limits.entries_max:,} entries, and claims fewer; it is broken"
            )
        if entry.offset + _LOCAL.size + entry.packed_bytes > directory.offset:
            raise InvalidArchive(f"entry {entry.name!r} lies outside of the zip; it is broken or was cut off")
        if hash(entry.name) in names:
            raise InvalidArchive(f"the zip holds {entry.name!r} twice; pack it anew")
        names.add(hash(entry.name))
        packed += entry.packed_bytes
        unpacked += entry.size_bytes
        if packed > directory.offset:
            raise InvalidArchive("entries of the zip overlap; pack it anew with a usual program")
        limits.check_growth(f"{entry.name} of the zip", entry.packed_bytes, entry.size_bytes)
        limits.check_growth("the whole of the zip", packed, unpacked)
        if unpacked > limits.bytes_max:
            raise InvalidArchive(
                f"the zip unpacks to more than {limits.bytes_max / 2**20:,.0f} MiB, the most that is taken; split it up"
            )
        if not is_folder:
            yield entry


def unpack(stream: BinaryIO, entry: Entry) -> Iterator[bytes]:
    """Yield the content of an entry in pieces of at most 64 KiB.

    Raises
    ------
    InvalidArchive
        If it is not what the list of entries claims.
    """
    stream.seek(_data_offset(stream, entry))
    position, left, size, crc = stream.tell(), entry.packed_bytes, 0, 0
    inflate = zlib.decompressobj(-zlib.MAX_WBITS) if entry.method == DEFLATED else None
    pending = b""
    while True:
        if left and not pending:
            pending = _read_at(stream, position, min(PIECE_BYTES, left))
            position, left = position + len(pending), left - len(pending)
        if inflate is None:
            piece, pending = pending, b""
        else:
            piece, pending = _inflate(inflate, entry, pending)
            if inflate.eof and (left or inflate.unused_data):
                raise InvalidArchive(f"entry {entry.name!r} has bytes after its end; the zip is broken")
        size, crc = size + len(piece), zlib.crc32(piece, crc)
        if size > entry.size_bytes:
            raise InvalidArchive(f"entry {entry.name!r} is larger than it claims; the zip is broken")
        if piece:
            yield piece
        elif not (pending or left):
            break
    if size != entry.size_bytes or crc != entry.crc:
        raise InvalidArchive(
            f"entry {entry.name!r} is not what the zip claims; pack it anew, or upload it again"
        )


def copy_packed(stream: BinaryIO, entry: Entry) -> Iterator[bytes]:
    """Yield an entry in pieces as it stands in the zip, neither unpacked nor checked.

    Raises
    ------
    InvalidArchive
        If the zip is cut off.
    """
    position, left = _data_offset(stream, entry), entry.packed_bytes
    while left:
        piece = _read_at(stream, position, min(PIECE_BYTES, left))
        position, left = position + len(piece), left - len(piece)
        yield piece


def _inflate(inflate: _Inflate, entry: Entry, pending: bytes) -> tuple[bytes, bytes]:
    """Unpack a piece; give it, and what is left of the input. Without input it gives what zlib still holds back."""
    try:
        return inflate.decompress(pending, PIECE_BYTES), inflate.unconsumed_tail
    except zlib.error as error:
        raise InvalidArchive(f"entry {entry.name!r} cannot be unpacked ({error}); pack it anew") from error


class _Inflate(Protocol):
    """What `zlib.decompressobj` gives: its class has no public name."""

    @property
    def unconsumed_tail(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Directory(NamedTuple):
    offset: int
    size: int
    entry_count: int


def _find_directory(stream: BinaryIO) -> _Directory:
    length = stream.seek(0, 2)
    tail_at = max(0, length - _END.size - _COMMENT_MAX)
    stream.seek(tail_at)
    tail = stream.read()
    at = tail.rfind(_END_SIGNATURE)
    # The record with its comment must be the very end: two readers shall not see two archives in one file.
    if at < 0 or len(tail) - at < _END.size:
        raise InvalidArchive("this is no whole zip file: its end is missing; pack it or upload it again")
    _, disk, first_disk, _, count, size, offset, comment_length = _END.unpack_from(tail, at)
    if at + _END.size + comment_length != len(tail):
        raise InvalidArchive("the zip file has something after its end; pack it anew")
    end_at = tail_at + at
    if _FULL16 in (disk, first_disk, count) or _FULL32 in (size, offset):
        count, size, offset, end_at = _read_end64(stream, end_at)
    elif disk or first_disk:
        raise InvalidArchive("the zip is one part of several; pack it as one file")
    if offset + size != end_at:
        raise InvalidArchive("the list of entries of the zip is not where it should be; pack it anew")
    return _Directory(offset, size, count)


def _read_end64(stream: BinaryIO, end_at: int) -> tuple[int, int, int, int]:
    signature, _, at, disks = _LOCATOR64.unpack(_read_at(stream, end_at - _LOCATOR64.size, _LOCATOR64.size))
    if signature != _LOCATOR64_SIGNATURE or disks > 1 or at + _END64.size > end_at:
        raise InvalidArchive("the end of the zip file is broken; pack it anew")
    record = _END64.unpack(_read_at(stream, at, _END64.size))
    if record[0] != _END64_SIGNATURE:
        raise InvalidArchive("the end of the zip file is broken; pack it anew")
    count, size, offset = record[7:]
    return count, size, offset, at


def _read_entry(stream: BinaryIO, position: int, end: int) -> tuple[Entry, int, bool]:
    """Read an entry of the list; give it, where the next one begins, and whether it is a folder."""
    fields = _ENTRY.unpack(_read_at(stream, position, _ENTRY.size))
    (signature, made_by, _, flags, method, _, _, crc, packed, size,
     name_length, extra_length, comment_length, _, _, attributes, offset) = fields  # fmt: skip
    following = position + _ENTRY.size + name_length + extra_length + comment_length
    if signature != _ENTRY_SIGNATURE or following > end:
        raise InvalidArchive("the list of entries of the zip is broken; pack it anew")
    raw = stream.read(name_length)
    extra = stream.read(extra_length)
    if len(raw) != name_length or len(extra) != extra_length:
        raise InvalidArchive("the list of entries of the zip is broken; pack it anew")
    name = _check_name(raw, is_utf8=bool(flags & _UTF8))
    size, packed, offset = _wide_sizes(name, extra, size, packed, offset)
    is_folder = name.endswith("/")
    if flags & _ENCRYPTED:
        raise InvalidArchive(f"entry {name!r} is encrypted; pack it without a password")
    if method not in (STORED, DEFLATED):
        raise InvalidArchive(
            f"entry {name!r} is packed by method {method}; only stored and deflated ones are read"
        )
    if method == STORED and size != packed:
        raise InvalidArchive(f"entry {name!r} has two sizes; the zip is broken")
    kind = (attributes >> 16) & _TYPE_MASK if made_by >> 8 == _UNIX else 0
    if kind not in (0, _FOLDER if is_folder else _REGULAR):
        raise InvalidArchive(f"entry {name!r} is a link or a device; pack plain files only")
    if is_folder and size:
        raise InvalidArchive(f"entry {name!r} is a folder with a content; the zip is broken")
    return Entry(name, method, crc, packed, size, offset), following, is_folder


def _check_name(raw: bytes, *, is_utf8: bool) -> str:
    try:
        name = raw.decode("utf-8" if is_utf8 else "cp437")
    except UnicodeDecodeError as error:
        raise InvalidArchive(
            f"an entry has the name {raw[:80]!r}, which is no UTF-8; pack it anew"
        ) from error
    parts = name.removesuffix("/").split("/")
    is_long = len(name) > NAME_LENGTH_MAX or any(len(part) > PART_LENGTH_MAX for part in parts)
    leads_away = any(part in ("", ".", "..") for part in parts) or "\\" in name or name[1:2] == ":"
    if is_long or leads_away or not name.isprintable():
        raise InvalidArchive(
            f"an entry has the name {name[:80]!r}; only relative paths without '..' and '\\' are taken"
        )
    return name


def _wide_sizes(name: str, extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Take sizes that do not fit into 32 bits from the entry's extra field."""
    wanted = [value == _FULL32 for value in (size, packed, offset)]
    if not any(wanted):
        return size, packed, offset
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        field = extra[at + 4 : at + 4 + length]
        if kind == _ZIP64_FIELD and len(field) >= 8 * sum(wanted):
            wide = iter(struct.unpack_from(f"<{sum(wanted)}Q", field))
            values = [
                next(wide) if is_wide else value
                for is_wide, value in zip(wanted, (size, packed, offset), strict=True)
            ]
            return values[0], values[1], values[2]
        at += 4 + length
    raise InvalidArchive(f"entry {name!r} does not say how large it is; the zip is broken")


def _data_offset(stream: BinaryIO, entry: Entry) -> int:
    header = _LOCAL.unpack(_read_at(stream, entry.offset, _LOCAL.size))
    if header[0] != _LOCAL_SIGNATURE:
        raise InvalidArchive(f"entry {entry.name!r} is not where the zip says; it is broken")
    return entry.offset + _LOCAL.size + int(header[9]) + int(header[10])


def _read_at(stream: BinaryIO, position: int, length: int) -> bytes:
    if position < 0:
        raise InvalidArchive("the zip file is cut off; pack it or upload it again")
    stream.seek(position)
    data = stream.read(length)
    if len(data) != length:
        raise InvalidArchive("the zip file is cut off; pack it or upload it again")
    return data
