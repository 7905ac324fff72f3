"""Mappings of segments to the larger objects that they belong to: JSON mappings, and agglomerate files.

A JSON mapping lists classes of ids, and may name another one as its `parent`. An agglomerate file, HDF5 or a group of
Zarr v3 arrays of the same names, has a row for every segment id: it may be larger than memory, and is read in parts.

References
----------
Documentation of WEBKNOSSOS, "Mappings" and "Agglomerate files".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import h5py
import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from voxelworks.errors import (
    InvalidDataset,
    MagNotFound,
    SourceNotFound,
    StorageFailed,
    UnsafeReference,
    UnsupportedFormat,
)
from voxelworks.ops.relabelling import merged_ids, replace_labels
from voxelworks.protocol.places import is_remote
from voxelworks.volumes import storage
from voxelworks.volumes.arrays import look_at
from voxelworks.volumes.dataset import Layer
from voxelworks.volumes.metadata import GROUP_FILE

JSON_BYTES_MAX = 2**28
"""Of a JSON mapping, which is taken into memory."""
JSON_MEMORY_FACTOR = 30
"""Bytes of memory that reading one takes at its peak, for each of its own: measured with 4 million ids."""
CHUNK_BYTES_MAX = 2**27
"""Of what an agglomerate file decodes at once."""
PARENTS_MAX = 50
WINDOW_ROWS = 2**17
"""Rows of an agglomerate file that are read together."""
WINDOWS_KEPT = 64
"""By every process: 64 MiB."""

_TABLE = "segment_to_agglomerate"
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_ID_MAX = 2**64 - 1
Kind = Literal["json", "hdf5", "zarr3"]


class MappingFile(NamedTuple):
    """Where a mapping lies."""

    location: str
    kind: Kind

    @property
    def fingerprint(self) -> str:
        """Changes with the file; of a remote one only the address is known."""
        if is_remote(self.location):
            return self.location
        place = Path(self.location)
        status = (place / _TABLE / GROUP_FILE if self.kind == "zarr3" else place).stat()
        return f"{place}: {status.st_size} bytes of {status.st_mtime_ns}"


@dataclass(frozen=True)
class Agglomerates:
    """The table of an agglomerate file: which agglomerate each segment belongs to. Cheap, picklable."""

    file: MappingFile
    row_count: int
    """One for each segment id, from 0 on."""
    fingerprint: str = ""
    """Of the file when it was opened: what is kept in memory is not taken for that of a later one."""

    def rows(self, start: int, stop: int) -> NDArray[np.uint64]:
        """Read rows of the table.

        Raises
        ------
        UnsupportedFormat, StorageFailed
        """
        try:
            if self.file.kind == "hdf5":
                with h5py.File(self.file.location, "r", locking=False) as root:
                    found = np.asarray(_hdf5_table(root, self.file.location)[start:stop])
            else:
                found = np.asarray(_zarr_table(self)[start:stop].read().result())
        except (OSError, ValueError) as error:
            raise StorageFailed(f"cannot read the agglomerate file {self.file.location}: {error}") from error
        return found.astype(np.uint64)

    def apply(self, voxels: NDArray[Any]) -> None:
        """Give segments the ids of their agglomerates, in place.

        Parameters
        ----------
        voxels : array of integers, C order
            0 stays 0. Ids without a row, or whose row says 0, stay as they are.
        """
        flat = voxels.reshape(-1)
        # Labels come in runs: sorting one of each is fast.
        known = np.unique(flat[np.append(True, flat[1:] != flat[:-1])]) if flat.size else flat
        known = known[(known > 0) & (known < self.row_count)]
        becomes = np.empty_like(known)
        windows = known.astype(np.int64) // WINDOW_ROWS
        borders = [0, *(np.flatnonzero(np.diff(windows)) + 1).tolist(), len(known)]
        for first, stop in pairwise(borders):
            if stop > first:
                rows = _window(self, int(windows[first]))
                places = known[first:stop].astype(np.int64) % WINDOW_ROWS
                becomes[first:stop] = rows[places].astype(voxels.dtype)
        is_changed = (becomes != 0) & (becomes != known)
        replace_labels(
            voxels, np.ascontiguousarray(known[is_changed]), np.ascontiguousarray(becomes[is_changed])
        )

    def largest(self, check: Callable[[], None]) -> int:
        """Give the largest id of an agglomerate; `check` is called now and then, and may raise."""
        found = 0
        for start in range(0, self.row_count, WINDOW_ROWS):
            check()
            rows = self.rows(start, min(start + WINDOW_ROWS, self.row_count))
            found = max(found, int(rows.max(initial=0)))
        return found


@lru_cache(maxsize=WINDOWS_KEPT)
def _window(table: Agglomerates, number: int) -> NDArray[np.uint64]:
    start = number * WINDOW_ROWS
    return table.rows(start, min(start + WINDOW_ROWS, table.row_count))


def open_agglomerates(file: MappingFile) -> Agglomerates:
    """Open an agglomerate file; nothing is read of its table yet.

    Raises
    ------
    UnsupportedFormat
        If it is none.
    StorageFailed
    """
    if file.kind == "hdf5":
        if is_remote(file.location):
            raise UnsupportedFormat(
                f"{file.location} is HDF5, which is read from this machine only; copy it here"
            )
        try:
            with h5py.File(file.location, "r", locking=False) as root:
                return Agglomerates(file, len(_hdf5_table(root, file.location)), file.fingerprint)
        except OSError as error:
            raise UnsupportedFormat(f"{file.location} cannot be read as HDF5: {error}") from error
    place = storage.join(file.location, _TABLE)
    try:
        facts = look_at(place, "zarr3")
    except (MagNotFound, InvalidDataset) as error:
        raise UnsupportedFormat(
            f"{file.location} has no table {_TABLE!r}: it is no agglomerate file"
        ) from error
    _check_table(place, facts.shape, facts.dtype, facts.chunk[0] if facts.chunk else 1)
    return Agglomerates(file, facts.shape[0], file.fingerprint)


def read_json_mapping(text: bytes, read_parent: Callable[[str], bytes], name: str) -> dict[int, int]:
    """Read a JSON mapping with those that it builds upon.

    Parameters
    ----------
    text
        The file.
    read_parent
        Gives the file of another mapping, by its name.
    name
        Of the mapping, for errors.

    Returns
    -------
    dict
        Id -> first id of its class. Classes that share an id are one, also with those of the parents, whose come first.
        Ids that stay are left out; 0 joins nothing.

    Raises
    ------
    UnsupportedFormat
        Saying what is wrong.
    """
    chain = [_parsed(text, name)]
    names = [name]
    while (parent := chain[-1].get("parent")) is not None:
        if not isinstance(parent, str) or parent in names or len(names) > PARENTS_MAX:
            raise UnsupportedFormat(
                f"mapping {names[-1]!r} has the parent {parent!r}, which cannot be; correct it"
            )
        names.append(parent)
        chain.append(_parsed(read_parent(parent), parent))
    return merged_ids(
        group
        for mapping, its_name in zip(reversed(chain), reversed(names), strict=True)
        for group in _classes(mapping, its_name)
    )


def mapping_at(location: str) -> MappingFile:
    """Tell what kind of mapping lies somewhere, by its content; a folder of one file, as uploads are, stands for that.

    Raises
    ------
    SourceNotFound
    """
    if storage.read_bytes(location, GROUP_FILE, bytes_max=2**24) is not None:
        return MappingFile(location, "zarr3")
    if is_remote(location):
        return MappingFile(location, "json")
    path = Path(location)
    try:
        inside = sorted(path.iterdir()) if path.is_dir() else []
        if len(inside) == 1:
            return mapping_at(str(inside[0]))
        with path.open("rb") as stream:
            return MappingFile(location, "hdf5" if stream.read(8) == _HDF5_SIGNATURE else "json")
    except OSError as error:
        raise SourceNotFound(
            f"there is no mapping at {location}; name a JSON mapping or an agglomerate file"
        ) from error


def attached_mappings(layer: Layer) -> dict[str, MappingFile]:
    """Find the mappings of a layer by their names: those that are listed, and files in their usual folders.

    Raises
    ------
    UnsafeReference
        If one lies outside of the dataset, which is not trusted.
    """
    stated = layer.properties.model_extra or {}
    found: dict[str, MappingFile] = {}
    for name in stated.get("mappings") or ():
        if isinstance(name, str):
            found[name] = MappingFile(_inside(layer, f"{layer.name}/mappings/{name}.json"), "json")
    folder = Path(layer.dataset.location) / layer.name
    if not is_remote(layer.dataset.location):
        for path in sorted(folder.glob("mappings/*.json")):
            found[path.stem] = MappingFile(_inside(layer, f"{layer.name}/mappings/{path.name}"), "json")
        for path in sorted(folder.glob("agglomerates/*.hdf5")):
            found[path.stem] = MappingFile(_inside(layer, f"{layer.name}/agglomerates/{path.name}"), "hdf5")
    listed = stated.get("attachments")
    for item in (listed.get("agglomerates") or ()) if isinstance(listed, dict) else ():
        name, path, kind = (item.get(key) for key in ("name", "path", "dataFormat"))
        if isinstance(name, str) and isinstance(path, str) and kind in ("hdf5", "zarr3"):
            found[name] = MappingFile(_inside(layer, path), kind)
    return found


def read_text(file: MappingFile) -> bytes:
    """Read a JSON mapping.

    Raises
    ------
    SourceNotFound, UnsupportedFormat, StorageFailed
    """
    folder, slash, name = file.location.rpartition("/")
    content = storage.read_bytes(folder or slash or ".", name, bytes_max=JSON_BYTES_MAX)
    if content is None:
        raise SourceNotFound(f"there is no mapping at {file.location}; choose another one")
    return content


def _inside(layer: Layer, path: str) -> str:
    """Give the place of a mapping, which may only lie elsewhere if the dataset is trusted."""
    return layer.dataset.locate_part(path, f"a mapping of layer {layer.name!r}")


def _parsed(text: bytes, name: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnsupportedFormat(f"mapping {name!r} is no JSON: {error}; write it anew") from error
    if not isinstance(found, dict):
        raise UnsupportedFormat(f"mapping {name!r} has no 'classes'; it needs a list of lists of ids")
    return found


def _classes(mapping: dict[str, Any], name: str) -> Iterator[list[int]]:
    classes = mapping.get("classes", [] if "parent" in mapping else None)
    if not isinstance(classes, list):
        raise UnsupportedFormat(f"mapping {name!r} has no 'classes'; it needs a list of lists of ids")
    for group in classes:
        if not isinstance(group, list):
            raise UnsupportedFormat(f"mapping {name!r} has a class that is no list: {str(group)[:40]}")
        for label in group:
            if type(label) is not int or not 0 <= label <= _ID_MAX:
                raise UnsupportedFormat(
                    f"mapping {name!r} has the id {str(label)[:40]}; whole numbers from 0 to 2^64 - 1 are read"
                )
        yield group


def _hdf5_table(root: Any, name: str) -> Any:
    # Other links than hard ones, and voxels kept elsewhere, may lead out of the file.
    if not isinstance(root.get(_TABLE, getlink=True), h5py.HardLink) or not isinstance(
        root[_TABLE], h5py.Dataset
    ):
        raise UnsupportedFormat(f"{name} has no table {_TABLE!r}: it is no agglomerate file")
    table = root[_TABLE]
    if table.external or table.is_virtual:
        raise UnsafeReference(f"{name} keeps {_TABLE!r} in another file; copy it into one")
    _check_table(name, table.shape, table.dtype, table.chunks[0] if table.chunks else 1)
    return table


@lru_cache(maxsize=4)
def _zarr_table(table: Agglomerates) -> ts.TensorStore:
    place = storage.join(table.file.location, _TABLE)
    spec = {"driver": "zarr3", "kvstore": storage.kvstore_spec(place)}
    return ts.open(spec, context=storage.context(), open=True, read=True).result()


def _check_table(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], chunk_rows: int) -> None:
    if len(shape) != 1 or dtype.kind != "u" or chunk_rows * dtype.itemsize > CHUNK_BYTES_MAX:
        raise UnsupportedFormat(
            f"{name}: {_TABLE!r} is {dtype} of shape {shape} in chunks of {chunk_rows:,}; an agglomerate file has rows "
            f"of one unsigned number, in chunks of at most {CHUNK_BYTES_MAX >> 20} MiB"
        )
