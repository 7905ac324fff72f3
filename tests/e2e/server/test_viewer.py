"""The viewer shows what is stored, where it is stored; in a real browser, under the policy of the page."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from voxelworks.geometry import MAG1, Box, Mag, VoxelSize
from voxelworks.ops.downsampling import downsample
from voxelworks.testing.rounds import rounds
from voxelworks.volumes.dataset import Dataset

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")

EXTENT = (64, 48, 16)
SIZE = VoxelSize(8, 8, 32)
PIXELS = 16
"""Width of a voxel on the screen."""
IS_READY = (
    "() => !!window.viewer && viewer.isReady()"
    " && viewer.layerManager.managedLayers.every(layer => !layer.visible || layer.isReady())"
)


def code(x, y, z):
    """Give each voxel a value that tells it from its neighbours on every axis."""
    return ((x * 3 + y * 37 + z * 101) % 251).astype("uint8")


@pytest.fixture(scope="module")
def volumes(site):
    """Link two datasets with known voxels: one with mag 1, and one that begins with mag 2-2-1."""
    z, y, x = np.meshgrid(*map(np.arange, EXTENT[::-1]), indexing="ij")
    voxels, box = code(x, y, z), Box((0, 0, 0), EXTENT)
    segments = (1 + x // 8 + 8 * (y // 8) + 64 * (z // 8)).astype("uint32")
    coarse_voxels = code(*np.meshgrid(np.arange(32), np.arange(24), np.arange(16), indexing="ij")).transpose(
        2, 1, 0
    )
    roots = Path(site.settings.import_roots["scope"].path)

    whole = Dataset.create(roots / "whole", SIZE)
    image = whole.add_layer("image", "color", "uint8", 1, box)
    image.add_mag(MAG1, shard_zyx=(64, 64, 64)).write(box, voxels)
    labels = whole.add_layer("cells", "segmentation", "uint32", 1, box, int(segments.max()))
    labels.add_mag(MAG1, shard_zyx=(64, 64, 64)).write(box, segments)
    half = Mag(2, 2, 1)
    labels.add_mag(half, shard_zyx=(64, 64, 64)).write(
        Box((0, 0, 0), (32, 24, 16)), downsample(segments[None], (1, 2, 2), "mode")
    )
    whole.write_metadata()

    coarse = Dataset.create(roots / "coarse", SIZE)
    image = coarse.add_layer("image", "color", "uint8", 1, box)
    image.add_mag(half, shard_zyx=(64, 64, 64)).write(Box((0, 0, 0), (32, 24, 16)), coarse_voxels)
    coarse.write_metadata()
    with site.operator() as operator:
        made = {
            name: operator.post(
                "/api/v1/datasets", json={"name": name, "place": f"root:scope/{name}"}
            ).json()["id"]
            for name in ("whole", "coarse")
        }
    return made


def state_of(page):
    return json.loads(page.evaluate("() => JSON.stringify(viewer.state.toJSON())"))


def look(page, layout, position, scale=1 / PIXELS):
    """Let an open viewer look elsewhere: one section alone, without lines over it."""
    state = state_of(page) | {
        "layout": layout, "position": position, "crossSectionScale": scale, "showAxisLines": False,
        "showDefaultAnnotations": False, "showScaleBar": False,
    }  # fmt: skip
    # The page stays; only its address changes.
    page.goto(page.url.partition("#")[0] + "#!" + quote(json.dumps(state)))
    return settle(page)


def settle(page, timeout_s=90):
    """Wait until the data is there and the picture stays as it is."""
    deadline, before, same = time.monotonic() + timeout_s, b"", 0
    while same < 2:
        assert time.monotonic() < deadline, "the picture does not come to rest"
        time.sleep(0.3)
        now = page.screenshot() if page.evaluate(IS_READY) else b""
        same = same + 1 if now and now == before else 0
        before = now
    return np.asarray(Image.open(io.BytesIO(before)).convert("RGB"))


def under(page, x, y):
    """Say which place of the data the viewer takes a pixel for (x, y, z)."""
    page.mouse.move(x - 1, y)
    page.mouse.move(x, y)
    for _ in range(50):
        found = page.evaluate(
            "() => { viewer.mouseState.updateUnconditionally();"
            " return viewer.mouseState.active ? Array.from(viewer.mouseState.position) : null; }"
        )
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("no data is under the mouse")


@pytest.mark.parametrize(
    ("name", "factor"), rounds([("coarse", (2, 2, 1))], [("coarse", (2, 2, 1)), ("whole", (1, 1, 1))])
)
def test_each_voxel_is_shown_where_it_is_counted(site, volumes, open_page, name, factor):
    """The grey of a pixel names its voxel; the place that the viewer states for it must be that voxel.

    Half a voxel of shift on any axis, a swapped axis, or a wrong size of voxels would show another grey.
    """
    page = open_page(f"/datasets/{name}/view?layer=image")
    settle(page)
    for layout in ("xy", "xz", "yz"):
        picture = look(page, layout, [30.5, 20.5, 8.5])
        height, width, _ = picture.shape
        seen = set()
        for x in range(width // 2 - 131, width // 2 + 132, 53):
            for y in range(height // 2 - 131, height // 2 + 132, 53):
                place = under(page, x, y)
                parts = [value / step for value, step in zip(place, factor, strict=True)]
                # On the border of two voxels a rounding may decide.
                if any(abs(part - round(part)) < 0.1 for part in parts):
                    continue
                voxel = tuple(map(int, parts))
                grey = int(code(*map(np.uint64, voxel)))
                assert (layout, voxel, picture[y, x].tolist()) == (layout, voxel, [grey] * 3)
                seen.add(voxel)
        assert len(seen) > 10


def test_the_middle_of_the_picture_is_the_position_of_the_address(site, volumes, open_page):
    page = open_page("/datasets/whole/view?box=20,10,4,16,8,8")
    settle(page)
    state = state_of(page)
    assert state["position"] == [28, 14, 8]
    assert [layer["name"] for layer in state["layers"]] == ["image", "cells", "box"]


def test_segments_are_shown_and_chosen(site, volumes, open_page):
    page = open_page("/datasets/whole/view?layer=cells")
    settle(page)
    look(page, "xy", [36, 20, 4], scale=0.1)
    box = page.locator("#neuroglancer-container").bounding_box()
    place = under(page, box["x"] + box["width"] / 2 - 30, box["y"] + box["height"] / 2 + 30)
    shown = page.evaluate(
        "() => viewer.layerManager.getLayerByName('cells').layer.getValueAt("
        "viewer.mouseState.position, viewer.mouseState)?.toString()"
    )
    x, y, z = (int(value // 8) for value in place)
    assert shown == str(1 + x + 8 * y + 64 * z)


def test_a_view_is_shared_and_opened_without_an_account(site, volumes, open_page, browser):
    page = open_page("/datasets/whole/view")
    settle(page)
    look(page, "4panel", [11.5, 12.5, 3.5])
    page.get_by_role("button", name="Share").click()
    page.get_by_label("What is it for?").fill("For a friend")
    page.get_by_role("button", name="Make the address").click()
    address = page.locator("#new-share").text_content()
    complaints = []
    context = browser.new_context()
    friend = context.new_page()
    friend.on(
        "console", lambda told: complaints.append(told.text) if told.type in ("error", "warning") else None
    )
    friend.on("pageerror", lambda error: complaints.append(str(error)))
    asked = []
    friend.on("request", lambda sent: asked.append(sent.url))
    friend.goto(address)
    picture = settle(friend)
    assert state_of(friend)["position"] == [11.5, 12.5, 3.5]
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    assert friend.get_by_role("heading", level=1).text_content() == "whole"
    assert [url for url in asked if "/api/" in url] == []
    assert complaints == []
    context.close()
    page.get_by_role("button", name="Revoke", exact=True).click()
    page.get_by_role("button", name="Revoke it").click()
    playwright.expect(page.get_by_text("The address opens nothing any more.")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_viewer_fits_its_window_and_its_bar_has_no_barrier(
    site, volumes, open_page, barriers, scheme, width
):
    page = open_page("/datasets/whole/view", scheme=scheme, width=width, bypass_csp=True)
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth <= 0")
    page.get_by_role("button", name="Share").click()
    assert barriers(page, "{exclude: ['#neuroglancer-container']}") == []
