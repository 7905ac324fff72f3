"""Params that people keep under a name: whose they are, and what is kept."""

import pytest

from voxelworks import jobs
from voxelworks.errors import InvalidInput, InvalidParams, NotAllowed, NotFound, TargetExists

CONVERT = {
    "layers": [{"source": "root:scope/raw", "layer_name": "em", "category": "color"}],
    "target": "cortex",
    "pyramid": False,
}


def save(queue, who="ada", **options):
    chosen = {"workflow": "downsample", "name": "fine", "params": {"coarsest_mag": "4"}, **options}
    return queue.call(jobs.save_params, by=queue.principal(who), **chosen)


def names(queue, who, **filters):
    return [item.name for item in queue.call(jobs.list_params, by=queue.principal(who), **filters)]


def test_params_are_kept_without_the_data_that_they_were_used_for(queue):
    kept = save(queue, workflow="convert", params=CONVERT)
    assert kept.params == {
        "layers": [{"layer_name": "em", "category": "color"}],
        "pyramid": "false",
    }
    with_data = save(queue, workflow="convert", name="all", params=CONVERT, with_data=True)
    assert with_data.params == CONVERT
    layer = save(queue, params={"layer": "demo/segmentation", "coarsest_mag": "4"})
    assert layer.params == {"coarsest_mag": "4"}
    assert (layer.owner, layer.is_own, layer.is_shared) == ("Ada", True, False)


def test_what_is_kept_can_be_submitted(queue):
    kept = save(queue, workflow="convert", name="all", params=CONVERT, with_data=True)
    job = queue.submit(workflow="convert", params=kept.params)
    assert job.params["pyramid"] is False
    some = save(queue, params={"coarsest_mag": "4"})
    job = queue.submit(workflow="downsample", params={**some.params, "layer": "demo/segmentation"})
    assert job.params["coarsest_mag"] == "4"


def test_own_sets_are_seen_by_oneself_and_shared_ones_by_the_organization(queue):
    save(queue, name="mine")
    save(queue, name="ours", is_shared=True)
    save(queue, name="other", workflow="convert", params={})
    assert names(queue, "ada") == ["other", "mine", "ours"]
    assert names(queue, "ada", workflow="downsample") == ["mine", "ours"]
    assert names(queue, "ben") == ["ours"]
    assert names(queue, "cleo") == [], "of another organization"
    [shared] = queue.call(jobs.list_params, by=queue.principal("ben"))
    assert (shared.is_own, shared.owner) == (False, "Ada")


def test_what_others_keep_cannot_be_found_or_changed(queue):
    mine, ours = save(queue, name="mine"), save(queue, name="ours", is_shared=True)
    for who in ("ben", "cleo"):
        for call, more in (
            (jobs.find_params, {}),
            (jobs.delete_params, {}),
            (jobs.change_params, {"name": "x"}),
        ):
            with pytest.raises(NotFound):
                queue.call(call, mine.id, by=queue.principal(who), **more)
    with pytest.raises(NotFound, match="of somebody else; save a copy"):
        queue.call(jobs.change_params, ours.id, by=queue.principal("ben"), name="x")
    with pytest.raises(NotAllowed):
        queue.call(jobs.delete_params, ours.id, by=queue.principal("ben"))
    assert names(queue, "ada") == ["mine", "ours"]


def test_an_admin_tidies_up_what_others_share(queue):
    shared = save(queue, "ben", is_shared=True)
    queue.call(jobs.delete_params, shared.id, by=queue.principal("ada"))
    assert names(queue, "ben") == []


def test_a_set_is_renamed_shared_filled_anew_and_deleted(queue):
    kept = save(queue)
    by = queue.principal("ada")
    changed = queue.call(
        jobs.change_params, kept.id, by=by, name=" coarse ", is_shared=True, params={"method": "mode"}
    )
    assert (changed.name, changed.is_shared, changed.params) == ("coarse", True, {"method": "mode"})
    assert changed.id == kept.id
    queue.call(jobs.delete_params, kept.id, by=by)
    assert names(queue, "ada") == []


def test_a_name_is_given_once_by_each_person_for_a_workflow(queue):
    save(queue)
    with pytest.raises(TargetExists, match="as 'fine' already; choose another name"):
        save(queue)
    save(queue, "ben")
    save(queue, workflow="convert", params={})
    other = save(queue, name="second")
    with pytest.raises(TargetExists):
        queue.call(jobs.change_params, other.id, by=queue.principal("ada"), name="fine")
    assert names(queue, "ada", workflow="downsample") == ["fine", "second"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"params": {"coarsest_mag": "3"}}, InvalidParams, "must be a power of two"),
        ({"params": {"speed": 3}}, InvalidParams, "speed is not a parameter of this workflow"),
        ({"name": "  "}, InvalidInput, "is no name for parameters"),
        ({"name": "x" * 101}, InvalidInput, "give 1 to 100 characters"),
        ({"name": "a\nb"}, InvalidInput, "is no name"),
        ({"workflow": "nope"}, InvalidInput, "there is no workflow 'nope'"),
        (
            {"workflow": "convert", "params": {"target": "x" * 65536}, "with_data": True},
            InvalidInput,
            "take more than 65536 characters",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused(queue, options, error, message):
    with pytest.raises(error, match=message):
        save(queue, **options)
    assert names(queue, "ada") == []
