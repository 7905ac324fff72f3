"""A zip that files are laid into, one group after the other: an attempt goes on after the last group that is in it."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from voxelworks.volumes import zip_writer
from voxelworks.volumes.zip_writer import Entry
from voxelworks.workflows._planes import Placed, copy_bytes, is_placed, write_at

if TYPE_CHECKING:
    from voxelworks.workflows._job import Job


@dataclass(frozen=True)
class StoredFile:
    """A file that becomes an entry of the archive."""

    name: str
    size: int
    crc: int

    @classmethod
    def of(cls, folder: Path, name: str) -> StoredFile:
        size = crc = 0
        with (folder / name).open("rb") as stream:
            while data := stream.read(2**22):
                size, crc = size + len(data), zlib.crc32(data, crc)
        return cls(name, size, crc)


class Archive:
    """Lays files into the zip. They are not compressed: what needs it, is already."""

    def __init__(self, job: Job, path: Path, folder: Path) -> None:
        self._job = job
        self._path = path
        self.folder = folder
        """Names of files are those below it."""
        self._entries: list[Entry] = []
        self._end = 0

    @classmethod
    def begin(cls, job: Job, path: Path) -> Archive:
        """Begin the zip at `path`; its files are made in the scratch folder, which is empty then."""
        folder = job.folder.scratch
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return cls(job, path, folder)

    def has(self, group: str) -> bool:
        """Tell whether an earlier attempt has laid a group into the zip: its files are needed no more."""
        return self._job.is_finished(
            f"writing {group}",
            [(group, None)],
            result_type=Placed,
            is_intact=partial(is_placed, self._path),
        )

    def place(self, group: str, files: Sequence[StoredFile]) -> tuple[Entry, ...]:
        """Lay a group of files into the zip, after those that are in it; give its entries.

        If it `has` the group, these are the ones that are there, whatever the files.
        """
        [placed] = self._job.process(
            f"writing {group}", [(group, None)], PlaceFiles(str(self._path), self._end, str(self.folder), tuple(files)),
            units=0, memory_bytes_per_item=0, result_type=Placed, is_intact=partial(is_placed, self._path),
            noun="parts",
        )  # fmt: skip
        self._entries += placed.entries
        self._end = placed.end
        return placed.entries

    def close(self) -> None:
        """Write the list of entries at the end."""
        with self._path.open("r+b") as stream:
            stream.truncate(self._end)
            write_at(stream.fileno(), zip_writer.directory(self._entries, self._end), self._end)


@dataclass(frozen=True)
class PlaceFiles:
    """Lay files into the archive. Runs in a process of the executor."""

    target: str
    start: int
    folder: str
    files: tuple[StoredFile, ...]

    def __call__(self, _: None) -> Placed:
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
