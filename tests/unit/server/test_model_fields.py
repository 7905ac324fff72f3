"""Which models the form of a workflow offers, and what it says of the chosen one."""

from __future__ import annotations

import pytest

from model_work import installed
from small_networks import small_facts
from voxelworks.errors import InvalidParams
from voxelworks.protocol.views import DatasetSummary, DatasetView, LayerSummary, ModelVersionView, ModelView
from voxelworks.server.forms import Choice, Form, Stock
from voxelworks.workflows import workflows

COLOR = LayerSummary(
    name="color",
    category="color",
    dtype="uint8",
    channel_count=1,
    box="0,0,0,64,64,64",
    mags=("1", "2-2-1", "4-4-1"),
)


def dataset(name, voxel_size, layer=COLOR):
    return DatasetView(
        id=name[0] * 4, name=name, place=f"data:local/{name}",
        summary=DatasetSummary(voxel_size=voxel_size, layers=(layer,)), created_ms=0, updated_ms=0,
        made_by_job=None, organization_id="local", user_id="local", is_public=False, is_linked=False, size_bytes=0,
        trashed_ms=None, purge_ms=None,
    )  # fmt: skip


def model(name, organization_id="local", versions=1, **facts):
    found = tuple(
        ModelVersionView(
            number=number, place="", facts=small_facts(**facts), size_bytes=1, user_id=None, made_by_job=None,
            created_ms=0,
        )
        for number in range(versions, 0, -1)
    )  # fmt: skip
    return ModelView(
        id=f"id-{name}-{organization_id}", name=name, organization_id=organization_id, comment="", user_id=None,
        created_ms=0, updated_ms=0, versions=found,
    )  # fmt: skip


STOCK = Stock(
    (
        dataset("fits", "8,8,30"),
        dataset("coarse", "100,100,100"),
        dataset("fine", "2,2,30"),
        dataset("mute", None),
        dataset("glowing", "8,8,30", COLOR.model_copy(update={"modality": "confocal"})),
        dataset("sliced", "8,8,30", COLOR.model_copy(update={"modality": "ssTEM"})),
    ),
    models=(
        model("mito", versions=3, licence="MIT"),
        model("other", task="semantic"),
        model("theirs", "neuro"),
        model("mito", None),
        model("shipped", None),
    ),
    organization_id="local",
)


@pytest.fixture
def segment():
    with installed():
        yield workflows()["segment_with_model"]


def shown(segment, **values):
    return Form.fill(segment, {name: [value] for name, value in values.items()}, STOCK).input_named("model")


def test_models_of_the_task_are_offered_own_ones_before_installed_ones_of_the_same_name(segment):
    about = "mitochondria, voxels of 8,8,30 nm"
    picker = shown(segment)
    assert picker.choices == (
        Choice("mito", f"mito – {about}"),
        Choice("id-theirs-neuro", f"theirs – {about}"),
        Choice("shipped", f"shipped (installed) – {about}"),
    )
    assert (picker.nothing, picker.model, picker.warnings) == ("Choose a model", None, ())


def test_a_version_that_a_job_kept_is_offered_too(segment):
    picker = shown(segment, model="mito@2")
    assert picker.choices[-1] == Choice("mito@2", "mito, version 2")
    assert (picker.model.id, picker.model.facts.licence) == ("id-mito-local", "MIT")
    assert shown(segment, model="mito@9").choices[-1] == Choice("mito@9", "mito@9 (not in the list)")


@pytest.mark.parametrize(
    ("name", "mag", "warning"),
    [
        ("fits", "", None),
        ("fits", "4-4-1", None),  # this is the mag of the result
        ("fine", "", None),  # its mag 4-4-1 is read, which has the voxels of the model
        ("coarse", "", "the layer has voxels of 100,100,100 nm, and the model is for 4,4,20 to 16,16,60 nm"),
        ("mute", "", "does not say how large its voxels are"),
        ("glowing", "", "the layer is from confocal, and the model is for FIB-SEM: expect worse results"),
        ("sliced", "", None),
    ],
)
def test_what_speaks_against_a_model_is_said_with_numbers(segment, name, mag, warning):
    picker = shown(segment, model="mito", dataset=name, layer="color", mag=mag)
    assert [warning in text for text in picker.warnings] == ([True] if warning else [])


def test_of_several_datasets_each_is_looked_at(segment):
    values = {"model": ["mito"], "dataset": ["fits", "coarse", "mute"], "layer": ["color"] * 3}
    picker = Form.fill(segment, values, STOCK).input_named("model")
    assert [text.partition(":")[0] for text in picker.warnings] == ["coarse", "mute"]


def test_a_missing_model_is_asked_for(segment):
    form = Form.fill(segment, {"dataset": ["fits"], "layer": ["color"], "target": ["x"]}, STOCK)
    with pytest.raises(InvalidParams) as raised:
        segment.parse(segment.collect(form.collected()))
    assert form.with_error(raised.value).errors == {("model", 0): "Choose a model."}


def test_saved_params_keep_the_model(segment):
    assert segment.without_data({"layer": "fits/color", "model": "mito", "target": "x"}) == {"model": "mito"}
