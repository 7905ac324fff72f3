from __future__ import annotations

from dataclasses import replace

import pytest

from paid_work import installed
from voxelworks.errors import InvalidParams, SourceNotFound
from voxelworks.protocol.views import (
    DatasetSummary,
    DatasetView,
    LayerPreview,
    LayerSummary,
    PictureView,
    SliceView,
)
from voxelworks.server.forms import Choice, Form, Stock, kind_values
from voxelworks.workflows import Box, LayerRef, Params, get_workflow, workflows

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
LABELS = LayerSummary(
    name="labels", category="segmentation", dtype="uint32", channel_count=1, box="10,0,0,1000,600,300",
    mags=("1", "2-2-1"),
)  # fmt: skip
CORTEX = DEMO.model_copy(
    update={
        "id": "4567",
        "name": "cortex",
        "summary": DatasetSummary(voxel_size="4,4,40", layers=(COLOR, LABELS)),
    }
)
NOTHING = Stock()
STOCK = Stock((CORTEX, DEMO), drawn={"4567": (Choice("900,0,0,200,200,200", "Box 1 of annotation soma"),)})


class AnyBox(Params):
    """A box of any layer."""

    layer: LayerRef
    """Layer to look at."""

    box: Box | None = None
    """Box to look at."""


@pytest.fixture
def priced():
    """A workflow with a box and a mag of its layer, and a new dataset."""
    with installed():
        yield workflows()["make_segmented"]


def test_an_empty_form_shows_the_defaults():
    form = Form.fill(CONVERT, {}, NOTHING)
    [layers, main] = form.main
    assert [(item.field.name, item.value) for item in layers.rows[0]] == [
        ("source", ""), ("layer_name", ""), ("category", "color"), ("part", ""), ("raw_size", ""),
        ("raw_dtype", "uint8"), ("raw_header_bytes", "0"), ("raw_byte_order", "little"), ("raw_axes", "xyz"),
    ]  # fmt: skip
    assert [item.field.name for item in main.rows[0]] == ["target"]
    assert [(item.field.name, item.value) for item in form.options] == [
        ("voxel_size", ""), ("fill_missing", "false"), ("pyramid", "true"),
    ]  # fmt: skip
    assert [item.field.name for item in form.advanced] == ["modality", "coarsest_mag"]
    assert not form.has_changed_advanced
    assert Form.fill(CONVERT, {"coarsest_mag": ["4"]}, NOTHING).has_changed_advanced


def test_what_was_filled_in_becomes_params():
    values = {
        "source": ["a", "b"], "layer_name": ["color", "labels"], "category": ["color", "segmentation"],
        "target": ["t"], "pyramid": ["false"], "fill_missing": ["false", "true"],
    }  # fmt: skip
    params = CONVERT.parse(CONVERT.collect(Form.fill(CONVERT, values, NOTHING).collected()))
    assert params.model_dump(mode="json", exclude_defaults=True) == {
        "layers": [
            {"source": "a", "layer_name": "color"},
            {"source": "b", "layer_name": "labels", "category": "segmentation"},
        ],
        "target": "t", "pyramid": False, "fill_missing": True,
    }  # fmt: skip


def test_the_layers_of_the_chosen_dataset_are_offered():
    offered = (Choice("color", "color – color, uint8, 8 × 8 × 8, 2 mags"),)
    for ref in ("demo", "0123"):
        picker = Form.fill(DOWNSAMPLE, {"dataset": [ref]}, STOCK).input_named("layer")
        assert (picker.choices, picker.nothing) == (offered, "Choose a layer")
    picker = Form.fill(DOWNSAMPLE, {}, STOCK).input_named("layer")
    assert (picker.choices, picker.nothing) == ((), "Choose a dataset first")
    unknown = Form.fill(DOWNSAMPLE, {"dataset": ["job:1"]}, STOCK).input_named("layer")
    assert unknown.choices is None, "it is typed"


def test_only_layers_of_the_category_that_a_workflow_takes_are_offered(priced):
    def picker(dataset: str):
        shown = Form.fill(priced, {"dataset": [dataset]}, STOCK).input_named("layer")
        return [choice.value for choice in shown.choices], shown.nothing

    assert picker("cortex") == (["labels"], "Choose a layer")
    assert picker("demo") == ([], "This dataset has no segmentation layer")


def test_a_layer_that_is_the_only_one_is_chosen_and_one_of_another_dataset_is_not_kept(priced):
    filled = Form.fill(priced, {"dataset": ["cortex"], "mag": ["8"]}, STOCK)
    settled = filled.settled()
    assert (filled.values["layer"], settled.values["layer"], settled.values["mag"]) == ([], ["labels"], [""])
    elsewhere = Form.fill(priced, {"dataset": ["demo"], "layer": ["labels"]}, STOCK).settled()
    assert elsewhere.values["layer"] == [""]


def test_the_mags_of_the_layer_are_offered_with_their_voxel_size(priced):
    form = Form.fill(priced, {"dataset": ["cortex"], "layer": ["labels"]}, STOCK)
    picker = form.input_named("mag")
    assert (picker.choices, picker.nothing) == (
        (Choice("1", "1 – voxels of 4 × 4 × 40 nm"), Choice("2-2-1", "2-2-1 – voxels of 8 × 8 × 40 nm")),
        "The finest, 1",
    )


def test_a_box_says_what_it_comes_to(priced):
    def box(text: str, mag: str = ""):
        values = {"dataset": ["cortex"], "layer": ["labels"], "box": [text], "mag": [mag]}
        shown = Form.fill(priced, values, STOCK).input_named("box")
        return shown.note, shown.is_refused

    assert box("") == ("The whole layer: 1000 × 600 × 300 voxels in mag 1, 4 × 2.4 × 12 µm", False)
    assert box("10,0,0,100,50,20", "2-2-1") == ("50 × 25 × 20 voxels in mag 2-2-1, 400 × 200 × 800 nm", False)
    assert box("0,0,0,100,50,20") == (
        (
            "box '0,0,0,100,50,20' leaves layer labels, which is 10,0,0,1000,600,300; the part inside it is"
            " 10,0,0,90,50,20"
        ),
        True,
    )
    assert box("0,0,0,1,1,1")[0].endswith("; choose one inside it")
    assert box("10,0,0,0,1,1") == ("box '10,0,0,0,1,1' is empty; each side must be 1 voxel or more", True)
    assert box("1,2")[1]


def test_boxes_are_offered_whole_small_in_the_middle_and_as_they_were_drawn(priced):
    values = {"dataset": ["cortex"], "layer": ["labels"], "mag": ["2-2-1"], "box": ["10,0,0,5,5,5"]}
    form = Form.fill(priced, values, STOCK)
    assert form.input_named("box").shortcuts == (
        Choice("", "Whole layer"),
        Choice("254,44,22,512,512,256", "Test run on a small box in the middle, 256 × 256 × 256"),
        Choice("900,0,0,110,200,200", "Box 1 of annotation soma, 55 × 100 × 200"),
    )
    small = {"dataset": ["demo"], "layer": ["color"]}
    with_box = replace(priced, params_type=AnyBox)
    assert Form.fill(with_box, small, STOCK).input_named("box").shortcuts == (Choice("", "Whole layer"),)


def test_a_box_is_drawn_on_the_pictures_of_the_only_layer_in_the_proportions_of_space(priced):
    slices = tuple(
        SliceView(file="a" * 32 + ".webp", width=512, height=8, plane=plane, box=box)
        for plane, box in (
            ("xy", "10,0,150,1000,600,1"),
            ("xz", "10,300,0,1000,1,300"),
            ("yz", "510,0,0,1,600,300"),
        )
    )
    preview = LayerPreview(slices=slices, thumbnail=PictureView(file="b" * 32 + ".webp", width=8, height=8))
    layer = LABELS.model_copy(update={"preview": preview})
    drawn = CORTEX.model_copy(update={"summary": DatasetSummary(voxel_size="4,4,40", layers=(COLOR, layer))})

    def canvas(stock: Stock, **values: list[str]):
        return Form.fill(priced, {"layer": ["labels"], **values}, stock).input_named("box").canvas

    found = canvas(Stock((drawn, DEMO)), dataset=["cortex"])
    assert found.box == "10,0,0,1000,600,300"
    assert [(item.slice.plane, item.proportion) for item in found.slices] == [
        ("xy", 1000 / 600), ("xz", 4000 / 12000), ("yz", 2400 / 12000),
    ]  # fmt: skip
    assert canvas(Stock((drawn, DEMO)), dataset=["cortex", "demo"]) is None, "there are several datasets"
    assert canvas(STOCK, dataset=["cortex"]) is None, "the layer has no pictures"


def test_several_datasets_become_several_jobs_with_the_same_other_params(priced):
    form = Form.fill(priced, {"dataset": ["demo"], "layer": ["labels"], "target": ["demo_cells"]}, STOCK)
    several = form.with_datasets_added(["cortex"])
    assert several.runs == 2
    assert [several.collected(run) for run in range(2)] == [
        {"dataset": "demo", "layer": "labels", "mag": "", "box": "", "target": "demo_cells"},
        {"dataset": "cortex", "layer": "labels", "mag": "", "box": "", "target": "cortex_cells"},
    ]
    assert several.unnamed == ()
    assert several.with_row_removed("runs", 0).collected()["dataset"] == "cortex"
    assert [item.id for item in several.main[0].rows[1]][:2] == ["input-dataset-1", "input-layer-1"]


def test_a_problem_of_one_of_several_jobs_stands_beside_its_own_inputs(priced):
    form = Form.fill(priced, {"dataset": ["cortex"] * 2, "target": ["a", ""], "layer": ["labels"] * 2}, STOCK)
    with pytest.raises(InvalidParams) as error:
        priced.parse(priced.collect(form.collected(1)))
    assert form.with_error(error.value, 1).errors == {("target", 1): "Fill this in."}
    quoted = form.with_error(SourceNotFound("there is no 'cortex'"), 1)
    assert quoted.errors == {("dataset", 1): "there is no 'cortex'"}
    assert form.with_error(SourceNotFound("no room"), 1).problem == "cortex: no room"


def test_saved_params_leave_the_data_as_it_is(priced):
    form = Form.fill(
        priced, {"dataset": ["cortex"], "layer": ["labels"], "mag": ["1"], "box": ["0,0,0,1,1,1"]}, STOCK
    )
    filled = form.with_params({"mag": "2-2-1"})
    assert filled.collected() == {
        "dataset": "cortex", "layer": "labels", "mag": "2-2-1", "box": "0,0,0,1,1,1", "target": "",
    }  # fmt: skip
    two = Form.fill(CONVERT, {"source": ["a"], "pyramid": ["false", "true"]}, NOTHING).with_params(
        {"layer_name": ["x", "y"], "category": ["color", "segmentation"]}
    )
    assert (two.rows, two.values["source"], two.values["pyramid"]) == ({"layers": 2}, ["a"], [])


def test_an_address_names_values_by_kind(priced):
    given = {"dataset": "d", "layer": "l", "box": "0,0,0,1,1,1", "mag": "2", "from": "job"}
    assert kind_values(priced, given) == given
    assert kind_values(DOWNSAMPLE, {"dataset": "d", "mag": "2"}) == {"dataset": "d", "mag": "2"}


def test_rows_are_added_and_removed_with_their_values():
    form = Form.fill(CONVERT, {"source": ["a", "b"], "layer_name": ["x", "y"]}, NOTHING)
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
    form = Form.fill(CONVERT, {"source": ["a"], "voxel_size": ["1,2"], "coarsest_mag": ["3-3-3"]}, NOTHING)
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
    form = Form.fill(CONVERT, {"source": ["root:x/a", "root:x/b"], "target": ["t"]}, NOTHING)
    shown = form.with_error(SourceNotFound("there is no 'root:x/b'; choose another"))
    assert shown.errors == {("source", 1): "there is no 'root:x/b'; choose another"}


def test_any_other_error_stands_above_the_form():
    shown = Form.fill(CONVERT, {"target": ["t"]}, NOTHING).with_error(
        InvalidParams("two layers are named 'color'")
    )
    assert (shown.problem, shown.errors) == ("two layers are named 'color'", {})


def test_a_form_without_any_dataset_to_choose_says_so():
    assert Form.fill(DOWNSAMPLE, {}, NOTHING).is_empty_catalog
    assert not Form.fill(DOWNSAMPLE, {}, STOCK).is_empty_catalog
    assert not Form.fill(CONVERT, {}, NOTHING).is_empty_catalog
