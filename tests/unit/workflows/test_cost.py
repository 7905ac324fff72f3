import pytest
from pydantic import BaseModel

from small_networks import small_facts
from voxelworks.geometry import Box, Mag, VoxelSize
from voxelworks.protocol.views import AnnotationSummary, DatasetSummary, LayerSummary, VolumeLayerSummary
from voxelworks.workflows import FREE, PerGigavoxel, get_workflow, raw_bytes

LAYER = LayerSummary(
    name="color", category="color", dtype="uint16", channel_count=3, box="0,0,0,64,64,32", mags=("2-2-1", "4-4-2"),
)  # fmt: skip


class Known:
    def layer(self, _ref):
        return LAYER

    def source_bytes(self, _ref):
        return 1400


class Params(BaseModel):
    model_config = {"arbitrary_types_allowed": True}

    layer: str = "demo/color"
    box: Box | None = None
    target_mag: Mag | None = None


def _measure(cost, **params):
    return cost.measure(Params(**params), Known())


def test_free_workflows_have_no_quantity():
    assert FREE.is_free
    assert _measure(FREE) == 0


@pytest.mark.parametrize(
    ("params", "voxels"),
    [
        ({}, 32 * 32 * 32),
        ({"target_mag": Mag(4, 4, 2)}, 16 * 16 * 16),
        ({"box": Box.parse("0,0,0,8,8,8")}, 4 * 4 * 8),
        ({"box": Box.parse("0,0,0,8,8,8"), "target_mag": Mag(1, 1, 1)}, 8 * 8 * 8),
    ],
)
def test_voxels_are_counted_in_the_mag_and_box_that_params_name(params, voxels):
    cost = PerGigavoxel("infer_neurons", of="target_mag")
    assert (cost.is_free, cost.price) == (False, "infer_neurons")
    assert _measure(cost, **params) == voxels


def test_without_a_mag_the_finest_of_the_layer_counts():
    assert _measure(PerGigavoxel("align")) == 32 * 32 * 32


def test_a_function_may_tell_the_mag():
    cost = PerGigavoxel("align", in_mag=lambda _params, _inputs: Mag(4, 4, 2))
    assert _measure(cost) == 16 * 16 * 16
    assert cost.region(Params(), Known()) == (Box((0, 0, 0), (16, 16, 16)), Mag(4, 4, 2))


@pytest.mark.parametrize(
    ("voxel_size", "mag"),
    [("5,5,50", "2-2-1"), ("2.5,2.5,12.5", "4-4-2"), ("100,100,100", "2-2-1"), (None, "2-2-1")],
)
def test_segmentations_cost_the_voxels_that_the_network_is_given(voxel_size, mag):
    class Layers(Known):
        def dataset(self, _ref):
            return DatasetSummary(voxel_size=voxel_size, layers=(LAYER,))

        def model(self, _ref):
            return small_facts(voxel_size=VoxelSize(10, 10, 50))

    declared = get_workflow("infer_mitochondria")
    params = declared.params_type(layer="demo/color", target="made")
    assert declared.cost.region(params, Layers()) == (
        Box.parse(LAYER.box).in_mag(Mag.parse(mag)),
        Mag.parse(mag),
    )


@pytest.mark.parametrize(
    ("below", "mag", "voxels"), [("cells", None, 64**3), (None, None, 32**3), ("cells", "2", 32**3)]
)
def test_trainings_on_annotations_cost_the_voxels_of_the_layer_that_was_painted_over(below, mag, voxels):
    layers = tuple(
        LAYER.model_copy(update={"name": name, "mags": mags})
        for name, mags in (("color", ("2",)), ("cells", ("1", "2")))
    )
    painted = VolumeLayerSummary(name="Volume", fallback_layer=below, location="data.zip")

    class Painted(Known):
        def layer(self, ref):
            return next(layer for layer in layers if layer.name == ref.layer)

        def dataset(self, _ref):
            return DatasetSummary(voxel_size="8,8,8", layers=layers)

        def annotation(self, _ref):
            return AnnotationSummary(
                dataset_name=None, tree_count=0, node_count=0, volume_layers=(painted,),
                bounding_boxes=("0,0,0,64,64,64",),
            )  # fmt: skip

    declared = get_workflow("train_instance_model")
    box = {"image": {"dataset": "demo", "layer": "color"}, "annotation": "painted", "mag": mag}
    params = declared.parse({"boxes": [box], "target": "made"})
    assert declared.cost.measure(params, Painted()) == voxels


def test_a_function_may_count():
    assert _measure(PerGigavoxel("train_neuron_model", of=lambda params, _inputs: 7)) == 7


def test_the_layer_is_not_asked_for_when_box_and_mag_say_all():
    params = Params(box=Box.parse("0,0,0,8,8,8"), target_mag=Mag(1, 1, 1))
    assert PerGigavoxel("align", of="target_mag").measure(params, None) == 512


def test_raw_bytes_are_those_of_the_finest_mag():
    assert raw_bytes(LAYER) == 32 * 32 * 32 * 3 * 2


@pytest.mark.parametrize(
    ("workflow", "params", "result_bytes"),
    [
        ("convert", {"layers": [{"source": "a"}], "target": "t"}, 1600),
        ("convert", {"layers": [{"source": "a"}], "target": "t", "pyramid": False}, 1400),
        ("convert", {"layers": [{"source": "a"}, {"source": "b", "layer_name": "b"}], "target": "t"}, 3200),
        ("downsample", {"layer": "demo/color"}, 32 * 32 * 32 * 3 * 2 // 7),
    ],
)
def test_workflows_estimate_what_their_result_takes(workflow, params, result_bytes):
    declared = get_workflow(workflow)
    assert declared.result_bytes(declared.parse(params), Known()) == result_bytes
