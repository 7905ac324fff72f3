"""Decode sections once: images that can only be decoded whole are laid down as raw voxels, a slab at a time.

A block of 512 x 512 x 512 voxels needs a part of 512 sections. PNG, JPEG and most compressed TIFF sections can only be
decoded whole, so cutting blocks from wide sections directly would decode each section once for every block it
touches. The slab of sections below one layer of blocks is decoded once into a scratch file instead; the cost stays
linear in the voxels, and the disk needed is one slab.

An array that is packed in one piece (`.nii.gz`) is unpacked once as a whole; the disk needed is the array.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from voxelworks.geometry import Box
from voxelworks.volumes.formats import VolumeSource
from voxelworks.volumes.formats.packed import PackedSource


@dataclass(frozen=True)
class StagedSlab:
    """Sections `first_z` to `first_z + depth` of a source as raw voxels (z, c, y, x) in a file."""

    path: str
    first_z: int
    depth: int
    channel_count: int
    height: int
    width: int
    dtype: str

    @classmethod
    def of(cls, source: VolumeSource, folder: Path, layer_name: str, slab_box: Box) -> StagedSlab:
        """Describe the slab for some sections of a source; `allocate` makes its file below `folder`."""
        _, height, width = source.shape_zyx
        first_z, depth = slab_box.topleft[2], slab_box.size[2]
        path = folder / f"{layer_name}-{first_z}.raw"
        return cls(str(path), first_z, depth, source.channel_count, height, width, source.dtype.str)

    @property
    def section_bytes(self) -> int:
        return self.channel_count * self.height * self.width * np.dtype(self.dtype).itemsize

    def allocate(self) -> None:
        """Make the file, of full size; its disk is used as sections are written."""
        Path(self.path).parent.mkdir(exist_ok=True)
        with open(self.path, "wb") as stream:
            stream.truncate(self.depth * self.section_bytes)

    def write_section(self, z: int, section: NDArray[np.generic]) -> None:
        """Write section `z` of the source, (c, y, x)."""
        data = np.ascontiguousarray(section, dtype=self.dtype)
        with open(self.path, "r+b", buffering=0) as stream:
            view, offset = data.data.cast("B"), (z - self.first_z) * self.section_bytes
            while view:
                written = os.pwrite(stream.fileno(), view, offset)
                view, offset = view[written:], offset + written

    def read(self, box: Box) -> NDArray[np.generic]:
        """Read a box in voxels of the source as (c, z, y, x)."""
        shape = (self.depth, self.channel_count, self.height, self.width)
        voxels = np.memmap(self.path, dtype=self.dtype, mode="r", shape=shape)
        z, y, x = box.moved((0, 0, -self.first_z)).slices_zyx
        return np.ascontiguousarray(voxels[z, :, y, x].transpose(1, 0, 2, 3))


@dataclass(frozen=True)
class StageSection:
    """Decode one section into a slab. Runs in the processes of the executor."""

    source: VolumeSource
    slab: StagedSlab

    def __call__(self, z: int) -> None:
        self.slab.write_section(z, self.source.read_section(z))


@dataclass(frozen=True)
class Unpack:
    """Unpack an array to a file. Runs in a process of the executor."""

    source: PackedSource

    def __call__(self, path: str) -> None:
        self.source.unpack(Path(path))
