import json

import pytest

from voxelworks.errors import InvalidDataset
from voxelworks.geometry import Mag, VoxelSize
from voxelworks.volumes.ome import read_image


def scale(*xyz):
    """What OME metadata say of a scale, in the order of the axes."""
    return [{"type": "scale", "scale": list(reversed(xyz))}]


def an_image(*levels, **multiscale):
    """Read an image whose levels have these scales (x, y, z)."""
    axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    datasets = [
        {"path": str(i), "coordinateTransformations": scale(*level)} for i, level in enumerate(levels)
    ]
    image = {"axes": axes, "datasets": datasets, **multiscale}
    files = {
        "zarr.json": {"attributes": {"ome": {"version": "0.5", "multiscales": [image]}}},
        "0/zarr.json": {"data_type": "uint8", "shape": [30, 40, 50]},
    }
    return read_image(lambda name: json.dumps(files[name]).encode(), "here", "image")


def mags(*levels, **multiscale):
    [layer] = an_image(*levels, **multiscale).data_layers
    return [mag.mag for mag in layer.mags]


def test_levels_at_powers_of_two_are_mags():
    assert mags((4, 4, 40), (8, 8, 40), (16, 16, 80)) == [Mag(1, 1, 1), Mag(2, 2, 1), Mag(4, 4, 2)]


@pytest.mark.parametrize("ratio", [0.3, 0.6, 1.5, 2.9, 3.5, 3, 6, 12, float("inf")])
def test_levels_between_the_powers_of_two_are_left_out(ratio):
    assert mags((4, 4, 4), (4 * ratio, 4, 4), (16, 16, 16)) == [Mag(1, 1, 1), Mag(4, 4, 4)]


def test_levels_may_state_the_ratio_of_their_shapes():
    """Writers that divide 999 voxels by 500 state 1.998 for 2; others calculate with 32 bits."""
    assert mags((1, 1, 1), (999 / 500, 2, 2.0000001), (999 / 63, 16, 16)) == [
        Mag(1, 1, 1),
        Mag(2, 2, 2),
        Mag(16, 16, 16),
    ]


def test_the_scale_of_all_levels_multiplies_with_that_of_each():
    image = an_image((1, 1, 1), (2, 2, 1), coordinateTransformations=scale(4, 4, 40))
    assert image.voxel_size == VoxelSize(4, 4, 40)
    assert mags((1, 1, 1), (2, 2, 1), coordinateTransformations=scale(4, 4, 40)) == [
        Mag(1, 1, 1),
        Mag(2, 2, 1),
    ]
    assert an_image((2, 2, 0.5), coordinateTransformations=scale(2, 2, 80)).voxel_size == VoxelSize(4, 4, 40)
    moved = [{"type": "translation", "translation": [9, 9, 9]}]
    assert an_image((4, 4, 40), coordinateTransformations=moved).voxel_size == VoxelSize(4, 4, 40)
    assert an_image((4, 4, 40), coordinateTransformations=None).voxel_size == VoxelSize(4, 4, 40)


@pytest.mark.parametrize("wrong", [0, -4, float("nan"), float("inf")])
def test_a_scale_that_is_no_size_is_refused(wrong):
    with pytest.raises(InvalidDataset, match="each part must be a positive number of nanometres"):
        an_image((4, 4, wrong))
    with pytest.raises(InvalidDataset, match="each part must be a positive number of nanometres"):
        an_image((4, 4, 40), coordinateTransformations=scale(1, 1, wrong))
