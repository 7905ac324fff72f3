import json

import numpy as np
import pytest

from voxelworks.errors import UnsafeReference, UnsupportedFormat
from voxelworks.geometry import Box, Mag, VoxelSize
from voxelworks.volumes.dataset import Dataset
from voxelworks.volumes.formats import open_source, open_volumes


def noise(shape, dtype=np.uint8):
    return np.random.default_rng(8).integers(0, 200, shape).astype(dtype)


def add(dataset, name, category, voxels, *, corner=(0, 0, 0), mag=Mag(1, 1, 1)):
    box = Box(corner, voxels.shape[:0:-1])
    layer = dataset.add_layer(name, category, voxels.dtype, voxels.shape[0], box.from_mag(mag))
    layer.add_mag(mag, shard_zyx=(64, 64, 64)).write(box, voxels)


@pytest.fixture
def dataset(tmp_path):
    return Dataset.create(tmp_path / "cortex", VoxelSize(4, 4, 40))


def test_every_layer_is_a_volume_of_its_category(dataset):
    colours, labels = noise((3, 5, 6, 7)), noise((1, 5, 6, 7), np.uint64) + 2**60
    add(dataset, "color", "color", colours)
    add(dataset, "cells", "segmentation", labels, corner=(100, 20, 3))
    add(dataset, "coarse", "color", noise((1, 5, 6, 7), np.uint16), mag=Mag(2, 2, 1))
    dataset.add_layer("empty", "color", "uint8", 1, Box((0, 0, 0), (9, 9, 9)))
    dataset.write_metadata()
    found = {volume.name: volume for volume in open_volumes(dataset.location)}
    assert {name: volume.category for name, volume in found.items()} == {
        "color": "color", "cells": "segmentation", "coarse": "color",
    }  # fmt: skip
    sources = {name: volume.source for name, volume in found.items()}
    assert np.array_equal(sources["color"].read(sources["color"].box), colours)
    assert np.array_equal(sources["cells"].read(sources["cells"].box), labels)
    left_out = "not read, as they hold nothing: empty"
    assert sources["color"].notes == (left_out,)
    assert sources["cells"].notes == (left_out, "the first voxel of cells lies at 100,20,3; it becomes 0,0,0")
    assert sources["coarse"].notes == (left_out, "layer coarse is read in mag 2-2-1, the finest that it has")
    assert (sources["color"].voxel_size, sources["coarse"].voxel_size) == (
        VoxelSize(4, 4, 40),
        VoxelSize(8, 8, 40),
    )
    assert sources["color"].voxel_size_from == "datasource-properties.json"


def test_the_only_layer_needs_no_name_and_a_dataset_without_any_is_refused(dataset):
    dataset.write_metadata()
    with pytest.raises(UnsupportedFormat, match="the dataset cortex has no layer with voxels"):
        open_source(dataset.location)
    add(dataset, "color", "color", noise((1, 5, 6, 7)))
    dataset.write_metadata()
    assert [volume.name for volume in open_volumes(dataset.location)] == [""]


def test_a_mag_elsewhere_is_read_only_for_those_who_are_trusted(dataset, tmp_path):
    voxels = noise((1, 5, 6, 7))
    add(dataset, "color", "color", voxels)
    dataset.write_metadata()
    file = tmp_path / "cortex" / "datasource-properties.json"
    properties = json.loads(file.read_text())
    (tmp_path / "cortex" / "color" / "1").rename(tmp_path / "elsewhere")
    properties["dataLayers"][0]["mags"][0]["path"] = str(tmp_path / "elsewhere")
    file.write_text(json.dumps(properties))
    with pytest.raises(UnsafeReference, match="lies outside the dataset"):
        open_volumes(dataset.location)
    (volume,) = open_volumes(dataset.location, may_leave_folder=True)
    assert np.array_equal(volume.source.read(volume.source.box), voxels)
