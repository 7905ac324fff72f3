import pytest

from voxelworks import catalog
from voxelworks.errors import DatasetNotFound, TargetExists
from voxelworks.protocol.views import DatasetSummary

SMALL = DatasetSummary(voxel_size="4,4,40", layers=())
LARGE = DatasetSummary(voxel_size="8,8,40", layers=())


def _register(database, **given):
    with database.session() as session:
        return catalog.register(session, **given)


def test_a_dataset_is_found_by_name_and_by_id(database):
    made = _register(database, name="cortex", place="data:cortex", summary=SMALL, made_by_job="j1")
    with database.read_session() as session:
        assert catalog.find(session, "cortex") == made
        assert catalog.find(session, made.id) == made
        assert catalog.find_by_place(session, "data:cortex") == made


def test_a_dataset_that_is_not_there_is_named(database):
    with database.read_session() as session:
        with pytest.raises(DatasetNotFound) as refused:
            catalog.find(session, "cortex")
        assert catalog.find_by_place(session, "data:cortex") is None
    assert (
        str(refused.value)
        == "there is no dataset 'cortex' on this server; see the list of datasets for the names"
    )


def test_datasets_are_listed_by_name(database):
    made = {
        name: _register(database, name=name, place=f"data:{name}", summary=SMALL) for name in ("b", "a", "c")
    }
    with database.read_session() as session:
        assert catalog.list_datasets(session) == (made["a"], made["b"], made["c"])


def test_registering_a_place_again_renews_its_summary(database):
    made = _register(database, name="cortex", place="data:cortex", summary=SMALL, made_by_job="j1")
    renewed = _register(database, name="cortex", place="data:cortex", summary=LARGE)
    assert renewed == made.model_copy(update={"summary": LARGE, "updated_ms": renewed.updated_ms})


def test_a_name_is_given_once(database):
    _register(database, name="cortex", place="data:cortex", summary=SMALL)
    with pytest.raises(TargetExists) as refused:
        _register(database, name="cortex", place="data:other", summary=SMALL)
    assert str(refused.value) == "there is already a dataset 'cortex'; choose another name"
