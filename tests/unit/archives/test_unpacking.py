import io
import shutil
import tarfile
import zipfile

import pytest

from voxelworks import archives
from voxelworks.archives import ArchiveLimits
from voxelworks.errors import Cancelled, DiskFull, InvalidArchive, UnsafeReference

LIMITS = ArchiveLimits(entries_max=1000, bytes_max=2**24)
FILES = {"cells/.zarray": b"{}", "cells/0/0": b"1" * 100_000, "cells/.DS_Store": b"", "__MACOSX/cells/x": b""}


def make(path, files, kind):
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def found(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_files_are_unpacked_without_their_common_folder(tmp_path, kind):
    archive = make(tmp_path / "a", FILES, kind)
    assert archives.kind_of(archive) == kind.removesuffix(".gz")
    assert archives.unpack(archive, tmp_path / "out", LIMITS) == tmp_path / "out"
    assert found(tmp_path / "out") == {".zarray": b"{}", "0/0": b"1" * 100_000}


def test_a_single_file_is_given_itself(tmp_path):
    archive = make(tmp_path / "a.zip", {"x/y/stack.tif": b"II"}, "zip")
    assert archives.unpack(archive, tmp_path / "out", LIMITS) == tmp_path / "out" / "stack.tif"


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_unpacking_goes_on_where_it_was_stopped(tmp_path, kind):
    archive = make(tmp_path / "a", {f"{number}": bytes([number]) * 10 for number in range(9)}, kind)
    calls = iter(range(100))

    def stop():
        if next(calls) > 15:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        archives.unpack(archive, tmp_path / "out", LIMITS, check=stop)
    first = {path.name: path.stat().st_ino for path in (tmp_path / "out").iterdir() if path.suffix != ".part"}
    assert 0 < len(first) < 9
    archives.unpack(archive, tmp_path / "out", LIMITS)
    then = {path.name: path.stat().st_ino for path in (tmp_path / "out").iterdir()}
    assert len(then) == 9
    assert first.items() <= then.items()


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    ("names", "error"),
    [
        (["../a"], (UnsafeReference, InvalidArchive)),
        (["/etc/passwd"], (UnsafeReference, InvalidArchive)),
        (["A", "a"], UnsafeReference),
        (["a", "a/b"], UnsafeReference),
        ([".hidden"], InvalidArchive),
    ],
)
def test_nothing_is_written_of_an_archive_that_would_do_harm(tmp_path, kind, names, error):
    archive = make(tmp_path / "a", dict.fromkeys(names, b"1"), kind)
    with pytest.raises(error):
        archives.unpack(archive, tmp_path / "out", LIMITS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_the_disk_must_have_room_before_anything_is_written(tmp_path, monkeypatch):
    archive = make(tmp_path / "a", FILES, "zip")
    usage = shutil.disk_usage(tmp_path)._replace(free=2**28)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskFull, match="a unpacks to 0 MiB, and 256 MiB are free in"):
        archives.unpack(archive, tmp_path / "out", LIMITS)
    assert not (tmp_path / "out").exists()


def test_the_only_file_of_a_folder_stands_for_it_as_uploads_have_it(tmp_path):
    archive = make(tmp_path / "a", FILES, "tar.gz")
    assert archives.find(archive) == archives.find(tmp_path) == archive
    (tmp_path / "b").write_bytes(b"1")
    assert archives.find(tmp_path) is archives.find(tmp_path / "b") is archives.find(tmp_path / "c") is None


def test_what_is_no_archive_is_told(tmp_path):
    (tmp_path / "a").write_bytes(b"II*\0")
    assert (
        archives.kind_of(tmp_path / "a")
        is archives.kind_of(tmp_path)
        is archives.kind_of(tmp_path / "b")
        is None
    )
    with pytest.raises(InvalidArchive, match="is neither a zip nor a tar"):
        archives.unpack(tmp_path / "a", tmp_path / "out", LIMITS)
