"""Which segments lie under many points of a volume: looked up piece by piece, so that each piece is read once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from voxelworks.geometry import Box, Mag, Vec3
from voxelworks.workflows._runs import Run, write_run

_PIECES_PER_BLOCK = 64
"""Pieces that are looked at in one block: one file for each would be many for a large skeleton."""

Range = tuple[int, int]


class Volume(Protocol):
    """Labels in one magnification. Picklable."""

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def read(self, box: Box) -> NDArray[Any]:
        """Read a box, given in voxels of its mag, as (1, z, y, x)."""


def voxels_under(positions_xyz: NDArray[np.float64], mag: Mag) -> NDArray[np.int64]:
    """Give the voxels of a mag in which positions of mag 1 lie, (n, 3)."""
    return np.asarray(np.floor(positions_xyz / np.array(mag.xyz)), np.int64)


@dataclass(frozen=True)
class Points:
    """Points of a volume, sorted by the piece of it in which they lie, in a file."""

    file: str
    """Of an array (n, 3): voxels of the volume's mag, x, y, z."""
    order: NDArray[np.intp]
    """Which of the points that were given each of them is, (n,)."""
    ranges: tuple[Range, ...]
    """First and last + 1 of the points in each piece."""

    @classmethod
    def save(
        cls, voxels_xyz: NDArray[np.int64], file: Path, *, piece: Vec3, origin: Vec3 = (0, 0, 0)
    ) -> Points:
        """Sort points, and write them.

        Parameters
        ----------
        voxels_xyz : (n, 3)
            In voxels of the volume's mag.
        file
            To write.
        piece
            Voxels (x, y, z) that are looked at together.
        origin
            Where a piece begins.
        """
        pieces = (voxels_xyz - np.array(origin)) // np.array(piece)
        order = np.lexsort(pieces.T)
        pieces = pieces[order]
        starts = np.flatnonzero((np.diff(pieces, axis=0) != 0).any(axis=1)) + 1
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, voxels_xyz[order])
        ranges = tuple((a, b) for a, b in pairwise([0, *starts.tolist(), len(order)]) if b > a)
        return cls(str(file), order, ranges)

    @property
    def items(self) -> list[tuple[str, tuple[Range, ...]]]:
        """The blocks for `Job.process`."""
        starts = range(0, len(self.ranges), _PIECES_PER_BLOCK)
        batches = [self.ranges[start : start + _PIECES_PER_BLOCK] for start in starts]
        return [(f"points {batch[0][0]} to {batch[-1][1] - 1}", batch) for batch in batches]

    def labels(self, folder: Path, runs: Iterable[Run], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Read what blocks found, in the order in which the points were given, (n,)."""
        found = np.empty(len(self.order), dtype)
        parts = [np.empty(0, dtype), *(np.fromfile(folder / run.name, dtype) for run in runs)]
        found[self.order] = np.concatenate(parts)
        return found


@dataclass(frozen=True)
class LabelsUnder:
    """Look up the labels under the points of some pieces. Runs in the processes of the executor."""

    volume: Volume
    file: str
    """Of `Points`."""
    folder: str
    """For what is found."""

    def __call__(self, pieces: Sequence[Range]) -> Run:
        labels = np.concatenate([self._under(first, stop) for first, stop in pieces])
        return write_run(Path(self.folder), f"labels-{pieces[0][0]}", labels)

    def _under(self, first: int, stop: int) -> NDArray[Any]:
        positions = np.load(self.file, mmap_mode="r")[first:stop]
        low, high = positions.min(axis=0).tolist(), positions.max(axis=0).tolist()
        box = Box((low[0], low[1], low[2]), tuple(b - a + 1 for a, b in zip(low, high, strict=True)))
        x, y, z = (positions - np.array(low)).T
        return np.asarray(self.volume.read(box)[0, z, y, x])
