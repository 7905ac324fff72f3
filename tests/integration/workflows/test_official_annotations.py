"""Annotations pass between the official library of WEBKNOSSOS and us, voxel for voxel.

What the library writes is materialized here; what our own writers make, which other tests are built on, the library
reads. It runs in an environment and a process of its own, once for all of them.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import voxelworks
from reference import read_mag
from voxelworks.geometry import MAG1, Box, VoxelSize
from voxelworks.testing.independent_volumes import VolumeLayer, write_annotation
from voxelworks.volumes.annotations import Annotation, Limits
from voxelworks.volumes.dataset import Dataset

SCRIPT = Path(__file__).parents[2] / "annotate_with_webknossos.py"
BOX = Box((0, 0, 0), (100, 70, 40))
BUCKET = 32
TREES = [[[3, 3, 3], [45, 3, 3], [3, 40, 20]], [[90, 60, 30]]]
"""The second node lies in a bucket that was changed."""
SEGMENTS = [
    [5, "soma", [1.0, 0.5, 0.0, 1.0]],
    [2**31, "Zelle \N{LATIN SMALL LETTER U WITH DIAERESIS}", [0.0, 0.0, 1.0, 1.0]],
]


class Orders:
    """What the library is told to write and to read; voxels are kept in files."""

    def __init__(self, folder):
        self.folder = folder
        self.write = []
        self.read = []
        self._count = 0

    def file(self, voxels):
        self._count += 1
        np.save(self.folder / f"{self._count}.npy", voxels)
        return str(self.folder / f"{self._count}.npy")

    def run(self, python):
        path = self.folder / "orders.json"
        path.write_text(json.dumps({"write": self.write, "read": self.read}))
        done = subprocess.run([python, SCRIPT, path], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr[-3000:]
        return int(done.stdout.split()[-2])


def test_annotations_pass_between_the_official_library_and_us(tmp_path):
    python = os.environ.get("VOXELWORKS_TEST_WEBKNOSSOS_PYTHON")
    if not python:
        pytest.skip("VOXELWORKS_TEST_WEBKNOSSOS_PYTHON (a Python with the webknossos library) is not set")
    orders = Orders(tmp_path)
    edits = _order_annotations(tmp_path, orders)
    _write_ours(tmp_path, orders)
    assert orders.run(python) > 30
    labels = _label(tmp_path)
    for dtype, whole in edits.items():
        _check_materialized(tmp_path, dtype, labels[dtype], whole)


def _order_annotations(folder, orders):
    """Let the library write an annotation for each type; give what was drawn, over the whole box (z, y, x)."""
    drawn = {}
    for dtype in ("uint32", "uint64"):
        dice = np.random.default_rng(len(dtype))
        whole = np.zeros(BOX.shape_zyx, dtype)
        pieces = []
        # A whole bucket with holes; and a stroke that fills only a part of two buckets.
        for start, size in (((32, 0, 0), (32, 32, 32)), ((60, 33, 5), (10, 8, 3))):
            box = Box(start, size)
            voxels = dice.integers(0, 4, box.shape_zyx).astype(dtype) * np.array(
                np.iinfo(dtype).max // 3, dtype
            )
            whole[box.slices_zyx] = voxels
            pieces.append([start, orders.file(voxels)])
        drawn[dtype] = whole
        orders.write.append({
            "path": str(folder / f"{dtype}.zip"), "voxel_size": [4, 4, 40], "dataset": "demo", "trees": TREES,
            "volume": "Volume", "fallback": dtype, "dtype": dtype, "mag": "1", "pieces": pieces, "segments": SEGMENTS,
        })  # fmt: skip
    return drawn


def _label(folder):
    """Make the dataset that is annotated: blocks of 20 voxels, each a segment."""
    dataset, made = Dataset.create(folder / "demo", VoxelSize(4, 4, 40)), {}
    z, y, x = np.indices(BOX.shape_zyx)
    for dtype in ("uint32", "uint64"):
        made[dtype] = (1000 + x // 20 + 10 * (y // 20) + 100 * (z // 20)).astype(dtype)
        layer = dataset.add_layer(dtype, "segmentation", dtype, 1, BOX)
        layer.add_mag(MAG1, shard_zyx=(64, 64, 64)).write(BOX, made[dtype])
    dataset.write_metadata()
    return made


def _check_materialized(folder, dtype, labels, drawn):
    file = folder / f"{dtype}.zip"
    summary = Annotation.open(file, Limits(2**20, 2**30)).summary
    assert (summary.dataset_name, summary.tree_count, summary.node_count) == ("demo", 2, 4)
    assert [(layer.name, layer.fallback_layer) for layer in summary.volume_layers] == [("Volume", dtype)]
    voxelworks.run(
        "materialize_volume_annotation", dataset=str(folder / "demo"), annotation=str(file),
        target=str(folder / f"made-{dtype}"), merge_segments=True, copy_other_layers=False, cluster="serial",
    )  # fmt: skip
    expected = labels.copy()
    for bucket in BOX.tiles((BUCKET, BUCKET, BUCKET)):
        if drawn[bucket.slices_zyx].any():  # such a bucket is saved whole, with its zeros
            expected[bucket.slices_zyx] = drawn[bucket.slices_zyx]
    for tree in TREES:
        ids = [expected[z, y, x] for x, y, z in tree]
        for label in ids[1:]:
            if label:
                expected[expected == label] = ids[0]
    found = read_mag(folder / f"made-{dtype}", f"{dtype}_materialized", "1")[0]
    padding = [(0, stored - extent) for stored, extent in zip(found.shape, expected.shape, strict=True)]
    assert found.dtype == expected.dtype
    assert np.array_equal(found, np.pad(expected, padding))


def _write_ours(folder, orders):
    """Write annotations as our tests do, in both formats, with buckets of both sizes; let the library read them."""
    for number, (data_format, edge, dtype) in enumerate(
        [("wkw", 8, "uint32"), ("wkw", 32, "uint64"), ("zarr3", 8, "uint16"), ("zarr3", 32, "uint64")]
    ):
        dice = np.random.default_rng(number)
        buckets = {
            mag: {
                place: dice.integers(0, np.iinfo(dtype).max, (edge,) * 3, dtype, endpoint=True)
                for place in places
            }
            for mag, places in (("1", [(1, 2, 0), (0, 0, 3)]), ("2-2-1", [(3, 0, 1)]))
        }
        layer = VolumeLayer(buckets, data_format, name="Edits", fallback="segmentation")
        path = write_annotation(folder / f"ours{number}.zip", [layer], TREES)
        stated = [
            [mag, [place * edge for place in places], orders.file(voxels)]
            for mag, inside in buckets.items()
            for places, voxels in inside.items()
        ]
        volume = {"fallback": "segmentation", "dtype": dtype, "buckets": stated}
        orders.read.append({"path": str(path), "trees": TREES, "volumes": {"Edits": volume}})
