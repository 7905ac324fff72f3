"""Mappings give segments other ids as a slow reference does; mapping files are written by other programs' libraries."""

import json
from collections import defaultdict
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import voxelworks
from reference import properties, read_mag
from voxelworks.errors import (
    InvalidGeometry,
    InvalidParams,
    SourceNotFound,
    TargetExists,
    UnsafeReference,
    UnsupportedFormat,
    WrongCategory,
)
from voxelworks.geometry import MAG1, Box, Mag, VoxelSize
from voxelworks.settings import Settings
from voxelworks.volumes.dataset import Dataset
from voxelworks.workflows import _mappings as mappings
from voxelworks.workflows._mappings import Agglomerates, MappingFile, attached_mappings, read_json_mapping

SMALL = Settings(slots=1, shard_bytes_max=2**18)
BOX = Box((4, 2, 2), (40, 34, 12))


def labels(dtype="uint32", top=50):
    values = np.random.default_rng(3).integers(0, 60, BOX.shape_zyx).astype(dtype)
    values[values == 59] = top
    return values


def make(home, voxels):
    dataset = Dataset.create(home / "demo", VoxelSize(4, 4, 8))
    color = dataset.add_layer("color", "color", "uint8", 1, BOX)
    color.add_mag(Mag(2, 2, 1), shard_zyx=(64, 64, 64))
    layer = dataset.add_layer("segmentation", "segmentation", voxels.dtype, 1, BOX)
    array = layer.add_mag(MAG1, shard_zyx=(64, 64, 64))
    array.write(BOX, voxels)
    dataset.write_metadata()
    return dataset


def apply(home, target="out", **params):
    given = {"layer": f"{home / 'demo'}/segmentation", "target": str(home / target)}
    return voxelworks.run("apply_mapping", settings=SMALL, cluster="serial", **{**given, **params})


def expected(voxels, becomes):
    return np.array([becomes.get(int(label), int(label)) for label in voxels.ravel()], np.uint64).reshape(
        voxels.shape
    )


def written(home, target="out", mag="1", box=BOX):
    found = read_mag(home / target, "segmentation_mapped", mag)
    return found[0][box.in_mag(Mag.parse(mag)).slices_zyx] if found.ndim == 4 else found[box.slices_zyx]


def table_of(rows):
    return np.array(rows, np.uint64)


def write_agglomerates(path, rows):
    """Write what the job needs of an agglomerate file, in chunks of 16 rows."""
    if path.suffix == ".hdf5":
        with h5py.File(path, "w") as file:
            file.create_dataset("segment_to_agglomerate", data=rows, chunks=(16,), compression="gzip")
        return
    group = zarr.open_group(path, mode="w", zarr_format=3)
    array = group.create_array("segment_to_agglomerate", shape=rows.shape, dtype=rows.dtype, chunks=(16,))
    array[:] = rows


@pytest.mark.parametrize("suffix", [".hdf5", ".zarr"])
def test_an_agglomerate_file_is_read_in_parts(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(mappings, "WINDOW_ROWS", 8)
    voxels = labels("uint8", top=200)
    make(tmp_path, voxels)
    rows = table_of([7, *(300 + number // 4 for number in range(1, 55))])
    rows[9] = 0
    write_agglomerates(tmp_path / f"large{suffix}", rows)
    result = apply(tmp_path, mapping_file=str(tmp_path / f"large{suffix}"))
    becomes = {label: int(row) for label, row in enumerate(rows) if label and row}
    whole = expected(voxels, becomes)
    found = written(tmp_path)
    assert found.dtype == np.uint16, "the ids of the mapping need more than the 8 bits of the layer"
    assert np.array_equal(found, whole)
    assert result["largest_segment_id"] == whole.max()
    stated = {layer["name"]: layer for layer in properties(tmp_path / "out")["dataLayers"]}
    assert list(stated) == ["color", "segmentation_mapped"]
    assert stated["segmentation_mapped"]["largestSegmentId"] == whole.max()


def test_a_mapping_of_the_layer_is_chosen_by_its_name(tmp_path):
    voxels = labels("uint64", top=2**64 - 1)
    dataset = make(tmp_path, voxels)
    layer = tmp_path / "demo" / "segmentation"
    (layer / "mappings").mkdir()
    (layer / "agglomerates").mkdir()
    child = {"name": "child", "parent": "base", "classes": [[5, 6, 0], [2**64 - 1, 7]], "colors": [1]}
    (layer / "mappings" / "child.json").write_text(json.dumps(child))
    (layer / "mappings" / "base.json").write_text(json.dumps({"name": "base", "classes": [[3, 5], [8, 9]]}))
    write_agglomerates(layer / "agglomerates" / "view.hdf5", table_of(range(60)))
    box = Box((5, 3, 3), (21, 20, 8))
    result = apply(tmp_path, mapping="child", box=str(box), copy_other_layers=False, output_layer="s")
    becomes = {5: 3, 6: 3, 7: 2**64 - 1, 9: 8}
    cut = box.moved((-4, -2, -2)).slices_zyx
    part = expected(voxels, becomes)[cut]
    array = Dataset.open(tmp_path / "out").layer("s").finest
    assert np.array_equal(array.read(box)[0], part)
    assert (result["layers"], result["largest_segment_id"]) == (["s"], 2**64 - 1)
    assert sorted(attached_mappings(dataset.layer("segmentation"))) == ["base", "child", "view"]
    with pytest.raises(SourceNotFound, match=r"no mapping 'other'; it has base, child, view"):
        apply(tmp_path, "other", mapping="other")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 10**5, "is no JSON"),
        ("[]", "has no 'classes'"),
        ('{"classes": 3}', "has no 'classes'"),
        ('{"classes": [3]}', "a class that is no list"),
        ('{"classes": [[1, "2"]]}', "has the id 2"),
        ('{"classes": [[1, -2]]}', "has the id -2"),
        ('{"classes": [[1, 18446744073709551616]]}', "has the id 18446744073709551616"),
        ('{"parent": "m"}', "has the parent 'm'"),
    ],
)
def test_json_mappings_that_cannot_be_are_refused(text, message):
    with pytest.raises(UnsupportedFormat, match=message):
        read_json_mapping(text.encode(), lambda _name: b"{}", "m")


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=50, deadline=None)
@given(chain=st.lists(st.lists(st.lists(st.integers(0, 12), max_size=4), max_size=4), min_size=1, max_size=3))
def test_classes_that_share_an_id_are_one(chain):
    """A slow reference: the smallest place at which any id that can be reached from one stands first."""
    files = {f"m{number}": {"classes": classes} for number, classes in enumerate(chain)}
    for number in range(len(chain) - 1):
        files[f"m{number}"]["parent"] = f"m{number + 1}"
    found = read_json_mapping(
        json.dumps(files["m0"]).encode(), lambda name: json.dumps(files[name]).encode(), "m0"
    )
    groups = [[label for label in group if label] for classes in reversed(chain) for group in classes]
    order = [label for group in groups for label in group]
    beside = defaultdict(set)
    for group in groups:
        for label in group:
            beside[label] |= set(group)
    becomes = {}
    for label in set(order):
        reached, waiting = {label}, [label]
        while waiting:
            fresh = beside[waiting.pop()] - reached
            reached |= fresh
            waiting += fresh
        becomes[label] = min(reached, key=order.index)
    assert found == {label: first for label, first in becomes.items() if label != first}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), dtype=st.sampled_from(["uint16", "int32", "uint64"]))
def test_a_table_in_windows_gives_what_the_whole_gives(tmp_path, monkeypatch, seed, dtype):
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 2**15, 100).astype(np.uint64)
    monkeypatch.setattr(Agglomerates, "rows", lambda _self, start, stop: rows[start:stop])
    monkeypatch.setattr(mappings, "WINDOW_ROWS", int(rng.integers(1, 40)))
    mappings._window.cache_clear()
    voxels = rng.integers(0, 140, (1, 3, 4, 5)).astype(dtype)
    becomes = {label: int(row) for label, row in enumerate(rows) if label and row}
    whole = expected(voxels, becomes)
    Agglomerates(MappingFile("nowhere", "hdf5"), len(rows)).apply(voxels)
    assert np.array_equal(voxels, whole)
    mappings._window.cache_clear()


def test_a_mapping_in_the_folder_where_one_is_has_no_path(tmp_path, monkeypatch):
    voxels = labels()
    make(tmp_path, voxels)
    monkeypatch.chdir(tmp_path)
    Path("pairs.json").write_text('{"classes": [[3, 4]]}')
    write_agglomerates(Path("large.hdf5"), table_of([0, 0, 0, 0, 3, *[0] * 12]))
    for target, file in (("from_json", "pairs.json"), ("from_table", "large.hdf5")):
        apply(tmp_path, target, mapping_file=file, copy_other_layers=False)
        assert (written(tmp_path, target) == expected(voxels, {4: 3})).all()


def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path):
    make(tmp_path, labels())
    good, bad = tmp_path / "m.json", tmp_path / "bad.hdf5"
    good.write_text('{"classes": [[1, 2]]}')
    with h5py.File(bad, "w") as file:
        file["segment_to_agglomerate"] = h5py.ExternalLink("elsewhere.hdf5", "/a")
    for params, error, message in (
        ({}, InvalidParams, "give either mapping"),
        ({"mapping": "a", "mapping_file": str(good)}, InvalidParams, "give either mapping"),
        ({"mapping_file": str(tmp_path / "none")}, SourceNotFound, "there is no mapping"),
        ({"mapping_file": str(bad)}, UnsupportedFormat, "is no agglomerate file"),
        ({"mapping_file": str(good), "output_layer": "color"}, TargetExists, "a layer 'color' already"),
        ({"mapping_file": str(good), "box": "0,0,0,90,1,1"}, InvalidGeometry, "leaves layer segmentation"),
        ({"mapping_file": str(good), "layer": f"{tmp_path}/demo/color"}, WrongCategory, "is a color layer"),
    ):
        with pytest.raises(error, match=message):
            apply(tmp_path, **params)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.hdf5", "demo", "m.json"]


def test_mappings_outside_of_a_dataset_that_is_not_trusted_are_refused(tmp_path):
    make(tmp_path, labels())
    (tmp_path / "secret.json").write_text("{}")
    (tmp_path / "demo" / "segmentation" / "mappings").mkdir()
    (tmp_path / "demo" / "segmentation" / "mappings" / "m.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(UnsafeReference, match="a mapping of layer 'segmentation' lies outside"):
        attached_mappings(Dataset.open(tmp_path / "demo").layer("segmentation"))
