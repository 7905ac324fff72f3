"""Datasets come with pictures: new ones, those that were added to, and those that `describe` looks at."""

import json

import numpy as np
import pytest
from PIL import Image

import voxelworks
from voxelworks.errors import StorageFailed, TargetNotWritable
from voxelworks.settings import Settings
from voxelworks.testing.independent_writers import write_tiff
from voxelworks.volumes import ome, previews
from voxelworks.volumes.previews import INDEX_FILE, PREVIEW_FOLDER, read_index
from voxelworks.workflows import _previews, publishing

SETTINGS = Settings(slots=2)


@pytest.fixture
def dataset(tmp_path):
    """A dataset of an image layer, without coarser mags."""
    (tmp_path / "stack").mkdir()
    z, y, x = np.indices((6, 700, 600))
    for number, section in enumerate((x + y + 9 * z).astype(np.uint16)):
        write_tiff(tmp_path / "stack" / f"{number}.tif", section[None])
    voxelworks.run(
        "convert", source=str(tmp_path / "stack"), target=str(tmp_path / "dataset"), voxel_size="4,4,40",
        pyramid=False, settings=SETTINGS,
    )  # fmt: skip
    return tmp_path / "dataset"


def index(folder):
    return read_index((folder / PREVIEW_FOLDER / INDEX_FILE).read_bytes())


def pictures(folder):
    """Give all files of pictures by name."""
    return {path.name: path.read_bytes() for path in (folder / PREVIEW_FOLDER).iterdir()}


def is_whole(folder):
    listed = {
        item.file for preview in index(folder).values() for item in (*preview.slices, preview.thumbnail)
    }
    return listed | {INDEX_FILE} == pictures(folder).keys()


def test_a_new_dataset_has_pictures_of_each_layer(dataset):
    assert is_whole(dataset)
    [(name, preview)] = index(dataset).items()
    assert name == "color"
    assert [(item.plane, item.box, item.width, item.height) for item in preview.slices] == [
        ("xy", "0,0,3,600,700,1", 439, 512), ("xz", "0,350,0,600,1,6", 512, 51), ("yz", "300,0,0,1,700,6", 512, 44),
    ]  # fmt: skip
    for item in preview.slices:
        with Image.open(dataset / PREVIEW_FOLDER / item.file) as picture:
            assert (picture.format, picture.size) == ("WEBP", (item.width, item.height))


def test_new_mags_renew_the_pictures_and_leave_no_old_ones(dataset):
    for file in pictures(dataset).keys() - {INDEX_FILE}:
        (dataset / PREVIEW_FOLDER / file).write_bytes(b"old")
    (dataset / PREVIEW_FOLDER / ("0" * 32 + ".webp")).write_bytes(b"of an earlier time")
    voxelworks.run("downsample", dataset=str(dataset), layer="color", coarsest_mag="4-4-1", settings=SETTINGS)
    assert is_whole(dataset)
    assert index(dataset)["color"].slices[0].box == "0,0,3,600,700,1"
    assert b"old" not in pictures(dataset).values()


def test_equal_work_gives_equal_pictures(dataset, tmp_path):
    voxelworks.run(
        "convert", source=str(tmp_path / "stack"), target=str(tmp_path / "again"), voxel_size="4,4,40", pyramid=False,
        settings=SETTINGS,
    )  # fmt: skip
    assert pictures(tmp_path / "again") == pictures(dataset)


def test_describe_makes_the_pictures_of_a_dataset_that_has_none(dataset):
    made = pictures(dataset)
    for path in (dataset / PREVIEW_FOLDER).iterdir():
        path.unlink()
    (dataset / PREVIEW_FOLDER / "stray.webp").write_bytes(b"")
    answer = voxelworks.run("describe", dataset=str(dataset), settings=SETTINGS)
    assert answer == {"dataset": str(dataset), "layers": ["color"]}
    assert pictures(dataset) == made
    assert voxelworks.run("describe", dataset=f"{dataset}/", settings=SETTINGS)["layers"] == ["color"]
    assert not (dataset / ".voxelworks").exists()


def test_describe_refuses_what_it_cannot_write_or_read(dataset):
    with pytest.raises(TargetNotWritable, match="remote and can only be read"):
        voxelworks.run("describe", dataset="https://example.org/data", settings=SETTINGS)


def test_a_picture_that_cannot_be_drawn_harms_no_job(dataset, monkeypatch, capsys):
    before = pictures(dataset)

    def fail(*_):
        raise ValueError("no ink")

    monkeypatch.setattr(_previews, "draw", fail)
    answer = voxelworks.run(
        "downsample", dataset=str(dataset), layer="color", coarsest_mag="2-2-1", settings=SETTINGS
    )
    assert answer["mags"] == ["2-2-1"]
    assert "color: no pictures: no ink" in capsys.readouterr().err
    assert pictures(dataset) == before
    with pytest.raises(ValueError, match="no ink"):
        voxelworks.run("describe", dataset=str(dataset), settings=SETTINGS)


def test_pictures_that_cannot_be_published_harm_no_addition(dataset, monkeypatch):
    def fail(*_, **__):
        raise OSError("no wall")

    monkeypatch.setattr(previews, "adopt", fail)
    voxelworks.run("downsample", dataset=str(dataset), layer="color", coarsest_mag="2-2-1", settings=SETTINGS)
    mags = json.loads((dataset / "datasource-properties.json").read_text())["dataLayers"][0]["mags"]
    assert [mag["mag"] for mag in mags] == [[1, 1, 1], [2, 2, 1]]
    with pytest.raises(StorageFailed, match="no wall"):
        voxelworks.run("describe", dataset=str(dataset), settings=SETTINGS)


def test_too_little_memory_for_pictures_harms_no_job(dataset, monkeypatch, capsys):
    monkeypatch.setattr(_previews, "MEMORY_BYTES", 2**60)
    voxelworks.run("downsample", dataset=str(dataset), layer="color", coarsest_mag="2-2-1", settings=SETTINGS)
    assert "color: no pictures: one picture needs" in capsys.readouterr().err


def test_pictures_are_not_counted_as_stored(dataset, monkeypatch):
    sealed = []
    usual = publishing.seal
    monkeypatch.setattr(
        "voxelworks.workflows._job.seal", lambda *args, **kw: sealed.append(usual(*args, **kw)) or sealed[-1]
    )
    voxelworks.run("describe", dataset=str(dataset), settings=SETTINGS)
    assert [size for _, size in sealed] == [0]


def test_other_programs_see_no_layer_in_the_pictures(dataset):
    group = json.loads((dataset / "zarr.json").read_text())
    assert group["node_type"] == "group"
    assert not list((dataset / PREVIEW_FOLDER).rglob("zarr.json"))
    assert ome.read_image(lambda name: None, str(dataset / PREVIEW_FOLDER), "x") is None
