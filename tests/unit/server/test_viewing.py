"""What the viewer is told of a dataset."""

import json

import pytest

from voxelworks.errors import InvalidDataset, InvalidGeometry, InvalidInput, LayerNotFound
from voxelworks.geometry import Box, VoxelSize
from voxelworks.server.opening import openings
from voxelworks.server.viewing import make_scene, parse_position, read_source
from voxelworks.volumes.metadata import DataSource, LayerProperties, MagProperties, ome_group

FILES = "/api/v1/datasets/d/files"
NM = 1e-9


def layer(name="color", category="color", element_class="uint8", *, levels=("1", "2-2-1"), **more):
    return LayerProperties.model_validate(
        {
            "name": name, "category": category, "elementClass": element_class, "dataFormat": "zarr3",
            "boundingBox": {"topLeft": [10, 20, 3], "width": 100, "height": 60, "depth": 8},
            "mags": [
                {"mag": [int(part) for part in (mag.split("-") * 3)[:3]], "path": f"./{name}/{mag}",
                 "axisOrder": {"c": 0, "z": 1, "y": 2, "x": 3}}
                for mag in levels
            ],
        } | more
    )  # fmt: skip


def scene(*layers, files=None, **look):
    """Describe a dataset of our own layout."""
    source = DataSource.new("demo", VoxelSize(4, 4, 40))
    known = {}
    for item in layers:
        source = source.with_layer(item)
        group = ome_group(source.voxel_size, item)
        if group is not None:
            known[f"{item.name}/zarr.json"] = json.dumps(group).encode()
    read = (known if files is None else files).get
    return make_scene(source, read, title="demo", files=FILES, **look)


def test_layers_lie_where_their_voxels_are_counted():
    """OME-Zarr counts from centres: half a voxel makes up for that, on each axis, and channels have none."""
    [shown] = scene(layer()).state["layers"]
    assert shown == {
        "name": "color", "type": "image",
        "source": {
            "url": f"{FILES}/color/|zarr3:",
            "transform": {
                "matrix": [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0.5], [0, 0, 1, 0, 0.5], [0, 0, 0, 1, 0.5]],
                "outputDimensions": {
                    "c^": [1, ""], "z": [40 * NM, "m"], "y": [4 * NM, "m"], "x": [4 * NM, "m"],
                },
            },
        },
    }  # fmt: skip


def test_positions_are_voxels_of_mag_1_in_nanometres():
    state = scene(layer()).state
    assert state["dimensions"] == {"x": [4 * NM, "m"], "y": [4 * NM, "m"], "z": [40 * NM, "m"]}
    assert state["position"] == [60, 50, 7]
    assert state["title"] == "demo"
    assert state["layout"] == "4panel"


def test_a_box_is_looked_at_and_drawn():
    state = scene(layer(), box=Box.parse("20,30,4,10,8,2")).state
    assert state["position"] == [25, 34, 5]
    marked = state["layers"][-1]
    assert (marked["type"], marked["name"]) == ("annotation", "box")
    [drawn] = marked["annotations"]
    assert (drawn["type"], drawn["pointA"], drawn["pointB"]) == (
        "axis_aligned_bounding_box", [20, 30, 4], [30, 38, 6],
    )  # fmt: skip
    wide = scene(layer()).state
    assert state["crossSectionScale"] < wide["crossSectionScale"]


def test_a_position_is_looked_at():
    assert scene(layer(), position=(1.5, 2, 3)).state["position"] == [1.5, 2, 3]


def test_one_layer_is_shown_alone():
    state = scene(layer(), layer("seg", "segmentation", "uint32"), layer_name="seg").state
    assert [(item["name"], item.get("visible", True)) for item in state["layers"]] == [
        ("color", False), ("seg", True),
    ]  # fmt: skip
    assert state["selectedLayer"]["layer"] == "seg"
    with pytest.raises(LayerNotFound):
        scene(layer(), layer_name="nothing")


def test_a_segment_is_covered_by_no_other_segmentation():
    shown = scene(
        layer("old", "segmentation", "uint32"), layer("em", element_class="uint16"),
        layer("seg", "segmentation", "uint64"), layer("truth", "segmentation", "uint32"), segment=("seg", 2**64 - 1),
    )  # fmt: skip
    assert [
        (item["name"], item.get("visible", True), item.get("segments")) for item in shown.state["layers"]
    ] == [("old", False, None), ("em", True, None), ("seg", True, [str(2**64 - 1)]), ("truth", False, None)]
    # The range of values is looked for in the first layer that can be seen.
    assert (shown.contrast, shown.state["selectedLayer"]["layer"]) == ("em", "em")


def test_fragments_do_not_cover_the_neurons_that_they_make():
    layers = [
        layer(name, "segmentation", "uint32") for name in ("cells", "cells_fragments", "other_fragments")
    ]

    def visible(**look):
        return [item["name"] for item in scene(*layers, **look).state["layers"] if item.get("visible", True)]

    assert visible() == ["cells", "other_fragments"]
    assert visible(layer_name="cells_fragments") == ["cells_fragments"]
    assert visible(segment=("cells_fragments", 3)) == ["cells_fragments"]


def test_segmentations_have_segments():
    [shown] = scene(layer("seg", "segmentation", "uint64")).state["layers"]
    assert shown["type"] == "segmentation"
    assert list(shown["source"]["transform"]["outputDimensions"]) == ["c^", "z", "y", "x"]


def test_a_layer_without_its_finest_magnification_keeps_its_place():
    [shown] = scene(layer(levels=("2-2-1", "4-4-2"))).state["layers"]
    assert shown["source"]["transform"]["matrix"] == [
        [1, 0, 0, 0, 0], [0, 1, 0, 0, 0.5], [0, 0, 1, 0, 0.5], [0, 0, 0, 1, 0.5],
    ]  # fmt: skip


def test_an_image_that_says_to_lie_elsewhere_begins_at_0_as_in_the_list_of_datasets():
    image = layer(levels=("1",))
    group = ome_group(VoxelSize(4, 4, 40), image)
    level = group["attributes"]["ome"]["multiscales"][0]["datasets"][0]
    level["coordinateTransformations"][1]["translation"] = [0, 400, 8, 0]
    [shown] = scene(image, files={"color/zarr.json": json.dumps(group).encode()}).state["layers"]
    assert [row[-1] for row in shown["source"]["transform"]["matrix"]] == [0, -9.5, -1.5, 0.5]


def test_three_channels_of_a_byte_are_red_green_and_blue():
    [shown] = scene(layer(element_class="uint24", numChannels=3)).state["layers"]
    assert "emitRGB(vec3(channel0(), channel1(), channel2()))" in shown["shader"]


def test_other_channels_get_a_colour_each():
    [shown] = scene(layer(element_class="uint32", numChannels=2)).state["layers"]
    assert shown["shader"].count("#uicontrol invlerp") == shown["shader"].count("#uicontrol vec3") == 2
    assert "color0 * channel0() + color1 * channel1()" in shown["shader"]


def test_the_viewer_finds_the_contrast_of_what_has_more_than_a_byte_and_states_none():
    stated = {"defaultViewConfiguration": {"intensityRange": [100, 4000]}}
    for shown, expected in (
        (scene(layer(element_class="uint16")), "color"),
        (scene(layer(element_class="float")), "color"),
        (scene(layer(element_class="uint16", **stated)), None),
        (scene(layer()), None),
        (scene(layer(), layer("deep", element_class="uint16")), None),
        (scene(layer(), layer("deep", element_class="uint16"), layer_name="deep"), "deep"),
        (scene(layer("seg", "segmentation", "uint32")), None),
    ):
        assert shown.contrast == expected
        assert shown.state["selectedLayer"]["visible"] == (expected is not None)


def test_the_contrast_that_webknossos_shows_is_taken_over():
    chosen = {"defaultViewConfiguration": {"intensityRange": [100, 4000]}}
    [shown] = scene(layer(element_class="uint16", **chosen)).state["layers"]
    assert shown["shaderControls"] == {"normalized": {"range": [100, 4000]}}
    for broken in (
        {"intensityRange": [5, 5]},
        {"intensityRange": ["a", "b"]},
        {"intensityRange": 7},
        [],
        None,
    ):
        [shown] = scene(layer(defaultViewConfiguration=broken)).state["layers"]
        assert "shaderControls" not in shown


@pytest.mark.parametrize(
    ("data_format", "path", "axes", "url", "names"),
    [
        ("zarr3", "./color/1", "cxyz", f"{FILES}/color/1/|zarr3:", ["c^", "x", "y", "z"]),
        ("zarr", "./color/1", "zyx", f"{FILES}/color/1/|zarr2:", ["z", "y", "x"]),
        ("n5", "./color/s0", "xyz", f"{FILES}/color/s0/|n5:", ["x", "y", "z"]),
    ],
)
def test_arrays_without_ome_metadata_are_shown_in_their_finest_magnification(
    data_format, path, axes, url, names
):
    plain = layer(dataFormat=data_format).model_copy(
        update={"mags": (MagProperties.model_validate({
            "mag": 1, "path": path, "axisOrder": {axis: index for index, axis in enumerate(axes)}}),)}
    )  # fmt: skip
    [shown] = scene(plain, files={}).state["layers"]
    assert shown["source"]["url"] == url
    transform = shown["source"]["transform"]
    assert list(transform["outputDimensions"]) == names
    assert [row[-1] for row in transform["matrix"]] == [0] * len(names)
    # Such an array has no size: one of its voxels counts as a metre.
    size = {"x": 4 * NM, "y": 4 * NM, "z": 40 * NM}
    assert [row[index] for index, row in enumerate(transform["matrix"])] == [
        size.get(name, 1) for name in names
    ]


def test_precomputed_volumes_say_all_themselves():
    mags = [{"mag": 1, "path": "./color/4_4_40"}]
    [shown] = scene(layer(dataFormat="neuroglancerPrecomputed").model_copy(
        update={"mags": tuple(map(MagProperties.model_validate, mags))}), files={}).state["layers"]  # fmt: skip
    assert shown["source"] == f"{FILES}/color/|neuroglancer-precomputed:"


def test_a_single_ome_zarr_image_is_shown_from_its_root():
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    scaled = [{"type": "scale", "scale": [0.04, 0.004, 0.004]}]
    attributes = {
        "multiscales": [
            {"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scaled}]}
        ]
    }
    files = {
        ".zattrs": json.dumps(attributes).encode(),
        "0/.zarray": json.dumps({"dtype": "<u2", "shape": [8, 60, 100]}).encode(),
    }
    source = read_source(files.get, "image")
    [shown] = make_scene(source, files.get, title="image", files=FILES).state["layers"]
    assert shown["source"]["url"] == f"{FILES}/|zarr2:"
    assert list(shown["source"]["transform"]["outputDimensions"]) == ["z", "y", "x"]


def test_names_are_written_as_addresses_need_them():
    odd = layer("a b|c")
    [shown] = scene(odd).state["layers"]
    assert shown["source"]["url"] == f"{FILES}/a%20b%7Cc/|zarr3:"


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"dataFormat": "wkw"}, "is stored as wkw, which it does not read"),
        ({"mags": []}, "has no magnification yet"),
        ({"mags": [{"mag": 1, "path": "../elsewhere/1"}]}, "lies outside the dataset"),
        ({"mags": [{"mag": 1, "path": "https://example.org/1"}]}, "lies outside the dataset"),
        ({"mags": [{"mag": 1, "path": "/data/1"}]}, "lies outside the dataset"),
        ({"additionalAxes": [{"name": "t"}]}, "has more axes than c, x, y and z"),
    ],
)
def test_what_cannot_be_shown_is_said(more, why):
    shown = scene(layer("good"), layer("bad", **more))
    assert [item["name"] for item in shown.state["layers"]] == ["good"]
    assert shown.left_out == (f"layer 'bad' {why}",)
    with pytest.raises(InvalidInput, match=why):
        scene(layer("bad", **more))


def test_a_dataset_without_layers_or_metadata_is_refused():
    with pytest.raises(InvalidInput, match="has no layers yet"):
        scene()
    with pytest.raises(InvalidDataset, match="hold no metadata"):
        read_source({}.get, "gone")


@pytest.mark.parametrize("text", ["", "1,2", "1,2,3,4", "a,b,c", "nan,0,0", "inf,0,0", "1e300,0,0"])
def test_what_is_no_position_is_refused(text):
    with pytest.raises(InvalidGeometry, match="position"):
        parse_position(text)


def test_other_programs_open_the_finest_magnification_of_the_first_layer():
    source = DataSource.new("demo", VoxelSize(4, 4, 40)).with_layer(layer())
    texts = {copy.id: copy.text for copy in openings(source, "https://example.org/shared/x/files")}
    at = "https://example.org/shared/x/files/color"
    assert texts["open-fiji"] == at
    assert texts["open-napari"] == f"napari --plugin napari-ome-zarr {at}"
    assert f'zarr.open_array("{at}/1", mode="r")  # axes c, z, y, x' in texts["open-zarr"]
    assert f'"kvstore": "{at}/1/"' in texts["open-tensorstore"]
    assert 'Dataset.open("https://example.org/shared/x/files").layer("color")' in texts["open-voxelworks"]


def test_what_only_our_package_reads_is_offered_for_it_alone():
    assert [copy.id for copy in openings(None, "/data/x")] == ["open-voxelworks"]
    source = DataSource.new("demo", VoxelSize(4, 4, 40)).with_layer(layer(dataFormat="wkw"))
    assert [copy.id for copy in openings(source, "/data/x")] == ["open-voxelworks"]
