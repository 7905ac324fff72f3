"""The page for uploads, which loads no reader, lists the suffixes and marks that the readers declare."""

import re
from pathlib import Path

import voxelworks.server
from voxelworks.volumes.formats import FILE_FORMATS, STORE_FORMATS, dicom, jpeg, png, tiff, webp
from voxelworks.volumes.formats.knossos import CONF_FILE
from voxelworks.volumes.metadata import PROPERTIES_FILE

SCRIPT = (Path(voxelworks.server.__file__).parent / "static" / "upload.js").read_text(encoding="utf-8")
PACKED = {"gz"}
"""The end of `.nii.gz`, `.mrc.gz` and others."""


def constant(name):
    (found,) = re.findall(rf"const {name} = (.*);", SCRIPT)
    return found


def test_sections_are_known_by_the_suffixes_of_their_readers():
    listed = re.findall(r"(\w+): \"", constant("SUFFIXES"))
    declared = [*tiff.SECTION_SUFFIXES, *png.SUFFIXES, *jpeg.SUFFIXES, *webp.SUFFIXES]
    assert sorted(listed) == sorted(suffix[1:] for suffix in declared)


def test_volumes_are_known_by_the_suffixes_of_their_readers():
    (listed,) = re.findall(r'new Set\("([^"]*)"', constant("VOLUMES"))
    # Images of DICOM are one volume together, and so are those of sections.
    of_sections = {*tiff.SECTION_SUFFIXES, *png.SUFFIXES, *jpeg.SUFFIXES, *webp.SUFFIXES, *dicom.SUFFIXES}
    declared = {suffix for form in FILE_FORMATS for suffix in form.SUFFIXES} - of_sections
    assert set(listed.split()) == {suffix[1:] for suffix in declared} | PACKED


def test_folders_are_known_by_the_marks_of_their_readers():
    listed = set(re.findall(r'"?([.\w-]+)"?: "', constant("MARKERS")))
    declared = {mark for form in STORE_FORMATS for mark in form.MARKS} | {
        PROPERTIES_FILE,
        CONF_FILE,
        "header.wkw",
    }
    # Attributes alone tell nothing: they lie beside a mark.
    assert listed == declared - {".zattrs"}
