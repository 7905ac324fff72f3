"""A person imports a model, looks at its card, and is warned where it does not fit, in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from model_work import installed
from small_networks import zoo_package
from voxelworks.geometry import MAG1, Box, VoxelSize
from voxelworks.volumes.dataset import Dataset

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")

BOX = Box((0, 0, 0), (32, 32, 8))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, serve_and_work) -> Iterator[object]:
    folder = tmp_path_factory.mktemp("lab")
    for name, voxel_size in (("fits", VoxelSize(8, 8, 30)), ("tiny", VoxelSize(1, 1, 1))):
        dataset = Dataset.create(folder / "scope" / name, voxel_size)
        layer = dataset.add_layer("em", "color", "uint8", 1, BOX)
        layer.add_mag(MAG1, shard_zyx=(64, 64, 64)).write(BOX, np.zeros(BOX.shape_zyx, np.uint8))
        dataset.write_metadata()
    with serve_and_work(folder, "fits", "tiny") as site, installed():
        yield site


def test_a_person_imports_a_model_and_chooses_it(site, open_page, tmp_path: Path):
    archive = shutil.make_archive(str(tmp_path / "mitos"), "zip", zoo_package(tmp_path / "zoo"))
    page = open_page("/models")
    shipped = page.get_by_role("row").filter(has=page.get_by_role("link", name="nuclei"))
    playwright.expect(shipped).to_contain_text("installed")
    playwright.expect(shipped).to_contain_text("BSD-3-Clause")
    page.locator("#file").set_input_files(archive)
    page.get_by_role("button", name="Upload").click()
    page.wait_for_url("**/workflows/import_model/new**")
    playwright.expect(page.locator("#input-target")).to_have_value("mitos")
    page.locator("#input-task").select_option("instances")
    page.locator("#input-structure").fill("mitochondria")
    page.locator("#more-card > summary").click()
    page.locator("#input-distance_scale_nm").fill("100")
    page.locator("#input-outputs").fill("foreground,distance")
    page.get_by_role("button", name="Submit").first.click()
    page.wait_for_url("**/jobs/*")
    page.locator("#open-result").click(timeout=120_000)
    page.wait_for_url("**/models/*")
    playwright.expect(page.get_by_role("region", name="Licence")).to_contain_text("MIT")
    playwright.expect(page.get_by_role("region", name="What it is for")).to_contain_text("8 × 8 × 30 nm")

    page.locator("summary", has_text="Use it").click()
    page.get_by_role("link", name="Segment with model").click()
    page.wait_for_url("**/workflows/segment_with_model/new**")
    playwright.expect(page.locator("#input-model")).to_have_value("mitos")
    note = page.locator("#input-model-note")
    playwright.expect(note).to_contain_text("MIT")
    for name, is_warned in (("tiny", True), ("fits", False)):
        page.locator("#input-dataset").select_option(name)
        playwright.expect(page.locator("#input-layer")).to_have_value("em")
        warning = note.get_by_text("the model is for 4,4,15 to 16,16,60 nm")
        playwright.expect(warning).to_be_visible() if is_warned else playwright.expect(warning).to_be_hidden()
    page.locator("#input-model").select_option("")
    playwright.expect(note).not_to_contain_text("MIT")
