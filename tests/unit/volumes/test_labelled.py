"""What the files of a labelled box are called, and how their place is found again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxelworks.geometry import Box, Mag, VoxelSize
from voxelworks.volumes.labelled import BoxPlace, box_name, is_of, place_in_ome, trains, with_boxes
from voxelworks.volumes.metadata import ome_image

names = st.text(st.sampled_from("aZ0_-.é /"), min_size=1, max_size=200)
powers = st.sampled_from([1, 2, 4, 8, 64])
mags = st.builds(Mag, powers, powers, powers)
numbers = st.integers(0, 10**9)
boxes = st.builds(Box, st.tuples(numbers, numbers, numbers), st.tuples(*[st.integers(1, 10**6)] * 3))
sizes_nm = st.builds(VoxelSize, *[st.floats(0.1, 1000)] * 3)


@given(dataset=names, layer=names, mag=mags, box=boxes)
def test_the_name_of_a_file_says_where_it_belongs(dataset, layer, mag, box):
    name = box_name(dataset, layer, BoxPlace(mag, box))
    assert len(name) < 240
    for saved in (f"{name}__labels.tif", f"my {name}__labels-1 (2).tif", f"{name}.ome.zarr"):
        place = BoxPlace.in_name(saved)
        assert (place.mag, place.box) == (mag, box)
        assert is_of(place, dataset)


@pytest.mark.parametrize(
    "name",
    [
        "labels.tif", "a__b__mag1__box1-2-3-4-5.tif", "a__b__mag3__box1-2-3-4-5-6.tif", "a__b__mag1__box1-2-3-0-5-6",
        "a__mag1__box1-2-3-4-5-6.tif",
    ],
)  # fmt: skip
def test_a_name_that_says_no_place_is_none(name):
    assert BoxPlace.in_name(name) is None


@given(
    voxel_size=sizes_nm,
    mag=mags,
    start=st.tuples(*[st.integers(0, 10**6)] * 3),
    size=st.tuples(*[st.integers(1, 500)] * 3),
)
def test_coordinates_say_where_an_image_belongs(voxel_size, mag, start, size):
    attributes = ome_image("labels", voxel_size, [(mag, "0", start)])["zarr.json"]["attributes"]["ome"]
    assert place_in_ome(attributes, voxel_size, size) == BoxPlace(mag, Box(start, size).from_mag(mag))


@pytest.mark.parametrize(
    "attributes",
    [
        {}, {"multiscales": []}, {"multiscales": [{"axes": [], "datasets": []}]},
        ome_image("labels", VoxelSize(3, 4, 40), [(Mag(1, 1, 1), "0", (1, 2, 3))])["zarr.json"]["attributes"]["ome"],
    ],
)  # fmt: skip
def test_coordinates_that_are_no_whole_voxels_say_nothing(attributes):
    assert place_in_ome(attributes, VoxelSize(4, 4, 40), (5, 5, 5)) is None


def test_a_box_that_lies_in_a_new_one_is_replaced():
    old = (Box((0, 0, 0), (5, 5, 5)), Box((50, 0, 0), (5, 5, 5)), Box((8, 0, 0), (5, 5, 5)))
    new = Box((0, 0, 0), (10, 10, 10))
    assert with_boxes(old, [new]) == (old[1], old[2], new)
    assert with_boxes(old, [new, new]) == (old[1], old[2], new)


@pytest.mark.parametrize(
    ("size", "found"),
    [
        ((85, 85, 30), ["neurons"]), ((84, 85, 30), []), ((32, 32, 32), ["instances"]),
        ((128, 128, 64), ["neurons", "instances"]),
    ],
)  # fmt: skip
def test_a_box_says_what_it_is_large_enough_for(size, found):
    assert trains(size) == found
