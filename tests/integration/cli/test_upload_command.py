"""`voxelworks upload`, as a person uses it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from voxelworks.cli.upload import upload
from voxelworks.client import Client
from voxelworks.errors import MissingSections, TargetExists, VoxelworksError
from voxelworks.settings import Settings
from voxelworks.testing.server import running_server


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    settings = Settings(home=tmp_path_factory.mktemp("served") / "home", port=0)
    with running_server(settings) as info, Client(info.url, info.token) as client:
        yield settings, client


@pytest.fixture
def call(served):
    """Run the command; give what it printed, or raise what it raised."""
    settings, _ = served

    def run(*arguments):
        outcome = CliRunner().invoke(upload, [*map(str, arguments), "--home", str(settings.home)])
        if isinstance(outcome.exception, VoxelworksError):
            raise outcome.exception
        assert outcome.exit_code == 0, outcome.output
        return outcome.stdout

    return run


@pytest.fixture
def stack(tmp_path):
    folder = tmp_path / "cortex run 1"
    folder.mkdir()
    for z in range(4):
        tifffile.imwrite(folder / f"s{z}.tif", np.full((16, 16), z, np.uint8))
    (folder / "notes.txt").write_text("not an image")
    return folder


def _stored(served, ref):
    settings, _ = served
    home = settings.datasets_dir / "local" / ".uploads" / ref.removeprefix("upload:") / "files"
    return {
        path.relative_to(home).as_posix(): path.read_bytes() for path in home.rglob("*") if path.is_file()
    }


def _images(folder: Path):
    return {path.name: path.read_bytes() for path in folder.glob("*.tif")}


def test_a_folder_is_sent_and_converted(served, call, stack):
    job = json.loads(call(stack, "--voxel-size", "4,4,40", "--json"))
    [layer] = job["params"]["layers"]
    assert (job["workflow"], job["params"]["target"], job["params"]["voxel_size"]) == (
        "convert",
        "cortex-run-1",
        "4,4,40",
    )
    assert (layer["layer_name"], layer["category"]) == (None, "color")
    assert _stored(served, layer["source"]) == _images(stack)


def test_files_are_sent_as_one_stack_and_only_once(served, call, stack):
    files = sorted(stack.glob("*.tif"))
    first = json.loads(call(*files, "--no-convert", "--json"))
    assert _stored(served, f"upload:{first['id']}") == _images(stack)
    assert json.loads(call(*files, "--no-convert", "--json"))["id"] == first["id"]
    assert f"upload:{first['id']}: 4 files" in call(*files, "--no-convert")


def test_a_file_with_many_pages_and_a_stated_voxel_size_needs_no_other(served, call, tmp_path):
    file = tmp_path / "stack.tif"
    metadata = {"axes": "ZYX", "spacing": 0.04, "unit": "um"}
    tifffile.imwrite(
        file, np.zeros((5, 8, 8), np.uint8), imagej=True, resolution=(250, 250), metadata=metadata
    )
    job = json.loads(call(file, "--name", "stated", "--json"))
    source = job["params"]["layers"][0]["source"]
    assert source.endswith("/stack.tif")
    assert _stored(served, source.partition("/")[0]) == {"stack.tif": file.read_bytes()}


def test_a_zip_is_unpacked_by_the_server(served, call, stack, tmp_path):
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in stack.iterdir():
            archive.write(path, f"run/{path.name}")
    job = json.loads(call(packed, "--voxel-size", "4,4,40", "--json"))
    assert set(_stored(served, job["params"]["layers"][0]["source"])) == {
        "s0.tif",
        "s1.tif",
        "s2.tif",
        "s3.tif",
        "notes.txt",
    }


def test_what_cannot_be_converted_is_told_before_anything_is_sent(served, call, stack):
    _, client = served
    before = client.list_uploads()
    with pytest.raises(VoxelworksError, match="state no voxel size; give --voxel-size"):
        call(stack, "--name", "unsized")
    with pytest.raises(VoxelworksError, match="'4,4' is not a voxel size"):
        call(stack, "--voxel-size", "4,4")
    with pytest.raises(VoxelworksError, match="'a/b' is"):
        call(stack, "--voxel-size", "4,4,40", "--name", "a/b")
    (stack / "s2.tif").unlink()
    with pytest.raises(MissingSections, match=r"s2\.tif"):
        call(stack, "--voxel-size", "4,4,40")
    assert client.list_uploads() == before


def test_a_name_that_is_taken_is_told_before_anything_is_sent(served, call, stack):
    _, client = served
    call(stack, "--voxel-size", "4,4,40", "--name", "taken")
    before = client.list_uploads()
    tifffile.imwrite(stack / "s4.tif", np.zeros((16, 16), np.uint8))
    with pytest.raises(TargetExists, match="'taken' is taken"):
        call(stack, "--voxel-size", "4,4,40", "--name", "taken")
    assert client.list_uploads() == before


@pytest.mark.parametrize("wrong", ["a folder among files", "two of one name"])
def test_files_that_are_no_stack_are_refused(call, stack, tmp_path, wrong):
    other = tmp_path / "other"
    other.mkdir()
    (other / "s0.tif").write_bytes(b"x")
    files = [stack / "s0.tif", other if wrong == "a folder among files" else other / "s0.tif"]
    with pytest.raises(
        VoxelworksError, match="is not a file" if wrong == "a folder among files" else "two files are named"
    ):
        call(*files)


def test_a_file_with_several_volumes_and_its_companion_are_sent(served, call, tmp_path):
    pages = np.zeros((2, 3, 16, 16), np.uint8)
    metadata = {"axes": "CZYX", "PhysicalSizeX": 1, "PhysicalSizeY": 1, "PhysicalSizeZ": 4}
    tifffile.imwrite(tmp_path / "whole.ome.tif", pages, metadata=metadata, photometric="minisblack")
    with tifffile.TiffFile(tmp_path / "whole.ome.tif") as whole:
        xml = whole.ome_metadata
    blocks = "".join(
        f'<TiffData FirstC="{c}" IFD="0" PlaneCount="3"><UUID FileName="{c}.ome.tif">urn:uuid:{c}</UUID></TiffData>'
        for c in range(2)
    )
    only = '<OME><BinaryOnly MetadataFile="all.companion.ome" UUID="urn:uuid:{}"/></OME>'
    start, end = xml.index("<TiffData"), xml.index("</Pixels>")
    (tmp_path / "all.companion.ome").write_text(xml[:start] + blocks + xml[end:])
    for c in range(2):
        tifffile.imwrite(
            tmp_path / f"{c}.ome.tif",
            pages[c],
            metadata=None,
            photometric="minisblack",
            description=only.format(c),
        )
    job = json.loads(call(tmp_path / "1.ome.tif", "--name", "companions", "--json"))
    [layer] = job["params"]["layers"]
    ref, _, name = layer["source"].partition("/")
    assert (name, layer["part"]) == ("1.ome.tif", None)
    assert sorted(_stored(served, ref)) == ["0.ome.tif", "1.ome.tif", "all.companion.ome"]
