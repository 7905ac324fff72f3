"""Agglomerate files: which fragments make an object, and by which joins. WEBKNOSSOS shows and corrects neurons by them.

A file is a group of Zarr v3 arrays, in the form of WEBKNOSSOS. Four arrays more, which it passes over, hold what a
file for another threshold is made of: all joins down to an affinity of 0, the voxels of each fragment, and how many an
object has at least.

References
----------
Documentation of the WEBKNOSSOS library, "AgglomerateAttachment Specification", version 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from voxelworks.errors import InvalidDataset, InvalidGeometry, MagNotFound, StorageFailed, UnsupportedFormat
from voxelworks.ops.agglomeration import JOIN, Cut, Joins
from voxelworks.volumes import attachments, storage
from voxelworks.volumes.arrays import look_at

FOLDER = "agglomerates"
"""Of a layer."""
_SCHEMA_VERSION = 4
_KIND = "AgglomerateViewArtifact"
_POSITION_MAX = 2**31 - 1
BYTES_PER_FRAGMENT, BYTES_PER_JOIN = 96, 80
"""Memory that writing takes."""


@dataclass(frozen=True)
class Agglomeration:
    """What is known of the fragments of a layer, at any threshold."""

    joins: Joins
    sizes: NDArray[np.int64]
    """(n + 1,): voxels of each fragment; that of 0 means nothing."""
    positions: NDArray[np.int64]
    """(n + 1, 3): a voxel inside each fragment: x, y, z in mag 1."""
    size_min: int = 0
    """Objects of fewer voxels go on to be joined."""


def write_agglomerates(
    folder: Path, known: Agglomeration, made: Cut, *, check: Callable[[], None] = lambda: None
) -> None:
    """Write an agglomerate file.

    Parameters
    ----------
    folder
        To make, `<layer>/agglomerates/<name>`. Equal content gives equal bytes.
    known
        Of all fragments.
    made
        What the threshold made of them: all fragments belong to an object.
    check
        Called now and then; may raise.

    Raises
    ------
    InvalidGeometry
        If a position is beyond what the format holds.
    StorageFailed, DiskFull
    """
    positions = known.positions[1:]
    if positions.size and int(np.abs(positions).max()) > _POSITION_MAX:
        raise InvalidGeometry(
            f"a fragment lies at {positions.max()}, but agglomerate files hold positions up to {_POSITION_MAX}; "
            "choose a box nearer to 0"
        )
    objects = made.objects[1:]
    # Ascending ids within each object: readers search them.
    order = np.argsort(objects, kind="stable")
    starts = _starts(objects, made.count)
    place = np.empty(len(order) + 1, np.int64)
    place[order + 1] = np.arange(len(order)) - starts[objects[order]].astype(np.int64)
    joins = known.joins[made.is_made]
    owner = made.objects[joins["a"]]
    edges = np.stack([place[joins["a"]], place[joins["b"]]], axis=1).astype(np.uint32)
    sorting = np.lexsort((edges[:, 1], edges[:, 0], owner))
    arrays: dict[str, NDArray[Any]] = {
        "segment_to_agglomerate": made.objects.astype(np.uint64),
        "agglomerate_to_segments_offsets": starts,
        "agglomerate_to_segments": (order + 1).astype(np.uint32),
        "agglomerate_to_positions": positions[order].astype(np.int32),
        "agglomerate_to_edges_offsets": _starts(owner, made.count),
        "agglomerate_to_edges": edges[sorting],
        "agglomerate_to_affinities": joins["affinity"][sorting],
        "joins": np.stack([known.joins["a"], known.joins["b"]], axis=1),
        "join_affinities": np.ascontiguousarray(known.joins["affinity"]),
        "segment_sizes": known.sizes.astype(np.uint64),
        "size_min": np.array([known.size_min], np.uint64),
    }
    for name, values in arrays.items():
        attachments.create_rows(folder / name, len(values), values.dtype, values.shape[1:])
        for rows in attachments.shard_ranges(len(values), values.dtype, values.shape[1:]):
            check()
            attachments.write_rows(folder / name, rows.start, values[rows.start : rows.stop])
    attachments.write_group(folder, schema_version=_SCHEMA_VERSION, kind=_KIND, attributes={})


def read_agglomeration(location: str) -> Agglomeration:
    """Read what an agglomerate file of ours knows of the fragments at any threshold.

    Raises
    ------
    UnsupportedFormat
        If it was written by another program, which leaves the arrays out that only we need.
    StorageFailed
    """
    names = (
        "joins",
        "join_affinities",
        "segment_sizes",
        "agglomerate_to_segments",
        "agglomerate_to_positions",
        "size_min",
    )
    ends, affinities, sizes, ids, positions, size_min = (_read(location, name) for name in names)
    joins = np.empty(len(ends), JOIN)
    joins["a"], joins["b"], joins["affinity"] = ends[:, 0], ends[:, 1], affinities
    by_id = np.zeros((len(ids) + 1, 3), np.int64)
    by_id[ids] = positions
    return Agglomeration(joins, sizes.astype(np.int64), by_id, int(size_min[0]))


def _starts(owners: NDArray[Any], count: int) -> NDArray[np.uint64]:
    """Give where the rows of each object begin, and where the last ones end; object 0 has none."""
    starts = np.zeros(count + 2, np.uint64)
    starts[1:] = np.cumsum(np.bincount(owners, minlength=count + 1))
    return starts


def _read(location: str, name: str) -> NDArray[Any]:
    place = storage.join(location, name)
    try:
        look_at(place, "zarr3")
    except (MagNotFound, InvalidDataset) as error:
        raise UnsupportedFormat(
            f"{location} has no array {name!r}: another threshold can only be chosen for files that Voxelworks wrote"
        ) from error
    spec = {"driver": "zarr3", "kvstore": storage.kvstore_spec(place)}
    try:
        store = ts.open(spec, context=storage.context(), open=True, read=True).result()
        return np.asarray(store.read().result())
    except (ValueError, OSError) as error:
        raise StorageFailed(f"cannot read the agglomerate file {location}: {error}") from error
