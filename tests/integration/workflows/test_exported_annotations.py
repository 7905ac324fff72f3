"""What people painted over a layer is exported with it, as TIFF."""

import io
import zipfile

import numpy as np
import pytest
import tifffile

import voxelworks
from voxelworks.errors import InvalidAnnotation, InvalidParams, MagNotFound, WrongCategory
from voxelworks.geometry import MAG1, Box, Mag, VoxelSize
from voxelworks.settings import Settings
from voxelworks.testing.independent_volumes import VolumeLayer, write_annotation
from voxelworks.volumes.dataset import Dataset

BOX = Box((5, 3, 2), (60, 50, 21))
EDGE = 8
MAG2 = Mag(2, 2, 1)
SMALL = Settings(slots=2, shard_bytes_max=32**3 * 8)


@pytest.fixture
def dataset(tmp_path):
    made = Dataset.create(tmp_path / "cells", VoxelSize(4, 4, 40))
    layer = made.add_layer("seg", "segmentation", "uint32", 1, BOX)
    for mag in (MAG1, MAG2):
        array = layer.add_mag(mag, shard_zyx=(64, 64, 64))
        array.write(array.box, below(mag)[None])
    made.add_layer("em", "color", "uint8", 1, BOX).add_mag(MAG1, shard_zyx=(64, 64, 64))
    made.write_metadata()
    return str(tmp_path / "cells")


def below(mag):
    """Give the labels of the layer in a mag (z, y, x)."""
    z, y, x = np.indices(BOX.in_mag(mag).shape_zyx)
    return (1 + mag.x * 1000 + x // 7 + 10 * (y // 5) + 100 * (z // 4)).astype(np.uint32)


def painted(seed, dtype="uint32"):
    """Give a bucket with holes: what was erased there is zero."""
    return np.random.default_rng(seed).integers(0, 4, (EDGE,) * 3).astype(dtype) * 7


def shown(mag, buckets):
    """Put buckets over the layer, and give what lies in its box (z, y, x)."""
    box = BOX.in_mag(mag)
    whole = np.zeros((200, 200, 200), np.uint64)
    whole[box.slices_zyx] = below(mag)
    for place, voxels in buckets.items():
        whole[tuple(slice(EDGE * at, EDGE * at + EDGE) for at in place[::-1])] = voxels
    return whole[box.slices_zyx]


def annotate(tmp_path, buckets, **more):
    layer = VolumeLayer(buckets, **{"name": "Edits", "fallback": "seg", **more})
    return str(write_annotation(tmp_path / "annotation.zip", [layer]))


def export(dataset, tmp_path, annotation, file="out.tif", **params):
    given = {
        "layer": f"{dataset}/seg",
        "annotation": annotation,
        "format": "ome_tiff",
        "settings": SMALL,
    } | params
    return voxelworks.run("export_tiff", file=str(tmp_path / file), **given)


def sections(path):
    return np.squeeze(tifffile.imread(path))


@pytest.mark.parametrize("data_format", ["wkw", "zarr3"])
def test_what_was_painted_covers_the_layer_in_each_mag(dataset, tmp_path, data_format):
    # The second bucket begins before the layer does: only what lies in the layer is exported.
    buckets = {
        "1": {(2, 1, 1): painted(1), (0, 0, 0): painted(2)},
        "2-2-1": {(1, 1, 1): painted(3)},
    }
    annotation = annotate(tmp_path, buckets, data_format=data_format)
    answer = export(dataset, tmp_path, annotation)
    assert (answer["layer"], answer["mag"], answer["size"]) == ("seg", "1", "60,50,21")
    assert (sections(tmp_path / "out.tif") == shown(MAG1, buckets["1"])).all()
    export(dataset, tmp_path, annotation, "coarse.tif", mag="2-2-1")
    assert (sections(tmp_path / "coarse.tif") == shown(MAG2, buckets["2-2-1"])).all()
    inside = Box((17, 9, 9), (20, 11, 6))
    export(dataset, tmp_path, annotation, "part.tif", box=str(inside))
    cut = inside.moved(tuple(-start for start in BOX.topleft)).slices_zyx
    assert (sections(tmp_path / "part.tif") == shown(MAG1, buckets["1"])[cut]).all()


def test_sections_in_a_zip_hold_the_wider_ids_of_the_annotation(dataset, tmp_path):
    bucket = np.full((EDGE,) * 3, 2**40, np.uint64)
    answer = export(
        dataset,
        tmp_path,
        annotate(tmp_path, {"1": {(2, 2, 1): bucket}}),
        "out.zip",
        format="sections",
        mag="1",
    )
    assert answer["file"].endswith("out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        pages = [tifffile.imread(io.BytesIO(archive.read(name))) for name in sorted(archive.namelist())]
    assert pages[0].dtype == np.uint64
    assert (np.stack(pages) == shown(MAG1, {(2, 2, 1): bucket})).all()


def test_what_was_painted_in_a_coarser_mag_is_enlarged(dataset, tmp_path):
    bucket = painted(4)
    export(dataset, tmp_path, annotate(tmp_path, {"2-2-1": {(1, 1, 1): bucket}}))
    enlarged = bucket.repeat(2, 1).repeat(2, 2)
    expected = np.zeros((100, 100, 100), np.uint32)
    expected[BOX.slices_zyx] = below(MAG1)
    expected[8:16, 16:32, 16:32] = enlarged
    assert (sections(tmp_path / "out.tif") == expected[BOX.slices_zyx]).all()


def test_an_annotation_over_no_layer_is_exported_alone(dataset, tmp_path):
    bucket = painted(5)
    export(dataset, tmp_path, annotate(tmp_path, {"1": {(2, 1, 1): bucket}}, fallback=None))
    expected = np.zeros((100, 100, 100), np.uint32)
    expected[8:16, 8:16, 16:24] = bucket
    assert (sections(tmp_path / "out.tif") == expected[BOX.slices_zyx]).all()


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({"layer": "{dataset}/em"}, InvalidParams, "lies over 'seg', not over 'em'; export that layer"),
        ({"volume_layer": "Strokes"}, InvalidAnnotation, "no volume layer 'Strokes'; it has 'Edits'"),
        (
            {"mag": "2-2-1"},
            MagNotFound,
            "painted in mag 1, not in 2-2-1; choose one of them, or make coarser ones",
        ),
        (
            {"annotation": None, "volume_layer": "Edits"},
            InvalidParams,
            "is one of an annotation; name that too",
        ),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(dataset, tmp_path, params, error, text):
    annotation = annotate(tmp_path, {"1": {(2, 1, 1): painted(6)}})
    given = {name: value.replace("{dataset}", dataset) if value else value for name, value in params.items()}
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(error, match=text):
        export(dataset, tmp_path, **{"annotation": annotation} | given)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_an_annotation_over_an_image_is_refused(dataset, tmp_path):
    annotation = annotate(tmp_path, {"1": {(2, 1, 1): painted(6)}}, fallback="em")
    with pytest.raises(WrongCategory, match="'em' is a color layer"):
        export(dataset, tmp_path, annotation, layer=f"{dataset}/em")
    assert not (tmp_path / "out.tif").exists()


def test_an_annotation_without_voxels_leaves_the_layer_as_it_is(dataset, tmp_path):
    export(dataset, tmp_path, annotate(tmp_path, {}))
    assert (sections(tmp_path / "out.tif") == below(MAG1)).all()
    with pytest.raises(InvalidAnnotation, match="holds no voxels, and lies over no layer"):
        export(dataset, tmp_path, annotate(tmp_path, {}, fallback=None), "nothing.tif")
    assert not (tmp_path / "nothing.tif").exists()


def test_a_skeleton_alone_is_refused(dataset, tmp_path):
    annotation = str(write_annotation(tmp_path / "trees.zip", [], [[(6, 4, 3), (40, 40, 15)]]))
    with pytest.raises(
        InvalidAnnotation, match="has no volume layer; choose one in which something was painted"
    ):
        export(dataset, tmp_path, annotation)
