"""One tiny file or folder of every format that is read, to be changed by tests that see what readers make of it."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image

from voxelworks.testing.independent_volumes import VolumeLayer, nml_text, write_annotation, write_wkw
from voxelworks.testing.independent_writers import (
    CziTile,
    DicomStyle,
    DmStyle,
    MrcStyle,
    NiftiStyle,
    TiffStyle,
    write_czi,
    write_dicom,
    write_dm,
    write_mrc,
    write_n5,
    write_nifti,
    write_png,
    write_precomputed,
    write_tiff,
)

VOLUME = np.random.default_rng(7).integers(0, 200, (3, 18, 20), np.uint8)
RGB = np.random.default_rng(8).integers(0, 200, (2, 18, 20, 3), np.uint8)
_PACKINGS: tuple[Literal["raw", "zstd", "zstd of split bytes"], ...] = ("raw", "zstd", "zstd of split bytes")


def write_all(folder: Path) -> dict[str, Path]:
    """Write a file or folder of every format below a folder; give them by what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for number, (name, write) in enumerate(_WRITERS.items()):
        home = folder / str(number)
        home.mkdir()
        found[name] = write(home)
    return found


def write_archives(folder: Path) -> dict[str, Path]:
    """Write archives and annotations below a folder; give them by what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    buckets = {"1": {(0, 1, 0): VOLUME[:, :8, :8].repeat(3, 0)[:8].astype(np.uint32)}}
    trees = [[(1.0, 2.0, 3.0), (4.5, 5.0, 6.0)], [(7.0, 8.0, 9.0)]]
    return {
        "annotation of WKW": write_annotation(folder / "wkw.zip", [VolumeLayer(buckets)], trees),
        "annotation of Zarr": write_annotation(
            folder / "zarr.zip", [VolumeLayer(buckets, "zarr3", extents=(64, 64, 64))], trees
        ),
        "NML": _nml(folder / "a.nml"),
        "zip": _zip(folder / "a.images.zip"),
        "tar": _tar(folder / "a.tar", "w"),
        "packed tar": _tar(folder / "a.tar.gz", "w:gz"),
    }


def _tiff(name: str, pages: NDArray[Any], style: TiffStyle = TiffStyle()) -> Callable[[Path], Path]:
    return lambda home: write_tiff(home / name, pages, style)


def _tifffile(name: str, data: NDArray[Any], **options: Any) -> Callable[[Path], Path]:
    def write(home: Path) -> Path:
        tifffile.imwrite(home / name, data, **options)
        return home / name

    return write


def _picture(name: str, **options: Any) -> Callable[[Path], Path]:
    def write(home: Path) -> Path:
        Image.fromarray(RGB[0]).save(home / name, **options)
        return home / name

    return write


def _czi(home: Path) -> Path:
    tiles = [
        CziTile(VOLUME[z].astype(np.uint16), at={"C": 0, "Z": z}, packing=packing)
        for z, packing in enumerate(_PACKINGS)
    ]
    scaling = "".join(f'<Distance Id="{axis}"><Value>1e-7</Value></Distance>' for axis in "XYZ")
    return write_czi(home / "a.czi", tiles, metadata=f"<Scaling><Items>{scaling}</Items></Scaling>")


def _klb(home: Path) -> Path:
    """Write one block; its header is 2, sizes and steps of x, y, z, c, t, type, packing, a text, and block sizes."""
    packed = zlib.compress(VOLUME.tobytes())
    sizes = (*VOLUME.shape[::-1], 1, 1)
    header = struct.pack("<B5I5fBB256s5I", 2, *sizes, 0.4, 0.4, 2.0, 1, 1, 0, 2, b"", *sizes)
    (home / "a.klb").write_bytes(header + struct.pack("<Q", len(packed)) + packed)
    return home / "a.klb"


def _nrrd(encoding: str) -> Callable[[Path], Path]:
    def write(home: Path) -> Path:
        sizes = " ".join(map(str, VOLUME.shape[::-1]))
        head = (
            f"NRRD0004\ntype: uint8\ndimension: 3\nsizes: {sizes}\nspacings: 4 4 40\nencoding: {encoding}\n\n"
        )
        data = VOLUME.tobytes()
        packer = zlib.compressobj(wbits=31)
        packed = data if encoding == "raw" else packer.compress(data) + packer.flush()
        (home / "a.nrrd").write_bytes(head.encode() + packed)
        return home / "a.nrrd"

    return write


def _npy(home: Path) -> Path:
    np.save(home / "a.npy", VOLUME)
    return home / "a.npy"


def _npz(home: Path) -> Path:
    np.savez_compressed(home / "a.npz", data=VOLUME)
    return home / "a.npz"


def _hdf5(home: Path) -> Path:
    with h5py.File(home / "a.h5", "w") as root:
        stored = root.create_dataset("a/raw", data=VOLUME, chunks=(2, 9, 10), compression="gzip")
        stored.attrs["resolution"] = (40.0, 4.0, 4.0)
    return home / "a.h5"


def _imaris(home: Path) -> Path:
    with h5py.File(home / "a.ims", "w") as root:
        image = root.create_group("DataSetInfo/Image")
        channel = root.create_group("DataSet/ResolutionLevel 0/TimePoint 0/Channel 0")
        channel.create_dataset("Data", data=VOLUME, chunks=VOLUME.shape)
        texts = {"Unit": "um", **{f"ExtMin{axis}": "0" for axis in range(3)}}
        texts |= {f"ExtMax{axis}": "4" for axis in range(3)}
        sizes = {f"ImageSize{axis}": str(size) for axis, size in zip("ZYX", VOLUME.shape, strict=True)}
        for group, stated in ((image, texts), (channel, sizes)):
            for name, text in stated.items():
                group.attrs[name] = np.array([letter.encode() for letter in text], "S1")
    return home / "a.ims"


def _bdv(home: Path) -> Path:
    with h5py.File(home / "a.h5", "w") as root:
        root["t00000/s00/0/cells"] = VOLUME.astype(np.int16)
        root["s00/resolutions"] = np.ones((1, 3))
    (home / "a.xml").write_text(
        "<SpimData><SequenceDescription><ViewSetups><ViewSetup><id>0</id><name>left</name><voxelSize><unit>um</unit>"
        "<size>0.2 0.3 1.0</size></voxelSize></ViewSetup></ViewSetups></SequenceDescription></SpimData>"
    )
    return home


def _zarr2(home: Path) -> Path:
    # In chunks that are packed by Blosc, as zarr-python does by default.
    zarr.create_array(home / "a.zarr", data=VOLUME, chunks=(2, 9, 10), zarr_format=2)
    return home / "a.zarr"


def _ome_zarr(home: Path) -> Path:
    group = zarr.create_group(home / "a.zarr", zarr_format=3)
    group.create_array(
        "0", data=VOLUME[None], chunks=(1, 2, 8, 8), shards=(1, 4, 16, 16), dimension_names=list("czyx")
    )
    axes = [
        {"name": "c", "type": "channel"},
        *({"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"),
    ]
    scale: Any = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 40, 4, 4]}]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [scale]}]}
    return home / "a.zarr"


def _dataset(home: Path) -> Path:
    write_wkw(home / "color" / "1", VOLUME[None], packing="lz4")
    layer = {
        "name": "color", "category": "color", "elementClass": "uint8", "dataFormat": "wkw", "numChannels": 1,
        "boundingBox": {"topLeft": [0, 0, 0], "width": 20, "height": 18, "depth": 3},
        "wkwResolutions": [{"resolution": 1, "cubeLength": 16}],
    }  # fmt: skip
    (home / "datasource-properties.json").write_text(
        json.dumps({"id": {"name": "a", "team": ""}, "scale": [4, 4, 40], "dataLayers": [layer]})
    )
    return home


def _dicom(style: DicomStyle) -> Callable[[Path], Path]:
    return lambda home: write_dicom(home / "a.dcm", VOLUME[0], style)


def _tar(path: Path, mode: Any) -> Path:
    section = write_tiff(path.with_name("section.tif"), VOLUME[:1]).read_bytes()
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as archive:
        for name in ("s1.tif", "a long name beyond what fits into a header of the old kind " * 2 + "Ä 2.tif"):
            info = tarfile.TarInfo(name)
            info.size = len(section)
            archive.addfile(info, io.BytesIO(section))
    return path


def _zip(path: Path) -> Path:
    section = write_tiff(path.with_name("section.tif"), VOLUME[:1]).read_bytes()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in (1, 2):
            archive.writestr(f"run/s{number}.tif", section)
    return path


def _nml(path: Path) -> Path:
    box = '<userBoundingBox topLeftX="1" topLeftY="2" topLeftZ="3" width="4" height="5" depth="6"/>'
    text = nml_text([[(1.0, 2.0, 3.0)], []]).replace("</parameters>", f"{box}</parameters>")
    path.write_text(text.replace("<edges/>", '<edges><edge source="1" target="2"/></edges>'))
    return path


_OME = {"axes": "CZYX", "PhysicalSizeX": 4, "PhysicalSizeY": 4, "PhysicalSizeZ": 40}
_WRITERS: dict[str, Callable[[Path], Path]] = {
    "TIFF": _tiff("a.tif", VOLUME, TiffStyle(rows_per_strip=5, pixels_per_unit=(10**6, 4))),
    "TIFF with gaps": _tiff("a.tif", VOLUME[:1].astype(np.float32), TiffStyle(rows_per_strip=5, strip_gap=3)),
    "TIFF of tiles": _tiff("a.tif", RGB, TiffStyle(tile=(16, 16), is_deflated=True)),
    "BigTIFF": _tiff("a.tif", RGB, TiffStyle("big", is_big=True, is_planar=True, extra_sample=None)),
    "TIFF packed": _tifffile("a.tif", VOLUME, photometric="minisblack", compression="zlib", predictor=True),
    "TIFF of Zstandard": _tifffile("a.tif", VOLUME, photometric="minisblack", compression="zstd"),
    "ImageJ": _tifffile(
        "a.tif", VOLUME[:, None], imagej=True, metadata={"axes": "ZCYX", "spacing": 4.0, "unit": "um"}
    ),
    "OME-TIFF": _tifffile("a.ome.tif", VOLUME[None], photometric="minisblack", metadata=_OME),
    "PNG": lambda home: write_png(home / "a.png", RGB[0]),
    "JPEG": _picture("a.jpg"),
    "WebP": _picture("a.webp", lossless=True),
    "CZI": _czi,
    "KLB": _klb,
    "NRRD": _nrrd("raw"),
    "NRRD packed": _nrrd("gzip"),
    "NumPy": _npy,
    "NumPy packed": _npz,
    "DICOM": _dicom(DicomStyle(position=(0, 0, 1), spacing=(0.1, 0.1), thickness=0.2)),
    "DICOM of undefined lengths": _dicom(DicomStyle("implicit", has_undefined_lengths=True)),
    "DM": lambda home: write_dm(home / "a.dm4", VOLUME, DmStyle()),
    "NIfTI": lambda home: write_nifti(home / "a.nii", VOLUME, NiftiStyle()),
    "NIfTI packed": lambda home: write_nifti(home / "a.nii.gz", VOLUME, NiftiStyle()),
    "MRC": lambda home: write_mrc(home / "a.mrc", VOLUME.astype(np.int16), MrcStyle()),
    "HDF5": _hdf5,
    "Imaris": _imaris,
    "BigDataViewer": _bdv,
    "Zarr": _zarr2,
    "OME-Zarr": _ome_zarr,
    "precomputed": lambda home: write_precomputed(home / "a", VOLUME[None], (2, 16, 16), is_packed=True),
    "N5": lambda home: write_n5(home / "a", VOLUME, (2, 9, 10), is_packed=True),
    "WKW": _dataset,
}
