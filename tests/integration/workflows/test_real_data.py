"""Real electron microscopy: convert, shrink and analyse it, and compare every voxel with independent readers."""

import json
import os
import subprocess

import numpy as np
import ome_zarr_models
import pytest
import tifffile
from PIL import Image

import voxelworks
from reference import properties, read_mag, shrink

SAMPLES = {
    # folder, file: (category, voxel size, mag to go on to, expected mags)
    ("neuron_fib25", "raw"): ("color", "10,10,10", "8", ["1", "2", "4", "8"]),
    ("neuron_fib25", "labels_neuron"): ("segmentation", "10,10,10", "4", ["1", "2", "4"]),
    ("mito_sbem_cdeep3m", "raw_v1"): ("color", "5,5,30", None, ["1", "2-2-1", "4-4-1"]),
    ("membrane_isbi2012", "raw"): ("color", "4,4,50", None, ["1", "2-2-1"]),
    ("membrane_isbi2012", "labels_cell"): ("segmentation", "4,4,50", None, ["1", "2-2-1"]),
}


def load(test_data, name, file):
    return np.load(test_data / name / f"{file}.npz")["data"]


def write_sections(volume, folder, suffix):
    folder.mkdir()
    for z, section in enumerate(volume):
        # Without leading zeros: only natural order is right.
        path = folder / f"section {z}.{suffix}"
        if suffix == "png":
            Image.fromarray(section).save(path)
        else:
            tifffile.imwrite(path, section, compression="zlib" if section.dtype != np.uint8 else None)
    return folder


@pytest.mark.parametrize(
    ("name", "file", "suffix"),
    [
        (name, file, suffix)
        for name, file in sorted(SAMPLES)
        for suffix in ("tif", "png")
        if suffix == "tif" or name == "membrane_isbi2012"
    ],
)
def test_real_stacks_are_converted_voxel_for_voxel(name, file, suffix, test_data, tmp_path):
    category, voxel_size, coarsest, mags = SAMPLES[name, file]
    volume = load(test_data, name, file)
    stack = write_sections(volume, tmp_path / "stack", suffix)
    target = tmp_path / "demo"
    answer = voxelworks.run(
        "convert", source=str(stack), target=str(target), voxel_size=voxel_size, category=category,
        coarsest_mag=coarsest,
    )  # fmt: skip
    assert answer["mags"] == mags
    assert (read_mag(target, category, "1") == volume[None]).all()
    expected, finer = volume, "1"
    for mag in mags[1:]:
        factors = [b // a for a, b in zip(parts(finer), parts(mag), strict=True)]
        method = "mean" if category == "color" else "mode"
        expected, finer = shrink(expected, tuple(factors[::-1]), method), mag
        assert (read_mag(target, category, mag)[0] == expected).all()
    largest = properties(target)["dataLayers"][0].get("largestSegmentId")
    assert largest == (None if category == "color" else int(volume.max()))


def parts(mag):
    numbers = [int(part) for part in mag.split("-")]
    return numbers * 3 if len(numbers) == 1 else numbers


def test_images_and_labels_become_one_dataset_that_other_programs_open(test_data, tmp_path):
    raw, labels = load(test_data, "neuron_fib25", "raw"), load(test_data, "neuron_fib25", "labels_neuron")
    raw_stack = write_sections(raw, tmp_path / "raw", "tif")
    labels_stack = write_sections(labels, tmp_path / "labels", "tif")
    target = tmp_path / "fib25"
    voxelworks.run(
        "convert", source=[str(raw_stack), str(labels_stack)], layer_name=["color", "segmentation"],
        category=["color", "segmentation"], target=str(target), voxel_size=(10, 10, 10), pyramid=False,
    )  # fmt: skip
    added = voxelworks.run("downsample", dataset=str(target), layer="segmentation", coarsest_mag="4")
    assert added["mags"] == ["2", "4"]
    found = voxelworks.run("find_largest_segment_id", layer=f"{target}/segmentation")
    assert found["largest_segment_id"] == int(labels.max())

    assert (read_mag(target, "color", "1")[0] == raw).all()
    assert (read_mag(target, "segmentation", "1")[0] == labels).all()
    mag2 = shrink(labels, (2, 2, 2), "mode")
    assert (read_mag(target, "segmentation", "2")[0] == mag2).all()
    assert (read_mag(target, "segmentation", "4")[0] == shrink(mag2, (2, 2, 2), "mode")).all()

    layers = {layer["name"]: layer for layer in properties(target)["dataLayers"]}
    assert layers["segmentation"]["largestSegmentId"] == int(labels.max())
    assert [mag["mag"] for mag in layers["segmentation"]["mags"]] == [[1, 1, 1], [2, 2, 2], [4, 4, 4]]
    for layer, levels in (("color", 1), ("segmentation", 3)):
        image = ome_zarr_models.open_ome_zarr(target / layer)
        assert image.attributes.ome.version == "0.5"
        assert len(image.attributes.ome.multiscales[0].datasets) == levels


def test_the_official_webknossos_library_reads_the_same_voxels(test_data, tmp_path):
    python = os.environ.get("VOXELWORKS_TEST_WEBKNOSSOS_PYTHON")
    if not python:
        pytest.skip("VOXELWORKS_TEST_WEBKNOSSOS_PYTHON (a Python with the webknossos library) is not set")
    volume = load(test_data, "mito_sbem_cdeep3m", "raw_v1")
    stack = write_sections(volume, tmp_path / "stack", "tif")
    target = tmp_path / "mito"
    answer = voxelworks.run("convert", source=str(stack), target=str(target), voxel_size="5,5,30")
    script = tmp_path / "read.py"
    script.write_text(
        "import json, sys, numpy as np, webknossos as wk\n"
        "ds = wk.Dataset.open(sys.argv[1]); layer = ds.get_layer('color'); box = layer.bounding_box\n"
        "print(json.dumps([list(ds.voxel_size), dict(zip(box.axes, box.size.to_tuple()))]))\n"
        "for mag in layer.mags.values():\n"
        "    order = [list(mag.bounding_box.axes).index(axis) for axis in 'czyx']\n"
        "    np.save(f'{sys.argv[2]}/{mag.mag.to_layer_name()}.npy', mag.read().transpose(order))\n"
    )
    done = subprocess.run([python, script, target, tmp_path], capture_output=True, text=True, check=True)
    size = {"c": 1, "z": 20, "y": 1024, "x": 1024}
    assert json.loads(done.stdout.splitlines()[-1]) == [[5.0, 5.0, 30.0], size]
    for mag in answer["mags"]:
        assert (read_mag(target, "color", mag) == np.load(tmp_path / f"{mag}.npy")).all()
