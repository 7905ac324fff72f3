"""From the address of a proofread annotation to a dataset: server, worker and job are real, only the WEBKNOSSOS is not.

Its token is found nowhere afterwards.
"""

from __future__ import annotations

import io
import json
import time

import httpx
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from reference import read_mag
from voxelworks.cli._embedded import EmbeddedWorker
from voxelworks.cli.annotations import annotation_commands
from voxelworks.client import Client
from voxelworks.errors import IllegalTransition
from voxelworks.geometry import MAG1, Box, VoxelSize
from voxelworks.settings import Settings
from voxelworks.testing.far_webknossos import TOKEN, far_webknossos
from voxelworks.testing.independent_volumes import nml_text
from voxelworks.testing.server import running_server
from voxelworks.volumes.dataset import Dataset

WAIT_S = 120
PROOFREAD = "<volume id='0' name='Volume' fallbackLayer='labels' editableMappingLocation='m.zip'/>"


@pytest.fixture(scope="module")
def far():
    with far_webknossos() as far:
        labels = np.zeros((20, 40, 50), np.uint32)
        labels[:, :33, :20], labels[5:, 35:, 30:] = 7, 4_000_000_000
        far.voxels = labels
        far.file = nml_text([], PROOFREAD, dataset="cortex").encode()
        yield far


@pytest.fixture(scope="module")
def settings(tmp_path_factory, far):
    folder = tmp_path_factory.mktemp("far")
    dataset = Dataset.create(folder / "scope" / "cortex", VoxelSize(4, 4, 40))
    layer = dataset.add_layer("labels", "segmentation", "uint32", 1, Box((0, 0, 0), (50, 40, 20)))
    array = layer.add_mag(MAG1, shard_zyx=(64, 64, 64))
    array.write(array.box, np.ones((1, 20, 40, 50), np.uint32))
    dataset.write_metadata()
    return Settings(
        home=folder / "home", port=0, import_roots={"scope": folder / "scope"}, remote_hosts={far.url},
        outgoing_networks={"127.0.0.0/8"}, slots=1, cache_dir=Settings().cache_dir,
    )  # fmt: skip


def wait_for(look, is_over):
    until = time.monotonic() + WAIT_S
    while not is_over(found := look()):
        assert time.monotonic() < until, found
        time.sleep(0.1)
    return found


def test_a_proofread_annotation_becomes_a_dataset_and_its_token_stays_secret(far, settings, tmp_path):
    with (
        running_server(settings) as info,
        Client(info.url, info.token) as client,
        httpx.Client(base_url=info.url, headers={"Origin": info.url}, trust_env=False, timeout=60) as browser,
    ):
        browser.get("/", params={"token": info.token})
        client.link_dataset("cortex", "root:scope/cortex")
        (tmp_path / "token").write_text(f"{TOKEN}\n")
        added = CliRunner().invoke(
            annotation_commands,
            ["add", far.address, "--dataset", "cortex", "--token-file", str(tmp_path / "token"),
             "--server", info.url, "--token", info.token, "--json"],
        )  # fmt: skip
        assert added.exit_code == 0, added.output
        made = json.loads(added.output)
        assert (made["kind"], made["name"], made["streams_at"]) == ("nml", "Proofread axons", far.streams_at)
        page = browser.get(f"/annotations/{made['id']}").text
        assert "Segments were split or merged there" in page
        assert f"{far.address} <span" in page
        job = client.submit(
            "materialize_volume_annotation",
            {"dataset": "cortex", "annotation": made["id"], "target": "corrected"},
        )
        layer = {"dataset": "cortex", "layer": "labels"}
        export = client.submit(
            "export_tiff", {"layer": layer, "annotation": made["id"], "format": "ome_tiff"}
        )
        with pytest.raises(IllegalTransition, match="a job works with the annotation"):
            client.fetch_annotation(made["id"])
        with (tmp_path / "worker.log").open("wb") as log:
            worker = EmbeddedWorker(settings, log=log)
            worker.start()
            try:
                ends = [
                    wait_for(
                        lambda submitted=submitted: client.show(submitted.id).job,
                        lambda job: job.state in ("succeeded", "failed", "cancelled"),
                    )
                    for submitted in (job, export)
                ]
                wait_for(lambda: client.show(export.id).job, lambda job: job.publication == "published")
            finally:
                worker.stop()
        for ended in ends:
            assert ended.state == "succeeded", client.read_log(ended.id).text
        exported = tifffile.imread(io.BytesIO(browser.get(f"/api/v1/jobs/{export.id}/file").content))
        assert (
            f"its voxels are read from {far.streams_at}/Volume/1, as they are now"
            in client.read_log(job.id).text
        )
        shown = [
            browser.get(path).text
            for path in (
                "/annotations", f"/annotations/{made['id']}", f"/jobs/{job.id}", f"/jobs/{export.id}",
                f"/api/v1/jobs/{job.id}", "/api/v1/organization/audit",
            )
        ]  # fmt: skip
    found = read_mag(settings.datasets_dir / "local" / "corrected", "labels_materialized", "1")[0]
    np.testing.assert_array_equal(found[tuple(slice(0, extent) for extent in far.voxels.shape)], far.voxels)
    cut = tuple(slice(0, extent) for extent in far.voxels.shape)
    np.testing.assert_array_equal(
        np.squeeze(exported)[cut], far.voxels[tuple(map(slice, np.squeeze(exported).shape))]
    )
    assert far.count(".zarray") >= 2
    assert TOKEN not in "".join([*shown, added.output, (tmp_path / "worker.log").read_text()])
    places = [path for path in settings.home.rglob("*") if path.is_file()]
    assert len(places) > 10
    assert [path for path in places if TOKEN.encode() in path.read_bytes()] == []


def test_the_page_fetches_and_says_how_it_goes(far, settings):
    with (
        running_server(settings) as info,
        httpx.Client(base_url=info.url, headers={"Origin": info.url}, trust_env=False, timeout=60) as browser,
    ):
        browser.get("/", params={"token": info.token})
        far.statuses = {"/info": [403]}
        sent = browser.post("/annotations/link", data={"address": f"{far.url}/links/aB3", "token": TOKEN})
        assert (sent.status_code, sent.headers["location"]) == (303, "/annotations?done=linked")
        newest = browser.get("/api/v1/annotations").json()[0]["id"]
        path = f"/annotations/{newest}"
        wait_for(lambda: browser.get(f"{path}/fetching"), lambda answer: "HX-Refresh" in answer.headers)
        page = browser.get(path).text
        assert "It could not be fetched: 127.0.0.1:" in page
        assert "does not let the token see" in page
        assert TOKEN not in page
        assert "could not be fetched" in browser.get("/annotations").text
        file = browser.get(f"/api/v1{path}/file")
        assert (file.status_code, "is not fetched" in file.json()["message"]) == (422, True)
        again = browser.post(f"{path}/fetch", data={"token": TOKEN})
        assert again.headers["location"] == f"{path}?done=fetch"
        wait_for(lambda: browser.get(f"{path}/fetching"), lambda answer: "HX-Refresh" in answer.headers)
        page = browser.get(path).text
        assert "It could not be fetched" not in page
        assert browser.get(f"/api/v1{path}/file").content == far.file
        bad = browser.post(f"{path}/fetch", data={"token": "two words"})
        assert (bad.status_code, "is no token of WEBKNOSSOS" in bad.text) == (422, True)
        assert "two words" not in bad.text
