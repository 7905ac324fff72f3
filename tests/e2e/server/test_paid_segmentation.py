"""A person pays for a segmentation: price, run, result and ledger, in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from ball_networks import balls, write_ball_model, write_image
from voxelworks.cli._embedded import EmbeddedWorker
from voxelworks.client import Client
from voxelworks.settings import Settings
from voxelworks.testing.server import running_server, set_up

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")

PRICES = {
    "version": "a credit for 100,000 voxels", "millicredits_per_gigavoxel": {"infer_instances": 10**7},
    "millicredits_per_annotated_gigavoxel": {},
}  # fmt: skip
PATIENCE_MS = 120_000
"""A worker starts and computes on the same machine."""


class PayingSite:
    """A server with a worker that works, whose owner has a dataset and a model, and no credits yet."""

    def __init__(self, info, client):
        self.info, self.client = info, client

    def grant(self, page, credits):
        answer = page.request.post(
            f"{self.info.url}/operator/grants", form={"organization_id": "local", "credits": str(credits)},
            headers={"Origin": self.info.url},
        )  # fmt: skip
        assert answer.ok


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PayingSite]:
    folder = tmp_path_factory.mktemp("paying")
    write_image(folder / "scope" / "cells", balls((32, 34, 44), [(9, 10, 12), (22, 22, 30)]))
    (folder / "prices.json").write_text(json.dumps(PRICES))
    settings = Settings(
        home=folder / "home", port=0, import_roots={"scope": folder / "scope"}, credits_enabled=True,
        monthly_free_credits=0, price_list=folder / "prices.json", isolation="off",
    )  # fmt: skip
    settings.datasets_dir.mkdir(parents=True)
    write_ball_model(settings.models_dir / "balls", licence="CC-BY-4.0")
    set_up(settings)
    worker = EmbeddedWorker(settings)
    with running_server(settings) as info, Client(info.url, info.token) as client:
        worker.start()
        try:
            client.link_dataset("cells", "root:scope/cells")
            yield PayingSite(info, client)
        finally:
            worker.stop()


def open_form(page, site):
    given = "dataset=cells&layer=color&model=balls&target=found"
    page.goto(f"{site.info.url}/workflows/infer_instances/new?{given}")
    playwright.expect(page.locator("#input-model-note")).to_contain_text("CC-BY-4.0")


def test_a_segmentation_is_priced_run_and_booked(site, open_page):
    expect = playwright.expect
    page = open_page("/organization/credits")
    open_form(page, site)
    # 44 x 34 x 32 voxels.
    expect(page.locator("#quote")).to_contain_text("0.479 credits are missing")

    site.grant(page, 1)
    open_form(page, site)
    page.get_by_role("button", name="Submit for 0.479 credits").click()
    page.wait_for_url("**/jobs/*")
    expect(page.locator(".status .badge")).to_have_text("Succeeded", timeout=PATIENCE_MS)
    job_id = page.url.rpartition("/")[2]
    expect(page.locator(".status")).to_contain_text("0.479 credits")
    expect(page.locator(".result")).to_contain_text(re.compile(r"Largest segment id\s*2\b"))
    page.locator("#open-result").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("found")

    page.goto(f"{site.info.url}/organization/credits")
    expect(page.locator(".big-number")).to_have_text("0.521")
    rows = page.locator("table.records tbody tr")
    expect(rows.nth(0)).to_contain_text(re.compile(rf"Job\s+{job_id}.*\D0\.479\s+0\.521\s*$", re.S))
    assert [row.change for row in site.client.activity().rows] == [-479, 1000]
