"""The blocks of work of `compute_segment_statistics`. See there for what is measured."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxelworks.geometry import Box, Mag, VoxelSize
from voxelworks.ops import segments
from voxelworks.ops.segments import record_dtype
from voxelworks.volumes import attachments
from voxelworks.volumes.arrays import MagArray
from voxelworks.volumes.segment_tables import Column, ColumnType, Histogram
from voxelworks.workflows._runs import Run, open_run, read_range, whole_chunks, write_run

EDGE = 256
"""Voxels that are measured at a time, along each axis."""
BYTE = np.dtype(np.uint8)
_BINS = 40
_ROWS_PER_GROUP = 2**16
"""Of the Parquet file: what is written at once, and what readers read at once."""
_CELL = {"uint64": "<u8", "int64": "<i8", "float64": "<f8"}
_ORDER: tuple[tuple[int, int, int], ...] = ((2, 0, 0), (1, 1, 1), (0, 2, 2), (5, 1, 0), (4, 2, 0), (3, 2, 1))
"""Covariances xx, yy, zz, xy, xz, yz: which moment (of zz, yy, xx, zy, zx, yx), and its axes of x, y, z."""


@dataclass(frozen=True)
class Channel:
    """One channel of an image layer at the magnification that is measured."""

    name: str
    """Of its columns: the layer's, with the number of the channel if there are several."""
    source: MagArray
    index: int


def block_bytes(source: MagArray, voxel_size: VoxelSize, value_bytes: int) -> int:
    """Give the memory that measuring one block takes at most, in bytes: labels twice, their numbers, and the images."""
    reach = segments.lattice_of(voxel_size.in_mag(source.mag).zyx).reach
    edges = whole_chunks(source, EDGE)[::-1]
    voxels = math.prod(edge + 2 * more for edge, more in zip(edges, reach, strict=True))
    return voxels * (2 * source.dtype.itemsize + 4 + value_bytes) + 2**26


@dataclass(frozen=True)
class MeasureBox:
    """Measure the segments of a box and write their records."""

    source: MagArray
    voxel_size: VoxelSize
    """Of the magnification."""
    channels: tuple[Channel, ...]
    folder: str

    def __call__(self, box: Box) -> Run:
        found = [np.empty(0, record_dtype(len(self.channels)))]
        found += [self._measure(piece) for piece in box.tiles(whole_chunks(self.source, EDGE))]
        return write_run(Path(self.folder), str(box), segments.merge_records(np.concatenate(found)))

    def _measure(self, piece: Box) -> NDArray[Any]:
        lattice = segments.lattice_of(self.voxel_size.zyx)
        layer = self.source.box
        before = tuple(
            reach if start == first else 0
            for reach, start, first in zip(lattice.reach, piece.start_zyx, layer.start_zyx, strict=True)
        )
        wanted = Box.from_zyx(
            tuple(start - less for start, less in zip(piece.start_zyx, before, strict=True)),  # type: ignore[arg-type]
            tuple(
                size + less + more
                for size, less, more in zip(piece.shape_zyx, before, lattice.reach, strict=True)
            ),  # type: ignore[arg-type]
        )
        there = wanted.intersect(layer)
        if self.source.is_missing(there):
            return np.empty(0, record_dtype(len(self.channels)))
        labels = np.zeros(wanted.shape_zyx, self.source.dtype)
        x, y, z = wanted.topleft
        labels[there.moved((-x, -y, -z)).slices_zyx] = self.source.read(there)[0]
        origin = tuple(a - b for a, b in zip(piece.start_zyx, layer.start_zyx, strict=True))
        return segments.measure(
            labels, lattice, before_zyx=before, origin_zyx=origin,  # type: ignore[arg-type]
            values=self._values(piece),
        )  # fmt: skip

    def _values(self, piece: Box) -> list[tuple[tuple[int, int, int], NDArray[Any]]]:
        x, y, z = piece.topleft
        values = []
        read: dict[str, NDArray[Any]] = {}
        for channel in self.channels:
            covered = piece.intersect(channel.source.box)
            if channel.source.location not in read:
                read[channel.source.location] = channel.source.read(covered)
            inside = covered.moved((-x, -y, -z))
            values.append((inside.start_zyx, read[channel.source.location][channel.index]))
        return values


@dataclass(frozen=True)
class Measured:
    """What one range of ids gave."""

    rows: Run
    lines: Run
    """The same as lines of CSV, counted in bytes."""


@dataclass(frozen=True)
class MergeRecords:
    """Merge the records within a range of ids and turn them into rows of the table."""

    runs: tuple[Run, ...]
    frame: Frame
    folder: str

    def __call__(self, ids: tuple[int, int]) -> Measured:
        folder = Path(self.folder)
        dtype = record_dtype(len(self.frame.channels))
        records = segments.merge_records(read_range(folder, self.runs, dtype, *ids))
        rows = self.frame.rows(records)
        lines = np.frombuffer(self.frame.lines(rows).encode(), np.uint8)
        return Measured(
            write_run(folder, f"rows-{ids[0]}", rows), write_run(folder, f"lines-{ids[0]}", lines)
        )


@dataclass(frozen=True)
class Frame:
    """Turns records, in voxels of one magnification, into what users read: x, y, z, mag 1 and nanometres."""

    box: Box
    """Of the layer, in mag 1."""
    mag: Mag
    voxel_size: VoxelSize
    """Of mag 1."""
    channels: tuple[str, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """Give the columns of the table. Their names are part of the format of the CSV file too."""

        def column(
            name: str, type_: ColumnType, unit: str, meaning: str, *, is_sortable: bool = False
        ) -> Column:
            return Column(name=name, type=type_, unit=unit, meaning=meaning, is_sortable=is_sortable)

        found = [
            column("id", "uint64", "", "Id of the segment"),
            column("voxels", "uint64", f"voxels of mag {self.mag}", "Number of voxels", is_sortable=True),
            column("volume_nm3", "float64", "nm³", "Volume", is_sortable=True),
            column("surface_nm2", "float64", "nm²", "Surface area", is_sortable=True),
            column("sphericity", "float64", "", "1 for a ball, less for other shapes", is_sortable=True),
        ]
        voxels = "voxels of mag 1"
        box = ("box_x", "box_y", "box_z", "box_width", "box_height", "box_depth")
        moments = (f"covariance_{name}" for name in ("xx", "yy", "zz", "xy", "xz", "yz"))
        found += [column(f"centroid_{axis}", "float64", voxels, "Centre of mass") for axis in "xyz"]
        found += [column(f"position_{axis}", "int64", voxels, "A voxel inside the segment") for axis in "xyz"]
        found += [column(name, "int64", voxels, "Bounding box") for name in box]
        found += [
            column(name, "float64", f"{voxels}, squared", "Covariance of the positions") for name in moments
        ]
        for name in self.channels:
            found += [
                column(f"mean_{name}", "float64", "", f"Mean of {name}", is_sortable=True),
                column(f"deviation_{name}", "float64", "", f"Standard deviation of {name}", is_sortable=True),
            ]
        return tuple(found)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype([(column.name, _CELL[column.type]) for column in self.columns])

    def rows(self, records: NDArray[Any]) -> NDArray[Any]:
        rows = np.zeros(len(records), self.dtype)
        mag, start = np.array(self.mag.xyz), np.array(self.box.in_mag(self.mag).topleft)
        size_nm = self.voxel_size.in_mag(self.mag)
        rows["id"], rows["voxels"] = records["id"], records["count"]
        rows["volume_nm3"] = records["count"] * float(np.prod(size_nm.xyz))
        rows["surface_nm2"] = segments.lattice_of(size_nm.zyx).surface(records["crossings"])
        rows["sphericity"] = segments.sphericity(rows["volume_nm3"], rows["surface_nm2"])
        # A voxel of a coarser mag stands for all voxels of mag 1 that it covers.
        centroid = (records["mean"][:, ::-1] + start) * mag + (mag - 1) / 2
        inside = (records["inside"][:, ::-1] + start) * mag + mag // 2
        low, high = (records["low"][:, ::-1] + start) * mag, (records["high"][:, ::-1] + 1 + start) * mag
        low, high = np.maximum(low, self.box.topleft), np.minimum(high, self.box.bottomright)
        inside = np.minimum(inside, np.array(self.box.bottomright) - 1)
        for axis, name in enumerate("xyz"):
            rows[f"centroid_{name}"], rows[f"position_{name}"] = centroid[:, axis], inside[:, axis]
            rows[f"box_{name}"] = low[:, axis]
        for axis, name in enumerate(("width", "height", "depth")):
            rows[f"box_{name}"] = high[:, axis] - low[:, axis]
        for name, (moment, a, b) in zip(("xx", "yy", "zz", "xy", "xz", "yz"), _ORDER, strict=True):
            within = (mag[a] ** 2 - 1) / 12 if a == b else 0
            rows[f"covariance_{name}"] = (
                records["moments"][:, moment] / records["count"] * mag[a] * mag[b] + within
            )
        for channel, name in enumerate(self.channels):
            counts = records["values"][:, channel]
            known = np.where(counts > 0, counts, np.nan)
            rows[f"mean_{name}"] = np.where(counts > 0, records["value_mean"][:, channel], np.nan)
            rows[f"deviation_{name}"] = np.sqrt(records["value_moment"][:, channel] / known)
        return rows

    def lines(self, rows: NDArray[Any]) -> str:
        text = io.StringIO()
        writer = csv.writer(text)
        for row in rows.tolist():
            writer.writerow("" if value != value else value for value in row)
        return text.getvalue()

    def head(self) -> str:
        text = io.StringIO()
        csv.writer(text).writerow(column.name for column in self.columns)
        return text.getvalue()


def concatenate(folder: Path, runs: Sequence[Run], target: Path, head: bytes = b"") -> None:
    """Put files one behind the other."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as out:
        out.write(head)
        for run in runs:
            with (folder / run.name).open("rb") as part:
                shutil.copyfileobj(part, out, 2**20)


@dataclass(frozen=True)
class WriteParquet:
    """Write the rows of the table as a Parquet file, group by group; what has no value is null.

    Units and meanings lie in the metadata of the fields, which readers with Arrow show, and for all others as JSON in
    that of the file.
    """

    rows: Run
    frame: Frame
    table: str
    folder: str

    def __call__(self, name: str) -> None:
        import pyarrow  # slow import
        import pyarrow.parquet

        columns = self.frame.columns
        told = {column.name: {"unit": column.unit, "meaning": column.meaning} for column in columns}
        fields = [
            pyarrow.field(column.name, getattr(pyarrow, column.type)(), metadata=told[column.name])
            for column in columns
        ]
        about = {"mag": str(self.frame.mag), "columns": json.dumps(told, ensure_ascii=False)}
        schema = pyarrow.schema(fields, metadata=about)
        rows = open_run(Path(self.table), self.frame.dtype, self.rows)
        with pyarrow.parquet.ParquetWriter(Path(self.folder) / name, schema, compression="zstd") as writer:
            for start in range(0, len(rows), _ROWS_PER_GROUP):
                group = rows[start : start + _ROWS_PER_GROUP]
                # `from_pandas`: what is not a number is null.
                cells = [
                    pyarrow.array(np.ascontiguousarray(group[field.name]), field.type, from_pandas=True)
                    for field in fields
                ]
                writer.write_batch(pyarrow.record_batch(cells, schema))


def parquet_bytes(frame: Frame) -> int:
    """Give the memory that writing the Parquet file takes at most, in bytes, with its library."""
    return 4 * _ROWS_PER_GROUP * frame.dtype.itemsize + 2**27


@dataclass(frozen=True)
class SortColumn:
    """Sort the rows of the table by one column, and count how its values are spread."""

    rows: Run
    dtype: np.dtype[Any]
    folder: str

    def __call__(self, name: str) -> Histogram:
        folder = Path(self.folder)
        values = np.ascontiguousarray(open_run(folder, self.dtype, self.rows)[name])
        np.argsort(values, kind="stable").astype("<u8").tofile(folder / f"by_{name}.bin")
        return _histogram(values[np.isfinite(values)].astype(np.float64))


def _histogram(values: NDArray[np.float64]) -> Histogram:
    if not len(values):
        return Histogram(edges=(0.0, 1.0), counts=(0,), is_logarithmic=False)
    low, high = float(values.min()), float(values.max())
    if low == high:
        return Histogram(edges=(low, high), counts=(len(values),), is_logarithmic=False)
    is_logarithmic = low > 0 and high / low > 100
    edges = np.geomspace(low, high, _BINS + 1) if is_logarithmic else np.linspace(low, high, _BINS + 1)
    edges[0], edges[-1] = low, high
    counts, _ = np.histogram(values, edges)
    return Histogram(
        edges=tuple(edges.tolist()), counts=tuple(counts.tolist()), is_logarithmic=is_logarithmic
    )


DENSE: dict[str, tuple[str, tuple[int, ...], tuple[str, ...]]] = {
    "ids": ("<u8", (), ("id",)),
    "positions": ("<i4", (3,), ("position_x", "position_y", "position_z")),
    "volumes": ("<u8", (), ("voxels",)),
    "center_of_mass": ("<f4", (3,), ("centroid_x", "centroid_y", "centroid_z")),
    "covariance_matrix": (
        "<f4",
        (3, 3),
        tuple(f"covariance_{name}" for name in ("xx", "xy", "xz", "xy", "yy", "yz", "xz", "yz", "zz")),
    ),
    "surfaces": ("<f4", (), ("surface_nm2",)),
    "sphericities": ("<f4", (), ("sphericity",)),
}
"""Arrays of WEBKNOSSOS' file, whose row number is the segment id: type, shape of a row, and our columns."""


@dataclass(frozen=True)
class WriteDense:
    """Write a shard of one of the arrays of WEBKNOSSOS' file."""

    rows: Run
    dtype: np.dtype[Any]
    table: str
    group: str

    def __call__(self, item: tuple[str, range]) -> None:
        name, ids = item
        kind, shape, columns = DENSE[name]
        rows = read_range(Path(self.table), [self.rows], self.dtype, ids.start, ids.stop - 1)
        values = np.zeros((len(ids), *shape), kind)
        flat = values.reshape(len(ids), -1)
        places = (rows["id"] - np.uint64(ids.start)).astype(np.int64)
        for number, column in enumerate(columns):
            flat[places, number] = rows[column]
        if name == "ids":
            values[:] = np.arange(ids.start, ids.stop)  # readers check that row and id are the same
        attachments.write_rows(Path(self.group) / name, ids.start, values)


def largest_id(table: Path, dtype: np.dtype[Any], rows: Run) -> int:
    """Give the id of the last row; 0 if there is none."""
    ids = open_run(table, dtype, rows)["id"][-1:]
    return int(ids[0]) if len(ids) else 0
