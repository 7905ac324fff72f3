"""Nothing half-written is ever visible, nothing finished is ever lost: at whichever step the publisher dies."""

import json
import os
from pathlib import Path

import pytest

from voxelworks.errors import StorageFailed, TargetExists, TargetNotWritable
from voxelworks.geometry import Box, Mag, VoxelSize
from voxelworks.protocol.messages import SealedResult
from voxelworks.volumes import files, metadata
from voxelworks.volumes.metadata import (
    DataSource,
    LayerProperties,
    MagProperties,
    load_datasource,
    save_datasource,
)
from voxelworks.workflows import publishing
from voxelworks.workflows.publishing import AttemptFolder, LayerChange, NewAttachment, NewLayer, publish, seal

BOX = Box((0, 0, 0), (8, 8, 8))


def write_dataset(folder: Path) -> None:
    (folder / "color/1").mkdir(parents=True)
    (folder / "color/1/zarr.json").write_text("mag 1")
    layer = LayerProperties(
        name="color", category="color", bounding_box=BOX, element_class="uint8", data_format="zarr3",
        mags=(MagProperties.of("color", Mag(1, 1, 1)),),
    )  # fmt: skip
    save_datasource(folder, DataSource.new("demo", VoxelSize(4, 4, 40)).with_layer(layer))


def seal_dataset(target: Path, attempt: int = 1) -> SealedResult:
    folder = AttemptFolder.for_target("dataset", str(target), "job", attempt)
    folder.prepare("same")
    write_dataset(folder.result)
    digest, size = seal(folder, kind="dataset", known={})
    return SealedResult(kind="dataset", place=str(target), value={}, manifest_sha256=digest, size_bytes=size)


def seal_mag(dataset: Path, mag: str, *, work_key: str = "job", content: str = "voxels") -> SealedResult:
    folder = AttemptFolder.for_target("addition", str(dataset), work_key, 1)
    folder.prepare("same")
    (folder.result / "color" / mag).mkdir(parents=True)
    (folder.result / "color" / mag / "zarr.json").write_text(content)
    change = LayerChange(layer="color", mags=(MagProperties.of("color", Mag.parse(mag)),))
    digest, size = seal(folder, kind="addition", known={}, changes=(change,))
    return SealedResult(
        kind="addition", place=str(dataset), value={}, manifest_sha256=digest, size_bytes=size
    )


def seal_index(dataset: Path, *, work_key: str, content: str) -> SealedResult:
    folder = AttemptFolder.for_target("addition", str(dataset), work_key, 1)
    folder.prepare("same")
    new = NewAttachment.to(load_datasource(dataset).layer("color"), "segmentIndex", "index")
    (folder.result / new.folder("color")).mkdir(parents=True)
    (folder.result / new.folder("color") / "zarr.json").write_text(content)
    change = LayerChange(layer="color", attachments=(new,))
    digest, size = seal(folder, kind="addition", known={}, changes=(change,))
    return SealedResult(
        kind="addition", place=str(dataset), value={}, manifest_sha256=digest, size_bytes=size
    )


def listed_index(dataset: Path) -> str | None:
    """Give the content of the index that is listed."""
    path = load_datasource(dataset).layer("color").path_of("segmentIndex")
    return (dataset / path / "zarr.json").read_text() if path is not None else None


def tree(folder: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and ".voxelworks" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


class Died(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


class Steps:
    """Lets the publisher die before its n-th change of the disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, die_at: int) -> None:
        self.count = 0
        self.die_at = die_at
        changes = [
            (os, "rename"),
            (publishing, "sync_folder"),
            (metadata, "replace_file"),
            (files, "sync_folder"),
        ]
        for module, name in changes:
            monkeypatch.setattr(module, name, self._stepping(getattr(module, name)))

    def _stepping(self, function):
        def step(*args):
            self.count += 1
            if self.count == self.die_at:
                raise Died
            return function(*args)

        return step


def die_at_every_step(monkeypatch, act, after_death):
    """Call `act` again and again, dying one step later each time, until it survives; give the number of steps."""
    for die_at in range(1, 100):
        with monkeypatch.context() as patch:
            steps = Steps(patch, die_at)
            try:
                act(die_at)
            except Died:
                pass
            else:
                assert steps.count == die_at - 1
                return steps.count
        after_death(die_at)
    raise AssertionError("never ended")


def test_a_new_dataset_is_visible_at_once_and_whole_wherever_the_publisher_dies(tmp_path, monkeypatch):
    write_dataset(tmp_path / "reference")
    prepared = {}
    for n in range(1, 10):
        (tmp_path / f"run{n}").mkdir()
        prepared[n] = seal_dataset(tmp_path / f"run{n}/demo")

    def publish_number(n):
        publish(prepared[n], str(tmp_path / f"run{n}/demo"), work_key="job", attempt=1)

    def after_death(n):
        target = tmp_path / f"run{n}/demo"
        assert tree(target) in ({}, tree(tmp_path / "reference"))
        publish_number(n)
        assert tree(target) == tree(tmp_path / "reference")

    assert die_at_every_step(monkeypatch, publish_number, after_death) == 2


def test_an_addition_is_listed_only_when_its_files_are_there_wherever_the_publisher_dies(
    tmp_path, monkeypatch
):
    reference = tmp_path / "reference"
    write_dataset(reference)
    publish(seal_mag(reference, "2-2-1"), str(reference), work_key="job", attempt=1)
    before = tmp_path / "before"
    write_dataset(before)
    prepared = {}
    for n in range(1, 40):
        write_dataset(tmp_path / f"run{n}")
        prepared[n] = seal_mag(tmp_path / f"run{n}", "2-2-1")

    def after_death(n):
        dataset = tmp_path / f"run{n}"
        listed = [mag.mag for mag in load_datasource(dataset).layer("color").mags]
        if Mag(2, 2, 1) in listed:
            assert (dataset / "color/2-2-1/zarr.json").read_text() == "voxels"
        publish(prepared[n], str(dataset), work_key="job", attempt=1)
        assert tree(dataset) == tree(reference)

    def publish_number(n):
        publish(prepared[n], str(tmp_path / f"run{n}"), work_key="job", attempt=1)

    assert die_at_every_step(monkeypatch, publish_number, after_death) >= 5


def test_one_attachment_takes_the_place_of_another_wherever_the_publisher_dies(tmp_path, monkeypatch):
    prepared = {}
    for n in range(40):
        dataset = tmp_path / f"run{n}"
        write_dataset(dataset)
        publish(
            seal_index(dataset, work_key="first", content="old"), str(dataset), work_key="first", attempt=1
        )
        prepared[n] = seal_index(dataset, work_key="job", content="new")

    def publish_number(n):
        publish(prepared[n], str(tmp_path / f"run{n}"), work_key="job", attempt=1)

    def after_death(n):
        assert listed_index(tmp_path / f"run{n}") in ("old", "new")
        publish_number(n)
        publish_number(n)
        assert tree(tmp_path / f"run{n}") == tree(tmp_path / "run0")

    publish_number(0)
    assert listed_index(tmp_path / "run0") == "new"
    assert [path.name for path in (tmp_path / "run0/color/segmentIndex").iterdir()] == ["index-2"]
    assert die_at_every_step(monkeypatch, publish_number, after_death) >= 5


def test_an_attachment_that_another_job_added_meanwhile_is_never_replaced(tmp_path):
    dataset = tmp_path / "demo"
    write_dataset(dataset)
    first = seal_index(dataset, work_key="first", content="first")
    second = seal_index(dataset, work_key="second", content="second one")
    publish(first, str(dataset), work_key="first", attempt=1)
    with pytest.raises(TargetExists, match="another segmentIndex was added to layer 'color' meanwhile"):
        publish(second, str(dataset), work_key="second", attempt=1)
    assert listed_index(dataset) == "first"


def test_an_attachment_elsewhere_is_replaced_in_the_list_and_left_where_it_lies(tmp_path):
    dataset = tmp_path / "demo"
    write_dataset(dataset)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/zarr.json").write_text("of somebody else")
    listed = {"name": "index", "path": "../elsewhere", "dataFormat": "zarr3"}
    properties = json.loads((dataset / "datasource-properties.json").read_text())
    properties["dataLayers"][0]["attachments"] = {"segmentIndex": listed, "meshes": [{"name": "kept"}]}
    (dataset / "datasource-properties.json").write_text(json.dumps(properties))
    publish(seal_index(dataset, work_key="job", content="new"), str(dataset), work_key="job", attempt=1)
    assert listed_index(dataset) == "new"
    assert load_datasource(dataset).layer("color").model_extra["attachments"]["meshes"] == [{"name": "kept"}]
    assert (tmp_path / "elsewhere/zarr.json").read_text() == "of somebody else"


def test_publishing_twice_changes_nothing(tmp_path):
    target = tmp_path / "demo"
    sealed = seal_dataset(target)
    publish(sealed, str(target), work_key="job", attempt=1)
    once = tree(tmp_path)
    publish(sealed, str(target), work_key="job", attempt=1)
    assert tree(tmp_path) == once


def test_a_target_that_appeared_meanwhile_is_never_overwritten(tmp_path):
    target = tmp_path / "demo"
    sealed = seal_dataset(target)
    target.mkdir()
    (target / "mine.txt").write_text("precious")
    with pytest.raises(TargetExists, match="was made by somebody else while the job ran"):
        publish(sealed, str(target), work_key="job", attempt=1)
    assert tree(target) == {"mine.txt": b"precious"}


def test_a_mag_that_another_job_added_meanwhile_is_never_overwritten(tmp_path):
    dataset = tmp_path / "demo"
    write_dataset(dataset)
    first = seal_mag(dataset, "2-2-1", work_key="first", content="first")
    second = seal_mag(dataset, "2-2-1", work_key="second", content="other voxels")
    publish(first, str(dataset), work_key="first", attempt=1)
    with pytest.raises(TargetExists, match=r"mag 2-2-1 of layer 'color' was added by somebody else"):
        publish(second, str(dataset), work_key="second", attempt=1)
    assert (dataset / "color/2-2-1/zarr.json").read_text() == "first"


def test_additions_of_many_jobs_are_merged_whatever_was_sealed_first(tmp_path):
    dataset = tmp_path / "demo"
    write_dataset(dataset)
    mags = ["2-2-1", "4-4-1", "8-8-1", "16-16-2"]
    sealed = {mag: seal_mag(dataset, mag, work_key=mag) for mag in mags}
    for mag in ["8-8-1", "2-2-1", "16-16-2", "4-4-1"]:
        publish(sealed[mag], str(dataset), work_key=mag, attempt=1)
    assert [str(mag.mag) for mag in load_datasource(dataset).layer("color").mags] == ["1", *mags]


def test_a_result_that_changed_after_its_seal_is_not_published(tmp_path):
    target = tmp_path / "demo"
    sealed = seal_dataset(target)
    AttemptFolder.for_target("dataset", str(target), "job", 1).manifest_path.write_text("{}")
    with pytest.raises(StorageFailed, match="no longer holds the sealed result"):
        publish(sealed, str(target), work_key="job", attempt=1)
    assert not target.exists()


def test_a_later_attempt_adopts_finished_work_and_fences_the_earlier_one(tmp_path):
    first = AttemptFolder(tmp_path, "job", 1)
    assert first.prepare("same") is False
    (first.checkpoints / "block").write_text("done")
    second = AttemptFolder(tmp_path, "job", 3)
    assert second.prepare("same") is True
    assert (second.checkpoints / "block").read_text() == "done"
    assert not first.path.exists()


def test_work_with_other_parameters_is_not_adopted(tmp_path):
    first = AttemptFolder(tmp_path, "job", 1)
    first.prepare("parameters")
    (first.checkpoints / "block").write_text("done")
    second = AttemptFolder(tmp_path, "job", 2)
    assert second.prepare("other parameters") is False
    assert list(second.checkpoints.iterdir()) == []


def test_leftovers_of_killed_writers_are_not_part_of_the_result(tmp_path):
    folder = AttemptFolder(tmp_path, "job", 1)
    folder.prepare("same")
    (folder.result / "0.__lock").write_bytes(b"half")
    (folder.result / "0").write_bytes(b"whole")
    seal(folder, kind="dataset", known={})
    assert [path.name for path in folder.result.iterdir()] == ["0"]


def test_discarding_goes_on_where_a_kill_broke_it_off(tmp_path):
    """Between the removal of the job's folder and that of the folder of all jobs."""
    (tmp_path / ".voxelworks").mkdir()
    AttemptFolder(tmp_path, "job", 1).discard()
    assert list(tmp_path.iterdir()) == []


def test_discarding_leaves_nothing_behind(tmp_path):
    for attempt in (1, 2):
        AttemptFolder(tmp_path, "job", attempt).prepare("same")
    AttemptFolder(tmp_path, "job", 2).discard()
    assert list(tmp_path.iterdir()) == []


def test_targets_that_cannot_be_written_are_refused_by_name(tmp_path):
    with pytest.raises(TargetNotWritable, match=r"s3://bucket/demo is remote and can only be read"):
        AttemptFolder.for_target("dataset", "s3://bucket/demo", "job", 1)
    with pytest.raises(TargetNotWritable, match="missing does not exist; make it first"):
        publishing.require_writable_folder(tmp_path / "missing")


def test_a_new_mag_is_described_like_the_ones_that_are_there(tmp_path):
    dataset = tmp_path / "demo"
    write_dataset(dataset)
    publish(seal_mag(dataset, "2-2-1"), str(dataset), work_key="job", attempt=1)
    mags = json.loads((dataset / "datasource-properties.json").read_text())["dataLayers"][0]["mags"]
    assert [sorted(mag) for mag in mags] == [["axisOrder", "mag", "path"]] * 2


@pytest.mark.parametrize(
    ("noted", "has_finished_block", "planned"),
    [("1", True, 1), ("1", False, 100), ("1x", True, 100), ("", True, 100), (None, True, 100)],
)
def test_a_later_attempt_plans_for_as_many_slots_only_if_a_block_is_finished(
    tmp_path, noted, has_finished_block, planned
):
    folder = AttemptFolder.for_target("dataset", str(tmp_path / "demo"), "job", 1)
    folder.prepare("same")
    if noted is not None:
        (folder.path / "slots").write_text(noted)
    if has_finished_block:
        (folder.checkpoints / "phase").mkdir()
        (folder.checkpoints / "phase" / "block.json").write_text("{}")
    assert folder.keep_slots(100) == planned
    assert (folder.path / "slots").read_text() == str(planned)


def seal_truth(dataset: Path, content: str, *, work_key: str = "job") -> SealedResult:
    """Seal a layer `truth` with two mags, whatever is there now."""
    folder = AttemptFolder.for_target("addition", str(dataset), work_key, 1)
    folder.prepare("same")
    source = load_datasource(dataset)
    earlier = next((layer for layer in source.data_layers if layer.name == "truth"), None)
    within = NewLayer.folder_for(earlier)
    mags = tuple(MagProperties.of("truth", Mag.parse(mag), within=within) for mag in ("1", "2"))
    for mag in mags:
        (folder.result / mag.path).mkdir(parents=True)
        (folder.result / mag.path / "zarr.json").write_text(content)
    layer = LayerProperties(
        name="truth", category="segmentation", bounding_box=BOX, element_class="uint32", data_format="zarr3",
        mags=mags, labelled_boxes=(Box((1, 2, 3), (4, 5, 5)),),
    )  # fmt: skip
    change = LayerChange(layer="truth", whole=NewLayer(properties=layer, replaces=earlier))
    digest, size = seal(folder, kind="addition", known={}, changes=(change,))
    return SealedResult(
        kind="addition", place=str(dataset), value={}, manifest_sha256=digest, size_bytes=size
    )


def shown(dataset: Path) -> str | None:
    """Give what is in the mags of the layer that is listed, which must be the same; None if there is none."""
    layers = {layer.name: layer for layer in load_datasource(dataset).data_layers}
    if "truth" not in layers:
        return None
    assert layers["truth"].labelled_boxes == (Box((1, 2, 3), (4, 5, 5)),)
    contents = {(dataset / mag.path / "zarr.json").read_text() for mag in layers["truth"].mags}
    assert len(contents) == 1
    return contents.pop()


@pytest.mark.parametrize("is_there", [False, True])
def test_a_layer_is_seen_as_it_was_or_as_it_will_be_wherever_the_publisher_dies(
    tmp_path, monkeypatch, is_there
):
    prepared = {}
    for n in range(40):
        dataset = tmp_path / f"run{n}"
        write_dataset(dataset)
        if is_there:
            publish(seal_truth(dataset, "old", work_key="first"), str(dataset), work_key="first", attempt=1)
            measured = dataset / "truth/segmentStatistics/table"
            measured.mkdir(parents=True)
            source = load_datasource(dataset).with_segment_table("truth", "./truth/segmentStatistics/table")
            save_datasource(dataset, source)
        prepared[n] = seal_truth(dataset, "new")

    def publish_number(n):
        publish(prepared[n], str(tmp_path / f"run{n}"), work_key="job", attempt=1)

    def after_death(n):
        assert shown(tmp_path / f"run{n}") in ("old" if is_there else None, "new")
        publish_number(n)
        publish_number(n)
        assert tree(tmp_path / f"run{n}") == tree(tmp_path / "run0")

    publish_number(0)
    assert shown(tmp_path / "run0") == "new"
    left = sorted(path.name for path in (tmp_path / "run0/truth").iterdir())
    assert left == (["v2", "zarr.json"] if is_there else ["1", "2", "zarr.json"])
    group = json.loads((tmp_path / "run0/truth/zarr.json").read_text())["attributes"]["ome"]
    paths = [level["path"] for level in group["multiscales"][0]["datasets"]]
    assert paths == (["v2/1", "v2/2"] if is_there else ["1", "2"])
    assert die_at_every_step(monkeypatch, publish_number, after_death) >= 5


def test_of_two_jobs_that_go_on_from_the_same_state_the_second_is_refused(tmp_path):
    dataset = tmp_path / "demo"
    write_dataset(dataset)
    one, other = (seal_truth(dataset, name, work_key=name) for name in ("one", "other"))
    publish(one, str(dataset), work_key="one", attempt=1)
    with pytest.raises(TargetExists, match="layer 'truth' was made by somebody else meanwhile"):
        publish(other, str(dataset), work_key="other", attempt=1)
    one, other = (seal_truth(dataset, name, work_key=f"{name} later") for name in ("one", "other"))
    publish(other, str(dataset), work_key="other later", attempt=1)
    with pytest.raises(TargetExists, match="layer 'truth' was changed by somebody else meanwhile"):
        publish(one, str(dataset), work_key="one later", attempt=1)
    assert shown(dataset) == "other"


def test_what_others_have_added_to_a_layer_since_it_was_published_stays(tmp_path):
    dataset = tmp_path / "demo"
    write_dataset(dataset)
    sealed = seal_truth(dataset, "new")
    publish(sealed, str(dataset), work_key="job", attempt=1)
    save_datasource(dataset, load_datasource(dataset).with_largest_segment_id("truth", 7))
    publish(sealed, str(dataset), work_key="job", attempt=1)
    assert load_datasource(dataset).layer("truth").largest_segment_id == 7


def test_each_state_of_a_layer_has_a_folder_of_its_own():
    def layer(*paths: str | None) -> LayerProperties:
        mags = tuple(MagProperties(mag=Mag(2**n, 1, 1), path=path) for n, path in enumerate(paths))
        return LayerProperties(
            name="truth", category="segmentation", bounding_box=BOX, element_class="uint32",
            data_format="zarr3", mags=mags,
        )  # fmt: skip

    assert NewLayer.folder_for(None) == ""
    assert NewLayer.folder_for(layer("./truth/1", None)) == "v2"
    assert NewLayer.folder_for(layer("./truth/v2/1", "truth/v2/2-1-1")) == "v3"
    assert NewLayer.folder_for(layer("./truth/v9/1")) == "v10"
