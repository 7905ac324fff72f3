"""A person trains a model, segments another stack with it, looks at the result and measures it, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from ball_networks import balls, write_image
from voxelworks.testing.independent_volumes import VolumeLayer, write_annotation

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")

SHAPE = (32, 34, 44)
TRAINED = [(8, 9, 9), (22, 24, 12), (9, 26, 24), (22, 10, 26), (16, 16, 38)]
OTHER = [(9, 10, 12), (22, 22, 30)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, serve_and_work) -> Iterator[object]:
    folder = tmp_path_factory.mktemp("lab")
    for name, centres in (("trained", TRAINED), ("other", OTHER)):
        write_image(folder / "scope" / name, balls(SHAPE, centres))
    with serve_and_work(folder, "trained", "other") as site:
        yield site


def submit(page) -> None:
    page.get_by_role("button", name="Submit").first.click()
    page.wait_for_url("**/jobs/*")
    playwright.expect(page.locator(".status .badge")).to_have_text("Succeeded", timeout=200_000)


def test_a_person_trains_a_model_and_segments_with_it(site, open_page):
    page = open_page("/workflows/train_instance_model/new")
    page.locator("#input-image-0").fill("trained/color")
    page.locator("#input-truth-0").fill("trained/truth")
    page.locator("#input-target").fill("balls")
    page.locator("#input-structure").fill("balls")
    page.locator("#input-steps").fill("15")
    submit(page)
    playwright.expect(page.locator(".result")).to_contain_text("Best step")
    page.locator("#open-result").click()
    page.wait_for_url("**/models/*")
    playwright.expect(page.get_by_role("heading", level=1)).to_contain_text("balls")

    page.locator("summary", has_text="Use it").click()
    page.get_by_role("link", name="Infer instances").click()
    page.wait_for_url("**/workflows/infer_instances/new**")
    playwright.expect(page.locator("#input-model")).to_have_value("balls")
    page.locator("#input-dataset").select_option("other")
    playwright.expect(page.locator("#input-layer")).to_have_value("color")
    page.locator("#input-target").fill("found")
    submit(page)
    playwright.expect(page.locator(".result")).to_contain_text("Largest segment id")
    page.locator("#open-result").click()
    segmentation = page.get_by_role("region", name="segmentation")
    playwright.expect(segmentation.locator("img").first).to_be_visible()

    page.goto(f"{site.info.url}/workflows/evaluate_segmentation/new?dataset=found")
    page.locator("#input-layer").select_option("segmentation")
    page.locator("#input-truth_dataset").select_option("other")
    page.locator("#input-truth").select_option("truth")
    submit(page)
    *_, evaluated = site.client.list_jobs(workflow="evaluate_segmentation").jobs
    assert evaluated.result.value["iou"] > 0.5


def test_a_person_trains_on_what_was_painted_in_an_annotation(site, open_page, tmp_path):
    painted = np.zeros((64, 64, 64), np.uint32)
    painted[:32, :34, :44] = balls(SHAPE, TRAINED)
    layer = VolumeLayer({"1": {(0, 0, 0): painted}}, name="Cells", fallback=None)
    file = write_annotation(tmp_path / "cells.zip", [layer], boxes=[(0, 0, 0, 44, 34, 32)], dataset="trained")
    made = site.client.upload_annotation(file, dataset="trained")
    page = open_page("/workflows/train_instance_model/new")
    page.locator("#input-image-0").fill("trained/color")
    page.locator("#input-annotation-0").select_option(made.id)
    page.locator("#input-target").fill("painted")
    page.locator("#input-structure").fill("balls")
    page.locator("#input-steps").fill("2")
    submit(page)
    page.locator("#open-result").click()
    page.wait_for_url("**/models/*")
    playwright.expect(page.get_by_role("main")).to_contain_text(f"trained/color with annotation {made.id}")
