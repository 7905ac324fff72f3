"""HDF5: every dataset of numbers with three axes, such as those of ilastik, PlantSeg, CREMI, NeXus and MATLAB 7.3.

Only what lies in the file itself is read: links to other files, storage outside and virtual datasets could lead
anywhere on the machine.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from voxelworks.errors import InvalidGeometry, UnsupportedDtype, UnsupportedFormat, VoxelworksError
from voxelworks.geometry import Box, VoxelSize, Zyx
from voxelworks.volumes.formats.raw import require_extent
from voxelworks.volumes.formats.samples import Samples, checked, is_bomb
from voxelworks.volumes.formats.source import (
    ReadOptions,
    SourceBase,
    SourceFile,
    Volume,
    listed,
    readable,
    room_for,
)

NAME = "HDF5"
SUFFIXES: tuple[str, ...] = (".h5", ".hdf5", ".hdf", ".nxs", ".hspy", ".emd", ".mat")
SIGNATURE = b"\x89HDF\r\n\x1a\n"
_MATLAB_SIGNATURE = b"MATLAB 7.3"
_OBJECTS_MAX = 100_000
_CHANNELS_MAX = 16
_CHUNK_BYTES_MAX = 2**30
_WIDE_CHUNK = 512
_LABELS = {"label", "labels", "segmentation", "instances", "neuron_ids"}


@dataclass(frozen=True)
class Hdf5Source(SourceBase):
    """A dataset of an HDF5 file, or one channel of it; see `VolumeSource`. The file is opened for each read."""

    file: SourceFile
    path: str
    """Of the dataset."""
    axes: str
    """What each axis of the dataset is: `z`, `y`, `x`, or the place of a fixed number, as `-`."""
    fixed: tuple[int, ...]
    """Numbers along the axes `-`."""
    shape_zyx: Zyx
    dtype: np.dtype[Any]
    stored: np.dtype[Any]
    """What the stored bits are."""
    has_random_access: bool
    chunk_bytes: int
    voxel_size: VoxelSize | None = None
    voxel_size_from: str = ""
    notes: tuple[str, ...] = ()
    described_by: tuple[SourceFile, ...] = ()
    channel_count = 1

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file.path, *(file.path for file in self.described_by))

    @property
    def fingerprint(self) -> str:
        """A text that changes when a file is renamed or written to, or is read in another way."""
        files = [(file.name, file.size, file.mtime_ns) for file in (self.file, *self.described_by)]
        what = (self.path, self.axes, self.fixed, self.shape_zyx, self.dtype.str, files)
        return hashlib.sha256(str(what).encode()).hexdigest()

    @property
    def decoding_bytes(self) -> int:
        _, height, width = self.shape_zyx
        return 2 * height * width * max(self.stored.itemsize, self.dtype.itemsize) + 2 * self.chunk_bytes

    def read(self, box: Box, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read a box as (c, z, y, x); see `ImageSource.read`."""
        out = room_for(self, box, out)
        if box.is_empty:
            return out
        parts = dict(zip("zyx", box.slices_zyx, strict=True))
        fixed = iter(self.fixed)
        selection = tuple(next(fixed) if axis == "-" else parts[axis] for axis in self.axes)
        with opened(self.file) as root:
            stored = dataset_at(root, self.file, self.path)[selection].view(self.stored)
        kept = self.axes.replace("-", "")
        ordered = stored.transpose([kept.index(axis) for axis in "zyx" if axis in kept])
        out[0] = ordered if len(kept) == 3 else ordered[None]
        return out


def recognises(file: SourceFile, start: bytes) -> bool:
    return start.startswith((SIGNATURE, _MATLAB_SIGNATURE))


def open_volumes(file: SourceFile, options: ReadOptions) -> tuple[Volume, ...]:
    """Open all datasets that can be volumes; images with two axes only if there is nothing else.

    Raises
    ------
    UnsupportedFormat, UnsupportedDtype
        Naming the file and what is wrong, also if there is no volume in it.
    """
    skipped: list[str] = []
    by_rank: dict[bool, list[Volume]] = {True: [], False: []}
    with opened(file) as root:
        for path, dataset in _datasets(root, skipped):
            if dataset.ndim < 2 or dataset.dtype.kind not in "biufc":
                continue
            try:
                volumes = _volumes(file, path, dataset)
            except (UnsupportedFormat, UnsupportedDtype) as error:
                skipped.append(error.message)
                continue
            by_rank[dataset.ndim > 2] += volumes
    found = by_rank[True] or by_rank[False]
    if not found:
        reasons = f": {listed(skipped, 3)}" if skipped else ""
        raise UnsupportedFormat(f"{file.name} holds no volume{reasons or '; it has no dataset of numbers'}")
    first, *rest = found
    if skipped:
        note = f"ignored in {file.name}: {listed(skipped, 5)}"
        assert isinstance(first.source, Hdf5Source)
        first = replace(first, source=replace(first.source, notes=(*first.source.notes, note)))
    return first, *rest


@contextmanager
def opened(file: SourceFile) -> Iterator[Any]:
    """Open a file for reading; what HDF5 finds wrong with it becomes our error."""
    with file.open():
        pass  # it is there, and as long as it was
    try:
        with h5py.File(file.path, "r", locking=False) as root:
            yield root
    except VoxelworksError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        # A damaged file sends HDF5 to places that no file has.
        if isinstance(error, OSError) and error.errno not in (
            None,
            errno.EINVAL,
            errno.EFBIG,
            errno.EOVERFLOW,
        ):
            with readable(file.path):
                raise
        problem = "is cut short" if "truncated" in str(error) else f"cannot be decoded: {error}"
        raise UnsupportedFormat(f"{file.name} {problem}; copy it again or save it anew") from error


def source_of(
    file: SourceFile, path: str, dataset: Any, axes: str, fixed: tuple[int, ...] = ()
) -> Hdf5Source:
    """Describe a dataset, or a channel of it, as a volume.

    Raises
    ------
    UnsupportedFormat, UnsupportedDtype
        If it lies outside of the file, is packed in an unknown way, or cannot be as large as it says.
    """
    name = f"{path} of {file.name}"
    if dataset.is_virtual or dataset.external:
        raise UnsupportedFormat(f"{name} lies in other files; copy it into one file")
    extents = {axis: extent for axis, extent in zip(axes, dataset.shape, strict=True) if axis != "-"}
    shape_zyx = (extents.get("z", 1), extents["y"], extents["x"])
    require_extent(file, shape_zyx)
    samples = checked(name, Samples(dataset.dtype, 1))
    _check_storage(file, name, dataset)
    return Hdf5Source(
        file, path, axes, fixed, shape_zyx, samples.form(1, 1).dtype, dataset.dtype,
        has_random_access=_has_random_access(dataset, axes), chunk_bytes=_chunk_bytes(dataset),
    )  # fmt: skip


def group_at(root: Any, file: SourceFile, path: str) -> Any:
    """Give a group; `UnsupportedFormat` if it is not there, or elsewhere."""
    return _item_at(root, file, path, h5py.Group)


def dataset_at(root: Any, file: SourceFile, path: str) -> Any:
    """Give a dataset; `UnsupportedFormat` if it is not there, or elsewhere."""
    return _item_at(root, file, path, h5py.Dataset)


def _item_at(root: Any, file: SourceFile, path: str, kind: type) -> Any:
    item = root
    for name in path.split("/"):
        # Other links than hard ones may lead out of the file.
        if not (isinstance(item, h5py.Group) and isinstance(item.get(name, getlink=True), h5py.HardLink)):
            raise UnsupportedFormat(f"{file.name} has no {path}; it is damaged, save it anew")
        item = item[name]
    if not isinstance(item, kind):
        raise UnsupportedFormat(f"{file.name} has something else at {path}; it is damaged, save it anew")
    return item


def _datasets(root: Any, skipped: list[str]) -> Iterator[tuple[str, Any]]:
    """Give all datasets that hard links lead to, each once, in the order of their names."""
    seen: set[Any] = set()
    waiting: list[tuple[str, Any]] = [("", root)]
    while waiting:
        prefix, group = waiting.pop()
        below: list[tuple[str, Any]] = []
        for name in sorted(name for name in group if isinstance(name, str)):
            path = f"{prefix}{name}"
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                skipped.append(f"{path}, a link to another file")
            if not isinstance(link, h5py.HardLink) or name.startswith("#"):
                continue
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            if len(seen) > _OBJECTS_MAX:
                raise UnsupportedFormat(
                    f"{root.filename} has more than {_OBJECTS_MAX} objects; copy the volume into a file of its own"
                )
            if isinstance(item, h5py.Dataset):
                yield path, item
            elif isinstance(item, h5py.Group):
                below.append((f"{path}/", item))
        waiting += reversed(below)


def _volumes(file: SourceFile, path: str, dataset: Any) -> list[Volume]:
    axes = _axes(f"{path} of {file.name}", dataset)
    size, size_from, notes = _voxel_size(dataset, axes)
    is_label = dataset.dtype.kind in "iu" and path.rpartition("/")[2].lower() in _LABELS
    category: Literal["segmentation"] | None = "segmentation" if is_label else None
    channel_axis = axes.find("c")
    count = dataset.shape[channel_axis] if channel_axis >= 0 else 1
    volumes = []
    for channel in range(count):
        fixed = tuple(channel if axis == "c" else 0 for axis in axes if axis not in "zyx")
        source = source_of(
            file, path, dataset, "".join(axis if axis in "zyx" else "-" for axis in axes), fixed
        )
        source = replace(source, voxel_size=size, voxel_size_from=size_from, notes=notes)
        name = path if count == 1 else f"{path}/channel-{channel + 1}"
        volumes.append(Volume(name, source, category))
    return volumes


def _axes(name: str, dataset: Any) -> str:
    """Tell what the axes are: those of space, `c` for channels, `-` for what has one place only.

    By what the file says (vigra's axis tags, labels of dimensions, MATLAB); else z, y, x, channels before or after.
    """
    shape = dataset.shape
    stated = _stated_axes(dataset)
    if stated is not None:
        axes = "".join(
            axis if axis in "zyxc" else "-" if extent == 1 else "?"
            for axis, extent in zip(stated, shape, strict=True)
        )
    else:
        axes = _guessed_axes(shape)
    if "?" in axes or not {"x", "y"} <= set(axes) or any(axes.count(axis) > 1 for axis in "xyzc"):
        extents = " x ".join(map(str, shape))
        raise UnsupportedFormat(
            f"{name} has axes that are not known ({extents}); save it as z,y,x or c,z,y,x"
        )
    if "c" in axes and shape[axes.index("c")] > _CHANNELS_MAX:
        raise UnsupportedFormat(f"{name} has {shape[axes.index('c')]} channels; save those you need")
    return axes


def _stated_axes(dataset: Any) -> str | None:
    tags = dataset.attrs.get("axistags")
    if isinstance(tags, str | bytes):
        try:
            keys = [str(axis["key"]) for axis in json.loads(tags)["axes"]]
        except (ValueError, KeyError, TypeError):
            keys = []
        if len(keys) == dataset.ndim:
            return "".join(key[:1] or "?" for key in keys)
    labels = [dimension.label.lower() for dimension in dataset.dims]
    if all(label in {"x", "y", "z", "c", "t"} for label in labels):
        return "".join(labels)
    if "MATLAB_class" in dataset.attrs and dataset.ndim in (2, 3):
        return "zxy"[-dataset.ndim :]  # MATLAB's rows, columns and pages, the last first
    return None


def _guessed_axes(shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return "yx"
    single = 0
    while len(shape) - single > 3 and shape[single] == 1:
        single += 1
    left = shape[single:]
    if len(left) == 3:
        return "-" * single + "zyx"
    if len(left) == 4 and min(left[0], left[-1]) <= _CHANNELS_MAX:
        return "-" * single + ("czyx" if left[0] <= left[-1] else "zyxc")
    return "?" * len(shape)


def _voxel_size(dataset: Any, axes: str) -> tuple[VoxelSize | None, str, tuple[str, ...]]:
    """Read `element_size_um` (ilastik, PlantSeg) or `resolution` (CREMI, in nm), both z, y, x."""
    for attribute, unit in (("element_size_um", "um"), ("resolution", "nm")):
        value = dataset.attrs.get(attribute)
        if value is None:
            continue
        try:
            z, y, x = (float(f"{number:.7g}") for number in np.asarray(value, float).ravel())
            return VoxelSize.in_unit(x, y, z, unit), attribute, ()
        except (ValueError, TypeError, InvalidGeometry):
            return None, "", (f"{attribute} is {value}, which cannot be used",)
    return None, "", ()


def _check_storage(file: SourceFile, name: str, dataset: Any) -> None:
    properties = dataset.id.get_create_plist()
    for index in range(properties.get_nfilters()):
        code, _, _, label = properties.get_filter(index)
        if not h5py.h5z.filter_avail(code):
            known = label.decode("utf-8", "replace").split(";")[0] or f"filter {code}"
            raise UnsupportedFormat(f"{name} is packed with {known}, which cannot be read; save it with gzip")
    if _chunk_bytes(dataset) > _CHUNK_BYTES_MAX:
        raise UnsupportedFormat(
            f"{name} is stored in chunks of {_chunk_bytes(dataset)} bytes; save it in smaller ones"
        )
    nbytes, stored = math.prod(dataset.shape) * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if is_bomb(nbytes, min(stored, file.size)):
        raise UnsupportedFormat(
            f"{name} claims {nbytes} bytes, of which {stored} are stored; it is no usable image"
        )


def _chunk_bytes(dataset: Any) -> int:
    return math.prod(dataset.chunks) * dataset.dtype.itemsize if dataset.chunks else 0


def _has_random_access(dataset: Any, axes: str) -> bool:
    """Tell whether a block can be cut out. Chunks that are whole wide sections are better decoded one by one."""
    if not dataset.chunks:
        return True
    chunk = dict(zip(axes, dataset.chunks, strict=True))
    return bool(chunk.get("z", 1) > 1 or max(chunk["y"], chunk["x"]) <= _WIDE_CHUNK)
