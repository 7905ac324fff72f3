"""An export from the submission to the download, by a real server and its own worker."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from voxelworks import catalog
from voxelworks.cli import commands
from voxelworks.cli._embedded import EmbeddedWorker
from voxelworks.client import Client, ServerInfo
from voxelworks.db import open_database
from voxelworks.errors import NotFound, StorageFailed, TargetExists
from voxelworks.geometry import MAG1, Box, VoxelSize
from voxelworks.protocol.foreign import foreign_id
from voxelworks.protocol.places import Places
from voxelworks.server.api.artifacts import disposition
from voxelworks.settings import Settings
from voxelworks.testing.independent_volumes import VolumeLayer, write_annotation
from voxelworks.testing.server import running_server
from voxelworks.volumes.dataset import Dataset

NAME = 'Zellen – "gut".zip'.replace('"', "'")


@dataclass
class Site:
    """A server with a dataset of which a box was exported."""

    info: ServerInfo
    settings: Settings
    client: Client
    browser: httpx.Client
    job_id: str
    voxels: np.ndarray
    content: bytes

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.browser.get(path, headers=headers)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("artifacts")
    settings = Settings(
        home=folder / "home", port=0, poll_s=0.1, slots=1, import_roots={"scope": folder / "scope"}
    )
    settings.datasets_dir.mkdir(parents=True)
    dataset = Dataset.create(folder / "scope" / "cells", VoxelSize(4, 4, 40))
    box = Box((0, 0, 0), (60, 40, 3))
    array = dataset.add_layer("em", "color", "uint8", 1, box).add_mag(MAG1, shard_zyx=(64, 64, 64))
    voxels = np.random.default_rng(0).integers(0, 255, box.shape_zyx, np.uint8)
    array.write(box, voxels)
    dataset.write_metadata()
    with (
        running_server(settings) as info,
        Client(info.url, info.token) as client,
        httpx.Client(base_url=info.url, headers={"Origin": info.url}, trust_env=False) as browser,
    ):
        browser.get("/", params={"token": info.token})
        linked = browser.post("/api/v1/datasets", json={"name": "cells", "place": "root:scope/cells"})
        assert linked.status_code == 201, linked.text
        worker = EmbeddedWorker(settings)
        worker.start()
        try:
            params = {"layer": "cells/em", "file": NAME}
            job = client.submit("export_tiff", params)
            for view in client.watch(job.id):
                last = view
        finally:
            worker.stop()
        assert (last.state, last.publication) == ("succeeded", "published"), last.message
        content = browser.get(f"/api/v1/jobs/{job.id}/file").content
        yield Site(info, settings, client, browser, job.id, voxels, content)


def test_a_dataset_that_is_only_read_can_be_exported(site):
    with zipfile.ZipFile(io.BytesIO(site.content)) as archive:
        planes = [tifffile.imread(io.BytesIO(archive.read(name))) for name in archive.namelist()]
    assert (np.stack(planes) == site.voxels).all()


def test_what_is_known_of_the_file(site):
    artifact = site.client.show(site.job_id).artifact
    sha256 = hashlib.sha256(site.content).hexdigest()
    assert (artifact.name, artifact.size_bytes, artifact.sha256) == (NAME, len(site.content), sha256)
    assert artifact.expires_ms - artifact.created_ms == 7 * 86_400_000
    answer = site.browser.head(f"/api/v1/jobs/{site.job_id}/file")
    digest = base64.b64encode(bytes.fromhex(sha256)).decode()
    assert (answer.status_code, answer.content) == (200, b"")
    assert {name: answer.headers[name] for name in ("content-type", "content-length", "etag", "repr-digest")} == {
        "content-type": "application/zip", "content-length": str(len(site.content)), "etag": f'"{sha256}"',
        "repr-digest": f"sha-256=:{digest}:",
    }  # fmt: skip
    assert answer.headers["content-disposition"] == (
        "attachment; filename=\"Zellen _ 'gut'.zip\"; filename*=UTF-8''Zellen%20%E2%80%93%20%27gut%27.zip"
    )
    used = site.browser.get("/api/v1/storage").json()["used_bytes"]
    assert used == len(site.content)
    (listed,) = [item for item in site.browser.get("/api/v1/leftovers").json() if item["kind"] == "artifact"]
    assert (listed["name"], listed["removal_ms"]) == (NAME, artifact.expires_ms)


def test_names_of_downloads_are_safe():
    assert disposition('a"b\\c.zip') == "attachment; filename=\"a_b_c.zip\"; filename*=UTF-8''a%22b%5Cc.zip"
    assert disposition("x\r\nSet-Cookie: a.zip").isprintable()


def test_ranges_of_the_file(site):
    path, etag = f"/jobs/{site.job_id}/file", f'"{hashlib.sha256(site.content).hexdigest()}"'
    part = site.get(path, Range="bytes=10-19")
    assert (part.status_code, part.content) == (206, site.content[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(site.content)}"
    rest = site.get(path, Range="bytes=100-", **{"If-Range": etag})
    assert (rest.status_code, rest.content) == (206, site.content[100:])
    other = site.get(path, Range="bytes=100-", **{"If-Range": '"another"'})
    assert (other.status_code, other.content) == (200, site.content)
    beyond = site.get(path, Range=f"bytes={len(site.content)}-")
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(site.content)}")
    assert site.get(path, **{"If-None-Match": etag}).status_code == 304


def test_a_download_goes_on_where_it_stopped(site, tmp_path):
    sha256 = hashlib.sha256(site.content).hexdigest()
    part = tmp_path / f"{NAME}.{sha256[:12]}.part"
    part.write_bytes(site.content[:1000])
    told = []
    path = site.client.download(
        site.job_id, tmp_path, on_progress=lambda done, total: told.append((done, total))
    )
    assert (path, path.read_bytes()) == (tmp_path / NAME, site.content)
    assert (told[0], told[-1]) == ((1000, len(site.content)), (len(site.content), len(site.content)))
    assert [item.name for item in tmp_path.iterdir()] == [NAME]
    with pytest.raises(TargetExists):
        site.client.download(site.job_id, path)


def test_a_download_that_was_spoilt_is_thrown_away(site, tmp_path):
    part = tmp_path / f"x.zip.{hashlib.sha256(site.content).hexdigest()[:12]}.part"
    part.write_bytes(b"spoilt" * 100)
    with pytest.raises(StorageFailed, match="is not what the server has"):
        site.client.download(site.job_id, tmp_path / "x.zip")
    assert list(tmp_path.iterdir()) == []
    assert site.client.download(site.job_id, tmp_path / "x.zip").read_bytes() == site.content


def test_the_command_downloads(site, tmp_path):
    options = ["--server", site.info.url, "--token", site.info.token, "-o", str(tmp_path / "out.zip")]
    done = CliRunner().invoke(commands, ["download", site.job_id, *options])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out.zip").read_bytes() == site.content
    assert "its checksum is right" in done.stdout


def test_an_address_lets_anybody_have_the_file_until_it_is_revoked(site):
    made = site.browser.post(f"/api/v1/jobs/{site.job_id}/shares", json={"name": "for Ada"}).json()
    assert made["viewer"] == made["address"]
    assert httpx.get(made["address"], trust_env=False).content == site.content
    assert httpx.head(made["address"], trust_env=False).headers["content-length"] == str(len(site.content))
    for path in ("view", "files/zarr.json"):
        assert httpx.get(made["address"].removesuffix("file") + path, trust_env=False).status_code == 404
    audit = site.browser.get("/api/v1/organization/audit").json()
    assert f"share:{made['view']['id']}" in str(audit)
    revoked = site.browser.delete(f"/api/v1/jobs/{site.job_id}/shares/{made['view']['id']}")
    assert (revoked.status_code, httpx.get(made["address"], trust_env=False).status_code) == (204, 404)


def test_the_page_of_the_job_offers_and_shares_the_file(site):
    page = site.browser.get(f"/jobs/{site.job_id}").text
    assert f'href="/jobs/{site.job_id}/file" download' in page
    assert hashlib.sha256(site.content).hexdigest() in page
    shared = site.browser.post(
        f"/jobs/{site.job_id}/shares", data={"name": "for Ada", "lifetime_days": "7"}
    ).text
    address = re.search(r'id="share-address"[^>]*>([^<]+)<', shared)[1]
    assert httpx.get(address, trust_env=False).content == site.content
    share_id = re.search(
        rf"/jobs/{site.job_id}/shares/(\w+)/revoke", site.browser.get(f"/jobs/{site.job_id}").text
    )[1]
    assert site.browser.post(f"/jobs/{site.job_id}/shares/{share_id}/revoke").status_code == 303
    assert httpx.get(address, trust_env=False).status_code == 404
    refused = site.browser.post(f"/jobs/{site.job_id}/shares", data={"name": "", "lifetime_days": "7"})
    assert (refused.status_code, "name" in refused.text) == (422, True)


def test_the_webknossos_face_leads_to_the_file(site):
    foreign = foreign_id(site.job_id)
    headers = {"X-Auth-Token": site.info.token}
    with httpx.Client(base_url=site.info.url, headers=headers, trust_env=False) as client:
        shown = client.get(f"/api/jobs/{foreign}").json()
        assert (shown["command"], shown["resultLink"]) == ("export_tiff", f"/api/jobs/{foreign}/export")
        assert shown["args"]["export_file_name"] == NAME
        assert client.get(shown["resultLink"]).content == site.content
        dataset = client.get("/api/datasets").json()[0]
        query = {"bbox": "1,2,0,10,10,2", "layerName": "em", "mag": "1", "asOmeTiff": "true"}
        run = client.post(f"/api/jobs/run/exportTiff/{dataset['id']}", params=query).json()
        assert run["args"]["nd_bbox"]["topLeft"] == [1, 2, 0]
        assert run["args"]["export_file_name"] == "cells__em__mag1.ome.tif"
        client.patch(f"/api/jobs/{run['id']}/cancel")


def test_a_file_whose_term_is_over_is_removed_and_can_be_made_again(site, tmp_path):
    places = Places.of(site.settings)
    path = site.settings.datasets_dir / "local" / ".artifacts" / site.job_id
    assert path.is_file()
    short = site.settings.model_copy(update={"artifact_term_days": 1e-9})
    database = open_database(site.settings)
    try:
        assert catalog.remove_expired_artifacts(database, places=places, settings=site.settings) == 0
        assert catalog.remove_expired_artifacts(database, places=places, settings=short) == 1
        assert catalog.remove_expired_artifacts(database, places=places, settings=short) == 0
    finally:
        database.close()
    assert not path.exists()
    page = site.browser.get(f"/jobs/{site.job_id}").text
    assert "The file was removed" in page
    assert f'id="run-again" href="/workflows/export_tiff/new?from={site.job_id}"' in page
    assert site.get(f"/jobs/{site.job_id}/file").status_code == 404
    with pytest.raises(NotFound, match="run it again"):
        site.client.download(site.job_id, tmp_path)
    assert site.browser.get("/api/v1/storage").json()["used_bytes"] == 0


def test_the_webknossos_face_exports_volume_layers_of_annotations(site, tmp_path):
    layer = VolumeLayer({"1": {(0, 0, 0): np.ones((8, 8, 8), np.uint32)}}, name="Strokes")
    annotation = site.client.upload_annotation(write_annotation(tmp_path / "strokes.zip", [layer]))
    query = {"bbox": "1,2,0,10,10,2", "layerName": "em", "mag": "1", "asOmeTiff": "true"}
    query |= {"annotationId": foreign_id(annotation.id), "annotationLayerName": "Strokes"}
    headers = {"X-Auth-Token": site.info.token}
    with httpx.Client(base_url=site.info.url, headers=headers, trust_env=False) as client:
        path = f"/api/jobs/run/exportTiff/{client.get('/api/datasets').json()[0]['id']}"
        job = client.post(path, params=query).json()
        assert job["args"]["annotation_id"] == annotation.id
        assert job["args"]["annotation_layer_name"] == "Strokes"
        assert job["args"]["export_file_name"] == "cells__em__mag1__annotated.ome.tif"
        client.patch(f"/api/jobs/{job['id']}/cancel")
        unknown = client.post(path, params={**query, "annotationId": foreign_id("0" * 16)})
        assert (unknown.status_code, "no annotation" in unknown.text) == (404, True)
        del query["annotationId"]
        answer = client.post(path, params=query)
        assert (answer.status_code, "'Strokes' is one of an annotation" in answer.text) == (422, True)
