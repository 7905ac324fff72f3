import pytest

from voxelworks import catalog
from voxelworks.errors import (
    DatasetNotFound,
    InvalidParams,
    NotAllowed,
    TargetExists,
    TargetNotWritable,
    UnsafeReference,
)
from voxelworks.protocol.views import DatasetSummary
from voxelworks.testing.queues import at_once

from .catalog_stock import ADA, BOB, SMALL

LARGE = DatasetSummary(voxel_size="8,8,40", layers=())


def test_a_dataset_is_found_by_name_and_by_id_in_its_organization(stock):
    made = stock.register(made_by_job="j1")
    assert stock.look(catalog.find, "cortex", by=ADA) == made
    assert stock.look(catalog.find, made.id, by=ADA) == made
    assert stock.look(catalog.find_by_place, "data:neuro/cortex") == made
    assert made.model_dump(exclude={"id", "created_ms", "updated_ms", "summary"}) == {
        "name": "cortex", "place": "data:neuro/cortex", "made_by_job": "j1", "organization_id": "neuro",
        "user_id": "ada", "is_public": False, "is_linked": False, "size_bytes": 1000, "trashed_ms": None,
        "purge_ms": None,
    }  # fmt: skip


def test_what_others_keep_to_themselves_is_as_if_it_were_not_there(stock):
    made = stock.register()
    for ref in ("cortex", made.id, "nothing"):
        with pytest.raises(DatasetNotFound) as refused:
            stock.look(catalog.find, ref, by=BOB)
        assert str(refused.value) == f"there is no dataset {ref!r}; see the list of datasets for the names"
    assert stock.look(catalog.list_datasets, by=BOB, include_public=True, include_trashed=True) == ()
    for change in (
        lambda: stock.call(catalog.set_public, made.id, True, by=BOB),
        lambda: stock.call(catalog.rename_dataset, made.id, "mine", by=BOB),
        lambda: stock.call(catalog.trash, made.id, by=BOB, settings=stock.settings),
        lambda: stock.call(catalog.restore, made.id, by=BOB),
        lambda: stock.call(catalog.delete_now, made.id, by=BOB),
    ):
        with pytest.raises(DatasetNotFound):
            change()


def test_a_public_dataset_is_found_by_its_id_and_can_only_be_read(stock):
    made = stock.register()
    public = stock.call(catalog.set_public, made.id, True, by=ADA)
    assert stock.look(catalog.find, made.id, by=BOB) == public
    with pytest.raises(DatasetNotFound):
        stock.look(catalog.find, "cortex", by=BOB)
    with pytest.raises(NotAllowed, match="belongs to another organization"):
        catalog.require_changeable(public, by=BOB)
    catalog.require_changeable(public, by=ADA)
    stock.call(catalog.set_public, made.id, False, by=ADA)
    with pytest.raises(DatasetNotFound):
        stock.look(catalog.find, made.id, by=BOB)


def test_own_datasets_are_listed_by_name_and_public_ones_of_others_after_them(stock):
    theirs = [stock.register(name, by=BOB) for name in ("z", "a")]
    theirs = [stock.call(catalog.set_public, item.id, True, by=BOB) for item in theirs]
    stock.register("hidden", by=BOB)
    own = {name: stock.register(name) for name in ("b", "a", "c")}
    assert stock.look(catalog.list_datasets, by=ADA) == (own["a"], own["b"], own["c"])
    listed = stock.look(catalog.list_datasets, by=ADA, include_public=True)
    assert listed == (own["a"], own["b"], own["c"], theirs[1], theirs[0])


def test_registering_a_place_again_renews_its_summary_and_adds_to_its_size(stock):
    made = stock.register(made_by_job="j1")
    renewed = stock.register(summary=LARGE, size_bytes=234)
    assert renewed == made.model_copy(
        update={"summary": LARGE, "updated_ms": renewed.updated_ms, "size_bytes": 1234}
    )


def test_a_published_dataset_whose_name_was_taken_meanwhile_gets_a_number(stock):
    first = stock.register("cortex")
    stock.call(catalog.rename_dataset, first.id, "brain", by=ADA)
    assert stock.register("brain").name == "brain-2"
    long = "x" * 128
    stock.call(catalog.rename_dataset, first.id, long, by=ADA)
    assert stock.register(long).name == "x" * 126 + "-2"


def test_two_organizations_may_use_the_same_name(stock):
    assert stock.register("cortex").name == stock.register("cortex", by=BOB).name == "cortex"


def test_registering_the_same_place_at_once_makes_one_dataset(stock):
    made = at_once([lambda: stock.register(size_bytes=10) for _ in range(8)])
    assert {item.id for item in made} == {made[0].id}
    assert stock.look(catalog.find, "cortex", by=ADA).size_bytes == 80


def test_registering_one_name_for_several_places_at_once_gives_each_a_name(stock):
    def register(number):
        return stock.call(
            catalog.register, organization_id="neuro", user_id="ada", name="cortex", place=f"data:neuro/p{number}",
            summary=SMALL,
        )  # fmt: skip

    made = at_once([lambda number=number: register(number) for number in range(6)])
    assert sorted(item.name for item in made) == ["cortex", *(f"cortex-{number}" for number in range(2, 7))]


def test_a_dataset_is_renamed_and_its_files_stay(stock):
    made = stock.register()
    stock.register("other")
    renamed = stock.call(catalog.rename_dataset, made.id, "brain", by=ADA)
    assert (renamed.name, renamed.place) == ("brain", "data:neuro/cortex")
    assert stock.call(catalog.rename_dataset, made.id, "brain", by=ADA) == renamed
    with pytest.raises(TargetExists, match="already a dataset 'other'"):
        stock.call(catalog.rename_dataset, made.id, "other", by=ADA)
    for name in ("", "../x", "a/b", "x.lock", "-a"):
        with pytest.raises(InvalidParams, match="is not a dataset name"):
            stock.call(catalog.rename_dataset, made.id, name, by=ADA)
    assert stock.look(catalog.find, "brain", by=ADA) == renamed


def test_why_a_name_is_taken(stock):
    def why(name):
        return stock.look(catalog.why_taken, "neuro", name, stock.places)

    made = stock.register()
    (stock.settings.datasets_dir / "neuro" / "by-hand").mkdir()
    assert (why("cortex"), why("free"), why("by-hand")) == (
        "it exists", None, "a folder of this name is there",
    )  # fmt: skip
    stock.call(catalog.rename_dataset, made.id, "brain", by=ADA)
    assert why("cortex") == "the files of 'brain' lie under it"
    stock.call(catalog.trash, made.id, by=ADA, settings=stock.settings)
    assert why("brain") == "it is in the trash"
    assert stock.look(catalog.why_taken, "other", "cortex", stock.places) is None


def test_a_job_may_read_what_its_organization_may(stock):
    def require(place, organization_id):
        stock.look(catalog.require_readable, place, organization_id=organization_id, places=stock.places)

    made = stock.register()
    for place in ("data:neuro/cortex", "data:neuro/to-be-made", "root:private/run1", "root:scope/run1",
                  "https://data.example.org/a"):  # fmt: skip
        require(place, "neuro")
    for place in ("data:neuro/cortex", "data:neuro/to-be-made"):
        with pytest.raises(DatasetNotFound):
            require(place, "other")
    with pytest.raises(UnsafeReference):
        require("root:private/run1", "other")
    with pytest.raises(UnsafeReference):
        require("https://elsewhere.example.org/a", "neuro")
    stock.call(catalog.set_public, made.id, True, by=ADA)
    require("data:neuro/cortex", "other")
    stock.call(catalog.trash, made.id, by=ADA, settings=stock.settings)
    with pytest.raises(DatasetNotFound, match="is in the trash"):
        require("data:neuro/cortex", "neuro")
    with pytest.raises(DatasetNotFound, match="there is no dataset"):
        require("data:neuro/cortex", "other")


def _link(stock, by=ADA, name="linked", place="root:scope/run1"):
    return stock.call(catalog.link_dataset, by=by, name=name, place=place, summary=SMALL, places=stock.places)


def test_pictures_are_no_dataset_to_link(stock):
    with pytest.raises(UnsafeReference, match="link what lies below an import root"):
        _link(stock, place="previews:neuro/cortex")


def test_a_dataset_is_linked_in_place_and_can_only_be_read(stock):
    linked = _link(stock, place="root:scope//run1/")
    assert (linked.place, linked.is_linked, linked.size_bytes, linked.user_id) == (
        "root:scope/run1", True, 0, "ada",
    )  # fmt: skip
    assert stock.look(catalog.find, "linked", by=ADA) == linked
    assert stock.look(catalog.find_by_place, "root:scope/run1") is None
    with pytest.raises(TargetNotWritable, match="is linked from root:scope/run1 and can only be read"):
        catalog.require_changeable(linked, by=ADA)


def test_a_place_is_linked_once_by_each_organization(stock):
    _link(stock)
    with pytest.raises(
        TargetExists, match="root:scope/run1 is linked already, as 'linked'; it is in the list"
    ):
        _link(stock, name="again", place="root:scope/./run1")
    assert _link(stock, by=BOB).organization_id == "other"


@pytest.mark.parametrize(
    ("name", "place", "error"),
    [
        ("a/b", "root:scope/run1", InvalidParams),
        ("cortex", "root:scope/run1", TargetExists),
        ("a", "data:other/secret", UnsafeReference),
        ("a", "root:unknown/a", UnsafeReference),
        ("a", "root:scope/../a", UnsafeReference),
        ("a", "/etc", UnsafeReference),
        ("a", "http://169.254.169.254/latest", UnsafeReference),
        ("a", "https://user:secret@data.example.org/a", UnsafeReference),
    ],
)
def test_what_cannot_be_linked_is_refused(stock, name, place, error):
    stock.register()
    with pytest.raises(error):
        _link(stock, name=name, place=place)
    assert [item.name for item in stock.look(catalog.list_datasets, by=ADA)] == ["cortex"]


def test_an_organization_links_only_below_its_own_import_roots(stock):
    assert _link(stock, place="root:private/a").place == "root:private/a"
    with pytest.raises(UnsafeReference, match="no import root 'private'"):
        _link(stock, by=BOB, place="root:private/a")
