import io
import time

import pytest
from sqlalchemy import text

from voxelworks import catalog
from voxelworks.catalog import _storage
from voxelworks.errors import QuotaExceeded
from voxelworks.protocol.views import StorageView
from voxelworks.testing.queues import at_once

from .catalog_stock import ADA, BOB


def _add_organizations(stock, neuro_bytes_max=100):
    adding = text(
        "INSERT INTO organizations (id, name, zone, created_ms, storage_bytes_max) "
        "VALUES ('neuro', 'Neuro', 'UTC', 0, :bytes_max), ('other', 'Other', 'UTC', 0, NULL)"
    )
    with stock.database.session() as session:
        session.execute(adding, {"bytes_max": neuro_bytes_max})


def _usage(stock, organization_id="neuro"):
    return stock.look(catalog.storage_usage, organization_id, settings=stock.settings)


def _limited(stock, bytes_max):
    return stock.settings.model_copy(update={"storage_bytes_max": bytes_max})


def test_storage_is_that_of_datasets_and_annotations_with_the_trash(stock):
    assert _usage(stock) == StorageView(used_bytes=0, max_bytes=None)
    made = stock.register(size_bytes=2**40)
    stock.register("b", size_bytes=5)
    stock.register(by=BOB, size_bytes=7)
    stored = catalog.store_annotation(
        io.BytesIO(b"<things/>"), organization_id="neuro", settings=stock.settings
    )
    stock.call(catalog.add_annotation_file, stored, by=ADA, name="a", settings=stock.settings)
    stock.call(catalog.trash, made.id, by=ADA, settings=stock.settings)
    assert _usage(stock).used_bytes == 2**40 + 5 + len(b"<things/>")
    stock.call(catalog.delete_now, made.id, by=ADA)
    catalog.purge_expired(stock.database, places=stock.places, settings=stock.settings)
    assert (_usage(stock).used_bytes, _usage(stock, "other").used_bytes) == (5 + len(b"<things/>"), 7)


def test_what_an_organization_has_no_room_for_is_refused(stock):
    stock.register(size_bytes=900)
    limited = _limited(stock, 2000)
    stock.look(catalog.check_quota, "neuro", 1100, settings=limited)
    with pytest.raises(QuotaExceeded) as refused:
        stock.look(catalog.check_quota, "neuro", 3 * 2**30, settings=limited)
    assert str(refused.value) == (
        "3 GiB are needed, and the organization has 1.07 KiB of 1.95 KiB left; delete datasets and empty the trash, or "
        "ask the operator for more room"
    )
    stock.look(catalog.check_quota, "other", 2000, settings=limited)
    stock.look(catalog.check_quota, "neuro", 2**60, settings=stock.settings)


def test_the_limit_of_an_organization_counts_more_than_that_of_the_settings(stock):
    _add_organizations(stock)
    settings = _limited(stock, 5000)
    assert stock.look(catalog.storage_usage, "neuro", settings=settings).max_bytes == 100
    assert stock.look(catalog.storage_usage, "other", settings=settings).max_bytes == 5000


def test_an_annotation_that_does_not_fit_is_refused_and_can_be_discarded(stock):
    stored = catalog.store_annotation(
        io.BytesIO(b"<things/>"), organization_id="neuro", settings=stock.settings
    )
    with pytest.raises(QuotaExceeded):
        stock.call(catalog.add_annotation_file, stored, by=ADA, name="a", settings=_limited(stock, 5))
    catalog.discard_stored(stored)
    catalog.discard_stored(stored)
    assert list((stock.settings.annotations_dir / "neuro").iterdir()) == []


def test_of_two_uploads_at_once_only_one_takes_the_last_room(stock, monkeypatch):
    _add_organizations(stock, neuro_bytes_max=15)
    limited = stock.settings
    summed = _storage.storage_usage

    def sum_slowly(*args, **kwargs):
        usage = summed(*args, **kwargs)
        time.sleep(0.2)
        return usage

    monkeypatch.setattr(_storage, "storage_usage", sum_slowly)
    stored = [
        catalog.store_annotation(io.BytesIO(b"<things/>"), organization_id="neuro", settings=limited)
        for _ in range(2)
    ]
    outcomes = at_once([
        lambda given=given: stock.call(catalog.add_annotation_file, given, by=ADA, name="a", settings=limited)
        for given in stored
    ])  # fmt: skip
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["AnnotationView", "QuotaExceeded"]
    assert _usage(stock).used_bytes == len(b"<things/>")
