import hashlib
import io
import zipfile

import pytest

from voxelworks import catalog
from voxelworks.errors import (
    DatasetNotFound,
    InvalidAnnotation,
    InvalidArchive,
    InvalidParams,
    NotFound,
)
from voxelworks.protocol.views import AnnotationSummary, VolumeLayerSummary

from .catalog_stock import ADA, BOB

NML = (
    b"<things><parameters><experiment name='cortex'/></parameters>"
    b"<thing id='1'><nodes><node id='1' x='1' y='2' z='3'/></nodes></thing>"
    b"<volume id='0' name='Volume' location='data_0_Volume.zip' fallbackLayer='segmentation'/></things>"
)
SUMMARY = AnnotationSummary(
    dataset_name="cortex", tree_count=1, node_count=1, bounding_boxes=(),
    volume_layers=(
        VolumeLayerSummary(name="Volume", fallback_layer="segmentation", location="data_0_Volume.zip"),
    ),
)  # fmt: skip


def _zip(files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


VOLUME = _zip({"1/header.wkw": b"WKW", "1/z0/y0/x0.wkw": b"data" * 10})
WHOLE = _zip({"annotation.nml": NML, "data_0_Volume.zip": VOLUME})


def _store(stock, content, by=ADA):
    return catalog.store_annotation(
        io.BytesIO(content), organization_id=by.organization_id, settings=stock.settings
    )


def _add(stock, content, by=ADA, name="mine", **given):
    stored = _store(stock, content, by)
    return stock.call(catalog.add_annotation_file, stored, by=by, name=name, settings=stock.settings, **given)


def _files(stock):
    folder = stock.settings.annotations_dir / "neuro"
    return sorted(path.name for path in folder.iterdir())


def test_an_annotation_zip_is_stored_as_it_came(stock):
    dataset = stock.register()
    made = _add(stock, WHOLE, dataset="cortex", name=" Soma ü ")
    assert made.model_dump(exclude={"id", "created_ms"}) == {
        "organization_id": "neuro", "user_id": "ada", "name": "Soma ü", "kind": "zip", "dataset_id": dataset.id,
        "address": None, "has_token": False, "streams_at": None, "fetched_ms": None,
        "is_fetching": False, "fetch_problem": None, "size_bytes": len(WHOLE),
        "sha256": hashlib.sha256(WHOLE).hexdigest(),
        "summary": SUMMARY.model_dump(), "trashed_ms": None, "purge_ms": None,
    }  # fmt: skip
    assert catalog.annotation_file(made, stock.settings).read_bytes() == WHOLE
    assert _files(stock) == [f"{made.id}.zip"]
    assert stock.look(catalog.find_annotation, made.id, by=ADA) == made


def test_a_plain_nml_is_told_by_its_content_and_has_no_volume_data(stock):
    made = _add(stock, NML)
    assert (made.kind, made.summary.volume_layers[0].location) == ("nml", None)
    assert catalog.annotation_file(made, stock.settings).read_bytes() == NML


def test_volume_data_may_be_empty(stock):
    for volume in (b"", _zip({})):
        assert _add(stock, _zip({"a.nml": NML, "data_0_Volume.zip": volume})).summary == SUMMARY


def test_annotations_of_others_are_not_found(stock):
    made = _add(stock, NML)
    assert stock.look(catalog.list_annotations, by=BOB, include_trashed=True) == ()
    for attempt in (
        lambda: stock.look(catalog.find_annotation, made.id, by=BOB, include_trashed=True),
        lambda: stock.call(catalog.trash_annotation, made.id, by=BOB, settings=stock.settings),
        lambda: stock.call(catalog.restore_annotation, made.id, by=BOB),
        lambda: stock.call(catalog.delete_annotation_now, made.id, by=BOB),
    ):
        with pytest.raises(NotFound):
            attempt()
    stock.register()
    with pytest.raises(DatasetNotFound):
        _add(stock, NML, by=BOB, dataset="cortex")


def test_annotations_are_listed_newest_first(stock):
    first = _add(stock, NML)
    stock.advance(days=1)
    second = _add(stock, NML)
    assert [item.id for item in stock.look(catalog.list_annotations, by=ADA)] == [second.id, first.id]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", InvalidAnnotation, "no proper XML"),
        (b"hello", InvalidAnnotation, "no proper XML"),
        (b"<!DOCTYPE a [<!ENTITY b 'c'>]><things>&b;</things>", InvalidAnnotation, "entities"),
        (_zip({"a.txt": b""}), InvalidAnnotation, "the zip holds 0 NML files"),
        (_zip({"a.nml": NML, "b.NML": NML}), InvalidAnnotation, "the zip holds 2 NML files"),
        (_zip({"a.nml": NML}), InvalidAnnotation, "names volume data 'data_0_Volume.zip', not in the zip"),
        (_zip({"a.nml": NML, "data_0_Volume.zip": b"no zip"}), InvalidAnnotation, "is no zip file"),
        (_zip({"a.nml": NML, "data_0_Volume.zip": VOLUME[:-5]}), InvalidArchive, "volume data 'data_0_Volume.zip'"),
        (_zip({"a.nml": NML, "data_0_Volume.zip": _zip({"../a": b"1"})}), InvalidArchive, "relative paths"),
        (_zip({"a.nml": NML, "data_0_Volume.zip": _zip({"a": bytes(2**26)})}), InvalidArchive, "over 200 times"),
        (_zip({"a.nml": NML, "../../escape": b"1"}), InvalidArchive, "relative paths"),
        (WHOLE[:-30], InvalidArchive, "zip"),
    ],
)  # fmt: skip
def test_what_is_no_annotation_is_refused_and_nothing_stays(stock, content, error, message):
    with pytest.raises(error, match=message):
        _store(stock, content)
    assert _files(stock) == []


def test_files_that_are_too_large_are_refused(stock):
    small = stock.settings.model_copy(update={"annotation_bytes_max": 1000, "nml_bytes_max": 100})
    with pytest.raises(InvalidAnnotation, match="the annotation is larger than"):
        catalog.store_annotation(io.BytesIO(bytes(2000)), organization_id="neuro", settings=small)
    with pytest.raises(InvalidAnnotation, match="the NML is larger than"):
        catalog.store_annotation(io.BytesIO(NML), organization_id="neuro", settings=small)
    assert _files(stock) == []


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 201])
def test_a_name_is_one_line(stock, name):
    with pytest.raises(InvalidParams, match="is no name; give one line of at most 200 characters"):
        _add(stock, NML, name=name)
