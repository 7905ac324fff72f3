"""Logs by their lines: any part of a log of millions of them, and where a text stands in it.

A log is a file of bytes (`_logs`). Which bytes a line has is found from the number of lines that end before each block
of the file; these numbers are counted once for each block and kept in memory, for the logs that were looked at last.
"""

from __future__ import annotations

import re
import threading
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from voxelworks.errors import InvalidInput
from voxelworks.jobs._masking import CONTEXT_BYTES
from voxelworks.protocol.views import LogHits, LogLines

ANSWER_BYTES_MAX = 2 * 2**20
"""Bytes of a log that one answer looks at, at most: of very long lines it then has fewer than were asked for."""
LINE_BYTES_MAX = 16 * 2**10
"""Of a longer line the beginning is shown."""
HITS_MAX = 10_000
"""Lines with a text that one answer names; it counts all of them."""
SEARCH_S = 2.0
"""How long one request looks for a text, in seconds. A log of a million lines takes a small part of it."""
SEARCH_TEXT_MAX = 200
_BLOCK_BYTES = 256 * 2**10
_PIECE_BYTES = 2**20
_KEPT_MAX = 64
"""Logs of which it is kept where their lines are: 4,096 numbers for one of a gibibyte."""
_TERMINAL_CODES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Log:
    """The log of an attempt, as far as it can be read."""

    path: Path
    size: int
    is_complete: bool
    """No more bytes will come."""

    def lines(self, first: int | None = 1, limit: int = 1000) -> LogLines:
        """Give some of its lines.

        Parameters
        ----------
        first
            Number of the first one, from 1; None for the last `limit` lines.
        limit
            Lines to give at most.
        """
        if self.size == 0:
            return LogLines(
                first=first or 1, lines=(), total=0, is_open=False, size=0, is_complete=self.is_complete
            )
        with self.path.open("rb") as file:
            index = _index_of(self.path)
            index.extend(file, self.size)
            file.seek(self.size - 1)
            is_open = file.read(1) != b"\n"
            total = index.count(file, self.size) + is_open
            if first is None:
                found = _last(file, self.size)[-limit:]
                first = total - len(found) + 1
            else:
                start = index.offset(file, self.size, first - 1)
                found = [] if start is None else _some(file, start, self.size)[:limit]
        return LogLines(
            first=first, lines=tuple(map(_text, found)), total=total, is_open=is_open, size=self.size,
            is_complete=self.is_complete,
        )  # fmt: skip

    def search(self, text: str, *, after: int = 0, clock: Callable[[], float] = time.monotonic) -> LogHits:
        """Find the lines in which a text stands, as lines are shown. Small and capital letters of ASCII are alike.

        Parameters
        ----------
        text
        after
            Lines that were searched before.
        clock
            Seconds: whoever asks waits for `SEARCH_S`, and goes on then where the answer says.

        Raises
        ------
        InvalidInput
            If the text is empty or too long.
        """
        needle = text.lower().encode()
        if not text or "\n" in text or len(text) > SEARCH_TEXT_MAX:
            raise InvalidInput(
                f"{text[:20]!r} cannot be looked for; give 1 to {SEARCH_TEXT_MAX} characters of one line"
            )
        if self.size == 0:
            return LogHits(lines=(), count=0, searched=0, is_whole=True)
        until_s = clock() + SEARCH_S
        hits: list[int] = []
        count, last, searched = 0, 0, after
        is_whole = True
        with self.path.open("rb") as file:
            index = _index_of(self.path)
            index.extend(file, self.size)
            start = index.offset(file, self.size, after)
            for piece in _pieces(file, self.size if start is None else start, self.size, len(needle) - 1):
                if clock() > until_s:
                    is_whole = False
                    break
                shown = _shown_lines(piece).lower()
                counted_to, place = 0, shown.find(needle)
                while place >= 0:
                    searched += shown.count(b"\n", counted_to, place)
                    if searched + 1 != last:  # a very long line comes in several pieces
                        last = searched + 1
                        count += 1
                        if len(hits) < HITS_MAX:
                            hits.append(last)
                    counted_to = shown.find(b"\n", place)
                    if counted_to < 0:
                        counted_to = len(shown)
                        break
                    place = shown.find(needle, counted_to)
                searched += shown.count(b"\n", counted_to)
        return LogHits(lines=tuple(hits), count=count, searched=searched, is_whole=is_whole)


@dataclass
class _Index:
    """How many lines end before each block of a log."""

    ended: list[int] = field(default_factory=lambda: [0])
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def extend(self, file: BinaryIO, size: int) -> None:
        """Count the lines of new blocks that will not change any more, as the end may when secrets are masked."""
        with self.lock:
            known, settled = len(self.ended) - 1, max(0, size - CONTEXT_BYTES) // _BLOCK_BYTES
            file.seek(known * _BLOCK_BYTES)
            for _ in range(known, settled):
                self.ended.append(self.ended[-1] + file.read(_BLOCK_BYTES).count(b"\n"))

    def count(self, file: BinaryIO, size: int) -> int:
        """Count the lines that end in the whole log."""
        known = min(len(self.ended) - 1, size // _BLOCK_BYTES)
        return self.ended[known] + sum(
            data.count(b"\n") for _, data in _blocks(file, known * _BLOCK_BYTES, size)
        )

    def offset(self, file: BinaryIO, size: int, before: int) -> int | None:
        """Say at which byte the line begins that has so many before it; None if there is none."""
        if before <= 0:
            return 0
        block = bisect_left(self.ended, before) - 1
        ended = self.ended[block]
        for start, data in _blocks(file, block * _BLOCK_BYTES, size):
            more = data.count(b"\n")
            if ended + more < before:
                ended += more
                continue
            place = -1
            for _ in range(before - ended):
                place = data.index(b"\n", place + 1)
            offset = start + place + 1
            return offset if offset < size else None
        return None


_indexes: OrderedDict[Path, _Index] = OrderedDict()
_lock = threading.Lock()


def _index_of(path: Path) -> _Index:
    with _lock:
        index = _indexes.pop(path, None) or _Index()
        _indexes[path] = index
        if len(_indexes) > _KEPT_MAX:
            _indexes.popitem(last=False)
        return index


def _blocks(file: BinaryIO, start: int, size: int) -> Iterator[tuple[int, bytes]]:
    file.seek(start)
    for at in range(start, size, _BLOCK_BYTES):
        yield at, file.read(min(_BLOCK_BYTES, size - at))


def _some(file: BinaryIO, start: int, size: int) -> list[bytes]:
    """Give whole lines from a place on, or the beginning of one that is longer than an answer."""
    count = min(ANSWER_BYTES_MAX, size - start)
    file.seek(start)
    lines = file.read(count).split(b"\n")
    is_cut = start + count < size
    return lines[:-1] if lines[-1] == b"" or (is_cut and len(lines) > 1) else lines


def _last(file: BinaryIO, size: int) -> list[bytes]:
    """Give the last whole lines, or the beginning of what is seen of one that is longer than an answer."""
    start = max(0, size - ANSWER_BYTES_MAX)
    file.seek(start)
    lines = file.read(size - start).split(b"\n")
    if lines[-1] == b"":
        del lines[-1]
    return lines[1:] if start > 0 and len(lines) > 1 else lines


def _pieces(file: BinaryIO, start: int, size: int, overlap: int) -> Iterator[bytes]:
    """Read on in whole lines; a line that is longer than a piece comes in several, which overlap."""
    file.seek(start)
    rest = b""
    for at in range(start, size, _PIECE_BYTES):
        data = rest + file.read(min(_PIECE_BYTES, size - at))
        if at + _PIECE_BYTES >= size:
            yield data
            return
        end = data.rfind(b"\n") + 1
        if end:
            yield data[:end]
            rest = data[end:]
        elif len(data) > _PIECE_BYTES:
            yield data
            rest = data[len(data) - overlap :]
        else:
            rest = data


def _shown_lines(data: bytes) -> bytes:
    if b"\r" not in data and b"\x1b" not in data:
        return data
    return b"\n".join(map(_shown, data.split(b"\n")))


def _shown(line: bytes) -> bytes:
    """Leave out colours and cursor moves of terminals, and what a carriage return has written over."""
    if b"\x1b" in line:
        line = _TERMINAL_CODES.sub(b"", line)
    return line.rstrip(b"\r").rpartition(b"\r")[2]


def _text(line: bytes) -> str:
    shown = _shown(line)
    cut = shown[:LINE_BYTES_MAX].decode(
        "utf-8", errors="ignore" if len(shown) > LINE_BYTES_MAX else "replace"
    )
    return f"{cut} [… the line goes on]" if len(shown) > LINE_BYTES_MAX else cut
