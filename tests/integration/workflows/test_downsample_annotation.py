"""Annotations get the coarser buckets that a slow reference makes of whole arrays, and stay what they were besides."""

import gzip
import io
import json
import re
import shutil
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import voxelworks
from reference import read_mag, shrink, tree
from voxelworks.errors import (
    InvalidAnnotation,
    InvalidGeometry,
    InvalidParams,
    LayerNotFound,
    UnsupportedDtype,
    WrongCategory,
)
from voxelworks.geometry import MAG1, Box, Mag, VoxelSize
from voxelworks.settings import Settings
from voxelworks.testing.independent_volumes import VolumeLayer, nml_text, write_annotation
from voxelworks.volumes.dataset import Dataset

SMALL = Settings(slots=1, shard_bytes_max=2**18)
BOX = Box((5, 3, 2), (73, 66, 21))
EDGE = 8
"""Of a bucket."""
VOXEL_SIZE = VoxelSize(4, 4, 40)
CHAIN = [MAG1, *map(Mag.parse, ("2-2-1", "4-4-1", "8-8-1", "16-16-2"))]
"""What the voxel size asks for."""
SHAPE = (48, 160, 160)
"""Voxels (z, y, x) from voxel 0 on in which all lies, in mag 1."""


@dataclass
class Case:
    """A dataset with labels, and an annotation of it."""

    home: Path
    box: Box = BOX
    below: tuple[Mag, ...] = (MAG1,)
    """Mags of the layer below; without any there is none."""
    dtype: str = "uint32"
    buckets: dict = field(default_factory=dict)
    """For each mag: number (x, y, z) -> voxels."""
    data_format: str = "wkw"

    def labels(self, mag):
        """Labels of the layer below in a mag, from voxel 0 on; those of coarser mags are others on purpose."""
        box = self.box.in_mag(mag)
        whole = np.zeros(box.stop_zyx, self.dtype)
        z, y, x = np.indices(box.shape_zyx)
        whole[box.slices_zyx] = (mag.x + x // 3 + 7 * (y // 5) + 40 * (z // 4)) * ((x + 2 * y + z) % 5 > 0)
        return whole

    def make(self):
        dataset = Dataset.create(self.home / "demo", VOXEL_SIZE)
        dataset.add_layer("color", "color", "uint8", 1, self.box).add_mag(MAG1, shard_zyx=(64, 64, 64))
        if self.below:
            layer = dataset.add_layer("segmentation", "segmentation", self.dtype, 1, self.box)
            for mag in self.below:
                array = layer.add_mag(mag, shard_zyx=(64, 64, 64))
                array.write(array.box, self.labels(mag)[array.box.slices_zyx])
        dataset.write_metadata()
        layer = VolumeLayer(
            self.buckets,
            self.data_format,
            fallback="segmentation" if self.below else None,
            extents=(2**24,) * 3,
        )
        other = VolumeLayer({"1": {(0, 0, 0): bucket(9)}}, name="Other")
        write_annotation(self.home / "annotation.zip", [other, layer], [[(6, 4, 3), (40, 40, 15)]])
        return self

    def run(self, **params):
        given = {
            "dataset": self.home / "demo", "annotation": self.home / "annotation.zip", "volume_layer": "Volume",
            "file": self.home / "out.zip",
        }  # fmt: skip
        paths = {name: str(value) for name, value in {**given, **params}.items()}
        return voxelworks.run("downsample_volume_annotation", settings=SMALL, cluster="serial", **paths)

    def below_in(self, mag):
        """Give the layer below as an array of the size of everything in a mag, as the reference makes it."""
        shape = tuple(-(-extent // by) for extent, by in zip(SHAPE, mag.zyx, strict=True))
        whole = np.zeros(shape, self.dtype)
        if not self.below:
            return whole
        finer = [other for other in self.below if is_finer(other, mag)]
        stored = finer[-1] if finer else self.below[0]
        labels = self.labels(stored)
        box = self.box.in_mag(stored)
        steps = [step for step in CHAIN if is_finer(stored, step) and is_finer(step, mag) and step != stored]
        now = stored
        for step in steps:
            labels = shrink_within(labels, step.relative_to(now).zyx, box)
            now, box = step, self.box.in_mag(step)
        enlarged = np.kron(labels, np.ones(now.relative_to(mag).zyx, labels.dtype))
        cut = tuple(slice(0, min(a, b)) for a, b in zip(shape, enlarged.shape, strict=True))
        inside = np.zeros(shape, bool)
        inside[self.box.in_mag(mag).slices_zyx] = True
        whole[cut] = enlarged[cut]
        return np.where(inside, whole, 0).astype(self.dtype)

    def expected(self, start, last):
        """Give the buckets of every mag after `start` up to `last`."""
        found, stored = {}, self.buckets[str(start)]
        first, stop = CHAIN.index(start), CHAIN.index(last)
        for finer, mag in zip(CHAIN[first:stop], CHAIN[first + 1 : stop + 1], strict=True):
            factor = mag.relative_to(finer)
            whole = self.below_in(finer)
            for place, voxels in stored.items():
                put(whole, place, voxels)
            coarse = shrink_within(whole, factor.zyx, self.box.in_mag(finer) if self.below else None)
            parents = {tuple(a // b for a, b in zip(place, factor.xyz, strict=True)) for place in stored}
            stored = found[str(mag)] = {place: take(coarse, place) for place in parents}
        return found


def is_finer(mag, other):
    return all(a <= b for a, b in zip(mag.xyz, other.xyz, strict=True))


def slices_of(place):
    return tuple(slice(EDGE * number, EDGE * number + EDGE) for number in place[::-1])


def put(whole, place, voxels):
    target = whole[slices_of(place)]
    target[...] = voxels[tuple(slice(0, extent) for extent in target.shape)]


def take(whole, place):
    voxels = np.zeros((EDGE,) * 3, whole.dtype)
    found = whole[slices_of(place)]
    voxels[tuple(slice(0, extent) for extent in found.shape)] = found
    return voxels


def shrink_within(whole, factor, box):
    """Shrink an array; where the layer ends within a window, its last voxels stand for what is beyond and empty."""
    whole = whole.copy()
    for axis in range(3) if box is not None else ():
        planes = np.moveaxis(whole, axis, 0)
        low, high = box.start_zyx[axis], box.stop_zyx[axis] - 1
        for inside, outside in ((low, low - 1), (high, high + 1)):
            if inside // factor[axis] == outside // factor[axis] and 0 <= outside < len(planes):
                planes[outside][planes[outside] == 0] = planes[inside][planes[outside] == 0]
    return shrink(whole, factor, "mode")


def bucket(seed, dtype="uint32"):
    """A bucket with some segments, and holes that somebody erased."""
    voxels = np.random.default_rng(seed).integers(1, 250, (EDGE, EDGE, EDGE), np.uint64).astype(dtype)
    voxels = voxels // 60 + 1
    voxels[:, 2:5] = 0
    return voxels


def inner_of(path, name="data_1_Volume.zip"):
    """Give the files of a volume layer."""
    with zipfile.ZipFile(path) as outer, zipfile.ZipFile(io.BytesIO(outer.read(name))) as inner:
        assert inner.testzip() is None
        return {item: inner.read(item) for item in inner.namelist()}


def buckets_of(files, dtype):
    """Unpack all buckets without any code of the package."""
    found = {}
    for name, content in files.items():
        if wkw := re.fullmatch(r"([\d-]+)/z(\d+)/y(\d+)/x(\d+)\.wkw", name):
            mag, z, y, x = wkw.groups()
            offset, stop = struct.unpack_from("<2Q", content, 8)
            data = imagecodecs.lz4_decode(content[offset:stop], out=EDGE**3 * np.dtype(dtype).itemsize)
        elif zarr := re.fullmatch(r"volumeAnnotationData/([\d-]+)/c\.0\.(\d+)\.(\d+)\.(\d+)", name):
            mag, x, y, z = zarr.groups()
            data = gzip.decompress(content)
        else:
            continue
        place = int(x), int(y), int(z)
        found.setdefault(mag, {})[place] = np.frombuffer(data, dtype).reshape((EDGE,) * 3)
    return found


def check(case, answer, start, last):
    """Compare all of the new file with the reference, and what it had before with the old file."""
    expected = case.expected(start, last)
    assert answer["mags"] == list(expected)
    assert answer["bucket_count"] == sum(map(len, expected.values()))
    old, new = inner_of(case.home / "annotation.zip"), inner_of(case.home / "out.zip")
    found = buckets_of(new, case.dtype)
    for mag, buckets in expected.items():
        assert found[mag].keys() == buckets.keys()
        for place, voxels in buckets.items():
            assert np.array_equal(found[mag][place], voxels), (mag, place)
    description = next(
        name for name in old if name.startswith(("1/header", "volume")) or name.endswith("header.wkw")
    )
    stated, before = (json.loads(files.get("datasource-properties.json", "null")) for files in (new, old))
    kept = old.keys() - {"datasource-properties.json"}
    assert {name: new[name] for name in kept} == {name: old[name] for name in kept}
    if before is not None:
        mags = before["dataLayers"][0]["mags"]
        mags += [
            {**mags[0], "mag": list(Mag.parse(mag).xyz), "path": f"./volumeAnnotationData/{mag}"}
            for mag in expected
        ]
    assert stated == before
    assert list(new)[: len(old)] == list(old)
    for mag in expected:
        of_mag = description.replace(f"{start}/", f"{mag}/") if str(start) in description else None
        assert of_mag is None or new[of_mag] == old[description]
    with (
        zipfile.ZipFile(case.home / "annotation.zip") as before,
        zipfile.ZipFile(case.home / "out.zip") as after,
    ):
        assert after.namelist() == before.namelist()
        for name in ("annotation.nml", "data_0_Other.zip"):
            assert after.read(name) == before.read(name)


@pytest.mark.parametrize("data_format", ["wkw", "zarr3"])
@pytest.mark.parametrize("below", [(MAG1,), (MAG1, *CHAIN[1:3]), ()])
def test_painted_voxels_over_the_layer_below_are_shrunk_step_by_step(tmp_path, data_format, below):
    erased = np.zeros((EDGE,) * 3, np.uint32)
    buckets = {
        (0, 0, 0): bucket(1),
        (1, 1, 0): erased,
        (4, 4, 1): bucket(2),
        (9, 8, 2): bucket(3),
        (12, 1, 0): bucket(4),
    }
    case = Case(tmp_path, below=below, buckets={"1": buckets}, data_format=data_format).make()
    answer = case.run(coarsest_mag="16-16-2")
    check(case, answer, MAG1, CHAIN[4])
    for file, folder in (("annotation.zip", "before"), ("out.zip", "after")):
        (tmp_path / folder).mkdir()
        voxelworks.run(
            "materialize_volume_annotation", dataset=str(tmp_path / "demo"), annotation=str(tmp_path / file),
            target=str(tmp_path / folder / "made"), volume_layer="Volume", merge_segments=True, copy_other_layers=False,
            settings=SMALL, cluster="serial",
        )  # fmt: skip
    assert tree(tmp_path / "after") == tree(tmp_path / "before")
    again = case.run(annotation=tmp_path / "out.zip", file=tmp_path / "again.zip", coarsest_mag="32-32-4")
    assert again["mags"] == ["32-32-4"], "mags that are there stay"
    files = inner_of(tmp_path / "out.zip")
    files.pop("datasource-properties.json", None)  # names one more
    assert files.items() <= inner_of(tmp_path / "again.zip").items()


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_annotation_gets_what_the_reference_makes(tmp_path_factory, data):
    start = data.draw(st.sampled_from(CHAIN[:3]))
    below = sorted(data.draw(st.sets(st.sampled_from(CHAIN[:4]))))
    numbers = st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 2))
    dtype = data.draw(st.sampled_from(["uint16", "uint64"]))
    places = data.draw(st.sets(numbers, min_size=1, max_size=4))
    case = Case(
        tmp_path_factory.mktemp("case"), below=tuple(below), dtype=dtype,
        buckets={str(start): {place: bucket(sum(place), dtype) for place in places}},
        data_format=data.draw(st.sampled_from(["wkw", "zarr3"])),
    ).make()  # fmt: skip
    check(case, case.run(coarsest_mag="16-16-2"), start, CHAIN[4])


def test_the_new_buckets_are_those_of_the_pyramid_of_the_materialized_dataset(tmp_path):
    """Two ways to the same: all is put together first and shrunk whole, or only what was painted is shrunk."""
    box = Box((5, 3, 2), (301, 41, 21))
    buckets = {(x, y, z): bucket(x + y) for x, y, z in [(1, 1, 1), (2, 1, 1), (20, 3, 1), (36, 4, 1)]}
    case = Case(tmp_path, box=box, buckets={"1": buckets}).make()
    voxelworks.run(
        "downsample", layer=f"{tmp_path}/demo/segmentation", coarsest_mag="16-16-2", cluster="serial"
    )
    answer = case.run()
    assert answer["mags"] == ["2-2-1", "4-4-1", "8-8-1", "16-16-2"], "those of the layer below"
    voxelworks.run(
        "materialize_volume_annotation", dataset=str(tmp_path / "demo"), annotation=str(tmp_path / "annotation.zip"),
        target=str(tmp_path / "made"), volume_layer="Volume", copy_other_layers=False, cluster="serial",
    )  # fmt: skip
    voxelworks.run(
        "downsample",
        layer=f"{tmp_path}/made/segmentation_materialized",
        coarsest_mag="16-16-2",
        cluster="serial",
    )
    for mag, found in buckets_of(inner_of(tmp_path / "out.zip"), "uint32").items():
        whole = read_mag(tmp_path / "made", "segmentation_materialized", mag)[0]
        for place, voxels in found.items():
            expected = take(whole, place)
            inside = np.zeros(whole.shape, bool)
            inside[box.in_mag(Mag.parse(mag)).slices_zyx] = True
            assert np.array_equal(np.where(take(inside, place), voxels, 0), expected), (mag, place)


def test_far_away_buckets_and_mags_without_any_are_no_trouble(tmp_path):
    box = Box((2**23 - 40, 8, 0), (70, 30, 20))
    place = (2**20 - 1, 2, 1)
    case = Case(
        tmp_path, box=box, below=(), dtype="uint64", buckets={"1": {place: bucket(1, "uint64")}, "2-2-1": {}}
    )
    voxels = case.buckets["1"][place]
    voxels[0] = 2**64 - 1
    # Labels of such a box would be a large array from voxel 0 on.
    case.labels = lambda mag: np.zeros((1, 1, 1), "uint64")
    dataset = Dataset.create(tmp_path / "demo", VOXEL_SIZE)
    dataset.add_layer("color", "color", "uint8", 1, box)
    dataset.write_metadata()
    write_annotation(
        tmp_path / "annotation.zip", [VolumeLayer(case.buckets, fallback=None, extents=(2**24,) * 3)]
    )
    answer = case.run(coarsest_mag="4-4-1")
    assert answer["mags"] == ["2-2-1", "4-4-1"]
    found = buckets_of(inner_of(tmp_path / "out.zip", "data_0_Volume.zip"), "uint64")
    around = np.zeros((8, 16, 16), np.uint64)
    around[:, :8, 8:] = voxels
    assert found["2-2-1"].keys() == {(2**19 - 1, 1, 1)}
    assert np.array_equal(found["2-2-1"][2**19 - 1, 1, 1], shrink(around, (1, 2, 2), "mode"))


def test_a_run_that_is_broken_off_goes_on_and_leaves_the_same(tmp_path, capsys):
    class BrokenOff(Exception):
        pass

    buckets = {"1": {(x, 1, 0): bucket(x) for x in (0, 20, 40, 60)}}
    (tmp_path / "a").mkdir()
    Case(tmp_path / "a", below=(), buckets=buckets).make()
    shutil.copytree(tmp_path / "a", tmp_path / "b")  # zips state when they were written
    whole, broken = (Case(tmp_path / name, below=(), buckets=buckets) for name in "ab")
    whole.run(coarsest_mag="8-8-1")

    def stop(progress):
        if progress.phase == "mag 4-4-1" and progress.done > 0.4 * progress.total:
            raise BrokenOff

    given = {
        name: str(broken.home / file)
        for name, file in (("dataset", "demo"), ("annotation", "annotation.zip"), ("file", "out.zip"))
    }
    again = {
        **given,
        "volume_layer": "Volume",
        "coarsest_mag": "8-8-1",
        "settings": SMALL,
        "cluster": "serial",
    }
    with pytest.raises(BrokenOff):
        voxelworks.run("downsample_volume_annotation", on_progress=stop, **again)
    assert not (broken.home / "out.zip").exists()
    voxelworks.run("downsample_volume_annotation", **again)
    assert "going on where an earlier attempt stopped" in capsys.readouterr().err
    assert tree(broken.home) == tree(whole.home)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"fallback_layer": "none"}, LayerNotFound, "there is no layer 'none'"),
        ({"fallback_layer": "color"}, WrongCategory, "'color' is a color layer"),
        ({"volume_layer": "V"}, InvalidAnnotation, "no volume layer 'V'; it has 'Other', 'Volume'"),
        ({"file": "out.tif"}, InvalidParams, "its name ends in .zip"),
        ({"annotation": __file__}, InvalidAnnotation, "no proper XML"),
        ({}, InvalidParams, "has mag 2-2-1 already; name a coarser one with coarsest_mag"),
        ({"coarsest_mag": "2-2-1"}, InvalidParams, "has mag 2-2-1 already"),
        ({"coarsest_mag": "1"}, InvalidGeometry, "mag 1 is not coarser than mag 2-2-1"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_and_nothing_stays(tmp_path, params, error, message):
    case = Case(tmp_path, buckets={"1": {(2, 2, 1): bucket(1)}, "2-2-1": {(1, 1, 1): bucket(1)}}).make()
    before = tree(tmp_path)
    with pytest.raises(error, match=message):
        case.run(**params)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("", "no volume layer: there is nothing to downsample|has no volume layer"),
        ("<volume id='0' name='Volume'/>", "was downloaded without the voxels of volume layer 'Volume'"),
        (
            "<volume id='0' name='Volume' location='v.zip' editableMappingLocation='m.zip'/>",
            "by proofreading.*make a dataset of it with materialize_volume_annotation",
        ),
        ("<volume id='0' name='Volume' location='v.zip'/>", "which is missing; give the whole zip"),
    ],
)
def test_annotations_without_voxels_to_shrink_say_why(tmp_path, tag, message):
    case = Case(tmp_path, buckets={"1": {(2, 2, 1): bucket(1)}}).make()
    (tmp_path / "a.nml").write_text(nml_text([], tag))
    with pytest.raises(InvalidAnnotation, match=message):
        case.run(annotation=tmp_path / "a.nml")


def test_an_empty_volume_layer_is_refused_and_nothing_stays(tmp_path):
    case = Case(tmp_path, buckets={"1": {}, "2-2-1": {}}).make()
    before = tree(tmp_path)
    with pytest.raises(InvalidAnnotation, match="'Volume' holds no voxels: there is nothing to downsample"):
        case.run()
    assert tree(tmp_path) == before


def test_ids_below_that_the_annotation_cannot_hold_are_refused(tmp_path):
    case = Case(tmp_path, dtype="uint32", buckets={"1": {(8, 7, 2): bucket(1, "uint8")}}).make()
    with pytest.raises(UnsupportedDtype, match="which the annotation, of uint8, cannot hold"):
        case.run(coarsest_mag="4-4-1")


def test_what_would_become_too_large_is_refused_before_the_work(tmp_path, monkeypatch):
    case = Case(tmp_path, buckets={"1": {(x, 1, 1): bucket(x) for x in (0, 4, 8)}}).make()
    monkeypatch.setattr("voxelworks.volumes.annotations.BUCKETS_MAX", 11)
    with pytest.raises(
        InvalidParams, match="would hold 15 files, and at most 11 are read; name a finer coarsest_mag"
    ):
        case.run(coarsest_mag="8-8-1")
    assert case.run(coarsest_mag="2-2-1")["bucket_count"] == 3
    tight = Settings(slots=1, artifact_bytes_max=5000)
    with pytest.raises(InvalidParams, match=r"files of at most .* are made here; name a finer coarsest_mag"):
        voxelworks.run(
            "downsample_volume_annotation", dataset=str(tmp_path / "demo"), volume_layer="Volume", settings=tight,
            annotation=str(tmp_path / "annotation.zip"), file=str(tmp_path / "b.zip"), coarsest_mag="2-2-1",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "voxel_size", "last", "mags"),
    [
        ("multi_volume_example_CREMI.zip", VoxelSize(4, 4, 4), "64", ["32", "64"]),
        (
            "l4_sample__explorational__suser__94b271.zip",
            VoxelSize(11.24, 11.24, 28),
            "64-64-16",
            ["32-32-8", "64-64-16"],
        ),
    ],
)
def test_real_annotations_of_webknossos_get_further_mags(test_data, tmp_path, name, voxel_size, last, mags):
    dataset = Dataset.create(tmp_path / "demo", voxel_size)
    dataset.add_layer("color", "color", "uint8", 1, Box((0, 0, 0), (4096, 4096, 1536)))
    dataset.add_layer(
        "segmentation", "segmentation", "uint16", 1, Box((0, 0, 0), (4096, 4096, 1536))
    ).add_mag(MAG1, shard_zyx=(64, 64, 64))
    dataset.write_metadata()
    answer = voxelworks.run(
        "downsample_volume_annotation", dataset=str(tmp_path / "demo"), volume_layer="Volume", coarsest_mag=last,
        annotation=str(test_data / "formats" / "wk_annotations" / name), file=str(tmp_path / "out.zip"),
        cluster="serial",
    )  # fmt: skip
    assert answer["mags"] == mags
    assert answer["bucket_count"] >= len(mags)
