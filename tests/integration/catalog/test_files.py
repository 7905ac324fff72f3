import os
from pathlib import Path

import pytest

from voxelworks import catalog
from voxelworks.errors import (
    DatasetNotFound,
    InvalidDataset,
    InvalidInput,
    NotFound,
    StorageFailed,
    UnsafeReference,
)
from voxelworks.protocol.views import DatasetSummary

from .catalog_stock import ADA, BOB

EMPTY = DatasetSummary(voxel_size="4,4,40", layers=())


def folder_of(stock, dataset, by=ADA):
    return stock.look(catalog.folder_of, dataset.id, by=by, places=stock.places)


def link(stock, place, by=ADA, name="linked"):
    return stock.call(catalog.link_dataset, by=by, name=name, place=place, summary=EMPTY, places=stock.places)


@pytest.fixture
def folder(stock) -> Path:
    """A dataset with a file of two bytes in a layer, and things beside it that are nobody's business."""
    folder = Path(folder_of(stock, stock.register()))
    (folder / "color" / "1").mkdir(parents=True)
    (folder / "color" / "1" / "c.0").write_bytes(b"ab")
    (folder.parent / "secret").write_bytes(b"no")
    return folder


def read(folder, path):
    with catalog.open_file(str(folder), path) as file:
        return file.read()


def test_files_of_a_dataset_are_opened_by_their_path(folder):
    assert read(folder, "color/1/c.0") == b"ab"
    assert catalog.read_metadata(str(folder), "datasource-properties.json") == b"{}"
    assert catalog.read_metadata(str(folder), "color/zarr.json") is None


@pytest.mark.parametrize(
    "path",
    [
        "", "color", "color/", "color/1/c.1", "color/1/c.0/x", "/etc/passwd", "//etc/passwd", "../secret",
        "color/../../secret", "./datasource-properties.json", "color/./1/c.0", "color//1/c.0", "..\\secret", "a\0b",
        ".voxelworks/job/1", ".hidden", "color/.hidden", "x" * 300, "color/" + "a/" * 3000 + "b",
    ],
)  # fmt: skip
def test_nothing_but_files_of_the_dataset_is_opened(folder, path):
    (folder / ".voxelworks" / "job").mkdir(parents=True)
    for name in (".voxelworks/job/1", ".hidden", "color/.hidden"):
        (folder / name).write_bytes(b"not published")
    with pytest.raises(NotFound, match="the dataset has no file"):
        read(folder, path)


@pytest.mark.parametrize("name", [".zarray", ".zattrs", ".zgroup", ".zmetadata"])
def test_metadata_of_zarr_2_is_for_readers(folder, name):
    (folder / "color" / name).write_bytes(b"{}")
    assert read(folder, f"color/{name}") == b"{}"


def test_links_are_followed_inside_the_dataset_only(folder):
    (folder / "again").symlink_to(folder / "color")
    (folder / "out").symlink_to(folder.parent)
    (folder / "secret").symlink_to(folder.parent / "secret")
    (folder / "beside").symlink_to(f"{folder}-beside")
    Path(f"{folder}-beside").write_bytes(b"no")
    assert read(folder, "again/1/c.0") == b"ab"
    for path in ("out/secret", "secret", "beside"):
        with pytest.raises(NotFound):
            read(folder, path)


def test_a_pipe_is_no_file_and_nobody_waits_for_it(folder):
    os.mkfifo(folder / "pipe")
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    with pytest.raises(NotFound):
        read(folder, "pipe")
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_cannot_be_read_is_not_called_missing(folder, monkeypatch):
    def fail(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(StorageFailed, match="Permission denied"):
        read(folder, "color/1/c.0")


def test_large_files_are_no_metadata(folder, monkeypatch):
    monkeypatch.setattr("voxelworks.catalog._files.METADATA_BYTES_MAX", 1)
    with pytest.raises(InvalidDataset, match="larger than"):
        catalog.read_metadata(str(folder), "color/1/c.0")


def test_who_may_not_read_a_dataset_does_not_find_its_folder(stock):
    dataset = stock.register()
    with pytest.raises(DatasetNotFound):
        folder_of(stock, dataset, BOB)
    stock.call(catalog.set_public, dataset.id, True, by=ADA)
    assert folder_of(stock, dataset, BOB) == folder_of(stock, dataset)
    stock.call(catalog.trash, dataset.id, by=ADA, settings=stock.settings)
    for by in (ADA, BOB):
        with pytest.raises(DatasetNotFound):
            folder_of(stock, dataset, by)


def test_a_linked_dataset_is_read_from_its_place_as_long_as_its_organization_may(stock):
    (stock.settings.import_roots["private"].path / "scan").mkdir()
    dataset = link(stock, "root:private/scan")
    assert folder_of(stock, dataset) == str(stock.settings.import_roots["private"].path / "scan")
    closed = stock.settings.model_copy(update={"import_roots": {}})
    with pytest.raises(UnsafeReference):
        stock.look(catalog.folder_of, dataset.id, by=ADA, places=type(stock.places).of(closed))


def test_what_lies_on_another_server_has_no_folder_here(stock):
    dataset = link(stock, "https://data.example.org/scan")
    with pytest.raises(InvalidInput, match="lie on another server"):
        folder_of(stock, dataset)
