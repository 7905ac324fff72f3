"""A person compares a segmentation with the ground truth, in a real browser with a real worker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from voxelworks.geometry import MAG1, Box, VoxelSize
from voxelworks.testing.independent_volumes import Tree, skeleton_text
from voxelworks.volumes.dataset import Dataset

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")

BOX = Box((0, 0, 0), (64, 32, 16))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, serve_and_work) -> Iterator[object]:
    folder = tmp_path_factory.mktemp("lab")
    truth = np.ones((1, *BOX.shape_zyx), np.uint32)
    truth[..., 32:] = 2
    split = truth.copy()
    split[:, :, :16, 32:] = 3
    for name, layer_name, labels in (("model", "cells", split), ("painted", "truth", truth)):
        dataset = Dataset.create(folder / "scope" / name, VoxelSize(8, 8, 32))
        layer = dataset.add_layer(layer_name, "segmentation", "uint32", 1, BOX, 3)
        layer.add_mag(MAG1, shard_zyx=(64, 64, 64)).write(BOX, labels)
        dataset.write_metadata()
    with serve_and_work(folder, "model", "painted") as site:
        yield site


def test_a_person_compares_a_segmentation_with_the_truth_and_reads_the_report(
    site, open_page, browser, tmp_path: Path
):
    page = open_page("/workflows/evaluate_segmentation/new?dataset=model", accept_downloads=True)
    page.locator("#input-truth_dataset").select_option("painted")
    playwright.expect(page.locator("#input-truth")).to_have_value("truth")  # it has no other
    page.get_by_role("button", name="Submit").first.click()
    page.wait_for_url("**/jobs/*")
    playwright.expect(page.locator(".status .badge")).to_have_text("Succeeded")
    result = page.get_by_role("region", name="Result")
    # Half of the voxels are cut in halves: half a bit.
    playwright.expect(
        result.locator("div", has=page.get_by_text("VOI split", exact=True)).first
    ).to_contain_text("0.5")
    playwright.expect(result.get_by_text("Adapted Rand error", exact=True).first).to_be_visible()
    inside = result.locator("details", has_text="Intervals").get_by_text("VOI split", exact=True)
    playwright.expect(inside).to_be_hidden()
    result.get_by_text("Intervals").click()
    playwright.expect(inside).to_be_visible()
    with page.expect_download() as downloading:
        page.locator("#download").click()
    assert downloading.value.suggested_filename == "model__cells__against__truth.html"
    downloading.value.save_as(tmp_path / "report.html")

    report = browser.new_page()
    report.goto((tmp_path / "report.html").as_uri())
    playwright.expect(report.get_by_role("heading", level=1)).to_have_text(
        "model/cells compared with painted/truth"
    )
    worst = report.get_by_role("row").filter(has_text="0.5000").filter(has_text="3 (8")
    playwright.expect(worst).to_contain_text("2 (8")
    report.close()

    page.goto(f"{site.info.url}/jobs")
    row = page.get_by_role("row").filter(has_text="Evaluate segmentation")
    playwright.expect(row).to_contain_text("VOI split 0.5")
    playwright.expect(row).not_to_contain_text("Dice")


def test_a_person_compares_a_segmentation_with_trees_that_were_traced_in_another_dataset(
    site, open_page, browser, tmp_path: Path
):
    # Three nodes in the left cell; three in the right one, of which the last lies in the piece that was split off.
    trees = [
        Tree([(4, 8, 4), (4, 16, 4), (4, 24, 4)], name="left"),
        Tree([(40, 8, 4), (40, 12, 4), (40, 24, 4)], name="right"),
    ]
    file = tmp_path / "traced.nml"
    file.write_text(skeleton_text(trees, dataset="painted", scale=(8, 8, 32)))
    annotation = site.client.upload_annotation(file, dataset="painted")

    page = open_page(f"/annotations/{annotation.id}", accept_downloads=True)
    page.get_by_text("Run job").click()
    page.get_by_role("link", name="Evaluate segmentation").click()
    page.locator("#input-dataset").select_option("model")
    playwright.expect(page.locator("#input-layer")).to_have_value("cells")
    page.locator("#input-truth_annotation").select_option(label="traced.nml – 2 trees, of painted")
    page.get_by_text("More options").click()
    page.get_by_label("Other dataset").check()
    page.get_by_label("Max edge length nm").fill("32")
    shots = os.environ.get("SHOTS")
    if shots:
        page.screenshot(path=f"{shots}/skeleton_form.png", full_page=True)
    page.get_by_role("button", name="Submit").first.click()
    page.wait_for_url("**/jobs/*")
    playwright.expect(page.locator(".status .badge")).to_have_text("Succeeded")
    result = page.get_by_role("region", name="Result")
    for name, value in (("Splits", "1"), ("Mergers", "0"), ("Path length nm", "256")):
        playwright.expect(
            result.locator("div", has=page.get_by_text(name, exact=True)).first
        ).to_contain_text(value)
    playwright.expect(result.get_by_text("Dice")).to_have_count(0)
    if shots:
        page.set_viewport_size({"width": 390, "height": 800})
        page.emulate_media(color_scheme="dark")
        page.screenshot(path=f"{shots}/skeleton_job_dark.png", full_page=True)
        page.set_viewport_size({"width": 1280, "height": 860})
    with page.expect_download() as downloading:
        page.locator("#download").click()
    assert downloading.value.suggested_filename == "model__cells__against__annotation.html"
    downloading.value.save_as(tmp_path / "report.html")

    report = browser.new_page()
    report.goto((tmp_path / "report.html").as_uri())
    row = report.get_by_role("row").filter(has_text="right")
    playwright.expect(row).to_contain_text("cut: 40,14,4")
    report.close()
