"""A real browser in front of a real server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from small_networks import small_facts, small_network
from voxelworks.ai.package import write_package
from voxelworks.client import Client, ServerInfo
from voxelworks.protocol.models import ModelScore
from voxelworks.settings import Settings
from voxelworks.testing.server import PretendWorker, running_server

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = (
    os.environ.get("VOXELWORKS_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)
FLAGS = [
    "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
    "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@dataclass
class Site:
    """A server with one dataset and a pretending worker."""

    info: ServerInfo
    settings: Settings
    client: Client
    worker: PretendWorker

    def convert(self, target: str) -> str:
        params = {"layers": [{"source": "root:scope/run1"}], "target": target, "voxel_size": "4,4,40"}
        return self.client.submit("convert", params).id

    def take(self, job_id: str) -> None:
        # So many jobs fail with it that it is paused now and then.
        with self.operator() as operator:
            operator.post("/api/v1/operator/workers/scope-pc/resume")
        while self.worker.claim().job_id != job_id:
            self.worker.fail("user_input", "not-wanted", "left over from another test")

    def operator(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.info.token}"}
        return httpx.Client(base_url=self.info.url, headers=headers, trust_env=False)


@dataclass
class WorkingSite:
    """A server with a worker that works."""

    info: ServerInfo
    settings: Settings
    client: Client


@pytest.fixture(scope="session")
def serve_and_work() -> Callable[..., AbstractContextManager[WorkingSite]]:
    """A function that serves datasets of a folder, with a worker that works."""
    return _serve_and_work


@contextmanager
def _serve_and_work(folder: Path, *datasets: str) -> Iterator[WorkingSite]:
    """Serve the datasets below `folder / "scope"`, with a worker of its own process."""
    settings = Settings(home=folder / "home", port=0, import_roots={"scope": folder / "scope"})
    settings.datasets_dir.mkdir(parents=True)
    with running_server(settings) as info, Client(info.url, info.token) as client:
        for name in datasets:
            client.link_dataset(name, f"root:scope/{name}")
        command = [sys.executable, "-m", "voxelworks", "worker", "--home", str(settings.home), "--embedded"]
        roots = {"VOXELWORKS_IMPORT_ROOTS": json.dumps({"scope": str(folder / "scope")})}
        with subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ | roots) as worker:
            # Here a worker computes on the same machine.
            playwright.expect.set_options(timeout=60_000)
            try:
                yield WorkingSite(info, settings, client)
            finally:
                playwright.expect.set_options(timeout=5_000)
                worker.terminate()


# Not for longer than a module: while it runs, this thread has an event loop that other tests would meet.
@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "scope" / "run1").mkdir(parents=True)
    (folder / "scope" / "run1" / "s1.tif").write_bytes(b"1234")
    settings = Settings(
        home=folder / "home",
        port=0,
        import_roots={"scope": folder / "scope"},
        silent_after_s=3600,
        credits_enabled=True,
        support_email="help@example.org",
    )
    scores = (ModelScore(data="Cortex", measure="IoU", value=0.9, low=0.8, high=0.95, count=20),)
    facts = small_facts(scores=scores, is_commercial_use_allowed=False)
    write_package(settings.models_dir / "cells", facts, small_network())
    with running_server(settings) as info, Client(info.url, info.token) as client:
        worker = PretendWorker.join(info, settings, name="scope-pc")
        with worker.client:
            site = Site(info, settings, client, worker)
            _publish_demo(site)
            yield site


@pytest.fixture
def open_page(browser, site: Site) -> Iterator[Callable[..., object]]:
    """Open a path in a new window; fails if a page logs an error or loads anything from elsewhere."""
    contexts, complaints = [], []

    def open_(
        path: str, *, scheme: str = "light", width: int = 1280, height: int = 860, **options: object
    ) -> object:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda told: complaints.append(told.text) if is_complaint(told) else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda sent: complaints.append(sent.url) if not sent.url.startswith(site.info.url) else None,
        )
        page.goto(site.info.entry_url)
        page.goto(site.info.url + path)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="session")
def barriers() -> Callable[..., list[tuple[str, str]]]:
    """Let axe look for barriers on a page: gives the rules that are broken, each with the first element that does."""
    file = os.environ.get("VOXELWORKS_TEST_AXE")
    if not file:
        pytest.skip("VOXELWORKS_TEST_AXE (path of axe.min.js, from the npm package axe-core) is not set")
    axe = Path(file).read_text()

    def find(page, options: str = "") -> list[tuple[str, str]]:
        page.add_script_tag(content=axe)
        found = page.evaluate(f"axe.run({options})")
        return [(item["id"], item["nodes"][0]["html"]) for item in found["violations"]]

    return find


def is_complaint(told) -> bool:
    # A refused form, an ended log-in and a cut connection are what some tests are about; the browser notes them. The
    # driver of the graphics card that there is not talks about its own speed.
    expected = (
        # htmx writes of a request that was given up, because its answer would have come too late.
        "htmx:afterRequest",
        "htmx:sendAbort",
        "status of 401",
        "status of 409",
        "status of 422",
        "status of 503",
        "ERR_INTERNET_DISCONNECTED",
        "READ-usage buffer",
        "GPU stall due to ReadPixels",
    )
    is_expected = any(text in told.text for text in expected)
    return told.type in ("error", "warning") and not is_expected


def _publish_demo(site: Site) -> None:
    from voxelworks.protocol.messages import SealedResult

    job_id = site.convert("demo")
    site.take(job_id)
    layer = {
        "name": "color", "category": "color", "elementClass": "uint8", "dataFormat": "zarr3", "numChannels": 1,
        "boundingBox": {"topLeft": [0, 0, 0], "width": 64, "height": 64, "depth": 8},
        "mags": [{"mag": [1, 1, 1], "path": "./color/1"}],
    }  # fmt: skip
    scale = {"factor": [4, 4, 40], "unit": "nanometer"}
    site.worker.write_dataset(
        "demo", {"id": {"name": "demo", "team": ""}, "scale": scale, "dataLayers": [layer]}
    )
    value = {"dataset": "demo", "layers": ["color"]}
    site.worker.succeed(
        SealedResult(
            kind="dataset", place="data:local/demo", value=value, manifest_sha256="0" * 64, size_bytes=4096
        )
    )
    site.worker.publish()
