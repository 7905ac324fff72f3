"""The server reads what a linked dataset says about itself, and nothing else."""

import json
import shutil
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from voxelworks.errors import (
    DatasetNotFound,
    ForbiddenAddress,
    InvalidDataset,
    StorageFailed,
    UnsafeReference,
    UnsupportedFormat,
)
from voxelworks.jobs import describe_dataset
from voxelworks.protocol.places import Places
from voxelworks.protocol.views import DatasetSummary, LayerSummary
from voxelworks.settings import Settings
from voxelworks.volumes.dataset import Dataset

CORTEX = DatasetSummary(
    voxel_size="4,4,40",
    layers=(
        LayerSummary(
            name="color", category="color", dtype="uint8", channel_count=1, box="1,2,3,64,64,64", mags=("1", "2-2-1")
        ),
    ),
)  # fmt: skip
PROPERTIES = {
    "id": {"name": "cortex", "team": ""},
    "scale": {"factor": [4, 4, 40], "unit": "nanometer"},
    "dataLayers": [
        {
            "name": "color", "category": "color", "elementClass": "uint8", "dataFormat": "wkw", "numChannels": 1,
            "boundingBox": {"topLeft": [1, 2, 3], "width": 64, "height": 64, "depth": 64},
            "mags": [{"mag": [2, 2, 1]}, {"mag": 1}],
        }
    ],
}  # fmt: skip


@pytest.fixture
def scope(tmp_path):
    folder = tmp_path / "scope"
    (folder / "cortex").mkdir(parents=True)
    (folder / "cortex" / "datasource-properties.json").write_text(json.dumps(PROPERTIES))
    return folder


@pytest.fixture
def settings(tmp_path, scope, address):
    hosts = {address, "data.example.org"}
    return Settings(
        home=tmp_path, import_roots={"scope": scope}, remote_hosts=hosts, outgoing_networks={"127.0.0.0/8"}
    )


@pytest.fixture
def address(scope):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            if self.path.startswith("/moved"):
                self.send_response(302)
                self.send_header("Location", "/cortex/datasource-properties.json")
                self.end_headers()
            else:
                super().do_GET()

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=scope))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def describe(place, settings):
    return describe_dataset(place, Places.of(settings), settings)


def test_a_dataset_below_an_import_root_is_described(settings):
    assert describe("root:scope/cortex", settings) == CORTEX
    assert describe("root:scope/cortex/", settings) == CORTEX


def test_a_dataset_on_an_allowed_host_is_described(settings, address):
    assert describe(f"{address}/cortex", settings) == CORTEX


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_ome_zarr_image_is_described_as_it_is_read(settings, scope, address, test_data, version):
    source = test_data / "formats" / "ome_zarr" / f"simple_{version}"
    shutil.copytree(source, scope / "image")
    [layer] = Dataset.open(source).layers
    expected = DatasetSummary(
        voxel_size=str(layer.voxel_size),
        layers=(
            LayerSummary(
                name=layer.name, category=layer.category, dtype=layer.dtype.name, channel_count=layer.channel_count,
                box=str(layer.box), mags=tuple(map(str, layer.mags)),
            ),
        ),
    )  # fmt: skip
    assert describe("root:scope/image", settings) == expected
    assert describe(f"{address}/image", settings) == expected


def test_what_is_no_dataset_is_named_by_its_place(settings, scope, address, tmp_path):
    (scope / "empty").mkdir()
    for place in ("root:scope/empty", "root:scope/none", f"{address}/none"):
        with pytest.raises(DatasetNotFound) as refused:
            describe(place, settings)
        assert str(refused.value).startswith(
            f"{place} holds neither datasource-properties.json nor an OME-Zarr"
        )
        assert str(tmp_path) not in str(refused.value)


def test_metadata_that_lead_elsewhere_are_not_read(settings, scope, tmp_path):
    (tmp_path / "secret.json").write_text(json.dumps(PROPERTIES))
    (scope / "linked").mkdir()
    (scope / "linked" / "datasource-properties.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(UnsafeReference, match="json in root:scope/linked leads out"):
        describe("root:scope/linked", settings)
    image = {"axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": "../../..", "coordinateTransformations": [
        {"type": "scale", "scale": [1, 1]}]}]}  # fmt: skip
    (scope / "linked" / "datasource-properties.json").unlink()
    (scope / "linked" / "zarr.json").write_text(json.dumps({"attributes": {"ome": {"multiscales": [image]}}}))
    with pytest.raises(UnsafeReference, match="leads out"):
        describe("root:scope/linked", settings)


def test_metadata_that_are_too_large_or_broken_are_refused(settings, scope, address):
    (scope / "huge").mkdir()
    (scope / "huge" / "datasource-properties.json").write_bytes(b" " * (16 * 2**20 + 1))
    for place in ("root:scope/huge", f"{address}/huge"):
        with pytest.raises(InvalidDataset, match="is larger than 16 MiB: that is no metadata"):
            describe(place, settings)
    (scope / "cortex" / "datasource-properties.json").write_text("{")
    with pytest.raises(InvalidDataset, match="is not JSON"):
        describe("root:scope/cortex", settings)


def test_addresses_are_reached_only_where_the_operator_allows(settings, address):
    unlisted = settings.model_copy(update={"remote_hosts": frozenset()})
    with pytest.raises(UnsafeReference, match="is not on this server's list of allowed remote hosts"):
        describe(f"{address}/cortex", unlisted)
    with pytest.raises(UnsafeReference, match=r"http://127\.0\.0\.1:22 is not on this server's list"):
        describe("http://127.0.0.1:22/cortex", settings)
    listed_but_private = settings.model_copy(update={"outgoing_networks": frozenset()})
    with pytest.raises(ForbiddenAddress):
        describe(f"{address}/cortex", listed_but_private)
    with pytest.raises(StorageFailed, match="answers 302"):  # redirects are not followed
        describe(f"{address}/moved", settings)
    with pytest.raises(UnsupportedFormat, match="give the https address of the bucket"):
        describe("s3://data.example.org/bucket/cortex", settings)
