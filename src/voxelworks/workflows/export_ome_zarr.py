"""Export a box of a layer as OME-Zarr, packed into one zip."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import model_validator

from voxelworks.errors import InvalidParams
from voxelworks.geometry import MAG1, Box
from voxelworks.volumes.metadata import GROUP_FILE, OmeVersion, ome_image
from voxelworks.workflows import (
    ADVANCED,
    FREE,
    Artifact,
    Inputs,
    Job,
    LayerMag,
    LayerRef,
    Mag,
    NewFileRef,
    Params,
    box_bytes,
    workflow,
)
from voxelworks.workflows.export_tiff import export_box, export_name

if TYPE_CHECKING:
    from voxelworks.volumes.arrays import MagArray
    from voxelworks.volumes.dataset import Layer
    from voxelworks.workflows._planes import Placed

SUFFIX = ".ome.zarr.zip"
BATCH_BYTES = 1024 * 2**20
"""Shards of about this size, uncompressed, lie beside the file before they are laid into it."""
SHARD_EDGE_MAX = 512


class ExportOmeZarrParams(Params):
    """What to export."""

    layer: LayerRef
    """Layer to export."""

    box: Box | None = None
    """Box to export, `x,y,z,width,height,depth` in voxels of mag 1; by default the whole layer."""

    mag: LayerMag | None = None
    """First magnification to export; by default the finest."""

    coarsest_mag: Mag | None = None
    """Last magnification to export; by default the coarsest that the layer has."""

    ome_version: OmeVersion = "0.5"
    """Version of OME-Zarr: `0.5` has few and large files, `0.4` is read by older programs too."""

    file: Annotated[NewFileRef | None, ADVANCED] = None
    """Name of the file; by default after dataset, layer and mag."""

    @model_validator(mode="after")
    def _is_named_as_it_is(self) -> Self:
        if self.file is not None and not self.file.lower().endswith(".zip"):
            raise InvalidParams(f"the file is a zip, and its name ends in .zip, not like {str(self.file)!r}")
        return self


class ExportedOmeZarr(Artifact):
    """A box of a layer was exported."""

    dataset: str
    """Name of the dataset."""
    layer: str
    """The layer."""
    mags: tuple[str, ...]
    """Its magnifications, finest first."""
    size: str
    """Exported voxels of the finest, x,y,z."""


def _file_name(params: ExportOmeZarrParams) -> str:
    return params.file or export_name(params.layer, params.mag, SUFFIX)


def _result_bytes(params: ExportOmeZarrParams, inputs: Inputs) -> int:
    """Estimate the finest voxels without compression, and a seventh more for coarser ones."""
    return box_bytes(inputs.layer(params.layer), params.box, params.mag) * 8 // 7


@workflow(
    version=1,
    cost=FREE,
    priority_class="short",
    result_bytes=_result_bytes,
    file_name=_file_name,
    example={"layer": "demo/color", "box": "0,0,0,100,100,20"},
)
def export_ome_zarr(params: ExportOmeZarrParams, job: Job) -> ExportedOmeZarr:
    """Export a box of a layer as OME-Zarr 0.5 or 0.4, for napari, Fiji, Neuroglancer and Python.

    The zip holds one image with the magnifications of the layer, each cut to the box, and where it lies in the dataset.
    Nothing in it is compressed twice: programs read the zip as it is, or unpack it first.
    """
    layer = job.open(params.layer)
    mags = _chosen_mags(params, layer)
    levels = [
        _Level.of(
            source, export_box(layer, params.box, source), job.settings.shard_bytes_max, params.ome_version
        )
        for source in (layer.mag(mag) for mag in mags)
    ]
    raw_bytes = sum(level.raw_bytes for level in levels)
    path = job.start_artifact(
        media_type="application/zip", size_bytes=raw_bytes * 101 // 100 + BATCH_BYTES + 2**20,
        inputs=[str(level.source) for level in levels],
    )  # fmt: skip
    _Archive(job, layer, levels, params.ome_version, path).write()
    return ExportedOmeZarr(
        file=str(_file_name(params)), dataset=str(params.layer.dataset), layer=layer.name,
        mags=tuple(map(str, mags)), size=",".join(map(str, levels[0].box.size)),
    )  # fmt: skip


def _chosen_mags(params: ExportOmeZarrParams, layer: Layer) -> list[Mag]:
    first = layer.finest.mag if params.mag is None else layer.mag(params.mag).mag
    last = params.coarsest_mag
    chosen = [mag for mag in layer.mags if _is_within(first, mag) and (last is None or _is_within(mag, last))]
    if not chosen:
        have = ", ".join(map(str, layer.mags))
        raise InvalidParams(f"layer {layer.name!r} has no mag from {first} to {last}; it has {have}")
    return chosen


def _is_within(finer: Mag, coarser: Mag) -> bool:
    return all(a <= b for a, b in zip(finer.xyz, coarser.xyz, strict=True))


@dataclass(frozen=True)
class _Level:
    """A magnification that is exported."""

    source: MagArray
    box: Box
    """In voxels of its mag."""
    shard_edge: int
    """Of what is written in one step: a shard, or with 0.4 a cube of chunks."""

    @classmethod
    def of(cls, source: MagArray, box: Box, shard_bytes_max: int, version: OmeVersion) -> _Level:
        from voxelworks.volumes.arrays import ZARR2_CHUNK
        from voxelworks.volumes.shards import CHUNK

        edge = ZARR2_CHUNK if version == "0.4" else CHUNK
        voxel_bytes = source.channel_count * source.dtype.itemsize
        while edge < min(max(box.size), SHARD_EDGE_MAX) and (2 * edge) ** 3 * voxel_bytes <= shard_bytes_max:
            edge *= 2
        return cls(source, box, edge)

    @property
    def raw_bytes(self) -> int:
        return self.box.voxel_count * self.source.channel_count * self.source.dtype.itemsize

    @property
    def shard_bytes(self) -> int:
        return self.shard_edge**3 * self.source.channel_count * self.source.dtype.itemsize

    def batches(self) -> Iterator[tuple[Box, ...]]:
        """Give shards, in voxels of the exported array, in groups."""
        edge = self.shard_edge
        shards = list(Box((0, 0, 0), self.box.size).tiles((edge, edge, edge)))
        count = max(1, BATCH_BYTES // self.shard_bytes)
        for first in range(0, len(shards), count):
            yield tuple(shards[first : first + count])


class _Archive:
    """Writes the file: the metadata first, then the shards or chunks of each magnification."""

    def __init__(
        self, job: Job, layer: Layer, levels: Sequence[_Level], version: OmeVersion, path: Path
    ) -> None:
        self._job = job
        self._layer = layer
        self._levels = levels
        self._version = version
        self._path = path
        self._folder = job.folder.scratch

    def write(self) -> None:
        from voxelworks.volumes import zip_writer
        from voxelworks.workflows._planes import write_at

        for level in self._levels:
            self._job.require_memory(3 * level.shard_bytes)
        self._job.expect(sum(level.box.voxel_count for level in self._levels))
        shutil.rmtree(self._folder, ignore_errors=True)
        arrays = [self._create(level) for level in self._levels]
        placed = self._place("metadata", 0, [_StoredFile.of(self._folder, name) for name in self._metadata()])
        entries = [*placed.entries]
        for level, array in zip(self._levels, arrays, strict=True):
            for number, batch in enumerate(level.batches(), start=1):
                placed = self._write_batch(level, array, number, batch, placed.end)
                entries += placed.entries
        with self._path.open("r+b") as stream:
            stream.truncate(placed.end)
            write_at(stream.fileno(), zip_writer.directory(entries, placed.end), placed.end)

    def _create(self, level: _Level) -> MagArray:
        from voxelworks.volumes.arrays import create_mag_array, create_zarr2_array

        source, edge = level.source, level.shard_edge
        folder = self._folder / str(source.mag)
        if self._version == "0.4":
            return create_zarr2_array(
                folder, mag=MAG1, box=Box((0, 0, 0), level.box.size), dtype=source.dtype,
                channel_count=source.channel_count, category=self._layer.category,
            )  # fmt: skip
        return create_mag_array(
            folder, mag=MAG1, layer_box=Box((0, 0, 0), level.box.size), dtype=source.dtype,
            channel_count=source.channel_count, shard_zyx=(edge, edge, edge), category=self._layer.category,
        )  # fmt: skip

    def _metadata(self) -> list[str]:
        levels = [(level.source.mag, str(level.source.mag), level.box.topleft) for level in self._levels]
        files = ome_image(self._layer.name, self._layer.voxel_size, levels, self._version)
        for name, content in files.items():
            (self._folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        of_array = ".zarray" if self._version == "0.4" else GROUP_FILE
        return [*files, *(f"{level.source.mag}/{of_array}" for level in self._levels)]

    def _write_batch(
        self, level: _Level, array: MagArray, number: int, batch: tuple[Box, ...], start: int
    ) -> Placed:
        from voxelworks.workflows._planes import Placed, is_placed

        phase = f"mag {level.source.mag}, part {number}"
        units = sum(shard.voxel_count for shard in batch)
        is_there = partial(is_placed, self._path)
        if self._job.is_finished(f"writing {phase}", [(phase, None)], result_type=Placed, is_intact=is_there):
            self._job.skip(units)
            return self._place(phase, start, [])
        written = self._job.process(
            phase, [(str(shard), shard) for shard in batch],
            WriteShard(level.source, array, level.box.topleft, str(self._folder)), units=units,
            memory_bytes_per_item=3 * level.shard_bytes, result_type=list[_StoredFile], is_resumable=False,
        )  # fmt: skip
        files = [file for found in written for file in found]
        placed = self._place(phase, start, files)
        for file in files:
            (self._folder / file.name).unlink()
        return placed

    def _place(self, phase: str, start: int, files: Sequence[_StoredFile]) -> Placed:
        from voxelworks.workflows._planes import Placed, is_placed

        [placed] = self._job.process(
            f"writing {phase}", [(phase, None)], PlaceFiles(str(self._path), start, str(self._folder), tuple(files)),
            units=0, memory_bytes_per_item=0, result_type=Placed, is_intact=partial(is_placed, self._path),
            noun="parts",
        )  # fmt: skip
        return placed


@dataclass(frozen=True)
class _StoredFile:
    """A file that becomes an entry of the archive."""

    name: str
    size: int
    crc: int

    @classmethod
    def of(cls, folder: Path, name: str) -> _StoredFile:
        size = crc = 0
        with (folder / name).open("rb") as stream:
            while data := stream.read(2**22):
                size, crc = size + len(data), zlib.crc32(data, crc)
        return cls(name, size, crc)


@dataclass(frozen=True)
class WriteShard:
    """Copy a shard of the exported array from the layer. Runs in the processes of the executor."""

    source: MagArray
    target: MagArray
    start: tuple[int, int, int]
    """Where the exported array begins in the layer, in voxels of its mag (x, y, z)."""
    folder: str

    def __call__(self, box: Box) -> list[_StoredFile]:
        self.target.write(box, self.source.read(box.moved(self.start)))
        array = Path(self.target.location)
        return [
            _StoredFile.of(Path(self.folder), f"{array.name}/{name}") for name in self.target.shard_files(box)
        ]


@dataclass(frozen=True)
class PlaceFiles:
    """Lay files into the archive. Runs in a process of the executor."""

    target: str
    start: int
    folder: str
    files: tuple[_StoredFile, ...]

    def __call__(self, _: None) -> Placed:
        from voxelworks.volumes.zip_writer import Entry
        from voxelworks.workflows._planes import Placed, copy_bytes, write_at

        entries: list[Entry] = []
        offset = self.start
        target = os.open(self.target, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            os.ftruncate(target, offset)  # what an attempt has left that was stopped
            for file in self.files:
                entry = Entry(file.name, offset, file.size, file.crc)
                entries.append(entry)
                write_at(target, entry.header, offset)
                with (Path(self.folder) / file.name).open("rb") as stream:
                    copy_bytes(stream.fileno(), target, file.size, 0, offset + len(entry.header))
                offset = entry.end
            os.fsync(target)
        finally:
            os.close(target)
        return Placed(offset, tuple(entries))
