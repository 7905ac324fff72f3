"""Write an OME-Zarr image into an archive: its metadata first, then the shards or chunks of each magnification."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from voxelworks.geometry import MAG1, Box, Vec3, VoxelSize
from voxelworks.volumes.arrays import ZARR2_CHUNK, MagArray, create_mag_array, create_zarr2_array
from voxelworks.volumes.metadata import GROUP_FILE, Category, OmeVersion, ome_image, ome_labels
from voxelworks.volumes.shards import CHUNK
from voxelworks.volumes.zip_writer import Entry
from voxelworks.workflows._archive import Archive, StoredFile
from voxelworks.workflows._planes import LayerArray

if TYPE_CHECKING:
    from voxelworks.workflows._job import Job

BATCH_BYTES = 1024 * 2**20
"""Shards of about this size, uncompressed, lie beside the file before they are laid into it."""
SHARD_EDGE_MAX = 512


@dataclass(frozen=True)
class Level:
    """A magnification that is exported."""

    source: LayerArray
    box: Box
    """In voxels of its mag."""
    shard_edge: int
    """Of what is written in one step: a shard, or with 0.4 a cube of chunks."""

    @classmethod
    def of(cls, source: LayerArray, box: Box, shard_bytes_max: int, version: OmeVersion) -> Level:
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


@dataclass(frozen=True)
class Image:
    """An image to write."""

    name: str
    category: Category
    voxel_size: VoxelSize
    """Of mag 1."""
    levels: Sequence[Level]
    version: OmeVersion
    folder: str = ""
    """Where it lies in the archive; by default it is all of that."""
    title: str = ""
    """Stands before the names of the phases, where a job writes several images."""
    labels: tuple[str, ...] = ()
    """Names of images of labels that lie in its folder `labels`."""
    is_label: bool = False
    """Whether it is one of them."""

    @property
    def units(self) -> int:
        """The work of writing it, as `Job.expect` counts it."""
        return sum(level.box.voxel_count for level in self.levels)

    @property
    def bytes_max(self) -> int:
        """How large it may become, with what lies beside the archive meanwhile."""
        return sum(level.raw_bytes for level in self.levels) * 101 // 100 + BATCH_BYTES + 2**20

    def require_memory(self, job: Job) -> None:
        for level in self.levels:
            job.require_memory(3 * level.shard_bytes)

    def write(self, job: Job, archive: Archive) -> tuple[Entry, ...]:
        """Write it into an archive; give the entries that hold voxels. The job expects its `units` already."""
        root = archive.folder / self.folder
        root.mkdir(parents=True, exist_ok=True)
        arrays = [self._create(root, level) for level in self.levels]
        metadata = [StoredFile.of(archive.folder, self._inside(name)) for name in self._metadata(root)]
        archive.place(f"{self.title}metadata", metadata)
        return tuple(
            entry
            for level, array in zip(self.levels, arrays, strict=True)
            for number, batch in enumerate(level.batches(), start=1)
            for entry in self._write_batch(job, archive, level, array, number, batch)
        )

    def _create(self, root: Path, level: Level) -> MagArray:
        source, edge = level.source, level.shard_edge
        folder = root / str(source.mag)
        if self.version == "0.4":
            return create_zarr2_array(
                folder, mag=MAG1, box=Box((0, 0, 0), level.box.size), dtype=source.dtype,
                channel_count=source.channel_count, category=self.category,
            )  # fmt: skip
        return create_mag_array(
            folder, mag=MAG1, layer_box=Box((0, 0, 0), level.box.size), dtype=source.dtype,
            channel_count=source.channel_count, shard_zyx=(edge, edge, edge), category=self.category,
        )  # fmt: skip

    def _metadata(self, root: Path) -> list[str]:
        levels = [(level.source.mag, str(level.source.mag), level.box.topleft) for level in self.levels]
        files = ome_image(self.name, self.voxel_size, levels, self.version, is_label=self.is_label)
        if self.labels:
            (root / "labels").mkdir(exist_ok=True)
            listing = ome_labels(self.labels, self.version)
            files |= {f"labels/{name}": content for name, content in listing.items()}
        for name, content in files.items():
            (root / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        of_array = ".zarray" if self.version == "0.4" else GROUP_FILE
        return [*files, *(f"{level.source.mag}/{of_array}" for level in self.levels)]

    def _write_batch(
        self, job: Job, archive: Archive, level: Level, array: MagArray, number: int, batch: tuple[Box, ...]
    ) -> tuple[Entry, ...]:
        phase = f"{self.title}mag {level.source.mag}, part {number}"
        units = sum(shard.voxel_count for shard in batch)
        if archive.has(phase):
            job.skip(units)
            return archive.place(phase, [])
        written = job.process(
            phase, [(str(shard), shard) for shard in batch],
            WriteShard(level.source, array, level.box.topleft, str(archive.folder)), units=units,
            memory_bytes_per_item=3 * level.shard_bytes, result_type=list[StoredFile], is_resumable=False,
        )  # fmt: skip
        files = [file for found in written for file in found]
        entries = archive.place(phase, files)
        for file in files:
            (archive.folder / file.name).unlink()
        return entries

    def _inside(self, name: str) -> str:
        return f"{self.folder}/{name}" if self.folder else name


@dataclass(frozen=True)
class WriteShard:
    """Copy a shard of the exported array from the layer. Runs in the processes of the executor."""

    source: LayerArray
    target: MagArray
    start: Vec3
    """Where the exported array begins in the layer, in voxels of its mag (x, y, z)."""
    folder: str

    def __call__(self, box: Box) -> list[StoredFile]:
        self.target.write(box, self.source.read(box.moved(self.start)))
        root, array = Path(self.folder), Path(self.target.location)
        return [
            StoredFile.of(root, (array / name).relative_to(root).as_posix())
            for name in self.target.shard_files(box)
        ]
