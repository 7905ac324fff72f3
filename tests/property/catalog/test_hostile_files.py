"""Whatever a stranger sends is either read as its writer meant it, or refused with a sentence."""

import io
import zipfile
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from voxelworks.archives.limits import ArchiveLimits
from voxelworks.archives.zips import list_entries, unpack
from voxelworks.errors import InvalidAnnotation, InvalidArchive
from voxelworks.protocol.nml import read_nml

LIMITS = ArchiveLimits(entries_max=100, bytes_max=2**20)
NAMES = st.text("abcdefghijk.-_", min_size=1, max_size=8).filter(lambda name: name not in (".", ".."))
FILES = st.dictionaries(NAMES, st.binary(max_size=2000), max_size=5)
METHODS = st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
NML = (
    b"<things><parameters><experiment name='cortex'/></parameters><thing id='1'><nodes>"
    b"<node id='1' x='1' y='2' z='3'/></nodes></thing><volume id='0' location='a.zip'/></things>"
)


def _archive(files, method):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def _read(data):
    stream = io.BytesIO(data)
    return {entry.name: b"".join(unpack(stream, entry)) for entry in list_entries(stream, LIMITS)}


@given(files=FILES, method=METHODS)
def test_an_archive_is_read_as_it_was_written(files, method):
    assert _read(_archive(files, method)) == files


@given(
    files=FILES, method=METHODS, changes=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=5)
)
def test_a_changed_archive_is_read_or_refused(files, method, changes):
    data = bytearray(_archive(files, method))
    for position, value in changes:
        data[position % len(data)] = value
    try:
        found = _read(bytes(data))
    except InvalidArchive:
        return
    # What is read is whole: each entry has the checksum that the list of entries tells.
    assert all(isinstance(content, bytes) for content in found.values())
    assert sum(map(len, found.values())) <= LIMITS.bytes_max


@given(data=st.binary(max_size=500))
def test_no_bytes_break_the_reader_of_archives(data):
    with suppress(InvalidArchive):
        _read(data + b"PK\5\6" + data[:18])


@given(changes=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=4), cut=st.integers(1, 50))
def test_a_changed_nml_is_read_or_refused(changes, cut):
    data = bytearray(NML)
    for position, value in changes:
        data[position % len(data)] = value
    pieces = [bytes(data[start : start + cut]) for start in range(0, len(data), cut)]
    try:
        summary = read_nml(pieces, 10_000)
    except InvalidAnnotation:
        return
    assert summary.node_count <= 1
