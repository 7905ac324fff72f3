"""Files that strangers might send: bombs, ways out of the folder, loops, sizes that lie, and programs in disguise."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

SKELETON = b"<things><parameters/></things>"
BOMB_BYTES = 256 * 2**20


# Annotations, by the name of the trick


def annotations(mark: Path) -> dict[str, bytes]:
    """Make annotations.

    Parameters
    ----------
    mark
        File that the programs among them, and those that lead out, would make.
    """
    inner = packed({f"{number}": bytes(2**24) for number in range(4)})
    return {
        "bomb of ratio 1,000": packed({"a.nml": SKELETON, "data.zip": bytes(BOMB_BYTES)}),
        "bomb in the skeleton": packed({"a.nml": b"<things>" + b" " * BOMB_BYTES + b"</things>"}),
        "bomb within a bomb": packed(
            {"a.nml": with_volume("data.zip"), "data.zip": packed({"deeper.zip": inner * 50})}
        ),
        "bomb in the volume data": packed({"a.nml": with_volume("data.zip"), "data.zip": inner}),
        "1,000,000 entries": many_entries(1_000_000, claimed=1_000_000),
        "1,000,000 entries that claim to be 10": many_entries(1_000_000, claimed=10),
        "entries that share their bytes": overlapping(),
        "way out": packed({"a.nml": SKELETON, "../../escaped": b"1"}),
        "way out, absolute": packed({"a.nml": SKELETON, str(mark.absolute()): b"1"}),
        "way out, in the volume data": packed(
            {"a.nml": with_volume("data.zip"), "data.zip": packed({"../escaped": b"1"})}
        ),
        "way out, as location of the volume": packed({"a.nml": with_volume("../../../etc/passwd")}),
        "link": packed({"a.nml": SKELETON}, link="/etc/passwd"),
        "entities that multiply": declared(
            '<!ENTITY a "aaaaaaaaaa">'
            + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9)),
            "&j;",
        ),
        "entity of a file": declared('<!ENTITY x SYSTEM "file:///etc/passwd">', "&x;"),
        "entity of a parameter": declared('<!ENTITY % x SYSTEM "http://169.254.169.254/x.dtd"> %x;', ""),
        "skeleton of 1,000,000 levels": b"<things>" + b"<thing>" * 1_000_000,
        "attribute of 100 MiB": b"<things><parameters x='" + b"a" * 100 * 2**20 + b"'/></things>",
        "program as skeleton": program(mark),
    }


def packed(files: dict[str, bytes], *, link: str | None = None) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        if link is not None:
            info = zipfile.ZipInfo("link")
            info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, link)
    return stream.getvalue()


def many_entries(count: int, *, claimed: int) -> bytes:
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0)
    names = b"".join(entry + b"%08d" % number for number in range(count))
    head = b"PK\3\4" + bytes(996)
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, claimed, claimed, len(names), len(head))
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(head) + len(names), 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0)
    return head + names + end64 + locator + end


def overlapping() -> bytes:
    data = packed({"a": os.urandom(5000)})
    at = data.rfind(b"PK\1\2")
    copies = b"".join(data[at : at + 46] + bytes([97 + number]) for number in range(20))
    return data[:at] + copies + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 20, 20, len(copies), at, 0)


def with_volume(location: str) -> bytes:
    return f"<things><parameters/><volume id='0' location='{location}'/></things>".encode()


def declared(declarations: str, used: str) -> bytes:
    text = f"<?xml version='1.0'?><!DOCTYPE things [{declarations}]><things><parameters/>{used}</things>"
    return text.encode()


class _Program:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def program(mark: Path) -> bytes:
    """Give a pickle that makes a file when it is loaded."""
    return pickle.dumps(_Program(mark))


# Images, each a file or a folder to convert, by the name of the trick


def images(folder: Path, mark: Path) -> dict[str, Path]:
    """Write images.

    Parameters
    ----------
    folder
        A new one.
    mark
        File that the programs among them would make.
    """
    folder.mkdir()
    row = bytes(1000)
    deflated = zlib.compress(bytes(BOMB_BYTES), 9)
    files = {
        "1,000,000 x 1,000,000, and no data": tiff([page(10**6, 10**6, row)]),
        "1,000,000 x 1,000,000 in one packed strip": tiff([page(10**6, 10**6, deflated, packing=8)]),
        "strip that unpacks to more than the page": tiff([page(10, 10, deflated, packing=8)]),
        "directories in a loop": tiff([page(10, 10, row), page(10, 10, row)], next_of_last=0),
        "directory that is its own next": tiff([page(10, 10, row)], next_of_last=0),
        "directories below each other in a loop": tiff([{**page(10, 10, row), 330: 0}]),
        "offset of the data beyond the end": tiff([{**page(10, 10, row), 273: 2**32 - 1}]),
        "4,294,967,295 strips": tiff([page(10, 2**32 - 1, row, rows_per_strip=1)]),
        "description of entities": tiff([page(10, 10, row)], description=ome_of_entities()),
        "description of 10^12 sections": tiff([page(10, 10, row)], description=ome_of_size(10**12)),
        "program": program(mark),
        "numpy file with a program": numpy_program(mark),
        "nothing but a signature": b"II*\0" + b"\xff" * 1000,
    }
    found = {}
    for number, (name, content) in enumerate(files.items()):
        found[name] = folder / f"{number}.tif"
        found[name].write_bytes(content)
    bomb = png_bomb()
    found["PNG of 100,000 x 100,000"] = folder / "png"
    found["PNG of 100,000 x 100,000"].mkdir()
    (folder / "png" / "1.png").write_bytes(bomb)
    found["folder that holds itself"] = folder / "loop"
    found["folder that holds itself"].mkdir()
    (folder / "loop" / "loop").symlink_to(folder / "loop")
    (folder / "loop" / "1.tif").symlink_to(folder / "loop" / "1.tif")
    found["sections that are devices"] = folder / "devices"
    found["sections that are devices"].mkdir()
    (folder / "devices" / "1.tif").symlink_to("/dev/zero")
    os.mkfifo(folder / "devices" / "2.tif")
    return found


Tags = dict[int, int | bytes]
_STRIP_OFFSET, _STRIP_SIZE, _DESCRIPTION, _SUB_DIRECTORIES = 273, 279, 270, 330


def page(
    width: int, height: int, data: bytes, *, packing: int = 1, rows_per_strip: int | None = None
) -> Tags:
    """Give the tags of a page of bytes; its data stands in place of their offset."""
    return {
        256: width, 257: height, 258: 8, 259: packing, 262: 1, _STRIP_OFFSET: data, 277: 1,
        278: rows_per_strip or height, _STRIP_SIZE: len(data),
    }  # fmt: skip


def tiff(pages: list[Tags], *, description: bytes = b"", next_of_last: int | None = None) -> bytes:
    """Make a TIFF file.

    Parameters
    ----------
    pages
        An `int` of the tag of sub-directories names a page.
    next_of_last
        Which page follows the last one; by default none.
    """
    out = bytearray(b"II*\0" + bytes(4))
    starts = []
    links = []
    for tags in pages:
        placed = dict(tags)
        if description:
            placed[_DESCRIPTION] = description + b"\0"
        counts = {number: len(value) for number, value in placed.items() if isinstance(value, bytes)}
        for number in counts:
            value = placed[number]
            assert isinstance(value, bytes)
            placed[number] = len(out)
            out += value + bytes(len(value) % 2)
        starts.append(len(out))
        links.append(len(out) + 2 + 12 * len(placed))
        out += struct.pack("<H", len(placed))
        for number, value in sorted(placed.items()):
            assert isinstance(value, int)
            kind, count = (2, counts[number]) if number == _DESCRIPTION else (4, 1)
            where = starts[value] if number == _SUB_DIRECTORIES else value
            out += struct.pack("<2H2L", number, kind, count, where)
        out += bytes(4)
    after = [*starts[1:], 0 if next_of_last is None else starts[next_of_last]]
    for link, start in zip(links, after, strict=True):
        struct.pack_into("<L", out, link, start)
    struct.pack_into("<L", out, 4, starts[0])
    return bytes(out)


def ome_of_entities() -> bytes:
    return declared('<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">', "&b;").replace(b"things", b"OME")


def ome_of_size(section_count: int) -> bytes:
    return (
        b'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        b'<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="10" SizeY="10" SizeZ="%d" SizeC="1"'
        b' SizeT="1"><TiffData/></Pixels></Image></OME>' % section_count
    )


def numpy_program(mark: Path) -> bytes:
    import numpy as np

    stream = io.BytesIO()
    np.save(stream, np.array([_Program(mark)], dtype=object), allow_pickle=True)
    return stream.getvalue()


def png_bomb() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))

    header = struct.pack(">2L5B", 100_000, 100_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(2**24)))
        + chunk(b"IEND", b"")
    )  # fmt: skip


# Chunked stores and archives to convert, by the name of the trick


def stores(folder: Path, mark: Path) -> dict[str, Path]:
    """Write folders that claim to be chunked stores.

    Parameters
    ----------
    folder
        A new one.
    mark
        What those that lead out lead to.
    """
    giant = [10_000] * 3
    zarr = {"zarr_format": 2, "shape": [64] * 3, "chunks": [64] * 3, "dtype": "|u1", "fill_value": 0, "order": "C",
            "filters": None, "compressor": {"id": "gzip", "level": 1}}  # fmt: skip
    scale = {"key": "1", "size": [64] * 3, "resolution": [1, 1, 1], "voxel_offset": [0, 0, 0], "encoding": "raw",
             "chunk_sizes": [[64, 64, 64]]}  # fmt: skip
    info = {"type": "image", "data_type": "uint8", "num_channels": 1, "scales": [scale]}
    n5 = {"dimensions": giant, "blockSize": [64] * 3, "dataType": "uint8", "compression": {"type": "raw"}}
    multiscale = {"axes": [{"name": axis} for axis in "zyx"], "datasets": [{"path": f"../../{mark.name}"}]}
    bomb = gzip.compress(bytes(BOMB_BYTES))
    conf = "".join(f"boundary {axis} 10000000;\n" for axis in "xyz")
    files = {
        "packed chunk that is a bomb": {"info": info, "1/0-64_0-64_0-64.gz": bomb},
        "Zarr of 10^12 voxels without a chunk": {".zarray": zarr | {"shape": giant}},
        "folders that hold each other": {".zgroup": {"zarr_format": 2}, "a/.zgroup": {"zarr_format": 2}},
        "Zarr chunk of 10^12 voxels": {".zarray": zarr | {"shape": giant, "chunks": giant}, "0.0.0": bomb},
        "Zarr chunk that is a bomb": {".zarray": zarr, "0.0.0": bomb},
        "Zarr of 1,000,000 axes": {".zarray": zarr | {"shape": [1] * 10**6, "chunks": [1] * 10**6}},
        "Zarr of negative size": {".zarray": zarr | {"shape": [-5, 5, 5]}},
        "metadata of 100 MiB": {".zarray": b" " * 100 * 2**20 + json.dumps(zarr).encode()},
        "metadata of levels without end": {".zarray": b"[" * 10**6},
        "image that leads out": {".zgroup": {"zarr_format": 2}, ".zattrs": {"multiscales": [multiscale]}},
        "N5 of 10^12 voxels": {"attributes.json": n5},
        "N5 block of other size": {
            "attributes.json": n5 | {"dimensions": [64] * 3}, "0/0/0": struct.pack(">2H3I", 0, 3, *[2**31] * 3),
        },
        "precomputed of 10^12 voxels": {"info": info | {"scales": [scale | {"size": giant}]}, "1/x": b""},
        "precomputed that leads out": {"info": info | {"scales": [scale | {"key": f"../{mark.name}"}]}},
        "cubes of 10^21 voxels": {"knossos.conf": conf, "x0000/y0000/z0000/a_x0000_y0000_z0000.raw": bytes(128**3)},
        "tiles with the numbers of dates": {"20261128/1/1.png": png_bomb(), "1/900000000/900000000.png": png_bomb()},
    }  # fmt: skip
    folder.mkdir()
    found = {}
    for number, (name, contents) in enumerate(files.items()):
        found[name] = folder / str(number)
        for file, content in contents.items():
            path = found[name] / file
            path.parent.mkdir(parents=True, exist_ok=True)
            text = content if isinstance(content, bytes | str) else json.dumps(content)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for number in range(50):
        (found["folders that hold each other"] / "a" / f"link{number}").symlink_to("..")
    piped = found["Zarr chunk that is a pipe"] = folder / "pipe"
    piped.mkdir()
    (piped / ".zarray").write_text(json.dumps(zarr))
    os.mkfifo(piped / "0.0.0")
    return found


def archives(folder: Path, mark: Path) -> dict[str, Path]:
    """Write archives; see `stores`."""
    inner = packed({f"{number}": bytes(2**24) for number in range(4)})
    contents = {
        "tar that is a bomb": tar({"a.tif": bytes(BOMB_BYTES)}),
        "way out": packed({"a.tif": b"1", "../../escaped": b"1"}),
        "1,000,000 entries that claim to be 10": many_entries(1_000_000, claimed=10),
        "bomb of ratio 1,000": packed({"a.tif": bytes(BOMB_BYTES)}),
        "bomb within a bomb": packed({"deeper.zip": inner * 50}),
        "1,000,000 entries": many_entries(1_000_000, claimed=1_000_000),
        "entries that share their bytes": overlapping(),
        "way out, absolute": packed({"a.tif": b"1", str(mark.absolute()): b"1"}),
        "link": packed({"a.tif": b"1"}, link="/etc/passwd"),
        "way out in a tar": tar({"../../escaped": b"1"}),
        "link in a tar": tar({"a.tif": b""}, link="/etc/passwd"),
        "tar of 2^60 bytes": tar({"a.tif": b""}, claimed=2**60),
        "tar of a name of 2^60 bytes": tar({"a.tif": b""}, claimed=2**60, kind=b"L"),
    }
    folder.mkdir()
    found = {}
    for number, (name, content) in enumerate(contents.items()):
        found[name] = folder / str(number)
        found[name].write_bytes(content)
    return found


def tar(
    files: dict[str, bytes], *, link: str | None = None, claimed: int | None = None, kind: bytes = b"0"
) -> bytes:
    """Make a tar.gz, of which each entry claims a size."""
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb") as out:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.type = len(content) if claimed is None else claimed, kind
            if link is not None:
                info.type, info.linkname = tarfile.SYMTYPE, link
            out.write(info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512))
        out.write(bytes(1024))
    return stream.getvalue()


# Datasets to link, by the name of the trick


def datasets(folder: Path) -> dict[str, str]:
    """Write folders with metadata; give their names."""
    properties = {
        "levels without end": "[" * 1_000_000,
        "object of levels without end": '{"id": ' * 1_000_000,
        "number of 10,000,000 digits": '{"scale": ' + "1" * 10_000_000 + "}",
        "program": "\x80\x04cos\nsystem\n",
    }
    names = {}
    for number, (name, content) in enumerate(properties.items()):
        names[name] = f"hostile{number}"
        (folder / names[name]).mkdir()
        (folder / names[name] / "datasource-properties.json").write_text(content)
    objects = {
        "zarr_format": 2, "shape": [8, 8, 8], "chunks": [8, 8, 8], "dtype": "|O", "fill_value": None, "order": "C",
        "compressor": None, "filters": [{"id": "pickle", "protocol": 5}],
    }  # fmt: skip
    names["array of pickled objects"] = "objects"
    (folder / "objects" / "0").mkdir(parents=True)
    (folder / "objects" / ".zattrs").write_text(
        json.dumps(
            {
                "multiscales": [
                    {"version": "0.4", "axes": [{"name": name, "type": "space"} for name in "zyx"],
                     "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 1]}]}]}
                ]
            }
        )
    )  # fmt: skip
    (folder / "objects" / ".zgroup").write_text('{"zarr_format": 2}')
    (folder / "objects" / "0" / ".zarray").write_text(json.dumps(objects))
    return names
