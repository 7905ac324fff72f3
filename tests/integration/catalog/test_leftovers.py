import dataclasses
import io
import os
import time

from voxelworks import catalog

from .catalog_stock import ADA, BOB, SMALL

DAY_S = 86_400


def _write(path, size, age_days):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    at_s = time.time() - age_days * DAY_S
    for touched in (path, *path.parents[:3]):
        os.utime(touched, (at_s, at_s))


def _list(stock, by=ADA, in_use=()):
    return stock.look(
        catalog.leftovers, by=by, places=stock.places, settings=stock.settings, work_keys_in_use=in_use
    )


def _remove(stock, in_use=()):
    return catalog.remove_leftovers(
        stock.database, places=stock.places, settings=stock.settings, work_keys_in_use=in_use
    )


def test_what_takes_room_is_listed_with_its_end_soonest_first(stock):
    data = stock.settings.datasets_dir / "neuro"
    stock.register()
    trashed = stock.register("old", size_bytes=77)
    _write(data / ".voxelworks" / "job1" / "1" / "result" / "a", 10, 2)
    _write(data / "cortex" / ".voxelworks" / "job2" / "3" / "scratch", 20, 1)
    _write(data / ".voxelworks" / "job3" / "1" / "a", 30, 100)
    _write(stock.settings.annotations_dir / "neuro" / ".0123.part", 40, 6)
    trashed = stock.call(catalog.trash, trashed.id, by=ADA, settings=stock.settings)
    now_ms = time.time() * 1000
    listed = _list(stock, in_use={"job3"})
    assert [(item.kind, item.name, item.size_bytes) for item in listed] == [
        ("file", "annotations/neuro/.0123.part", 40),
        ("attempt", "neuro/.voxelworks/job1", 10),
        ("attempt", "neuro/cortex/.voxelworks/job2", 20),
        ("dataset", "old", 77),
        ("attempt", "neuro/.voxelworks/job3", 30),
    ]
    days_left = [
        None if item.removal_ms is None else round((item.removal_ms - now_ms) / 86_400_000) for item in listed
    ]
    assert days_left == [1, 5, 6, 30, None]
    assert listed[3].removal_ms == trashed.purge_ms
    assert {item.organization_id for item in listed} == {"neuro"}


def test_pictures_of_linked_datasets_that_are_gone_are_removed(stock):
    linked = stock.call(
        catalog.link_dataset, by=ADA, name="linked", place="root:scope/a", summary=SMALL, places=stock.places
    )
    data = stock.settings.datasets_dir / "neuro"
    for dataset_id in (linked.id, "0" * 16):
        _write(data / f".previews-{dataset_id}" / "index.json", 10, 8)
    stock.register()
    _write(data / "cortex" / ".previews" / "index.json", 10, 8)
    assert [(item.kind, item.name) for item in _list(stock)] == [("file", f"neuro/.previews-{'0' * 16}")]
    assert _remove(stock) == 1
    assert sorted(path.name for path in data.iterdir()) == [f".previews-{linked.id}", "cortex"]


def test_each_organization_sees_its_own_and_the_operator_all(stock):
    for by in (ADA, BOB):
        _write(stock.settings.datasets_dir / by.organization_id / ".voxelworks" / "job" / "1" / "a", 10, 1)
        made = stock.register("old", by=by)
        stock.call(catalog.trash, made.id, by=by, settings=stock.settings)
    assert {item.organization_id for item in _list(stock)} == {"neuro"}
    operator = dataclasses.replace(BOB, is_operator=True)
    assert sorted(item.organization_id for item in _list(stock, by=operator)) == ["neuro"] * 2 + ["other"] * 2
    reading = dataclasses.replace(operator, scopes=frozenset({"read"}), entrance="token")
    assert {item.organization_id for item in _list(stock, by=reading)} == {BOB.organization_id}


def test_what_nobody_needs_is_removed_at_its_end_and_nothing_else(stock):
    data, annotations = stock.settings.datasets_dir / "neuro", stock.settings.annotations_dir / "neuro"
    stock.register()
    stored = catalog.store_annotation(
        io.BytesIO(b"<things/>"), organization_id="neuro", settings=stock.settings
    )
    known = stock.call(catalog.add_annotation_file, stored, by=ADA, name="a", settings=stock.settings)
    _write(annotations / f"{known.id}.nml", 9, 100)
    unknown = [
        annotations / "0123.zip",
        annotations / ".4567.part",
        data / ".voxelworks" / "gone" / "1" / "a",
    ]
    kept = [data / ".voxelworks" / "job" / "1" / "a", data / "cortex" / ".voxelworks" / "fresh" / "1" / "a"]
    for path in (*unknown, kept[0]):
        _write(path, 10, 8)
    _write(kept[1], 10, 6)
    assert _remove(stock, in_use={"job"}) == 3
    assert [path.exists() for path in (*unknown, *kept)] == [False] * 3 + [True] * 2
    assert catalog.annotation_file(known, stock.settings).exists()
    assert (data / "cortex" / "datasource-properties.json").exists()
    assert _remove(stock, in_use={"job"}) == 0


def test_an_attempt_that_still_writes_deep_inside_is_not_old(stock):
    work = stock.settings.datasets_dir / "neuro" / ".voxelworks" / "run" / "1"
    _write(work / "result" / "color" / "1" / "c" / "0", 10, 0)
    at_s = time.time() - 100 * DAY_S
    for folder in (work, work.parent):
        os.utime(folder, (at_s, at_s))
    assert _remove(stock) == 0
    assert work.exists()
