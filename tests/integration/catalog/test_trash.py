import io
import shutil

import pytest

from voxelworks import catalog
from voxelworks.catalog._tables import DatasetRow
from voxelworks.errors import DatasetNotFound, IllegalTransition, NotFound
from voxelworks.testing.queues import at_once

from .catalog_stock import ADA, SMALL


def _purge(stock):
    return catalog.purge_expired(stock.database, places=stock.places, settings=stock.settings)


def _trash(stock, dataset):
    return stock.call(catalog.trash, dataset.id, by=ADA, settings=stock.settings)


def _folder(stock, name="cortex"):
    return stock.settings.datasets_dir / "neuro" / name


def test_a_deleted_dataset_is_gone_for_jobs_and_can_be_restored(stock):
    made = stock.register()
    trashed = _trash(stock, made)
    assert trashed.purge_ms - trashed.trashed_ms == 30 * 86_400_000
    assert stock.look(catalog.list_datasets, by=ADA) == ()
    assert stock.look(catalog.list_datasets, by=ADA, include_trashed=True) == (trashed,)
    with pytest.raises(DatasetNotFound, match="dataset 'cortex' is in the trash; restore it first"):
        stock.look(catalog.find, "cortex", by=ADA)
    assert stock.look(catalog.find, "cortex", by=ADA, include_trashed=True) == trashed
    assert _trash(stock, made) == trashed
    assert stock.call(catalog.restore, made.id, by=ADA) == made
    assert stock.look(catalog.find, "cortex", by=ADA) == made
    with pytest.raises(DatasetNotFound, match="in the trash"):
        stock.call(catalog.restore, made.id, by=ADA)


def test_a_dataset_is_removed_at_the_end_of_its_term(stock):
    made, kept = stock.register(), stock.register("kept")
    _trash(stock, made)
    stock.advance(days=29.99)
    assert (_purge(stock), _folder(stock).exists()) == (0, True)
    stock.advance(days=0.02)
    assert (_purge(stock), _folder(stock).exists()) == (1, False)
    assert [item.name for item in stock.look(catalog.list_datasets, by=ADA, include_trashed=True)] == ["kept"]
    assert _folder(stock, "kept").exists()
    assert stock.look(catalog.why_taken, "neuro", "cortex", stock.places) is None
    assert [path.name for path in _folder(stock).parent.iterdir()] == ["kept"]
    assert _purge(stock) == 0
    assert stock.look(catalog.find, "kept", by=ADA).id == kept.id


def test_a_dataset_can_be_removed_before(stock):
    made = stock.register()
    with pytest.raises(DatasetNotFound):
        stock.call(catalog.delete_now, made.id, by=ADA)
    _trash(stock, made)
    stock.call(catalog.delete_now, made.id, by=ADA)
    assert (_purge(stock), _folder(stock).exists()) == (1, False)


def test_what_is_linked_is_only_forgotten(stock, tmp_path):
    (tmp_path / "scope" / "run1").mkdir()
    linked = stock.call(
        catalog.link_dataset,
        by=ADA,
        name="cortex",
        place="root:scope/run1",
        summary=SMALL,
        places=stock.places,
    )
    _folder(stock).mkdir(parents=True)  # and a folder of somebody else that happens to have its name
    _trash(stock, linked)
    stock.call(catalog.delete_now, linked.id, by=ADA)
    assert _purge(stock) == 1
    assert (tmp_path / "scope" / "run1").is_dir()
    assert _folder(stock).is_dir()
    assert stock.look(catalog.list_datasets, by=ADA, include_trashed=True) == ()


def test_nothing_is_deleted_through_a_link(stock, tmp_path, caplog):
    made = stock.register()
    shutil.rmtree(_folder(stock))
    (tmp_path / "precious").mkdir()
    _folder(stock).symlink_to(tmp_path / "precious")
    _trash(stock, made)
    stock.call(catalog.delete_now, made.id, by=ADA)
    assert (_purge(stock), (tmp_path / "precious").is_dir()) == (0, True)
    assert "is a link; nothing is deleted through it" in caplog.text


def test_nothing_is_deleted_in_the_folder_of_another_organization(stock, caplog):
    made = stock.register()
    with stock.database.session() as session:
        session.get(DatasetRow, made.id).place = "data:elsewhere/cortex"
    victim = _folder(stock).parents[1] / "elsewhere" / "cortex"
    victim.mkdir(parents=True)
    _trash(stock, made)
    stock.call(catalog.delete_now, made.id, by=ADA)
    assert (_purge(stock), victim.is_dir()) == (0, True)
    assert "is not in the folder of its organization" in caplog.text


def test_a_removal_that_broke_off_is_completed_and_cannot_be_undone(stock, monkeypatch):
    made = stock.register()
    _trash(stock, made)
    stock.call(catalog.delete_now, made.id, by=ADA)

    def die_halfway(folder):
        (folder / "datasource-properties.json").unlink()
        raise OSError("the machine went down")

    with monkeypatch.context() as broken:
        broken.setattr(shutil, "rmtree", die_halfway)
        assert _purge(stock) == 0
    assert not _folder(stock).exists()  # nobody can open half of it
    with pytest.raises(IllegalTransition, match="is being deleted for good"):
        stock.call(catalog.restore, made.id, by=ADA)
    assert stock.look(catalog.why_taken, "neuro", "cortex", stock.places) == "it is in the trash"
    assert _purge(stock) == 1
    assert list(_folder(stock).parent.iterdir()) == []


def test_a_dataset_whose_files_are_gone_already_is_removed(stock):
    made = stock.register()
    shutil.rmtree(_folder(stock))
    _trash(stock, made)
    stock.call(catalog.delete_now, made.id, by=ADA)
    assert _purge(stock) == 1


def test_several_servers_may_remove_at_once(stock):
    for number in range(5):
        made = stock.register(f"d{number}")
        _trash(stock, made)
        stock.call(catalog.delete_now, made.id, by=ADA)
    counts = at_once([lambda: _purge(stock) for _ in range(4)])
    assert all(isinstance(count, int) for count in counts), counts
    _purge(stock)
    assert stock.look(catalog.list_datasets, by=ADA, include_trashed=True) == ()
    assert list(_folder(stock).parent.iterdir()) == []


def test_annotations_go_the_same_way(stock):
    stored = catalog.store_annotation(
        io.BytesIO(b"<things/>"), organization_id="neuro", settings=stock.settings
    )
    made = stock.call(catalog.add_annotation_file, stored, by=ADA, name="a", settings=stock.settings)
    file = catalog.annotation_file(made, stock.settings)
    trashed = stock.call(catalog.trash_annotation, made.id, by=ADA, settings=stock.settings)
    assert (trashed.purge_ms is None, stock.look(catalog.list_annotations, by=ADA)) == (False, ())
    with pytest.raises(NotFound, match="annotation 'a' is in the trash; restore it first"):
        stock.look(catalog.find_annotation, made.id, by=ADA)
    assert stock.look(catalog.find_annotation, made.id, by=ADA, include_trashed=True) == trashed
    assert stock.call(catalog.restore_annotation, made.id, by=ADA) == made
    with pytest.raises(NotFound, match="in the trash"):
        stock.call(catalog.delete_annotation_now, made.id, by=ADA)
    stock.call(catalog.trash_annotation, made.id, by=ADA, settings=stock.settings)
    assert (_purge(stock), file.exists()) == (0, True)
    stock.call(catalog.delete_annotation_now, made.id, by=ADA)
    assert (_purge(stock), file.exists()) == (1, False)
    assert stock.look(catalog.list_annotations, by=ADA, include_trashed=True) == ()
