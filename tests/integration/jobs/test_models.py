"""Models are made, named, shared and deleted: what jobs and organizations see of them."""

from pathlib import Path

import pytest
from sqlalchemy import update

from model_work import installed
from small_networks import small_facts, small_network
from voxelworks import catalog, jobs
from voxelworks.ai.package import write_package
from voxelworks.catalog._tables import ModelVersionRow
from voxelworks.errors import (
    InvalidInput,
    InvalidParams,
    ModelNotFound,
    NotAllowed,
    NotFound,
    TargetExists,
    UnsafeReference,
)
from voxelworks.protocol.messages import SealedResult
from voxelworks.settings import Settings
from voxelworks.testing.queues import at_once

FACTS = small_facts()


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """Let workflows that take models be installed, and no models but those that a test adds."""
    monkeypatch.setattr(Settings, "model_roots", property(lambda settings: (settings.models_dir,)))
    with installed():
        yield


def bring_in(queue, name="mito", **options):
    params = {"source": "root:scope/raw", "target": name}
    return queue.submit(workflow="import_model", params=params, **options)


def take(queue, model, target="other", **options):
    return queue.submit(workflow="take_model", params={"model": model, "target": target}, **options)


def made(claim):
    place = next(place for place in claim.places.values() if place.startswith("model:"))
    return SealedResult(kind="model", place=place, value={"model": "mito"}, size_bytes=1000)


def make(queue, name="mito", by="ada", facts=FACTS):
    """Let a worker make a version of a model; give its place."""
    bring_in(queue, name, by=queue.principal(by))
    claim = queue.claim_and_start(queue.open_worker())
    result = made(claim)
    write_package(Path(queue.places.locate(result.place)), facts, small_network())
    assert queue.succeed(claim, result).publish
    queue.publish(claim)
    return result.place


def models(queue, by="ada"):
    with queue.database.read_session() as session:
        return catalog.list_models(session, by=queue.principal(by), places=queue.places)


def find(queue, ref, by="ada"):
    with queue.database.read_session() as session:
        return catalog.find_model(session, ref, by=queue.principal(by), places=queue.places)


def test_versions_are_numbered_and_published_ones_are_listed(queue):
    assert make(queue) == "model:local/mito/1"
    assert make(queue, facts=small_facts(title="Better")) == "model:local/mito/2"
    [model] = models(queue)
    assert [(item.number, item.facts.title) for item in model.versions] == [
        (2, "Better"),
        (1, "Small mitochondria"),
    ]
    assert (model.name, model.organization_id, model.user_id) == ("mito", "local", "ada")
    assert models(queue, "cleo") == ()
    with queue.database.read_session() as session:
        assert catalog.storage_usage(session, "local", settings=queue.settings).used_bytes == 2000


def test_a_version_whose_facts_are_wrong_hides_no_other(queue, caplog):
    make(queue), make(queue), make(queue, "other")
    wrong = {**FACTS.model_dump(mode="json"), "border": [9, 9, 9]}
    with queue.database.session() as session:
        session.execute(update(ModelVersionRow).where(ModelVersionRow.number == 2).values(facts=wrong))
    assert [(model.name, model.latest.number) for model in models(queue)] == [("mito", 1), ("other", 1)]
    assert "a model is left out: the facts of mito@2 are wrong: " in caplog.text
    with queue.database.session() as session:
        session.execute(update(ModelVersionRow).values(facts=wrong))
    assert models(queue) == ()
    with pytest.raises(ModelNotFound):
        find(queue, "mito")


def test_jobs_that_are_submitted_together_make_different_versions(queue):
    first, second = bring_in(queue), bring_in(queue)
    claims = [queue.claim_and_start(queue.open_worker(name)) for name in ("a", "b")]
    assert [made(claim).place for claim in claims] == ["model:local/mito/1", "model:local/mito/2"]
    queue.cancel(first.id), queue.cancel(second.id)
    answers = at_once([lambda: bring_in(queue), lambda: bring_in(queue), lambda: bring_in(queue)])
    views = [answer for answer in answers if not isinstance(answer, Exception)]
    assert views
    assert all(isinstance(answer, TargetExists) for answer in answers if answer not in views)


def test_a_job_keeps_the_version_that_it_was_submitted_with(queue):
    make(queue)
    job = take(queue, "mito")
    make(queue)
    claim = queue.claim_and_start(queue.open_worker())
    assert claim.job_id == job.id
    assert claim.params == {"model": "mito@1", "target": "other"}
    assert claim.places == {"mito@1": "model:local/mito/1", "other": "model:local/other/1"}
    assert take(queue, "mito@2", "third").params["model"] == "mito@2"
    for wrong, error, reason in (
        ("mito@9", ModelNotFound, "has no version 9; it has 2, 1"),
        ("nothing", ModelNotFound, "no model 'nothing'"),
        ("../mito", UnsafeReference, "is a path or address"),
        ("https://example.org/m.zip", UnsafeReference, "give the name of the model"),
    ):
        with pytest.raises(error, match=reason):
            take(queue, wrong)


def test_a_model_of_another_task_is_refused(queue):
    make(queue, facts=small_facts(task="semantic", outputs=("foreground", "edge")))
    params = {"layer": "demo/segmentation", "model": "mito", "target": "made"}
    with pytest.raises(InvalidInput, match="model 'mito' gives semantic, and instances are needed"):
        queue.submit(workflow="segment_with_model", params=params)


def test_models_are_shared_by_id_and_no_further(queue):
    make(queue)
    [model] = models(queue)
    with pytest.raises(ModelNotFound):
        take(queue, model.id, by=queue.principal("cleo"))
    for nobody in ("nobody", "No\0body"):
        with pytest.raises(NotFound, match="there is no organization"):
            queue.call(catalog.share_model, model.id, [nobody], by=queue.principal("ada"))
    queue.call(catalog.share_model, model.id, ["other", "local"], by=queue.principal("ada"))
    assert find(queue, model.id).shared_with == ("other",)
    [seen] = models(queue, "cleo")
    assert (seen.id, seen.organization_id, seen.shared_with) == (model.id, "local", ())
    with pytest.raises(ModelNotFound):
        take(queue, "mito", by=queue.principal("cleo"))
    job = take(queue, model.id, by=queue.principal("cleo"))
    assert job.params["model"] == f"{model.id}@1"
    for call in (catalog.change_model, catalog.delete_model):
        with pytest.raises(ModelNotFound):
            queue.call(call, model.id, by=queue.principal("cleo"))
    # What is shared no longer when the job is given away is not read.
    queue.call(catalog.share_model, model.id, [], by=queue.principal("ada"))
    assert queue.call(jobs.claim, queue.open_worker()) is None
    assert queue.show(job.id).job.code == "model-not-found"


def test_installed_models_are_named_by_everybody(queue):
    folder = queue.settings.models_dir / "shipped"
    write_package(folder, FACTS, small_network())
    for by in ("ada", "cleo"):
        [model] = models(queue, by)
        assert (model.name, model.is_installed, model.latest.place) == ("shipped", True, "installed:shipped")
        assert find(queue, model.id, by) == model
    take(queue, "shipped", by=queue.principal("cleo"))
    claim = queue.claim_and_start(queue.open_worker())
    assert claim.params["model"] == "shipped"
    assert queue.places.locate(claim.places["shipped"]) == str(folder)
    with pytest.raises(ModelNotFound):
        queue.call(catalog.change_model, models(queue)[0].id, by=queue.principal("ada"), name="mine")
    make(queue, "shipped")
    assert find(queue, "shipped").organization_id == "local"


def test_renaming_keeps_files_and_numbers(queue):
    make(queue)
    [model] = models(queue)
    renamed = queue.call(
        catalog.change_model, model.id, by=queue.principal("ada"), name="mitos", comment=" good "
    )
    assert (renamed.name, renamed.comment, renamed.latest.place) == ("mitos", "good", "model:local/mito/1")
    assert make(queue, "mitos") == "model:local/mito/2"
    with pytest.raises(TargetExists, match="the files of 'mitos' lie under it"):
        bring_in(queue, "mito")
    make(queue, "third")
    for comment in ("x" * 2001, "a\0b"):
        with pytest.raises(InvalidParams, match="the comment"):
            queue.call(catalog.change_model, model.id, by=queue.principal("ada"), comment=comment)
    for name, error in (("third", TargetExists), ("a/b", InvalidParams)):
        with pytest.raises(error):
            queue.call(catalog.change_model, model.id, by=queue.principal("ada"), name=name)
    assert queue.call(catalog.change_model, model.id, by=queue.principal("ada"), name="mito").name == "mito"


def test_deleted_versions_go_with_their_files_and_their_numbers_stay_taken(queue):
    make(queue), make(queue)
    [model] = models(queue)
    ada = queue.principal("ada")
    job = take(queue, "mito@1")
    assert queue.call(jobs.is_model_in_use, model)
    assert queue.call(jobs.is_model_in_use, model, number=1)
    assert not queue.call(jobs.is_model_in_use, model, number=2)
    queue.cancel(job.id)
    assert not queue.call(jobs.is_model_in_use, model)
    queue.call(catalog.delete_model, model.id, by=ada, number=2)
    assert [item.number for item in find(queue, "mito").versions] == [1]
    assert catalog.purge_models(queue.database, places=queue.places) == 1
    home = queue.settings.datasets_dir / "local" / ".models" / "mito"
    assert {path.name for path in home.iterdir()} == {"1"}
    assert make(queue) == "model:local/mito/3"
    queue.call(catalog.delete_model, model.id, by=ada)
    with pytest.raises(ModelNotFound):
        find(queue, model.id)
    with pytest.raises(ModelNotFound):
        queue.call(catalog.delete_model, model.id, by=ada)
    assert catalog.purge_models(queue.database, places=queue.places) == 2
    assert models(queue) == ()
    assert not home.exists()
    shown = [item.id for item in queue.list_jobs(workflow="take_model").jobs]
    assert (shown, queue.show(job.id).job.params["model"]) == ([job.id], "mito@1")
    assert make(queue) == "model:local/mito/1"


def test_a_model_that_a_job_makes_is_in_use_by_it(queue):
    make(queue)
    [model] = models(queue)
    bring_in(queue)
    assert queue.call(jobs.is_model_in_use, model)
    assert not queue.call(jobs.is_model_in_use, model, number=1)
    listed = queue.call(
        jobs.jobs_of_model, model, by=queue.principal("ada"), settings=queue.settings, limit=9
    )
    assert len(listed) == 2


def test_a_worker_cannot_leave_a_model_elsewhere(queue):
    make(queue)
    take(queue, "mito")
    claim = queue.claim_and_start(queue.open_worker())
    for changed in (
        {"place": "model:local/mito/7"}, {"place": "model:local/mito/1"}, {"kind": "dataset"},
        {"place": "data:local/demo"},
    ):  # fmt: skip
        result = made(claim).model_copy(update={"place": "model:local/other/1", **changed})
        with pytest.raises(NotAllowed):
            queue.seal(claim, result)


def test_a_model_that_cannot_be_read_is_said_to_be_so(queue):
    job = bring_in(queue)
    claim = queue.claim_and_start(queue.open_worker())
    queue.succeed(claim, made(claim))
    queue.publish(claim)
    assert "cannot read what the model is" in queue.show(job.id).events[-1].why
    assert models(queue) == ()
    with queue.database.read_session() as session:
        kinds = {
            "by": queue.operator,
            "places": queue.places,
            "settings": queue.settings,
            "work_keys_in_use": (),
        }
        (queue.settings.datasets_dir / "local" / ".models" / "mito" / "1").mkdir(parents=True)
        left = catalog.leftovers(session, **kinds)
    assert [item.name for item in left] == ["local/.models/mito/1"]
    # What lies there is not written over: it may be what a restored backup does not know.
    bring_in(queue)
    assert queue.claim_and_start(queue.open_worker()).places["mito"] == "model:local/mito/2"
