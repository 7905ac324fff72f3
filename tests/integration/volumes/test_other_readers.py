"""What we write opens in programs that share no code with us, and we read what they wrote."""

import json
import os
import socket
import subprocess
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05.image import Image

from voxelworks.errors import DatasetNotFound, InvalidDataset, StorageFailed, UnsupportedFormat
from voxelworks.geometry import MAG1, Box, Mag, VoxelSize
from voxelworks.ops.downsampling import downsample
from voxelworks.volumes import storage
from voxelworks.volumes.dataset import Dataset

BOX = Box((10, 20, 3), (150, 100, 70))
CHECKER = Path(__file__).parents[2] / "check_with_webknossos.py"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A dataset with an RGB and a label layer, each with a pyramid, and its arrays by `layer/mag`."""
    dataset = Dataset.create(tmp_path_factory.mktemp("volumes") / "written", VoxelSize(4, 4, 40))
    generator = np.random.default_rng(0)
    colors = generator.integers(0, 255, (3, *BOX.shape_zyx), "uint8")
    labels = generator.integers(0, 2**64, (1, *BOX.shape_zyx), "uint64") * (
        generator.random(BOX.shape_zyx) < 0.1
    )
    arrays = {}
    layers = [
        (dataset.add_layer("color", "color", "uint8", 3, BOX), colors, "mean"),
        (dataset.add_layer("labels", "segmentation", "uint64", 1, BOX, int(labels.max())), labels, "mode"),
    ]
    for layer, data, method in layers:
        for mag, factor in ((MAG1, (1, 1, 1)), (Mag(2, 2, 1), (1, 2, 2)), (Mag(4, 4, 2), (2, 2, 2))):
            array = layer.add_mag(mag, shard_zyx=(128, 64, 64))
            whole = np.zeros((layer.channel_count, *array.stored_box.shape_zyx), layer.dtype)
            if mag == MAG1:
                whole[:, *BOX.slices_zyx] = data
            else:
                whole = downsample(arrays[f"{layer.name}/{layer.mags[-2]}"], factor, method)
            array.write(array.stored_box, whole)
            arrays[f"{layer.name}/{mag}"] = whole
    dataset.write_metadata()
    return Path(dataset.location), arrays


def test_zarr_python_reads_every_level(written):
    folder, arrays = written
    for name, expected in arrays.items():
        found = zarr.open_array(folder / name, mode="r", zarr_format=3)
        assert found.metadata.dimension_names == ("c", "z", "y", "x")
        assert np.array_equal(found[...], expected)


def test_each_layer_is_a_valid_ome_zarr_image(written):
    folder, _ = written
    for name, voxel_nm in (("color", 4.0), ("labels", 4.0)):
        image = Image.from_zarr(zarr.open_group(folder / name, mode="r"))
        [multiscale] = image.ome_attributes.multiscales
        assert [dataset.path for dataset in multiscale.datasets] == ["1", "2-2-1", "4-4-2"]
        assert multiscale.datasets[0].coordinateTransformations[0].scale == [1.0, 40.0, voxel_nm, voxel_nm]
        assert multiscale.datasets[2].coordinateTransformations[1].translation == [0.0, 20.0, 6.0, 6.0]


def test_the_dataset_itself_is_a_group_that_lists_its_layers(written):
    folder, _ = written
    group = zarr.open_group(folder, mode="r")
    assert {name: (folder / name / "zarr.json").is_file() for name in ("color", "labels")} == {
        "color": True,
        "labels": True,
    }
    assert group["labels/4-4-2"].shape == (1, 37, 30, 40)


def test_the_official_webknossos_library_reads_the_same(written, tmp_path):
    python = os.environ.get("VOXELWORKS_TEST_WEBKNOSSOS_PYTHON")
    if not python:
        pytest.skip(
            "VOXELWORKS_TEST_WEBKNOSSOS_PYTHON does not name a Python that has the package webknossos"
        )
    folder, arrays = written
    references = []
    for name, whole in arrays.items():
        layer, mag = name.split("/")
        box = BOX.in_mag(Mag.parse(mag))
        references.append(tmp_path / f"{layer}@{mag}.npz")
        np.savez(references[-1], data=whole[:, *box.slices_zyx], topleft=box.topleft)
    result = subprocess.run([python, CHECKER, folder, *references], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count(": equal ") == 6


@pytest.fixture
def address(written):
    """The folder that holds the dataset, served over http."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=written[0].parent))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_dataset_is_read_over_http(written, address):
    dataset = Dataset.open(f"{address}/written/")
    assert (dataset.name, dataset.voxel_size) == ("written", VoxelSize(4, 4, 40))
    array = dataset.layer("color").finest
    assert np.array_equal(array.read(BOX), written[1]["color/1"][:, *BOX.slices_zyx])


def test_an_address_without_a_dataset_is_named(address):
    with pytest.raises(DatasetNotFound, match=f"{address}/none holds neither"):
        Dataset.open(f"{address}/none")


def test_an_ome_zarr_image_is_a_dataset_of_one_layer(written):
    dataset = Dataset.open(written[0] / "color")
    [layer] = dataset.layers
    assert (layer.name, layer.category, layer.dtype, layer.channel_count) == (
        "color",
        "color",
        np.dtype("uint8"),
        3,
    )
    assert (dataset.voxel_size, layer.mags) == (VoxelSize(4, 4, 40), (MAG1, Mag(2, 2, 1), Mag(4, 4, 2)))
    assert np.array_equal(layer.mag("2-2-1").read(Box((0, 0, 0), (80, 60, 73))), written[1]["color/2-2-1"])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_real_ome_zarr_images_are_read(test_data, version):
    dataset = Dataset.open(test_data / "formats" / "ome_zarr" / f"simple_{version}")
    [layer] = dataset.layers
    assert (dataset.voxel_size, layer.name, layer.box) == (
        VoxelSize(30, 4, 30),
        "image",
        Box((0, 0, 0), (10, 10, 1)),
    )
    assert layer.mags == (MAG1, Mag(2, 2, 1), Mag(4, 4, 1))
    # Neuroglancer's test image counts its voxels.
    assert layer.finest.read(layer.box).ravel().tolist() == list(range(100))


@pytest.mark.parametrize(
    "name", ["zarr_v2/simple_zarr_dataset", "precomputed/simple_ng_dataset", "n5/simple_n5_dataset"]
)
def test_real_datasets_of_webknossos_are_read(test_data, name):
    """All three hold the same image."""
    folder = test_data / "formats"
    reference = zarr.open_array(folder / "zarr_v2/simple_zarr_dataset/color/1-1-1", mode="r", zarr_format=2)
    layer = Dataset.open(folder / name).layer("color")
    assert layer.dtype == np.dtype("uint8")
    assert np.array_equal(layer.finest.read(layer.box), np.asarray(reference[...]).transpose(0, 3, 2, 1))


def test_a_real_wkw_dataset_is_read(test_data):
    """It is all zero; real voxels in this format come with the annotations."""
    layer = Dataset.open(test_data / "formats" / "wkw" / "simple_wkw_dataset").layer("color")
    assert (layer.channel_count, layer.mags) == (3, (MAG1,))
    assert (layer.finest.chunk_shape_zyx, layer.finest.shard_shape_zyx) == ((8, 8, 8), (32, 32, 32))
    assert np.array_equal(layer.finest.read(layer.box), np.zeros((3, 24, 24, 24), np.uint8))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda image: image["axes"].insert(0, {"name": "t", "type": "time"}),
            InvalidDataset,
            "incomplete or wrong",
        ),
        (lambda image: image["axes"][0].update(name="q"), UnsupportedFormat, "has axes q, z, y, x"),
        (lambda image: image["datasets"][0].update(path="9"), InvalidDataset, "holds no zarr.json"),
        (
            lambda image: image["datasets"][0].update(coordinateTransformations=[]),
            InvalidDataset,
            "states no scale",
        ),
    ],
)
def test_an_ome_zarr_image_that_contradicts_itself_is_refused(written, tmp_path, change, error, message):
    group = json.loads((written[0] / "color" / "zarr.json").read_text())
    change(group["attributes"]["ome"]["multiscales"][0])
    (tmp_path / "zarr.json").write_text(json.dumps(group))
    (tmp_path / "1").symlink_to(written[0] / "color" / "1")
    with pytest.raises(error, match=message):
        Dataset.open(tmp_path)


def test_a_store_that_does_not_answer_is_a_storage_failure(monkeypatch):
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setattr(
            storage, "_RETRIES", {"max_retries": 1, "initial_delay": "1ms", "max_delay": "1ms"}
        )
        storage.context.cache_clear()
        try:
            with pytest.raises(
                StorageFailed, match=f"cannot read http://{host}/d/datasource-properties.json"
            ):
                Dataset.open(f"http://{host}/d")
        finally:
            storage.context.cache_clear()
