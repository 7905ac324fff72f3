"""An annotation from the disk of a person becomes a dataset that is looked at, in a real browser with a real worker."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from voxelworks.geometry import MAG1, Box, VoxelSize
from voxelworks.protocol.views import AnnotationSummary
from voxelworks.testing.independent_volumes import VolumeLayer, write_annotation
from voxelworks.volumes.annotations import Annotation, Limits
from voxelworks.volumes.dataset import Dataset

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")

BOX = Box((0, 0, 0), (32, 24, 16))
BELOW, EDITED = 7, 4711
IS_READY = "() => !!window.viewer && viewer.isReady()"
VALUE = """() => {
    const layer = viewer.layerManager.getLayerByName('cells_materialized').layer;
    const value = layer.getValueAt(viewer.navigationState.position.value, viewer.mouseState);
    return value === undefined || value === null ? '' : value.toString();
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, serve_and_work) -> Iterator[object]:
    folder = tmp_path_factory.mktemp("lab")
    dataset = Dataset.create(folder / "scope" / "neurons", VoxelSize(8, 8, 32))
    layer = dataset.add_layer("cells", "segmentation", "uint32", 1, BOX, BELOW)
    labels = np.full((1, *BOX.shape_zyx), BELOW, np.uint32)
    layer.add_mag(MAG1, shard_zyx=(64, 64, 64)).write(BOX, labels)
    dataset.write_metadata()
    with serve_and_work(folder, "neurons") as site:
        yield site


def test_a_person_uploads_an_annotation_and_sees_what_became_of_it(site, open_page, tmp_path: Path):
    voxels = np.full((8, 8, 8), EDITED, np.uint32)
    layer = VolumeLayer({"1": {(1, 1, 1): voxels}}, fallback="cells")
    file = write_annotation(tmp_path / "splits.zip", [layer], dataset="neurons")
    page = open_page("/annotations")
    annotation = upload(site, page, file)

    page.goto(site.info.url + "/workflows/materialize_volume_annotation/new")
    page.locator("#input-dataset").select_option("neurons")
    page.locator("#input-annotation").select_option(annotation.id)
    page.locator("#input-target").fill("neurons_split")
    page.get_by_role("button", name="Submit").first.click()
    page.wait_for_url("**/jobs/*")
    playwright.expect(page.locator(".status .badge")).to_have_text("Succeeded")

    for box, value in (("8,8,8,8,8,8", EDITED), ("16,8,8,8,8,8", BELOW)):
        page.goto(f"{site.info.url}/datasets/neurons_split/view?layer=cells_materialized&box={box}")
        assert value_in_the_middle(page) == str(value)


def test_a_person_downloads_an_annotation_with_coarser_magnifications(site, open_page, tmp_path: Path):
    voxels = np.full((8, 8, 8), EDITED, np.uint32)
    layer = VolumeLayer({"1": {(1, 1, 1): voxels}}, name="Strokes", fallback="cells")
    page = open_page("/annotations", accept_downloads=True)
    annotation = upload(site, page, write_annotation(tmp_path / "fine.zip", [layer], dataset="neurons"))

    page.goto(site.info.url + "/workflows/downsample_volume_annotation/new")
    page.locator("#input-dataset").select_option("neurons")
    page.locator("#input-annotation").select_option(annotation.id)
    page.locator("#input-coarsest_mag").fill("2-2-1")
    if shots := os.environ.get("SHOTS"):
        page.screenshot(path=f"{shots}/downsample_form.png", full_page=True)
    page.get_by_role("button", name="Submit").first.click()
    page.wait_for_url("**/jobs/*")
    playwright.expect(page.locator(".status .badge")).to_have_text("Succeeded")
    if shots:
        page.screenshot(path=f"{shots}/downsample_job.png", full_page=True)
        page.set_viewport_size({"width": 390, "height": 800})
        page.emulate_media(color_scheme="dark")
        page.screenshot(path=f"{shots}/downsample_job_dark.png", full_page=True)
        page.set_viewport_size({"width": 1280, "height": 860})
    with page.expect_download() as downloading:
        page.locator("#download").click()
    downloading.value.save_as(tmp_path / "coarse.zip")

    file = Annotation.open(tmp_path / "coarse.zip", Limits(2**20, 2**24))
    volume = file.open_volume(file.volume_layer("Strokes"), tmp_path / "volume")
    assert [str(stored.mag) for stored in volume.mags] == ["1", "2-2-1"]
    coarse = volume.unpack(volume.mags[-1], tmp_path / "coarse")
    expected = np.full((8, 8, 8), BELOW, np.uint32)
    expected[:, 4:, 4:] = EDITED
    assert (coarse.array.read(Box((0, 0, 8), (8, 8, 8)))[0] == expected).all()


def upload(site, page, file: Path) -> AnnotationSummary:
    """Upload an annotation by the page, and give what the server knows of it."""
    known = {annotation.id for annotation in site.client.list_annotations()}
    page.get_by_label("NML or zip").set_input_files(file)
    page.get_by_role("button", name="Upload", exact=True).click()
    playwright.expect(page.get_by_text("The annotation is in the list.")).to_be_visible()
    [annotation] = [found for found in site.client.list_annotations() if found.id not in known]
    return annotation


def value_in_the_middle(page) -> str:
    """Wait for the data, and give the segment at the position of the viewer."""
    deadline = time.monotonic() + 60
    while not (page.evaluate(IS_READY) and (found := page.evaluate(VALUE))):
        assert time.monotonic() < deadline, "the viewer shows nothing"
        time.sleep(0.3)
    return found
