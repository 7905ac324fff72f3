"""Slow, obvious references that share no code with the package."""

from __future__ import annotations

import json
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import zarr


def shrink(voxels: np.ndarray, factor_zyx: tuple[int, int, int], method: str) -> np.ndarray:
    """Shrink (z, y, x) window by window; windows at the far border hold only the voxels that exist."""
    shape = tuple(-(-n // f) for n, f in zip(voxels.shape, factor_zyx, strict=True))
    shifted = []
    for offset in product(*(range(f) for f in factor_zyx)):
        part = voxels[tuple(slice(o, None, f) for o, f in zip(offset, factor_zyx, strict=True))]
        value, exists = np.zeros(shape, voxels.dtype), np.zeros(shape, bool)
        where = tuple(slice(0, n) for n in part.shape)
        value[where], exists[where] = part, True
        shifted.append((value, exists))
    values, exist = np.stack([v for v, _ in shifted]), np.stack([e for _, e in shifted])
    if method == "mean":
        total, count = values.astype(np.int64).sum(axis=0), exist.sum(axis=0)
        return ((2 * total + count) // (2 * count)).astype(voxels.dtype)
    result = np.empty(shape, voxels.dtype)
    flat_values, flat_exist = values.reshape(len(values), -1), exist.reshape(len(exist), -1)
    flat_result = result.reshape(-1)
    is_uniform = ((flat_values == flat_values[0]) | ~flat_exist).all(axis=0)
    flat_result[is_uniform] = flat_values[0, is_uniform]
    for index in np.flatnonzero(~is_uniform):
        window = flat_values[flat_exist[:, index], index].tolist()
        flat_result[index] = (mode if method == "mode" else median)(window)
    return result


def mode(window: list[int]) -> int:
    """Most frequent value; on a tie any value wins over 0, then the smallest wins."""
    counts = Counter(window)
    best = max(counts.values())
    tied = [value for value, count in counts.items() if count == best]
    return min(tied, key=lambda value: (value == 0, value))


def median(window: list[int]) -> int:
    ordered = sorted(window)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) // 2


def read_mag(dataset: Path, layer: str, mag: str) -> np.ndarray:
    """Read a stored mag with zarr-python as (c, z, y, x)."""
    return np.asarray(zarr.open_array(dataset / layer / mag, mode="r")[...])


def properties(dataset: Path) -> dict:
    return json.loads((dataset / "datasource-properties.json").read_text())


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder with their bytes; folders, also empty ones, are named with a slash at the end."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        found[f"{name}/" if path.is_dir() else name] = b"" if path.is_dir() else path.read_bytes()
    return found
