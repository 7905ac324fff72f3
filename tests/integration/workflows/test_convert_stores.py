"""Chunked stores and archives become datasets, whatever they are packed in."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import zarr

import voxelworks
from reference import properties, read_mag, tree
from voxelworks.errors import DiskFull, InvalidArchive, UnsafeReference, UnsupportedDtype
from voxelworks.protocol.places import Places
from voxelworks.settings import Settings
from voxelworks.testing.independent_writers import write_precomputed
from voxelworks.workflows import SourceRef
from voxelworks.workflows._job import Job
from voxelworks.workflows._refs import PlacesResolver

VOXELS = np.random.default_rng(8).integers(0, 200, (2, 20, 30, 40)).astype(np.uint16)
LABELS = np.random.default_rng(9).integers(0, 9, (1, 20, 30, 40)).astype(np.uint64) + 2**60


def write_image(folder):
    """Write an OME-Zarr 0.4 image of two channels with labels, as other programs do."""
    axes = [{"name": "c", "type": "channel"}] + [{"name": axis, "unit": "nanometer"} for axis in "zyx"]
    scale = [{"type": "scale", "scale": [1, 40, 4, 4]}]
    multiscale = {
        "version": "0.4",
        "axes": axes,
        "datasets": [{"path": "0", "coordinateTransformations": scale}],
    }
    channels = [{"label": "DAPI"}, {"label": "actin (phalloidin)"}]
    attributes = {"multiscales": [multiscale], "omero": {"channels": channels}}
    image = zarr.open_group(folder, mode="w", zarr_format=2, attributes=attributes)
    for group, voxels in (
        (image, VOXELS),
        (image.create_group("labels/cells", attributes=attributes), LABELS),
    ):
        array = group.create_array("0", shape=voxels.shape, chunks=(1, 16, 16, 16), dtype=voxels.dtype)
        array[:] = voxels
    zarr.open_group(folder / "labels", mode="r+", zarr_format=2).attrs["labels"] = ["cells"]
    return folder


LAYERS = {
    "color_image-DAPI": VOXELS[:1], "color_image-actin-phalloidin": VOXELS[1:], "color_labels-cells": LABELS,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
def test_an_ome_zarr_image_becomes_a_layer_for_each_channel_and_label(tmp_path, kind):
    source = write_image(tmp_path / "image.zarr")
    if kind == "zip":
        source = Path(shutil.make_archive(tmp_path / "image", "zip", tmp_path, "image.zarr"))
    elif kind == "tar.gz":
        source = tmp_path / "image.tgz"
        with tarfile.open(source, "w:gz") as archive:
            archive.add(tmp_path / "image.zarr", "image.zarr")
    target = tmp_path / "dataset"
    before = set(tree(tmp_path))
    answer = voxelworks.run("convert", source=str(source), target=str(target))
    assert (answer["layers"], answer["voxel_size"]) == (list(LAYERS), "4,4,40")
    for name, voxels in LAYERS.items():
        assert np.array_equal(read_mag(target, name, "1"), voxels)
    layers = {layer["name"]: layer for layer in properties(target)["dataLayers"]}
    assert [layer["category"] for layer in layers.values()] == ["color", "color", "segmentation"]
    assert layers["color_labels-cells"]["largestSegmentId"] == int(LABELS.max())
    assert {str(path) for path in set(tree(tmp_path)) - before if "dataset" not in str(path)} == set()


def test_a_restarted_job_does_not_unpack_again_and_goes_on_with_its_blocks(tmp_path, monkeypatch):
    from voxelworks import archives
    from voxelworks.workflows import convert

    write_image(tmp_path / "image.zarr")
    source = shutil.make_archive(tmp_path / "image", "zip", tmp_path, "image.zarr")
    target = tmp_path / "dataset"
    write = convert._LayerPlan.write

    def stop_at_labels(plan, job):
        if "labels" in plan.name:
            raise DiskFull("full")
        write(plan, job)

    with monkeypatch.context() as patched:
        patched.setattr(convert._LayerPlan, "write", stop_at_labels)
        with pytest.raises(DiskFull):
            voxelworks.run("convert", source=source, target=str(target))
    (unpacked,) = tmp_path.glob(".voxelworks/*/1/unpacked/*")
    chunk = next(path for path in unpacked.rglob("0.*") if path.is_file())
    inode = chunk.stat().st_ino
    seen, original, lines = [], archives.unpack, []

    def spy(*args, **options):
        found = original(*args, **options)
        (again,) = tmp_path.glob(".voxelworks/*/2/unpacked/*")
        seen.append((again / chunk.relative_to(unpacked)).stat().st_ino)
        return found

    monkeypatch.setattr(archives, "unpack", spy)
    monkeypatch.setattr("builtins.print", lambda text, **_: lines.append(text))
    voxelworks.run("convert", source=source, target=str(target))
    assert seen == [inode]
    assert "going on where an earlier attempt stopped" in lines
    for name, voxels in LAYERS.items():
        assert np.array_equal(read_mag(target, name, "1"), voxels)
    assert list(tmp_path.glob(".voxelworks")) == []


def test_a_dataset_can_be_converted_again_and_labels_stay_labels(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    write_image(tmp_path / "image.zarr")
    voxelworks.run("convert", source=str(tmp_path / "image.zarr"), target=str(first))
    answer = voxelworks.run("convert", source=str(first), target=str(second), layer_name="again")
    assert answer["layers"] == [f"again_{name}" for name in LAYERS]
    for name, voxels in LAYERS.items():
        assert np.array_equal(read_mag(second, f"again_{name}", "1"), voxels)


def test_refusals_leave_nothing_behind(tmp_path):
    source = write_precomputed(tmp_path / "labels", LABELS, (16, 16, 16))
    archive = tmp_path / "labels.zip"
    shutil.make_archive(tmp_path / "labels", "zip", source)
    broken = tmp_path / "broken.zip"
    broken.write_bytes(archive.read_bytes()[:-30])
    before = tree(tmp_path)
    with pytest.raises(UnsupportedDtype, match="uint64, which only segmentation layers may"):
        voxelworks.run("convert", source=str(archive), target=str(tmp_path / "dataset"))
    with pytest.raises(InvalidArchive):
        voxelworks.run("convert", source=str(broken), target=str(tmp_path / "dataset"))
    assert tree(tmp_path) == before


def test_links_that_lead_out_of_a_store_are_refused_on_a_server(tmp_path):
    root = tmp_path / "root"
    write_precomputed(root / "inside", LABELS, (16, 16, 16), kind="segmentation")
    chunk = next((root / "inside" / "4_4_40").iterdir())
    chunk.rename(tmp_path / "outside")
    chunk.symlink_to(tmp_path / "outside")
    settings = Settings(home=tmp_path / "home", import_roots={"data": {"path": str(root)}})
    places = Places.of(settings)
    job = Job.__new__(Job)
    job._resolver, job._unpacked = PlacesResolver({"root:data/inside": "root:data/inside"}, places.locate), {}
    from voxelworks.volumes.formats import open_volumes

    ref = SourceRef("root:data/inside")
    (volume,) = open_volumes(job.locate(ref))
    with pytest.raises(UnsafeReference, match="is a link that leads out of it"):
        job.require_inside(ref, volume.source.files)
    chunk.unlink()
    chunk.symlink_to(next((root / "inside" / "4_4_40").glob("0-16*")))
    job.require_inside(ref, open_volumes(job.locate(ref))[0].source.files)
    assert json.loads((root / "inside" / "info").read_text())["type"] == "segmentation"
