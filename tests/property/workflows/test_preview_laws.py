"""Where a pixel of a picture lies in the dataset, as the API promises it."""

import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from voxelworks.geometry import MAG1, Box, VoxelSize
from voxelworks.ops.pictures import segment_picture
from voxelworks.volumes.dataset import Dataset
from voxelworks.workflows import _previews
from voxelworks.workflows._previews import Drawable, draw

AXES = {"xy": (0, 1), "xz": (0, 2), "yz": (1, 2)}
sizes = st.tuples(*[st.integers(1, 40)] * 3)
corners = st.tuples(*[st.integers(0, 90)] * 3)
voxel_sizes = st.tuples(*[st.sampled_from([3.5, 4.0, 11.24, 40.0])] * 3)


@settings(max_examples=40, deadline=None)
@given(topleft=corners, size=sizes, voxel_nm=voxel_sizes, edge=st.integers(3, 60))
def test_each_pixel_shows_the_voxel_below_its_middle(topleft, size, voxel_nm, edge):
    box = Box(topleft, size)
    # Every voxel is a segment of its own.
    labels = np.arange(1, box.voxel_count + 1, dtype=np.uint32).reshape(box.shape_zyx)
    with tempfile.TemporaryDirectory() as name:
        dataset = Dataset.create(Path(name) / "dataset", VoxelSize(*voxel_nm))
        layer = dataset.add_layer("labels", "segmentation", "uint32", 1, box)
        layer.add_mag(MAG1, shard_zyx=(64, 64, 64)).write(box, labels)
        # Smaller than usual, so that pixels cover several voxels.
        with mock.patch.object(_previews, "PICTURE_EDGE_MAX", edge):
            preview = draw(Drawable.of(layer), Path(name))
        for item in preview.slices:
            shown = Box.parse(item.box)
            assert box.contains(shown)
            assert max(item.width, item.height) <= edge
            with Image.open(Path(name) / item.file) as picture:
                found = np.asarray(picture.convert("RGBA"))
            position = list(shown.topleft)
            for j in range(item.height):
                for i in range(item.width):
                    for axis, pixel, count in zip(
                        AXES[item.plane], (i, j), (item.width, item.height), strict=True
                    ):
                        position[axis] = shown.topleft[axis] + int((pixel + 0.5) * shown.size[axis] / count)
                    x, y, z = (at - first for at, first in zip(position, topleft, strict=True))
                    assert (found[j, i] == segment_picture(labels[z : z + 1, y, x : x + 1])[0, 0]).all()
