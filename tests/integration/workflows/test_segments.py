"""Segment index, statistics and the largest id, against readers and references that share no code with them."""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict

import duckdb
import numpy as np
import pytest
import zarr

import voxelworks
from reference import properties, tree
from voxelworks.blocks.executor import SerialExecutor
from voxelworks.errors import InvalidGeometry, InvalidParams, LayerNotFound, MagNotFound, WrongCategory
from voxelworks.geometry import MAG1, Box, Mag, VoxelSize
from voxelworks.ops import segments
from voxelworks.volumes.arrays import MagArray
from voxelworks.volumes.dataset import Dataset
from voxelworks.volumes.segment_tables import SegmentTable
from voxelworks.workflows import _runs, _segment_attachments, _segment_index, _segment_statistics

INDEX, STATISTICS = "compute_segment_index_file", "compute_segment_statistics"


class HereAndNow(SerialExecutor):
    """Runs blocks in this process; may be stopped after some of them."""

    def __init__(self, blocks_max=math.inf):
        super().__init__()
        self.done = []
        self._blocks_max = blocks_max

    def collect(self, timeout_s):
        if len(self.done) >= self._blocks_max:
            raise KeyboardInterrupt
        ended = super().collect(timeout_s)
        self.done += [key for key, _ in ended]
        return ended


@pytest.fixture
def here(monkeypatch):
    """Cut even small layers into many blocks, and run them here; gives a function that sets the executor."""
    monkeypatch.setattr(_runs, "_EDGE", 64)
    monkeypatch.setattr(_segment_index, "READ_EDGE", 64)
    monkeypatch.setattr(_segment_statistics, "EDGE", 64)

    def use(executor):
        monkeypatch.setattr("voxelworks.blocks.executor.make_executor", lambda *_, **__: executor)
        return executor

    monkeypatch.setattr("voxelworks.blocks.executor.make_executor", lambda *_, **__: HereAndNow())
    return use


def write(folder, labels, *, start=(0, 0, 0), mag=MAG1, voxel_size=(4, 4, 40), images=()):
    """Write a dataset with a layer `seg` and the image layers `images` by name, all from voxel `start` of `mag` on."""
    dataset = Dataset.create(folder, VoxelSize(*voxel_size))
    box = Box(start, labels.shape[::-1]).from_mag(mag)
    for name, voxels in {"seg": labels, **dict(images)}.items():
        channels = voxels[np.newaxis] if voxels.ndim == 3 else voxels
        category = "segmentation" if name == "seg" else "color"
        layer = dataset.add_layer(name, category, voxels.dtype, len(channels), box)
        layer.add_mag(mag, shard_zyx=(64, 64, 64)).write(box.in_mag(mag), channels)
    dataset.write_metadata()
    return folder


def blobs(shape, dtype, ids, seed=3):
    """Fill a volume with rectangles of some ids, and some of nothing."""
    random = np.random.default_rng(seed)
    volume = np.zeros(shape, dtype)
    for _ in range(60):
        start = [random.integers(0, size) for size in shape]
        stop = [first + random.integers(1, 30) for first in start]
        volume[tuple(map(slice, start, stop))] = random.choice(np.array([0, *ids], dtype))
    return volume


# Segment index


def read_index(group, segment_id):
    """Look a segment up as the format describes it: hash, range of the bucket, one row more than needed, rows."""
    attributes = json.loads((group / "zarr.json").read_text())["attributes"]["voxelytics"][
        "artifact_attributes"
    ]
    assert attributes["hash_function"] == "identity"
    assert attributes["dtype_bucket_entries"] == "uint16"
    offsets, buckets, top_lefts = (
        zarr.open_array(group / name, mode="r")
        for name in ("hash_bucket_offsets", "hash_buckets", "top_lefts")
    )
    assert (offsets.dtype, buckets.dtype, top_lefts.dtype) == ("uint64", "uint64", "uint16")
    number = segment_id % attributes["n_hash_buckets"]
    assert offsets.shape == (attributes["n_hash_buckets"] + 1,)
    start, end = (int(value) for value in offsets[number : number + 2])
    if start == end:
        return None
    rows = buckets[start : end + 1]
    assert len(rows) == end - start + 1
    for one, first, last in rows.tolist():
        if one == segment_id:
            return sorted(map(tuple, top_lefts[first:last].tolist()))
    return None


@pytest.mark.parametrize(
    ("dtype", "ids", "start", "mag"),
    [
        ("uint8", [1, 2, 255], (0, 0, 0), "1"),
        ("uint16", list(range(900, 1400, 8)), (1000, 7, 333), "1"),
        ("uint64", [1, 2**40, 2**63 + 5, 2**64 - 1], (2_000_000, 31, 0), "1"),
        ("uint32", [7, 2**31], (33, 5, 70), "2-2-1"),
        ("int64", [3, 2**63 - 1], (0, 0, 0), "1"),
    ],
)
def test_an_index_names_the_buckets_that_hold_each_segment(tmp_path, here, dtype, ids, start, mag):
    labels = blobs((70, 90, 130), dtype, ids)
    steps = Mag.parse(mag)
    dataset = write(tmp_path / "ds", labels, start=start, mag=steps)
    answer = voxelworks.run(INDEX, layer=f"{dataset}/seg")
    expected = defaultdict(set)
    places = np.argwhere(labels)
    buckets = (places[:, ::-1] + start) // 32 * steps.xyz
    for segment_id in np.unique(labels[labels != 0]):
        mine = buckets[labels[tuple(places.T)] == segment_id]
        expected[int(segment_id)] = {tuple(bucket) for bucket in np.unique(mine, axis=0).tolist()}
    (layer,) = properties(dataset)["dataLayers"]
    listed = layer["attachments"]["segmentIndex"]
    assert listed == {
        "name": "segment_index", "path": "./seg/segmentIndex/segment_index", "dataFormat": "zarr3",
    }  # fmt: skip
    for segment_id, buckets in expected.items():
        assert read_index(dataset / listed["path"], segment_id) == sorted(buckets)
    for missing in {0, 4, 2**50} - set(expected):
        assert not read_index(dataset / listed["path"], missing)
    assert answer["segment_count"] == len(expected)
    assert answer["bucket_count"] == sum(map(len, expected.values()))


def test_an_empty_layer_has_an_empty_index_and_empty_statistics(tmp_path, here):
    dataset = write(tmp_path / "ds", np.zeros((5, 6, 7), "uint32"))
    assert voxelworks.run(INDEX, layer=f"{dataset}/seg")["segment_count"] == 0
    assert voxelworks.run(STATISTICS, layer=f"{dataset}/seg")["segment_count"] == 0
    assert voxelworks.run("find_largest_segment_id", layer=f"{dataset}/seg")["largest_segment_id"] == 0
    assert read_index(dataset / "seg/segmentIndex/segment_index", 1) is None
    with open_table(dataset) as table:
        assert (table.page(0, 10), table.place_of(1)) == ([], None)
    assert zarr.open_array(dataset / "seg/segmentStatistics/segment_statistics/ids", mode="r")[
        :
    ].tolist() == [0]


@pytest.mark.parametrize("workflow", [INDEX, STATISTICS])
def test_results_larger_than_memory_are_merged_in_ranges_to_the_same_files(
    tmp_path, here, monkeypatch, workflow
):
    labels = blobs((70, 90, 130), "uint32", range(1, 400, 3))
    whole = write(tmp_path / "whole" / "ds", labels)
    voxelworks.run(workflow, layer=f"{whole}/seg")
    monkeypatch.setattr(_segment_attachments, "_INDEX_ROWS_PER_RANGE", 7)
    monkeypatch.setattr(_segment_attachments, "_HASHED_AT_ONCE", 8)
    monkeypatch.setattr(_segment_attachments, "_STATISTICS_ROWS_PER_RANGE", 7)
    spilled = write(tmp_path / "spilled" / "ds", labels)
    voxelworks.run(workflow, layer=f"{spilled}/seg")
    assert tree(spilled) == tree(whole)


@pytest.mark.parametrize("workflow", [INDEX, STATISTICS])
def test_a_stopped_run_goes_on_and_gives_the_same_files(tmp_path, here, workflow):
    labels = blobs((70, 90, 130), "uint32", [1, 2, 3, 4])
    whole = write(tmp_path / "whole" / "ds", labels)
    blocks = here(HereAndNow())
    voxelworks.run(workflow, layer=f"{whole}/seg")
    dataset = write(tmp_path / "stopped" / "ds", labels)
    before = tree(dataset)
    stopped = here(HereAndNow(blocks_max=5))
    with pytest.raises(KeyboardInterrupt):
        voxelworks.run(workflow, layer=f"{dataset}/seg")
    assert {name: text for name, text in tree(dataset).items() if ".voxelworks" not in name} == before
    resumed = here(HereAndNow())
    voxelworks.run(workflow, layer=f"{dataset}/seg")
    assert len(stopped.done) + len(resumed.done) == len(blocks.done)
    assert tree(dataset) == tree(whole)


def test_what_is_computed_anew_takes_the_place_of_what_was_there(tmp_path, here):
    dataset = write(tmp_path / "ds", blobs((40, 40, 40), "uint16", [5, 6]))
    for name in ("segment_statistics", "segment_statistics-2", "segment_statistics"):
        assert voxelworks.run(STATISTICS, layer=f"{dataset}/seg")["segment_statistics"] == name
        assert [path.name for path in (dataset / "seg/segmentStatistics").iterdir()] == [name]
        (layer,) = properties(dataset)["dataLayers"]
        assert layer["attachments"]["segmentStatistics"]["path"] == f"./seg/segmentStatistics/{name}"
        assert layer["segmentTable"] == f"./seg/segmentStatistics/{name}"
    voxelworks.run(INDEX, layer=f"{dataset}/seg")
    (layer,) = properties(dataset)["dataLayers"]
    assert set(layer["attachments"]) == {"segmentIndex", "segmentStatistics"}
    assert not (dataset / ".voxelworks").exists()


# Statistics


def open_table(dataset):
    folder = dataset / properties(dataset)["dataLayers"][0]["segmentTable"] / "table"
    return SegmentTable.open(lambda name: open(folder / name, "rb", buffering=0))


def rows_of(dataset):
    with open_table(dataset) as table:
        names = [column.name for column in table.header.columns]
        return [dict(zip(names, row, strict=True)) for row in table.page(0, 10**6)]


def check_rows(rows, labels, *, start, mag, voxel_size, images):
    """Compare with what NumPy says of the same voxels, each repeated to those of mag 1 that it covers.

    Surfaces are compared with those of the whole volume at once, which are tested with `voxelworks.ops`.
    """
    lattice = segments.lattice_of(VoxelSize(*voxel_size).in_mag(mag).zyx)
    padded = np.pad(labels, [(reach, reach) for reach in lattice.reach])
    whole = segments.measure(padded, lattice, before_zyx=lattice.reach, origin_zyx=(0, 0, 0))
    surfaces = dict(zip(whole["id"].tolist(), lattice.surface(whole["crossings"]).tolist(), strict=True))
    assert {row["id"]: row["surface_nm2"] for row in rows} == surfaces
    fine = labels.repeat(mag.z, 0).repeat(mag.y, 1).repeat(mag.x, 2)
    first = np.array(start) * mag.xyz
    assert [row["id"] for row in rows] == sorted({int(value) for value in labels.flat} - {0})
    for row in rows:
        mine, places = labels == row["id"], np.argwhere(fine == row["id"])[:, ::-1] + first
        assert row["voxels"] == mine.sum()
        assert row["volume_nm3"] == pytest.approx(len(places) * math.prod(voxel_size))
        assert [row[f"centroid_{axis}"] for axis in "xyz"] == pytest.approx(
            places.mean(axis=0).tolist(), rel=1e-9
        )
        assert [row[f"box_{axis}"] for axis in "xyz"] == places.min(axis=0).tolist()
        sizes = (places.max(axis=0) - places.min(axis=0) + 1).tolist()
        assert [row[f"box_{name}"] for name in ("width", "height", "depth")] == sizes
        x, y, z = (row[f"position_{axis}"] - start for axis, start in zip("xyz", first, strict=True))
        assert fine[z, y, x] == row["id"]
        expected = np.cov(places.T, bias=True)
        for name, (a, b) in {
            "xx": (0, 0),
            "yy": (1, 1),
            "zz": (2, 2),
            "xy": (0, 1),
            "xz": (0, 2),
            "yz": (1, 2),
        }.items():
            assert row[f"covariance_{name}"] == pytest.approx(expected[a, b], abs=1e-6)
        for name, image in images.items():
            values = image[mine].astype("float64")
            assert row[f"mean_{name}"] == pytest.approx(values.mean())
            assert row[f"deviation_{name}"] == pytest.approx(values.std(), abs=1e-9)
        ball = np.pi ** (1 / 3) * (6 * row["volume_nm3"]) ** (2 / 3)
        assert row["sphericity"] == pytest.approx(ball / row["surface_nm2"])


@pytest.mark.parametrize(
    ("dtype", "ids", "start", "mag"),
    [
        ("uint8", [1, 2, 255], (0, 0, 0), "1"),
        ("uint64", [9, 2**63 + 5], (2**33, 31, 2**20), "1"),
        ("uint32", [7, 300], (33, 5, 70), "4-2-1"),
    ],
)
def test_statistics_are_those_of_the_voxels(tmp_path, here, dtype, ids, start, mag):
    labels = blobs((70, 80, 130), dtype, ids)
    random = np.random.default_rng(5)
    images = {
        "em": random.integers(0, 255, labels.shape).astype("uint8"),
        "dye": random.normal(1e4, 1, labels.shape),
    }
    images["dye"] = images["dye"].astype("float32")
    steps, voxel_size = Mag.parse(mag), (4, 5, 40)
    dataset = write(
        tmp_path / "ds", labels, start=start, mag=steps, voxel_size=voxel_size, images=images.items()
    )
    answer = voxelworks.run(STATISTICS, layer=f"{dataset}/seg", image_layers="em, dye")
    assert (answer["segment_count"], answer["mag"]) == (len(ids), mag)
    rows = rows_of(dataset)
    check_rows(rows, labels, start=start, mag=steps, voxel_size=voxel_size, images=images)
    with (dataset / "seg/segmentStatistics/segment_statistics/segments.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [{name: float(text) for name, text in line.items()} for line in lines] == [
        {name: float(value) for name, value in row.items()} for row in rows
    ]
    assert [line["id"] for line in lines] == [str(row["id"]) for row in rows]


def test_the_parquet_file_holds_what_the_csv_file_holds(tmp_path, here, monkeypatch):
    monkeypatch.setattr(_segment_statistics, "_ROWS_PER_GROUP", 3)
    labels = blobs((30, 60, 60), "uint64", [1, 2, 3, 4, 2**63, 2**64 - 1])
    image = np.random.default_rng(8).normal(0, 1, labels.shape).astype("float32")
    image[labels == 4] = np.nan
    dataset = write(tmp_path / "ds", labels, images=[("em", image)])
    voxelworks.run(STATISTICS, layer=f"{dataset}/seg", image_layers="em")
    folder = dataset / "seg/segmentStatistics/segment_statistics"
    file = folder / "segments.parquet"
    with duckdb.connect() as reader:
        answer = reader.execute("FROM read_parquet(?)", [str(file)])
        names, types = zip(*((column[0], str(column[1])) for column in answer.description), strict=True)
        rows = answer.fetchall()
        groups = reader.execute(
            "SELECT DISTINCT row_group_id, row_group_num_rows FROM parquet_metadata(?) ORDER BY ALL",
            [str(file)],
        ).fetchall()
        told = dict(reader.execute("SELECT key, value FROM parquet_kv_metadata(?)", [str(file)]).fetchall())
    with (folder / "segments.csv").open() as text:
        head, *lines = csv.reader(text)
    assert list(names) == head
    assert dict(zip(names, types, strict=True))["id"] == "UBIGINT"
    assert [["" if value is None else str(value) for value in row] for row in rows] == lines
    assert rows[3][head.index("mean_em")] is None
    assert groups == [(0, 3), (1, 3)]
    assert told[b"mag"] == b"1"
    assert json.loads(told[b"columns"])["volume_nm3"] == {"unit": "nm³", "meaning": "Volume"}


def test_another_magnification_and_channels_are_measured_when_asked_for(tmp_path, here):
    labels = blobs((30, 60, 60), "uint16", [1, 2, 3])
    colors = np.random.default_rng(6).integers(0, 255, (3, 30, 60, 60)).astype("uint8")
    dataset = write(tmp_path / "ds", labels, images=[("rgb", colors)])
    for layer in ("seg", "rgb"):
        voxelworks.run("downsample", layer=f"{dataset}/{layer}", coarsest_mag="2-2-1")
    voxelworks.run(STATISTICS, layer=f"{dataset}/seg", image_layers="rgb", mag="2-2-1")
    coarse = zarr.open_array(dataset / "seg" / "2-2-1", mode="r")[0]
    images = {f"rgb_{c}": zarr.open_array(dataset / "rgb" / "2-2-1", mode="r")[c] for c in range(3)}
    check_rows(
        rows_of(dataset), coarse, start=(0, 0, 0), mag=Mag(2, 2, 1), voxel_size=(4, 4, 40), images=images
    )


def test_the_file_of_webknossos_has_a_row_for_each_id(tmp_path, here):
    labels = blobs((30, 60, 60), "uint16", [1, 40, 900])
    dataset = write(tmp_path / "ds", labels, start=(5, 6, 7))
    voxelworks.run(STATISTICS, layer=f"{dataset}/seg")
    group = dataset / "seg/segmentStatistics/segment_statistics"
    told = json.loads((group / "zarr.json").read_text())["attributes"]["voxelytics"]
    assert told["artifact_schema_version"] >= 11
    assert told["artifact_attributes"] == {"mag": [1, 1, 1], "mapping_name": ""}
    names = ("ids", "positions", "volumes", "center_of_mass", "covariance_matrix", "surfaces", "sphericities")
    arrays = {name: zarr.open_array(group / name, mode="r")[:] for name in names}
    assert {name: (array.shape, array.dtype.name) for name, array in arrays.items()} == {
        "ids": ((901,), "uint64"), "positions": ((901, 3), "int32"), "volumes": ((901,), "uint64"),
        "center_of_mass": ((901, 3), "float32"), "covariance_matrix": ((901, 3, 3), "float32"),
        "surfaces": ((901,), "float32"), "sphericities": ((901,), "float32"),
    }  # fmt: skip
    assert arrays["ids"].tolist() == list(range(901))
    assert np.flatnonzero(arrays["volumes"]).tolist() == [1, 40, 900]
    for row in rows_of(dataset):
        places = np.argwhere(labels == row["id"])[:, ::-1] + (5, 6, 7)
        number = row["id"]
        assert arrays["volumes"][number] == len(places)
        np.testing.assert_allclose(arrays["center_of_mass"][number], places.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(
            arrays["covariance_matrix"][number], np.cov(places.T, bias=True), rtol=1e-5
        )
        assert arrays["positions"][number].tolist() == [row[f"position_{axis}"] for axis in "xyz"]
        assert arrays["surfaces"][number] == np.float32(row["surface_nm2"])
        assert arrays["sphericities"][number] == np.float32(row["sphericity"])


def test_ids_too_large_for_a_row_each_leave_the_file_of_webknossos_out(tmp_path, here, capsys):
    dataset = write(tmp_path / "ds", blobs((20, 20, 20), "uint64", [3, 2**63]))
    voxelworks.run(STATISTICS, layer=f"{dataset}/seg")
    (layer,) = properties(dataset)["dataLayers"]
    assert (layer["attachments"], layer["segmentTable"]) == ({}, "./seg/segmentStatistics/segment_statistics")
    assert not (dataset / layer["segmentTable"] / "zarr.json").exists()
    assert "the largest of 2 ids is 9223372036854775808" in capsys.readouterr().err
    assert [row["id"] for row in rows_of(dataset)] == [3, 2**63]


def test_a_table_gives_pages_in_every_order(tmp_path, here):
    labels = np.zeros((1, 1, 60), "uint32")
    for number in range(10):
        labels[0, 0, number * 6 : number * 6 + (number * 7 % 5) + 1] = 100 + number
    dataset = write(tmp_path / "ds", labels)
    voxelworks.run(STATISTICS, layer=f"{dataset}/seg")
    rows = rows_of(dataset)
    by_size = sorted(rows, key=lambda row: row["voxels"])
    with open_table(dataset) as table:
        column = table.header.column("voxels")
        ids = [[row[0] for row in table.page(start, 4, sort=column)] for start in (0, 4, 8, 12)]
        assert ids == [[row["id"] for row in by_size[start : start + 4]] for start in (0, 4, 8, 12)]
        down = [row[0] for row in table.page(0, 100, sort=column, descending=True)]
        assert down == [row["id"] for row in by_size[::-1]]
        assert [row[0] for row in table.page(2, 3, descending=True)] == [107, 106, 105]
        assert [table.place_of(number) for number in (100, 109, 99, 110)] == [0, 9, None, None]
        assert sum(column.histogram.counts) == 10


# What is not stored, and what is refused


def test_chunks_that_are_not_stored_are_not_read(tmp_path, here, monkeypatch):
    labels = np.zeros((64, 64, 640), "uint32")
    labels[3, 4, 5], labels[60, 60, 639] = 8, 9
    dataset = write(tmp_path / "ds", labels)
    read = []
    original = MagArray.read
    monkeypatch.setattr(MagArray, "read", lambda self, box: read.append(box) or original(self, box))
    assert voxelworks.run("find_largest_segment_id", layer=f"{dataset}/seg")["largest_segment_id"] == 9
    assert sum(box.voxel_count for box in read) == 2 * 64 * 64 * 128 / 2
    read.clear()
    voxelworks.run(INDEX, layer=f"{dataset}/seg")
    assert sum(box.voxel_count for box in read) == 2 * 64**3


def test_bad_input_is_refused_before_anything_is_written(tmp_path, here):
    labels = blobs((8, 8, 8), "uint8", [1])
    dataset = write(tmp_path / "ds", labels, images=[("em", labels), ("other", labels)])
    voxelworks.run("downsample", layer=f"{dataset}/seg", coarsest_mag="2-2-1")
    before = tree(dataset)

    def refused(error, match, workflow=STATISTICS, layer="seg", **params):
        with pytest.raises(error, match=match):
            voxelworks.run(workflow, layer=f"{dataset}/{layer}", **params)
        assert tree(dataset) == before

    refused(WrongCategory, "layer 'em' is a color layer", layer="em")
    refused(WrongCategory, "layer 'em' is a color layer", layer="em", workflow=INDEX)
    refused(MagNotFound, "has no mag 8", mag="8")
    refused(LayerNotFound, "there is no layer 'raw'", image_layers="raw")
    refused(InvalidParams, "'seg' in image_layers is a segmentation", image_layers="seg")
    refused(InvalidParams, "names a layer twice", image_layers="em,em")
    refused(MagNotFound, "layer 'em' has no mag 2-2-1", image_layers="em", mag="2-2-1")
    far = write(tmp_path / "far", labels, start=(2**21, 0, 0))
    with pytest.raises(InvalidGeometry, match="can only hold voxels 0 to 2097151 of each axis"):
        voxelworks.run(INDEX, layer=f"{far}/seg")


# Real segmentations, the first with the processes of users


@pytest.mark.parametrize(
    ("name", "file", "voxel_size", "start"),
    [
        ("neuron_fib25", "labels_neuron", (10, 10, 10), (0, 0, 0)),
        ("labels_cortex_pinky", "labels_neuron", (16, 16, 40), (40_000, 30_000, 999)),
        ("labels_snemi_mini", "fragments", (6, 6, 30), (64, 64, 64)),
    ],
)
def test_real_segmentations_are_measured_and_indexed(
    tmp_path, test_data, request, name, file, voxel_size, start
):
    if name != "neuron_fib25":
        request.getfixturevalue("here")
    labels = np.load(test_data / name / f"{file}.npz")["data"]
    if name == "labels_cortex_pinky":
        labels = np.ascontiguousarray(labels.T[:70])  # x, y, z in the file
    dataset = write(tmp_path / "ds", labels, start=start, voxel_size=voxel_size)
    voxelworks.run(INDEX, layer=f"{dataset}/seg")
    voxelworks.run(STATISTICS, layer=f"{dataset}/seg")
    ids, counts = np.unique(labels[labels != 0], return_counts=True)
    rows = rows_of(dataset)
    assert [(row["id"], row["voxels"]) for row in rows] == list(
        zip(ids.tolist(), counts.tolist(), strict=True)
    )
    largest = voxelworks.run("find_largest_segment_id", layer=f"{dataset}/seg")["largest_segment_id"]
    assert largest == ids[-1] == properties(dataset)["dataLayers"][0]["largestSegmentId"]
    for segment_id in ids[:: len(ids) // 5].tolist():
        (row,) = (row for row in rows if row["id"] == segment_id)
        places = np.argwhere(labels == segment_id)[:, ::-1] + start
        assert [row[f"centroid_{axis}"] for axis in "xyz"] == pytest.approx(places.mean(axis=0).tolist())
        buckets = sorted({tuple(bucket) for bucket in (places // 32).tolist()})
        assert read_index(dataset / "seg/segmentIndex/segment_index", segment_id) == buckets
