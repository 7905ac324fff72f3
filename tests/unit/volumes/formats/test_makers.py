import numpy as np
import pytest

from voxelworks.errors import UnsupportedFormat
from voxelworks.testing.independent_makers import LifImage, write_lof
from voxelworks.testing.independent_writers import CziTile, write_czi, write_tiff
from voxelworks.volumes.formats import format_name, open_source, open_volumes

FIJI = "open it in Fiji (Bio-Formats) and save it as OME-TIFF"
BIOFORMATS = "BioIO reads it where it is installed: pip install bioio bioio-bioformats"
FOREIGN = {
    "s.nd2": (
        b"\xda\xce\xbe\x0a",
        "an ND2 file (Nikon NIS-Elements)",
        f"export it as TIFF there, or {FIJI}; BioIO reads it where it is installed: pip install bioio bioio-nd2",
    ),
    "s.oir": (
        b"OLYMPUSRAWFORMAT",
        "an OIR file (Olympus, Evident)",
        f"export it as OME-TIFF there, or {FIJI}; {BIOFORMATS}",
    ),
    "s.vsi": (
        b"II*\0",
        "a VSI file (Olympus, Evident)",
        f"export it as OME-TIFF there, or {FIJI}; {BIOFORMATS}",
    ),
    "s.mrxs": (b"\xff\xd8\xff", "an MRXS slide (3DHISTECH)", f"export it as TIFF there, or {FIJI}"),
    "s.gif": (b"GIF89a", "a GIF", "save it as TIFF or PNG"),
}


def refusal(path):
    with pytest.raises(UnsupportedFormat) as error:
        open_volumes(path)
    return error.value.message


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_makers_are_refused_with_what_to_do(tmp_path, name):
    start, kind, step = FOREIGN[name]
    (tmp_path / name).write_bytes(start + bytes(1000))
    assert refusal(tmp_path / name) == f"{name} is {kind}, which is not read; {step}"


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        (
            "a.nml",
            b"<things>\n</things>",
            "a.nml is an annotation of WEBKNOSSOS (NML), which holds no voxels; import it",
        ),
        (
            "a.zip",
            b"PK\3\4" + bytes(50),
            "a.zip is a zip archive: `voxelworks inspect` and `convert` unpack it; if it",
        ),
    ],
)
def test_annotations_are_named_alone_and_ignored_beside_images(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content)
    assert refusal(tmp_path / name).startswith(kind)
    section = np.arange(35, dtype=np.uint8).reshape(5, 7)
    write_czi(tmp_path / "s.czi", [CziTile(section)])
    assert np.array_equal(open_source(tmp_path).read_section(0)[0], section)


def test_lists_of_images_are_passed_over_beside_these(tmp_path):
    (tmp_path / "s.xlef").write_text("<LMSDataContainerHeader/>")
    assert refusal(tmp_path / "s.xlef") == (
        "s.xlef only names the files of its images (Leica LAS X); name these, or their folder"
    )
    section = np.arange(35, dtype=np.uint8).reshape(5, 7)
    write_lof(tmp_path / "s.lof", LifImage("a", section, "yx"))
    source = open_source(tmp_path)
    assert (source.read_section(0)[0] == section).all()
    assert f"ignored in {tmp_path.name}: s.xlef" in source.notes


def test_a_folder_with_one_volume_stands_for_it(tmp_path):
    section = np.arange(35, dtype=np.uint8).reshape(5, 7)
    write_czi(tmp_path / "s.czi", [CziTile(section)])
    (tmp_path / "notes.txt").write_text("by nobody")
    assert np.array_equal(open_source(tmp_path).read_section(0)[0], section)
    assert format_name(tmp_path) == format_name(tmp_path / "s.czi") == "CZI"
    write_czi(tmp_path / "t.czi", [CziTile(section)])
    assert [volume.name for volume in open_volumes(tmp_path)] == ["s.czi", "t.czi"]


def test_sections_beside_a_volume_are_what_is_meant(tmp_path):
    write_czi(tmp_path / "s.czi", [CziTile(np.zeros((5, 7), np.uint8))])
    for z in range(2):
        write_tiff(tmp_path / f"z{z}.tif", np.full((1, 5, 7), z, np.uint8))
    source = open_source(tmp_path)
    assert (source.shape_zyx, source.notes) == ((2, 5, 7), (f"ignored in {tmp_path.name}: s.czi",))
    assert format_name(tmp_path) == "folder of sections"
