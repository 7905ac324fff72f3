"""Which annotations the form of a workflow offers."""

from __future__ import annotations

import pytest

from annotated_work import installed
from voxelworks.errors import InvalidParams
from voxelworks.protocol.views import (
    AnnotationSummary,
    AnnotationView,
    DatasetSummary,
    DatasetView,
    VolumeLayerSummary,
)
from voxelworks.server.forms import Choice, Form, Stock, kind_values
from voxelworks.workflows import workflows

CORTEX = DatasetView(
    id="c0", name="cortex", place="data:local/cortex", summary=DatasetSummary(voxel_size="4,4,40", layers=()),
    created_ms=0, updated_ms=0, made_by_job=None, organization_id="local", user_id="local", is_public=False,
    is_linked=False, size_bytes=0, trashed_ms=None, purge_ms=None,
)  # fmt: skip
RETINA = CORTEX.model_copy(update={"id": "e7", "name": "retina"})
VOLUME = VolumeLayerSummary(name="Volume", fallback_layer="cells", location="data.zip")


def _annotation(annotation_id, name, dataset, trees=0, volumes=0):
    summary = AnnotationSummary(
        dataset_name="roi", tree_count=trees, node_count=trees, volume_layers=(VOLUME,) * volumes, bounding_boxes=(),
    )  # fmt: skip
    return AnnotationView(
        id=annotation_id, organization_id="local", user_id="local", name=name, kind="zip",
        dataset_id=dataset.id if dataset else None, address=None, has_token=False, size_bytes=1, sha256=None,
        summary=summary, created_ms=0, trashed_ms=None, purge_ms=None,
    )  # fmt: skip


STOCK = Stock(
    (CORTEX, RETINA),
    annotations=(
        _annotation("a1", "loose", None, trees=1),
        _annotation("a2", "axons", CORTEX, trees=2, volumes=1),
        _annotation("a3", "cones", RETINA),
    ),
)


@pytest.fixture
def apply():
    with installed():
        yield workflows()["apply_annotation"]


def test_those_of_the_chosen_dataset_are_offered_then_those_of_none(apply):
    def picker(**values):
        shown = Form.fill(apply, values, STOCK).input_named("annotation")
        return shown.choices, shown.nothing

    loose = Choice("a1", "loose – 1 tree, made in roi")
    assert picker(dataset=["cortex"]) == (
        (Choice("a2", "axons – 2 trees, 1 volume layer"), loose),
        "Choose an annotation",
    )
    assert picker(dataset=["e7"]) == ((Choice("a3", "cones – empty"), loose), "Choose an annotation")
    assert picker() == ((), "Choose a dataset first")
    shown = Form.fill(apply, {"dataset": ["cortex"]}, Stock((CORTEX,))).input_named("annotation")
    assert (shown.choices, shown.nothing) == ((), "There is no annotation of this dataset")


def test_one_of_another_dataset_is_not_kept(apply):
    values = {"dataset": ["retina"], "annotation": ["a2"]}
    assert Form.fill(apply, values, STOCK).settled().values["annotation"] == [""]
    values = {"dataset": ["cortex"], "annotation": ["a2"]}
    assert Form.fill(apply, values, STOCK).settled().values["annotation"] == ["a2"]


def test_where_those_of_other_datasets_may_be_given_they_come_last():
    evaluate = workflows()["evaluate_segmentation"]
    shown = Form.fill(evaluate, {"dataset": ["cortex"]}, STOCK).input_named("truth_annotation")
    assert (shown.choices, shown.nothing) == (
        (
            Choice("a2", "axons – 2 trees, 1 volume layer"),
            Choice("a1", "loose – 1 tree, made in roi"),
            Choice("a3", "cones – empty, of retina"),
        ),
        "None",
    )
    values = {"dataset": ["cortex"], "truth_annotation": ["a3"]}
    assert Form.fill(evaluate, values, STOCK).settled().values["truth_annotation"] == ["a3"]
    alone = Stock((CORTEX,), annotations=STOCK.annotations)
    assert (
        Form.fill(evaluate, values, alone)
        .input_named("truth_annotation")
        .choices[-1]
        .text.endswith("of another dataset")
    )


def test_one_of_several_things_to_work_on_is_no_mere_option():
    form = Form.fill(workflows()["evaluate_segmentation"], {"dataset": ["cortex"]}, STOCK)
    main = [item.name for group in form.main for row in group.rows for item in row]
    assert main == ["dataset", "layer", "truth_dataset", "truth", "truth_annotation", "box", "mag"]
    assert [item.name for item in form.options] == []


def test_a_missing_one_is_asked_for(apply):
    form = Form.fill(apply, {"dataset": ["cortex"], "target": ["new"]}, STOCK)
    with pytest.raises(InvalidParams) as error:
        apply.parse(apply.collect(form.collected()))
    assert form.with_error(error.value).errors == {("annotation", 0): "Choose an annotation."}


def test_each_of_several_datasets_has_its_own(apply):
    values = {"dataset": ["cortex"], "annotation": ["a2"], "target": ["cortex_a"]}
    several = Form.fill(apply, values, STOCK).with_datasets_added(["retina"])
    assert several.collected(1) == {"dataset": "retina", "annotation": "", "target": "retina_a"}
    assert [choice.value for choice in several.input_named("annotation", 1).choices] == ["a3", "a1"]


def test_an_address_names_it_by_its_kind(apply):
    assert kind_values(apply, {"annotation": "a2", "dataset": "cortex"}) == {
        "annotation": "a2",
        "dataset": "cortex",
    }
