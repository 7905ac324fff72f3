import json

import numpy as np
import pytest

from voxelworks.errors import InvalidDataset, UnsupportedDtype, UnsupportedFormat
from voxelworks.geometry import VoxelSize
from voxelworks.testing.independent_writers import write_n5
from voxelworks.volumes.formats import open_source, open_volumes

BLOCK = (2, 3, 4)


def noise(shape, dtype=np.uint8):
    return np.random.default_rng(8).integers(1, 200, shape).astype(dtype)


def write_attributes(folder, **attributes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "attributes.json").write_text(json.dumps(attributes))


def whole(source):
    return source.read(source.box)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64", "int16", "float32"])
def test_an_array_is_read_with_its_voxel_size(tmp_path, dtype):
    voxels = noise((5, 4, 6), dtype)
    size = {"resolution": [8, 8, 30], "units": ["nm", "nm", "nm"]}
    source = open_source(write_n5(tmp_path / "a", voxels, BLOCK, attributes=size))
    assert np.array_equal(whole(source)[0], voxels)
    assert (source.dtype, source.voxel_size) == (dtype, VoxelSize(8, 8, 30))
    assert source.voxel_size_from == "resolution in attributes.json"


def test_a_pyramid_of_n5_viewer_is_one_volume_at_its_finest_scale(tmp_path):
    voxels = noise((5, 4, 6))
    write_attributes(tmp_path, pixelResolution={"unit": "um", "dimensions": [0.01, 0.01, 0.05]})
    write_n5(tmp_path / "s0", voxels, BLOCK)
    write_n5(tmp_path / "s1", voxels[::2, ::2, ::2], BLOCK, attributes={"downsamplingFactors": [2, 2, 2]})
    (volume,) = open_volumes(tmp_path)
    assert np.array_equal(whole(volume.source)[0], voxels)
    assert volume.source.voxel_size == VoxelSize(10, 10, 50)
    assert volume.source.voxel_size_from == "pixelResolution in attributes.json"


def test_the_transform_of_cosem_counts_axes_as_numpy_does(tmp_path):
    transform = {"axes": ["z", "y", "x"], "scale": [3.36, 4, 5], "units": ["nm"] * 3, "translate": [0] * 3}
    write_attributes(tmp_path)
    write_n5(tmp_path / "em" / "s0", noise((5, 4, 6)), BLOCK, attributes={"transform": transform})
    (volume,) = open_volumes(tmp_path)
    assert (volume.name, volume.source.shape_zyx) == ("em", (5, 4, 6))
    assert volume.source.voxel_size == VoxelSize(5, 4, 3.36)


def test_setups_of_bigdataviewer_are_volumes_and_several_time_points_are_not_read(tmp_path):
    voxels = noise((5, 4, 6), np.uint16)
    write_attributes(tmp_path, n5="2.0.0")
    for setup in ("setup0", "setup1"):
        write_attributes(tmp_path / setup, downsamplingFactors=[[1, 1, 1]], dataType="uint16")
        write_attributes(tmp_path / setup / "timepoint0", multiScale=True, resolution=[1.0, 1.0, 2.0])
        write_n5(tmp_path / setup / "timepoint0" / "s0", voxels, BLOCK)
    volumes = open_volumes(tmp_path)
    assert [volume.name for volume in volumes] == ["setup0", "setup1"]
    assert np.array_equal(whole(volumes[1].source)[0], voxels)
    assert volumes[0].source.voxel_size is None
    assert "resolution in attributes.json states 1, 1, 2 without units" in volumes[0].source.notes[0]
    write_n5(tmp_path / "setup1" / "timepoint1" / "s0", voxels, BLOCK)
    (volume,) = open_volumes(tmp_path)
    assert volume.source.notes[-1] == "not read: setup1 (has 2 time points; name the folder of one)"


def test_groups_of_paintera_say_what_they_are_and_label_multisets_are_refused(tmp_path):
    raw, labels = noise((5, 4, 6)), noise((5, 4, 6), np.uint64)
    write_attributes(tmp_path)
    for name, kind, voxels in (("raw", "raw", raw), ("cells", "label", labels)):
        write_attributes(tmp_path / name, painteraData={"type": kind})
        write_attributes(tmp_path / name / "data", multiScale=True)
        write_n5(tmp_path / name / "data" / "s0", voxels, BLOCK)
    write_n5(tmp_path / "cells" / "unique-labels", labels, BLOCK)
    volumes = open_volumes(tmp_path)
    assert [(volume.name, volume.category) for volume in volumes] == [
        ("cells", "segmentation"),
        ("raw", None),
    ]
    assert np.array_equal(whole(volumes[0].source)[0], labels)
    write_n5(tmp_path / "multisets", raw, BLOCK, attributes={"isLabelMultiset": True})
    assert "holds label multisets of Paintera" in open_volumes(tmp_path)[0].source.notes[-1]


def test_channels_stand_last_in_numpy_or_first_and_named_axes_decide(tmp_path):
    voxels = noise((2, 5, 4, 6), np.uint16)
    write_n5(tmp_path / "c_first", voxels, (1, *BLOCK))
    assert [volume.name for volume in open_volumes(tmp_path / "c_first")] == ["channel 0", "channel 1"]
    assert np.array_equal(whole(open_source(tmp_path / "c_first", part="channel 1"))[0], voxels[1])
    named = {"axes": ["x", "y", "c", "z"]}
    write_n5(tmp_path / "named", voxels.transpose(1, 0, 2, 3), (2, 1, 3, 4), attributes=named)
    assert np.array_equal(whole(open_source(tmp_path / "named", part="channel 1"))[0], voxels[1])


def test_what_cannot_be_read_is_refused(tmp_path):
    write_n5(tmp_path / "float64", np.ones((2, 2, 2)), (2, 2, 2))
    with pytest.raises(UnsupportedDtype, match="holds float64 values"):
        open_source(tmp_path / "float64")
    write_n5(tmp_path / "packing", noise((2, 2, 2)), (2, 2, 2), attributes={"compression": {"type": "lz4"}})
    with pytest.raises(InvalidDataset, match="not understood"):
        open_source(tmp_path / "packing")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "attributes.json").write_text("{")
    with pytest.raises(InvalidDataset, match=r"attributes\.json is not JSON"):
        open_source(tmp_path / "text")
    write_attributes(tmp_path / "empty", n5="4.0.0")
    with pytest.raises(UnsupportedFormat, match="holds no array that is a volume; name another folder"):
        open_source(tmp_path / "empty")
