"""Archives that are laid out before they are written, read by Python's own reader."""

import io
import zipfile
import zlib

from hypothesis import given, settings
from hypothesis import strategies as st

from voxelworks.volumes.zip_writer import Entry, combine_crcs, directory

names = st.lists(
    st.text("abÄ漢_-. ", min_size=1, max_size=8).map(lambda text: f"f/{text}"), unique=True, max_size=6
)


@given(first=st.binary(max_size=300), second=st.binary(max_size=300))
def test_the_checksum_of_two_texts_follows_from_those_of_each(first, second):
    combined = combine_crcs(zlib.crc32(first), zlib.crc32(second), len(second))
    assert combined == zlib.crc32(first + second)


@settings(deadline=None)
@given(names=names, contents=st.lists(st.binary(max_size=50), min_size=6, max_size=6))
def test_an_archive_holds_what_was_laid_into_it(names, contents):
    archive = io.BytesIO()
    entries = []
    for name, content in zip(names, contents, strict=False):
        entry = Entry(name, archive.tell(), len(content), zlib.crc32(content))
        archive.write(entry.header + content)
        assert archive.tell() == entry.end
        entries.append(entry)
    archive.write(directory(entries, archive.tell()))
    with zipfile.ZipFile(archive) as read:
        assert read.testzip() is None
        assert {name: read.read(name) for name in read.namelist()} == dict(zip(names, contents, strict=False))
        assert {item.date_time for item in read.infolist()} <= {(1980, 1, 1, 0, 0, 0)}


@settings(deadline=None, max_examples=20)
@given(size=st.integers(2**32 - 2, 2**32 + 2), offset=st.integers(2**32 - 2, 2**32 + 2))
def test_large_archives_are_listed_with_64_bits(tmp_path_factory, size, offset):
    path = tmp_path_factory.mktemp("zip") / "large.zip"
    large, small = Entry("large.tif", offset, size, 1), Entry("small.tif", 0, 5, zlib.crc32(b"small"))
    with path.open("wb") as stream:  # all but a few bytes is a hole
        stream.write(small.header + b"small")
        stream.seek(large.offset)
        stream.write(large.header)
        stream.seek(large.end)
        stream.write(directory([small, large], large.end))
    with zipfile.ZipFile(path) as read:
        assert [(item.filename, item.file_size, item.header_offset) for item in read.infolist()] == [
            ("small.tif", 5, 0), ("large.tif", size, offset),
        ]  # fmt: skip
        assert read.read("small.tif") == b"small"
        with read.open("large.tif") as member:
            assert member.read(3) == b"\0\0\0"
