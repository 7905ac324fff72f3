"""Images to a dataset and to the viewer, in a real browser behind Caddy and nginx, below a path of a host."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from voxelworks.cli._embedded import EmbeddedWorker
from voxelworks.settings import Settings
from voxelworks.testing.certificates import make_certificate
from voxelworks.testing.proxies import EXAMPLES, Example, find_program, running_proxy
from voxelworks.testing.server import OWNER, free_port, running_server, set_up

from .conftest import is_complaint
from .test_viewer import IS_READY

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")

BELOW = [example for example in EXAMPLES if example.path]
PATIENCE_MS = 60_000
"""A worker starts and computes on the same machine."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """One server and one worker: the proxies come one after the other, at the same address."""
    home = tmp_path_factory.mktemp("proxied") / "home"
    [path] = {example.path for example in BELOW}
    settings = Settings(
        home=home, port=free_port(), public_url=f"https://localhost:{free_port()}{path}",
        trusted_proxies=frozenset({"127.0.0.1"}),
    )  # fmt: skip
    settings.datasets_dir.mkdir(parents=True)
    set_up(settings)
    with running_server(settings):
        worker = EmbeddedWorker(settings)
        worker.start()
        yield settings
        worker.stop()


@pytest.fixture(params=BELOW, ids=[example.program for example in BELOW])
def address(request: pytest.FixtureRequest, server: Settings, tmp_path: Path) -> Iterator[str]:
    example: Example = request.param
    if find_program(example.program) is None:
        pytest.skip(f"{example.program} is not installed (Debian: apt-get install {example.program})")
    base = str(server.public_url)
    port = int(base.removesuffix(example.path).rpartition(":")[2])
    with running_proxy(example, tmp_path, make_certificate(tmp_path), port=port, server_port=server.port):
        yield base


@pytest.fixture
def page(browser, address: str) -> Iterator[object]:
    """A window of somebody new; fails if a page logs an error, or asks for anything beside the path."""
    context = browser.new_context(ignore_https_errors=True, viewport={"width": 1000, "height": 700})
    complaints: list[str] = []
    page = context.new_page()
    page.on("console", lambda told: complaints.append(told.text) if is_complaint(told) else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda sent: (
            complaints.append(sent.url) if not sent.url.startswith((f"{address}/", "blob:")) else None
        ),
    )
    page.on(
        "response",
        lambda got: complaints.append(f"{got.status} {got.url}") if got.status >= 400 else None,
    )
    yield page
    context.close()
    assert complaints == [], "\n".join(complaints)


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    folder = tmp_path / "stack"
    folder.mkdir()
    dice = np.random.default_rng(1)
    for z in range(4):
        tifffile.imwrite(folder / f"s{z}.tif", dice.integers(0, 255, (48, 64), np.uint8))
    return folder


def test_images_are_uploaded_converted_and_seen(page, address, stack, request):
    expect = playwright.expect
    name = f"behind-{request.node.callspec.id}"
    page.goto(f"{address}/login")
    page.get_by_label("E-mail").fill(OWNER[0])
    page.get_by_label("Password").fill(OWNER[1])
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()

    page.get_by_role("link", name="Datasets").first.click()
    page.get_by_role("link", name="Upload images").first.click()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a folder").click()
    chooser.value.set_files(stack)
    expect(page.locator("#found")).to_contain_text("4 of 64 × 48 uint8")
    page.get_by_label("Name").last.fill(name)
    page.get_by_label("Voxel size in nm").fill("4,4,40")
    page.get_by_role("button", name="Upload and convert").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Convert {name}")
    # The stream of the page tells it, through the proxy.
    expect(page.locator(".status .badge")).to_have_text("Succeeded", timeout=PATIENCE_MS)

    page.goto(f"{address}/datasets/{name}")
    # Few pixels: they are drawn without a graphics card.
    page.set_viewport_size({"width": 480, "height": 360})
    page.get_by_role("link", name="View", exact=True).click()
    page.wait_for_function(IS_READY, timeout=PATIENCE_MS)
    state = json.loads(page.evaluate("() => JSON.stringify(viewer.state.toJSON())"))
    assert [layer["name"] for layer in state["layers"]] == ["color"]
    page.wait_for_timeout(500)
    picture = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"), np.float64)
    height, width = picture.shape
    assert picture[height // 4 - 10 : height // 4 + 10, width // 4 - 10 : width // 4 + 10].std() > 10
