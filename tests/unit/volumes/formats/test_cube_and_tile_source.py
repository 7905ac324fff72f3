import numpy as np
import pytest
from PIL import Image

from voxelworks.errors import MissingSections, MixedSections, UnsupportedFormat
from voxelworks.geometry import Box, VoxelSize
from voxelworks.testing.independent_writers import write_knossos, write_png
from voxelworks.volumes.formats import open_source


def noise(shape, dtype=np.uint8):
    return np.random.default_rng(8).integers(1, 200, shape).astype(dtype)


def whole(source):
    return source.read(source.box)


# KNOSSOS


def test_cubes_are_read_as_far_as_the_boundary_and_missing_ones_as_zeros(tmp_path):
    voxels = noise((130, 140, 300))
    voxels[:, :, 128:256] = 0
    source = open_source(write_knossos(tmp_path, voxels))
    assert source.shape_zyx == (130, 140, 300)
    assert np.array_equal(whole(source)[0], voxels)
    assert (source.voxel_size, source.voxel_size_from) == (VoxelSize(9, 9, 25), "knossos.conf")
    assert source.notes == ("4 cubes are not there and read as zeros",)


def test_without_a_boundary_all_cubes_count(tmp_path):
    source = open_source(write_knossos(tmp_path, noise((10, 130, 10)), with_conf=False))
    assert (source.shape_zyx, source.voxel_size) == ((128, 256, 128), None)


def test_of_several_magnifications_the_finest_is_read(tmp_path):
    voxels = noise((20, 30, 40))
    write_knossos(tmp_path / "cortex_mag4", noise((5, 5, 5)), name="cortex_mag4", with_conf=False)
    write_knossos(tmp_path / "cortex_mag2", voxels, name="cortex_mag2", with_conf=False)
    conf = "boundary x 79;\nboundary y 60;\nboundary z 40;\nscale x 9.;\nscale y 9.;\nscale z 25.;\n"
    (tmp_path / "knossos.conf").write_text(conf)
    source = open_source(tmp_path)
    assert np.array_equal(whole(source)[0], voxels)
    assert source.voxel_size == VoxelSize(18, 18, 50)
    assert source.notes == ("read in mag 2, the finest that is there",)


def test_cubes_that_do_not_belong_together_are_refused(tmp_path):
    write_knossos(tmp_path / "a", noise((2, 2, 2)))
    cube = tmp_path / "a" / "x0000" / "y0000" / "z0000" / "cortex_mag1_x0000_y0000_z0000.raw"
    source = open_source(tmp_path / "a")
    cube.write_bytes(b"short")
    with pytest.raises(UnsupportedFormat, match=r"has 5 of 2,097,152 bytes; only cubes of 128\^3 voxels"):
        whole(source)
    write_knossos(tmp_path / "b", noise((2, 2, 2)))
    other = cube.with_name("other_x0000_y0000_z0000.raw")
    other.write_bytes(b"")
    with pytest.raises(UnsupportedFormat, match="belong to several volumes: cortex_mag1, other; keep one"):
        open_source(tmp_path / "a")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "knossos.conf").write_text("scale x 1;")
    with pytest.raises(UnsupportedFormat, match="holds no cubes"):
        open_source(tmp_path / "c")


# Tiles


def write_tiles(folder, voxels, *, tile, first=(60, 140), numbers=None):
    for z, section in enumerate(voxels):
        for row in range(section.shape[0] // tile[0]):
            for column in range(section.shape[1] // tile[1]):
                part = section[row * tile[0] :, column * tile[1] :][: tile[0], : tile[1]]
                path = folder / str((numbers or range(len(voxels)))[z]) / str(first[0] + row)
                path.mkdir(parents=True, exist_ok=True)
                if part.any():
                    write_png(path / f"{first[1] + column}.png", part)


@pytest.mark.parametrize("shape", [(2, 12, 24), (2, 12, 24, 3)])
def test_tiles_lie_side_by_side_and_missing_ones_are_zeros(tmp_path, shape):
    voxels = noise(shape)
    voxels[1, 4:8, 8:16] = 0
    write_tiles(tmp_path, voxels, tile=(4, 8))
    source = open_source(tmp_path)
    expected = np.moveaxis(voxels, -1, 0) if len(shape) == 4 else voxels[None]
    assert np.array_equal(whole(source), expected)
    box = Box((3, 2, 0), (15, 7, 2))
    assert np.array_equal(source.read(box), expected[:, *box.slices_zyx])
    assert source.notes == (
        "the first tile has the numbers 140,60,0 (column, row, section); tiles that are not there read as zeros",
    )


def test_missing_sections_of_tiles_are_refused_or_filled(tmp_path):
    voxels = noise((3, 4, 8))
    write_tiles(tmp_path, voxels, tile=(4, 8), numbers=[1, 2, 4])
    with pytest.raises(MissingSections, match="sections 3 are missing; add them, or ask"):
        open_source(tmp_path)
    source = open_source(tmp_path, fill_missing=True)
    assert np.array_equal(whole(source)[0], [voxels[0], voxels[1], np.zeros((4, 8)), voxels[2]])
    (tmp_path / "4").rename(tmp_path / "20261128")
    with pytest.raises(MissingSections, match="only 3 are there: if these are not section numbers"):
        open_source(tmp_path, fill_missing=True)


def test_tiles_of_several_sizes_or_kinds_are_refused(tmp_path):
    write_tiles(tmp_path, noise((1, 8, 8)), tile=(4, 8))
    source = open_source(tmp_path)
    write_png(tmp_path / "0" / "61" / "140.png", noise((5, 8)))
    with pytest.raises(MixedSections, match=r"140\.png is 8 x 5 uint8, but the first tile is 8 x 4 uint8"):
        whole(source)
    Image.fromarray(noise((4, 8))).save(tmp_path / "0" / "61" / "141.jpg")
    with pytest.raises(UnsupportedFormat, match=r"holds tiles of several kinds \(\.jpg, \.png\); keep one"):
        open_source(tmp_path)
