"""Boxes that are labelled: read by tifffile, zarr and ome-zarr-models, painted with tifffile, and put back."""

import io
import json
import shutil
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from ome_zarr_models import v04, v05

import voxelworks
from reference import properties, read_mag, shrink
from voxelworks.errors import (
    Cancelled,
    InvalidGeometry,
    InvalidParams,
    MagNotFound,
    SourceNotFound,
    TargetExists,
    UnsupportedDtype,
    UnsupportedFormat,
    WrongCategory,
)
from voxelworks.geometry import MAG1, Box, Mag, VoxelSize
from voxelworks.settings import Settings
from voxelworks.testing.rounds import rounds
from voxelworks.volumes.dataset import Dataset
from voxelworks.volumes.labelled import labelled_boxes
from voxelworks.workflows import _labelling, _ome_zarr, _planes
from voxelworks.workflows._labelling import Given, find_painted

WHOLE = Box((3, 5, 7), (90, 70, 40))


def make(
    folder, *, labels="uint32", largest=None, box=WHOLE, mags=(MAG1,), voxel_size="4,4,40", color="uint8"
):
    """Make a dataset `cells` with an image and labels; give both in the last mag (c, z, y, x)."""
    dataset = Dataset.create(folder / "cells", VoxelSize.parse(voxel_size))
    count, name = (3, "uint8") if color == "rgb" else (1, color)
    dataset.add_layer("em", "color", name, count, box)
    dataset.add_layer("cells", "segmentation", labels, 1, box)
    dice = np.random.default_rng(len(labels))
    found = []
    for layer, channels, dtype, most in (
        ("em", count, name, None), ("cells", 1, labels, largest),
    ):  # fmt: skip
        for mag in mags:
            shape = (channels, *box.in_mag(mag).shape_zyx)
            high = np.iinfo(dtype).max if most is None else most
            voxels = dice.integers(0, high, shape, dtype, endpoint=True)
            voxels[0, 5, 8, 10] = high
            dataset.layer(layer).add_mag(mag, shard_zyx=(64, 64, 64)).write(box.in_mag(mag), voxels)
        found.append(voxels)
    dataset.write_metadata()
    return found


def export(folder, box="10,10,10,40,30,20", **params):
    """Export a box, unpack it, and give its folder."""
    params = {"file": str(folder / "box.zip"), **params}
    (folder / "box.zip").unlink(missing_ok=True)
    told = voxelworks.run(
        "export_training_box", layer=f"{folder}/cells/em", box=box, cluster="serial", **params
    )
    with zipfile.ZipFile(folder / "box.zip") as archive:
        assert archive.testzip() is None
        archive.extractall(folder / "unpacked")
        (top,) = {name.split("/")[0] for name in archive.namelist()}
    assert top.endswith("__mag{}__box{}".format(told["mag"], told["box"].replace(",", "-")))
    return folder / "unpacked" / top


def put_back(folder, source, **params):
    return voxelworks.run(
        "import_training_labels",
        dataset=str(folder / "cells"),
        source=str(source),
        cluster="serial",
        **params,
    )


def tiff_of(box, ending="labels"):
    return box / f"{box.name}__{ending}.tif"


def paint(box, ids, name=None, **how):
    """Save labels as a program does that keeps nothing but the name."""
    path = box.parent / (name or f"{box.name}__labels.tif")
    tifffile.imwrite(path, ids, **({"photometric": "minisblack"} | how))
    return path


def truth_of(folder, layer="ground_truth", mag="1"):
    """Read the layer as zarr-python does, where its properties say it lies (z, y, x)."""
    (found,) = [item for item in properties(folder / "cells")["dataLayers"] if item["name"] == layer]
    paths = {"-".join(map(str, item["mag"])): item["path"] for item in found["mags"]}
    mag = mag if "-" in mag else f"{mag}-{mag}-{mag}"
    return read_mag(folder / "cells", paths[mag].removeprefix("./"), "")[0]


def in_box(box, shape, ids):
    """Give an array of this shape, zero but in a box (of its mag)."""
    whole = np.zeros(shape, np.uint64)
    whole[box.slices_zyx] = ids
    return whole


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*")}


# What is given out


@pytest.mark.parametrize("color", ["uint16", "rgb"])
def test_the_image_and_empty_labels_are_there_twice_and_say_where_they_lie(tmp_path, color):
    image, _ = make(tmp_path, color=color)
    box = export(tmp_path)
    cut = image[:, 3:23, 5:35, 7:47]
    raw = tifffile.imread(tiff_of(box, "raw"))
    assert (raw == (np.moveaxis(cut, 0, -1) if color == "rgb" else cut[0])).all()
    labels = tifffile.imread(tiff_of(box))
    assert (labels.shape, labels.dtype, labels.max()) == ((20, 30, 40), np.uint16, 0)
    for ending in ("raw", "labels"):
        with tifffile.TiffFile(tiff_of(box, ending)) as tiff:
            assert "box 10,10,10,40,30,20 in mag 1" in tiff.ome_metadata
            assert 'PhysicalSizeZ="40"' in tiff.ome_metadata
    store = box / f"{box.name}.ome.zarr"
    group = v05.Image.from_zarr(zarr.open_group(store, mode="r"))
    assert group.labels.ome_attributes.labels == ["ground_truth"]
    v05.ImageLabel.from_zarr(zarr.open_group(store / "labels/ground_truth", mode="r"))
    assert (zarr.open_array(store / "1", mode="r")[...] == cut).all()
    for part in (store, store / "labels/ground_truth"):
        (level,) = json.loads((part / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0][
            "datasets"
        ]
        _, shift = level["coordinateTransformations"]
        assert shift["translation"] == [0, 400, 40, 40]
    position = json.loads((box / "position.json").read_text())
    assert (position["box"], position["mag"], position["dataset"]) == ("10,10,10,40,30,20", "1", "cells")


def test_old_programs_get_the_older_ome_zarr(tmp_path):
    make(tmp_path)
    store = export(tmp_path, ome_version="0.4")
    store /= f"{store.name}.ome.zarr"
    v04.Image.from_zarr(zarr.open_group(store, mode="r"))
    v04.ImageLabel.from_zarr(zarr.open_group(store / "labels/ground_truth", mode="r"))
    assert zarr.open_group(store / "labels", mode="r").attrs["labels"] == ["ground_truth"]


@pytest.mark.parametrize(("box", "color"), [("10,10,10,40,30,20", "rgb"), ("10,10,10,40,30,1", "uint8")])
def test_the_line_for_napari_shows_image_and_labels_in_true_proportions(tmp_path, monkeypatch, box, color):
    make(tmp_path, color=color)
    folder = export(tmp_path, box=box)
    (line,) = [item for item in (folder / "README.txt").read_text().splitlines() if "import napari" in item]
    shown = {}

    def show(kind):
        return lambda data, **how: shown.update({kind: (data.shape, how["scale"])})

    viewer = SimpleNamespace(add_image=show("image"), add_labels=show("labels"))
    napari = SimpleNamespace(Viewer=lambda: viewer, run=lambda: None)
    monkeypatch.setitem(__import__("sys").modules, "napari", napari)
    monkeypatch.chdir(folder)
    exec(line.strip().removeprefix('python -c "').removesuffix('"'), {})
    sizes = (20, 30, 40) if box.endswith("20") else (30, 40)
    scale = (40, 4, 4)[-len(sizes) :]
    assert shown["labels"] == (sizes, scale)
    assert shown["image"] == ((*sizes, 3) if color == "rgb" else sizes, scale)


def test_a_box_is_widened_to_whole_voxels_and_says_what_it_is_large_enough_for(tmp_path):
    make(tmp_path, box=Box((0, 0, 0), (200, 200, 40)), mags=(MAG1, Mag(2, 2, 1)))
    told = voxelworks.run(
        "export_training_box", layer=f"{tmp_path}/cells/em", box="11,13,3,169,169,30", mag="2-2-1",
        file=str(tmp_path / "box.zip"), cluster="serial",
    )  # fmt: skip
    assert (told["box"], told["size"]) == ("10,12,3,170,170,30", "85,85,30")
    assert told["large_enough_for"] == ["neurons"]


@pytest.mark.parametrize(
    ("largest", "stored"), [(None, np.uint64), (2**15, np.uint32), (2**15 - 1, np.uint16)]
)
def test_labels_to_correct_leave_room_for_as_many_ids_again(tmp_path, largest, stored):
    _, labels = make(tmp_path, labels="uint64", largest=largest)
    box = export(tmp_path, start_from=f"{tmp_path}/cells/cells")
    cut = labels[0, 3:23, 5:35, 7:47]
    in_tiff, in_zarr = tifffile.imread(tiff_of(box)), zarr.open_array(
        box / f"{box.name}.ome.zarr/labels/ground_truth/1", mode="r"
    )[0]  # fmt: skip
    for found in (in_tiff, in_zarr):
        assert found.dtype == stored
        assert (found == cut).all()
    assert "`ids` set to `keep`" in (box / "README.txt").read_text()


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        ({"box": "0,0,0,10,10,10"}, InvalidGeometry, "leaves layer em"),
        ({"box": "10,10,10,0,10,10"}, InvalidGeometry, "is empty"),
        ({"mag": "4"}, MagNotFound, "has no mag 4"),
        ({"layer": "cells"}, WrongCategory, "is a segmentation layer; name a color layer"),
        ({"start_from": "em"}, WrongCategory, "is a color layer; name a segmentation layer"),
        ({"file": "box.tif"}, InvalidParams, "its name ends in .zip"),
    ],
)
def test_a_box_that_cannot_be_given_out_is_refused_before_anything_is_written(tmp_path, params, error, words):
    make(tmp_path)
    before = tree(tmp_path)
    if "start_from" in params:
        params = {"start_from": f"{tmp_path}/cells/{params['start_from']}"}
    layer = f"{tmp_path}/cells/{params.pop('layer', 'em')}"
    asked = {"layer": layer, "box": "10,10,10,20,20,20", "file": str(tmp_path / "box.zip"), **params}
    with pytest.raises(error, match=words):
        voxelworks.run("export_training_box", cluster="serial", **asked)
    assert tree(tmp_path) == before


# What comes back

corners = st.tuples(st.integers(0, 70), st.integers(0, 50), st.integers(0, 30))
sizes = st.tuples(st.integers(1, 60), st.integers(1, 50), st.integers(2, 20))


@settings(max_examples=rounds(6, 100), deadline=None)
@given(
    labels=st.sampled_from(["uint8", "int8", "uint16", "uint32", "int64", "uint64"]),
    corner=corners,
    size=sizes,
    offset=st.sampled_from([(0, 0, 0), (3, 5, 7), (100_003, 5, 70_001)]),
    mag=st.sampled_from([MAG1, Mag(2, 2, 1), Mag(4, 2, 1)]),
    form=st.sampled_from(["zip", "folder", "tiff", "zarr", "coordinates"]),
    version=st.sampled_from(["0.4", "0.5"]),
)
def test_labels_that_come_back_unchanged_are_the_same_voxels_at_the_same_place(
    tmp_path_factory, labels, corner, size, offset, mag, form, version
):
    folder = tmp_path_factory.mktemp("law")
    whole = Box(offset, (133, 101, 51))
    make(folder, labels=labels, largest=100, box=whole, mags=(mag,), voxel_size="8,16,30.5")
    asked = Box(corner, size).moved(offset)
    box = export(
        folder, box=str(asked), mag=str(mag), start_from=f"{folder}/cells/cells", ome_version=version
    )
    store = box / f"{box.name}.ome.zarr"
    if form == "zip":
        source = folder / "box.zip"
    elif form == "folder":
        source = box
    elif form == "tiff":
        source = shutil.copy(tiff_of(box), folder)
    else:
        # Packed from inside the folder: only the coordinates say where it belongs.
        name = box.name if form == "zarr" else "labels"
        source = shutil.make_archive(folder / name, "zip", store / "labels/ground_truth")
    told = put_back(folder, source)
    in_mag = asked.in_mag(mag)
    assert told["boxes"] == [str(in_mag.from_mag(mag))]
    dataset = Dataset.open(folder / "cells")
    assert labelled_boxes(dataset.layer("ground_truth")) == [in_mag.from_mag(mag)]
    assert dataset.layer("ground_truth").box == in_mag.from_mag(mag)
    original = dataset.layer("cells").mag(mag).read(in_mag)
    found = dataset.layer("ground_truth").mag(mag)
    assert (found.read(in_mag) == original).all()
    around = Box(tuple(max(0, a - 9) for a in in_mag.topleft), tuple(n + 18 for n in in_mag.size))
    assert np.count_nonzero(found.read(around)) == np.count_nonzero(original) == told["labelled_voxels"]
    assert told["largest_segment_id"] == original.max()


@pytest.mark.parametrize("dtype", ["int16", "float32", "int64"])
def test_ids_are_taken_however_programs_save_them(tmp_path, dtype):
    make(tmp_path)
    box = export(tmp_path)
    ids = np.random.default_rng(1).integers(0, 100, (20, 30, 40))
    how = {"imagej": True} if dtype == "float32" else {"compression": "zlib"}
    told = put_back(tmp_path, paint(box, ids.astype(dtype), **how))
    assert told["labelled_voxels"] == np.count_nonzero(ids)
    found = truth_of(tmp_path)
    assert found.dtype == np.uint32
    assert (found == in_box(Box((10, 10, 10), (40, 30, 20)), found.shape, ids)).all()
    layer = properties(tmp_path / "cells")["dataLayers"][-1]
    assert layer["labelledBoxes"] == [{"topLeft": [10, 10, 10], "width": 40, "height": 30, "depth": 20}]


def test_one_file_for_each_section_is_taken_too(tmp_path):
    make(tmp_path)
    box = export(tmp_path)
    ids = np.random.default_rng(1).integers(0, 100, (20, 30, 40), np.uint16)
    folder = tmp_path / box.name
    folder.mkdir()
    for z, section in enumerate(ids):
        tifffile.imwrite(folder / f"section{z:03}.tif", section)
    put_back(tmp_path, folder)
    assert (truth_of(tmp_path)[10:30, 10:40, 10:50] == ids).all()


def test_of_a_folder_the_labels_count_that_were_painted_in(tmp_path):
    make(tmp_path)
    box = export(tmp_path)
    array = zarr.open_array(box / f"{box.name}.ome.zarr/labels/ground_truth/1", mode="r+")
    array[0, 2, 3, 4] = 7
    put_back(tmp_path, box)
    assert truth_of(tmp_path)[12, 13, 14] == 7
    labels = tifffile.imread(tiff_of(box))
    labels[1, 1, 1] = 9
    tifffile.imwrite(tiff_of(box), labels)
    with pytest.raises(
        InvalidParams, match="hold labels of the same box; upload the one that was painted in"
    ):
        put_back(tmp_path, box)
    shutil.rmtree(box / f"{box.name}.ome.zarr")
    put_back(tmp_path, shutil.make_archive(tmp_path / "again", "zip", box))
    assert (truth_of(tmp_path)[12, 13, 14], truth_of(tmp_path)[11, 11, 11]) == (0, 9)


def test_a_file_without_its_name_is_placed_by_what_lies_beside_it_or_by_what_is_said(tmp_path):
    make(tmp_path)
    box = export(tmp_path)
    ids = np.full((20, 30, 40), 3, np.uint8)
    painted = paint(box, ids, "painted.tif")
    with pytest.raises(InvalidParams, match=r"painted.tif does not say where it belongs: give box and mag"):
        put_back(tmp_path, painted)
    with pytest.raises(InvalidParams, match="does not say where it belongs"):
        put_back(tmp_path, painted, box="10,10,10,40,30,20")
    put_back(tmp_path, painted, box="20,20,11,40,30,20", mag="1")
    assert truth_of(tmp_path)[11, 20, 20] == 3
    put_back(tmp_path, shutil.copy(painted, box / "mine.tif"), layer_name="other")
    assert truth_of(tmp_path, "other")[10, 10, 10] == 3


def test_further_boxes_go_into_the_same_layer_with_ids_of_their_own(tmp_path):
    make(tmp_path, box=Box((0, 0, 0), (600, 90, 40)), voxel_size="10,10,10")
    ids = np.random.default_rng(1).integers(0, 50, (20, 30, 40), np.uint16)
    boxes = [export(tmp_path, box=f"{x},10,10,40,30,20") for x in (4, 500, 250)]
    first = put_back(tmp_path, paint(boxes[0], ids))
    second = put_back(tmp_path, paint(boxes[1], ids))
    assert [first["box_count"], second["box_count"]] == [1, 2]
    third = put_back(tmp_path, paint(boxes[2], ids), ids="keep")
    assert third["largest_segment_id"] == 2 * ids.max()
    numbered = np.where(ids, ids + np.uint32(ids.max()), 0)
    found = truth_of(tmp_path)
    for x, wanted in ((4, ids), (500, numbered), (250, ids)):
        assert (found[10:30, 10:40, x : x + 40] == wanted).all()
    assert np.count_nonzero(found) == 3 * np.count_nonzero(ids)
    dataset = Dataset.open(tmp_path / "cells")
    assert [box.topleft[0] for box in labelled_boxes(dataset.layer("ground_truth"))] == [4, 500, 250]
    assert (truth_of(tmp_path, mag="2") == shrink(found, (2, 2, 2), "mode")).all()
    assert [path.name for path in (tmp_path / "cells/ground_truth").glob("*/")] == ["v3"]
    # Painted anew: it takes the place of the box, and the others stay.
    again = put_back(tmp_path, paint(boxes[1], ids % 2), ids="keep")
    assert again["box_count"] == 3
    renewed = truth_of(tmp_path)
    assert (renewed[10:30, 10:40, 500:540] == ids % 2).all()
    assert (renewed[:, :, :450] == found[:, :, :450]).all()


def test_several_files_come_in_at_once(tmp_path):
    make(tmp_path)
    ids = np.random.default_rng(1).integers(1, 50, (4, 5, 6), np.uint16)
    folder = tmp_path / "together"
    folder.mkdir()
    for x in (10, 40):
        shutil.move(paint(export(tmp_path, box=f"{x},10,10,6,5,4"), ids), folder)
    told = put_back(tmp_path, shutil.make_archive(tmp_path / "together", "zip", folder))
    assert told["boxes"] == ["10,10,10,6,5,4", "40,10,10,6,5,4"]
    assert (truth_of(tmp_path)[10:14, 10:15, 40:46] == ids + ids.max()).all()
    with pytest.raises(InvalidParams, match="a box or mag is given for several files"):
        put_back(tmp_path, folder, box="10,10,10,6,5,4")


def test_what_was_made_of_labels_goes_with_them(tmp_path):
    make(tmp_path)
    painted = paint(export(tmp_path), np.full((20, 30, 40), 3, np.uint8))
    put_back(tmp_path, painted)
    cells, meshes = (
        tmp_path / "cells",
        [{"name": "m", "path": "./ground_truth/meshes/m", "dataFormat": "zarr3"}],
    )
    (cells / "ground_truth/meshes/m").mkdir(parents=True)
    stated = properties(cells)
    stated["dataLayers"][-1] |= {
        "attachments": {"meshes": meshes},
        "segmentTable": "./ground_truth/t",
        "mine": 1,
    }
    (cells / "datasource-properties.json").write_text(json.dumps(stated))
    put_back(tmp_path, painted)
    layer = properties(cells)["dataLayers"][-1]
    assert ("attachments" in layer, "segmentTable" in layer, layer["mine"]) == (False, False, 1)
    assert sorted(path.name for path in (cells / "ground_truth").iterdir()) == ["v2", "zarr.json"]


def refuse(box, error, words, ids=None, name=None, *, params=None, **how):
    ids = np.ones((20, 30, 40), np.uint8) if ids is None else ids
    with pytest.raises(error, match=words):
        put_back(box.parent.parent, paint(box, ids, name, **how), **(params or {}))


def test_what_cannot_be_ground_truth_is_refused_and_nothing_is_changed(tmp_path):
    make(tmp_path, mags=(MAG1, Mag(2, 2, 1)))
    box = export(tmp_path)
    one = np.ones((20, 30, 40), np.uint8)
    put_back(tmp_path, paint(box, one), layer_name="earlier")
    before = tree(tmp_path / "cells")
    half, large, rgb = (
        np.full((20, 30, 40), 0.5, np.float32),
        one.astype(np.float32),
        one[..., None].repeat(3, 3),
    )
    large[3, 2, 1] = 2**24 + 2
    nothing, negative, missing = one * 0, -one.astype(np.int16), np.where(one, np.nan, 0).astype(np.float32)
    refuse(
        box,
        InvalidParams,
        r"has 40 x 30 x 19 voxels, but box .* in mag 1 has 40 x 30 x 20; save the",
        one[1:],
    )
    refuse(box, InvalidParams, "its axes are in another order", one.transpose(2, 1, 0))
    refuse(box, UnsupportedDtype, "holds the value 0.5, which is no id", half)
    refuse(box, UnsupportedDtype, "holds the value nan, which is no id", missing)
    refuse(box, UnsupportedDtype, "holds the id 16777218 as float32, which rounds ids above 16777216", large)
    refuse(box, UnsupportedDtype, "holds -1; ids are 0", negative)
    refuse(box, UnsupportedDtype, r"holds colours \(RGB\), not ids", rgb, photometric="rgb")
    refuse(box, InvalidParams, "holds no label, only 0", nothing)
    refuse(box, UnsupportedFormat, "20 time points", one[:, None], imagej=True, metadata={"axes": "TZYX"})
    mag = f"{box.name}__labels.tif".replace("mag1", "mag2-2-1")
    asked = {"layer_name": "earlier"}
    words = "mag 2-2-1, but those in layer 'earlier' in mag 1"
    refuse(box, InvalidParams, words, one[:, ::2, ::2], mag, params=asked)
    words = "says that it is box 10,10,10,40,30,20 in mag 1, but box 20,20,11,40,30,20 in mag 1 is given"
    refuse(box, InvalidParams, words, params={"box": "20,20,11,40,30,20"})
    refuse(box, TargetExists, "was not made of labelled boxes", params={"layer_name": "cells"})
    far = f"{box.name}__labels.tif".replace("box10-", "box1000-")
    refuse(box, InvalidGeometry, "leaves dataset 'cells'", one, far)
    with pytest.raises(UnsupportedFormat, match="is the image that was exported"):
        put_back(tmp_path, tiff_of(box, "raw"))
    with pytest.raises(SourceNotFound, match="does not exist"):
        put_back(tmp_path, tmp_path / "none.tif")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnsupportedFormat, match="there are no labels in it"):
        put_back(tmp_path, tmp_path / "empty")
    (box / "position.json").write_text("{")
    with pytest.raises(InvalidParams, match=r"position.json is damaged"):
        put_back(tmp_path, box)
    assert tree(tmp_path / "cells") == before
    told = put_back(tmp_path, paint(box, nothing), may_be_empty=True)
    assert (told["labelled_voxels"], told["largest_segment_id"]) == (0, 0)


def test_ids_for_which_there_is_no_room_are_refused(tmp_path):
    make(tmp_path)
    boxes = [export(tmp_path, box=f"{x},10,10,6,5,4") for x in (10, 40)]
    ids = np.full((4, 5, 6), 2**64 - 1, np.uint64)
    put_back(tmp_path, paint(boxes[0], ids))
    assert truth_of(tmp_path)[10, 10, 10] == 2**64 - 1
    with pytest.raises(InvalidParams, match="there is no room for as many; set ids to keep"):
        put_back(tmp_path, paint(boxes[1], ids))
    put_back(tmp_path, paint(boxes[1], ids), ids="keep")
    assert truth_of(tmp_path)[10, 10, 40] == 2**64 - 1


def test_work_that_was_stopped_goes_on_and_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(_planes, "SLAB_BYTES", 1)
    monkeypatch.setattr(_ome_zarr, "BATCH_BYTES", 1)
    make(tmp_path, box=Box((0, 0, 0), (70, 70, 70)))
    small = Settings(shard_bytes_max=2**18)
    asked = {"box": "0,0,0,70,70,70", "start_from": f"{tmp_path}/cells/cells", "settings": small}
    export(tmp_path, **asked)
    whole = (tmp_path / "box.zip").read_bytes()
    for phase in ("labels, writing sections 64", "labels as OME-Zarr, mag 1, part 3"):
        stop_at(phase, lambda **how: export(tmp_path, **asked, **how))
        export(tmp_path, **asked)
        assert (tmp_path / "box.zip").read_bytes() == whole
    shutil.copytree(tmp_path / "cells", tmp_path / "other/cells")
    put_back(tmp_path, tmp_path / "box.zip")
    stop_at("ground_truth: mag 1", lambda **how: put_back(tmp_path / "other", tmp_path / "box.zip", **how))
    assert not (tmp_path / "other/cells/ground_truth").exists()
    put_back(tmp_path / "other", tmp_path / "box.zip")
    names = [path.relative_to(tmp_path) for path in (tmp_path / "cells").rglob("*") if path.is_file()]
    assert all((tmp_path / name).read_bytes() == (tmp_path / "other" / name).read_bytes() for name in names)
    assert not (tmp_path / "other/cells/.voxelworks").exists()


def stop_at(phase, act):
    def stop(progress):
        if progress.phase.startswith(phase):
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        act(on_progress=stop)


def test_only_what_can_be_added_to_takes_ground_truth(tmp_path):
    make(tmp_path)
    painted = paint(export(tmp_path), np.ones((20, 30, 40), np.uint8))
    (tmp_path / "cells/datasource-properties.json").unlink()
    image = tmp_path / "cells/em"
    with pytest.raises(UnsupportedFormat, match="is a single OME-Zarr image, to which no layer can be added"):
        voxelworks.run("import_training_labels", dataset=str(image), source=str(painted), cluster="serial")


def test_on_a_server_links_in_a_folder_are_not_followed(tmp_path):
    make(tmp_path)
    box = export(tmp_path)
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent/box").symlink_to(box)
    (tmp_path / "sent/labels.tif").symlink_to(tiff_of(box))
    given = Given(None, None, "sent", VoxelSize(4, 4, 40))
    assert len(find_painted(str(tmp_path / "sent/box"), given, may_leave_folder=True)) == 1
    with pytest.raises(UnsupportedFormat, match="there are no labels in it"):
        find_painted(str(tmp_path / "sent"), given, may_leave_folder=False)


def test_a_place_that_holds_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(_labelling, "_CANDIDATES_MAX", 2)
    for number in range(3):
        tifffile.imwrite(tmp_path / f"a__b__mag1__box{number}-0-0-4-5-6.tif", np.ones((5, 4), np.uint8))
    given = Given(None, None, "sent", VoxelSize(4, 4, 40))
    with pytest.raises(InvalidParams, match="there are more than 2 files"):
        find_painted(str(tmp_path), given, may_leave_folder=True)


def test_the_same_box_gives_the_same_zip(tmp_path):
    make(tmp_path)
    zips = [(export(tmp_path), (tmp_path / "box.zip").read_bytes())[1] for _ in range(2)]
    assert zips[0] == zips[1]
    with zipfile.ZipFile(io.BytesIO(zips[0])) as archive:
        assert {item.date_time[0] for item in archive.infolist()} == {1980}
