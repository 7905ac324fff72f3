"""Results of every workflow open in the official library of WEBKNOSSOS and hold there what was put in.

The library runs in an environment and a process of its own, once for all of them.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tifffile

import voxelworks
from reference import shrink
from voxelworks.geometry import MAG1, Box, VoxelSize
from voxelworks.testing.independent_volumes import VolumeLayer, write_annotation
from voxelworks.volumes.dataset import Dataset

CHECKER = Path(__file__).parents[2] / "check_with_webknossos.py"
SHAPE = (6, 40, 50)
"""z, y, x."""
VOXEL_NM = [4.0, 4.0, 40.0]
IMAGES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "rgb")
LABELS = ("uint8", "uint16", "uint32", "uint64", "int64")
FAR = (20_000_000, 7, 1_000_000)


def voxels_of(dtype, seed):
    dice = np.random.default_rng(seed)
    if dtype == "rgb":
        return dice.integers(0, 255, (3, *SHAPE)).astype("uint8")
    if dtype == "float32":
        return dice.normal(0, 1e5, (1, *SHAPE)).astype(dtype)
    limits = np.iinfo(dtype)
    low = max(limits.min, 0) if dtype in LABELS else limits.min
    few = dice.integers(low, limits.max, 9, dtype=dtype, endpoint=True)
    few[0] = limits.max
    return dice.choice(few, (1, *SHAPE))


class Claims:
    """What the library is asked about; references are kept in files."""

    def __init__(self, folder):
        self.folder = folder
        self.datasets = []

    def dataset(self, path):
        self.datasets.append({"path": str(path), "voxel_size": VOXEL_NM, "layers": {}})
        return self.datasets[-1]["layers"]

    def layer(self, layers, name, mags, *, category="color", start=(0, 0, 0), attachments=()):
        first = next(iter(mags.values()))
        largest = int(first.max()) if category == "segmentation" else None
        files = {}
        for mag, voxels in mags.items():
            files[mag] = str(self.folder / f"{len(self.datasets)}-{name}-{mag}.npy")
            np.save(files[mag], voxels)
        layers[name] = {
            "category": category, "dtype": first.dtype.name, "channels": len(first), "mags": files,
            "box": [*start, *first.shape[:0:-1]], "largest_segment_id": largest, "attachments": dict(attachments),
        }  # fmt: skip

    def check(self, python):
        (self.folder / "claims.json").write_text(json.dumps(self.datasets))
        done = subprocess.run(
            [python, CHECKER, "--claims", self.folder / "claims.json"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr[-3000:]
        return int(done.stdout.split()[-2])


def run(workflow, **params):
    return voxelworks.run(workflow, cluster="serial", **params)


def test_what_workflows_make_opens_in_the_official_library(tmp_path):
    python = os.environ.get("VOXELWORKS_TEST_WEBKNOSSOS_PYTHON")
    if not python:
        pytest.skip("VOXELWORKS_TEST_WEBKNOSSOS_PYTHON (a Python with the webknossos library) is not set")
    claims = Claims(tmp_path)
    _convert(tmp_path, claims)
    _materialize(tmp_path, claims)
    _far_away(tmp_path, claims)
    assert claims.check(python) > 150


def _convert(folder, claims):
    """Convert layers of every type, then add mags, index and statistics to some."""
    kinds = [("color", dtype) for dtype in IMAGES] + [("segmentation", dtype) for dtype in LABELS]
    arrays, sources = {}, []
    for seed, (category, dtype) in enumerate(kinds):
        voxels = arrays[f"{category}_{dtype}"] = voxels_of(dtype, seed)
        pages = np.moveaxis(voxels, 0, -1) if dtype == "rgb" else voxels[0]
        sources.append(folder / f"{category}_{dtype}.tif")
        photometric = "rgb" if dtype == "rgb" else "minisblack"
        tifffile.imwrite(sources[-1], pages, photometric=photometric, metadata=None)
    target = folder / "converted"
    run(
        "convert", source=[str(path) for path in sources], layer_name=list(arrays),
        category=[category for category, _ in kinds], target=str(target), voxel_size="4,4,40",
    )  # fmt: skip
    layers = claims.dataset(target)
    for (category, dtype), (name, voxels) in zip(kinds, arrays.items(), strict=True):
        mags = {"1": voxels}
        attachments = {}
        if dtype in ("rgb", "uint64"):
            run("downsample", layer=f"{target}/{name}", coarsest_mag="4-4-1")
            method = "mode" if category == "segmentation" else "mean"
            for finer, mag in (("1", "2-2-1"), ("2-2-1", "4-4-1")):
                mags[mag] = np.stack([shrink(channel, (1, 2, 2), method) for channel in mags[finer]])
        # WEBKNOSSOS' statistics have a row for each number: they are left out where an id is as large as can be.
        for kind, workflow, of in (
            ("segment_index", "compute_segment_index_file", "uint64"),
            ("segment_statistics", "compute_segment_statistics", "uint16"),
        ):
            if (category, dtype) == ("segmentation", of):
                run(workflow, layer=f"{target}/{name}")
                place = "".join([kind.split("_")[0], kind.split("_")[1].title()])
                attachments[kind] = str(target / name / place / kind)
        claims.layer(layers, name, mags, category=category, attachments=attachments)


def _materialize(folder, claims):
    source = Dataset.create(folder / "labelled", VoxelSize(*VOXEL_NM))
    labels, box = voxels_of("uint32", 50), Box((0, 0, 0), SHAPE[::-1])
    source.add_layer("cells", "segmentation", "uint32", 1, box).add_mag(MAG1, shard_zyx=(64, 64, 64)).write(
        box, labels
    )
    source.write_metadata()
    bucket = np.random.default_rng(3).integers(0, 2**32, (8, 8, 8), np.uint32)
    layer = VolumeLayer({"1": {(1, 2, 0): bucket}}, fallback="cells")
    write_annotation(folder / "annotation.zip", [layer])
    run(
        "materialize_volume_annotation", dataset=str(folder / "labelled"),
        annotation=str(folder / "annotation.zip"), target=str(folder / "materialized"),
    )  # fmt: skip
    expected = np.zeros((1, 8, *SHAPE[1:]), np.uint32)
    expected[:, : SHAPE[0]] = labels
    expected[0, :, 16:24, 8:16] = bucket
    layers = claims.dataset(folder / "materialized")
    claims.layer(layers, "cells_materialized", {"1": expected}, category="segmentation")


def _far_away(folder, claims):
    """What is cut out of a dataset that begins far from voxel 0 keeps its place."""
    source = Dataset.create(folder / "far", VoxelSize(*VOXEL_NM))
    voxels, box = voxels_of("uint16", 60), Box(FAR, SHAPE[::-1])
    layer = source.add_layer("em", "color", "uint16", 1, box)
    layer.add_mag(MAG1, shard_zyx=(64, 64, 64)).write(box, voxels)
    source.write_metadata()
    claims.layer(claims.dataset(folder / "far"), "em", {"1": voxels}, start=FAR)
