"""Files of datasets, the page of the viewer, and addresses for people and programs without an account."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import httpx
import numpy as np
import pytest
import tensorstore as ts
import zarr
from sqlalchemy import update
from zarr.abc.store import RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype

from voxelworks.accounts._tables import ShareRow
from voxelworks.db import open_database
from voxelworks.geometry import MAG1, Box, VoxelSize
from voxelworks.protocol.messages import SealedResult
from voxelworks.volumes.dataset import Dataset

from .conftest import Served

BOX = Box((0, 0, 0), (100, 60, 8))


@dataclass
class Cortex:
    """A linked dataset with a known content."""

    id: str
    folder: Path
    voxels: np.ndarray

    def file(self, name: str) -> str:
        return f"/api/v1/datasets/{self.id}/files/{name}"


@pytest.fixture(scope="module")
def cortex(served: Served) -> Cortex:
    folder = Path(served.settings.import_roots["scope"].path) / "cortex"
    dataset = Dataset.create(folder, VoxelSize(4, 4, 40))
    layer = dataset.add_layer("color", "color", "uint8", 1, BOX)
    array = layer.add_mag(MAG1, shard_zyx=(64, 64, 64))
    voxels = np.arange(8 * 60 * 100, dtype="uint32").reshape(8, 60, 100).astype("uint8") | 1
    array.write(BOX, voxels)
    dataset.write_metadata()
    (folder / ".voxelworks").mkdir()
    (folder / ".voxelworks" / "half").write_bytes(b"not published")
    linked = served.browser.post("/api/v1/datasets", json={"name": "cortex", "place": "root:scope/cortex"})
    return Cortex(linked.json()["id"], folder, voxels)


@pytest.fixture
def share(served: Served, cortex: Cortex):
    """Give the address of the files of a new share, and the address of its viewer."""
    made = served.browser.post(f"/api/v1/datasets/{cortex.id}/shares", json={"name": "for Ada"})
    assert made.status_code == 201
    yield made.json()
    served.browser.delete(f"/api/v1/datasets/{cortex.id}/shares/{made.json()['view']['id']}")


# Files


def test_a_member_reads_files_whole_and_in_ranges(served, cortex):
    shard = next(
        path for path in (cortex.folder / "color" / "1").rglob("*") if path.is_file() and "c" in path.parts
    )
    name = shard.relative_to(cortex.folder).as_posix()
    content = shard.read_bytes()
    whole = served.browser.get(cortex.file(name))
    assert (whole.status_code, whole.content) == (200, content)
    part = served.browser.get(cortex.file(name), headers={"Range": "bytes=-16"})
    assert (part.status_code, part.content) == (206, content[-16:])
    head = served.browser.head(cortex.file(name))
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(content)))
    again = served.browser.get(cortex.file(name), headers={"If-None-Match": whole.headers["etag"]})
    assert again.status_code == 304
    for answer in (whole, part, head, again):
        assert answer.headers["cache-control"] == "private, no-cache"
        assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "name",
    [
        "color/1/c/9/9/9/9", "color", "color/", "", "../cortex/zarr.json", "..%2fcortex%2fzarr.json",
        "%2e%2e/run1/s2.tif", ".voxelworks/half", "%2fetc%2fpasswd", "color/1/%00",
    ],
)  # fmt: skip
def test_what_is_no_file_of_the_dataset_is_not_found(served, cortex, name):
    # As it stands: the client would shorten the path.
    address = httpx.URL(served.info.url, raw_path=cortex.file(name).encode())
    assert served.browser.get(address).status_code == 404


def test_nobody_reads_files_without_being_let_in(served, cortex):
    with served.anonymous() as stranger:
        assert stranger.get(cortex.file("zarr.json")).status_code == 401
    with served.anonymous(**{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}) as page:
        page.cookies = served.browser.cookies
        assert page.get(cortex.file("zarr.json")).status_code == 403


def test_a_dataset_in_the_trash_is_not_read(served, cortex):
    place = "root:scope/cortex/color"
    made = served.browser.post("/api/v1/datasets", json={"name": "thrown-away", "place": place}).json()
    file = f"/api/v1/datasets/{made['id']}/files/zarr.json"
    assert served.browser.get(file).status_code == 200
    served.browser.delete(f"/api/v1/datasets/{made['id']}")
    assert served.browser.get(file).status_code == 404


# The viewer


def state_of(page: str) -> dict:
    return json.loads(unescape(re.search(r'data-state="([^"]*)"', page)[1]))


def test_the_viewer_opens_with_all_layers_from_files_that_are_there(served, cortex):
    page = served.browser.get("/datasets/cortex/view")
    assert page.status_code == 200
    state = state_of(page.text)
    [layer] = state["layers"]
    group, _, driver = layer["source"]["url"].partition("|")
    assert driver == "zarr3:"
    found = served.browser.get(f"{group}zarr.json").json()
    assert found["attributes"]["ome"]["multiscales"][0]["datasets"][0]["path"] == "1"
    assert state["position"] == [50, 30, 4]


def test_only_the_page_of_the_viewer_may_run_compiled_code(served, cortex):
    policy = served.browser.get("/datasets/cortex/view").headers["content-security-policy"]
    usual = served.browser.get("/datasets/cortex").headers["content-security-policy"]
    assert (
        policy
        == usual.replace("script-src 'self'", "script-src 'self' 'wasm-unsafe-eval'") + "; worker-src 'self'"
    )


def test_the_viewer_looks_where_the_address_says(served, cortex):
    assert state_of(served.browser.get("/datasets/cortex/view?box=0,0,0,10,20,4").text)["position"] == [
        5,
        10,
        2,
    ]
    assert state_of(served.browser.get("/datasets/cortex/view?position=1,2,3").text)["position"] == [1, 2, 3]
    for query in ("box=1,2", "position=x", "box=0,0,0,-1,1,1"):
        assert served.browser.get(f"/datasets/cortex/view?{query}").status_code == 422
    assert served.browser.get("/datasets/cortex/view?layer=nothing").status_code == 404


def test_pages_lead_to_the_viewer(served, cortex):
    view = f'href="/datasets/{cortex.id}/view"'
    assert view in served.browser.get("/datasets").text
    page = served.browser.get("/datasets/cortex").text
    assert view in page
    assert f'href="/datasets/{cortex.id}/view?layer=color"' in page


def test_a_dataset_whose_files_are_gone_is_not_offered_to_the_viewer(served, tmp_path):
    gone = Path(served.settings.import_roots["scope"].path) / "gone"
    Dataset.create(gone, VoxelSize(4, 4, 40)).write_metadata()
    made = served.browser.post("/api/v1/datasets", json={"name": "gone", "place": "root:scope/gone"}).json()
    (gone / "datasource-properties.json").unlink()
    assert f"/datasets/{made['id']}/view" not in served.browser.get("/datasets/gone").text
    answer = served.browser.get("/datasets/gone/view")
    assert answer.status_code == 422
    assert "were they moved?" in answer.text


# Addresses for others


def test_an_address_opens_one_dataset_to_anybody_until_it_is_revoked(served, cortex, share):
    with served.anonymous() as anybody:
        assert anybody.get(f"{share['address']}/zarr.json").json()["node_type"] == "group"
        page = anybody.get(share["viewer"])
        assert (page.status_code, state_of(page.text)["title"]) == (200, "cortex")
        files = state_of(page.text)["layers"][0]["source"]["url"].partition("|")[0]
        assert files == httpx.URL(share["address"]).path + "/color/"
        for path in ("/datasets", f"/datasets/{cortex.id}", cortex.file("zarr.json"), "/api/v1/jobs"):
            assert anybody.get(path).status_code == 401
        served.browser.delete(f"/api/v1/datasets/{cortex.id}/shares/{share['view']['id']}")
        for address in (f"{share['address']}/zarr.json", share["viewer"]):
            answer = anybody.get(address)
            assert answer.status_code == 404
            assert "ended or was revoked" in answer.text


def test_an_address_ends_with_its_term(served, share):
    database = open_database(served.settings)
    with database.session() as session:
        session.execute(update(ShareRow).where(ShareRow.id == share["view"]["id"]).values(expires_ms=1))
    database.close()
    with served.anonymous() as anybody:
        assert anybody.get(f"{share['address']}/zarr.json").status_code == 404


def test_an_address_is_not_told_to_others(share):
    with httpx.Client(trust_env=False) as anybody:
        for address in (share["viewer"], f"{share['address']}/zarr.json", f"{share['address']}/nothing"):
            headers = anybody.get(address).headers
            assert (headers["referrer-policy"], headers["x-robots-tag"]) == ("no-referrer", "noindex")


def test_an_address_leads_nowhere_else(share):
    with httpx.Client(trust_env=False) as anybody:
        for path in ("../run1/s2.tif", "%2e%2e/run1/s2.tif", ".voxelworks/half", "", "color"):
            url = httpx.URL(share["address"])
            address = url.copy_with(raw_path=f"{url.path}/{path}".encode())
            assert anybody.get(address).status_code == 404
        assert anybody.post(
            f"{share['address']}/zarr.json", headers={"Origin": share["address"]}
        ).status_code in (403, 405)


def test_an_address_is_made_listed_and_revoked_on_the_page_of_the_dataset(served, cortex):
    page = served.browser.post(
        f"/datasets/{cortex.id}/shares",
        data={"name": "Paper <1>", "lifetime_days": "30", "view": "#!%7B%22position%22:%5B1,2,3%5D%7D"},
    )
    assert page.status_code == 200
    viewer = re.search(r'id="new-share"[^>]*>([^<]*)<', page.text)[1]
    assert re.fullmatch(
        rf"{served.info.url}/shared/vxd_[\w-]{{43}}/view#!%7B%22position%22:%5B1,2,3%5D%7D", viewer
    )
    for program in ("napari", "fiji", "zarr", "tensorstore", "voxelworks"):
        assert f'id="open-{program}"' in page.text
    listed = served.browser.get("/datasets/cortex").text
    assert "Paper &lt;1&gt;" in listed
    assert viewer.partition("/view")[0] not in listed
    share_id = re.search(rf"/datasets/{cortex.id}/shares/(\w+)/revoke", listed)[1]
    answer = served.browser.post(f"/datasets/{cortex.id}/shares/{share_id}/revoke")
    assert answer.headers["location"] == f"/datasets/{cortex.id}?done=revoked"
    assert "Paper &lt;1&gt;" not in served.browser.get("/datasets/cortex").text
    audit = served.browser.get("/organization/audit").text
    assert "share created" in audit
    assert "share revoked" in audit


@pytest.mark.parametrize(("name", "days"), [("", "7"), ("x", "0"), ("x", "366"), ("x", "")])
def test_a_wrong_form_makes_no_address(served, cortex, name, days):
    answer = served.browser.post(f"/datasets/{cortex.id}/shares", data={"name": name, "lifetime_days": days})
    assert answer.status_code == 422
    assert served.browser.get(f"/api/v1/datasets/{cortex.id}/shares").json() == []


# Other programs


def test_our_own_package_reads_under_an_address(share, cortex):
    layer = Dataset.open(share["address"]).layer("color")
    assert np.array_equal(layer.finest.read(BOX)[0], cortex.voxels)


def test_tensorstore_reads_under_an_address_as_the_page_says(share, cortex):
    spec = {"driver": "zarr3", "kvstore": f"{share['address']}/color/1/"}
    found = ts.open(spec).result().read().result()
    assert np.array_equal(found[0, :8, :60, :100], cortex.voxels)


class HttpStore(Store):
    """What zarr needs of an address: fsspec has it with aiohttp, which the tests do without."""

    def __init__(self, address):
        super().__init__(read_only=True)
        self.address = address

    def __eq__(self, other):
        return isinstance(other, HttpStore) and other.address == self.address

    async def get(self, key, prototype=None, byte_range=None):
        asked = {}
        if isinstance(byte_range, RangeByteRequest):
            asked = {"Range": f"bytes={byte_range.start}-{byte_range.end - 1}"}
        elif isinstance(byte_range, SuffixByteRequest):
            asked = {"Range": f"bytes=-{byte_range.suffix}"}
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"{self.address}/{key}", headers=asked)
        if answer.status_code == 404:
            return None
        assert answer.status_code == (206 if asked else 200)
        return (prototype or default_buffer_prototype()).buffer.from_bytes(answer.content)

    async def get_partial_values(self, prototype, key_ranges):
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key):
        return await self.get(key) is not None

    supports_writes = supports_deletes = supports_listing = supports_partial_writes = False

    async def set(self, key, value): ...

    async def delete(self, key): ...

    def list(self): ...

    def list_prefix(self, prefix): ...

    def list_dir(self, prefix): ...


def test_zarr_python_reads_under_an_address(share, cortex):
    array = zarr.open_array(HttpStore(f"{share['address']}/color/1"), mode="r", zarr_format=3)
    assert np.array_equal(array[0, :8, :60, :100], cortex.voxels)


def test_an_address_is_made_from_python(served, cortex):
    made = served.client.share_dataset("cortex", "for a script", lifetime_days=1)
    assert httpx.get(f"{made.address}/zarr.json", trust_env=False).status_code == 200
    assert made.view.expires_ms - made.view.created_ms == 86_400_000


# Results


def test_a_published_result_opens_in_the_viewer(served):
    worker, job_id = served.worker(), served.convert("seen")
    while worker.claim().job_id != job_id:
        worker.fail("user_input", "not-wanted", "left over from another test")
    layer = {
        "name": "color", "category": "color", "elementClass": "uint8", "dataFormat": "zarr3", "numChannels": 1,
        "boundingBox": {"topLeft": [0, 0, 0], "width": 64, "height": 64, "depth": 8},
        "mags": [{"mag": [1, 1, 1], "path": "./color/1"}],
    }  # fmt: skip
    scale = {"factor": [4, 4, 40], "unit": "nanometer"}
    worker.write_dataset("seen", {"id": {"name": "seen", "team": ""}, "scale": scale, "dataLayers": [layer]})
    result = SealedResult(
        kind="dataset", place="data:local/seen", value={"dataset": "seen"}, manifest_sha256="0" * 64, size_bytes=4096
    )  # fmt: skip
    worker.succeed(result)
    assert "View result" not in served.browser.get(f"/jobs/{job_id}").text
    worker.publish()
    link = f'href="/datasets/{served.client.show_dataset("seen").id}/view"'
    page = served.browser.get(f"/jobs/{job_id}").text
    assert "View result" in page
    assert link in page
