"""Files of every other format that lie, loop, lead elsewhere or are bombs; see `hostile_files`."""

from __future__ import annotations

import gzip
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from voxelworks.testing.independent_volumes import wkw_header, write_wkw
from voxelworks.testing.independent_writers import (
    CziTile,
    DicomStyle,
    DmStyle,
    MrcStyle,
    NiftiStyle,
    write_czi,
    write_dicom,
    write_dm,
    write_mrc,
    write_nifti,
    write_precomputed,
)

from .hostile_files import BOMB_BYTES, declared, page, tiff

PLANE = np.arange(64, dtype=np.uint8).reshape(8, 8)
VOLUME = np.arange(512, dtype=np.uint16).reshape(8, 8, 8)
GIANT = 10_000
"""Along each of three axes: 10^12 voxels."""


def formats(folder: Path, mark: Path) -> dict[str, Path]:
    """Write files and folders to convert, by the name of the trick.

    Parameters
    ----------
    folder
        A new one.
    mark
        What those that lead out lead to.
    """
    folder.mkdir()
    found = {}
    for number, (name, write) in enumerate(_tricks(mark).items()):
        home = folder / str(number)
        home.mkdir()
        found[name] = write(home)
    return found


def _tricks(mark: Path) -> dict[str, Callable[[Path], Path]]:
    bomb = zlib.compress(bytes(BOMB_BYTES), 9)
    nrrd = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: {0}\nencoding: {1}\n"
    giant_sizes = f"{GIANT} {GIANT} {GIANT}"
    klb_giant, klb_small = (GIANT,) * 3 + (1, 1), (8, 8, 8, 1, 1)
    return {
        "CZI tile of 2^31 x 2^31": _czi(CziTile(PLANE, shrink=2**28 - 1)),
        "CZI tile far away": _czi(CziTile(PLANE), CziTile(PLANE, left=2**31 - 9, top=2**31 - 9)),
        "CZI metadata of entities": _czi(CziTile(PLANE), metadata="<!ENTITY a 'b'>&a;"),
        "CZI with its directory in the header": _patched(_czi(CziTile(PLANE)), lambda d: d.replace(
            struct.pack("<q", d.find(b"ZISRAWDIRECTORY")), struct.pack("<q", 0))),
        "KLB of 10^12 voxels": _klb(klb_giant, klb_giant, b""),
        "KLB of 10^28 blocks": _klb((2**32 - 1,) * 3 + (1, 1), (1,) * 5, b""),
        "KLB block that is a bomb": _klb(klb_small, klb_small, bomb),
        "NRRD of 10^12 voxels": _text("a.nrrd", nrrd.format(giant_sizes, "raw") + "\n"),
        "NRRD packed, of 10^12 voxels": _text("a.nrrd", nrrd.format(giant_sizes, "gzip") + "\n", gzip.compress(b"1")),
        "NRRD that is a bomb": _text("a.nrrd", nrrd.format("8 8 8", "gzip") + "\n", gzip.compress(bytes(BOMB_BYTES))),
        "NRRD that leads out": _text("a.nhdr", nrrd.format("8 8 8", "raw") + f"data file: ../../{mark.name}\n\n"),
        "NRRD that leads out, absolute": _text("a.nhdr", nrrd.format("8 8 1", "raw") + "data file: /etc/passwd\n\n"),
        "NRRD header of 100 MiB": _text("a.nrrd", nrrd.format("8 8 8", "raw") + "a:=b\n" * 20 * 2**20),
        "NumPy array of 10^12 voxels": _npy(f"({GIANT}, {GIANT}, {GIANT})"),
        "NumPy array of 10^30 axes": _npy("(" + "1, " * 10**5 + ")"),
        "NumPy header of a program": _npy("__import__('os').system('true')"),
        "NumPy header of levels without end": _npy("(" * 20_000),
        "NumPy archive of 10^12 voxels": _npz,
        "DICOM of 65,535 x 65,535": _patched(
            lambda home: write_dicom(home / "a.dcm", PLANE, DicomStyle()),
            lambda d: d.replace(_dicom_size(0x10, 8), _dicom_size(0x10, 65535)).replace(
                _dicom_size(0x11, 8), _dicom_size(0x11, 65535)
            ),
        ),
        "DICOM of sequences without end": _patched(
            lambda home: write_dicom(home / "a.dcm", PLANE, DicomStyle()),
            lambda d: d.replace(_dicom_size(0x10, 8), _nested_sequences(100_000) + _dicom_size(0x10, 8)),
        ),
        "DM of 10^12 voxels": _patched(
            lambda home: write_dm(home / "a.dm3", VOLUME, DmStyle(version=3)),
            lambda d: d.replace(b"%%%%" + struct.pack(">2I", 1, 5) + struct.pack("<I", 8),
                                b"%%%%" + struct.pack(">2I", 1, 5) + struct.pack("<I", GIANT)),
        ),
        "DM of levels without end": _text(
            "a.dm3", "", struct.pack(">3I", 3, 2**31 - 1, 1) + struct.pack(">2BIBH", 1, 0, 1, 20, 0) * 10**6
        ),
        "DM of 2^32 tags": _text("a.dm3", "", struct.pack(">3I2BI", 3, 2**31 - 1, 1, 1, 0, 2**32 - 1) + struct.pack(
            ">BH4s2I", 21, 0, b"%%%%", 1, 8) * 1000),
        "NIfTI of 32,767^3": _patched(
            lambda home: write_nifti(home / "a.nii", VOLUME, NiftiStyle()),
            lambda d: d[:40] + struct.pack("<4h", 3, *[32767] * 3) + d[48:],
        ),
        "NIfTI that is a bomb": _packed_nifti,
        "MRC of 10^12 voxels": _patched(
            lambda home: write_mrc(home / "a.mrc", VOLUME.astype(np.int16), MrcStyle()),
            lambda d: struct.pack("<3i", *[GIANT] * 3) + d[12:],
        ),
        "MRC of negative sizes": _patched(
            lambda home: write_mrc(home / "a.mrc", VOLUME.astype(np.int16), MrcStyle()),
            lambda d: struct.pack("<3i", -8, -8, 8) + d[12:],
        ),
        "HDF5 of 10^12 voxels without a chunk": _hdf5(
            lambda root: root.create_dataset("a", (GIANT,) * 3, "u1", chunks=(64,) * 3)
        ),
        "HDF5 chunk of 2 GiB": _hdf5(
            lambda root: root.create_dataset("a", (2**11,) * 3, "u2", chunks=(2**9, 2**10, 2**11))
        ),
        "HDF5 link to another file": _hdf5(lambda root: root.__setitem__("a", h5py.ExternalLink(str(mark), "/a"))),
        "HDF5 data in another file": _hdf5(
            lambda root: root.create_dataset("a", (8, 8, 8), "u1", external=[("/etc/passwd", 0, 512)])
        ),
        "HDF5 dataset that is put together of another file": _hdf5(_virtual),
        "HDF5 groups in a loop": _hdf5(lambda root: root.create_group("a").__setitem__("loop", root)),
        "HDF5 soft links in a loop": _hdf5(lambda root: root.__setitem__("a", h5py.SoftLink("/a"))),
        "Imaris channel in another file": _imaris(h5py.ExternalLink("/etc/passwd", "/a")),
        "Imaris that is its own channel": _imaris(h5py.SoftLink("/DataSet")),
        "BigDataViewer with entities": _bdv,
        "JPEG of 65,535 x 65,535": _patched(
            _saved("a.jpg"), lambda d: d.replace(struct.pack(">2H", 8, 8), struct.pack(">2H", 65535, 65535), 1)
        ),
        "WebP of 16,777,216 x 16,777,216": _patched(
            _saved("a.webp", lossless=True),
            lambda d: (
                d[:12] + b"VP8X" + struct.pack("<I4x", 10) + b"\xff" * 6 + d[12:]
            ).replace(struct.pack("<I", len(d) - 8), struct.pack("<I", len(d) + 10), 1),
        ),
        "WKW cube of 2^60 bytes": _dataset("color/1", blocks=2**15),
        "WKW that leads out": _dataset(f"../../{mark.name}"),
        "WKW of 10^12 voxels": _dataset("color/1", extent=GIANT),
        "OME-TIFF that leads out": _ome_tiff("../../../../../../etc/passwd"),
        "OME-TIFF that is its own companion": _ome_tiff("a.ome.tif"),
        "precomputed of shards that lead anywhere": _sharded,
        "Zarr packed by Blosc, of 2^31 bytes": _blosc,
    }  # fmt: skip


def _czi(*tiles: CziTile, metadata: str = "") -> Callable[[Path], Path]:
    return lambda home: write_czi(home / "a.czi", tiles, metadata=metadata)


def _patched(write: Callable[[Path], Path], change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def written(home: Path) -> Path:
        path = write(home)
        before = path.read_bytes()
        path.write_bytes(change(before))
        assert path.read_bytes() != before, "the place to change is not there"
        return path

    return written


def _text(name: str, text: str, data: bytes = b"") -> Callable[[Path], Path]:
    def written(home: Path) -> Path:
        (home / name).write_bytes(text.encode() + data)
        return home

    return written


def _klb(sizes: tuple[int, ...], blocks: tuple[int, ...], packed: bytes) -> Callable[[Path], Path]:
    def written(home: Path) -> Path:
        header = struct.pack("<B5I5fBB256s5I", 2, *sizes, 0.4, 0.4, 2.0, 1, 1, 0, 2, b"", *blocks)
        (home / "a.klb").write_bytes(header + struct.pack("<Q", len(packed)) + packed)
        return home

    return written


def _npy(shape: str) -> Callable[[Path], Path]:
    def written(home: Path) -> Path:
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        (home / "a.npy").write_bytes(b"\x93NUMPY\2\0" + struct.pack("<I", len(header)) + header)
        return home

    return written


def _npz(home: Path) -> Path:
    path = _npy(f"({GIANT}, {GIANT}, {GIANT})")(home) / "a.npy"
    with zipfile.ZipFile(home / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, "data.npy")
    path.unlink()
    return home


def _dicom_size(element: int, value: int) -> bytes:
    return struct.pack("<2H2sHH", 0x28, element, b"US", 2, value)


def _nested_sequences(count: int) -> bytes:
    begin = struct.pack("<2H2sHI", 0x8, 0x1140, b"SQ", 0, 2**32 - 1) + struct.pack(
        "<2HI", 0xFFFE, 0xE000, 2**32 - 1
    )
    return begin * count


def _packed_nifti(home: Path) -> Path:
    path = write_nifti(home / "a.nii", VOLUME, NiftiStyle())
    header = path.read_bytes()[:352]
    giant = header[:40] + struct.pack("<4h", 3, *[2**10] * 3) + header[48:]
    path.unlink()
    (home / "a.nii.gz").write_bytes(gzip.compress(giant + bytes(BOMB_BYTES)))
    return home


def _hdf5(fill: Callable[[h5py.File], object]) -> Callable[[Path], Path]:
    def written(home: Path) -> Path:
        with h5py.File(home / "a.h5", "w") as root:
            fill(root)
        return home / "a.h5"

    return written


def _virtual(root: h5py.File) -> None:
    layout = h5py.VirtualLayout((8, 8, 8), "u1")
    layout[...] = h5py.VirtualSource("/etc/passwd", "a", (8, 8, 8))
    root.create_virtual_dataset("a", layout)


def _imaris(data: object) -> Callable[[Path], Path]:
    def written(home: Path) -> Path:
        with h5py.File(home / "a.ims", "w") as root:
            root.create_group("DataSetInfo/Image")
            root.create_group("DataSet/ResolutionLevel 0/TimePoint 0/Channel 0")["Data"] = data
        return home / "a.ims"

    return written


def _bdv(home: Path) -> Path:
    with h5py.File(home / "a.h5", "w") as root:
        root["t00000/s00/0/cells"] = VOLUME.astype(np.int16)
        root["s00/resolutions"] = np.ones((1, 3))
    text = declared('<!ENTITY a SYSTEM "file:///etc/passwd">', "&a;").decode()
    (home / "a.xml").write_bytes(
        text.replace("version='1.0'", "version='1.0' encoding='utf-16'").encode("utf-16")
    )
    return home / "a.h5"


def _saved(name: str, **options: object) -> Callable[[Path], Path]:
    def written(home: Path) -> Path:
        Image.fromarray(np.stack([PLANE] * 3, -1)).save(home / name, **options)
        return home / name

    return written


def _dataset(place: str, *, blocks: int | None = None, extent: int = 8) -> Callable[[Path], Path]:
    def written(home: Path) -> Path:
        write_wkw(home / "color" / "1", VOLUME[None].astype(np.uint8))
        if blocks is not None:
            header = wkw_header(VOLUME[None].astype(np.uint8), 2**15, blocks, "raw", 16)
            (home / "color" / "1" / "header.wkw").write_bytes(header)
        box = {"topLeft": [0, 0, 0], "width": extent, "height": extent, "depth": extent}
        layer = {"name": "color", "category": "color", "elementClass": "uint8", "dataFormat": "wkw", "numChannels": 1,
                 "boundingBox": box, "mags": [{"mag": [1, 1, 1], "path": place, "cubeLength": 16}]}  # fmt: skip
        stated = {"id": {"name": "a", "team": ""}, "scale": [4, 4, 40], "dataLayers": [layer]}
        (home / "datasource-properties.json").write_text(json.dumps(stated))
        return home

    return written


def _ome_tiff(companion: str) -> Callable[[Path], Path]:
    def written(home: Path) -> Path:
        text = '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:a">'
        text += f'<BinaryOnly MetadataFile="{companion}" UUID="urn:uuid:a"/></OME>'
        (home / "a.ome.tif").write_bytes(tiff([page(8, 8, bytes(64))], description=text.encode()))
        return home / "a.ome.tif"

    return written


def _sharded(home: Path) -> Path:
    write_precomputed(home / "a", VOLUME[None], (8, 8, 8))
    info = json.loads((home / "a" / "info").read_text())
    info["scales"][0]["sharding"] = {
        "@type": "neuroglancer_uint64_sharded_v1", "hash": "identity", "preshift_bits": 0, "minishard_bits": 0,
        "shard_bits": 0, "minishard_index_encoding": "raw", "data_encoding": "raw",
    }  # fmt: skip
    (home / "a" / "info").write_text(json.dumps(info))
    place = home / "a" / info["scales"][0]["key"]
    (place / "0.shard").write_bytes(struct.pack("<2Q", 0, 24) + struct.pack("<3Q", 0, 2**62, 2**62))
    return home / "a"


def _blosc(home: Path) -> Path:
    zarr = {"zarr_format": 2, "shape": [8, 8, 8], "chunks": [8, 8, 8], "dtype": "|u1", "fill_value": 0, "order": "C",
            "filters": None, "compressor": {"id": "blosc", "cname": "zstd", "clevel": 1, "shuffle": 0}}  # fmt: skip
    (home / ".zarray").write_text(json.dumps(zarr))
    (home / "0.0.0").write_bytes(struct.pack("<4B3I", 2, 1, 1, 1, 2**31 - 1, 2**31 - 1, 20) + bytes(4))
    return home
