"""The statistics of the segments of a layer as people read them: a page of rows, and how the values are spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import PurePosixPath
from urllib.parse import quote, urlencode

from voxelworks import catalog
from voxelworks.errors import InvalidParams, NotFound, VoxelworksError
from voxelworks.protocol.people import Principal
from voxelworks.protocol.views import DatasetView
from voxelworks.server.context import Context
from voxelworks.server.viewing import read_source
from voxelworks.volumes.metadata import LayerProperties
from voxelworks.volumes.segment_tables import (
    CSV_FILE,
    PARQUET_FILE,
    TABLE_FOLDER,
    Column,
    SegmentTable,
    Value,
)

ROWS_PER_PAGE = 50
_DIGITS_MAX = 20
_LARGER = ((1e18, "mm"), (1e9, "µm"))
"""Units of length by their cube in nm³; areas change with them."""
_HISTOGRAM_SIZE = (640, 96)
_BAR_MIN = 1.5
"""A bar that stands for anything at all can be seen."""


@dataclass(frozen=True)
class Heading:
    """The head of a column."""

    text: str
    unit: str
    sort: str | None
    """What to sort by; None if that is not offered."""


@dataclass(frozen=True)
class SegmentRow:
    """One segment."""

    id: str
    cells: tuple[tuple[str, str], ...]
    """Text and what stands small below it, for each heading after the first."""
    view: str
    """Path of the viewer, looking at it."""
    is_wanted: bool


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram, in pixels."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class ShownHistogram:
    """How often the values of a column occur."""

    label: str
    width: int
    height: int
    bars: tuple[Bar, ...]
    low: str
    high: str
    is_logarithmic: bool


@dataclass(frozen=True)
class TableFile:
    """The whole table as a file."""

    label: str
    address: str
    """Path of the API, where the permission to read the dataset is asked for."""
    name: str
    """What it is called where it is saved."""


@dataclass(frozen=True)
class SegmentsPage:
    """A page of the table."""

    headings: tuple[Heading, ...]
    rows: tuple[SegmentRow, ...]
    row_count: int
    mag: str
    sort: str
    descending: bool
    page: int
    page_count: int
    histogram: ShownHistogram | None
    problem: str = ""

    def address(self, **changes: str | int) -> str:
        """Give the query of this page with some parameters changed."""
        order = "down" if self.descending else "up"
        return "?" + urlencode({"sort": self.sort, "order": order, "page": self.page} | changes)

    def sorted_address(self, heading: Heading) -> str:
        """Give the query of the page that sorts by a column: largest first, ids the other way round."""
        assert heading.sort is not None
        first = "up" if heading.sort == "id" else "down"
        other = {"up": "down", "down": "up"}[first]
        is_first = heading.sort == self.sort and self.descending == (first == "down")
        return self.address(sort=heading.sort, order=other if is_first else first, page=1)


def table_folder(layer: LayerProperties) -> PurePosixPath | None:
    """Give the folder with the statistics of a layer, below the dataset; None if there is none in it."""
    if layer.segment_table is None:
        return None
    folder = PurePosixPath(layer.segment_table)
    return None if folder.is_absolute() or ".." in folder.parts else folder


def table_files(dataset: DatasetView, dataset_folder: str, layer: LayerProperties) -> tuple[TableFile, ...]:
    """Give the files with the table of a layer that there are: old tables have no Parquet."""
    folder = table_folder(layer)
    found = []
    for label, file in (("CSV", CSV_FILE), ("Parquet", PARQUET_FILE)) if folder is not None else ():
        path = f"{folder}/{file}"
        try:
            catalog.open_file(dataset_folder, path).close()
        except NotFound:
            continue
        address = f"/api/v1/datasets/{quote(dataset.id)}/files/{quote(path)}"
        found.append(TableFile(label, address, f"{dataset.name}-{layer.name}-{file}"))
    return tuple(found)


def tables_of(context: Context, who: Principal, dataset: DatasetView) -> dict[str, tuple[TableFile, ...]]:
    """Give the files of all layers that were measured; nothing if the dataset cannot be read, or not from here."""
    if not any(layer.has_segment_table for layer in dataset.summary.layers):
        return {}
    try:
        with context.database.glance() as session:
            folder = catalog.folder_of(session, dataset.id, by=who, places=context.places)
        source = read_source(partial(catalog.read_metadata, folder), dataset.name)
        return {layer.name: table_files(dataset, folder, layer) for layer in source.data_layers}
    except VoxelworksError:
        return {}


def read_page(
    dataset_folder: str,
    dataset_id: str,
    layer: LayerProperties,
    table_folder: PurePosixPath,
    *,
    sort: str = "id",
    descending: bool = False,
    page: int = 1,
    wanted: str = "",
) -> SegmentsPage:
    """Read a page of the table of a layer.

    Parameters
    ----------
    sort
        Column to sort by; `id`, or one that is sortable.
    page
        From 1 on; the last if there are fewer.
    wanted
        Id of a segment whose page is shown instead, in the order of the ids.

    Raises
    ------
    InvalidParams
        If there is no such column.
    InvalidDataset
        If the table is damaged.
    """
    with _open(dataset_folder, table_folder) as table:
        header = table.header
        column = None if sort == "id" else header.column(sort)
        if sort != "id" and (column is None or not column.is_sortable):
            known = ", ".join(["id", *(item.name for item in header.columns if item.is_sortable)])
            raise InvalidParams(f"the table cannot be sorted by {sort[:100]!r}; sort by one of: {known}")
        problem, found = "", None
        if wanted:
            found = _find(table, wanted)
            if found is None:
                problem = f"there is no segment {wanted[: _DIGITS_MAX + 1]} in the table"
            else:
                sort, column, descending, page = "id", None, False, found // ROWS_PER_PAGE + 1
        page_count = max(1, -(-header.row_count // ROWS_PER_PAGE))
        page = min(max(page, 1), page_count)
        start = (page - 1) * ROWS_PER_PAGE
        values = table.page(start, ROWS_PER_PAGE, sort=column, descending=descending)
        describe = _Describer(header.columns, layer, dataset_id)
        rows = tuple(
            describe.row(row, is_wanted=found == start + number) for number, row in enumerate(values)
        )
    return SegmentsPage(
        describe.headings, rows, header.row_count, header.mag, sort, descending, page, page_count,
        describe.histogram(column or header.column("volume_nm3")), problem,
    )  # fmt: skip


def _open(dataset_folder: str, folder: PurePosixPath) -> AbstractContextManager[SegmentTable]:
    def open_(name: str) -> FileIO:
        return catalog.open_file(dataset_folder, str(folder / TABLE_FOLDER / name))

    return SegmentTable.open(open_)


def _find(table: SegmentTable, wanted: str) -> int | None:
    text = wanted.strip()
    is_number = text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX
    return table.place_of(int(text)) if is_number else None


class _Describer:
    """Turns the values of the columns into texts."""

    def __init__(self, columns: Sequence[Column], layer: LayerProperties, dataset_id: str) -> None:
        self._columns = {column.name: column for column in columns}
        self._places = {column.name: number for number, column in enumerate(columns)}
        self._layer = layer
        self._dataset_id = dataset_id
        volume = self._columns.get("volume_nm3")
        high = volume.histogram.edges[-1] if volume is not None and volume.histogram is not None else 0.0
        # So that the largest segment has at least some thousandths of the unit.
        self._cube, self._length = next(
            ((cube, name) for cube, name in _LARGER if high >= cube / 1e3), (1.0, "nm")
        )
        self._images = [name.removeprefix("mean_") for name in self._columns if name.startswith("mean_")]

    @property
    def headings(self) -> tuple[Heading, ...]:
        found = [
            Heading("Segment", "", "id"),
            Heading("Volume", f"{self._length}³", "volume_nm3"),
            Heading("Surface", f"{self._length}²", "surface_nm2"),
            Heading("Sphericity", "", "sphericity"),
            Heading("Size", "voxels", None),
        ]
        return (*found, *(Heading(name, "mean ± deviation", f"mean_{name}") for name in self._images))

    def row(self, values: tuple[Value, ...], *, is_wanted: bool) -> SegmentRow:
        def value(name: str) -> Value:
            return values[self._places[name]]

        size = " × ".join(number_text(value(f"box_{side}")) for side in ("width", "height", "depth"))
        corner = ", ".join(number_text(value(f"box_{axis}")) for axis in "xyz")
        cells = [
            (number_text(value("volume_nm3") / self._cube), f"{number_text(value('voxels'))} voxels"),
            (number_text(value("surface_nm2") / self._cube ** (2 / 3)), ""),
            (f"{value('sphericity'):.3f}", ""),
            (size, f"at {corner}"),
        ]
        for name in self._images:
            mean, deviation = value(f"mean_{name}"), value(f"deviation_{name}")
            cells.append(("–" if math.isnan(mean) else f"{number_text(mean)} ± {number_text(deviation)}", ""))
        segment_id = int(value("id"))
        box = ",".join(str(value(f"box_{side}")) for side in ("x", "y", "z", "width", "height", "depth"))
        position = ",".join(str(value(f"position_{axis}") + 0.5) for axis in "xyz")
        query = urlencode({"box": box, "position": position, "segment": f"{self._layer.name}/{segment_id}"})
        view = f"/datasets/{quote(self._dataset_id)}/view?{query}"
        return SegmentRow(str(segment_id), tuple(cells), view, is_wanted)

    def histogram(self, column: Column | None) -> ShownHistogram | None:
        if column is None or column.histogram is None or not sum(column.histogram.counts):
            return None
        found = column.histogram
        power = {"volume_nm3": 3, "surface_nm2": 2}.get(column.name)
        texts = [_quantity(edge, power) if power else number_text(edge) for edge in found.edges]
        width, height = _HISTOGRAM_SIZE
        step, highest = width / len(found.counts), max(found.counts)
        bars = []
        for number, count in enumerate(found.counts):
            if not count:
                continue
            tall = max(_BAR_MIN, height * count / highest)
            title = f"{number_text(count)} segments of {texts[number]} to {texts[number + 1]}"
            bars.append(
                Bar(
                    round(number * step, 2),
                    round(height - tall, 2),
                    round(step * 0.86, 2),
                    round(tall, 2),
                    title,
                )
            )
        return ShownHistogram(
            column.meaning, width, height, tuple(bars), texts[0], texts[-1], found.is_logarithmic
        )


def _quantity(value: float, power: int) -> str:
    """Write a volume or an area, given in powers of nanometres, in a unit that leaves few zeros."""
    cube, length = next(
        ((cube, name) for cube, name in _LARGER if value >= cube ** (power / 3) / 100), (1.0, "nm")
    )
    return f"{number_text(value / cube ** (power / 3))} {length}{'³' if power == 3 else '²'}"


def number_text(value: Value) -> str:
    """Write a number with four digits, or all of a whole one, in thin groups of three."""
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e15):
        return f"{int(value):,}".replace(",", "\u202f")
    if 1e-3 <= abs(value) < 1e7:
        digits = max(0, 3 - math.floor(math.log10(abs(value))))
        return f"{value:,.{digits}f}".replace(",", "\u202f")
    if 1e-9 <= abs(value) < 1e-3:
        return f"{value:.{2 - math.floor(math.log10(abs(value)))}f}".rstrip("0")
    return f"{value:.3g}"
