"""Datasets on disk: created, written, opened and refused."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from voxelworks.errors import (
    DatasetNotFound,
    InvalidDataset,
    InvalidGeometry,
    LayerNotFound,
    MagNotFound,
    StorageFailed,
    TargetExists,
    TargetNotWritable,
    UnsafeReference,
    UnsupportedDtype,
    UnsupportedFormat,
)
from voxelworks.geometry import MAG1, Box, Mag, VoxelSize
from voxelworks.volumes.dataset import Dataset, create_mag_array
from voxelworks.volumes.metadata import CXYZ, CZYX, MagProperties

BOX = Box((10, 20, 3), (150, 100, 70))
VOXEL_SIZE = VoxelSize(4, 4, 40)


def noise(box, channel_count=1, dtype="uint8", seed=0):
    limits = np.iinfo(dtype)
    shape = (channel_count, *box.shape_zyx)
    return np.random.default_rng(seed).integers(limits.min, limits.max, shape, dtype, endpoint=True)


def make(folder, *, dtype="uint8", channel_count=1, category="color", box=BOX):
    """Make a dataset with one layer of noise in mag 1."""
    dataset = Dataset.create(folder, VOXEL_SIZE)
    layer = dataset.add_layer("layer", category, dtype, channel_count, box)
    data = noise(box, channel_count, dtype)
    layer.add_mag(MAG1, shard_zyx=(128, 128, 128)).write(box, data)
    dataset.write_metadata()
    return data


def test_what_was_written_is_read_again(tmp_path):
    data = make(tmp_path / "d", channel_count=3)
    dataset = Dataset.open(tmp_path / "d")
    [layer] = dataset.layers
    assert (dataset.name, dataset.voxel_size, layer.name, layer.category) == (
        "d",
        VOXEL_SIZE,
        "layer",
        "color",
    )
    assert (layer.dtype, layer.channel_count, layer.box, layer.mags) == (np.dtype("uint8"), 3, BOX, (MAG1,))
    assert np.array_equal(layer.finest.read(BOX), data)


@pytest.mark.parametrize(
    ("dtype", "category"),
    [
        ("uint8", "color"),
        ("int8", "color"),
        ("uint16", "color"),
        ("int32", "color"),
        ("uint32", "segmentation"),
        ("uint64", "segmentation"),
        ("int64", "segmentation"),
    ],
)
def test_every_integer_type_comes_back(tmp_path, dtype, category):
    data = make(tmp_path / "d", dtype=dtype, category=category, box=Box((0, 0, 0), (20, 10, 5)))
    found = Dataset.open(tmp_path / "d").layer("layer").finest.read(Box((0, 0, 0), (20, 10, 5)))
    assert found.dtype == np.dtype(dtype)
    assert np.array_equal(found, data)


def test_floats_come_back_bit_for_bit(tmp_path):
    box = Box((0, 0, 0), (4, 2, 1))
    data = np.array([0, -0.0, np.nan, np.inf, -np.inf, 1e-45, 3.4e38, 1], "float32").reshape(1, 1, 2, 4)
    layer = Dataset.create(tmp_path / "d", VOXEL_SIZE).add_layer("layer", "color", "float32", 1, box)
    array = layer.add_mag(MAG1, shard_zyx=(64, 64, 64))
    array.write(box, data)
    assert array.read(box).tobytes() == data.tobytes()


def test_what_lies_outside_is_zero(tmp_path):
    data = make(tmp_path / "d")
    array = Dataset.open(tmp_path / "d").layer("layer").finest
    around = Box((-5, -6, -7), (200, 200, 200))
    expected = np.zeros((1, *around.shape_zyx), "uint8")
    expected[:, *BOX.moved((5, 6, 7)).slices_zyx] = data
    assert np.array_equal(array.read(around), expected)
    assert np.array_equal(array.read(Box((1000, 0, 0), (2, 3, 4))), np.zeros((1, 4, 3, 2), "uint8"))
    assert array.read(Box((0, 0, 0), (0, 3, 4))).shape == (1, 4, 3, 0)


def test_coarser_mags_cover_the_box_rounded_outwards(tmp_path):
    layer = Dataset.create(tmp_path / "d", VOXEL_SIZE).add_layer("layer", "color", "uint8", 1, BOX)
    array = layer.add_mag(Mag(4, 4, 2), shard_zyx=(64, 64, 64))
    assert array.box == Box((2, 5, 1), (38, 25, 36))
    assert array.stored_box == Box((0, 0, 0), (40, 30, 37))
    assert (array.shard_shape_zyx, array.chunk_shape_zyx) == ((64, 64, 64), (64, 64, 64))


def test_an_array_handle_is_small_and_crosses_process_borders(tmp_path):
    data = make(tmp_path / "d")
    array = Dataset.open(tmp_path / "d").layer("layer").finest
    array.read(BOX)
    text = pickle.dumps(array)
    assert len(text) < 2000
    again = pickle.loads(text)
    assert again == array
    assert np.array_equal(again.read(BOX), data)


def test_the_array_that_was_written_may_be_used_again_at_once(tmp_path):
    box = Box((0, 0, 0), (128, 128, 128))
    layer = Dataset.create(tmp_path / "d", VOXEL_SIZE).add_layer("layer", "color", "uint8", 1, box)
    array = layer.add_mag(MAG1, shard_zyx=(128, 128, 128))
    data = noise(box)
    expected = data.copy()
    array.write(box, data)
    data[:] = 0
    assert np.array_equal(array.read(box), expected)


@pytest.mark.parametrize("channel_count", [1, 3])
@pytest.mark.parametrize("voxel", [(0, 0, 0, 0), (0, 63, 63, 63), (-1, 64, 0, 70), (-1, 99, 127, 127)])
def test_a_single_voxel_is_stored_wherever_it_lies(tmp_path, channel_count, voxel):
    """Chunks that are all zero are left out; one that only begins with zeros must not be."""
    box = Box((0, 0, 0), (128, 128, 100))
    layer = Dataset.create(tmp_path / "d", VOXEL_SIZE).add_layer(
        "layer", "color", "uint8", channel_count, box
    )
    array = layer.add_mag(MAG1, shard_zyx=(128, 128, 128))
    data = np.zeros((channel_count, *box.shape_zyx), "uint8")
    data[voxel] = 1
    array.write(box, data)
    assert np.array_equal(array.read(box), data)


def test_only_shards_with_content_have_files(tmp_path):
    box = Box((0, 0, 0), (300, 200, 100))
    layer = Dataset.create(tmp_path / "d", VOXEL_SIZE).add_layer("layer", "color", "uint8", 1, box)
    array = layer.add_mag(MAG1, shard_zyx=(128, 128, 128))
    data = np.zeros((1, *box.shape_zyx), "uint8")
    data[0, 0, 0, 130] = data[0, 99, 199, 299] = 1
    array.write(box, data)
    assert array.shard_files(box) == ["c/0/0/0/1", "c/0/0/1/2"]
    assert array.shard_files(Box((0, 0, 0), (128, 128, 100))) == []
    assert array.shard_files(Box((256, 128, 0), (1, 1, 1))) == ["c/0/0/1/2"]
    assert array.shard_files(Box((900, 0, 0), (10, 10, 10))) == []
    folder = Path(array.location)
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        "c/0/0/0/1",
        "c/0/0/1/2",
        "zarr.json",
    ]
    assert np.array_equal(array.read(box), data)


def test_equal_data_gives_equal_bytes_whoever_writes_it(tmp_path):
    make(tmp_path / "one", channel_count=3)
    make(tmp_path / "two", channel_count=3)
    one, two = (
        {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        for folder in (tmp_path / "one", tmp_path / "two")
    )
    one["datasource-properties.json"] = one["datasource-properties.json"].replace(b'"one"', b'"two"')
    assert one == two


def test_an_array_made_in_the_place_of_another_is_opened_anew(tmp_path):
    first = create_mag_array(
        tmp_path / "1",
        mag=MAG1,
        layer_box=BOX,
        dtype="uint8",
        channel_count=1,
        shard_zyx=(64, 64, 64),
        category="color",
    )
    assert first.shard_shape_zyx == (64, 64, 64)
    (tmp_path / "1" / "zarr.json").unlink()
    second = create_mag_array(
        tmp_path / "1",
        mag=MAG1,
        layer_box=BOX,
        dtype="uint8",
        channel_count=1,
        shard_zyx=(128, 64, 64),
        category="color",
    )
    assert second == first
    assert second.shard_shape_zyx == (128, 64, 64)


def test_creating_an_equal_array_again_keeps_its_content(tmp_path):
    options = {"mag": MAG1, "layer_box": BOX, "dtype": "uint8", "channel_count": 1, "category": "color"}
    create_mag_array(tmp_path / "1", shard_zyx=(64, 64, 64), **options).write(BOX, noise(BOX))
    again = create_mag_array(tmp_path / "1", shard_zyx=(64, 64, 64), **options)
    assert np.array_equal(again.read(BOX), noise(BOX))
    with pytest.raises(TargetExists, match="holds another array"):
        create_mag_array(tmp_path / "1", shard_zyx=(128, 64, 64), **options)


def test_layers_in_the_layout_of_webknossos_are_read_and_continued_in_it(tmp_path):
    dataset = Dataset.create(tmp_path / "d", VOXEL_SIZE)
    layer = dataset.add_layer("seg", "segmentation", "uint32", 1, BOX)
    array = create_mag_array(
        tmp_path / "d" / "seg" / "1",
        mag=MAG1, layer_box=BOX, dtype="uint32", channel_count=1, shard_zyx=(64, 64, 64), category="segmentation",
        axes=CXYZ, chunk=32,
    )  # fmt: skip
    array.write(BOX, noise(BOX, dtype="uint32"))
    dataset.source = dataset.source.merged_mags("seg", [MagProperties(mag=MAG1, path="./seg/1")])
    coarse = layer.add_mag(Mag(2, 2, 1), shard_zyx=(128, 64, 64))
    coarse.write(coarse.box, noise(coarse.box, dtype="uint32"))
    dataset.write_metadata()

    found = Dataset.open(tmp_path / "d").layer("seg")
    assert found.axes == CXYZ
    assert np.array_equal(found.finest.read(BOX), noise(BOX, dtype="uint32"))
    assert found.finest.stored_box == Box((0, 0, 0), (192, 128, 128))
    assert np.array_equal(found.mag("2-2-1").read(coarse.box), noise(coarse.box, dtype="uint32"))
    assert found.mag("2-2-1").shard_shape_zyx == (128, 64, 64)
    assert coarse.shard_files(coarse.box) == ["c/0/0/0/0", "c/0/1/0/0"]
    stored = json.loads((tmp_path / "d" / "seg" / "2-2-1" / "zarr.json").read_text())
    assert stored["dimension_names"] == ["c", "x", "y", "z"]
    assert stored["shape"] == [1, 128, 64, 128]


def test_new_layers_are_stored_in_our_layout(tmp_path):
    layer = Dataset.create(tmp_path / "d", VOXEL_SIZE).add_layer("layer", "color", "uint8", 3, BOX)
    assert layer.axes == CZYX
    layer.add_mag(MAG1, shard_zyx=(128, 128, 128))
    assert json.loads((tmp_path / "d" / "layer" / "1" / "zarr.json").read_text()) == {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [3, 73, 120, 160],
        "data_type": "uint8",
        "dimension_names": ["c", "z", "y", "x"],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [3, 128, 128, 128]}},
        "chunk_key_encoding": {"name": "default"},
        "fill_value": 0,
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": [3, 64, 64, 64],
                    "codecs": [
                        {"name": "bytes"},
                        {"name": "zstd", "configuration": {"level": 1, "checksum": False}},
                    ],
                    "index_codecs": [
                        {"name": "bytes", "configuration": {"endian": "little"}},
                        {"name": "crc32c"},
                    ],
                },
            }
        ],
    }


def test_a_dataset_cannot_be_opened_before_its_metadata_is_written(tmp_path):
    Dataset.create(tmp_path / "d", VOXEL_SIZE).add_layer("layer", "color", "uint8", 1, BOX)
    with pytest.raises(
        DatasetNotFound, match=r"d holds neither datasource-properties\.json nor an OME-Zarr image"
    ):
        Dataset.open(tmp_path / "d")


def test_a_dataset_is_not_created_over_another(tmp_path):
    make(tmp_path / "d")
    with pytest.raises(TargetExists, match="is a dataset already"):
        Dataset.create(tmp_path / "d", VOXEL_SIZE)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(TargetNotWritable, match="cannot make folder"):
        Dataset.create(tmp_path / "file" / "d", VOXEL_SIZE)


def test_what_is_missing_is_named_with_what_exists(tmp_path):
    make(tmp_path / "d")
    dataset = Dataset.open(tmp_path / "d")
    with pytest.raises(LayerNotFound, match="no layer 'color'; the dataset has: layer"):
        dataset.layer("color")
    with pytest.raises(MagNotFound, match="no mag 2; it has: 1"):
        dataset.layer("layer").mag("2")
    (tmp_path / "d" / "layer" / "1" / "zarr.json").unlink()
    with pytest.raises(MagNotFound, match="no zarr3 array at"):
        dataset.layer("layer").finest.read(BOX)


def test_what_exists_is_not_added_twice(tmp_path):
    make(tmp_path / "d")
    dataset = Dataset.open(tmp_path / "d")
    with pytest.raises(TargetExists, match="a layer 'layer' already"):
        dataset.add_layer("layer", "color", "uint8", 1, BOX)
    with pytest.raises(TargetExists, match="has mag 1 already"):
        dataset.layer("layer").add_mag(MAG1, shard_zyx=(64, 64, 64))


def test_an_impossible_layer_is_refused(tmp_path):
    dataset = Dataset.create(tmp_path / "d", VOXEL_SIZE)
    with pytest.raises(UnsupportedDtype, match="1 x float64"):
        dataset.add_layer("layer", "color", "float64", 1, BOX)
    layer = dataset.add_layer("layer", "color", "uint8", 1, Box((-1, 0, 0), (5, 5, 5)))
    with pytest.raises(InvalidGeometry, match="negative coordinates"):
        layer.add_mag(MAG1, shard_zyx=(64, 64, 64))


def test_data_of_the_wrong_shape_type_or_place_is_not_written(tmp_path):
    layer = Dataset.create(tmp_path / "d", VOXEL_SIZE).add_layer("layer", "color", "uint8", 1, BOX)
    array = layer.add_mag(MAG1, shard_zyx=(64, 64, 64))
    with pytest.raises(InvalidGeometry, match=r"needs 1 channels of uint8, got uint8 \(1, 2, 2, 3\)"):
        array.write(Box((0, 0, 0), (2, 2, 2)), np.zeros((1, 2, 2, 3), "uint8"))
    with pytest.raises(InvalidGeometry, match="got uint16"):
        array.write(Box((0, 0, 0), (2, 2, 2)), np.zeros((2, 2, 2), "uint16"))
    with pytest.raises(InvalidGeometry, match="leaves the array"):
        array.write(Box((160, 0, 0), (2, 2, 2)), np.zeros((2, 2, 2), "uint8"))


def test_a_damaged_shard_is_named(tmp_path):
    make(tmp_path / "d")
    array = Dataset.open(tmp_path / "d").layer("layer").finest
    shard = Path(array.location) / array.shard_files(BOX)[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(InvalidDataset, match=r"layer/1: the data is damaged"):
        array.read(BOX)


def test_stored_values_that_do_not_fit_the_stated_type_are_refused(tmp_path):
    make(tmp_path / "d", dtype="uint16")
    file = tmp_path / "d" / "datasource-properties.json"
    file.write_text(file.read_text().replace('"uint16"', '"uint8"'))
    with pytest.raises(InvalidDataset, match="holds uint16 values that do not fit into uint8"):
        Dataset.open(tmp_path / "d").layer("layer").finest.read(BOX)


def test_mags_outside_the_dataset_are_read_only_when_that_is_allowed(tmp_path):
    data = make(tmp_path / "other")
    dataset = Dataset.create(tmp_path / "d", VOXEL_SIZE)
    dataset.add_layer("layer", "color", "uint8", 1, BOX)
    (tmp_path / "d" / "layer").mkdir()
    (tmp_path / "d" / "layer" / "1").symlink_to(tmp_path / "other" / "layer" / "1")
    for path in ("./layer/1", "../other/layer/1", str(tmp_path / "other" / "layer" / "1")):
        mag = MagProperties(mag=MAG1, path=path, axis_order=MagProperties.of("layer", MAG1).axis_order)
        dataset.source = dataset.source.merged_mags("layer", [mag])
        dataset.write_metadata()
        with pytest.raises(UnsafeReference, match="mag 1 of layer 'layer' lies outside the dataset"):
            _ = Dataset.open(tmp_path / "d").layer("layer").finest
        trusted = Dataset.open(tmp_path / "d", may_leave_folder=True)
        assert np.array_equal(trusted.layer("layer").finest.read(BOX), data)


def test_the_place_of_a_mag_may_be_left_out(tmp_path):
    data = make(tmp_path / "d")
    file = tmp_path / "d" / "datasource-properties.json"
    properties = json.loads(file.read_text())
    del properties["dataLayers"][0]["mags"][0]["path"]
    file.write_text(json.dumps(properties))
    assert np.array_equal(Dataset.open(tmp_path / "d").layer("layer").finest.read(BOX), data)
    (tmp_path / "d" / "layer" / "1").rename(tmp_path / "d" / "layer" / "1-1-1")
    assert np.array_equal(Dataset.open(tmp_path / "d").layer("layer").finest.read(BOX), data)


def test_one_layer_may_be_a_channel_of_a_shared_array(tmp_path):
    data = make(tmp_path / "d", channel_count=3)
    file = tmp_path / "d" / "datasource-properties.json"
    properties = json.loads(file.read_text())
    layer = properties["dataLayers"][0]
    layer |= {"elementClass": "uint8", "numChannels": 1}
    layer["mags"][0]["channelIndex"] = 2
    file.write_text(json.dumps(properties))
    assert np.array_equal(Dataset.open(tmp_path / "d").layer("layer").finest.read(BOX), data[2:])
    layer["mags"][0]["channelIndex"] = 3
    file.write_text(json.dumps(properties))
    with pytest.raises(InvalidDataset, match="has 3 channels, but the dataset says 1 from number 3 on"):
        Dataset.open(tmp_path / "d").layer("layer").finest.read(BOX)


def test_formats_that_are_not_read_or_written_are_named(tmp_path):
    make(tmp_path / "d")
    file = tmp_path / "d" / "datasource-properties.json"
    file.write_text(file.read_text().replace('"zarr3"', '"knossos"'))
    layer = Dataset.open(tmp_path / "d").layer("layer")
    with pytest.raises(UnsupportedFormat, match="is stored as 'knossos', which this version does not read"):
        layer.finest.read(BOX)
    with pytest.raises(
        UnsupportedFormat, match="layer 'layer' is stored as 'knossos'; magnifications can be added"
    ):
        layer.add_mag(Mag(2, 2, 2), shard_zyx=(64, 64, 64))


def test_further_axes_are_refused(tmp_path):
    make(tmp_path / "d")
    file = tmp_path / "d" / "datasource-properties.json"
    properties = json.loads(file.read_text())
    properties["dataLayers"][0]["additionalAxes"] = [{"name": "t", "bounds": [0, 5], "index": 1}]
    file.write_text(json.dumps(properties))
    with pytest.raises(UnsupportedFormat, match=r"further axes \(t\)"):
        _ = Dataset.open(tmp_path / "d").layer("layer").finest


def test_a_layer_without_mags_has_no_finest(tmp_path):
    layer = Dataset.create(tmp_path / "d", VOXEL_SIZE).add_layer("layer", "color", "uint8", 1, BOX)
    with pytest.raises(MagNotFound, match="has no magnification"):
        _ = layer.finest


def test_metadata_that_cannot_be_read_is_a_storage_failure(tmp_path):
    make(tmp_path / "d")
    file = tmp_path / "d" / "datasource-properties.json"
    file.unlink()
    file.symlink_to(file)
    with pytest.raises(StorageFailed, match="cannot read"):
        Dataset.open(tmp_path / "d")
