"""Bad input gets one clear error that names the value, and nothing is written."""

import sys

import numpy as np
import psutil
import pytest
import tifffile

import voxelworks
from reference import tree
from voxelworks.errors import (
    DatasetNotFound,
    InvalidParams,
    LayerNotFound,
    MissingSections,
    MixedSections,
    ResourcesExceeded,
    SourceNotFound,
    TargetExists,
    TargetNotWritable,
    UnsupportedDtype,
    WrongCategory,
)
from voxelworks.settings import Settings
from voxelworks.testing.independent_writers import write_png

SECTION = np.arange(48, dtype=np.uint8).reshape(6, 8)


def write_stack(folder, sections):
    folder.mkdir()
    for name, section in sections.items():
        tifffile.imwrite(folder / name, section)
    return str(folder)


@pytest.fixture
def stack(tmp_path):
    return write_stack(tmp_path / "stack", {f"s{z}.tif": SECTION for z in range(3)})


@pytest.fixture
def dataset(stack, tmp_path):
    target = tmp_path / "dataset"
    voxelworks.run("convert", source=stack, target=str(target), voxel_size="4,4,40")
    return str(target)


def refused(tmp_path, error, *words, workflow="convert", **params):
    before = tree(tmp_path)
    with pytest.raises(error) as caught:
        voxelworks.run(workflow, **params)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert caught.value.exit_status == 2
    assert tree(tmp_path) == before
    assert list(tmp_path.rglob(".voxelworks")) == []


def test_a_missing_section_is_named(tmp_path):
    stack = write_stack(tmp_path / "stack", {f"s{z}.tif": SECTION for z in (1, 2, 4)})
    refused(
        tmp_path,
        MissingSections,
        "3",
        "fill",
        source=stack,
        target=str(tmp_path / "out"),
        voxel_size="4,4,40",
    )


def test_a_missing_section_is_filled_when_asked(tmp_path):
    stack = write_stack(tmp_path / "stack", {f"s{z}.tif": SECTION for z in (1, 2, 4)})
    target = tmp_path / "out"
    voxelworks.run("convert", source=stack, target=str(target), voxel_size="4,4,40", fill_missing=True)
    from reference import read_mag

    assert (
        read_mag(target, "color", "1")[0].tolist()
        == np.stack([SECTION, SECTION, 0 * SECTION, SECTION]).tolist()
    )


def test_sections_of_another_size_are_named_with_both_sizes(tmp_path):
    stack = write_stack(tmp_path / "stack", {"s1.tif": SECTION, "s2.tif": SECTION[:, :5]})
    words = ("s2.tif", "8 x 6", "5 x 6")
    refused(tmp_path, MixedSections, *words, source=stack, target=str(tmp_path / "out"), voxel_size="4,4,40")


def test_an_unknown_dtype_is_named(tmp_path):
    stack = write_stack(tmp_path / "stack", {"s1.tif": SECTION.astype(np.complex64)})
    refused(
        tmp_path,
        UnsupportedDtype,
        "complex64",
        source=stack,
        target=str(tmp_path / "out"),
        voxel_size="4,4,40",
    )


def test_floats_are_refused_as_labels(tmp_path):
    stack = write_stack(tmp_path / "stack", {"s1.tif": SECTION.astype(np.float32)})
    refused(
        tmp_path, UnsupportedDtype, "float32", "category color",
        source=stack, category="segmentation", target=str(tmp_path / "out"), voxel_size="4,4,40",
    )  # fmt: skip


def test_an_existing_target_is_never_touched(tmp_path, stack):
    (tmp_path / "out").mkdir()
    refused(
        tmp_path,
        TargetExists,
        "out exists already",
        source=stack,
        target=str(tmp_path / "out"),
        voxel_size="4,4,40",
    )


def test_a_target_in_a_folder_that_is_not_there_is_refused(tmp_path, stack):
    words = ("no/such does not exist", "make it first")
    refused(
        tmp_path,
        TargetNotWritable,
        *words,
        source=stack,
        target=str(tmp_path / "no/such/out"),
        voxel_size="4,4,40",
    )


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is where even root cannot write")
def test_an_unwritable_target_is_refused(tmp_path, stack):
    refused(tmp_path, TargetNotWritable, "/proc", source=stack, target="/proc/out", voxel_size="4,4,40")


@pytest.mark.parametrize("voxel_size", ["4,4", "4,4,0", "4,4,-40", "4 nm"])
def test_a_wrong_voxel_size_is_refused_with_the_right_form(tmp_path, stack, voxel_size):
    words = ("voxel_size", "nanometres", "4,4,40")
    refused(
        tmp_path, InvalidParams, *words, source=stack, target=str(tmp_path / "out"), voxel_size=voxel_size
    )


def test_a_voxel_size_that_nobody_states_is_asked_for(tmp_path, stack):
    refused(
        tmp_path, InvalidParams, "voxel size is missing", "4,4,40", source=stack, target=str(tmp_path / "out")
    )


def test_a_source_that_is_not_there_is_named(tmp_path):
    target = str(tmp_path / "out")
    refused(
        tmp_path,
        SourceNotFound,
        "nowhere",
        source=str(tmp_path / "nowhere"),
        target=target,
        voxel_size="4,4,40",
    )


def test_a_colour_layer_has_no_segment_ids(tmp_path, dataset):
    refused(
        tmp_path,
        WrongCategory,
        "'color' is a color layer",
        workflow="find_largest_segment_id",
        layer=f"{dataset}/color",
    )


def test_unknown_datasets_and_layers_are_named(tmp_path, dataset):
    refused(tmp_path, DatasetNotFound, "nowhere", workflow="downsample", layer=f"{tmp_path}/nowhere/color")
    refused(tmp_path, LayerNotFound, "'labels'", "color", workflow="downsample", layer=f"{dataset}/labels")


def test_a_pyramid_that_is_complete_is_not_made_again(tmp_path, dataset):
    refused(tmp_path, InvalidParams, "has mags 1 already", workflow="downsample", layer=f"{dataset}/color")


def test_a_remote_dataset_can_only_be_read(tmp_path, dataset):
    words = ("can only be read",)
    refused(
        tmp_path,
        TargetNotWritable,
        *words,
        source=str(tmp_path / "stack"),
        target="s3://bucket/out",
        voxel_size="4,4,40",
    )


def test_sections_that_are_too_large_to_decode_are_refused_before_anything_is_read(tmp_path, stack):
    (tmp_path / "wide").mkdir()
    write_png(tmp_path / "wide" / "0.png", np.zeros((8000, 8000), np.uint8))
    held = psutil.Process().memory_info().rss
    phases = []
    with pytest.raises(ResourcesExceeded) as caught:
        voxelworks.run(
            "convert", source=[stack, str(tmp_path / "wide")], layer_name=["small", "wide"],
            target=str(tmp_path / "out"), voxel_size="4,4,40", on_progress=phases.append,
            settings=Settings(shard_bytes_max=2**18, slots=2, memory_bytes_max=held + 150 * 2**20),
        )  # fmt: skip
    assert str(caught.value).startswith(
        "one section of layer wide (8000 x 8000 voxels, decoded whole) needs 247 MiB of memory, but only "
    )
    assert str(caught.value).endswith(
        "are free; save the sections as uncompressed or tiled TIFF, raise VOXELWORKS_MEMORY_BYTES_MAX if it is set, or "
        "use a larger machine"
    )
    assert phases == []
    assert not (tmp_path / ".voxelworks").exists()
