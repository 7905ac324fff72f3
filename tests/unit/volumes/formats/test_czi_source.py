"""CZI files of an independent writer."""

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voxelworks.errors import MissingSections, MixedSections, UnsupportedDtype, UnsupportedFormat
from voxelworks.geometry import Box, VoxelSize
from voxelworks.testing.independent_writers import CziTile, write_czi
from voxelworks.volumes.formats import open_source, open_volumes

FILE_NUMBERS = itertools.count()
PACKINGS = ["raw", "zstd", "zstd with header", "zstd of split bytes"]


def noise(shape, dtype=np.uint16):
    return np.random.default_rng(8).integers(0, 200, shape).astype(dtype)


def read_all(path, **options):
    return {
        volume.name: volume.source.read(Box.from_zyx((0, 0, 0), volume.source.shape_zyx))
        for volume in open_volumes(path, **options)
    }


def refusal(kind, path, **options):
    with pytest.raises(kind) as error:
        read_all(path, **options)
    assert type(error.value) is kind
    return error.value.message


@pytest.mark.parametrize(
    ("packing", "dtype"),
    [
        *itertools.product(["raw", "zstd", "zstd with header"], [np.uint8, np.uint16, np.float32]),
        ("zstd of split bytes", np.uint16),
    ],
)
def test_every_packing_gives_the_same_voxels(tmp_path, packing, dtype):
    pages = noise((3, 50, 70), dtype)
    tiles = [CziTile(page, at={"Z": z, "C": 0, "T": 0}, packing=packing) for z, page in enumerate(pages)]
    source = pickle.loads(pickle.dumps(open_source(write_czi(tmp_path / "s.czi", tiles))))
    assert (source.shape_zyx, source.dtype, source.voxel_size) == ((3, 50, 70), dtype, None)
    assert np.array_equal(source.read(source.box)[0], pages)
    box = Box((11, 13, 1), (50, 31, 2))
    assert np.array_equal(source.read(box)[0], pages[box.slices_zyx])


@st.composite
def mosaics(draw):
    """Draw tiles that may overlap, and the plane that they make."""
    origin = draw(st.tuples(st.integers(-50, 50), st.integers(-50, 50)))
    count = draw(st.integers(1, 5))
    places = [
        draw(st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 15), st.integers(1, 15)))
        for _ in range(count)
    ]
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    plane, tiles = np.zeros((40, 40), np.uint16), []
    for number, (top, left, height, width) in enumerate(places):
        pixels = rng.integers(0, 60000, (height, width), dtype=np.uint16)
        plane[top : top + height, left : left + width] = pixels
        packing = draw(st.sampled_from(PACKINGS))
        tiles.append(CziTile(pixels, origin[0] + left, origin[1] + top, {"M": number}, packing))
    top, left = (min(place[axis] for place in places) for axis in (0, 1))
    bottom, right = (max(place[axis] + place[axis + 2] for place in places) for axis in (0, 1))
    return draw(st.permutations(tiles)), plane[top:bottom, left:right]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mosaic=mosaics(), data=st.data())
def test_any_box_of_a_mosaic_equals_the_tiles_laid_in_their_order(tmp_path, mosaic, data):
    tiles, plane = mosaic
    source = open_source(write_czi(tmp_path / f"m{next(FILE_NUMBERS)}.czi", tiles))
    assert source.shape_zyx == (1, *plane.shape)
    top, left = (data.draw(st.integers(0, size)) for size in plane.shape)
    height, width = (
        data.draw(st.integers(0, size - start)) for size, start in zip(plane.shape, (top, left), strict=True)
    )
    box = Box.from_zyx((0, top, left), (1, height, width))
    assert np.array_equal(source.read(box)[0], plane[None][box.slices_zyx])


def test_scenes_times_and_channels_are_volumes(tmp_path):
    channels = (
        '<Information><Image><Dimensions><Channels><Channel Id="Channel:0" Name="DAPI"/><Channel Id="Channel:1"/>'
        "</Channels></Dimensions></Image></Information>"
    )
    pages = noise((2, 2, 2, 3, 5, 7))
    tiles = [
        CziTile(pages[s, t, c, z], left=100 * s, at={"S": s, "T": t, "C": c, "Z": z})
        for s, t, c, z in np.ndindex(2, 2, 2, 3)
    ]
    found = read_all(write_czi(tmp_path / "s.czi", tiles[::-1], metadata=channels))
    assert list(found) == [f"s{s} t{t} {c}" for s in range(2) for t in range(2) for c in ("DAPI", "c1")]
    for (s, t, c), array in zip(np.ndindex(2, 2, 2), found.values(), strict=True):
        assert np.array_equal(array[0], pages[s, t, c])


def test_channels_of_a_scene_cover_the_same_ground(tmp_path):
    tiles = [
        CziTile(noise((5, 7)), 10, 20, {"C": 0}),
        CziTile(noise((6, 8)), 12, 19, {"C": 1}),
    ]
    path = write_czi(tmp_path / "s.czi", tiles)
    assert {volume.source.shape_zyx for volume in open_volumes(path)} == {(1, 6, 10)}
    assert np.array_equal(read_all(path)["c0"][0, 0, 1:6, :7], noise((5, 7)))
    assert np.array_equal(read_all(path)["c1"][0, 0, :, 2:], noise((6, 8)))
    assert open_source(path, part="c0").notes == ("what no tile of the mosaic covers is filled with zeros",)


def test_coarser_levels_are_left_out(tmp_path):
    finest = noise((40, 60))
    tiles = [CziTile(finest[::2, ::2] + 1, shrink=2), CziTile(finest, at={"M": 0})]
    assert np.array_equal(read_all(write_czi(tmp_path / "s.czi", tiles))[""][0, 0], finest)


def test_colours_of_8_bits_are_rgb_and_others_volumes(tmp_path):
    image = noise((5, 7, 3), np.uint8)
    for packing in ("raw", "zstd"):
        found = read_all(write_czi(tmp_path / "s.czi", [CziTile(image, packing=packing)]))
        assert np.array_equal(found[""][:, 0], np.moveaxis(image, -1, 0))
        wide = image.astype(np.uint16)
        found = read_all(write_czi(tmp_path / "t.czi", [CziTile(wide, packing=packing)]))
        assert {name: array[0, 0].tolist() for name, array in found.items()} == {
            name: wide[..., at].tolist() for at, name in enumerate(["red", "green", "blue"])
        }


SCALING = (
    "<Scaling><Items>" + "".join(f'<Distance Id="{axis}"><Value>{{}}</Value></Distance>' for axis in "XYZ")
) + "</Items></Scaling>"


@pytest.mark.parametrize(
    ("stated", "size", "notes"),
    [
        (("4E-09", "4e-9", "5E-08"), VoxelSize(4.0, 4.0, 50.0), ()),
        (("4E-09", "5e-9", "0"), None, ("CZI states pixels of 4 x 5 nm, but no distance of sections",)),
        (("0", "0", "0"), None, ()),
        (("-1", "1", "1"), None, ("CZI states a scaling that cannot be used (x: -1, y: 1, z: 1)",)),
    ],
)
def test_the_scaling_is_the_voxel_size(tmp_path, stated, size, notes):
    path = write_czi(tmp_path / "s.czi", [CziTile(noise((5, 7)))], metadata=SCALING.format(*stated))
    source = open_source(path)
    assert (source.voxel_size, source.notes) == (size, notes)
    assert source.voxel_size_from == ("CZI scaling" if size else "")


def test_missing_sections_are_named_or_filled(tmp_path):
    tiles = [CziTile(noise((5, 7)), at={"Z": z}) for z in (4, 5, 7)]
    path = write_czi(tmp_path / "s.czi", tiles)
    assert refusal(MissingSections, path) == (
        "s.czi: 1 of 4 sections are missing (6); "
        "save it anew in ZEN, or ask for missing sections to be filled if only a few are"
    )
    found = read_all(path, fill_missing=True)[""][0]
    assert [bool(section.any()) for section in found] == [True, True, False, True]


def test_tiles_of_unequal_type_are_refused(tmp_path):
    tiles = [CziTile(noise((5, 7))), CziTile(noise((5, 7), np.uint8), left=7)]
    assert refusal(MixedSections, write_czi(tmp_path / "s.czi", tiles)) == (
        "s.czi has tiles with different kinds of values; save it anew in ZEN with one kind"
    )


def changed(path, old, new, *, start=0):
    data = path.read_bytes()
    at = data.index(old, start)
    path.write_bytes(data[:at] + new + data[at + len(old) :])
    return path


def test_what_cannot_be_read_is_refused(tmp_path):
    def fresh(**options):
        return write_czi(tmp_path / "s.czi", [CziTile(noise((5, 7)), **options)])

    directory_at = fresh().read_bytes().index(b"ZISRAWDIRECTORY")
    kind = b"DV" + (1).to_bytes(4, "little")
    path = changed(fresh(), kind, b"DV" + (10).to_bytes(4, "little"), start=directory_at)
    assert refusal(UnsupportedDtype, path) == (
        "s.czi has values of a kind that is not supported (CZI pixel type 10); save it in ZEN with 8 or 16 bits"
    )
    path = fresh()
    data = bytearray(path.read_bytes())
    data[directory_at + 32 + 128 + 18] = 200
    path.write_bytes(data)
    assert refusal(UnsupportedFormat, path) == (
        "s.czi is compressed in a way that is not supported (number 200); "
        "save it in ZEN uncompressed or with JPEG XR or Zstandard"
    )
    path = fresh()
    path.write_bytes(path.read_bytes()[:directory_at])
    assert refusal(UnsupportedFormat, path) == (
        "s.czi is cut short or was never closed: it has no directory; copy it again, or save it anew in ZEN"
    )
    path = changed(fresh(), b"ZISRAWSUBBLOCK", b"DELETED_______")
    assert refusal(UnsupportedFormat, path) == (
        "s.czi is damaged or cut short: a tile is missing; copy it again"
    )
    path = changed(fresh(packing="zstd"), b"\x28\xb5\x2f\xfd", b"\0\0\0\0")
    assert refusal(UnsupportedFormat, path).startswith("s.czi cannot be decoded: ")
    assert refusal(UnsupportedFormat, write_czi(tmp_path / "s.czi", [])) == (
        "s.czi holds no image; save it anew in ZEN"
    )


def test_tiles_far_apart_are_refused_before_memory_is_taken(tmp_path):
    tiles = [CziTile(noise((5, 7))), CziTile(noise((5, 7)), left=10**9, top=10**9)]
    assert refusal(UnsupportedFormat, write_czi(tmp_path / "s.czi", tiles)) == (
        "s.czi has tiles spread over 1000000007 x 1000000005 pixels and almost nothing between them; "
        "export each scene by itself in ZEN"
    )


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.integers(0, 1100), max_size=4), values=st.binary(min_size=4, max_size=4))
def test_a_damaged_file_is_read_or_refused(tmp_path, places, values):
    path = write_czi(tmp_path / "s.czi", [CziTile(noise((5, 7)), packing="zstd")])
    data = bytearray(path.read_bytes())
    for place, value in zip(places, values, strict=False):
        data[len(data) - 1 - place] = value
    path.write_bytes(data)
    try:
        found = read_all(path, fill_missing=True)
    except (UnsupportedFormat, UnsupportedDtype, MissingSections):
        return
    assert found
