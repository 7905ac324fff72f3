"""`voxelworks inspect`, as a person uses it."""

import json

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

import voxelworks
from reference import read_mag
from voxelworks.cli.inspect import inspect
from voxelworks.errors import InvalidParams, UnsupportedFormat, VoxelworksError
from voxelworks.testing.independent_writers import CziTile, write_czi


def call(*arguments):
    """Run the command; give what it printed, or raise what it raised."""
    outcome = CliRunner().invoke(inspect, [*map(str, arguments)])
    if isinstance(outcome.exception, VoxelworksError):
        raise outcome.exception
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


def words(line):
    return line.split()


def test_volumes_are_listed_with_what_is_known_of_them(tmp_path):
    image, sizes = (
        np.zeros((2, 3, 5, 7), np.uint16),
        {"PhysicalSizeX": 1, "PhysicalSizeY": 1, "PhysicalSizeZ": 4},
    )
    metadata = {"axes": "CZYX", "Channel": {"Name": ["DAPI", "GFP"]}, **sizes}
    tifffile.imwrite(tmp_path / "s.ome.tif", image, photometric="minisblack", metadata=metadata)
    title, header, _, *rows, hint = call(tmp_path / "s.ome.tif").splitlines()
    assert title == "s.ome.tif: TIFF, 2 volumes"
    assert words(header) == words("part size (x, y, z) type voxel size in nm stated by")
    assert [words(row) for row in rows] == [
        words(f"{name} 7 x 5 x 3 uint16 1000,1000,4000 OME-XML PhysicalSize") for name in ("DAPI", "GFP")
    ]
    assert hint == "`convert` makes a layer of each; `--part NAME` takes one of them."


def test_notes_name_the_parts_that_they_are_about(tmp_path):
    tiles = [
        CziTile(np.zeros((5, 7), np.uint8), at={"S": 0}),
        CziTile(np.zeros((5, 7), np.uint8), at={"S": 1}),
    ]
    write_czi(tmp_path / "s.czi", [*tiles, CziTile(np.zeros((5, 7), np.uint8), 20, 20, at={"S": 1})])
    lines = call(tmp_path).splitlines()
    assert lines[0] == f"{tmp_path.name}: CZI, 2 volumes"
    assert lines[-2] == "note: s1: what no tile of the mosaic covers is filled with zeros"


def test_the_answer_as_json_has_a_fixed_form(tmp_path):
    tifffile.imwrite(tmp_path / "s.tif", np.zeros((5, 7, 3), np.uint8), photometric="rgb", metadata=None)
    assert json.loads(call(tmp_path / "s.tif", "--json")) == {
        "format": "TIFF",
        "volumes": [
            {
                "part": "", "category": None, "size": [7, 5, 1], "dtype": "uint8", "channels": 3,
                "voxel_size": None, "voxel_size_from": "", "notes": [],
            }
        ],
    }  # fmt: skip


def test_raw_voxels_are_tried_with_the_options_of_a_conversion(tmp_path):
    voxels = np.arange(2 * 3 * 5, dtype=">u2").reshape(2, 3, 5)
    (tmp_path / "v.raw").write_bytes(bytes(16) + voxels.tobytes())
    options = [
        "--raw-size",
        "5,3,2",
        "--raw-dtype",
        "uint16",
        "--raw-header-bytes",
        16,
        "--raw-byte-order",
        "big",
    ]
    title, _, _, row = call(tmp_path / "v.raw", *options).splitlines()
    assert title == "v.raw: raw voxels, one volume"
    assert words(row) == words("5 x 3 x 2 uint16 not stated")
    voxelworks.run(
        "convert", source=str(tmp_path / "v.raw"), target=str(tmp_path / "out"), voxel_size="4,4,4", cluster="serial",
        raw_size="5,3,2", raw_dtype="uint16", raw_header_bytes=16, raw_byte_order="big", category="segmentation",
    )  # fmt: skip
    assert (read_mag(tmp_path / "out", "segmentation", "1")[0] == voxels).all()
    with pytest.raises(
        UnsupportedFormat, match="5 x 3 x 2 voxels of uint8 behind 0 bytes of header would be 30"
    ):
        call(tmp_path / "v.raw", "--raw-size", "5,3,2")
    with pytest.raises(InvalidParams, match="give the size of the raw voxels as x,y,z"):
        call(tmp_path / "v.raw", "--raw-dtype", "uint16")


def test_what_is_not_read_is_refused(tmp_path):
    (tmp_path / "s.nd2").write_bytes(b"\xda\xce\xbe\x0a" + bytes(100))
    with pytest.raises(
        UnsupportedFormat, match=r"s\.nd2 is an ND2 file \(Nikon NIS-Elements\), which is not read; export"
    ):
        call(tmp_path / "s.nd2")
