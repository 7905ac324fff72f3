import pytest
from pydantic import BaseModel

from voxelworks.geometry import Box, Mag
from voxelworks.protocol.views import LayerSummary
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
