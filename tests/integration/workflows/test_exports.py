"""Exports, read by tifffile and zarr, and back through our own conversion."""

import io
import zipfile

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ome_zarr_models import v04, v05

import voxelworks
from reference import read_mag, shrink
from voxelworks.errors import (
    Cancelled,
    DiskFull,
    InvalidGeometry,
    InvalidParams,
    MagNotFound,
    TargetExists,
    UnsupportedDtype,
)
from voxelworks.geometry import MAG1, Box, Mag, VoxelSize
from voxelworks.settings import Settings
from voxelworks.testing.rounds import rounds
from voxelworks.volumes.dataset import Dataset
from voxelworks.volumes.metadata import LayerProperties
from voxelworks.workflows import _ome_zarr, _planes

COLOR = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "rgb")
LABELS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
CHANNELS = ("2xuint8", "3xuint16", "2xint16")
COMPRESSIONS = ("none", "deflate", "zstd")
KINDS = [*(("color", name) for name in COLOR), *(("segmentation", name) for name in LABELS)]


def make(folder, category, dtype, box, *, seed=0, voxel_size="11.24,11.24,30", mags=(MAG1,), values_of=None):
    """Make a dataset `cells` with one layer of random values; give the voxels of its last mag (c, z, y, x).

    The values fill the range of the type, or that of `values_of`.
    """
    count, name = channels_of(dtype)
    dataset = Dataset.create(folder / "cells", VoxelSize.parse(voxel_size))
    if dtype in CHANNELS:
        # WEBKNOSSOS' element class counts the bits of all channels; we write no such layers, but read them.
        info = np.iinfo(name)
        properties = LayerProperties(
            name="em", category=category, bounding_box=box, data_format="zarr3", num_channels=count,
            element_class=f"{name.rstrip('0123456789')}{info.bits * count}",
        )  # fmt: skip
        dataset.source = dataset.source.with_layer(properties)
    else:
        dataset.add_layer("em", category, name, count, box)
    dice = np.random.default_rng(seed)
    for mag in mags:
        shape = (count, *box.in_mag(mag).shape_zyx)
        if np.dtype(name).kind == "f":
            voxels = dice.normal(0, 1e5, shape).astype(name)
        else:
            info = np.iinfo(values_of or name)
            voxels = dice.integers(info.min, info.max, shape, info.dtype, endpoint=True).astype(name)
        dataset.layer("em").add_mag(mag, shard_zyx=(64, 64, 64)).write(box.in_mag(mag), voxels)
    dataset.write_metadata()
    return voxels


def channels_of(dtype):
    """Give how many channels there are, and the type of one."""
    if dtype == "rgb":
        return 3, "uint8"
    return (int(dtype[0]), dtype[2:]) if dtype in CHANNELS else (1, dtype)


def export(folder, file, workflow="export_tiff", **params):
    voxelworks.run(
        workflow, dataset=str(folder / "cells"), layer="em", file=str(folder / file), cluster="serial", **params
    )  # fmt: skip
    return folder / file


def read_sections(path):
    """Give the names, and the voxels (c, z, y, x)."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        planes = np.stack([tifffile.imread(io.BytesIO(archive.read(name))) for name in names])
    return names, planes.transpose(3, 0, 1, 2) if planes.ndim == 4 else planes[np.newaxis]


def read_ome(path):
    """Give the sizes of the image, each (c, z, y, x)."""
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        (series,) = tiff.series
        return [_czyx(level.asarray(), series.axes) for level in series.levels]


def _czyx(values, axes):
    for missing in {"C", "Z"} - set(axes.replace("S", "C")):
        values, axes = values[np.newaxis], missing + axes
    return values.transpose([axes.replace("S", "C").index(axis) for axis in "CZYX"])


@pytest.mark.parametrize(("category", "dtype"), KINDS)
def test_sections_hold_the_voxels(tmp_path, category, dtype):
    voxels = make(tmp_path, category, dtype, Box((3, 5, 7), (70, 21, 5)))
    compression = COMPRESSIONS[len(dtype) % 3]
    path = export(tmp_path, "out.zip", box="4,6,8,60,20,4", compression=compression)
    names, found = read_sections(path)
    assert names == [f"em/em_{z:02}.tif" for z in range(8, 12)]
    assert found.dtype == voxels.dtype
    assert (found == voxels[:, 1:5, 1:21, 1:61]).all()


@pytest.mark.parametrize(("category", "dtype"), KINDS)
def test_an_ome_tiff_holds_the_voxels(tmp_path, category, dtype):
    stored = {"uint64": "uint32", "int64": "int32"}.get(dtype)
    voxels = make(tmp_path, category, dtype, Box((3, 5, 7), (70, 21, 5)), values_of=stored)
    compression = COMPRESSIONS[(len(dtype) + 1) % 3]
    path = export(tmp_path, "out.ome.tif", box="4,6,8,60,20,4", format="ome_tiff", compression=compression)
    (found,) = read_ome(path)
    assert found.dtype == (stored or voxels.dtype)
    assert (found == voxels[:, 1:5, 1:21, 1:61]).all()


corners = st.tuples(*[st.integers(0, 70)] * 3)
sizes = st.tuples(*[st.integers(1, 50)] * 3)


@settings(
    max_examples=rounds(12, 200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.data(),
    kind=st.sampled_from([*KINDS, *(("color", name) for name in CHANNELS)]),
    corner=corners,
    size=sizes,
    mag=st.sampled_from([MAG1, Mag(2, 2, 1), Mag(4, 4, 4)]),
    voxel_size=st.sampled_from(["11.24,11.24,30", "4,4,4", "0.5,700,33.3"]),
    version=st.sampled_from(["0.4", "0.5"]),
)
def test_what_was_exported_can_be_converted_back(
    tmp_path_factory, data, kind, corner, size, mag, voxel_size, version
):
    """Of any box in any mag: all channels, their type and every value, and how large a voxel is."""
    folder = tmp_path_factory.mktemp("roundtrip")
    category, dtype = kind
    whole = Box(corner, size)
    mags = dict.fromkeys((MAG1, mag))
    voxels = make(folder, category, dtype, whole, voxel_size=voxel_size, mags=mags)
    ends = [sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True))) for n in size]
    part = Box(
        tuple(a + low for a, (low, _) in zip(corner, ends, strict=True)),
        tuple(high - low for low, high in ends),
    )  # fmt: skip
    start = whole.in_mag(mag).topleft
    wanted = voxels[:, *part.in_mag(mag).moved(tuple(-first for first in start)).slices_zyx]
    chosen = {"box": str(part), "mag": str(mag)}
    with zipfile.ZipFile(export(folder, "out.zip", **chosen)) as archive:
        archive.extractall(folder / "sections")
    sources = [sorted(map(str, (folder / "sections").iterdir()))]
    sources.append(
        [str(export(folder, "out.ome.zarr.zip", "export_ome_zarr", ome_version=version, **chosen))]
    )
    if np.dtype(channels_of(dtype)[1]).itemsize < 8:
        sources.append([str(export(folder, "out.ome.tif", format="ome_tiff", **chosen))])
    for number, source in enumerate(sources):
        target = folder / f"back{number}"
        answer = voxelworks.run(
            "convert", source=source, target=str(target), category=[category] * len(source), pyramid=False,
            layer_name=[f"image{channel}" for channel in range(len(source))], cluster="serial",
        )  # fmt: skip
        assert answer["voxel_size"] == str(VoxelSize.parse(voxel_size).in_mag(mag))
        found = np.concatenate([read_mag(target, name, "1") for name in answer["layers"]])
        assert found.dtype == wanted.dtype
        assert np.array_equal(found, wanted), sources


def test_smaller_sizes_are_those_of_the_reference(tmp_path, monkeypatch):
    monkeypatch.setattr(_planes, "TILE", 16)
    monkeypatch.setattr(_planes, "BLOCK_EDGES", (64, 32))
    monkeypatch.setattr(_planes, "SLAB_BYTES", 1)
    monkeypatch.setattr("voxelworks.workflows.export_tiff.PIXELS_MIN", 8)
    for category, method in (("color", "mean"), ("segmentation", "mode")):
        folder = tmp_path / category
        voxels = make(folder, category, "uint16", Box((5, 9, 60), (201, 130, 9)))
        levels = read_ome(export(folder, "out.tif", format="ome_tiff", compression="zstd"))
        assert [level.shape[-2:] for level in levels] == [
            (130, 201),
            (65, 101),
            (33, 51),
            (17, 26),
            (9, 13),
            (5, 7),
        ]
        wanted = voxels[0]
        for level in levels:
            assert (level[0] == wanted).all()
            wanted = shrink(wanted, (1, 2, 2), method)


def test_wide_sections_are_cut_into_strips_and_slabs(tmp_path, monkeypatch):
    monkeypatch.setattr(_planes, "BLOCK_BYTES_MAX", 300 * 64 * 16)
    monkeypatch.setattr(_planes, "SLAB_BYTES", 1)
    voxels = make(tmp_path, "color", "uint8", Box((0, 1, 2), (300, 200, 40)))
    for compression in ("none", "zstd"):
        path = export(tmp_path, f"{compression}.zip", compression=compression)
        assert (read_sections(path)[1] == voxels).all()


def test_a_file_says_how_large_its_voxels_are_and_where_it_was(tmp_path):
    make(tmp_path, "color", "uint8", Box((0, 0, 0), (20, 10, 2)))
    with tifffile.TiffFile(export(tmp_path, "out.ome.tif", format="ome_tiff", box="2,3,1,4,5,1")) as tiff:
        image = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]
    assert image["Description"] == (
        "Layer em of dataset cells, box 2,3,1,4,5,1 (x, y, z, width, height, depth) in voxels of mag 1"
    )
    pixels = image["Pixels"]
    assert [pixels[f"PhysicalSize{axis}"] for axis in "XYZ"] == [11.24, 11.24, 30]
    assert {pixels[f"PhysicalSize{axis}Unit"] for axis in "XYZ"} == {"nm"}


@pytest.mark.parametrize(("dtype", "value"), [("uint64", 2**32), ("int64", 2**31), ("int64", -(2**31) - 1)])
def test_ids_that_ome_tiff_cannot_hold_are_refused(tmp_path, dtype, value):
    dataset = Dataset.create(tmp_path / "cells", VoxelSize(4, 4, 4))
    array = dataset.add_layer("em", "segmentation", dtype, 1, Box((0, 0, 0), (4, 4, 4))).add_mag(
        MAG1, shard_zyx=(64, 64, 64)
    )
    array.write(array.box, np.full((1, 4, 4, 4), value, dtype))
    dataset.write_metadata()
    with pytest.raises(UnsupportedDtype, match=f"holds the value {value}"):
        export(tmp_path, "out.ome.tif", format="ome_tiff")
    assert (read_sections(export(tmp_path, "out.zip"))[1] == value).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells", "out.zip"]


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({"box": "0,0,0,21,10,2"}, InvalidGeometry, "the part inside it is 0,0,0,20,10,2"),
        ({"box": "0,0,0,0,10,2"}, InvalidGeometry, "is empty"),
        ({"mag": "2"}, MagNotFound, "it has: 1"),
        ({"format": "ome_tiff"}, InvalidParams, "ends in .tif or .tiff"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_and_leaves_nothing(tmp_path, params, error, text):
    make(tmp_path, "color", "uint8", Box((0, 0, 0), (20, 10, 2)))
    with pytest.raises(error, match=text):
        export(tmp_path, "out.zip", **params)
    assert [path.name for path in tmp_path.iterdir()] == ["cells"]


def test_what_is_too_large_is_refused_with_numbers_before_anything_is_written(tmp_path, monkeypatch):
    make(tmp_path, "color", "uint8", Box((0, 0, 0), (20, 10, 2)))
    with pytest.raises(InvalidParams, match="files of at most 100 B are made here"):
        export(tmp_path, "out.zip", settings=Settings(artifact_bytes_max=100))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 50})())
    with pytest.raises(DiskFull, match="50 B are free"):
        export(tmp_path, "out.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["cells"]


def test_a_file_that_is_there_is_not_overwritten(tmp_path):
    make(tmp_path, "color", "uint8", Box((0, 0, 0), (20, 10, 2)))
    (tmp_path / "out.zip").write_text("mine")
    with pytest.raises(TargetExists):
        export(tmp_path, "out.zip")
    assert (tmp_path / "out.zip").read_text() == "mine"


@pytest.mark.parametrize(
    ("workflow", "file", "params"),
    [
        ("export_tiff", "zip", {}), ("export_tiff", "tif", {"format": "ome_tiff", "compression": "zstd"}),
        ("export_ome_zarr", "zip", {}), ("export_ome_zarr", "zip", {"ome_version": "0.4"}),
    ],
)  # fmt: skip
def test_an_export_that_was_stopped_goes_on_and_gives_the_same_bytes(
    tmp_path, monkeypatch, workflow, file, params
):
    monkeypatch.setattr(_planes, "SLAB_BYTES", 1)
    monkeypatch.setattr(_ome_zarr, "BATCH_BYTES", 1)
    make(tmp_path, "color", "uint8", Box((0, 0, 0), (70, 70, 200)))
    params |= {"settings": Settings(shard_bytes_max=2**18)}
    whole = export(tmp_path, f"whole.{file}", workflow, **params).read_bytes()
    phases = []

    def stop_late(progress):
        phases.append(progress.phase)
        if len(set(phases)) > 5:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        export(tmp_path, f"again.{file}", workflow, on_progress=stop_late, **params)
    assert not (tmp_path / f"again.{file}").exists()
    later = []
    path = export(tmp_path, f"again.{file}", workflow, on_progress=lambda p: later.append(p.phase), **params)
    assert path.read_bytes() == whole
    first = next(phase for phase in phases if not phase.startswith("writing"))
    assert first not in later, "what was in the file already was not made again"
    assert not (tmp_path / ".voxelworks").exists()


@settings(max_examples=rounds(8, 100), deadline=None)
@given(kind=st.sampled_from(KINDS), corner=corners, size=sizes, version=st.sampled_from(["0.4", "0.5"]))
def test_an_ome_zarr_holds_the_voxels_and_where_they_lie(tmp_path_factory, kind, corner, size, version):
    folder = tmp_path_factory.mktemp("zarr")
    voxels = make(folder, *kind, Box(corner, size))
    voxelworks.run(
        "downsample", dataset=str(folder / "cells"), layer="em", coarsest_mag="2-2-1", cluster="serial"
    )
    path = export(
        folder, "out.ome.zarr.zip", "export_ome_zarr", box=str(Box(corner, size)), ome_version=version
    )
    group = zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r")
    if version == "0.4":
        v04.Image.from_zarr(group)
        (multiscale,) = group.attrs["multiscales"]
        assert (multiscale["version"], group.metadata.zarr_format) == ("0.4", 2)
    else:
        v05.Image.from_zarr(group)
        (multiscale,) = group.attrs["ome"]["multiscales"]
    assert (group["1"][...] == voxels).all()
    box = Box(corner, size).in_mag(Mag(2, 2, 1))
    stored = read_mag(folder / "cells", "em", "2-2-1")[:, *box.slices_zyx]
    assert (group["2-2-1"][...] == stored).all()
    fine, coarse = (
        {t["type"]: t[t["type"]] for t in d["coordinateTransformations"]} for d in multiscale["datasets"]
    )
    assert fine["scale"] == [1, 30, 11.24, 11.24]
    assert fine["translation"] == pytest.approx([0, corner[2] * 30, corner[1] * 11.24, corner[0] * 11.24])
    x, y, _ = box.topleft
    assert coarse["translation"] == pytest.approx(
        [0, corner[2] * 30, (2 * y + 0.5) * 11.24, (2 * x + 0.5) * 11.24]
    )


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(("category", "dtype"), KINDS)
def test_an_ome_zarr_can_be_converted_back(tmp_path, category, dtype, version):
    voxels = make(tmp_path, category, dtype, Box((3, 5, 7), (140, 21, 5)))
    path = export(tmp_path, "out.ome.zarr.zip", "export_ome_zarr", box="4,6,8,135,20,4", ome_version=version)
    answer = voxelworks.run(
        "convert", source=str(path), target=str(tmp_path / "back"), category=category, pyramid=False,
        cluster="serial",
    )  # fmt: skip
    found = read_mag(tmp_path / "back", category, "1")
    assert (answer["voxel_size"], found.dtype) == ("11.24,11.24,30", voxels.dtype)
    assert (found == voxels[:, 1:5, 1:21, 1:136]).all()


def test_chunks_of_zeros_are_left_out_of_an_ome_zarr(tmp_path):
    dataset = Dataset.create(tmp_path / "cells", VoxelSize(4, 4, 4))
    box = Box((0, 0, 0), (300, 130, 3))
    array = dataset.add_layer("em", "color", "uint16", 1, box).add_mag(MAG1, shard_zyx=(64, 64, 64))
    voxels = np.zeros((1, *box.shape_zyx), np.uint16)
    voxels[0, 1, 129, 270:] = 7
    array.write(box, voxels)
    dataset.write_metadata()
    path = export(tmp_path, "out.zip", "export_ome_zarr", ome_version="0.4")
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [".zgroup", ".zattrs", "1/.zarray", "1/0/0/1/2"]
    stored = zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r")["1"]
    assert (stored.chunks, stored.dtype) == ((1, 3, 128, 128), np.uint16)
    assert (stored[...] == voxels).all()


def test_chosen_mags_of_an_ome_zarr(tmp_path):
    make(tmp_path, "color", "uint8", Box((0, 0, 0), (40, 40, 8)), voxel_size="4,4,4")
    voxelworks.run(
        "downsample", dataset=str(tmp_path / "cells"), layer="em", coarsest_mag="4", cluster="serial"
    )
    path = export(tmp_path, "out.zip", "export_ome_zarr", mag="2", coarsest_mag="2")
    assert list(zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r").array_keys()) == ["2"]
    with pytest.raises(InvalidParams, match="has no mag from 4 to 2"):
        export(tmp_path, "none.zip", "export_ome_zarr", mag="4", coarsest_mag="2")


def test_several_channels_become_pages_and_folders(tmp_path):
    voxels = np.random.default_rng(1).integers(0, 255, (2, 3, 20, 30), np.uint8)
    image = zarr.create_group(tmp_path / "cells")
    image.create_array("0", data=voxels, chunks=(1, 3, 20, 30), dimension_names=list("czyx"))
    axes = [
        {"name": "c", "type": "channel"},
        *({"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"),
    ]
    scale = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 40, 4, 4]}]}
    image.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"name": "em", "axes": axes, "datasets": [scale]}],
    }
    assert (read_ome(export(tmp_path, "out.tif", format="ome_tiff"))[0] == voxels).all()
    names, found = read_sections(export(tmp_path, "out.zip"))
    assert names[:2] == ["em_channel1/em_0.tif", "em_channel2/em_0.tif"]
    assert (found[0].reshape(3, 2, 20, 30) == voxels.transpose(1, 0, 2, 3)).all()
    path = export(tmp_path, "out.ome.zarr.zip", "export_ome_zarr")
    assert (zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r")["1"][...] == voxels).all()
