import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import zarr

from voxelworks.errors import (
    InvalidDataset,
    InvalidGeometry,
    InvalidParams,
    UnsafeReference,
    UnsupportedDtype,
    UnsupportedFormat,
)
from voxelworks.geometry import Box, VoxelSize
from voxelworks.volumes.formats import chunked, open_source, open_volumes

SPACE = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
STAINS = ["Cy5", "GFP", "DAPI"]
RGB = ["FF0000", "00FF00", "0000FF"]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def noise(shape, dtype=np.uint8):
    return np.random.default_rng(8).integers(0, 200, shape).astype(dtype)


def put(group, name, voxels, chunks=None):
    array = group.create_array(name, shape=voxels.shape, chunks=chunks or voxels.shape, dtype=voxels.dtype)
    array[...] = voxels


def write_image(
    folder, voxels, *, version="0.5", axes=None, scale=(0.05, 0.01, 0.01), omero=None, extra=None, levels=1
):
    axes = axes or [{"name": "c", "type": "channel"}] * (voxels.ndim - 3) + SPACE
    scale = [1.0] * (len(axes) - len(scale)) + list(scale)
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [{"type": "scale", "scale": [size * 2**level for size in scale]}],
        }
        for level in range(levels)
    ]
    metadata = {"version": version, "multiscales": [{"axes": axes, "datasets": datasets}], **(extra or {})}
    if omero:
        metadata["omero"] = {"channels": omero}
    group = zarr.open_group(
        folder,
        mode="w",
        zarr_format=3 if version == "0.5" else 2,
        attributes={"ome": metadata} if version == "0.5" else metadata,
    )
    for level in range(levels):
        put(group, str(level), voxels[..., :: 2**level, :: 2**level, :: 2**level])
    return group


def whole(source):
    return source.read(source.box)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_finest_scale_of_an_ome_zarr_image_is_read(tmp_path, version):
    voxels = noise((4, 6, 8), np.uint16)
    write_image(tmp_path, voxels, version=version, levels=2)
    source = open_source(tmp_path)
    assert np.array_equal(whole(source)[0], voxels)
    assert source.voxel_size == VoxelSize(10, 10, 50)
    assert (source.voxel_size_from, source.notes) == ("OME-Zarr scale", ())


@pytest.mark.parametrize(("dtype", "stored"), [("bool", "uint8"), ("float16", "float32"), (">u2", "uint16")])
def test_types_that_we_do_not_store_are_widened(tmp_path, dtype, stored):
    voxels = noise((3, 4, 5), dtype)
    put(zarr.open_group(tmp_path, mode="w", zarr_format=2), "raw", voxels)
    source = open_source(tmp_path / "raw")
    assert source.dtype == whole(source).dtype == stored
    assert np.array_equal(whole(source)[0], voxels)


def test_channels_are_volumes_with_their_names(tmp_path):
    voxels = noise((2, 3, 4, 5), np.uint16)
    write_image(tmp_path, voxels, omero=[{"label": "DAPI"}, {"label": "GFP"}])
    volumes = open_volumes(tmp_path)
    assert [volume.name for volume in volumes] == ["DAPI", "GFP"]
    assert np.array_equal(whole(volumes[1].source)[0], voxels[1])
    assert np.array_equal(whole(open_source(tmp_path, part="DAPI"))[0], voxels[0])
    with pytest.raises(InvalidParams, match="holds DAPI, GFP; choose one of them"):
        open_source(tmp_path)


@pytest.mark.parametrize("labels", [["a", "a", "b"], ["", "", ""]])
def test_channels_without_names_of_their_own_are_counted(tmp_path, labels):
    write_image(tmp_path, noise((3, 3, 4, 5), np.uint16), omero=[{"label": label} for label in labels])
    assert [volume.name for volume in open_volumes(tmp_path)] == [f"channel {index}" for index in range(3)]


@pytest.mark.parametrize(
    ("omero", "names"),
    [
        (None, [""]),
        ([{"color": colour} for colour in RGB], [""]),
        ([{"label": name} for name in ("Red", "green", "B")], [""]),
        ([{"label": name, "color": RGB[index]} for index, name in enumerate(STAINS)], STAINS),
        ([{"color": colour} for colour in RGB[::-1]], ["channel 0", "channel 1", "channel 2"]),
    ],
)  # fmt: skip
def test_three_channels_of_8_bits_are_colours_unless_the_metadata_says_otherwise(tmp_path, omero, names):
    voxels = noise((3, 3, 4, 5))
    write_image(tmp_path, voxels, omero=omero)
    volumes = open_volumes(tmp_path)
    assert [volume.name for volume in volumes] == names
    read = np.concatenate([whole(volume.source) for volume in volumes])
    assert np.array_equal(read, voxels)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_labels_of_an_image_are_segmentations(tmp_path, version):
    voxels, cells = noise((3, 4, 5)), noise((3, 4, 5), np.uint64) + 2**60
    image = write_image(tmp_path, voxels, version=version)
    listing = {"labels": ["cells"]}
    image.create_group("labels", attributes=listing if version == "0.4" else {"ome": listing})
    write_image(tmp_path / "labels" / "cells", cells, version=version, extra={"image-label": {}})
    found = {volume.name: volume for volume in open_volumes(tmp_path)}
    assert {name: volume.category for name, volume in found.items()} == {
        "image": None,
        "labels/cells": "segmentation",
    }
    assert np.array_equal(whole(found["labels/cells"].source)[0], cells)


def test_series_of_bioformats2raw_are_volumes_in_their_order(tmp_path):
    root = zarr.open_group(tmp_path, mode="w", zarr_format=2, attributes={"bioformats2raw.layout": 3})
    stacks = {"0": noise((2, 3, 4)), "1": noise((3, 3, 3), np.uint16), "10": noise((1, 2, 2))}
    for name, voxels in stacks.items():
        write_image(tmp_path / name, voxels, version="0.4")
    assert [volume.name for volume in open_volumes(tmp_path)] == ["0", "1", "10"]
    root.create_group("OME", attributes={"series": ["10", "1"]})
    volumes = open_volumes(tmp_path)
    assert [volume.name for volume in volumes] == ["10", "1"]
    assert np.array_equal(whole(volumes[1].source)[0], stacks["1"])


def test_every_array_of_a_plain_group_is_a_volume_and_what_is_none_is_named(tmp_path):
    group = zarr.open_group(tmp_path, mode="w")
    voxels = noise((3, 4, 5))
    put(group, "volumes/raw", voxels)
    put(group, "volumes/labels", noise((3, 4, 5), np.uint64))
    put(group, "positions", noise((7,)))
    put(group, "angles", np.ones((3, 3, 3), np.float64))
    volumes = open_volumes(tmp_path)
    assert [volume.name for volume in volumes] == ["volumes/labels", "volumes/raw"]
    assert np.array_equal(whole(volumes[1].source)[0], voxels)
    assert volumes[0].source.notes[-1] == (
        "not read: angles (holds float64 values, which no layer can have; save images as float32, labels as uint64), "
        "positions (has 1 axes, which is no image; name an array of two or more)"
    )


def test_what_is_not_read_is_named_without_the_folders_above(tmp_path):
    group = zarr.open_group(tmp_path, mode="w")
    put(group, "raw", noise((3, 4, 5)))
    put(group, "torn", noise((3, 4, 5)))
    (tmp_path / "torn/zarr.json").write_text('{"zarr_format": 3, "node_type": "array", "shape": [3, 4, 5]}')
    [volume] = open_volumes(tmp_path)
    note = volume.source.notes[-1]
    assert note.startswith("not read: torn (")
    assert str(tmp_path) not in note


def test_a_folder_of_images_is_read_like_a_group(tmp_path):
    write_image(tmp_path / "b.zarr", noise((3, 4, 5)))
    write_image(tmp_path / "a.zarr", noise((3, 4, 5)), version="0.4")
    assert [volume.name for volume in open_volumes(tmp_path)] == ["a.zarr", "b.zarr"]


def test_missing_chunks_have_the_fill_value(tmp_path):
    zarr.create_array(tmp_path, shape=(4, 4, 4), chunks=(2, 2, 2), dtype="uint8", fill_value=7)[:2] = 1
    source = open_source(tmp_path)
    assert np.array_equal(whole(source)[0, :, 0, 0], [1, 1, 7, 7])


def test_axes_may_stand_in_any_order_and_have_other_names(tmp_path):
    voxels = noise((5, 4, 3, 2), np.uint16)
    names = ["X", "Channel", "z", "y"]
    array = zarr.create_array(tmp_path, shape=voxels.shape, dtype="uint16", dimension_names=names)
    array[...] = voxels
    volumes = open_volumes(tmp_path)
    assert len(volumes) == 4
    assert volumes[3].source.shape_zyx == (3, 2, 5)
    assert np.array_equal(whole(volumes[3].source)[0], voxels[:, 3].transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((4, 5), "y, x"), ((3, 4, 5), "z, y, x"), ((2, 30, 40, 50), "c, z, y, x"), ((30, 40, 50, 3), "z, y, x, c")],
)  # fmt: skip
def test_axes_without_names_are_told_by_their_number_with_a_note(tmp_path, shape, axes):
    zarr.create_array(tmp_path, shape=shape, dtype="uint16")[...] = 1
    assert open_volumes(tmp_path)[0].source.notes == (f"its axes have no names and are taken as {axes}",)


def test_what_cannot_be_told_is_refused(tmp_path):
    zarr.create_array(tmp_path / "four", shape=(30, 40, 50, 60), dtype="uint8")
    with pytest.raises(UnsupportedFormat, match="has 4 axes without names \\(30 x 40 x 50 x 60\\)"):
        open_source(tmp_path / "four")
    names = ["t", "z", "y", "x"]
    zarr.create_array(tmp_path / "film", shape=(3, 4, 5, 6), dtype="uint8", dimension_names=names)
    with pytest.raises(UnsupportedFormat, match="has 3 time points; save the one you need by itself"):
        open_source(tmp_path / "film")
    names = ["angle", "z", "y", "x"]
    zarr.create_array(tmp_path / "angles", shape=(3, 4, 5, 6), dtype="uint8", dimension_names=names)
    with pytest.raises(UnsupportedFormat, match="has 3 positions on axis 'angle'"):
        open_source(tmp_path / "angles")
    zarr.create_array(tmp_path / "nothing", shape=(0, 5, 6), dtype="uint8")
    with pytest.raises(UnsupportedFormat, match="is empty: z: 0, y: 5, x: 6"):
        open_source(tmp_path / "nothing")
    zarr.create_array(tmp_path / "waves", shape=(4, 5, 6), dtype="complex64")
    with pytest.raises(UnsupportedDtype, match="holds complex64 values"):
        open_source(tmp_path / "waves")
    zarr.open_group(tmp_path / "plate", mode="w", attributes={"ome": {"plate": {"wells": []}}})
    with pytest.raises(UnsupportedFormat, match="is a plate or a well without wells; copy it again"):
        open_source(tmp_path / "plate")
    zarr.open_group(tmp_path / "group", mode="w")
    with pytest.raises(UnsupportedFormat, match="holds no array that is a volume"):
        open_source(tmp_path / "group")


def test_a_size_without_units_is_not_taken_as_voxel_size(tmp_path):
    write_image(tmp_path, noise((3, 4, 5)), axes=[{"name": axis, "type": "space"} for axis in "zyx"])
    source = open_source(tmp_path)
    assert source.voxel_size is None
    assert source.notes == (
        "OME-Zarr scale states 0.01, 0.01, 0.05 without units, which is not taken as voxel size",
    )


def test_images_of_old_versions_are_read(tmp_path):
    write_image(tmp_path / "a", noise((1, 1, 3, 4, 5)), version="0.2", axes=[*"abcde"])
    metadata = zarr.open_group(tmp_path / "a", mode="r+", zarr_format=2)
    metadata.attrs["multiscales"] = [{"version": "0.2", "datasets": [{"path": "0"}]}]
    source = open_source(tmp_path / "a")
    assert (source.shape_zyx, source.voxel_size) == ((3, 4, 5), None)


def test_the_attributes_of_connectomics_state_the_voxel_size(tmp_path):
    attributes = {"resolution": [40, 4, 4], "offset": [0, 0, 0]}
    zarr.create_array(tmp_path, shape=(4, 4, 4), dtype="uint8", zarr_format=2, attributes=attributes)
    source = open_source(tmp_path)
    assert (source.voxel_size, source.voxel_size_from) == (VoxelSize(4, 4, 40), "resolution in .zattrs")


def test_metadata_that_leads_elsewhere_is_refused(tmp_path):
    (tmp_path / "secret").mkdir()
    put(zarr.open_group(tmp_path / "secret", mode="w"), "0", noise((3, 4, 5)))
    image = write_image(tmp_path / "image", noise((3, 4, 5)))
    for path in ("../secret/0", "/etc", "https://example.org/0", "a/../../secret/0"):
        ome = image.attrs["ome"]
        ome["multiscales"][0]["datasets"][0]["path"] = path
        image.attrs["ome"] = ome
        with pytest.raises(UnsafeReference, match="only folders below it are read"):
            open_source(tmp_path / "image")


def test_giants_that_hold_nothing_and_giant_chunks_are_refused(tmp_path):
    edge = 10_000
    zarr.create_array(tmp_path / "claim", shape=(edge,) * 3, chunks=(64,) * 3, dtype="uint8")
    with pytest.raises(UnsupportedFormat, match=r"claims 931 GiB of voxels, and [0-9,]+ bytes are stored"):
        open_source(tmp_path / "claim")
    zarr.create_array(tmp_path / "chunk", shape=(2000,) * 3, chunks=(2000,) * 3, dtype="uint8")
    with pytest.raises(UnsupportedFormat, match=r"has chunks of 7\.5 GiB; at most 1 GiB"):
        open_source(tmp_path / "chunk")


def test_chunks_of_whole_sections_are_staged_and_others_read_where_they_are_needed(tmp_path):
    shapes = {"flat": (1, 2048, 2048), "deep": (8, 2048, 2048), "small": (1, 1024, 1024)}
    for name, chunks in shapes.items():
        zarr.create_array(tmp_path / name, shape=(16, 2048, 2048), chunks=chunks, dtype="uint8")
    found = {name: open_source(tmp_path / name) for name in shapes}
    assert {name: source.has_random_access for name, source in found.items()} == {
        "flat": False, "deep": True, "small": True,
    }  # fmt: skip
    assert found["flat"].decoding_bytes == 2 * 2**22


def test_groups_without_end_and_metadata_that_is_none_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(chunked, "GROUPS_MAX", 20)
    zarr.open_group(tmp_path / "loop" / "a", mode="w", zarr_format=2)
    (tmp_path / "loop" / "a" / "b").symlink_to("..")
    (tmp_path / "loop" / "a" / "c").symlink_to("..")
    with pytest.raises(
        UnsupportedFormat, match="holds more than 20 folders of groups; name the folder of one"
    ):
        open_source(tmp_path / "loop")
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / ".zarray").write_bytes(b" " * 2**24 + b"{}")
    with pytest.raises(InvalidDataset, match=r"\.zarray is larger than 16 MiB: that is no metadata"):
        open_source(tmp_path / "large")
    zarr.open_group(tmp_path / "piped", mode="w", zarr_format=2)
    (tmp_path / "piped" / "a").mkdir()
    os.mkfifo(tmp_path / "piped" / "a" / ".zarray")
    with pytest.raises(UnsupportedFormat, match="holds no array that is a volume"):
        open_source(tmp_path / "piped")


def test_a_damaged_chunk_is_refused_when_it_is_read(tmp_path):
    zarr.create_array(tmp_path, shape=(4, 4, 4), dtype="uint8")[...] = noise((4, 4, 4))
    source = open_source(tmp_path)
    (tmp_path / "c" / "0" / "0" / "0").write_bytes(b"none")
    with pytest.raises(InvalidDataset, match="the data is damaged"):
        whole(source)
    with pytest.raises(InvalidGeometry, match="is not inside the images, which are 0,0,0,4,4,4"):
        source.read(Box((0, 0, 0), (5, 4, 4)))


def test_the_fingerprint_tells_of_new_chunks_and_metadata_and_of_nothing_else(tmp_path):
    def prints():
        return open_source(tmp_path / "a").fingerprint

    array = zarr.create_array(tmp_path / "a", shape=(4, 4, 4), chunks=(2, 2, 2), dtype="uint8")
    array[:2] = 1
    first = prints()
    assert prints() == first
    (tmp_path / "a").rename(tmp_path / "b")
    assert open_source(tmp_path / "b").fingerprint == first
    (tmp_path / "b").rename(tmp_path / "a")
    array[2:] = 1
    second = prints()
    assert second != first
    array.attrs["x"] = 1
    assert prints() != second


def test_links_are_found_and_pipes_refused(tmp_path):
    zarr.create_array(tmp_path / "a", shape=(4, 4, 4), chunks=(2, 2, 2), dtype="uint8")[...] = 1
    chunk = tmp_path / "a" / "c" / "0" / "0" / "0"
    chunk.unlink()
    chunk.symlink_to("/etc/hostname")
    assert open_source(tmp_path / "a").files == (str(tmp_path / "a"), str(chunk))
    chunk.unlink()
    os.mkfifo(chunk)
    with pytest.raises(UnsupportedFormat, match="is neither a file nor a folder"):
        _ = open_source(tmp_path / "a").fingerprint


def test_a_store_is_read_at_an_address(tmp_path):
    voxels = noise((3, 4, 5))
    write_image(tmp_path / "image", voxels)
    zarr.open_group(tmp_path / "group", mode="w")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        source = open_source(f"{address}/image/")
        assert np.array_equal(whole(source)[0], voxels)
        assert (source.files, source.voxel_size) == ((), VoxelSize(10, 10, 50))
        assert source.fingerprint == open_source(f"{address}/image").fingerprint
        with pytest.raises(UnsupportedFormat, match="is a group of several arrays, which cannot be listed"):
            open_source(f"{address}/group")
        with pytest.raises(UnsupportedFormat, match="is none of Zarr, Neuroglancer precomputed, N5"):
            open_source(f"{address}/image/0/c")
        server.shutdown()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_each_field_of_a_plate_is_a_volume(tmp_path, version):
    form = 3 if version == "0.5" else 2

    def group(folder, metadata):
        attributes = {"ome": {"version": version, **metadata}} if form == 3 else metadata
        zarr.open_group(folder, mode="w", zarr_format=form, attributes=attributes)

    plate = tmp_path / "plate.zarr"
    wells = {"A/1": ["0", "1"], "B/12": ["0"]}
    group(plate, {"plate": {"wells": [{"path": path} for path in wells]}})
    voxels = {}
    for well, fields in wells.items():
        group(plate / well, {"well": {"images": [{"path": field} for field in fields]}})
        for field in fields:
            voxels[f"{well}/{field}"] = noise((2, 3, 4)) + np.uint8(len(voxels))
            write_image(plate / well / field, voxels[f"{well}/{field}"], version=version)
    found = {volume.name: volume.source for volume in open_volumes(plate)}
    assert list(found) == ["A/1/0", "A/1/1", "B/12/0"]
    for name, source in found.items():
        assert np.array_equal(source.read(source.box)[0], voxels[name])
    assert [volume.name for volume in open_volumes(plate / "A" / "1")] == ["0", "1"]
    group(plate, {"plate": {"wells": [{"path": "../elsewhere"}]}})
    with pytest.raises(UnsafeReference):
        open_volumes(plate)
    group(plate, {"plate": {"rows": []}})
    with pytest.raises(InvalidDataset, match="does not say where its wells are"):
        open_volumes(plate)
