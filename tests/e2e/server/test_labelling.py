"""A person labels a box of a dataset and puts it back as ground truth, in a real browser with a real worker."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, serve_and_work) -> Iterator[object]:
    folder = tmp_path_factory.mktemp("lab")
    (folder / "scope").mkdir()
    image = np.random.default_rng(0).normal(120, 30, (40, 96, 160)).clip(0, 255).astype(np.uint8)
    tifffile.imwrite(folder / "scope/em.tif", image)
    with serve_and_work(folder) as site:
        layers = [{"source": "root:scope/em.tif"}]
        job = site.client.submit("convert", {"layers": layers, "target": "cortex", "voxel_size": "8,8,32"})
        for _ in site.client.watch(job.id):
            pass
        yield site


def test_a_person_labels_a_box_and_finds_it_as_ground_truth(site, open_page, tmp_path: Path):
    page = open_page("/datasets/cortex", accept_downloads=True)
    look(page, "dataset")
    page.get_by_role("link", name="Label a box of color").click()
    # Filled in with the middle of the layer.
    playwright.expect(page.locator("#input-layer")).to_have_value("color")
    playwright.expect(page.locator("#input-box")).to_have_value("16,0,0,128,96,40")
    page.locator("#input-box").fill("21,33,4,96,40,32")
    page.locator("#input-box").blur()
    look(page, "label")
    page.get_by_role("button", name="Submit").first.click()
    page.wait_for_url("**/jobs/*")
    playwright.expect(page.locator(".status .badge")).to_have_text("Succeeded")
    look(page, "exported")
    with page.expect_download() as downloading:
        page.locator("#download").click()
    assert downloading.value.suggested_filename == "cortex__color__box21-33-4-96-40-32.zip"
    downloading.value.save_as(tmp_path / "box.zip")
    with zipfile.ZipFile(tmp_path / "box.zip") as archive:
        archive.extractall(tmp_path)
    [labels] = tmp_path.glob("*/*__labels.tif")
    ids = tifffile.imread(labels)
    ids[2:20, 5:30, 8:70], ids[20:30, :, 80:] = 1, 2
    tifffile.imwrite(labels, ids, photometric="minisblack")

    page.get_by_role("link", name="Upload the painted labels").click()
    playwright.expect(page.get_by_role("heading", level=1)).to_have_text("Upload files")
    page.locator("#files-input").set_input_files(labels)
    look(page, "upload")
    page.get_by_role("button", name="Upload and go on").click()
    page.wait_for_url("**/workflows/import_training_labels/new?*")
    playwright.expect(page.locator("#input-dataset")).to_have_value("cortex")
    playwright.expect(page.locator("#input-box")).to_have_value("21,33,4,96,40,32")
    assert page.locator("#input-source").input_value().startswith("upload:")
    look(page, "import")
    page.get_by_role("button", name="Submit").first.click()
    page.wait_for_url("**/jobs/*")
    playwright.expect(page.locator(".status .badge")).to_have_text("Succeeded")
    look(page, "imported")
    page.locator("#open-result").click()
    truth = page.get_by_role("region", name="ground_truth")
    playwright.expect(truth.get_by_text("Labelled boxes")).to_be_visible()
    playwright.expect(truth.locator("dd", has_text="21,33,4,96,40,32").first).to_be_visible()
    playwright.expect(truth.locator("img").first).to_be_visible()
    look(page, "truth")
    array = zarr.open_array(site.settings.datasets_dir / "local/cortex/ground_truth/1", mode="r")
    assert (array[0, 4:36, 33:73, 21:117] == ids).all()
    assert np.count_nonzero(array[...]) == np.count_nonzero(ids)

    # A program sends the whole folder, with what was not painted in.
    packed = shutil.make_archive(tmp_path / "sent", "zip", labels.parent.parent, labels.parent.name)
    upload = site.client.upload({"sent.zip": Path(packed)})
    asked = {"dataset": "cortex", "source": f"upload:{upload.id}", "layer_name": "again"}
    *_, ended = site.client.watch(site.client.submit("import_training_labels", asked).id)
    assert ended.result.value["boxes"] == ["21,33,4,96,40,32"]
    again = zarr.open_array(site.settings.datasets_dir / "local/cortex/again/1", mode="r")
    assert (again[...] == array[...]).all()


def look(page, name: str) -> None:
    """Take pictures for a person who looks at the pages, if there is one."""
    if not (shots := os.environ.get("SHOTS")):
        return
    page.screenshot(path=f"{shots}/{name}-light.png", full_page=True)
    page.set_viewport_size({"width": 390, "height": 800})
    page.emulate_media(color_scheme="dark")
    page.screenshot(path=f"{shots}/{name}-dark.png", full_page=True)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1280, "height": 860})
