import gzip
import io
import random
import tarfile
import tracemalloc

import pytest

from voxelworks.archives.limits import ArchiveLimits
from voxelworks.archives.tars import list_entries, looks_like_archive, opened, unpack
from voxelworks.errors import InvalidArchive

LIMITS = ArchiveLimits(entries_max=1000, bytes_max=2**24)
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "GNU": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def make(files, *, form=tarfile.PAX_FORMAT, packed=False, change=lambda info: info):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz" if packed else "w", format=form) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(change(info), io.BytesIO(content))
    return stream


def read(packed, limits=LIMITS):
    with opened(packed) as stream:
        entries = list(list_entries(stream, packed, limits))
        return {entry.name: b"".join(unpack(stream, entry)) for entry in entries}


def refusal(packed, limits=LIMITS):
    with pytest.raises(InvalidArchive) as refused:
        read(packed, limits)
    return refused.value.message


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("packed", [False, True])
def test_an_archive_is_read_as_it_was_written(form, packed):
    noise = random.Random(1).randbytes(300_000)
    long = "/".join(["folder"] * 20) + "/" + "n" * 90
    files = {"a/.zarray": b"{}", "noise": noise, "empty": b"", "ü.txt": b"x", long: b"1" * 513}
    stream = make(files, form=FORMATS[form], packed=packed)
    assert looks_like_archive(stream)
    assert read(stream) == files


def test_folders_are_left_out_and_a_leading_dot_is_dropped(tmp_path):
    (tmp_path / "in" / "b").mkdir(parents=True)
    (tmp_path / "in" / "b" / "c").write_bytes(b"1")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "in", ".")
    assert read(io.BytesIO((tmp_path / "a.tar").read_bytes())) == {"b/c": b"1"}


def test_other_files_are_no_archives():
    for content in (b"", b"x" * 1000, gzip.compress(b"x" * 1000), b"\x1f\x8b" + b"x" * 100):
        assert not looks_like_archive(io.BytesIO(content))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_refused(kind):
    def change(info):
        info.type, info.linkname, info.size = kind, "/etc/passwd", 0
        return info

    assert (
        refusal(make({"a": b""}, change=change)) == "entry 'a' is a link or a device; pack plain files only"
    )


def test_bombs_and_lists_without_end_are_refused():
    bomb = make({"a": bytes(2**23)}, packed=True)
    assert refusal(bomb).startswith("the tar unpacks to over 200 times its size")
    assert refusal(make({"a": bytes(2**10)}), ArchiveLimits(1000, 1000)).startswith(
        "the tar unpacks to more than"
    )
    many = make({str(number): b"" for number in range(11)})
    assert refusal(many, ArchiveLimits(10, 2**20)) == "the tar holds more than 10 entries; split it up"


def test_sizes_that_lie_cost_no_memory():
    data = bytearray(make({"a": b"1"}, form=tarfile.GNU_FORMAT).getvalue())

    def stating(kind, size):
        lie = bytearray(data)
        lie[156:157], lie[124:136] = kind, b"\x80" + size.to_bytes(11, "big")
        lie[148:156] = b"%06o\0 " % (sum(lie[:148]) + 8 * 32 + sum(lie[156:512]))
        return io.BytesIO(bytes(lie))

    tracemalloc.start()
    assert refusal(stating(b"0", 2**40)).startswith("the tar unpacks to over 200 times its size")
    assert refusal(stating(b"L", 2**40)) == "the tar holds a header of 1,099,511,627,776 bytes; pack it anew"
    assert refusal(stating(b"0", 60_000)) == "the tar is cut off; pack it or copy it again"
    assert tracemalloc.get_traced_memory()[1] < 2**21
    tracemalloc.stop()


def test_a_damaged_archive_is_refused():
    data = make({"a": b"1" * 1000}, packed=True).getvalue()
    for content in (data[:-20], data[:60] + b"\xff" * 20 + data[80:]):
        assert refusal(io.BytesIO(content)).endswith("pack it or copy it again")
    plain = bytearray(make({"a": b"1"}).getvalue())
    plain[3] = 7
    assert refusal(io.BytesIO(bytes(plain))) == "a header of the tar is damaged; pack it or copy it again"
    sparse = make(
        {"a": b"1"}, change=lambda info: setattr(info, "pax_headers", {"GNU.sparse.major": "1"}) or info
    )
    assert refusal(sparse) == "the tar holds a sparse file; pack it without --sparse"
