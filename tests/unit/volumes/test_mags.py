"""Which magnifications are chosen for a layer."""

import pytest

from voxelworks.errors import InvalidGeometry
from voxelworks.geometry import MAG1, Box, Mag, VoxelSize
from voxelworks.protocol.views import DatasetSummary, LayerSummary
from voxelworks.volumes.mags import mag_sequence, mags_remark, odd_mags


def sequence(voxel_size, size, **options):
    box = Box((0, 0, 0), size)
    return [str(mag) for mag in mag_sequence(VoxelSize.parse(voxel_size), box, **options)]


def test_cubic_voxels_are_doubled_on_all_axes_until_the_layer_fits():
    assert sequence("8,8,8", (1024, 1000, 900)) == ["2", "4"]
    assert sequence("8,8,8", (1025, 10, 10)) == ["2", "4", "8"]


def test_thick_sections_wait_until_the_other_axes_caught_up():
    assert sequence("4,4,40", (10_000, 10_000, 400)) == [
        "2-2-1",
        "4-4-1",
        "8-8-1",
        "16-16-2",
        "32-32-4",
        "64-64-8",
    ]
    assert sequence("11.24,11.24,28", (2048, 2048, 2048)) == ["2-2-1", "4-4-2", "8-8-4", "16-16-8"]


def test_an_axis_may_be_the_finest_alone():
    assert sequence("40,40,10", (600, 600, 2000)) == ["1-1-2", "1-1-4", "2-2-8", "4-4-16"]


def test_a_layer_that_fits_gets_no_coarser_mag():
    assert sequence("8,8,8", (256, 256, 256)) == []
    assert sequence("8,8,8", (256, 256, 256), fits=100) == ["2", "4"]


def test_a_single_section_is_doubled_like_the_rest():
    assert sequence("8,8,8", (1000, 1000, 1)) == ["2", "4"]


def test_it_continues_from_the_finest_mag_that_exists():
    assert sequence("4,4,40", (10_000, 10_000, 400), start=Mag(4, 4, 1), until=Mag(16, 16, 2)) == [
        "8-8-1",
        "16-16-2",
    ]


def test_it_ends_at_the_wanted_mag_also_beside_the_natural_way():
    size = (10_000, 10_000, 400)
    assert sequence("4,4,40", size, until=Mag(16, 16, 4)) == ["2-2-1", "4-4-1", "8-8-1", "16-16-2", "16-16-4"]
    assert sequence("4,4,40", size, until=Mag(1, 1, 4)) == ["1-1-2", "1-1-4"]
    assert sequence("8,8,8", (10, 10, 10), until=Mag(4, 4, 4)) == ["2", "4"]
    assert sequence("8,8,8", size, until=MAG1) == []


def test_a_wanted_mag_that_is_not_coarser_is_refused():
    with pytest.raises(InvalidGeometry, match="mag 2-2-1 is not coarser than mag 2"):
        sequence("8,8,8", (1000, 1000, 1000), start=Mag(2, 2, 2), until=Mag(2, 2, 1))


@pytest.mark.parametrize(
    ("voxel_size", "mags", "odd"),
    [
        ("4,4,40", "1 2-2-1 4-4-1 16-16-2", ""),
        ("4,4,40", "2-2-1 8-8-1", ""),
        ("4,4,40", "1", ""),
        ("10,10,10", "1 2-2-1 4-4-1", "2-2-1 4-4-1"),
        ("4,4,40", "1 2 4-4-1", "2"),
        ("4,4,40", "16-16-2 2-2-1 1", ""),
    ],
)
def test_mags_that_were_made_for_another_voxel_size_are_found(voxel_size, mags, odd):
    found = odd_mags(VoxelSize.parse(voxel_size), map(Mag.parse, mags.split()))
    assert [str(mag) for mag in found] == odd.split()


def test_the_remark_names_the_mags_that_do_not_fit():
    layers = [
        LayerSummary(
            name=name, category="color", dtype="uint8", channel_count=1, box="0,0,0,9,9,9", mags=mags
        )
        for name, mags in (("em", ("1", "2-2-1")), ("raw", ("1",)), ("empty", ()))
    ]
    assert mags_remark(DatasetSummary(voxel_size="4,4,40", layers=tuple(layers))) == ""
    assert mags_remark(DatasetSummary(voxel_size=None, layers=tuple(layers))) == ""
    assert mags_remark(DatasetSummary(voxel_size="4,4,4", layers=tuple(layers))) == (
        "The mags stay as they are, though others would be made for this voxel size: em (2-2-1). They are shown where "
        "they belong, but their voxels are longer on some axes than need be; to get others, convert the images again."
    )
