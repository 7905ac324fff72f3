"""The pictures of a layer: which slices, from which mag, in which proportions, and what they cost."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from voxelworks.geometry import MAG1, Box, Mag, VoxelSize
from voxelworks.ops.pictures import segment_picture
from voxelworks.protocol.views import PICTURE_EDGE_MAX
from voxelworks.volumes.dataset import Dataset
from voxelworks.workflows import _previews
from voxelworks.workflows._previews import Drawable, draw

SHARD = (64, 64, 64)


def make_layer(folder, data, *, topleft=(0, 0, 0), voxel_size=(4, 4, 4), category="color", mags=(MAG1,)):
    """Make a layer of (z, y, x) or (c, z, y, x); coarser mags hold every n-th voxel."""
    data = data if data.ndim == 4 else data[np.newaxis]
    box = Box.from_zyx(topleft[::-1], data.shape[1:])
    dataset = Dataset.create(folder / "dataset", VoxelSize(*voxel_size))
    layer = dataset.add_layer("layer", category, data.dtype, len(data), box)
    for mag in mags:
        z, y, x = mag.zyx
        array = layer.add_mag(mag, shard_zyx=SHARD)
        array.write(array.box, np.ascontiguousarray(data[:, ::z, ::y, ::x]))
    return Drawable.of(layer)


def pictures(layer, folder):
    """Draw a layer; give its slices by plane and the pictures as arrays."""
    folder.mkdir(exist_ok=True)
    preview = draw(layer, folder)
    mode = "RGBA" if layer.category == "segmentation" else "RGB"
    return {item.plane: (item, decoded(folder / item.file, mode)) for item in preview.slices}


def decoded(file, mode):
    with Image.open(file) as picture:
        return np.asarray(picture.convert(mode))


def boxes(layer, folder):
    return {plane: item.box for plane, (item, _) in pictures(layer, folder).items()}


def test_the_slices_go_through_the_middle(tmp_path):
    data = np.zeros((30, 20, 40), np.uint8)
    data[15], data[:, 10], data[:, :, 20] = 10, 20, 30
    layer = make_layer(tmp_path, data, topleft=(100, 0, 5))
    assert boxes(layer, tmp_path / "p") == {
        "xy": "100,0,20,40,20,1",
        "xz": "100,10,5,40,1,30",
        "yz": "120,0,5,1,20,30",
    }


def test_axes_go_to_the_right_and_downwards(tmp_path):
    z, y, x = np.indices((6, 7, 8), np.uint32)
    labels = 1 + x + 10 * y + 100 * z
    found = pictures(make_layer(tmp_path, labels, category="segmentation"), tmp_path / "p")
    assert (found["xy"][1] == segment_picture(labels[3])).all()
    assert (found["xz"][1] == segment_picture(labels[:, 3])).all()
    assert (found["yz"][1] == segment_picture(labels[:, :, 4])).all()


def test_pictures_have_the_proportions_of_space(tmp_path):
    data = np.ones((10, 50, 100), np.uint8)
    found = pictures(make_layer(tmp_path, data, voxel_size=(4, 4, 40)), tmp_path / "p")
    assert {plane: (item.width, item.height) for plane, (item, _) in found.items()} == {
        "xy": (100, 50), "xz": (100, 100), "yz": (50, 100),
    }  # fmt: skip
    assert {plane: picture.shape[:2] for plane, (_, picture) in found.items()} == {
        "xy": (50, 100), "xz": (100, 100), "yz": (100, 50),
    }  # fmt: skip


def test_the_longest_side_is_limited_and_the_shortest_is_a_pixel(tmp_path):
    found = pictures(make_layer(tmp_path, np.ones((1, 3, 1500), np.uint16)), tmp_path / "p")
    assert {plane: (item.width, item.height) for plane, (item, _) in found.items()} == {
        "xy": (PICTURE_EDGE_MAX, 1), "xz": (PICTURE_EDGE_MAX, 1), "yz": (3, 1),
    }  # fmt: skip


def test_one_voxel_is_enough_and_nothing_gives_no_picture(tmp_path):
    assert (
        boxes(make_layer(tmp_path, np.full((1, 1, 1), 9, np.float32)), tmp_path / "p")["xy"] == "0,0,0,1,1,1"
    )
    dataset = Dataset.create(tmp_path / "empty", VoxelSize(1, 1, 1))
    layer = dataset.add_layer("layer", "color", "uint8", 1, Box((0, 0, 0), (0, 5, 5)))
    assert draw(Drawable("layer", "color", layer.box, layer.voxel_size, ()), tmp_path) is None


def test_the_coarsest_mag_that_is_fine_enough_is_read(tmp_path, monkeypatch):
    data = np.ones((8, 40, 2000), np.uint8)
    mags = (MAG1, Mag(2, 2, 1), Mag(4, 4, 2))
    layer = make_layer(tmp_path, data, voxel_size=(4, 4, 8), mags=mags)
    read = []
    monkeypatch.setattr(
        _previews.MagArray,
        "read",
        lambda self, box: read.append(str(self.mag)) or np.ones((1, *box.shape_zyx), "u1"),
    )
    pictures(layer, tmp_path / "p")
    # 2000 voxels on 512 pixels: 2-2-1 is finer than a pixel, 4-4-2 is not. The other slice needs the finest.
    assert read == ["2-2-1", "2-2-1", "1"]


def test_pixels_are_means_of_what_they_cover(tmp_path):
    data = np.zeros((1, 2, 1024), np.uint8)
    data[0, :, ::2] = 200
    data[0, :, 512:] = 50
    [(_, picture)] = [pictures(make_layer(tmp_path, data), tmp_path / "p")["xy"]]
    assert picture.shape == (1, 512, 3)
    left, right = picture[0, 20:236].astype(int), picture[0, 276:492].astype(int)
    assert left.min() > 240
    assert right.max() < 15


def test_where_the_middle_is_empty_the_slices_go_through_the_data(tmp_path):
    data = np.zeros((64, 64, 64), np.uint32)
    data[50:53, 7:9, 20] = 5
    layer = make_layer(tmp_path, data, topleft=(0, 0, 10), category="segmentation")
    found = pictures(layer, tmp_path / "p")
    assert {plane: item.box for plane, (item, _) in found.items()} == {
        "xy": "0,0,61,64,64,1", "xz": "0,7,10,64,1,64", "yz": "20,0,10,1,64,64",
    }  # fmt: skip
    assert all(picture[..., 3].any() for _, picture in found.values())


def test_a_layer_without_data_shows_its_empty_middle(tmp_path):
    found = pictures(make_layer(tmp_path, np.zeros((4, 4, 4), np.uint8)), tmp_path / "p")
    assert found["xy"][0].box == "0,0,2,4,4,1"
    assert not found["xy"][1].any()


def test_what_is_too_large_is_shown_in_part_around_the_middle(tmp_path, monkeypatch):
    monkeypatch.setattr(_previews, "READ_BYTES_MAX", 64 * 100 * 100)
    layer = make_layer(tmp_path, np.ones((64, 200, 400), np.uint8), topleft=(10, 0, 0))
    found = boxes(layer, tmp_path / "p")
    # 200 x 400 voxels are eight times too many.
    assert found["xy"] == "140,65,32,141,70,1"
    assert Box.parse(found["yz"]).size == (1, 176, 56)


def test_a_layer_that_begins_far_away_is_drawn_as_one_at_the_origin(tmp_path):
    data = np.random.default_rng(0).integers(1, 9, (9, 10, 11)).astype(np.uint32)
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    near = draw(make_layer(tmp_path / "a", data, category="segmentation"), tmp_path)
    far = draw(
        make_layer(tmp_path / "b", data, category="segmentation", topleft=(1_000_000, 2_000_000, 30_000)),
        tmp_path,
    )
    assert [item.file for item in near.slices] == [item.file for item in far.slices]


@pytest.mark.parametrize(
    ("shape", "dtype"), [((3, 5, 6, 7), "uint8"), ((5, 6, 7), "float32"), ((5, 6, 7), "int16")]
)
def test_every_kind_of_image_is_drawn_the_same_each_time(tmp_path, shape, dtype):
    data = (np.random.default_rng(1).random(shape) * 100).astype(dtype)
    layer = make_layer(tmp_path, data)
    (tmp_path / "once").mkdir(), (tmp_path / "twice").mkdir()
    assert draw(layer, tmp_path / "once") == draw(layer, tmp_path / "twice")
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("once", "twice")
    )
    assert first == second


def test_what_is_no_number_is_black(tmp_path):
    data = np.linspace(1, 2, 400, dtype=np.float32).reshape(1, 20, 20).copy()
    data[0, 5:9, 5:9] = np.nan
    data[0, 12, 12] = np.inf
    (_, picture) = pictures(make_layer(tmp_path, data), tmp_path / "p")["xy"]
    assert picture[6:8, 6:8].max() < 40
    assert picture[0, 0].max() < 30
    assert picture[19, 19].min() > 220


def test_the_small_picture_is_a_shrunk_first_slice(tmp_path):
    preview = draw(make_layer(tmp_path, np.ones((1, 200, 400), np.uint8)), tmp_path)
    assert (preview.thumbnail.width, preview.thumbnail.height) == (160, 80)
    assert decoded(tmp_path / preview.thumbnail.file, "RGB").shape == (80, 160, 3)


PEAK = """
import pathlib, pickle, sys
from voxelworks.workflows._previews import draw

def kilobytes(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

layer = pickle.load(sys.stdin.buffer)
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = kilobytes("VmRSS")
draw(layer, pathlib.Path(sys.argv[1]))
print(kilobytes("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process")
def test_drawing_takes_little_memory_whatever_the_layer(tmp_path):
    """A layer of 256 MiB without coarser mags is drawn within what is reserved for it."""
    layer = make_layer(tmp_path, np.random.default_rng(0).random((64, 1024, 1024), np.float32))
    ended = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path)],
        input=pickle.dumps(layer),
        capture_output=True,
        check=True,
    )
    assert 0 < int(ended.stdout) * 1024 < _previews.MEMORY_BYTES / 2
