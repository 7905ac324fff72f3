import os

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voxelworks.errors import MissingSections, SourceNotFound, UnsupportedFormat
from voxelworks.geometry import Box, VoxelSize
from voxelworks.testing.independent_writers import TiffStyle, write_tiff
from voxelworks.volumes.formats import open_source, open_volumes

NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
SIZES = 'PhysicalSizeX="0.004" PhysicalSizeY="4" PhysicalSizeYUnit="nm" PhysicalSizeZ="500" PhysicalSizeZUnit="\u212b"'


def noise(shape, dtype=np.uint8):
    return np.random.default_rng(6).integers(0, 200, shape).astype(dtype)


def ome_xml(*, z=3, c=1, t=1, blocks="<TiffData/>", sizes="", channels="", uuid="", order="XYZCT"):
    return (
        f'<?xml version="1.0"?><OME xmlns="{NAMESPACE}"{uuid}><Image ID="Image:0"><Pixels ID="Pixels:0" '
        f'DimensionOrder="{order}" Type="uint8" SizeX="7" SizeY="5" SizeZ="{z}" SizeC="{c}" SizeT="{t}" {sizes}>'
        f"{channels}{blocks}</Pixels></Image></OME>"
    )


def write_ome(path, pages, xml, **style):
    return write_tiff(path, pages, TiffStyle(description=xml, **style))


def refusal(kind, path, **options):
    with pytest.raises(kind) as error:
        open_source(path, **options)
    assert type(error.value) is kind
    return error.value.message


@pytest.mark.parametrize("blocks", ["<TiffData/>", "", '<TiffData IFD="0" PlaneCount="3"/>'])
def test_pages_are_sections(tmp_path, blocks):
    pages = noise((3, 5, 7))
    source = open_source(write_ome(tmp_path / "s.ome.tif", pages, ome_xml(blocks=blocks)))
    assert np.array_equal(source.read(source.box)[0], pages)
    assert (source.voxel_size, source.notes) == (None, ())


def test_the_xml_says_which_page_is_which_section(tmp_path):
    pages = noise((3, 5, 7))
    blocks = "".join(
        f'<TiffData IFD="{page}" FirstZ="{z}" PlaneCount="1"/>' for page, z in [(0, 2), (1, 0), (2, 1)]
    )
    source = open_source(write_ome(tmp_path / "s.ome.tif", pages, ome_xml(blocks=blocks), byte_order="big"))
    assert np.array_equal(source.read(source.box)[0], pages[[1, 2, 0]])


def test_the_voxel_size_is_read_in_all_units(tmp_path):
    source = open_source(write_ome(tmp_path / "s.ome.tif", noise((3, 5, 7)), ome_xml(sizes=SIZES)))
    assert (source.voxel_size, source.voxel_size_from) == (VoxelSize(4.0, 4.0, 50.0), "OME-XML PhysicalSize")


@pytest.mark.parametrize(
    ("sizes", "note"),
    [
        ('PhysicalSizeX="4" PhysicalSizeXUnit="nm"', "OME-XML states the voxel size only in part (x: 4 nm)"),
        (
            'PhysicalSizeX="1" PhysicalSizeXUnit="pixel" PhysicalSizeY="1" PhysicalSizeZ="1"',
            "OME-XML states a voxel size that cannot be used (x: 1 pixel, y: 1 µm, z: 1 µm)",
        ),
        (
            'PhysicalSizeX="0" PhysicalSizeY="1" PhysicalSizeZ="1"',
            "OME-XML states a voxel size that cannot be used (x: 0 µm, y: 1 µm, z: 1 µm)",
        ),
    ],
)
def test_a_voxel_size_that_cannot_be_used_is_only_mentioned(tmp_path, sizes, note):
    source = open_source(write_ome(tmp_path / "s.ome.tif", noise((3, 5, 7)), ome_xml(sizes=sizes)))
    assert (source.voxel_size, source.notes) == (None, (note,))


def test_rgb_is_one_channel_of_three_samples(tmp_path):
    pages = noise((3, 5, 7, 3))
    source = open_source(write_ome(tmp_path / "s.ome.tif", pages, ome_xml(c=3)))
    assert np.array_equal(source.read(source.box), np.moveaxis(pages, -1, 0))


def read_all(path, **options):
    """Give all volumes of a file (c, z, y, x) by their names."""
    return {
        volume.name: volume.source.read(Box.from_zyx((0, 0, 0), volume.source.shape_zyx))
        for volume in open_volumes(path, **options)
    }


@st.composite
def hyperstacks(draw):
    order = draw(st.permutations("ZCT"))
    counts = {axis: draw(st.integers(1, 3)) for axis in "ZCT"}
    first_page = draw(st.booleans())
    return "".join(order), counts, first_page


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stack=hyperstacks())
def test_channels_and_time_points_are_volumes_in_any_order_of_pages(tmp_path, stack):
    order, counts, is_one_block = stack
    # The first axis of the order runs fastest.
    pages = noise([counts[axis] for axis in reversed(order)] + [5, 7])
    flat = pages.reshape(-1, 5, 7)
    blocks = "<TiffData/>"
    if not is_one_block:
        positions = list(np.ndindex(*[counts[axis] for axis in reversed(order)]))
        blocks = "".join(
            f'<TiffData IFD="{len(flat) - 1 - page}" {firsts(order, at)}/>'
            for page, at in enumerate(positions)
        )
        flat = flat[::-1]
    xml = ome_xml(z=counts["Z"], c=counts["C"], t=counts["T"], blocks=blocks, order=f"XY{order}")
    found = read_all(write_ome(tmp_path / "s.ome.tif", flat, xml))
    by_axis = np.moveaxis(pages, [order[::-1].index(axis) for axis in "TCZ"], [0, 1, 2])
    names = [
        " ".join([f"t{t}"] * (counts["T"] > 1) + [f"c{c}"] * (counts["C"] > 1))
        for t in range(counts["T"])
        for c in range(counts["C"])
    ]
    assert list(found) == names
    assert np.array_equal(np.stack(list(found.values())).reshape(by_axis.shape), by_axis)


def firsts(order, at):
    return " ".join(f'First{axis}="{index}"' for axis, index in zip(reversed(order), at, strict=True))


def test_channels_have_the_names_that_the_xml_gives(tmp_path):
    channels = '<Channel ID="Channel:0:0" Name="DAPI"/><Channel ID="Channel:0:1"/><Channel Name="DAPI "/>'
    pages = noise((9, 5, 7))
    path = write_ome(tmp_path / "s.ome.tif", pages, ome_xml(c=3, channels=channels, sizes=SIZES))
    found = read_all(path)
    assert list(found) == ["DAPI c0", "Channel:0:1", "DAPI c2"]
    assert np.array_equal(found["Channel:0:1"][0], pages[3:6])
    assert {volume.source.voxel_size for volume in open_volumes(path)} == {VoxelSize(4.0, 4.0, 50.0)}


@pytest.mark.parametrize(
    ("attributes", "modality"),
    [
        ('AcquisitionMode="SpinningDiskConfocal"', "light microscopy"),
        ('EmissionWavelength="509"', "light microscopy"),
        ('AcquisitionMode="Other"', ""),
        ("", ""),
    ],
)
def test_channels_tell_how_they_were_imaged(tmp_path, attributes, modality):
    xml = ome_xml(channels=f'<Channel Name="a" {attributes}/>')
    path = write_ome(tmp_path / "s.ome.tif", noise((3, 5, 7)), xml)
    assert [volume.modality for volume in open_volumes(path)] == [modality]


def test_channels_inside_and_beside_pixels_are_volumes(tmp_path):
    channels = '<Channel Name="a" SamplesPerPixel="2"/><Channel Name="b" SamplesPerPixel="2"/>'
    pages = noise((6, 5, 7, 2), np.uint16)
    xml = ome_xml(c=4, channels=channels)
    found = read_all(write_ome(tmp_path / "s.ome.tif", pages, xml, photometric=1, extra_sample=0))
    assert list(found) == ["a c0", "a c1", "b c0", "b c1"]
    assert np.array_equal(found["b c0"][0], pages[3:, ..., 0])


def test_several_images_are_volumes(tmp_path):
    pages = noise((5, 5, 7))
    second = ome_xml(z=2, blocks='<TiffData IFD="3" PlaneCount="2"/>').replace("Image:0", "Image:1")
    first = ome_xml(blocks='<TiffData IFD="0" PlaneCount="3"/>', sizes=SIZES)
    second_image = second[second.index("<Image") : second.index("</OME>")].replace(
        "<Image", '<Image Name="label"'
    )
    path = write_ome(tmp_path / "s.ome.tif", pages, first.replace("</OME>", second_image + "</OME>"))
    found = read_all(path)
    assert list(found) == ["Image:0", "label"]
    assert np.array_equal(found["Image:0"][0], pages[:3])
    assert np.array_equal(found["label"][0], pages[3:])
    assert [volume.source.voxel_size for volume in open_volumes(path)] == [VoxelSize(4.0, 4.0, 50.0), None]


def test_absurd_numbers_of_channels_are_refused_at_once(tmp_path):
    path = write_ome(tmp_path / "s.ome.tif", noise((1, 5, 7)), ome_xml(z=1, c=10**12, t=10**12))
    assert refusal(UnsupportedFormat, path) == (
        f"s.ome.tif: OME-XML states {10**24} channels and time points; save what you need by itself"
    )


def test_a_channel_without_pages_is_noticed(tmp_path):
    path = write_ome(tmp_path / "s.ome.tif", noise((3, 5, 7)), ome_xml(c=2))
    assert refusal(MissingSections, path) == (
        "s.ome.tif c1: 3 of 3 sections are missing (0, 1, 2), counted from 0; "
        "add their files, or ask for missing sections to be filled if only a few are"
    )


def two_files(folder):
    """Write sections 0 and 1 into one file and section 2 into another; each describes both."""
    pages = noise((3, 5, 7))
    blocks = (
        '<TiffData FirstZ="0" IFD="0" PlaneCount="2"><UUID FileName="a.ome.tif">urn:uuid:1</UUID></TiffData>'
        '<TiffData FirstZ="2" IFD="0" PlaneCount="1"><UUID FileName="b.ome.tif">urn:uuid:2</UUID></TiffData>'
    )
    write_ome(folder / "a.ome.tif", pages[:2], ome_xml(blocks=blocks, uuid=' UUID="urn:uuid:1"'))
    write_ome(folder / "b.ome.tif", pages[2:], ome_xml(blocks=blocks, uuid=' UUID="urn:uuid:2"'))
    return pages


def test_sections_may_stand_in_several_files(tmp_path):
    pages = two_files(tmp_path)
    for name in ("a.ome.tif", "b.ome.tif"):
        source = open_source(tmp_path / name)
        assert np.array_equal(source.read(source.box)[0], pages)
        assert source.files == (str(tmp_path / "a.ome.tif"), str(tmp_path / "b.ome.tif"))


def test_a_renamed_file_is_still_known_by_its_number(tmp_path):
    pages = two_files(tmp_path)
    (tmp_path / "a.ome.tif").rename(tmp_path / "renamed.ome.tif")
    source = open_source(tmp_path / "renamed.ome.tif")
    assert np.array_equal(source.read(source.box)[0], pages)


def test_a_missing_file_is_noticed_or_filled(tmp_path):
    pages = two_files(tmp_path)
    (tmp_path / "b.ome.tif").unlink()
    assert refusal(MissingSections, tmp_path / "a.ome.tif") == (
        "a.ome.tif: 1 of 3 sections are missing (2), counted from 0; "
        "add their files, or ask for missing sections to be filled if only a few are"
    )
    source = open_source(tmp_path / "a.ome.tif", fill_missing=True)
    pages[2] = 0
    assert np.array_equal(source.read(source.box)[0], pages)
    assert source.notes == ("1 missing sections were filled with zeros",)


def test_files_elsewhere_are_never_opened(tmp_path):
    blocks = '<TiffData IFD="0"><UUID FileName="../secret.tif">urn:uuid:9</UUID></TiffData>'
    path = write_ome(tmp_path / "s.ome.tif", noise((1, 5, 7)), ome_xml(z=1, blocks=blocks))
    assert refusal(UnsupportedFormat, path) == (
        "s.ome.tif refers to '../secret.tif', which is not beside it; put its files into one folder"
    )


def test_a_set_of_files_may_be_described_beside_them(tmp_path):
    pages = noise((3, 5, 7))
    blocks = "".join(
        f'<TiffData FirstZ="{z}" IFD="0"><UUID FileName="{name}.ome.tif">urn:uuid:{name}</UUID></TiffData>'
        for z, name in enumerate("abc")
    )
    only = (
        f'<OME xmlns="{NAMESPACE}"><BinaryOnly MetadataFile="all.companion.ome" UUID="urn:uuid:{{}}"/></OME>'
    )
    for page, name in zip(pages, "abc", strict=True):
        write_ome(tmp_path / f"{name}.ome.tif", [page], only.format(name))
    assert refusal(SourceNotFound, tmp_path / "b.ome.tif") == (
        f"{tmp_path / 'all.companion.ome'} does not exist; check the name"
    )
    (tmp_path / "all.companion.ome").write_text(ome_xml(blocks=blocks, sizes=SIZES))
    source = open_source(tmp_path / "b.ome.tif")
    assert np.array_equal(source.read(source.box)[0], pages)
    assert source.voxel_size == VoxelSize(4.0, 4.0, 50.0)
    assert [os.path.basename(file) for file in source.files] == [
        "a.ome.tif", "b.ome.tif", "c.ome.tif", "all.companion.ome",
    ]  # fmt: skip


def test_any_stated_depth_is_answered_at_once(tmp_path):
    path = write_ome(
        tmp_path / "s.ome.tif", noise((1, 5, 7)), ome_xml(z=10**15, blocks='<TiffData PlaneCount="1"/>')
    )
    for fill_missing in (False, True):
        assert refusal(MissingSections, path, fill_missing=fill_missing) == (
            "s.ome.tif: 999999999999999 of 1000000000000000 sections are missing (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ...), "
            "counted from 0; add their files, or ask for missing sections to be filled if only a few are"
        )


def test_a_page_that_the_xml_names_must_exist(tmp_path):
    path = write_ome(
        tmp_path / "s.ome.tif", noise((1, 5, 7)), ome_xml(z=2, blocks='<TiffData IFD="0" PlaneCount="2"/>')
    )
    assert refusal(UnsupportedFormat, path) == (
        "page 2 of s.ome.tif does not exist, though its OME-XML names it; copy the file again or save it anew"
    )


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (
            "<OME><Image></OME>",
            "s.ome.tif has damaged OME-XML (mismatched tag: line 1, column 14); save it anew",
        ),
        ("<!DOCTYPE OME []><OME></OME>", "s.ome.tif has OME-XML with a document type; save it anew"),
        ("<OME></OME>", "s.ome.tif has OME-XML that describes no image; save it anew"),
        (ome_xml(z="many"), "s.ome.tif: OME-XML states SizeZ = 'many'; save it anew"),
    ],
)
def test_damaged_xml_is_refused(tmp_path, xml, message):
    assert refusal(UnsupportedFormat, write_ome(tmp_path / "s.ome.tif", noise((1, 5, 7)), xml)) == message


def test_pyramids_beside_the_sections_do_not_disturb(tmp_path):
    pages = noise((2, 64, 80))
    with tifffile.TiffWriter(tmp_path / "s.ome.tif", ome=True) as writer:
        writer.write(pages, subifds=1, metadata={"axes": "ZYX"}, tile=(16, 16))
        writer.write(pages[:, ::2, ::2], subfiletype=1, tile=(16, 16))
    source = open_source(tmp_path / "s.ome.tif")
    assert np.array_equal(source.read(source.box)[0], pages)
