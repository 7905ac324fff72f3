"""Files of foreign programs become datasets voxel for voxel, from every face of `convert`."""

import gzip

import h5py
import numpy as np
import pytest

import voxelworks
from reference import properties, read_mag
from voxelworks.errors import InvalidParams
from voxelworks.testing.independent_writers import MrcStyle, NiftiStyle, write_mrc, write_nifti

VOLUME = np.random.default_rng(5).integers(0, 1000, (40, 50, 60), dtype=np.uint16)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setenv("VOXELWORKS_SHARD_BYTES_MAX", str(64**3))


def convert(source, tmp_path, **params):
    return voxelworks.run(
        "convert", source=str(source), target=str(tmp_path / "made"), pyramid=False, **params
    )


def test_an_mrc_file_states_its_own_voxel_size(tmp_path):
    path = write_mrc(tmp_path / "v.mrc", VOLUME, MrcStyle(byte_order="big", voxel_angstrom=(40, 40, 300)))
    answer = convert(path, tmp_path)
    assert (answer["layers"], answer["voxel_size"]) == (["color"], "4,4,30")
    assert np.array_equal(read_mag(tmp_path / "made", "color", "1")[0], VOLUME)


def test_a_packed_file_is_unpacked_once_into_a_scratch_file(tmp_path, small_shards):
    path = write_nifti(tmp_path / "v.nii", VOLUME, NiftiStyle(units=3))
    packed = tmp_path / "v.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert convert(packed, tmp_path)["voxel_size"] == "1000,1000,1000"
    assert np.array_equal(read_mag(tmp_path / "made", "color", "1")[0], VOLUME)
    assert not list(tmp_path.rglob("*.raw"))


def test_raw_voxels_need_their_size_and_type(tmp_path):
    (tmp_path / "v.dat").write_bytes(bytes(7) + VOLUME.astype(">u2").tobytes())
    layout = {"raw_size": "60,50,40", "raw_dtype": "uint16", "raw_header_bytes": 7, "raw_byte_order": "big"}
    convert(tmp_path / "v.dat", tmp_path, voxel_size="4,4,40", **layout)
    assert np.array_equal(read_mag(tmp_path / "made", "color", "1")[0], VOLUME)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"raw_size": "60,50"},
            "'60,50' is not a size of raw voxels; write x,y,z in whole voxels, such as 512,512,200",
        ),
        (
            {"raw_dtype": "uint16"},
            "raw_dtype is given, but not raw_size; give the size of the raw voxels as x,y,z",
        ),
    ],
)
def test_half_a_layout_is_refused(tmp_path, params, message):
    with pytest.raises(InvalidParams, match=message):
        convert(tmp_path / "v.dat", tmp_path, **params)


def test_each_time_point_becomes_a_layer(tmp_path):
    path = write_nifti(tmp_path / "v.nii", np.stack([VOLUME, VOLUME + 1]), NiftiStyle(units=3))
    assert convert(path, tmp_path)["layers"] == ["color_time-1", "color_time-2"]
    assert np.array_equal(read_mag(tmp_path / "made", "color_time-2", "1")[0], VOLUME + 1)


def test_images_and_labels_of_one_file_become_layers_of_their_kind(tmp_path):
    with h5py.File(tmp_path / "v.h5", "w") as root:
        root.create_dataset("raw", data=VOLUME, chunks=(1, 50, 60), compression="gzip")
        root["labels"] = VOLUME.astype(np.uint64) + 2**40
        root["raw"].attrs["element_size_um"] = root["labels"].attrs["element_size_um"] = (0.04, 0.004, 0.004)
    assert convert(tmp_path / "v.h5", tmp_path)["voxel_size"] == "4,4,40"
    layers = properties(tmp_path / "made")["dataLayers"]
    assert [(layer["name"], layer["category"]) for layer in layers] == [
        ("color_labels", "segmentation"),
        ("color_raw", "color"),
    ]
    assert np.array_equal(read_mag(tmp_path / "made", "color_raw", "1")[0], VOLUME)
    assert np.array_equal(
        read_mag(tmp_path / "made", "color_labels", "1")[0], VOLUME.astype(np.uint64) + 2**40
    )
    voxelworks.run(
        "convert", source=str(tmp_path / "v.h5"), part="labels", category="segmentation", layer_name="cells",
        target=str(tmp_path / "one"), pyramid=False,
    )  # fmt: skip
    assert properties(tmp_path / "one")["dataLayers"][0]["largestSegmentId"] == int(VOLUME.max()) + 2**40
