"""Whatever BioIO reads, if somebody has installed it here: for files that nothing of ours recognises.

BioIO (https://bioio-devs.github.io, BSD-3-Clause) finds its reader plugins by itself. They have licences of their own,
and some need Java, so none is ever installed with Voxelworks.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxelworks.errors import InvalidGeometry, UnsupportedFormat
from voxelworks.geometry import Box, VoxelSize, Zyx
from voxelworks.volumes.formats.parts import distinct, numbered, part_name
from voxelworks.volumes.formats.raw import require_extent
from voxelworks.volumes.formats.samples import Samples, checked
from voxelworks.volumes.formats.source import (
    ReadOptions,
    SourceBase,
    SourceFile,
    Volume,
    decoding,
    room_for,
)
from voxelworks.volumes.formats.units import unit_name

INSTALL = "pip install bioio bioio-bioformats"
"""Installs the plugin that reads most, in Java; lighter ones read single formats."""
_CHUNK_BYTES_MAX = 2**30
_WIDE_CHUNK = 512
_VOLUMES_MAX = 10_000
_reading = Lock()
"""An open image stands at one scene: threads take turns."""


@dataclass(frozen=True)
class BioIoSource(SourceBase):
    """One channel at one time of one scene; see `VolumeSource`. Voxels are asked for box by box."""

    file: SourceFile
    plugin: str
    scene: int
    time: int
    channel: int
    axes: str
    """What BioIO is asked for: ZYX, or SZYX for colours."""
    shape_zyx: Zyx
    dtype: np.dtype[Any]
    channel_count: int
    chunk_zyx: Zyx
    """What BioIO reads at once."""
    voxel_size: VoxelSize | None
    notes: tuple[str, ...]

    @property
    def voxel_size_from(self) -> str:
        return f"BioIO ({self.plugin})" if self.voxel_size else ""

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file.path,)

    @property
    def fingerprint(self) -> str:
        what = (self.file.name, self.file.size, self.file.mtime_ns, self.plugin)
        return str((*what, self.scene, self.time, self.channel))

    @property
    def has_random_access(self) -> bool:
        depth, height, width = self.chunk_zyx
        return depth > 1 or max(height, width) <= _WIDE_CHUNK

    @property
    def decoding_bytes(self) -> int:
        """Memory for a section, and for the chunks beside each other that it is cut from."""
        depth, *_ = self.chunk_zyx
        _, height, width = self.shape_zyx
        return 2 * (depth + 1) * height * width * self.channel_count * self.dtype.itemsize

    def read(self, box: Box, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read a box as (c, z, y, x); see `ImageSource.read`."""
        out = room_for(self, box, out)
        if box.is_empty:
            return out
        with self.file.open():
            pass  # it is there, and as long as it was
        with _reading, decoding(self.file):
            lazy = _scene(self.file, self.scene).get_image_dask_data(self.axes, T=self.time, C=self.channel)
            # In this thread: the executor of ours decides how much runs at once.
            found = np.asarray(lazy[(..., *box.slices_zyx)].compute(scheduler="synchronous"))
            out[:] = found.reshape(out.shape)
        return out


class BioIo:
    """A plugin of BioIO that takes a file: a `FileFormat`."""

    SUFFIXES: tuple[str, ...] = ()

    def __init__(self, plugin: str) -> None:
        self.plugin = plugin
        self.NAME = f"BioIO ({plugin})"

    def recognises(self, file: SourceFile, start: bytes) -> bool:  # noqa: ARG002
        return plugin_for(file) == self.plugin

    def open_volumes(self, file: SourceFile, options: ReadOptions) -> tuple[Volume, ...]:  # noqa: ARG002
        """Open all scenes, times and channels.

        Raises
        ------
        UnsupportedFormat, UnsupportedDtype
            If the plugin gives up, or reads in larger pieces than memory should hold.
        """
        with _reading, decoding(file):
            scene_names = [str(name) for name in _scene(file, 0).scenes]
            found = [
                volume
                for scene, name in enumerate(distinct(scene_names, "s"))
                for volume in self._volumes(file, scene, name)
            ]
        if not found:
            raise UnsupportedFormat(
                f"{file.name} holds no image that BioIO ({self.plugin}) finds; save it anew"
            )
        return tuple(found)

    def _volumes(self, file: SourceFile, scene: int, scene_name: str) -> Iterator[Volume]:
        image = _scene(file, scene)
        order = image.dims.order
        sizes = dict(zip(order, image.shape, strict=True))
        has_colours = sizes.get("S", 1) == 3 and image.dtype == np.uint8
        others = {axis: size for axis, size in sizes.items() if axis not in "TCZYX" and size > 1}
        if others and not (has_colours and set(others) == {"S"}):
            stated = " x ".join(f"{axis} {size}" for axis, size in sizes.items())
            raise UnsupportedFormat(
                f"{file.name} has axes that are not known ({stated}); save the image you need as OME-TIFF"
            )
        times, channels = sizes.get("T", 1), sizes.get("C", 1)
        if times * channels > _VOLUMES_MAX:
            raise UnsupportedFormat(f"{file.name} holds {times * channels} volumes; save those you need")
        shape_zyx = (sizes.get("Z", 1), sizes["Y"], sizes["X"])
        require_extent(file, shape_zyx)
        samples = checked(file.name, Samples(np.dtype(image.dtype), 3 if has_colours else 1))
        axes = "SZYX" if has_colours else "ZYX"
        chunk_zyx = self._chunk(file, image, axes, samples)
        size, note = _voxel_size(image)
        names = distinct([str(name) for name in image.channel_names or [""] * channels], "c")
        if len(names) != channels:
            names = numbered("c", channels)
        for t, time in enumerate(numbered("t", times)):
            for c, channel in enumerate(names):
                yield Volume(
                    part_name(scene_name, time, channel),
                    BioIoSource(
                        file, self.plugin, scene, t, c, axes, shape_zyx, samples.form(1, 1).dtype,
                        samples.channel_count, chunk_zyx, size, note,
                    ),
                )  # fmt: skip

    def _chunk(self, file: SourceFile, image: Any, axes: str, samples: Samples) -> Zyx:
        lazy = image.get_image_dask_data(axes, T=0, C=0)
        depth, height, width = lazy.chunksize[-3:]
        nbytes = math.prod((depth, height, width)) * samples.pixel_bytes
        if nbytes > _CHUNK_BYTES_MAX:
            raise UnsupportedFormat(
                f"{file.name} would be read by BioIO ({self.plugin}) in pieces of {nbytes} bytes; convert it to "
                "OME-TIFF first, for example with bfconvert"
            )
        return depth, height, width


def found(file: SourceFile) -> BioIo | None:
    """Give the plugin of BioIO that takes a file; None if there is none, or no BioIO."""
    plugin = plugin_for(file)
    return BioIo(plugin) if plugin is not None else None


def is_installed() -> bool:
    return importlib.util.find_spec("bioio") is not None


@lru_cache(maxsize=256)
def plugin_for(file: SourceFile) -> str | None:
    """Tell which plugin takes a file: those that know its suffix are asked."""
    if not is_installed():
        return None
    from bioio import BioImage

    try:
        return str(BioImage.determine_plugin(file.path, use_plugin_cache=True).entrypoint.name)
    except Exception:
        # Plugins raise almost anything, also when their own libraries are broken: then nobody takes the file.
        return None


@lru_cache(maxsize=4)
def _scene(file: SourceFile, scene: int) -> Any:
    """Open an image for this process, at a scene. Plugins may start Java, which must not happen for each block."""
    from bioio import BioImage

    try:
        # By sections where the plugin lets us: by default a piece is a whole stack.
        image = BioImage(file.path, chunk_dims=["Y", "X"], use_plugin_cache=True)
    except TypeError:
        image = BioImage(file.path, use_plugin_cache=True)
    if scene:
        image.set_scene(scene)
    return image


def _voxel_size(image: Any) -> tuple[VoxelSize | None, tuple[str, ...]]:
    """Give the voxel size, and notes. BioIO passes on numbers; only some plugins name their units."""
    sizes = image.physical_pixel_sizes
    stated = {axis: getattr(sizes, axis, None) for axis in "XYZ"}
    if not any(stated.values()):
        return None, ()
    properties = image.dimension_properties
    units = {
        axis: unit_name(str(getattr(getattr(properties, axis, None), "unit", None) or "")) for axis in "XYZ"
    }
    text = ", ".join(f"{axis.lower()}: {stated[axis] or '-'} {units[axis]}".strip() for axis in "XYZ")
    try:
        x, y, z = (VoxelSize.in_unit(float(stated[axis] or 0), 1, 1, units[axis]).x for axis in "XYZ")
        return VoxelSize(x, y, z), ()
    except InvalidGeometry:
        return None, (f"BioIO states {text}, which is no voxel size: a number or unit is missing",)
