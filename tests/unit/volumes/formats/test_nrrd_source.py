"""Boxes read from NRRD files, whose headers are written out here, equal slices of what was written."""

import bz2
import gzip
import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voxelworks.errors import UnsupportedDtype, UnsupportedFormat
from voxelworks.geometry import Box
from voxelworks.volumes.formats import open_source, open_volumes

FILE_NUMBERS = itertools.count()
VOLUME = np.random.default_rng(5).integers(0, 1000, (3, 4, 5), dtype=np.uint16)
HEADER = "NRRD0005\n# made by hand\ntype: uint16\ndimension: 3\nsizes: 5 4 3\nendian: little\nencoding: raw\n"
TYPES = {"uint8": "uchar", "int16": "short", "uint16": "unsigned short", "int32": "int", "uint64": "uint64_t",
         "float32": "float"}  # fmt: skip


def whole(source):
    return source.read(Box.from_zyx((0, 0, 0), source.shape_zyx))


def write(path, header, voxels=VOLUME.tobytes()):
    path.write_bytes(header.encode() + b"\n" + voxels)
    return path


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)), dtype=st.sampled_from(sorted(TYPES)),
    order=st.sampled_from("<>"), encoding=st.sampled_from(["raw", "gzip", "bzip2"]), is_detached=st.booleans(),
    data=st.data(),
)  # fmt: skip
def test_a_box_of_any_nrrd_equals_the_slice(tmp_path, shape, dtype, order, encoding, is_detached, data):
    values = np.random.default_rng(1).integers(0, 100, shape).astype(dtype)
    pack = {"raw": bytes, "gzip": gzip.compress, "bzip2": bz2.compress}[encoding]
    voxels = pack(values.astype(values.dtype.newbyteorder(order)).tobytes())
    name = f"v{next(FILE_NUMBERS)}"
    header = (
        f"NRRD0004\ntype: {TYPES[dtype]}\ndimension: 3\nsizes: {shape[2]} {shape[1]} {shape[0]}\n"
        f"endian: {'little' if order == '<' else 'big'}\nencoding: {encoding}\n"
    )
    if is_detached:
        (tmp_path / f"{name}.bin").write_bytes(voxels)
        path = write(tmp_path / f"{name}.nhdr", header + f"data file: {name}.bin\n", b"")
    else:
        path = write(tmp_path / f"{name}.nrrd", header, voxels)
    source = open_source(path)
    assert (source.shape_zyx, source.dtype, len(source.files)) == (shape, dtype, 1 + is_detached)
    start = [data.draw(st.integers(0, size)) for size in shape]
    box = Box.from_zyx(tuple(start), tuple(size - first for size, first in zip(shape, start, strict=True)))
    assert np.array_equal(source.read(box), values[None, *box.slices_zyx])


@pytest.mark.parametrize(
    ("fields", "size", "notes"),
    [
        ('spacings: 4 4 40\nunits: "nm" "nm" "nm"\n', "4,4,40", ()),
        ('space directions: (0.5,0,0) (0,0.5,0) (0,0,2)\nspace units: "microns" "microns" "microns"\n',
         "500,500,2000", ()),
        ('space: left-posterior-superior\nspace directions: (0,3,4) (-1,0,0) (0,0,1)\nspace units: "mm" "mm" "mm"\n',
         "5000000,1000000,1000000",
         ("the header turns or mirrors the axes; the voxels are kept in the order in which they are stored",)),
        ("spacings: 4 4 40\n", "None", ("the header states a voxel size of 4, 4, 40 without a unit",)),
        ('spacings: 4 4 40\nunits: "elbow" "elbow" "elbow"\n', "None", None),
        ("spacings: nan nan nan\n", "None", ("the header states a voxel size of nan, nan, nan without a unit",)),
        ("", "None", ()),
    ],
)  # fmt: skip
def test_the_voxel_size_is_that_of_the_header(tmp_path, fields, size, notes):
    source = open_source(write(tmp_path / "v.nrrd", HEADER + fields))
    assert str(source.voxel_size) == size
    assert notes is None or source.notes == notes


def test_colours_are_read_and_the_last_axis_becomes_volumes(tmp_path):
    rgb = np.random.default_rng(1).integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)
    header = (
        "NRRD0004\ntype: uchar\ndimension: 4\nsizes: 3 4 3 2\nencoding: raw\n"
        "kinds: RGB-color domain domain domain\n"
    )
    assert np.array_equal(
        whole(open_source(write(tmp_path / "c.nrrd", header, rgb.tobytes()))), np.moveaxis(rgb, -1, 0)
    )
    header = HEADER.replace("sizes: 5 4 3", "sizes: 5 4 3 2").replace("dimension: 3", "dimension: 4")
    volumes = open_volumes(write(tmp_path / "t.nrrd", header, VOLUME.tobytes() + (VOLUME + 1).tobytes()))
    assert [volume.name for volume in volumes] == ["volume-1", "volume-2"]
    assert all(np.array_equal(whole(v.source)[0], VOLUME + i) for i, v in enumerate(volumes))


def test_the_voxels_may_be_the_end_of_their_file(tmp_path):
    (tmp_path / "v.raw").write_bytes(b"something else" + VOLUME.tobytes())
    path = write(tmp_path / "v.nhdr", HEADER + "byte skip: -1\ndata file: v.raw\n", b"")
    assert np.array_equal(whole(open_source(path))[0], VOLUME)
    assert np.array_equal(whole(open_source(tmp_path))[0], VOLUME)


@pytest.mark.parametrize(
    ("old", "new", "kind", "message"),
    [
        ("5 4 3", "5 4 4", UnsupportedFormat, "v.nrrd is cut short: it has 198 of 238 bytes; copy it again"),
        ("5 4 3", "5 4 -3", UnsupportedFormat, "v.nrrd states sizes '5 4 -3'; it is damaged or empty"),
        ("5 4 3", "5 4 x", UnsupportedFormat, "v.nrrd states sizes '5 4 x'; it is damaged"),
        ("5 4 3", "5 4", UnsupportedFormat, "v.nrrd states sizes '5 4'; it is damaged or empty"),
        ("uint16", "block", UnsupportedDtype, "v.nrrd holds values of type block; save it as float32"),
        ("endian: little\n", "", UnsupportedFormat, "v.nrrd does not state its byte order; save it anew"),
        (": raw", ": hex", UnsupportedFormat, "v.nrrd is encoded as hex; save it as raw or gzip"),
        (": raw", ": raw\ndata file: ../v.raw", UnsupportedFormat,
         "v.nrrd names '../v.raw', which is not beside it; put them into one folder"),
        (": raw", ": raw\ndata file: /etc/passwd", UnsupportedFormat,
         "v.nrrd names '/etc/passwd', which is not beside it; put them into one folder"),
        (": raw", ": raw\ndata file: v%03d.raw 1 3 1", UnsupportedFormat,
         "v.nrrd spreads its voxels over several files; save it as one NRRD file"),
    ],
)  # fmt: skip
def test_damaged_headers_are_named(tmp_path, old, new, kind, message):
    with pytest.raises(kind) as error:
        open_source(write(tmp_path / "v.nrrd", HEADER.replace(old, new).replace("# made by hand\n", "")))
    assert error.value.message == message
