"""Voxel size and modality of a dataset are corrected on its page and over the API; other programs read the new size."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
import zarr
from click.testing import CliRunner
from ome_zarr_models.v05.image import Image

import voxelworks
from voxelworks.cli.datasets import datasets
from voxelworks.errors import InvalidGeometry, InvalidParams
from voxelworks.protocol.messages import SealedResult


@pytest.fixture(scope="module")
def stored(served, tmp_path_factory):
    """A dataset of 300 x 20 x 20 voxels with two mags, and its folder."""
    source = tmp_path_factory.mktemp("stack") / "stack.tif"
    image = np.random.default_rng(0).integers(0, 255, (20, 20, 300), "uint8")
    tifffile.imwrite(source, image, metadata={"axes": "ZYX"})
    folder = served.settings.datasets_dir / "local" / "thick"
    folder.parent.mkdir(parents=True, exist_ok=True)
    job_id = served.convert("thick")
    worker = served.worker("converter", convert=1)
    assert worker.claim().job_id == job_id
    voxelworks.run("convert", target=str(folder), voxel_size="4,4,40", layers=[{"source": str(source)}])
    value = {"dataset": "thick", "layers": ["color"]}
    worker.succeed(SealedResult(kind="dataset", place="data:local/thick", value=value))
    worker.publish()
    return folder


def _files(folder):
    """All files but metadata and pictures."""
    names = ("datasource-properties.json", "color/zarr.json", "zarr.json")
    return {
        name: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        if (name := path.relative_to(folder).as_posix()) not in names
    }


def test_other_programs_read_the_new_size_and_no_voxel_is_touched(served, stored):
    before = _files(stored)
    changed = served.client.set_voxel_size("thick", "5,5,30")
    assert changed.summary.voxel_size == served.client.show_dataset("thick").summary.voxel_size == "5,5,30"
    image = Image.from_zarr(zarr.open_group(stored / "color", mode="r"))
    scales = [
        item.coordinateTransformations[0].scale for item in image.ome_attributes.multiscales[0].datasets
    ]
    assert scales == [[1, 30, 5, 5], [1, 30, 10, 10]]
    shifts = [
        item.coordinateTransformations[1].translation for item in image.ome_attributes.multiscales[0].datasets
    ]
    assert shifts == [[0, 0, 0, 0], [0, 0, 2.5, 2.5]]
    assert json.loads((stored / "datasource-properties.json").read_text())["scale"] == {
        "factor": [5, 5, 30], "unit": "nanometer",
    }  # fmt: skip
    assert _files(stored) == before
    [drawing] = [job for job in served.client.list_jobs(states=["queued"]).jobs if job.workflow == "describe"]
    assert drawing.params == {"dataset": "thick"}, "its pictures are to be drawn in the new proportions"
    served.client.cancel(drawing.id)


def test_the_page_takes_it_and_says_which_mags_do_not_fit(served, stored):
    page = served.browser.get("/datasets/thick").text
    assert 'name="voxel_size"' in page
    dataset_id = served.client.show_dataset("thick").id
    path = f"/datasets/{dataset_id}/voxel-size"
    done = served.browser.post(path, data={"voxel_size": " 4, 4, 4 "}, follow_redirects=True)
    assert "The dataset has its new voxel size. The mags stay as they are" in done.text
    assert "color (2-2-1)" in done.text
    assert "Voxels of 4 × 4 × 4 nm" in done.text
    done = served.browser.post(path, data={"voxel_size": "4,4,40"}, follow_redirects=True)
    assert "The mags stay" not in done.text
    for text, why in (
        ("0,4,40", "must be a positive number"),
        ("4,4", "is not a voxel size"),
        ("nan,1,1", "positive"),
    ):
        refused = served.browser.post(path, data={"voxel_size": text})
        assert (refused.status_code, why in refused.text, f'value="{text}"' in refused.text) == (
            422,
            True,
            True,
        )
    assert served.client.show_dataset("thick").summary.voxel_size == "4,4,40"


def test_the_modality_is_stated_on_the_page_in_python_and_on_the_command_line(served, stored):
    assert served.client.set_modality("thick", " light   sheet").summary.layers[0].modality == "light sheet"
    page = served.browser.get("/datasets/thick").text
    assert "<dt>Modality</dt><dd>light sheet</dd>" in page
    assert '<option value="FIB-SEM">' in page
    path = f"/datasets/{served.client.show_dataset('thick').id}/modality"
    done = served.browser.post(path, data={"modality": "FIB-SEM"}, follow_redirects=True)
    assert "The dataset says how it was imaged." in done.text
    assert "<dt>Modality</dt><dd>FIB-SEM</dd>" in done.text
    refused = served.browser.post(path, data={"modality": "x" * 101})
    assert (refused.status_code, "names no kind of microscopy" in refused.text) == (422, True)

    def run(*arguments):
        return CliRunner().invoke(datasets, [*arguments, "--home", str(served.settings.home)])

    assert run("modality", "thick", "micro-CT").stdout == "thick: images from micro-CT\n"
    assert (
        json.loads(run("modality", "thick", "", "--json").stdout)["summary"]["layers"][0]["modality"] is None
    )
    assert run("modality", "thick", "").stdout == "thick: not known how it was imaged\n"
    assert isinstance(run("modality", "thick", "a\x07b").exception, InvalidParams)


def test_the_command_line_changes_it_too(served, stored):
    def run(*arguments):
        return CliRunner().invoke(datasets, [*arguments, "--home", str(served.settings.home)])

    done = run("voxel-size", "thick", "8,8,8")
    assert done.stdout == "thick: voxels of 8,8,8 nm\n"
    assert done.stderr.startswith("The mags stay as they are")
    listed = {
        item["name"]: item["summary"]["voxel_size"] for item in json.loads(run("list", "--json").stdout)
    }
    assert listed["thick"] == "8,8,8"
    assert isinstance(run("voxel-size", "thick", "0,1,1").exception, InvalidGeometry)
