"""Laws of boxes, mags and voxel sizes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from voxelworks.errors import InvalidGeometry
from voxelworks.geometry import MAG1, Box, Mag, VoxelSize

powers = st.integers(0, 10).map(lambda exponent: 2**exponent)
mags = st.builds(Mag, powers, powers, powers)
positions = st.integers(-(10**9), 10**9)
extents = st.integers(0, 10**6)
boxes = st.builds(Box, st.tuples(positions, positions, positions), st.tuples(extents, extents, extents))
small_boxes = st.builds(
    Box,
    st.tuples(*[st.integers(0, 12)] * 3),
    st.tuples(*[st.integers(0, 12)] * 3),
)
nanometres = st.floats(1e-3, 1e9, allow_nan=False).map(lambda value: float(format(value, ".12g")))
voxel_sizes = st.builds(VoxelSize, nanometres, nanometres, nanometres)


class Everything(BaseModel):
    box: Box
    mag: Mag
    voxel_size: VoxelSize


@given(box=boxes, mag=mags, voxel_size=voxel_sizes)
def test_text_forms_and_json_are_read_back_as_the_same_values(box, mag, voxel_size):
    assert (Box.parse(str(box)), Mag.parse(str(mag)), VoxelSize.parse(str(voxel_size))) == (
        box,
        mag,
        voxel_size,
    )
    everything = Everything(box=box, mag=mag, voxel_size=voxel_size)
    assert Everything.model_validate_json(everything.model_dump_json()) == everything


@given(box=boxes, mag=mags)
def test_array_order_is_the_reverse_of_text_order(box, mag):
    assert Box.from_zyx(box.start_zyx, box.shape_zyx) == box
    assert box.start_zyx == box.topleft[::-1]
    assert Mag.from_zyx(mag.zyx) == mag


@given(box=small_boxes)
def test_slices_of_a_box_cut_exactly_its_voxels(box):
    array = np.zeros((30, 30, 30), np.uint8)
    array[box.slices_zyx] = 1
    assert array.sum() == box.voxel_count


@given(box=boxes, mag=mags)
def test_a_box_in_a_mag_is_the_smallest_that_covers_it(box, mag):
    coarse = box.in_mag(mag)
    back = coarse.from_mag(mag)
    assert back.contains(box)
    assert all(0 <= a - b < m for a, b, m in zip(box.topleft, back.topleft, mag.xyz, strict=True))
    assert all(0 <= b - a < m for a, b, m in zip(box.bottomright, back.bottomright, mag.xyz, strict=True))


@given(box=boxes, first=mags, second=mags)
def test_going_to_a_mag_in_two_steps_is_the_same_as_in_one(box, first, second):
    assert box.in_mag(first).in_mag(second) == box.in_mag(first.times(second))


@given(a=small_boxes, b=small_boxes)
def test_intersection_and_union_agree_with_sets_of_voxels(a, b):
    in_a, in_b = np.zeros((2, 30, 30, 30), bool)
    in_a[a.slices_zyx] = True
    in_b[b.slices_zyx] = True
    assert a.intersect(b).voxel_count == (in_a & in_b).sum()
    assert a.union(b).contains(a)
    assert a.union(b).contains(b)


@given(box=small_boxes, tile=st.tuples(*[st.integers(1, 7)] * 3))
def test_tiles_cover_each_voxel_once_and_lie_on_the_grid(box, tile):
    seen = np.zeros((30, 30, 30), np.uint8)
    for part in box.tiles(tile):
        seen[part.slices_zyx] += 1
        assert all(
            start // step == (stop - 1) // step
            for start, stop, step in zip(part.topleft, part.bottomright, tile, strict=True)
        )
    expected = np.zeros_like(seen)
    expected[box.slices_zyx] = 1
    assert (seen == expected).all()


@given(box=boxes, mag=mags, size=st.tuples(*[st.integers(1, 300)] * 3))
def test_the_middle_of_a_box_lies_in_it_and_has_at_most_so_many_voxels_on_the_grid(box, mag, size):
    middle = box.middle(size, mag)
    assert box.contains(middle)
    assert middle.is_empty == box.is_empty
    if middle.is_empty:
        return
    coarse = middle.in_mag(mag)
    assert all(extent <= most for extent, most in zip(coarse.size, size, strict=True))
    assert coarse.from_mag(mag).intersect(box) == middle, "it ends on the grid, or where the box ends"
    for axis in range(3):
        before = coarse.topleft[axis] - box.in_mag(mag).topleft[axis]
        after = box.in_mag(mag).bottomright[axis] - coarse.bottomright[axis]
        assert after - before in (0, 1)


@given(coarse=mags, fine=mags)
def test_relative_mag_times_the_finer_one_is_the_coarser_one(coarse, fine):
    if all(a >= b for a, b in zip(coarse.xyz, fine.xyz, strict=True)):
        assert fine.times(coarse.relative_to(fine)) == coarse
    else:
        with pytest.raises(InvalidGeometry, match="is not coarser than"):
            coarse.relative_to(fine)


def test_an_isotropic_mag_has_a_short_form():
    assert [str(Mag(1, 1, 1)), str(Mag(4, 4, 4)), str(Mag(4, 4, 1))] == ["1", "4", "4-4-1"]
    assert Mag.parse("4,4,1") == Mag(4, 4, 1)
    assert Mag.parse("1") == MAG1


@pytest.mark.parametrize(
    ("own", "wanted", "mags", "chosen"),
    [
        ("10,10,10", "10,10,10", ("1", "2"), "1"),
        ("4,4,35", "8,8,35", ("1", "2-2-1", "4-4-2"), "2-2-1"),
        ("4,4,40", "10,10,35", ("1", "2-2-1", "4-4-1"), "2-2-1"),  # none has shorter voxels in z
        ("4,4,40", "10,10,35", ("1", "2", "4"), "1"),
        ("2,2,2", "8.1,7.9,8", ("1", "2", "4", "8"), "4"),
        ("50,50,50", "10,10,10", ("2", "4"), "2"),
    ],
)
def test_the_coarsest_mag_that_shows_as_much_is_chosen(own, wanted, mags, chosen):
    found = VoxelSize.parse(own).mag_for(VoxelSize.parse(wanted), [Mag.parse(mag) for mag in mags])
    assert str(found) == chosen


@pytest.mark.parametrize(
    ("own", "wanted", "shown"),
    [
        ("5,5,40", "10,10,35", "10,10,40"),
        ("5,5,140", "10,10,35", "10,10,140"),
        ("10,10,18", "10,10,35", "10,10,18"),
        ("10,10,17", "10,10,35", "10,10,35"),  # two of them make one
        ("10,10,10", "10,10,16", "10,10,16"),  # imaged as a volume
        ("4,4,40", "8,8,8", "8,8,8"),  # the network sees volumes
        ("9,9,30", "10,12,35", "10,12,30"),
    ],
)
def test_sections_stay_sections_where_a_network_sees_other_voxels(own, wanted, shown):
    found = VoxelSize.parse(own).shown_as(VoxelSize.parse(wanted))
    assert str(found) == shown
    assert VoxelSize.parse(own).shown_as(found) == found


def test_units_become_nanometres():
    assert VoxelSize.in_unit(0.004, 0.004, 0.04, "micrometer") == VoxelSize(4, 4, 40)
    with pytest.raises(InvalidGeometry, match="unit 'furlong' is not known"):
        VoxelSize.in_unit(1, 1, 1, "furlong")


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (Mag, "3-3-1", "each part must be a power of two"),
        (Mag, "4-4", "write it as 4-4-1"),
        (Mag, "", "'' is not a mag"),
        (VoxelSize, "4,4", "'4,4' is not a voxel size"),
        (VoxelSize, "4,4,0", "must be a positive number"),
        (VoxelSize, "4,4,nan", "must be a positive number"),
        (VoxelSize, "inf,4,4", "must be a positive number"),
        (Box, "1,2,3", "write x,y,z,width,height,depth"),
        (Box, "0,0,0,1,1,-1", "must not be negative"),
        (Box, "0,0,0,1,1,1.5", "in whole voxels"),
    ],
)
def test_wrong_texts_are_refused_with_the_value_and_the_right_form(kind, text, message):
    with pytest.raises(InvalidGeometry, match=message):
        kind.parse(text)
