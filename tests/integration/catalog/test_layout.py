import pytest

from voxelworks import catalog
from voxelworks.errors import TargetNotWritable

from .catalog_stock import SMALL


def _old(stock, *names):
    """Datasets as version 0.1 laid them out, known as the migration leaves them."""
    for name in names:
        folder = stock.settings.datasets_dir / name
        folder.mkdir()
        (folder / "datasource-properties.json").write_text(name)
        stock.call(
            catalog.register, organization_id="local", user_id="local", name=name, place=f"data:local/{name}",
            summary=SMALL,
        )  # fmt: skip


def _tree(stock):
    data = stock.settings.datasets_dir
    return {
        path.relative_to(data).as_posix(): path.read_text()
        for path in sorted(data.rglob("*"))
        if path.is_file()
    }


def _adopt(stock):
    return stock.call(catalog.adopt_old_layout, stock.places)


def test_old_datasets_move_to_the_folder_of_their_organization(stock):
    _old(stock, "a", "b")
    stray = stock.settings.datasets_dir / "notes"
    stray.mkdir()
    (stray / "readme.txt").write_text("hand-made")
    assert _adopt(stock) == ("a", "b")
    files = {
        "local/a/datasource-properties.json": "a",
        "local/b/datasource-properties.json": "b",
        "notes/readme.txt": "hand-made",
    }
    assert _tree(stock) == files
    assert (_adopt(stock), _tree(stock)) == ((), files)


def test_a_dataset_with_the_name_of_the_organization_moves_too(stock):
    _old(stock, "a", "local")
    assert _adopt(stock) == ("local", "a")
    files = {"local/a/datasource-properties.json": "a", "local/local/datasource-properties.json": "local"}
    assert _tree(stock) == files
    assert (_adopt(stock), _tree(stock)) == ((), files)


def test_a_move_that_broke_off_is_completed(stock):
    _old(stock, "a", "local")
    data = stock.settings.datasets_dir
    (data / "local").rename(data / ".local.moving")
    assert _adopt(stock) == ("local", "a")
    assert _tree(stock) == {
        "local/a/datasource-properties.json": "a",
        "local/local/datasource-properties.json": "local",
    }


def test_sealed_results_move_with_the_folders_of_their_attempts(stock):
    _old(stock, "a")
    data = stock.settings.datasets_dir
    for folder in (data / ".voxelworks" / "job1.2", data / "a" / ".voxelworks" / "job2.1"):
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(folder.name)
    _adopt(stock)
    files = {
        "local/.voxelworks/job1/2/manifest.json": "job1.2",
        "local/a/.voxelworks/job2/1/manifest.json": "job2.1",
        "local/a/datasource-properties.json": "a",
    }
    assert _tree(stock) == files
    assert (_adopt(stock), _tree(stock)) == ((), files)


def test_a_fresh_instance_has_nothing_to_move(stock):
    assert (_adopt(stock), _tree(stock)) == ((), {})
    stock.settings.datasets_dir.rmdir()
    assert _adopt(stock) == ()


def test_datasets_that_cannot_be_moved_are_not_hidden(stock):
    _old(stock, "a")
    (stock.settings.datasets_dir / "local").write_text("a file in the way")
    with pytest.raises(TargetNotWritable, match="move them there by hand, and start again"):
        _adopt(stock)


def test_annotations_move_from_the_home_of_the_server_to_the_datasets(stock):
    old = stock.settings.home / "annotations"
    for name in ("neuro/0123.zip", "other/4567.nml"):
        (old / name).parent.mkdir(parents=True)
        (old / name).write_text(name)
    # Of an earlier start that was killed between copy and removal.
    kept = stock.settings.annotations_dir / "neuro" / "0123.zip"
    kept.parent.mkdir(parents=True)
    kept.write_text("neuro/0123.zip")
    assert catalog.adopt_old_annotations(stock.settings) == 2
    found = {
        path.relative_to(stock.settings.annotations_dir).as_posix(): path.read_text()
        for path in stock.settings.annotations_dir.rglob("*")
        if path.is_file()
    }
    assert found == {"neuro/0123.zip": "neuro/0123.zip", "other/4567.nml": "other/4567.nml"}
    assert not old.exists()
    assert catalog.adopt_old_annotations(stock.settings) == 0
