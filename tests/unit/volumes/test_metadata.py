"""What is read from and written to `datasource-properties.json` and the OME groups."""

import json

import pytest

from voxelworks.errors import InvalidDataset, LayerNotFound, UnsupportedDtype
from voxelworks.geometry import MAG1, Box, Mag, VoxelSize
from voxelworks.volumes.metadata import (
    CXYZ,
    DataSource,
    LayerProperties,
    MagProperties,
    dtype_of_element_class,
    element_class_of,
    load_datasource,
    ome_group,
    read_datasource,
    replace_file,
    save_datasource,
)

FOREIGN = {
    "id": {"name": "ROI", "team": "Connectomics"},
    "scale": {"factor": [11.24, 11.24, 28], "unit": "nanometer"},
    "dataLayers": [
        {
            "name": "segmentation",
            "category": "segmentation",
            "boundingBox": {"topLeft": [1, 2, 3], "width": 40, "height": 50, "depth": 60},
            "mags": [{"mag": [2, 2, 1], "cubeLength": 512}, {"mag": 1, "path": "./segmentation/1"}],
            "elementClass": "uint32",
            "dataFormat": "zarr3",
            "mappings": ["axons"],
            "attachments": {
                "meshes": [{"name": "m", "path": "./segmentation/meshes/m", "dataFormat": "hdf5"}]
            },
            "largestSegmentId": None,
        }
    ],
    "defaultViewConfiguration": {"zoom": 2, "layers": {}},
    "laterInvention": [1, {"a": None}],
}


def foreign(**changes):
    return read_datasource(json.dumps({**FOREIGN, **changes}))


def a_layer(name="color", **changes):
    values = {
        "name": name,
        "category": "color",
        "bounding_box": Box((0, 0, 0), (100, 90, 80)),
        "element_class": "uint8",
        "data_format": "zarr3",
        "num_channels": 1,
    }
    return LayerProperties(**{**values, **changes})


def test_a_file_is_understood():
    source = foreign()
    layer = source.layer("segmentation")
    assert source.voxel_size == VoxelSize(11.24, 11.24, 28)
    assert layer.bounding_box == Box((1, 2, 3), (40, 50, 60))
    assert [item.mag for item in layer.sorted_mags] == [MAG1, Mag(2, 2, 1)]
    assert (layer.dtype_name, layer.channel_count, layer.largest_segment_id) == ("uint32", 1, None)


def test_what_is_not_known_survives_a_change():
    changed = json.loads(foreign().with_largest_segment_id("segmentation", 7).to_json())
    expected = json.loads(json.dumps(FOREIGN))
    expected["dataLayers"][0]["largestSegmentId"] = 7
    expected["dataLayers"][0]["mags"][1]["mag"] = [1, 1, 1]
    assert changed == expected


def test_reading_what_was_written_gives_the_same():
    source = foreign()
    assert read_datasource(source.to_json()) == source
    assert read_datasource(source.to_json()).to_json() == source.to_json()


@pytest.mark.parametrize(
    ("scale", "voxel_size"),
    [
        ([4, 4.5, 40], "4,4.5,40"),
        ({"factor": [4, 4, 40]}, "4,4,40"),
        ({"factor": [0.004, 0.004, 0.04], "unit": "micrometer"}, "4,4,40"),
    ],
)
def test_all_forms_of_the_voxel_size_are_read(scale, voxel_size):
    assert str(foreign(scale=scale).voxel_size) == voxel_size


@pytest.mark.parametrize("scale", [{"factor": [1, 1, 1], "unit": "furlong"}, [0, 1, 1]])
def test_a_voxel_size_that_cannot_be_used_is_named(scale):
    with pytest.raises(InvalidDataset, match=r"furlong|voxel size 0,1,1"):
        _ = foreign(scale=scale).voxel_size


def test_the_mags_of_old_files_are_read():
    layer = {**FOREIGN["dataLayers"][0], "wkwResolutions": [{"resolution": 4, "cubeLength": 32}]}
    del layer["mags"]
    [mag] = foreign(dataLayers=[layer]).layer("segmentation").mags
    assert mag.mag == Mag(4, 4, 4)
    assert mag.model_dump(by_alias=True, exclude_unset=True) == {"mag": [4, 4, 4], "cubeLength": 32}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON: maximum recursion depth exceeded"),
        ("[]", "valid dictionary"),
        ("{}", "scale is missing"),
        ('{"scale": [1, 1, 1], "version": 2}', "only version 1"),
        ('{"scale": [1, 1, 1], "dataLayers": [{"name": "a"}]}', "dataLayers.0.boundingBox is missing"),
        (
            json.dumps(FOREIGN).replace('"width": 40', '"width": -40'),
            "dataLayers.0.boundingBox: .*must not be negative",
        ),
        (json.dumps(FOREIGN).replace("[2, 2, 1]", "[3, 2, 1]"), "dataLayers.0.mags.0.mag: mag 3-2-1"),
        (json.dumps({**FOREIGN, "dataLayers": FOREIGN["dataLayers"] * 2}), "two layers have the same name"),
    ],
)
def test_a_broken_file_is_refused_with_the_place_of_the_fault(text, problem):
    with pytest.raises(InvalidDataset, match=problem):
        read_datasource(text)


def test_a_new_dataset_writes_what_webknossos_needs():
    layer = a_layer("seg", category="segmentation", element_class="uint64", largest_segment_id=3)
    source = DataSource.new("mine", VoxelSize(4, 4, 40)).with_layer(layer)
    source = source.merged_mags("seg", [MagProperties.of("seg", Mag(2, 2, 1)), MagProperties.of("seg", MAG1)])
    assert json.loads(source.to_json()) == {
        "version": 1,
        "id": {"name": "mine", "team": ""},
        "scale": {"factor": [4.0, 4.0, 40.0], "unit": "nanometer"},
        "dataLayers": [
            {
                "name": "seg",
                "category": "segmentation",
                "boundingBox": {"topLeft": [0, 0, 0], "width": 100, "height": 90, "depth": 80},
                "elementClass": "uint64",
                "dataFormat": "zarr3",
                "numChannels": 1,
                "mags": [
                    {"mag": [1, 1, 1], "path": "./seg/1", "axisOrder": {"c": 0, "z": 1, "y": 2, "x": 3}},
                    {"mag": [2, 2, 1], "path": "./seg/2-2-1", "axisOrder": {"c": 0, "z": 1, "y": 2, "x": 3}},
                ],
                "largestSegmentId": 3,
            }
        ],
    }


def test_merging_a_mag_replaces_the_one_that_is_there_and_keeps_the_rest():
    before = foreign()
    after = before.merged_mags("segmentation", [MagProperties.of("segmentation", Mag(2, 2, 1))])
    assert [(str(item.mag), item.path) for item in after.layer("segmentation").mags] == [
        ("1", "./segmentation/1"),
        ("2-2-1", "./segmentation/2-2-1"),
    ]
    assert [str(item.mag) for item in before.layer("segmentation").mags] == ["2-2-1", "1"]


def test_agglomerate_files_are_listed_beside_each_other():
    source = foreign()
    for name in ("coarse", "fine", "coarse"):
        source = source.with_agglomerates("segmentation", name)
    stated = json.loads(source.to_json())["dataLayers"][0]["attachments"]
    assert stated == {
        **FOREIGN["dataLayers"][0]["attachments"],
        "agglomerates": [
            {"name": name, "path": f"./segmentation/agglomerates/{name}", "dataFormat": "zarr3"}
            for name in ("fine", "coarse")
        ],
    }


def test_a_missing_layer_is_named_with_those_that_exist():
    with pytest.raises(LayerNotFound, match="no layer 'color'; the dataset has: segmentation"):
        foreign().layer("color")


@pytest.mark.parametrize(
    ("dtype", "channels", "category", "element_class"),
    [
        ("uint8", 1, "color", "uint8"),
        ("uint8", 3, "color", "uint24"),
        ("float32", 1, "color", "float"),
        ("int16", 1, "color", "int16"),
        ("uint64", 1, "segmentation", "uint64"),
    ],
)
def test_element_classes_name_type_and_channels(dtype, channels, category, element_class):
    assert element_class_of(dtype, channels, category) == element_class
    assert dtype_of_element_class(element_class, channels) == dtype


@pytest.mark.parametrize(
    ("dtype", "channels", "category"),
    [
        ("uint64", 1, "color"),
        ("float64", 1, "color"),
        ("float32", 1, "segmentation"),
        ("uint8", 2, "color"),
        ("uint8", 3, "segmentation"),
    ],
)
def test_what_has_no_element_class_is_refused(dtype, channels, category):
    with pytest.raises(UnsupportedDtype, match=dtype):
        element_class_of(dtype, channels, category)


def test_element_classes_of_several_channels_are_read():
    assert dtype_of_element_class("uint16", 2) == "uint8"
    with pytest.raises(UnsupportedDtype, match="'double' with 1 channels"):
        dtype_of_element_class("double", 1)


def test_levels_of_the_ome_group_share_one_origin():
    layer = a_layer(mags=(MagProperties.of("color", Mag(4, 4, 1)), MagProperties.of("color", MAG1)))
    group = ome_group(VoxelSize(4, 5, 40), layer)
    assert group == {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {
            "ome": {
                "version": "0.5",
                "multiscales": [
                    {
                        "name": "color",
                        "axes": [
                            {"name": "c", "type": "channel"},
                            {"name": "z", "type": "space", "unit": "nanometer"},
                            {"name": "y", "type": "space", "unit": "nanometer"},
                            {"name": "x", "type": "space", "unit": "nanometer"},
                        ],
                        "datasets": [
                            {
                                "path": "1",
                                "coordinateTransformations": [
                                    {"type": "scale", "scale": [1.0, 40.0, 5.0, 4.0]},
                                    {"type": "translation", "translation": [0.0, 0.0, 0.0, 0.0]},
                                ],
                            },
                            {
                                "path": "4-4-1",
                                "coordinateTransformations": [
                                    {"type": "scale", "scale": [1.0, 40.0, 20.0, 16.0]},
                                    # The first voxel covers 0 to 3: its centre is at 1.5 voxels.
                                    {"type": "translation", "translation": [0.0, 0.0, 7.5, 6.0]},
                                ],
                            },
                        ],
                    }
                ],
            }
        },
    }


@pytest.mark.parametrize(
    "layer",
    [
        a_layer(),
        a_layer(data_format="wkw", mags=(MagProperties.of("color", MAG1),)),
        a_layer(mags=(MagProperties(mag=MAG1, path="s3://host/bucket/color/1"),)),
        a_layer(mags=(MagProperties(mag=MAG1, path="../other/color/1"),)),
    ],
)
def test_layers_whose_arrays_lie_elsewhere_have_no_ome_group(layer):
    assert ome_group(VoxelSize(1, 1, 1), layer) is None


def test_layers_in_the_axis_order_of_webknossos_say_so():
    group = ome_group(VoxelSize(4, 5, 40), a_layer(mags=(MagProperties.of("color", Mag(1, 1, 2), CXYZ),)))
    [multiscale] = group["attributes"]["ome"]["multiscales"]
    assert [axis["name"] for axis in multiscale["axes"]] == ["c", "x", "y", "z"]
    assert multiscale["datasets"][0]["coordinateTransformations"] == [
        {"type": "scale", "scale": [1.0, 4.0, 5.0, 80.0]},
        {"type": "translation", "translation": [0.0, 0.0, 0.0, 20.0]},
    ]


def test_saving_writes_the_properties_and_a_group_for_each_layer(tmp_path):
    source = DataSource.new("d", VoxelSize(4, 4, 40)).with_layer(a_layer())
    source = source.merged_mags("color", [MagProperties.of("color", MAG1)])
    (tmp_path / "color" / "1").mkdir(parents=True)
    save_datasource(tmp_path, source)
    assert load_datasource(tmp_path) == source
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json")) == [
        "color/zarr.json",
        "datasource-properties.json",
        "zarr.json",
    ]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("zarr.json")}
    save_datasource(tmp_path, source)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("zarr.json")} == before
    assert not list(tmp_path.rglob("*.tmp"))


def test_saving_keeps_what_others_wrote_into_a_group(tmp_path):
    (tmp_path / "color").mkdir()
    existing = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"mine": 1, "ome": {"version": "0.5", "omero": {"channels": []}, "multiscales": []}},
        "consolidated_metadata": {"metadata": {}},
    }
    (tmp_path / "color" / "zarr.json").write_text(json.dumps(existing))
    layer = a_layer(mags=(MagProperties.of("color", MAG1),))
    source = DataSource.new("d", VoxelSize(4, 4, 40)).with_layer(layer)
    save_datasource(tmp_path, source)
    group = json.loads((tmp_path / "color" / "zarr.json").read_text())
    expected = ome_group(VoxelSize(4, 4, 40), layer)
    expected["attributes"]["mine"] = 1
    expected["attributes"]["ome"]["omero"] = {"channels": []}
    assert group == expected


def test_a_crash_before_the_last_step_leaves_the_old_file_and_no_rubbish_in_the_end(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    replace_file(file, "old")
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("power cut")))
        with pytest.raises(OSError, match="power cut"):
            replace_file(file, "new")
    assert file.read_text() == "old"
    replace_file(file, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert file.read_text() == "new"


def test_a_folder_without_metadata_is_no_dataset(tmp_path):
    with pytest.raises(InvalidDataset, match=r"holds no datasource-properties\.json"):
        load_datasource(tmp_path)


def test_a_voxel_size_is_changed_in_the_form_in_which_the_file_has_it():
    changed = read_datasource(json.dumps(FOREIGN)).with_voxel_size(VoxelSize(4, 4, 40))
    before = json.loads(read_datasource(json.dumps(FOREIGN)).to_json())
    assert json.loads(changed.to_json()) == {**before, "scale": {"factor": [4, 4, 40], "unit": "nanometer"}}
    micrometers = {**FOREIGN, "scale": {"factor": [1, 1, 1], "unit": "micrometer", "note": "kept"}}
    changed = read_datasource(json.dumps(micrometers)).with_voxel_size(VoxelSize(4, 4, 40))
    assert json.loads(changed.to_json())["scale"] == {
        "factor": [4, 4, 40], "unit": "nanometer", "note": "kept",
    }  # fmt: skip
    bare = read_datasource(json.dumps({**FOREIGN, "scale": [1, 2, 3]})).with_voxel_size(VoxelSize(4, 4, 40))
    assert json.loads(bare.to_json())["scale"] == [4, 4, 40]
    assert bare.voxel_size == VoxelSize(4, 4, 40)
