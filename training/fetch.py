"""Get the data sets that models are trained and scored with, each from its public source at a pinned commit.

    python training/fetch.py --data FOLDER
    python training/fetch.py --data FOLDER neuron_fib25 nuclei_stardist

Writes `FOLDER/DATASET/NAME.npz` with the array `data` (z, y, x), as `train.py` reads them. What is there already is
only checked. Each array is compared with its checksum: other data would be another training. Mind the licences, which
differ: those of models are those of what they learned from.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import tifffile
from PIL import Image

SOURCE = "https://raw.githubusercontent.com"
Voxels = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Origin:
    """Where the files of an array lie, and how they become it."""

    paths: tuple[str, ...]
    """Each with repository and commit before it."""
    read: Callable[[Sequence[bytes]], Voxels]
    sha256: str
    """Of the voxels in C order."""


def sections(files: Sequence[bytes]) -> Voxels:
    return np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])


def mask(files: Sequence[bytes]) -> Voxels:
    """Read sections in which objects are bright; a few stray pixels of other values do not count."""
    found = sections(files)
    return (found > (127 if found.max() > 1 else 0)).astype(np.uint8)


def stack(files: Sequence[bytes]) -> Voxels:
    return tifffile.imread(io.BytesIO(files[0]))


def stack_mask(files: Sequence[bytes]) -> Voxels:
    return (stack(files) > 0).astype(np.uint8)


def bodies(files: Sequence[bytes]) -> Voxels:
    """Read supervoxels and the body of each, of which 160 sections are for development."""
    with h5py.File(io.BytesIO(gzip.decompress(files[0]))) as file:
        supervoxels, pairs = file["stack"][:160], file["transforms"][...]
    body = np.zeros(int(max(pairs[:, 0].max(), supervoxels.max())) + 1, np.uint32)
    body[pairs[:, 0]] = pairs[:, 1]
    return body[supervoxels]


def _numbered(home: str, pattern: str, numbers: range) -> tuple[str, ...]:
    return tuple(f"{home}/{pattern.format(number)}" for number in numbers)


_CDEEP3M = "CRBS/cdeep3m/abf995802608073532f324ce57425fa1b7cf9d19"
_CDEEP3M2 = "CRBS/cdeep3m2/67d630855eb1f0156d72d37b448d52eed77ae52e"
_VNC = "unidesigner/groundtruth-drosophila-vnc/4a5f051466d24d8dc1e855ab55658bb1b1dcd6bf"
_FIB25 = "janelia-flyem/neuroproof_examples/ce839e17deaf4c01153827c6d028dfecfbb4b958"
_STARDIST = "stardist/stardist/650d3a19bf7380ec0476d672397ff0388687a9d3"
_QCANET = "funalab/QCANet/d047df5f271390dd06c72a8eb1d599a2ba96b9a0"
_MITO = "mito_testsample/training"
ORIGINS: dict[tuple[str, str], Origin] = {
    ("mito_sbem_cdeep3m", "raw_v1"): Origin(
        _numbered(_CDEEP3M, f"{_MITO}/images/images.{{:03}}.png", range(10, 30)), sections,
        "21dc3969448b7fdc578fd4aedb7e5fcba4caf0ed52fbee20e7d18316b565afde",
    ),
    ("mito_sbem_cdeep3m", "raw_v2"): Origin(
        _numbered(_CDEEP3M2, f"{_MITO}/images/images.{{:03}}.png", range(30, 40)), sections,
        "67b7aef8a94cea33538345ae684babfa3f38621895031ed64173150fc690739a",
    ),
    ("mito_sbem_cdeep3m", "labels_mito"): Origin(
        _numbered(_CDEEP3M, f"{_MITO}/labels/mitos_3D.{{:03}}.png", range(10, 30))
        + _numbered(_CDEEP3M2, f"{_MITO}/labels/mitos_3D.{{:03}}.png", range(30, 40)),
        mask,
        "85e4c57832066a7cfb5f1b4064b4cd468b070b2ad887fbcf31e9ffe9c2b345f5",
    ),
    ("mito_vnc_sstem", "raw"): Origin(
        _numbered(_VNC, "stack1/raw/{:02}.tif", range(13)), sections,
        "0a7861b0aaf80229b5a73e30504f34dcb358716660bcfc6578b5177a704aa8b8",
    ),
    ("mito_vnc_sstem", "labels_mito"): Origin(
        _numbered(_VNC, "stack1/mitochondria/{:02}.png", range(13)), mask,
        "bd17c2b3ecb0399c88e248574225377de491e10f1e02e471a3813921aec11d28",
    ),
    ("neuron_fib25", "raw"): Origin(
        _numbered(_FIB25, "training_sample2/grayscale_maps/iso.{}.png", range(2600, 2760)), sections,
        "a427c52d557074e367ba4ba3cf54e981ee4e1da55a637126048ed17eca31df0d",
    ),
    ("neuron_fib25", "labels_neuron"): Origin(
        (f"{_FIB25}/training_sample2/groundtruth.h5.gz",), bodies,
        "2d898d34945a519c5e09a7ff59f6d6e1b4c06f07c0a1e858f3717aca00e1d1c0",
    ),
    ("nuclei_stardist", "img3d"): Origin(
        (f"{_STARDIST}/stardist/data/images/img3d.tif",), stack,
        "9fc635b29b1a5c419d220eaf753a8ecda93738861ad5bd42a0c1ea4556b939c8",
    ),
    ("nuclei_stardist", "mask3d"): Origin(
        (f"{_STARDIST}/stardist/data/images/mask3d.tif",), stack,
        "ee06fbf1ea606198f930b365ae1eb90aad418e3714febb9a0a43255ea9ff2750",
    ),
    ("nuclei_qcanet", "raw"): Origin(
        (f"{_QCANET}/example_datasets/images_raw/8_cell_stage.tif",), stack,
        "2f996eb70238a472cc6d877904817d938b7d2f47825e69cec9b18aaaf196fe22",
    ),
    ("nuclei_qcanet", "labels_nuclei"): Origin(
        (f"{_QCANET}/example_datasets/8_cell_stage/segmentation_gt.tif",), stack_mask,
        "d6f8db9f65c33cfeeb2ae055142d8efbdbde2b394f6378884f26cfd1fc0fcc51",
    ),
}  # fmt: skip


def checksum(voxels: Voxels) -> str:
    return hashlib.sha256(np.ascontiguousarray(voxels).tobytes()).hexdigest()


def fetch(client: httpx.Client, origin: Origin, source: str) -> Voxels:
    """Get the files of an array, and make it of them."""
    files = []
    for path in origin.paths:
        answer = client.get(f"{source}/{path}")
        answer.raise_for_status()
        files.append(answer.content)
    return origin.read(files)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="*", help="only these; by default all")
    parser.add_argument("--data", type=Path, required=True, help="folder to write to")
    parser.add_argument("--source", default=SOURCE, help="another place with the same files")
    options = parser.parse_args()
    unknown = set(options.datasets) - {dataset for dataset, _ in ORIGINS}
    if unknown:
        parser.error(f"there is no data set {', '.join(sorted(unknown))}")
    wrong = []
    with httpx.Client(timeout=120, follow_redirects=True) as client:
        for (dataset, name), origin in ORIGINS.items():
            if options.datasets and dataset not in options.datasets:
                continue
            file = options.data / dataset / f"{name}.npz"
            is_there = file.exists()
            try:
                voxels = np.load(file)["data"] if is_there else fetch(client, origin, options.source)
            except httpx.HTTPError as error:
                wrong.append(f"{dataset}/{name} cannot be fetched: {error}")
                continue
            if checksum(voxels) != origin.sha256:
                wrong.append(f"{dataset}/{name} is not what was trained with: {voxels.shape} {voxels.dtype}")
                continue
            if not is_there:
                file.parent.mkdir(parents=True, exist_ok=True)
                np.savez_compressed(file, data=voxels)
            print(f"{dataset}/{name}: {voxels.shape}, {'was there' if is_there else 'fetched'}")
    for line in wrong:
        print(line, file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
