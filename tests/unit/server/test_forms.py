from __future__ import annotations

import pytest

from voxelworks.errors import InvalidParams, SourceNotFound
from voxelworks.protocol.views import DatasetSummary, DatasetView, LayerSummary
from voxelworks.server.forms import Form
from voxelworks.workflows import get_workflow

CONVERT = get_workflow("convert")
DOWNSAMPLE = get_workflow("downsample")
COLOR = LayerSummary(
    name="color", category="color", dtype="uint8", channel_count=1, box="0,0,0,8,8,8", mags=("1", "2")
)
DEMO = DatasetView(
    id="0123", name="demo", place="data:local/demo", summary=DatasetSummary(voxel_size="4,4,40", layers=(COLOR,)),
    created_ms=0, updated_ms=0, made_by_job=None, organization_id="local", user_id="local", is_public=False,
    is_linked=False, size_bytes=0, trashed_ms=None, purge_ms=None,
)  # fmt: skip


def test_an_empty_form_shows_the_defaults():
    form = Form.fill(CONVERT, {}, ())
    [layers, main] = form.main
    assert [(item.field.name, item.value) for item in layers.rows[0]] == [
        ("source", ""), ("layer_name", "color"), ("category", "color"),
    ]  # fmt: skip
    assert [item.field.name for item in main.rows[0]] == ["target"]
    assert [(item.field.name, item.value) for item in form.options] == [
        ("voxel_size", ""), ("fill_missing", "false"), ("pyramid", "true"), ("coarsest_mag", ""),
    ]  # fmt: skip


def test_what_was_filled_in_becomes_params():
    values = {
        "source": ["a", "b"], "layer_name": ["color", "labels"], "category": ["color", "segmentation"],
        "target": ["t"], "pyramid": ["false"], "fill_missing": ["false", "true"],
    }  # fmt: skip
    params = CONVERT.parse(CONVERT.collect(Form.fill(CONVERT, values, ()).collected()))
    assert params.model_dump(mode="json", exclude_defaults=True) == {
        "layers": [{"source": "a"}, {"source": "b", "layer_name": "labels", "category": "segmentation"}],
        "target": "t", "pyramid": False, "fill_missing": True,
    }  # fmt: skip


def test_the_layers_of_the_chosen_dataset_are_offered():
    for ref in ("demo", "0123"):
        picker = Form.fill(DOWNSAMPLE, {"dataset": [ref]}, (DEMO,)).input_named("layer")
        assert picker is not None
        assert picker.layers == (COLOR,)
    picker = Form.fill(DOWNSAMPLE, {}, (DEMO,)).input_named("layer")
    assert picker is not None
    assert picker.layers == ()


def test_rows_are_added_and_removed_with_their_values():
    form = Form.fill(CONVERT, {"source": ["a", "b"], "layer_name": ["x", "y"]}, ())
    assert form.rows == {"layers": 2}
    assert form.with_row_added("layers").rows == {"layers": 3}
    shorter = form.with_row_removed("layers", 0)
    assert (shorter.rows, shorter.values["source"], shorter.values["layer_name"]) == (
        {"layers": 1},
        ["b"],
        ["y"],
    )
    assert shorter.with_row_removed("layers", 0).rows == {"layers": 1}


def test_each_problem_stands_beside_its_input():
    form = Form.fill(CONVERT, {"source": ["a"], "voxel_size": ["1,2"], "coarsest_mag": ["3-3-3"]}, ())
    with pytest.raises(InvalidParams) as error:
        CONVERT.parse(CONVERT.collect(form.collected()))
    shown = form.with_error(error.value)
    assert shown.problem is None
    assert shown.errors == {
        ("target", 0): "Fill this in.",
        ("voxel_size", 0): "'1,2' is not a voxel size; write x,y,z in nanometres, such as 4,4,40",
        ("coarsest_mag", 0): "mag 3-3-3: each part must be a power of two, such as 4-4-1",
    }


def test_an_error_that_quotes_a_value_stands_beside_that_value():
    form = Form.fill(CONVERT, {"source": ["root:x/a", "root:x/b"], "target": ["t"]}, ())
    shown = form.with_error(SourceNotFound("there is no 'root:x/b'; choose another"))
    assert shown.errors == {("source", 1): "there is no 'root:x/b'; choose another"}


def test_any_other_error_stands_above_the_form():
    shown = Form.fill(CONVERT, {"target": ["t"]}, ()).with_error(
        InvalidParams("two layers are named 'color'")
    )
    assert (shown.problem, shown.errors) == ("two layers are named 'color'", {})


def test_a_form_without_any_dataset_to_choose_says_so():
    assert Form.fill(DOWNSAMPLE, {}, ()).is_empty_catalog
    assert not Form.fill(DOWNSAMPLE, {}, (DEMO,)).is_empty_catalog
    assert not Form.fill(CONVERT, {}, ()).is_empty_catalog
