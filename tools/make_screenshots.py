"""Take a picture of each page, with the jobs of the demo, into docs/images/pages/, and write docs/pages.md around them.

    python tools/make_screenshots.py            all pages
    python tools/make_screenshots.py jobs job   some

Needs Chromium (VOXELWORKS_TEST_CHROMIUM names another one) and what `tools/environment.sh test` installs. The data is
real: `voxelworks demo` makes a dataset of the sample, two jobs measure and export it, and one is given images that do
not fit.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal

import numpy as np
import tifffile
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from voxelworks.cli._embedded import EmbeddedWorker
from voxelworks.client import Client, ServerInfo, is_settled
from voxelworks.protocol.messages import Json
from voxelworks.settings import Settings
from voxelworks.testing.server import running_server

DOCS = Path(__file__).resolve().parent.parent / "docs"
PICTURES = DOCS / "images" / "pages"
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
QUALITY = 80
SETTLED_MS = 800
VIEWER_MS = 12_000
"""Until the viewer has drawn, without a graphics card."""


@dataclass(frozen=True)
class Page:
    """A page, and what is said of it."""

    name: str
    path: str
    about: str
    scheme: Literal["light", "dark"] = "light"
    width: int = 1280
    height: int = 800
    is_open: bool = False
    """Shown to people who are not logged in."""
    wait_ms: int = SETTLED_MS


@dataclass(frozen=True)
class Site:
    """A server with real jobs."""

    info: ServerInfo
    made: str
    """Id of the job that made the dataset."""
    failed: str
    exported: str
    annotation: str


def pages(site: Site) -> list[Page]:
    job, dataset = f"/jobs/{site.made}", "/datasets/fly-brain"
    return [
        Page("jobs", "/jobs", "All jobs, with filters, search, and actions for several at once"),
        Page(
            "job",
            job,
            "A job: progress, result, timeline, log, parameters, and how to submit it in other ways",
        ),
        Page("export", f"/jobs/{site.exported}", "A file that a job left, to download and to share"),
        Page("failed-job", f"/jobs/{site.failed}", "A failure, what it means, and what to do next"),
        Page("log", f"{job}/log", "The log alone, line by line"),
        Page("workflows", "/workflows", "What can be run"),
        Page(
            "new-job",
            "/workflows/export_tiff/new?dataset=fly-brain&layer=color&box=40,60,10,120,80,20",
            "The dialog of a new job, with a box drawn on slices of the layer",
        ),
        Page("datasets", "/datasets", "All datasets"),
        Page("dataset", dataset, "A dataset: pictures, layers, jobs, and how to open it elsewhere"),
        Page("segments", f"{dataset}/segments/segmentation", "Segments of a layer, measured"),
        Page("viewer", f"{dataset}/view", "The viewer", wait_ms=VIEWER_MS),
        Page("upload", "/uploads/new", "Upload of images"),
        Page("annotations", "/annotations", "Annotations"),
        Page("annotation", f"/annotations/{site.annotation}", "What an annotation holds"),
        Page("trash", "/trash", "Storage, trash, and what will be removed"),
        Page("organization", "/organization", "The organization and its members"),
        Page("credits", "/organization/credits", "Credits and their activity"),
        Page("webhooks", "/organization/webhooks", "Webhooks"),
        Page("audit", "/organization/audit", "The audit log"),
        Page("account", "/account", "Notifications, tokens and log-ins"),
        Page("operator", "/operator", "The state of the server"),
        Page("failures", "/operator/failures", "Failures of all organizations, those of a kind together"),
        Page("workers", "/operator/workers", "Workers and their keys"),
        Page("organizations", "/operator/organizations", "Organizations and accounts"),
        Page("mails", "/operator/mails", "Mails"),
        Page("orders", "/operator/orders", "Orders of credits"),
        Page("help", "/help", "Help"),
        Page("login", "/login", "The way in", is_open=True),
        Page("jobs-phone", "/jobs", "The jobs on a phone, dark", "dark", 390, 844),
        Page("job-phone", job, "A job on a phone, dark", "dark", 390, 844),
        Page("dataset-phone", dataset, "A dataset on a phone, dark", "dark", 390, 844),
    ]


def main() -> int:
    chromium = os.environ.get("VOXELWORKS_TEST_CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        print("Chromium is not installed (Debian: apt-get install chromium)", file=sys.stderr)
        return 1
    with (
        tempfile.TemporaryDirectory(prefix="voxelworks-pages-") as folder,
        as_file(files("voxelworks")) as package,
    ):
        home = Path(folder)
        settings = Settings(
            home=home / "home", port=0, poll_s=0.5, credits_enabled=True, monthly_free_credits=500,
            import_roots={"demo": package / "sample", "scope": misfits(home / "scope")},
            support_email="help@example.org",
        )  # fmt: skip
        settings.datasets_dir.mkdir(parents=True)
        with running_server(settings) as info, sync_playwright() as driver:
            site = work(info, settings.model_copy(update={"port": int(info.url.rpartition(":")[2])}))
            browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
            known = pages(site)
            chosen = [page for page in known if page.name in sys.argv[1:]] if sys.argv[1:] else known
            PICTURES.mkdir(parents=True, exist_ok=True)
            for page in chosen:
                save(take(browser, site, page), PICTURES / f"{page.name}.webp")
            browser.close()
    (DOCS / "pages.md").write_text(gallery(known), encoding="utf-8")
    return 0


def misfits(folder: Path) -> Path:
    """Make a stack whose sections differ in size."""
    (folder / "stack").mkdir(parents=True)
    for number, width in enumerate((64, 64, 48)):
        tifffile.imwrite(folder / "stack" / f"section{number:03}.tif", np.zeros((64, width), np.uint8))
    return folder


def skeletons(folder: Path) -> Path:
    """Write an annotation with two short trees."""
    path = folder / "axons.nml"
    path.write_text(
        """<things>
  <parameters><experiment name="fly-brain"/></parameters>
  <thing id="1" name="axon" color.r="0.9" color.g="0.3" color.b="0.2">
    <nodes><node id="1" x="40" y="60" z="5"/><node id="2" x="55" y="64" z="9"/>
      <node id="3" x="71" y="70" z="14"/></nodes>
    <edges><edge source="1" target="2"/><edge source="2" target="3"/></edges>
  </thing>
  <thing id="2" name="dendrite" color.r="0.2" color.g="0.5" color.b="0.9">
    <nodes><node id="4" x="120" y="90" z="6"/><node id="5" x="132" y="99" z="8"/></nodes>
    <edges><edge source="4" target="5"/></edges>
  </thing>
</things>
"""
    )
    return path


def work(info: ServerInfo, settings: Settings) -> Site:
    """Run the jobs of the demo, two more and one that fails, with a real worker."""
    from voxelworks.cli.demo import steps

    worker = EmbeddedWorker(settings, log=sys.stderr.buffer)
    worker.start()
    try:
        with Client(info.url, info.token) as client:
            done = [finished(client, step.workflow, step.params) for step in steps("fly-brain")]
            params: Json = {
                "layers": [{"source": "root:scope/stack"}],
                "target": "torn",
                "voxel_size": "4,4,40",
            }
            failed = finished(client, "convert", params)
            labels = {"layer": {"dataset": "fly-brain", "layer": "segmentation"}}
            finished(client, "compute_segment_statistics", labels | {"image_layers": "color"})
            exported = finished(client, "export_tiff", {"layer": {"dataset": "fly-brain", "layer": "color"}})
            annotation = client.upload_annotation(skeletons(settings.home), dataset="fly-brain")
    finally:
        worker.stop()
    return Site(info, done[0], failed, exported, annotation.id)


def finished(client: Client, workflow: str, params: Json) -> str:
    job = client.submit(workflow, params)
    assert is_settled(list(client.watch(job.id))[-1])
    return job.id


def take(browser: Browser, site: Site, page: Page) -> bytes:
    context = browser.new_context(
        viewport={"width": page.width, "height": page.height}, color_scheme=page.scheme
    )
    shown = context.new_page()
    if not page.is_open:
        shown.goto(site.info.entry_url)
    shown.goto(site.info.url + page.path)
    shown.wait_for_timeout(page.wait_ms)
    picture = shown.screenshot()
    context.close()
    return picture


def save(picture: bytes, path: Path) -> None:
    with Image.open(io.BytesIO(picture)) as image:
        image.save(path, "WEBP", quality=QUALITY, method=6)


def gallery(known: list[Page]) -> str:
    parts = [
        "# The pages of the web app",
        "Made by `tools/make_screenshots.py`, with the jobs of `voxelworks demo`.",
        *(f"## {page.about}\n\n![{page.about}](images/pages/{page.name}.webp)" for page in known),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
