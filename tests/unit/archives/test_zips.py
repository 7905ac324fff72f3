import io
import os
import random
import stat
import struct
import time
import tracemalloc
import zipfile

import pytest

from voxelworks.archives.limits import ArchiveLimits
from voxelworks.archives.zips import list_entries, looks_like_archive, unpack
from voxelworks.errors import InvalidArchive

LIMITS = ArchiveLimits(entries_max=1000, bytes_max=2**24)


def make(files, method=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream


def read(stream, limits=LIMITS):
    return {entry.name: b"".join(unpack(stream, entry)) for entry in list_entries(stream, limits)}


def refusal(stream, limits=LIMITS):
    with pytest.raises(InvalidArchive) as refused:
        read(stream, limits)
    return str(refused.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_is_read_as_it_was_written(method):
    noise = random.Random(1).randbytes(300_000)
    files = {"a.nml": b"<things/>", "data_0.zip": noise, "b/ü.txt": b"a" * 500_000, "empty": b""}
    stream = make(files, method)
    assert looks_like_archive(stream)
    assert read(stream) == files


def test_folders_are_left_out_and_an_empty_archive_has_no_entries():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.mkdir("folder")
        archive.writestr("folder/a", b"1")
    assert read(stream) == {"folder/a": b"1"}
    assert looks_like_archive(make({}))
    assert read(make({})) == {}


def test_what_is_written_to_a_pipe_is_read():
    class Pipe(io.BytesIO):
        def seekable(self):
            return False

        def seek(self, *_):
            raise OSError

        def tell(self):
            raise OSError

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"x" * 1000)
    assert read(io.BytesIO(pipe.getvalue())) == {"a": b"x" * 1000}


def test_an_archive_with_wide_sizes_is_read():
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a", "w", force_zip64=True) as file,
    ):
        file.write(b"x" * 1000)
    data = bytearray(stream.getvalue())
    at = data.rfind(b"PK\1\2")
    # Sizes and offset in the extra field, as for an archive over 4 GiB; and the wide end of the list.
    crc_to_sizes = struct.unpack_from("<3L", data, at + 16)
    entry = bytearray(data[at : at + 46]) + b"a"
    struct.pack_into("<2L", entry, 20, 2**32 - 1, 2**32 - 1)
    struct.pack_into("<H", entry, 30, 28)
    struct.pack_into("<L", entry, 42, 2**32 - 1)
    entry += struct.pack("<2H3Q", 1, 24, 1000, crc_to_sizes[1], 0)
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, len(entry), at)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, at + len(entry), 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0)
    wide = io.BytesIO(bytes(data[:at]) + bytes(entry) + end64 + locator + end)
    assert zipfile.ZipFile(wide).read("a") == b"x" * 1000
    assert read(wide) == {"a": b"x" * 1000}


@pytest.mark.parametrize(
    "name",
    [
        "../a",
        "/etc/passwd",
        "a/../../b",
        "a\\b",
        "C:a",
        "a//b",
        "./a",
        "a/.",
        "x" * 300,
        "a\n",
        "\x1b[31m",
        "..",
    ],
)
def test_names_that_lead_elsewhere_are_refused(name):
    assert "an entry has the name" in refusal(make({name: b"1"}))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_are_refused(kind):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        info = zipfile.ZipInfo("a")
        info.create_system, info.external_attr = 3, (kind | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    assert refusal(stream) == "entry 'a' is a link or a device; pack plain files only"


def test_a_name_that_comes_twice_is_refused():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a", b"1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a", b"2")
    assert refusal(stream) == "the zip holds 'a' twice; pack it anew"


def test_encrypted_and_oddly_packed_entries_are_refused():
    data = bytearray(make({"a": b"1"}).getvalue())
    at = data.rfind(b"PK\1\2")
    struct.pack_into("<H", data, at + 8, 1)
    assert "is encrypted" in refusal(io.BytesIO(data))
    assert "is packed by method 14" in refusal(make({"a": b"1" * 100}, zipfile.ZIP_LZMA))


def test_a_bomb_is_refused_before_anything_is_unpacked():
    bomb = make({"a": bytes(2**24)})
    assert refusal(bomb).startswith("a of the zip unpacks to over 200 times its size")
    many = make({str(number): bytes(2**20) for number in range(8)})
    assert refusal(many).startswith("the whole of the zip unpacks to over 200 times its size")
    small = ArchiveLimits(entries_max=10, bytes_max=1000)
    assert "unpacks to more than 0 MiB" in refusal(make({"a": os.urandom(600), "b": os.urandom(600)}), small)


def test_an_entry_that_lies_about_its_size_is_stopped():
    content = random.Random(2).randbytes(200_000)
    for claimed in (100, 300_000):
        data = bytearray(make({"a": content}).getvalue())
        struct.pack_into("<L", data, data.rfind(b"PK\1\2") + 24, claimed)
        assert "claim" in refusal(io.BytesIO(data))


def test_entries_that_share_their_bytes_are_refused():
    data = make({"a": os.urandom(5000)}).getvalue()
    at = data.rfind(b"PK\1\2")
    entry, tail = data[at : at + 47], data[:at]
    copies = b"".join(entry[:46] + bytes([97 + number]) for number in range(20))
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 20, 20, len(copies), at, 0)
    assert (
        refusal(io.BytesIO(tail + copies + end))
        == "entries of the zip overlap; pack it anew with a usual program"
    )


@pytest.mark.parametrize("claimed", [1_000_000, 10])
def test_a_million_entries_are_refused_at_once_and_without_memory(claimed):
    """Whether the archive admits how many it has, or not."""
    count = 1_000_000 if claimed > 10 else 65_000
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0)
    names = b"".join(entry + b"%08d" % number for number in range(count))
    head = bytes(1000)
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, claimed, claimed, len(names), len(head))
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(head) + len(names), 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0)
    stream = io.BytesIO(head + names + end64 + locator + end)
    began_s = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(InvalidArchive) as refused:
            list(list_entries(stream, LIMITS))
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()
    assert time.monotonic() - began_s < 5
    assert (
        str(refused.value)
        == {
            1_000_000: "the zip holds 1,000,000 entries, more than 1,000; split it up",
            10: "the zip holds more than 1,000 entries, and claims fewer; it is broken",
        }[claimed]
    )


@pytest.mark.parametrize(
    "data",
    [b"", b"PK\3\4", b"no zip at all", b"PK\5\6" + bytes(10), b"PK\5\6" + bytes(18) + b"more",
     b"PK\5\6" + b"\xff" * 16 + b"\0\0"],
)  # fmt: skip
def test_what_is_no_archive_is_refused(data):
    assert "zip" in refusal(io.BytesIO(data))


def test_a_cut_archive_is_refused():
    data = make({"a": os.urandom(1000), "b": os.urandom(1000)}).getvalue()
    for length in (len(data) - 1, len(data) // 2, 30):
        refusal(io.BytesIO(data[:length]))
    refusal(io.BytesIO(data[500:]))
