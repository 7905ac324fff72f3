"""Turn the public data sets into datasets that workflows read, one layer `color` and one layer `labels` each."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import synthetic
from scipy import ndimage

from voxelworks.geometry import Box, Mag, VoxelSize
from voxelworks.volumes.dataset import Dataset

HERE = Path(__file__).parent
IMAGES: dict[str, tuple[tuple[str, ...], str]] = {
    "mito_sbem_cdeep3m": (("raw_v1", "raw_v2"), "labels_mito"),
    "mito_vnc_sstem": (("raw",), "labels_mito"),
    "neuron_fib25": (("raw",), "labels_neuron"),
    "neuron_gala": (("raw",), "labels_neuron"),
    "nuclei_stardist": (("img3d",), "mask3d"),
    "nuclei_qcanet": (("raw",), "labels_nuclei"),
}
"""The files of each data set: images, one after the other in z, and labels."""
WITHOUT_IDS = ("mito_sbem_cdeep3m", "mito_vnc_sstem", "nuclei_qcanet")
"""Data sets that tell the foreground alone: what hangs together is one object."""
SYNTHETIC = "nuclei_synthetic_"
"""Begin of the names of images that are drawn; their seed follows."""


@dataclass(frozen=True)
class Split:
    """One part of a data set."""

    data: str
    """Its section in the file."""
    dataset: str
    purpose: str
    box: Box | None
    """None for all of it."""


def splits(path: Path = HERE / "splits.toml") -> Iterator[Split]:
    """Read all parts, in the order of the file."""
    for name, facts in tomllib.loads(path.read_text()).items():
        for purpose in ("train", "validate", "test"):
            for part in facts.get(purpose, []):
                yield Split(name, name, purpose, _box(part, SHAPES[name]))
            for seed in facts.get(f"{purpose}_seeds", []):
                yield Split(name, f"{name}_{seed}", purpose, None)


def voxel_size(name: str) -> VoxelSize:
    return VoxelSize(*tomllib.loads((HERE / "splits.toml").read_text())[name]["voxel_size"])


def make_dataset(source: Path, name: str, target: Path) -> Path:
    """Make a dataset of the files in a folder, or of a seed, unless it is there; give its folder."""
    folder = target / name
    if folder.exists():
        return folder
    if name.startswith(SYNTHETIC):
        image, labels, thickness_nm = synthetic.nuclei(int(name.removeprefix(SYNTHETIC)))
        size = VoxelSize(synthetic.VOXEL_NM, synthetic.VOXEL_NM, thickness_nm)
    else:
        images, truth = IMAGES[name]
        image = np.concatenate([load(source / name / f"{file}.npz") for file in images])
        labels = load(source / name / f"{truth}.npz")
        size = voxel_size(name)
    if name in WITHOUT_IDS:
        labels = ndimage.label(labels)[0].astype(np.uint32)
    dataset = Dataset.create(folder.with_name(f"{name}.part"), size, name=name)
    for layer, array, category in (("color", image, "color"), ("labels", labels, "segmentation")):
        box = Box.from_zyx((0, 0, 0), array.shape)
        made = dataset.add_layer(layer, category, array.dtype.name, 1, box)
        made.add_mag(Mag(1, 1, 1), shard_zyx=(64, 64, 64)).write(box, np.ascontiguousarray(array))
    dataset.source = dataset.source.with_largest_segment_id("labels", int(labels.max()))
    dataset.write_metadata()
    folder.with_name(f"{name}.part").rename(folder)
    return folder


def add_reference(source: Path, name: str, target: Path) -> None:
    """Add what others published as their segmentation of the same data, as the layer `ffn`."""
    dataset = Dataset.open(target / name)
    if any(layer.name == "ffn" for layer in dataset.layers):
        return
    array = load(source / name / "ffn_baseline.npz")
    box = Box.from_zyx((0, 0, 0), array.shape)
    made = dataset.add_layer("ffn", "segmentation", array.dtype.name, 1, box)
    made.add_mag(Mag(1, 1, 1), shard_zyx=(64, 64, 64)).write(box, np.ascontiguousarray(array))
    dataset.source = dataset.source.with_largest_segment_id("ffn", int(array.max()))
    dataset.write_metadata()


SHAPES: dict[str, tuple[int, int, int]] = {
    "mito_sbem_cdeep3m": (30, 1024, 1024),
    "mito_vnc_sstem": (13, 1024, 1024),
    "neuron_fib25": (160, 250, 250),
    "neuron_gala": (50, 100, 200),
    "nuclei_stardist": (31, 61, 57),
    "nuclei_qcanet": (51, 120, 122),
}


def _box(part: dict[str, list[int]], shape_zyx: tuple[int, int, int]) -> Box:
    ranges = [part.get(axis, [0, size]) for axis, size in zip("zyx", shape_zyx, strict=True)]
    start = tuple(first for first, _ in ranges)
    return Box.from_zyx((start[0], start[1], start[2]), tuple(last - first for first, last in ranges))


def load(path: Path) -> np.ndarray[Any, Any]:
    """Read a file of a data set."""
    with np.load(path) as file:
        return file["data"]
