"""Files with several volumes: a layer of each, or of the one that was asked for."""

import numpy as np
import pytest
import tifffile

import voxelworks
from reference import properties, read_mag
from voxelworks.errors import InvalidParams
from voxelworks.testing.independent_writers import DmStyle, write_dm

PAGES = np.random.default_rng(4).integers(0, 200, (2, 3, 20, 30), dtype=np.uint8)
OME = {
    "axes": "CZYX", "Channel": {"Name": ["DAPI", "Cy5 / far red"]},
    "PhysicalSizeX": 0.1, "PhysicalSizeY": 0.1, "PhysicalSizeZ": 0.5,
}  # fmt: skip


@pytest.fixture
def two_channels(tmp_path):
    tifffile.imwrite(tmp_path / "s.ome.tif", PAGES, metadata=OME, photometric="minisblack")
    return tmp_path / "s.ome.tif"


def layers(dataset):
    return [layer["name"] for layer in properties(dataset)["dataLayers"]]


def test_each_channel_becomes_a_layer_with_the_voxel_size_of_the_file(two_channels, tmp_path):
    answer = voxelworks.run("convert", source=str(two_channels), target=str(tmp_path / "d"))
    assert answer["voxel_size"] == "100,100,500"
    assert layers(tmp_path / "d") == ["color_DAPI", "color_Cy5-far-red"]
    assert (read_mag(tmp_path / "d", "color_DAPI", "1")[0] == PAGES[0]).all()
    assert (read_mag(tmp_path / "d", "color_Cy5-far-red", "1")[0] == PAGES[1]).all()


def test_one_channel_is_taken_by_its_name(two_channels, tmp_path):
    layer = {"source": str(two_channels), "layer_name": "red", "part": "Cy5 / far red"}
    voxelworks.run("convert", layers=[layer], target=str(tmp_path / "d"))
    assert layers(tmp_path / "d") == ["red"]
    assert (read_mag(tmp_path / "d", "red", "1")[0] == PAGES[1]).all()
    layer["part"] = "GFP"
    with pytest.raises(InvalidParams) as error:
        voxelworks.run("convert", layers=[layer], target=str(tmp_path / "e"))
    assert error.value.message == f"{two_channels} has no part 'GFP': it holds DAPI, Cy5 / far red"


def test_a_long_series_is_no_dataset(tmp_path):
    pages = np.zeros((33, 2, 5, 7), np.uint8)
    tifffile.imwrite(tmp_path / "s.tif", pages, imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(InvalidParams) as error:
        voxelworks.run(
            "convert", source=str(tmp_path / "s.tif"), target=str(tmp_path / "d"), voxel_size="1,1,1"
        )
    assert error.value.message == (
        f"{tmp_path / 's.tif'} holds 33 volumes, which are too many for one dataset; "
        "choose one of them as `part`, such as 't0'"
    )
    assert not (tmp_path / "d").exists()


def test_images_are_from_the_microscope_that_the_file_or_the_user_says(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (3, 20, 30), np.uint8)
    stack = write_dm(tmp_path / "stack.dm4", image, DmStyle(version=4))
    np.save(tmp_path / "labels.npy", image)
    run = {"voxel_size": "4,4,40"}

    def stated(target, **params):
        voxelworks.run("convert", target=str(tmp_path / target), **run, **params)
        return [layer.get("modality") for layer in properties(tmp_path / target)["dataLayers"]]

    assert stated("said", source=str(stack)) == ["electron microscopy"]
    assert stated("given", source=str(stack), modality="serial  block-face SEM") == ["serial block-face SEM"]
    assert stated("unknown", source=str(tmp_path / "labels.npy")) == [None]
    both = [
        {"source": str(stack)},
        {"source": str(tmp_path / "labels.npy"), "category": "segmentation"},
    ]
    assert stated("both", layers=both, modality="ssTEM") == ["ssTEM", None]
    with pytest.raises(InvalidParams, match="names no kind of microscopy"):
        stated("refused", source=str(stack), modality="\a")
    assert not (tmp_path / "refused").exists()
