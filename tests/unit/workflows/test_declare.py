"""From one declaration come the options, the form, the API and the Python function."""

import pytest

from voxelworks.errors import InvalidParams, UnknownWorkflow
from voxelworks.workflows import get_workflow, references, workflows

EXAMPLES = {
    "convert": {
        "layers": [
            {"source": "root:scope/raw", "layer_name": "color", "category": "color"},
            {"source": "root:scope/labels", "layer_name": "segmentation", "category": "segmentation"},
        ],
        "target": "new",
        "voxel_size": "4,4,40",
        "pyramid": False,
    },
    "downsample": {
        "layer": {"dataset": "demo", "layer": "color"},
        "coarsest_mag": "16-16-4",
        "method": "median",
    },
    "find_largest_segment_id": {"layer": {"dataset": "demo", "layer": "segmentation"}},
}


@pytest.mark.parametrize("name", sorted(workflows()))
def test_every_workflow_says_what_it_is_and_its_example_is_valid(name):
    workflow = workflows()[name]
    assert workflow.summary.endswith(".")
    assert all(field.help.endswith((".", "`")) for field in workflow.fields)
    assert workflow.parse(workflow.example)
    assert workflow.cost.is_free is not name.startswith(("infer_", "train_")), "only AI jobs are paid"
    assert len({field.name for field in workflow.fields}) == len(workflow.fields)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_options_and_forms_build_the_params_that_json_builds(name):
    workflow = get_workflow(name)
    params = workflow.parse(EXAMPLES[name])
    flat = workflow.flatten(params)
    assert workflow.parse(workflow.collect(flat)) == params
    assert workflow.parse(params.model_dump(mode="json")) == params


def test_one_value_of_a_repeated_option_counts_for_all_items():
    workflow = get_workflow("convert")
    raw = workflow.collect(
        {
            "source": ["a", "b"],
            "layer_name": ["x", "y"],
            "category": ["color"],
            "target": "t",
            "voxel_size": "1,1,1",
        }
    )
    assert [item["category"] for item in raw["layers"]] == ["color", "color"]


def test_repeated_options_of_unequal_number_are_refused_by_name():
    workflow = get_workflow("convert")
    with pytest.raises(InvalidParams, match="--layer-name is given 2 times, but another option 3 times"):
        workflow.collect({"source": ["a", "b", "c"], "layer_name": ["x", "y"]})


def test_a_layer_is_named_by_text_or_by_its_two_parts():
    workflow = get_workflow("downsample")
    assert workflow.parse({"layer": "some/where/demo/color"}) == workflow.parse(
        {"layer": {"dataset": "some/where/demo", "layer": "color"}}
    )


def test_a_further_layer_may_be_given_as_one_text_in_options_too():
    workflow = get_workflow("evaluate_segmentation")
    apart = {"dataset": "some/result", "layer": "cells", "truth_dataset": "some/where", "truth": "labels"}
    together = {"dataset": "some/result", "layer": "cells", "truth": "some/where/labels"}
    assert workflow.parse(workflow.collect(together)) == workflow.parse(workflow.collect(apart))
    with pytest.raises(InvalidParams, match=r"truth.layer: 'where/labels' is not a layer name"):
        workflow.parse(workflow.collect({**apart, "truth": "where/labels"}))


def test_references_are_found_in_nested_params():
    params = get_workflow("convert").parse(EXAMPLES["convert"])
    assert [str(ref) for ref in references(params)] == ["root:scope/raw", "root:scope/labels", "new"]


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("convert", {}, "layers is missing; target is missing"),
        ("convert", {"layers": [], "target": "t"}, "at least 1 item"),
        ("convert", {"layers": [{"source": "a"}] * 2, "target": "t"}, "two layers are named 'color'"),
        (
            "convert",
            {"layers": [{"source": "a", "layer_name": "../x"}], "target": "t"},
            "'../x' is not a layer name",
        ),
        (
            "convert",
            {"layers": [{"source": "a"}], "target": "t", "voxel_size": "4,4"},
            "'4,4' is not a voxel size",
        ),
        ("downsample", {"layer": "color"}, "'color' names no layer; write DATASET/LAYER"),
        ("downsample", {"layer": "d/color", "speed": 3}, "speed is not a parameter of this workflow"),
        ("downsample", {"layer": "d/color", "method": "max"}, "method = 'max'"),
    ],
)
def test_wrong_params_are_refused_with_name_and_value(name, raw, message):
    with pytest.raises(InvalidParams) as caught:
        get_workflow(name).parse(raw)
    assert message in str(caught.value)


def test_an_unknown_workflow_is_refused_with_the_known_ones():
    with pytest.raises(
        UnknownWorkflow,
        match=r"'smooth'; installed are .*convert, .*downsample, .*find_largest_segment_id",
    ):
        get_workflow("smooth")


def test_names_are_written_as_people_do():
    export = get_workflow("export_ome_zarr")
    labels = {field.name: field.label for field in export.fields}
    assert export.title == "Export OME Zarr"
    assert (labels["ome_version"], labels["coarsest_mag"]) == ("OME version", "Coarsest mag")


def test_what_is_wrong_with_several_params_together_names_none():
    with pytest.raises(InvalidParams, match=r"^a/b would be compared with itself; choose the layer"):
        get_workflow("evaluate_segmentation").parse({
            "layer": {"dataset": "a", "layer": "b"}, "truth": {"dataset": "a", "layer": "b"},
        })  # fmt: skip
