"""What a person sees of datasets: the demo's cube of fly brain, drawn by the code that workers run."""

from __future__ import annotations

import re
from importlib.resources import as_file, files

import pytest

import voxelworks
from voxelworks.protocol.messages import SealedResult

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")

SHIFTS = """() => new Promise((resolve) => {
  let sum = 0;
  new PerformanceObserver((list) => { for (const entry of list.getEntries()) sum += entry.value; })
    .observe({ type: "layout-shift", buffered: true });
  setTimeout(() => resolve(sum), 300);
})"""
ARE_LOADED = "images => images.every(image => image.complete && image.naturalWidth > 0)"


def expect(locator):
    return playwright.expect(locator)


@pytest.fixture(scope="module")
def fly_job(site):
    """The id of a job that makes `fly`, and is not published yet."""
    job_id = site.convert("fly")
    site.take(job_id)
    with as_file(files("voxelworks") / "sample") as sample:
        voxelworks.run(
            "convert", target=str(site.settings.datasets_dir / "local" / "fly"), voxel_size="10,10,10",
            layers=[
                {"source": str(sample / "raw")},
                {"source": str(sample / "labels"), "layer_name": "segmentation", "category": "segmentation"},
            ],
        )  # fmt: skip
    return job_id


@pytest.fixture
def fly(site, fly_job):
    """The dataset `fly`."""
    if site.client.show(fly_job).job.publication == "none":
        value = {"dataset": "fly", "layers": ["color", "segmentation"]}
        site.worker.succeed(
            SealedResult(kind="dataset", place="data:local/fly", value=value, size_bytes=1_600_000)
        )
        site.worker.publish()
    return fly_job


def loaded(page, selector):
    """Scroll every picture into view; whether all of them could be shown."""
    images = page.locator(selector)
    for number in range(images.count()):
        images.nth(number).scroll_into_view_if_needed()
    page.wait_for_load_state("networkidle")
    return images.count(), images.evaluate_all(ARE_LOADED)


def test_the_pictures_of_a_result_appear_when_it_is_published(site, open_page, fly_job, request):
    page = open_page(f"/jobs/{fly_job}")
    expect(page.locator(".result-pictures")).to_have_count(0)
    request.getfixturevalue("fly")
    expect(page.get_by_role("link", name="Open dataset fly")).to_be_visible()
    # Three slices of the images, and three of the segments that lie on them.
    assert loaded(page, ".result-pictures img") == (9, True)


def test_segments_are_sorted_found_and_opened_in_the_viewer(site, open_page, fly):
    voxelworks.run(
        "compute_segment_statistics",
        layer=str(site.settings.datasets_dir / "local" / "fly" / "segmentation"),
        image_layers="color",
    )
    page = open_page("/datasets/fly/segments/segmentation", width=390, scheme="dark")
    page.get_by_role("link", name="Volume").click()
    expect(page.get_by_role("img", name="Volume of")).to_be_visible()
    rows = page.get_by_role("cell").get_by_role("link")
    largest = rows.first.inner_text()
    page.get_by_role("link", name="Volume").click()
    expect(page).to_have_url(re.compile("order=up"))
    assert rows.first.inner_text() != largest
    page.get_by_label("Segment id").fill(largest)
    page.get_by_label("Segment id").press("Enter")
    expect(page.locator(".is-wanted")).to_contain_text(largest)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator(".is-wanted").get_by_role("link").click()
    expect(page).to_have_url(re.compile(f"datasets/[0-9a-f]+/view.*{largest}"))


@pytest.mark.parametrize("width", [390, 1280])
def test_pictures_come_without_moving_the_page(site, open_page, fly, width):
    page = open_page("/datasets", width=width)
    thumbnail = page.get_by_alt_text("Slice through fly")
    expect(thumbnail).to_be_visible()
    box = thumbnail.bounding_box()
    assert box["width"] == box["height"] >= 64
    assert loaded(page, ".thumb:not(.none)")[1]
    assert page.evaluate(SHIFTS) < 0.05
    page.goto(f"{site.info.url}/datasets/fly")
    assert loaded(page, ".slice img") == (9, True)
    assert page.evaluate(SHIFTS) < 0.05
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("width", [390, 1280])
def test_segments_lie_on_their_images(site, open_page, fly, width):
    page = open_page("/datasets/fly", width=width)
    assert loaded(page, ".slice img")[1]
    frames = page.locator(".slice-frame.on-image")
    assert frames.count() == 3
    for number in range(3):
        below, above = (frames.nth(number).locator("img").nth(item) for item in (0, 1))
        assert below.bounding_box() == above.bounding_box()
        assert below.evaluate("i => [i.naturalWidth, i.naturalHeight]") == above.evaluate(
            "i => [i.naturalWidth, i.naturalHeight]"
        )
    expect(page.get_by_alt_text("Slice xy through layer segmentation of fly at z = 32")).to_be_visible()
    expect(page.get_by_text("1.6 × 1.6 µm").first).to_be_visible()


def test_a_job_is_begun_from_a_dataset_with_the_keyboard(site, open_page, fly):
    page = open_page("/datasets/fly")
    page.locator(".run-menu summary").focus()
    page.keyboard.press("Enter")
    link = page.locator(".run-menu a", has_text="Find largest segment id")
    expect(link).to_be_visible()
    link.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#input-dataset")).to_have_value("fly")
    expect(page.locator("#input-layer")).to_have_value("segmentation")
    page.go_back()
    page.locator(".run-menu summary").click()
    page.keyboard.press("Escape")
    expect(link).to_be_hidden()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_no_barrier_in_pictures_and_menu(site, open_page, barriers, fly, scheme, width):
    page = open_page("/datasets/fly", scheme=scheme, width=width, bypass_csp=True)
    page.locator(".run-menu summary").click()
    for path in (None, "/datasets", f"/jobs/{fly}"):
        if path is not None:
            page.goto(site.info.url + path)
        assert barriers(page) == []
