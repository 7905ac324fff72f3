"""From a dataset to a file on the disk of whoever asked, in a real browser."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from voxelworks.protocol.messages import ArtifactFile, SealedResult
from voxelworks.protocol.places import Places
from voxelworks.testing.server import PretendWorker

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")

LAYER = {
    "name": "color", "category": "color", "elementClass": "uint8", "dataFormat": "zarr3", "numChannels": 1,
    "boundingBox": {"topLeft": [0, 0, 0], "width": 64, "height": 64, "depth": 8},
    "mags": [{"mag": [1, 1, 1], "path": "./color/1"}],
}  # fmt: skip
PROPERTIES = {
    "id": {"name": "slab", "team": ""}, "scale": {"factor": [4, 4, 40], "unit": "nanometer"}, "dataLayers": [LAYER],
}  # fmt: skip
CONTENT = b"PK a file of some length" * 1000


@pytest.fixture(scope="module")
def slab(site):
    job_id = site.convert("slab")
    site.take(job_id)
    site.worker.write_dataset("slab", PROPERTIES)
    value = {"dataset": "slab", "layers": ["color"]}
    site.worker.succeed(SealedResult(kind="dataset", place="data:local/slab", value=value))
    site.worker.publish()


def test_a_person_exports_a_box_and_downloads_the_file(site, slab, open_page):
    page = open_page("/workflows/export_tiff/new?dataset=slab&layer=color", accept_downloads=True)
    page.get_by_label("Box").fill("0,0,0,32,32,4")
    page.get_by_role("button", name="Submit").first.click()
    page.wait_for_url("**/jobs/*")
    job_id = page.url.rpartition("/")[2].partition("?")[0]
    worker = PretendWorker.join(site.info, site.settings, name="exporter", export_tiff=1)
    try:
        claim = worker.claim()
        assert claim.job_id == job_id
        place = claim.places["artifact:"]
        path = Path(Places.of(site.settings).locate(place))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CONTENT)
        file = ArtifactFile(
            name="Würfel.zip", media_type="application/zip", size_bytes=len(CONTENT),
            sha256=hashlib.sha256(CONTENT).hexdigest(),
        )  # fmt: skip
        worker.succeed(
            SealedResult(
                kind="artifact", place=place, value={"file": file.name}, size_bytes=len(CONTENT), file=file
            )
        )
        worker.publish()
    finally:
        worker.client.close()
    # The page is not loaded anew: it shows by itself that the file is there.
    button = page.get_by_role("link", name="Download 23.4 KiB")
    with page.expect_download() as downloading:
        button.click()
    assert downloading.value.suggested_filename == "Würfel.zip"
    assert Path(downloading.value.path()).read_bytes() == CONTENT
    if shots := os.environ.get("SHOTS"):
        page.screenshot(path=f"{shots}/light.png", full_page=True)
        page.set_viewport_size({"width": 390, "height": 800})
        page.emulate_media(color_scheme="dark")
        page.screenshot(path=f"{shots}/dark.png", full_page=True)
        page.set_viewport_size({"width": 1280, "height": 860})
    page.get_by_text("Share it with people without an account").click()
    page.get_by_label("What is it for?").fill("for Ada")
    page.get_by_role("button", name="Make an address").click()
    address = page.locator("#share-address").inner_text()
    answer = page.request.get(address)
    assert answer.body() == CONTENT
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Delete it").click()
    playwright.expect(page.get_by_text("The file was removed")).to_be_visible()
