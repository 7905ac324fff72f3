"""A paid job that fails: what its page, the credits and the mail say, with a real browser, worker and mail server."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path

import numpy as np
import pytest

from voxelworks.cli._embedded import EmbeddedWorker
from voxelworks.client import Client, ServerInfo
from voxelworks.geometry import MAG1, Box, VoxelSize
from voxelworks.settings import Settings
from voxelworks.testing.mail import HOST, MailServer, mail_server, text_of
from voxelworks.testing.server import OWNER, running_server, set_up
from voxelworks.volumes.dataset import Dataset
from voxelworks.workflows import workflows

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")

PROBE = Path(__file__).parents[2] / "integration" / "worker" / "probe"
"""Where the paid workflow of tests is installed: `probe_count`."""
BOX = Box((0, 0, 0), (8, 8, 8))
PRICES = {
    "version": "one for a voxel", "millicredits_per_gigavoxel": {"infer_neurons": 10**9},
    "millicredits_per_annotated_gigavoxel": {},
}  # fmt: skip
REASON = "no voxel of demo/labels has the label 99"
PATIENCE_MS = 60_000
"""A worker starts and computes on the same machine."""


@dataclass
class PayingSite:
    """A server with a worker that works, whose owner has one credit and a dataset `demo`."""

    info: ServerInfo
    client: Client
    inbox: MailServer

    def mail_about(self, job_id: str) -> EmailMessage:
        """Wait for the mail that leads to a job."""
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while True:
            for mail in [*self.inbox.stored]:
                if f"/jobs/{job_id}" in text_of(mail):
                    return mail
            assert time.monotonic() < deadline, "no mail came"
            time.sleep(0.05)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PayingSite]:
    folder = tmp_path_factory.mktemp("paying")
    _write_demo(folder / "scope" / "demo")
    (folder / "prices.json").write_text(json.dumps(PRICES))
    with pytest.MonkeyPatch.context() as patch, mail_server() as inbox:
        patch.syspath_prepend(str(PROBE))
        patch.setenv("PYTHONPATH", str(PROBE))
        from probe_paid import probe_count

        patch.setitem(workflows(), "probe_count", probe_count.__workflow__)
        settings = Settings(
            home=folder / "home", port=0, import_roots={"scope": folder / "scope"}, credits_enabled=True,
            monthly_free_credits=0, price_list=folder / "prices.json", smtp_host=HOST, smtp_port=inbox.port,
            smtp_security="none", isolation="off", mail_from="Voxelworks <vox@example.org>",
        )  # fmt: skip
        settings.datasets_dir.mkdir(parents=True)
        set_up(settings)
        with (
            running_server(settings) as info,
            Client(info.url, info.token) as client,
            _working(settings),
        ):
            client.link_dataset("demo", "root:scope/demo")
            yield PayingSite(info, client, inbox)


def _write_demo(folder: Path) -> None:
    dataset = Dataset.create(folder, VoxelSize(4, 4, 40))
    layer = dataset.add_layer("labels", "segmentation", "uint32", 1, BOX, 7)
    layer.add_mag(MAG1, shard_zyx=(64, 64, 64)).write(BOX, np.full((8, 8, 8), 7, np.uint32))
    dataset.write_metadata()


@contextmanager
def _working(settings: Settings) -> Iterator[None]:
    worker = EmbeddedWorker(settings)
    worker.start()
    try:
        yield
    finally:
        worker.stop()


def test_a_paid_job_that_fails_returns_its_credits_and_says_so_everywhere(site, open_page):
    expect = playwright.expect
    page = open_page("/organization/credits")
    page.request.post(
        f"{site.info.url}/operator/grants", form={"organization_id": "local", "credits": "1"},
        headers={"Origin": site.info.url},
    )  # fmt: skip
    page.goto(f"{site.info.url}/workflows/probe_count/new?dataset=demo&layer=labels")
    page.get_by_label("Label", exact=True).fill("99")
    page.get_by_role("button", name="Submit for 0.512 credits").click()
    expect(page.locator(".status .badge")).to_have_text("Failed", timeout=PATIENCE_MS)
    job_id = page.url.rpartition("/")[2]
    status = page.locator(".status")
    expect(status).to_contain_text("0.512 credits, all returned")
    expect(status).to_contain_text(REASON)
    expect(status).to_contain_text("Input refused")

    mail = site.mail_about(job_id)
    assert mail["To"] == OWNER[0]
    for text in (text_of(mail), re.sub(r"<[^>]*>", " ", text_of(mail, "html"))):
        said = " ".join(text.split())
        assert "your job failed" in said
        assert REASON in said
        assert re.search("Returned:? 0.512 credits", said)
    [link] = re.findall(r"Job: (\S+)", text_of(mail))
    page.goto(link)
    expect(status).to_contain_text("all returned")

    page.goto(f"{site.info.url}/organization/credits")
    expect(page.locator(".big-number")).to_have_text("1")
    rows = page.locator("table.records tbody tr")
    expect(rows.nth(0)).to_contain_text(re.compile(rf"Refund\s+{job_id}.*\+0\.512\s+1\s*$", re.S))
    expect(rows.nth(1)).to_contain_text(re.compile(rf"Job\s+{job_id}.*\D0\.512\s+0\.488\s*$", re.S))
    expect(rows.nth(2)).to_contain_text("Purchase")
    assert [row.change for row in site.client.activity().rows] == [512, -512, 1000]
    page.get_by_role("link", name="Refund", exact=True).click()
    expect(rows).to_have_count(1)
