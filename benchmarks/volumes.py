"""Make the volumes that are measured: grey values like those of an electron microscope, and labels, of any size.

    python benchmarks/volumes.py --work FOLDER --size 1024,1024,1024

Cells are Voronoi cells of scattered points in a space that is bent a little; neurites are rows of cells. Grey values
have dark membranes between neurites, a slowly varying background and noise. The same size always gives the same bytes.
They compress about as well as real data: chunks of 64 voxels to 1/1.1 (grey values) and 1/50 (labels).

One cube of 512 voxels is computed; larger volumes mirror it, which changes nothing for chunks that are compressed one
by one.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tifffile
from numba import njit, prange
from numpy.typing import NDArray

Kind = Literal["image", "labels"]
KINDS: tuple[Kind, ...] = ("image", "labels")

TILE_EDGE = 512
_CELL_EDGE = 32
"""Mean distance of the points, in voxels."""
_CELLS = TILE_EDGE // _CELL_EDGE + 3
"""Along one axis, with a margin at either side."""
_NEURITE_CELLS = 6
"""So many cells in a row along x make one neurite."""
_ID_MAX = 2**24
_SEED = 1


@dataclass(frozen=True)
class Volume:
    """A volume on disk: one TIFF file for each section, in `stack`."""

    kind: Kind
    size: tuple[int, int, int]
    """x, y, z."""
    stack: Path

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        return np.dtype(np.uint8 if self.kind == "image" else np.uint32)

    @property
    def category(self) -> str:
        return "color" if self.kind == "image" else "segmentation"

    @property
    def sections(self) -> list[Path]:
        return sorted(self.stack.glob("*.tif"))

    @property
    def raw_bytes(self) -> int:
        x, y, z = self.size
        return x * y * z * self.dtype.itemsize


def volume_of(work: Path, kind: Kind, size: tuple[int, int, int]) -> Volume:
    """Tell where a volume lies, or will lie."""
    return Volume(kind, size, work / f"{kind}-{'x'.join(map(str, size))}")


def make_volume(work: Path, kind: Kind, size: tuple[int, int, int], compression: str | None = None) -> Volume:
    """Write the stack below `work`, or find the one that an earlier call wrote."""
    volume = volume_of(work, kind, size)
    stack = volume.stack
    if stack.exists():
        return volume
    tile = _tile(work, kind)
    width, height, depth = (_mirrored(extent) for extent in size)
    draft = stack.with_suffix(".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for number, z in enumerate(depth):
        section = np.ascontiguousarray(tile[z][height][:, width])
        file = draft / f"section-{number:05d}.tif"
        tifffile.imwrite(file, section, photometric="minisblack", metadata=None, compression=compression)
    draft.rename(stack)
    return volume


def _mirrored(extent: int) -> NDArray[np.intp]:
    """Give the position in the tile of each position along an axis."""
    position = np.arange(extent) % (2 * TILE_EDGE)
    return np.minimum(position, 2 * TILE_EDGE - 1 - position)


def _tile(work: Path, kind: Kind) -> NDArray[np.unsignedinteger]:
    paths = {each: work / f"tile-{each}.npy" for each in KINDS}
    if not all(path.exists() for path in paths.values()):
        work.mkdir(parents=True, exist_ok=True)
        image, labels = _compute_tile()
        np.save(paths["image"], image)
        np.save(work / "draft.npy", labels)
        (work / "draft.npy").rename(paths["labels"])  # last, and at once: then both are complete
    tile: NDArray[np.unsignedinteger] = np.load(paths[kind], mmap_mode="r")
    return tile


def _compute_tile() -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Compute the cube (z, y, x): grey values and labels."""
    random = np.random.default_rng(_SEED)
    grid = np.stack(np.meshgrid(*[np.arange(_CELLS)] * 3, indexing="ij"), axis=-1)
    points = ((grid - 1 + random.random(grid.shape)) * _CELL_EDGE).astype(np.float32)
    starts = random.integers(0, _NEURITE_CELLS, (_CELLS, _CELLS, 1))
    part = (np.arange(_CELLS) + starts) // _NEURITE_CELLS
    ids_of_parts = 1 + random.permutation(_ID_MAX)[: _CELLS**3].reshape((_CELLS,) * 3).astype(np.uint32)
    ids = np.take_along_axis(ids_of_parts, part, axis=2)
    background = _smoothed(random.standard_normal((64, 64, 64)), width=2.0)
    noise = random.standard_normal(2**20 + 7).astype(np.float32)
    image = np.empty((TILE_EDGE,) * 3, np.uint8)
    labels = np.empty((TILE_EDGE,) * 3, np.uint32)
    _render(points, ids, background, noise, image, labels)
    return image, labels


def _smoothed(values: NDArray[np.float64], width: float) -> NDArray[np.float32]:
    """Convolve a periodic cube with a Gaussian and scale it to a standard deviation of 1."""
    frequency = np.fft.fftfreq(values.shape[0])
    gauss = np.exp(-2 * (np.pi * width * frequency) ** 2)
    kernel = gauss[:, None, None] * gauss[:, None] * gauss
    smooth = np.fft.ifftn(np.fft.fftn(values) * kernel).real
    scaled: NDArray[np.float32] = (smooth / smooth.std()).astype(np.float32)
    return scaled


@njit(parallel=True, fastmath=True)
def _render(points, ids, background, noise, image, labels):  # type: ignore[no-untyped-def]
    edge = image.shape[0]
    for z in prange(edge):
        for y in range(edge):
            shift = (z * 104729 + y * 7919 + (z ^ y) * 31) % noise.size
            for x in range(edge):
                # Bent, so that borders are curved.
                pz = z + 5 * np.sin(0.061 * y) + 4 * np.sin(0.083 * x)
                py = y + 5 * np.sin(0.057 * x) + 4 * np.sin(0.079 * z)
                px = x + 5 * np.sin(0.067 * z) + 4 * np.sin(0.089 * y)
                cz = min(max(int(pz // _CELL_EDGE) + 1, 1), _CELLS - 2)
                cy = min(max(int(py // _CELL_EDGE) + 1, 1), _CELLS - 2)
                cx = min(max(int(px // _CELL_EDGE) + 1, 1), _CELLS - 2)
                nearest = second = np.float32(1e9)
                found = np.uint32(0)
                for i in range(cz - 1, cz + 2):
                    for j in range(cy - 1, cy + 2):
                        for k in range(cx - 1, cx + 2):
                            p = points[i, j, k]
                            distance = (p[0] - pz) ** 2 + (p[1] - py) ** 2 + (p[2] - px) ** 2
                            if distance < nearest:
                                if ids[i, j, k] != found:
                                    second = nearest
                                    found = ids[i, j, k]
                                nearest = distance
                            elif distance < second and ids[i, j, k] != found:
                                second = distance
                labels[z, y, x] = found
                membrane = max(0.0, 1.0 - 0.25 * (np.sqrt(second) - np.sqrt(nearest)))
                grey = 150 + 12 * background[(z >> 3) & 63, (y >> 3) & 63, (x >> 3) & 63] - 80 * membrane
                grey += 22 * noise[(shift + x) % noise.size]
                image[z, y, x] = np.uint8(min(255.0, max(0.0, grey)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the volumes")
    parser.add_argument("--size", default="1024,1024,1024", help="x,y,z in voxels")
    options = parser.parse_args()
    x, y, z = map(int, options.size.split(","))
    for kind in KINDS:
        print(make_volume(options.work, kind, (x, y, z)).stack)


if __name__ == "__main__":
    main()
