"""Writers of formats that keep every chunk of a volume in a file of its own.

References
----------
N5 (github.com/saalfeldlab/n5); Neuroglancer precomputed (github.com/google/neuroglancer); KNOSSOS cubes (knossos.app).
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


def write_n5(
    folder: Path,
    voxels: NDArray[Any],
    block: Sequence[int],
    *,
    is_packed: bool = False,
    attributes: Mapping[str, Any] = {},
) -> Path:
    """Write an N5 array; blocks of zeros are left out.

    Parameters
    ----------
    folder : Path
        A new one.
    voxels : array
        With its axes in the order of NumPy, slowest first; N5 counts them from the other end.
    block : sequence of int
        Size of a block, in the order of the axes of `voxels`.
    is_packed : bool
        With gzip.
    attributes : mapping
        More of them, such as `resolution`.

    Returns
    -------
    Path
        The same folder.
    """
    folder.mkdir(parents=True)
    compression = {"type": "gzip", "level": -1, "useZlib": False} if is_packed else {"type": "raw"}
    content = {
        "dimensions": voxels.shape[::-1], "blockSize": list(block)[::-1], "dataType": voxels.dtype.name,
        "compression": compression, **attributes,
    }  # fmt: skip
    (folder / "attributes.json").write_text(json.dumps(content))
    for index, part in _chunks(voxels, block):
        if not part.any():
            continue
        header = struct.pack(f">HH{part.ndim}I", 0, part.ndim, *part.shape[::-1])
        data = part.astype(part.dtype.newbyteorder(">")).tobytes()
        path = folder.joinpath(*(str(number) for number in index[::-1]))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(header + (gzip.compress(data) if is_packed else data))
    return folder


def write_precomputed(
    folder: Path,
    voxels: NDArray[Any],
    chunk: Sequence[int],
    *,
    kind: Literal["image", "segmentation"] = "image",
    voxel_size: Sequence[float] = (4, 4, 40),
    first_voxel: Sequence[int] = (0, 0, 0),
    is_packed: bool = False,
) -> Path:
    """Write a volume of one scale in raw chunks; chunks of zeros are left out.

    Parameters
    ----------
    folder : Path
        A new one.
    voxels : (c, z, y, x)
    chunk : (z, y, x)
    kind : str
    voxel_size, first_voxel : (x, y, z)
        In nanometres, and in voxels.
    is_packed : bool
        With gzip and `.gz` in the names, as CloudVolume does.

    Returns
    -------
    Path
        The same folder.
    """
    key = "_".join(f"{size:g}" for size in voxel_size)
    (folder / key).mkdir(parents=True)
    scale = {
        "key": key, "size": voxels.shape[:0:-1], "resolution": list(voxel_size), "voxel_offset": list(first_voxel),
        "chunk_sizes": [list(chunk)[::-1]], "encoding": "raw",
    }  # fmt: skip
    info = {"type": kind, "data_type": voxels.dtype.name, "num_channels": voxels.shape[0], "scales": [scale]}
    (folder / "info").write_text(json.dumps(info))
    for index, part in _chunks(voxels, (voxels.shape[0], *chunk)):
        if not part.any():
            continue
        starts = [
            number * size + first
            for number, size, first in zip(index[:0:-1], chunk[::-1], first_voxel, strict=True)
        ]
        name = "_".join(
            f"{start}-{start + size}" for start, size in zip(starts, part.shape[:0:-1], strict=True)
        )
        data = part.astype(part.dtype.newbyteorder("<")).tobytes()
        (folder / key / (f"{name}.gz" if is_packed else name)).write_bytes(
            gzip.compress(data) if is_packed else data
        )
    return folder


def write_knossos(
    folder: Path, voxels: NDArray[np.uint8], *, name: str = "cortex_mag1", with_conf: bool = True
) -> Path:
    """Write KNOSSOS cubes of voxels (z, y, x) of 9 x 9 x 25 nm; cubes of zeros are left out.

    Returns
    -------
    Path
        The same folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if with_conf:
        sizes = zip("xyz", voxels.shape[::-1], (9.0, 9.0, 25.0), strict=True)
        lines = [f"boundary {axis} {extent};\nscale {axis} {nm};\n" for axis, extent, nm in sizes]
        text = f'experiment name "{name}";\n{"".join(lines)}magnification 1;\n'
        (folder / "knossos.conf").write_text(text)
    for (z, y, x), part in _chunks(voxels, (128, 128, 128)):
        if not part.any():
            continue
        cube = np.zeros((128, 128, 128), np.uint8)
        cube[tuple(slice(extent) for extent in part.shape)] = part
        place = folder / f"x{x:04d}" / f"y{y:04d}" / f"z{z:04d}"
        place.mkdir(parents=True)
        (place / f"{name}_x{x:04d}_y{y:04d}_z{z:04d}.raw").write_bytes(cube.tobytes())
    return folder


def _chunks(voxels: NDArray[Any], chunk: Sequence[int]) -> Iterator[tuple[tuple[int, ...], NDArray[Any]]]:
    """Cut an array into chunks; give the number of each on every axis."""
    counts = [range(-(-extent // size)) for extent, size in zip(voxels.shape, chunk, strict=True)]
    for index in product(*counts):
        starts = [number * size for number, size in zip(index, chunk, strict=True)]
        yield (
            index,
            voxels[tuple(slice(start, start + size) for start, size in zip(starts, chunk, strict=True))],
        )
