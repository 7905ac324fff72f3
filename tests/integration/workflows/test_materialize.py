"""Annotations become datasets as a slow reference makes them: whole arrays, bucket by bucket, node by node."""

import json
import zipfile
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import voxelworks
from reference import properties, read_mag, shrink, tree
from voxelworks.errors import (
    InvalidAnnotation,
    InvalidGeometry,
    InvalidParams,
    LayerNotFound,
    TargetExists,
    UnsupportedDtype,
    WrongCategory,
)
from voxelworks.geometry import MAG1, Box, Mag, VoxelSize
from voxelworks.settings import Settings
from voxelworks.testing.independent_volumes import VolumeLayer, nml_text, write_annotation, write_wkw
from voxelworks.volumes.dataset import Dataset

SMALL = Settings(slots=1, shard_bytes_max=2**18)
BOX = Box((5, 3, 2), (70, 66, 20))
EDGE = 8
"""Of a bucket."""


@dataclass
class Case:
    """A dataset with labels, an annotation of it, and what shall become of them."""

    home: Path
    box: Box = BOX
    fallback_mag: Mag | None = MAG1
    dtype: str = "uint32"
    buckets: dict = field(default_factory=dict)
    """For each mag: number (x, y, z) -> voxels."""
    trees: list = field(default_factory=list)
    data_format: str = "wkw"

    def labels(self):
        """Labels of the fallback layer in its mag, for its whole box, with some background."""
        z, y, x = np.indices(self.box.in_mag(self.fallback_mag).shape_zyx)
        values = 1 + x // 9 + 10 * (y // 11) + 100 * (z // 6)
        return (values * ((x + y + z) % 7 > 0)).astype(self.dtype)

    def make(self):
        dataset = Dataset.create(self.home / "demo", VoxelSize(4, 4, 40))
        color = dataset.add_layer("color", "color", "uint8", 3, self.box)
        array = color.add_mag(Mag(2, 2, 1), shard_zyx=(64, 64, 64))
        pixels = np.random.default_rng(0).integers(0, 255, (3, *array.box.shape_zyx), np.uint8)
        array.write(array.box, pixels)
        if self.fallback_mag is not None:
            layer = dataset.add_layer("segmentation", "segmentation", self.dtype, 1, self.box)
            array = layer.add_mag(self.fallback_mag, shard_zyx=(64, 64, 64))
            array.write(array.box, self.labels())
        dataset.write_metadata()
        layer = VolumeLayer(
            self.buckets, self.data_format, fallback="segmentation" if self.fallback_mag else None
        )
        write_annotation(self.home / "annotation.zip", [layer], self.trees)
        return pixels

    def run(self, **params):
        given = {"dataset": self.home / "demo", "annotation": self.home / "annotation.zip"}
        paths = {name: str(path) for name, path in {**given, "target": self.home / "out"}.items()}
        return voxelworks.run(
            "materialize_volume_annotation", settings=SMALL, cluster="serial", **{**paths, **params}
        )

    @property
    def edit_mag(self):
        """The finest mag with buckets, if any."""
        filled = [Mag.parse(mag) for mag, buckets in self.buckets.items() if buckets]
        return min(filled, key=lambda mag: mag.xyz, default=None)

    def expected_box(self, mag):
        """Beyond the layer below, or all layers, the new one grows as far as there are segments."""
        outside = self.expected(mag)
        outside[self.box.in_mag(mag).slices_zyx] = 0
        places = np.argwhere(outside)
        if not len(places):
            return self.box
        step = self.edit_mag.relative_to(mag).zyx
        low = [int(first) // by * by for first, by in zip(places.min(axis=0), step, strict=True)]
        high = [-(-(int(last) + 1) // by) * by for last, by in zip(places.max(axis=0), step, strict=True)]
        grown = Box.from_zyx(tuple(low), tuple(b - a for a, b in zip(low, high, strict=True)))
        return self.box.union(grown.from_mag(mag))

    def expected(self, mag, *, merges=False):
        """Give the labels in a mag, from voxel 0 on: everything as one array."""
        edit_mag = self.edit_mag or mag
        shape = (50, 170, 170)
        whole = np.zeros(shape, np.uint64)
        if self.fallback_mag is not None:
            start = self.box.in_mag(self.fallback_mag).from_mag(self.fallback_mag).in_mag(mag).start_zyx
            enlarged = enlarge(self.labels(), self.fallback_mag.relative_to(mag).zyx)
            inside = self.box.in_mag(mag)
            large = np.zeros(shape, np.uint64)
            put(large, start, enlarged)
            whole[inside.slices_zyx] = large[inside.slices_zyx]
        for (x, y, z), voxels in self.buckets.get(str(edit_mag), {}).items():
            factor = edit_mag.relative_to(mag).zyx
            start = tuple(number * EDGE * times for number, times in zip((z, y, x), factor, strict=True))
            put(whole, start, enlarge(voxels, factor))
        return merge(whole, mag, self.trees) if merges else whole


def enlarge(voxels, factor_zyx):
    return np.kron(voxels, np.ones(factor_zyx, voxels.dtype))


def put(whole, start, part):
    z, y, x = (slice(first, first + extent) for first, extent in zip(start, part.shape, strict=True))
    target = whole[z, y, x]
    target[...] = part[tuple(slice(0, extent) for extent in target.shape)]


def merge(whole, mag, trees):
    """Give all segments that touch one tree the id of the first, until nothing changes any more."""
    whole = whole.copy()
    order = []
    groups = []
    for nodes in trees:
        group = []
        for x, y, z in nodes:
            at = int(z // mag.z), int(y // mag.y), int(x // mag.x)
            is_inside = all(0 <= i < n for i, n in zip(at, whole.shape, strict=True))
            group.append(int(whole[at]) if is_inside else 0)
        order += group
        groups.append([label for label in group if label])
    for _ in range(len(order)):
        for group in groups:
            first = min((int(label) for label in group), key=order.index, default=0)
            for label in group:
                if label != first:
                    whole[whole == label] = first
                    groups = [[first if other == label else other for other in item] for item in groups]
    return whole


def bucket(seed, dtype="uint32"):
    """A bucket with some segments, and holes that somebody erased."""
    voxels = np.random.default_rng(seed).integers(1, 250, (EDGE, EDGE, EDGE), dtype)
    voxels[:, 2:5] = 0
    return voxels


def check(case, answer, *, mag=MAG1, box=None, name="segmentation_materialized", merges=False):
    """Compare every level of the new layer with the reference."""
    expected = case.expected(mag, merges=merges)
    box = box or case.expected_box(mag)
    inside = box.in_mag(mag)
    out = Path(answer["dataset"])
    found = read_mag(out, name, str(mag))[0]
    whole = np.zeros(expected.shape, np.uint64)
    put(whole, (0, 0, 0), found)
    cut = np.zeros_like(expected)
    cut[inside.slices_zyx] = expected[inside.slices_zyx]
    assert np.array_equal(whole, cut)
    assert answer["largest_segment_id"] == int(cut.max())
    layer = next(item for item in properties(out)["dataLayers"] if item["name"] == name)
    assert layer["boundingBox"] == {
        "topLeft": list(box.topleft), "width": box.size[0], "height": box.size[1], "depth": box.size[2],
    }  # fmt: skip
    assert layer["largestSegmentId"] == int(cut.max())
    assert answer["mags"][0] == str(mag)
    return found


def test_edits_replace_whole_buckets_and_the_pyramid_and_other_layers_follow(tmp_path):
    case = Case(
        tmp_path,
        buckets={
            "1": {(1, 1, 0): bucket(1), (4, 4, 1): bucket(2)},
            "2-2-1": {(0, 0, 0): bucket(3)},
        },
    )
    pixels = case.make()
    answer = case.run()
    # Of the second mag only the first bucket would lie elsewhere: the finest one counts.
    assert (answer["layers"], answer["merged_segment_count"]) == (["color", "segmentation_materialized"], 0)
    found = check(case, answer)
    assert (found[6:8, 10:13, 8:16] == 0).all(), "what was erased stays erased"
    assert answer["mags"] == ["1"], "it fits into 256 voxels"
    assert np.array_equal(read_mag(tmp_path / "out", "color", "2-2-1")[:, 2:22, 1:35, 2:38], pixels)


@pytest.mark.parametrize("data_format", ["wkw", "zarr3"])
def test_trees_merge_what_lies_under_their_nodes(tmp_path, data_format, monkeypatch):
    monkeypatch.setattr("voxelworks.workflows._points._PIECES_PER_BLOCK", 1)
    trees = [
        [(6, 4, 3), (15.9, 4, 3), (9e15, 4, 3), (-4, -4, -4)],
        [(15, 5, 3), (40, 40, 15), (9, 9, 4)],
        [(60, 60, 20)],
        [],
    ]
    case = Case(tmp_path, buckets={"1": {(1, 1, 0): bucket(1)}}, trees=trees, data_format=data_format)
    case.make()
    answer = case.run(merge_segments=True, copy_other_layers=False, output_layer="cells")
    check(case, answer, name="cells", merges=True)
    assert answer["layers"] == ["cells"]
    assert answer["merged_segment_count"] > 0
    only_merged = case.run(merge_segments=True, skip_volume_data=True, target=str(tmp_path / "merged"))
    case.buckets = {}
    check(case, only_merged, merges=True)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_annotation_becomes_what_the_reference_makes(tmp_path_factory, data):
    mags = [MAG1, Mag(2, 2, 1), Mag(4, 4, 2), Mag(1, 1, 2)]
    edit_mag = data.draw(st.sampled_from(mags))
    fallback_mag = data.draw(st.sampled_from([None, *mags]))
    numbers = st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 2))
    nodes = st.tuples(st.integers(-5, 90), st.integers(-5, 90), st.integers(-5, 30))
    buckets = {number: bucket(sum(number)) for number in data.draw(st.sets(numbers, min_size=1, max_size=4))}
    case = Case(
        tmp_path_factory.mktemp("case"), fallback_mag=fallback_mag, buckets={str(edit_mag): buckets},
        dtype=data.draw(st.sampled_from(["uint8", "uint16", "uint64"])),
        trees=data.draw(st.lists(st.lists(nodes, max_size=4), max_size=3)),
        data_format=data.draw(st.sampled_from(["wkw", "zarr3"])),
    )  # fmt: skip
    case.make()
    answer = case.run(merge_segments=True, copy_other_layers=False, output_layer="cells")
    mag = Mag(*(min(a, b) for a, b in zip(edit_mag.xyz, (fallback_mag or edit_mag).xyz, strict=True)))
    check(case, answer, mag=mag, name="cells", merges=True)


def test_a_box_cuts_the_segmentation_out(tmp_path):
    case = Case(tmp_path, buckets={"1": {(1, 1, 0): bucket(1), (9, 1, 0): bucket(2)}})
    case.make()
    box = Box((7, 9, 4), (70, 30, 5))
    answer = case.run(box=str(box))
    check(case, answer, box=box)
    assert properties(tmp_path / "out")["dataLayers"][0]["boundingBox"]["width"] == BOX.size[0]


def test_ids_of_64_bits_over_a_smaller_layer_stay_exact(tmp_path):
    voxels = np.full((EDGE, EDGE, EDGE), 2**64 - 1, np.uint64)
    case = Case(tmp_path, dtype="uint16", buckets={"1": {(2, 2, 1): voxels}})
    case.make()
    answer = case.run()
    assert answer["largest_segment_id"] == 2**64 - 1
    check(case, answer)
    assert properties(tmp_path / "out")["dataLayers"][1]["elementClass"] == "uint64"


def test_every_level_of_a_large_layer_is_shrunk_from_the_one_before(tmp_path):
    case = Case(tmp_path, box=Box((0, 0, 0), (300, 70, 20)), buckets={"1": {(20, 3, 1): bucket(1)}})
    case.make()
    answer = case.run(copy_other_layers=False)
    assert answer["mags"] == ["1", "2-2-1"]
    finest = read_mag(tmp_path / "out", "segmentation_materialized", "1")[0]
    assert (finest[8:16, 24:32, 160:168] == bucket(1)).all()
    coarse = read_mag(tmp_path / "out", "segmentation_materialized", "2-2-1")[0]
    assert np.array_equal(coarse, shrink(finest, (1, 2, 2), "mode"))


def test_an_annotation_lies_over_a_wkw_dataset_too(tmp_path):
    case = Case(tmp_path, buckets={"1": {(1, 1, 0): bucket(1)}}, trees=[[(6, 4, 3), (40, 40, 15)]])
    case.make()
    labels = np.zeros((1, 22, 69, 75), np.uint32)
    labels[:, *BOX.slices_zyx] = case.labels()
    write_wkw(tmp_path / "demo" / "cells" / "1", labels, packing="lz4")
    file = tmp_path / "demo" / "datasource-properties.json"
    stated = json.loads(file.read_text())
    stated["dataLayers"][1] |= {
        "name": "cells", "dataFormat": "wkw", "mags": [{"mag": [1, 1, 1], "cubeLength": 16}],
        "mappings": ["old"], "defaultViewConfiguration": {"alpha": 30},
    }  # fmt: skip
    file.write_text(json.dumps(stated))
    answer = case.run(fallback_layer="cells", merge_segments=True)
    check(case, answer, name="cells_materialized", merges=True)
    found = voxelworks.run("find_largest_segment_id", layer=f"{tmp_path}/demo/cells", cluster="serial")
    assert found["largest_segment_id"] == int(labels.max())
    # The layer is copied, as it is not the one below; what lies in files of its own is not.
    write_annotation(tmp_path / "own.zip", [VolumeLayer(case.buckets, fallback=None)])
    case.run(annotation=str(tmp_path / "own.zip"), target=str(tmp_path / "own"))
    layers = {layer["name"]: layer for layer in properties(tmp_path / "own")["dataLayers"]}
    assert list(layers) == ["color", "cells", "Volume_materialized"]
    assert layers["cells"]["dataFormat"] == "zarr3"
    assert layers["cells"]["defaultViewConfiguration"] == {"alpha": 30}
    assert "mappings" not in layers["cells"]
    assert np.array_equal(read_mag(tmp_path / "own", "cells", "1"), labels)


def test_a_run_that_is_broken_off_goes_on_and_leaves_the_same(tmp_path, capsys):
    class BrokenOff(Exception):
        pass

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    cases = [
        Case(
            tmp_path / name,
            box=Box((0, 0, 0), (140, 70, 20)),
            buckets={"1": {(1, 1, 0): bucket(1), (16, 2, 1): bucket(5)}},
            trees=[[(6, 4, 3), (100, 40, 15)]],
        )
        for name in "ab"
    ]
    for case in cases:
        case.make()
    cases[0].run(merge_segments=True)

    def stop(progress):
        if "mag 1" in progress.phase and progress.done > 0.3 * progress.total:
            raise BrokenOff

    with pytest.raises(BrokenOff):
        cases[1].run(merge_segments=True, on_progress=stop)
    assert not (tmp_path / "b" / "out").exists()
    cases[1].run(merge_segments=True)
    assert "going on where an earlier attempt stopped" in capsys.readouterr().err
    assert tree(tmp_path / "b" / "out") == tree(tmp_path / "a" / "out")


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"fallback_layer": "none"}, LayerNotFound, "there is no layer 'none'"),
        ({"fallback_layer": "color"}, WrongCategory, "'color' is a color layer"),
        ({"volume_layer": "V"}, InvalidAnnotation, "no volume layer 'V'; it has 'Volume'"),
        ({"output_layer": "color"}, TargetExists, "has a layer 'color' already; choose another name with output_layer"),
        ({"output_layer": "../x"}, InvalidParams, "is not a layer name"),
        ({"box": "0,0,0,10,10,10"}, InvalidGeometry, "leaves the segmentation, which is 5,3,2,70,66,20; the part"),
        ({"box": "500,0,0,10,10,10"}, InvalidGeometry, "choose one inside it"),
        ({"annotation": __file__}, InvalidAnnotation, "no proper XML"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_and_nothing_stays(tmp_path, params, error, message):
    case = Case(tmp_path, buckets={"1": {(2, 2, 1): bucket(1)}})
    case.make()
    before = tree(tmp_path)
    with pytest.raises(error, match=message):
        case.run(**params)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("<volume id='0' name='V' fallbackLayer='segmentation'/>", "was downloaded without the voxels of volume layer"),
        ("<volume id='0' name='V' location='v.zip' editableMappingLocation='m.zip'/>", "split and merged by proof"),
        ("<volume id='0' name='V' location='v.zip'/>", "holds no segments|which is missing"),
    ],
)  # fmt: skip
def test_annotations_that_cannot_be_made_a_dataset_say_why(tmp_path, tag, message):
    case = Case(tmp_path)
    case.make()
    (tmp_path / "a.nml").write_text(nml_text([], tag))
    with pytest.raises(InvalidAnnotation, match=message):
        case.run(annotation=str(tmp_path / "a.nml"))


def test_a_skeleton_merges_segments_of_the_only_segmentation(tmp_path):
    case = Case(tmp_path, trees=[[(6, 4, 3), (40, 40, 15)]])
    case.make()
    (tmp_path / "a.nml").write_text(nml_text(case.trees))
    answer = case.run(annotation=str(tmp_path / "a.nml"), merge_segments=True)
    check(case, answer, merges=True)


def test_ids_that_no_type_holds_are_refused(tmp_path):
    case = Case(tmp_path, dtype="int32", buckets={"1": {(1, 1, 0): bucket(1, "uint64")}})
    case.make()
    with pytest.raises(UnsupportedDtype, match="no type holds the ids of both int32"):
        case.run()


def test_a_real_annotation_of_webknossos_becomes_a_dataset(test_data, tmp_path):
    """Its buckets lie over made-up labels."""
    case = Case(tmp_path, box=Box((500, 400, 0), (160, 220, 40)), dtype="uint16")
    case.make()
    path = test_data / "formats" / "wk_annotations" / "multi_volume_example_CREMI.zip"
    answer = case.run(annotation=str(path), volume_layer="Volume", copy_other_layers=False)
    found = read_mag(tmp_path / "out", answer["layer"], "1")[0]
    # The sum was taken with the package `wkw`.
    with zipfile.ZipFile(path) as outer, zipfile.ZipFile(BytesIO(outer.read("data_1_Volume.zip"))) as inner:
        cubes = [name.split("/") for name in inner.namelist() if name.startswith("1/z")]
    expected = np.zeros(found.shape, np.uint16)
    expected[case.box.slices_zyx] = case.labels()
    total = int(expected.sum(dtype=np.uint64))
    for _, z, y, x in cubes:
        place = Box(tuple(32 * int(part.strip("zyx.wk")) for part in (x, y, z)), (32, 32, 32))
        total -= int(expected[place.slices_zyx].sum(dtype=np.uint64))
    assert len(cubes) == 16
    assert int(found.sum(dtype=np.uint64)) == total + 280_822_009
