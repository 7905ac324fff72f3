"""The voxel size and modality of a dataset are corrected: by whom, and when not."""

from __future__ import annotations

import json

import pytest

from voxelworks import accounts, catalog, jobs
from voxelworks.errors import (
    DatasetNotFound,
    IllegalTransition,
    InvalidDataset,
    InvalidGeometry,
    NotAllowed,
    TargetNotWritable,
)
from voxelworks.geometry import MAG1, Box, VoxelSize
from voxelworks.jobs import _changes
from voxelworks.protocol.messages import DatasetLeaseRequest, PublishedRequest
from voxelworks.protocol.views import DatasetSummary
from voxelworks.volumes.metadata import (
    DataSource,
    LayerProperties,
    MagProperties,
    read_datasource,
    save_datasource,
)

NEW = VoxelSize(4, 4, 30)


@pytest.fixture
def demo(queue):
    """The folder of `demo`, with its metadata."""
    layer = LayerProperties(
        name="segmentation", category="segmentation", bounding_box=Box.parse("0,0,0,64,64,64"), element_class="uint32",
        data_format="zarr3", mags=(MagProperties.of("segmentation", MAG1),),
    )  # fmt: skip
    folder = queue.settings.datasets_dir / "local" / "demo"
    (folder / "segmentation").mkdir(parents=True)
    save_datasource(folder, DataSource.new("demo", VoxelSize(4, 4, 40)).with_layer(layer))
    return folder


def _change(queue, voxel_size=NEW, *, who="ada", dataset="demo", modality=None):
    return jobs.restate_dataset(
        queue.database,
        dataset,
        voxel_size=voxel_size,
        modality=modality,
        by=queue.principal(who),
        places=queue.places,
        settings=queue.settings,
    )


def _known(queue):
    return queue.call(catalog.find, "demo", by=queue.principal("ada")).summary.voxel_size


def _scales(folder):
    """What the files say: the dataset's own, and that of mag 1 in the OME group of its layer."""
    own = json.loads((folder / "datasource-properties.json").read_text())["scale"]
    group = json.loads((folder / "segmentation" / "zarr.json").read_text())["attributes"]["ome"]
    [dataset] = group["multiscales"][0]["datasets"]
    return own, dataset["coordinateTransformations"][0]["scale"]


def _finished(queue):
    queue.submit()
    claim = queue.claim_and_start(queue.open_worker())
    assert queue.succeed(claim).publish
    return claim


def _lease(queue, claim):
    request = DatasetLeaseRequest(token=claim.token, place="data:local/demo")
    return queue.call(jobs.lease_dataset, claim.job_id, claim.attempt, request)


def test_files_catalog_and_audit_log_say_the_same(queue, demo):
    changed = _change(queue)
    assert (changed.summary.voxel_size, _known(queue)) == ("4,4,30", "4,4,30")
    assert _scales(demo) == ({"factor": [4, 4, 30], "unit": "nanometer"}, [1, 30, 4, 4])
    page = queue.call(accounts.list_audit, organization_id="local")
    assert [
        (line.who, line.action, line.subject, line.detail["old"], line.detail["new"]) for line in page.entries
    ] == [("user:ada", "dataset.voxel_size", changed.id, "4,4,40", "4,4,30")]


def test_the_modality_of_images_is_stated_changed_and_taken_away(queue, demo):
    def stated():
        layers = json.loads((demo / "datasource-properties.json").read_text())["dataLayers"]
        return {layer["name"]: layer.get("modality", "nothing") for layer in layers}

    image = LayerProperties(
        name="color", category="color", bounding_box=Box.parse("0,0,0,64,64,64"), element_class="uint8",
        data_format="zarr3", mags=(MagProperties.of("color", MAG1),),
    )  # fmt: skip
    source = read_datasource((demo / "datasource-properties.json").read_text())
    save_datasource(demo, source.with_layer(image))
    changed = _change(queue, None, modality="FIB-SEM")
    assert {layer.name: layer.modality for layer in changed.summary.layers} == {
        "segmentation": None, "color": "FIB-SEM",
    }  # fmt: skip
    assert stated() == {"segmentation": "nothing", "color": "FIB-SEM"}
    assert changed.summary.voxel_size == "4,4,40"
    _change(queue, None, modality="")
    assert stated() == {"segmentation": "nothing", "color": "nothing"}
    page = queue.call(accounts.list_audit, organization_id="local")
    assert [(line.action, line.detail["new"]) for line in page.entries] == [
        ("dataset.modality", ""), ("dataset.modality", "FIB-SEM"),
    ]  # fmt: skip


def test_while_a_job_writes_into_the_dataset_it_is_refused_and_afterwards_kept(queue, demo):
    claim = _finished(queue)
    assert _lease(queue, claim).held
    before = _scales(demo)
    with pytest.raises(
        IllegalTransition, match="'demo' is being written to right now; try again in a minute"
    ):
        _change(queue)
    assert (_scales(demo), _known(queue)) == (before, "4,4,40")
    queue.call(jobs.published, claim.job_id, claim.attempt, PublishedRequest(token=claim.token))
    _change(queue)
    assert _known(queue) == "4,4,30"


def test_a_job_waits_until_the_change_is_made(queue, demo, monkeypatch):
    claim = _finished(queue)
    answers = []

    def change(folder, make):
        answers.append(_lease(queue, claim).held)
        change_properties(folder, make)

    change_properties = _changes.change_properties
    monkeypatch.setattr(_changes, "change_properties", change)
    _change(queue)
    assert answers == [False]
    assert _lease(queue, claim).held, "the dataset is free again"


def test_what_broke_off_is_completed_by_repeating_it(queue, demo, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("voxelworks.volumes.metadata.save_groups", die)
        with pytest.raises(KeyboardInterrupt):
            _change(queue)
    assert _scales(demo) == ({"factor": [4, 4, 30], "unit": "nanometer"}, [1, 40, 4, 4])
    _change(queue)
    assert _scales(demo)[1] == [1, 30, 4, 4]
    assert _known(queue) == "4,4,30"


def test_the_lease_of_a_server_that_died_runs_out(queue, demo, monkeypatch):
    with queue.database.session() as session:
        dataset = catalog.find(session, "demo", by=queue.principal("ada"))
        _changes._lease(session, dataset, queue.settings)
    with pytest.raises(IllegalTransition):
        _change(queue)
    assert not _lease(queue, _finished(queue)).held
    queue.advance(queue.settings.dataset_lease_s + 1)
    _change(queue)


@pytest.mark.parametrize(
    ("voxel_size", "why"),
    [
        ("0.004,0.004,40", "sides from 0.01 nm to 100,000,000 nm are taken"),
        ("4,4,1e9", "sides from 0.01 nm to 100,000,000 nm are taken"),
        ("4,4,40000", "one side is over 1,000 times another"),
    ],
)
def test_sizes_that_no_microscope_has_are_refused(queue, demo, voxel_size, why):
    with pytest.raises(InvalidGeometry, match=why):
        _change(queue, VoxelSize.parse(voxel_size))
    assert _known(queue) == "4,4,40"


def test_what_can_only_be_read_is_not_changed(queue, demo):
    with pytest.raises(DatasetNotFound):
        _change(queue, who="cleo")
    dataset = queue.call(catalog.find, "demo", by=queue.principal("ada"))
    queue.call(catalog.set_public, dataset.id, True, by=queue.principal("ada"))
    with pytest.raises(NotAllowed, match="belongs to another organization and can only be read"):
        _change(queue, who="cleo", dataset=dataset.id)
    linked = queue.call(
        catalog.link_dataset, by=queue.principal("ada"), name="linked", place="root:scope/raw",
        summary=DatasetSummary(voxel_size="4,4,40", layers=()), places=queue.places,
    )  # fmt: skip
    with pytest.raises(
        TargetNotWritable, match="'linked' is linked from root:scope/raw and can only be read"
    ):
        _change(queue, dataset=linked.id)


def test_a_dataset_whose_files_are_broken_says_so_and_is_free_again(queue, demo):
    file = demo / "datasource-properties.json"
    whole = file.read_text()
    file.write_text(whole[:50])
    with pytest.raises(InvalidDataset, match="is not JSON"):
        _change(queue)
    file.write_text(whole)
    _change(queue)
    demo.rename(demo.with_name("elsewhere"))
    with pytest.raises(Exception, match="the files of dataset 'demo' are gone"):
        _change(queue)
