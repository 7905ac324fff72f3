"""What is submitted at once: several datasets, and what follows."""

from __future__ import annotations

import pytest

from paid_work import installed
from voxelworks.errors import InvalidInput, SourceNotFound, TargetExists
from voxelworks.protocol.credits import PriceView
from voxelworks.protocol.views import DatasetSummary, DatasetView, JobPrice, LayerSummary
from voxelworks.server.dialog import Dialog
from voxelworks.server.forms import Choice, Stock
from voxelworks.workflows import get_workflow

CONVERT = get_workflow("convert")
LARGEST = get_workflow("find_largest_segment_id")
LABELS = LayerSummary(
    name="labels", category="segmentation", dtype="uint32", channel_count=1, box="0,0,0,8,8,8", mags=("1",)
)
DEMO = DatasetView(
    id="0123", name="demo", place="data:local/demo", summary=DatasetSummary(voxel_size="4,4,40", layers=(LABELS,)),
    created_ms=0, updated_ms=0, made_by_job=None, organization_id="local", user_id="local", is_public=False,
    is_linked=False, size_bytes=0, trashed_ms=None, purge_ms=None,
)  # fmt: skip
STOCK = Stock((DEMO, DEMO.model_copy(update={"id": "4567", "name": "cortex"})))
STACK = {
    "source": ["root:scope/run1"],
    "layer_name": ["labels"],
    "category": ["segmentation"],
    "target": ["t"],
}
FREE = JobPrice(price=None, size=None, mag=None)


def price_of(amount: int) -> JobPrice:
    price = PriceView(
        price_name="p", quantity=1, unit="voxels", price=1000, price_list_version="2026-1", amount=amount,
        available=3000, has_enough=True,
    )  # fmt: skip
    return JobPrice(price=price, size=None, mag=None)


def followed() -> Dialog:
    """A conversion, then its coarser mags, then its largest segment id."""
    values = {
        **STACK, "then": ["downsample", "find_largest_segment_id"], "then0-layer": ["labels"],
        "then1-layer": ["labels"],
    }  # fmt: skip
    return Dialog.read(CONVERT, values, STOCK)


def test_what_follows_takes_the_result_of_the_job_before():
    dialog, orders = followed().orders()
    assert not dialog.is_faulty
    assert [(order.job.key, order.job.workflow, order.job.params) for order in orders] == [
        ("1.1", "convert", {
            "layers": [{"source": "root:scope/run1", "layer_name": "labels", "category": "segmentation"}],
            "target": "t",
        }),
        ("1.2", "downsample", {"layer": {"dataset": "job:1.1", "layer": "labels"}}),
        ("1.3", "find_largest_segment_id", {"layer": {"dataset": "job:1.2", "layer": "labels"}}),
    ]  # fmt: skip


def test_what_follows_offers_the_layers_that_the_job_before_makes():
    shown = followed().steps[1].input_named("layer")
    assert shown.choices == (Choice("labels", "labels – segmentation"),)
    color = Dialog.read(CONVERT, STACK | {"category": ["color"], "then": ["find_largest_segment_id"]}, STOCK)
    shown = color.steps[0].input_named("layer")
    assert (shown.choices, shown.nothing) == ((), "It has no segmentation layer")


def test_only_workflows_that_take_what_was_made_may_follow():
    def names(values) -> list[str]:
        return [item.name for item in Dialog.read(CONVERT, values, STOCK).can_be_followed_by]

    of_images = ["downsample", "export_ome_zarr", "export_tiff"]
    of_segments = ["compute_segment_index_file", "compute_segment_statistics"]
    inferring = ["infer_instances", "infer_mitochondria", "infer_neurons", "infer_nuclei", "infer_with_model"]
    of_all = ["import_training_labels"]
    found = ["agglomerate", "apply_mapping", *of_segments, *of_images, "find_largest_segment_id", *of_all]
    assert names(STACK) == found
    assert names(STACK | {"category": ["color"]}) == [*of_images, *of_all, *inferring]
    assert names({}) == [*of_images, *of_all, *inferring], "by default the layer is an image"
    assert names(STACK | {"then": ["downsample"] * 5}) == [], "at some point it is enough"


def test_a_workflow_that_follows_can_be_taken_out_and_the_others_keep_their_values():
    shorter = followed().without_step(0)
    assert (shorter.followers, shorter.steps[0].values["layer"]) == (("find_largest_segment_id",), ["labels"])
    assert shorter.orders()[1][1].job.params["layer"]["dataset"] == "job:1.1"


def test_each_dataset_has_its_own_chain():
    values = {
        "dataset": ["demo", "cortex"], "layer": ["labels", "labels"], "then": ["downsample"],
        "then0-layer": ["labels"],
    }  # fmt: skip
    dialog, orders = Dialog.read(LARGEST, values, STOCK).orders()
    assert dialog.job_count == 4
    assert [(order.job.key, order.job.params["layer"]["dataset"]) for order in orders] == [
        ("1.1", "demo"), ("1.2", "job:1.1"), ("2.1", "cortex"), ("2.2", "job:2.1"),
    ]  # fmt: skip


def test_the_price_is_that_of_all_jobs_together():
    dialog, orders = followed().orders()
    prices = iter([price_of(1000), FREE, price_of(2500)])
    checked, offer = dialog.priced(orders, lambda _job: next(prices))
    assert not checked.is_faulty
    assert (offer.amount, offer.has_enough, offer.rest, len(offer.lines)) == (3500, False, -500, 2)
    assert dialog.priced(orders, lambda _job: FREE) == (dialog, None)


def test_what_is_wrong_with_one_job_stands_at_its_inputs():
    dialog, orders = followed().orders()

    def refuse(job):
        if job.workflow == "convert":
            raise SourceNotFound("there is nothing at 'root:scope/run1'; look below the import root")
        return FREE

    checked, _ = dialog.priced(orders, refuse)
    assert checked.form.errors == {
        ("source", 0): "there is nothing at 'root:scope/run1'; look below the import root"
    }
    missing = Dialog.read(CONVERT, {**STACK, "then": ["downsample"]}, STOCK).orders()[0]
    assert missing.steps[0].errors == {("layer", 0): "Choose a layer."}
    with installed():
        two = Dialog.read(
            get_workflow("make_segmented"),
            {"dataset": ["demo", "cortex"], "layer": ["labels"] * 2, "target": ["a", "b"]},
            STOCK,
        )
        taken = two.with_group_error(TargetExists("the name 'b' is taken (it exists); choose another name"))
    assert list(taken.form.errors) == [("target", 1)]


def test_a_price_that_depends_on_the_job_before_is_explained_in_words():
    dialog, orders = followed().orders()

    def refuse(job):
        if job.workflow == "downsample":
            raise InvalidInput("the size of job:1.1/labels is not known before job:1.1 has ended")
        return FREE

    checked, _ = dialog.priced(orders, refuse)
    assert checked.steps[0].problem == ("the size of layer labels is not known before Convert has ended")


@pytest.mark.parametrize("text", ["soon", "25", "1.5"])
def test_a_priority_that_is_none_is_refused(text):
    dialog, _ = Dialog.read(CONVERT, STACK | {"priority": [text]}, STOCK).orders()
    assert dialog.priority_error == f"{text!r} is no priority; give a whole number from -24 to 24"
    assert dialog.is_faulty
