"""The table of the statistics of segments: a format that is paged and sorted without an array library.

A folder `table` with

    table.json          what the columns mean, how many rows there are, and a histogram of each sortable column
    rows.bin            rows sorted by segment id: 8 bytes for each column, little endian
    by_COLUMN.bin       numbers of rows, 8 bytes each, sorted by a column; rows without a value come last

Any page, in any order, is a few small reads, however many rows there are. This module imports no array library: the
server reads tables, workers write them.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from io import FileIO
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from voxelworks.errors import InvalidDataset

TABLE_FOLDER = "table"
HEADER_FILE = "table.json"
ROWS_FILE = "rows.bin"
HEADER_BYTES_MAX = 2**20
CSV_FILE = "segments.csv"
"""Beside the folder: the same for other programs."""
PARQUET_FILE = "segments.parquet"
"""The same with types and units."""

CELL_BYTES = 8
ColumnType = Literal["uint64", "int64", "float64"]
_CODES: dict[ColumnType, str] = {"uint64": "Q", "int64": "q", "float64": "d"}
Value = int | float
Open = Callable[[str], FileIO]
"""Opens a file of the table by its name."""


class Histogram(BaseModel):
    """How often values of a column lie between edges."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    is_logarithmic: bool
    """Whether the edges grow by a factor, not by a step."""


class Column(BaseModel):
    """One column of the table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,200}$")
    type: ColumnType
    unit: str = ""
    meaning: str = ""
    is_sortable: bool = False
    histogram: Histogram | None = None

    @property
    def order_file(self) -> str:
        return f"by_{self.name}.bin"


class TableHeader(BaseModel):
    """The content of `table.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    row_count: int = Field(ge=0)
    mag: str
    """Magnification that was measured."""
    columns: tuple[Column, ...] = Field(min_length=1, max_length=1000)

    @property
    def row_bytes(self) -> int:
        return CELL_BYTES * len(self.columns)

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)

    @classmethod
    def read(cls, text: bytes) -> Self:
        """Understand `table.json`.

        Raises
        ------
        InvalidDataset
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise InvalidDataset(
                f"{HEADER_FILE} cannot be understood ({error.error_count()} problems); compute the statistics anew"
            ) from error


class SegmentTable:
    """A table to read pages from. Close it after use."""

    def __init__(self, header: TableHeader, open_: Open) -> None:
        self.header = header
        self._open = open_
        self._files = ExitStack()
        self._cells = struct.Struct("<" + "".join(_CODES[column.type] for column in header.columns))
        self._rows = self._opened(ROWS_FILE, header.row_bytes)

    @classmethod
    def open(cls, open_: Open) -> Self:
        """Open a table.

        Raises
        ------
        InvalidDataset
            If its files do not fit together.
        """
        with open_(HEADER_FILE) as file:
            text = file.read(HEADER_BYTES_MAX + 1)
        if len(text) > HEADER_BYTES_MAX:
            raise InvalidDataset(f"{HEADER_FILE} is larger than {HEADER_BYTES_MAX} bytes")
        return cls(TableHeader.read(text), open_)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._files.close()

    def page(
        self, start: int, count: int, *, sort: Column | None = None, descending: bool = False
    ) -> list[tuple[Value, ...]]:
        """Give rows `start` to `start + count` in the order of a column, or of the ids."""
        total = self.header.row_count
        places = range(max(start, 0), min(start + count, total))
        if sort is None:
            numbers: Sequence[int] = [total - 1 - place if descending else place for place in places]
        else:
            numbers = self._sorted(sort, places, descending)
        return [self._row(number) for number in numbers]

    def place_of(self, segment_id: int) -> int | None:
        """Give the number of the row of a segment, in the order of the ids; None if there is none."""
        ids = _Ids(self)
        place = bisect_left(ids, segment_id)
        return place if place < len(ids) and ids[place] == segment_id else None

    def _sorted(self, sort: Column, places: range, descending: bool) -> list[int]:
        total = self.header.row_count
        if not places:
            return []
        first = total - places.stop if descending else places.start
        text = os.pread(
            self._opened(sort.order_file, CELL_BYTES), len(places) * CELL_BYTES, first * CELL_BYTES
        )
        numbers = [number for (number,) in struct.iter_unpack("<Q", text)]
        if len(numbers) != len(places) or any(number >= total for number in numbers):
            raise InvalidDataset(f"{sort.order_file} is damaged; compute the statistics anew")
        return numbers[::-1] if descending else numbers

    def _row(self, number: int) -> tuple[Value, ...]:
        size = self.header.row_bytes
        text = os.pread(self._rows, size, number * size)
        if len(text) != size:
            raise InvalidDataset(f"{ROWS_FILE} is damaged; compute the statistics anew")
        return self._cells.unpack(text)

    def _opened(self, name: str, row_bytes: int) -> int:
        file = self._files.enter_context(self._open(name))
        if os.fstat(file.fileno()).st_size != self.header.row_count * row_bytes:
            self._files.close()
            raise InvalidDataset(
                f"{name} has not as many rows as {HEADER_FILE} says; compute the statistics anew"
            )
        return file.fileno()


class _Ids(Sequence[int]):
    """The ids of a table, read when they are looked at."""

    def __init__(self, table: SegmentTable) -> None:
        self._table = table

    def __len__(self) -> int:
        return self._table.header.row_count

    def __getitem__(self, number: int) -> int:  # type: ignore[override]
        return int(self._table._row(number)[0])

    def __iter__(self) -> Iterator[int]:
        return (self[number] for number in range(len(self)))
