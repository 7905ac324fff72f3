"""Jobs that read an annotation: whose it is, whether it is there, and where workers find it."""

import io
from pathlib import Path

import pytest

from voxelworks import catalog, jobs
from voxelworks.db import SecretBox
from voxelworks.errors import AnnotationNotFound, InvalidInput, QuotaExceeded, UnsafeReference
from voxelworks.protocol.places import Places
from voxelworks.testing.queues import DEMO
from voxelworks.worker.confinement import confine
from voxelworks.workflows import get_workflow

NML = b"<things><volume id='0' name='Volume' fallbackLayer='segmentation'/></things>"


@pytest.fixture
def annotation(queue):
    by = queue.principal("ada")
    stored = catalog.store_annotation(
        io.BytesIO(NML), organization_id=by.organization_id, settings=queue.settings
    )
    return queue.call(catalog.add_annotation_file, stored, by=by, name="soma", settings=queue.settings)


def _submit(queue, annotation_id, by="ada", target="corrected", **options):
    params = {"dataset": "demo", "annotation": annotation_id, "target": target}
    workflow = "materialize_volume_annotation"
    return queue.submit(by=queue.principal(by), workflow=workflow, params=params, **options)


def test_a_colleague_may_use_an_annotation_and_others_do_not_find_it(queue, annotation):
    assert _submit(queue, annotation.id, by="ben").state == "queued"
    queue.call(
        catalog.register, organization_id="other", user_id="eve", name="demo", place="data:other/demo", summary=DEMO
    )  # fmt: skip
    with pytest.raises(AnnotationNotFound, match="there is no annotation"):
        _submit(queue, annotation.id, by="eve")
    with pytest.raises(AnnotationNotFound, match="there is no annotation '0123'"):
        _submit(queue, "0123")
    for path in ("../x.zip", "/etc/passwd", "annotation:local/0123456789abcdef.nml"):
        with pytest.raises(AnnotationNotFound):
            _submit(queue, path)


def test_an_annotation_beside_a_layer_is_looked_up_like_any_other(queue, annotation):
    params = {"layer": "demo/segmentation", "truth_annotation": annotation.id}
    job = queue.submit(workflow="evaluate_segmentation", params=params)
    claim = queue.claim(queue.open_worker(evaluate_segmentation=1))
    assert (claim.job_id, claim.places[annotation.id]) == (job.id, f"annotation:local/{annotation.id}.nml")
    queue.call(
        catalog.register, organization_id="other", user_id="eve", name="demo", place="data:other/demo", summary=DEMO
    )  # fmt: skip
    with pytest.raises(AnnotationNotFound, match="there is no annotation"):
        queue.submit(by=queue.principal("eve"), workflow="evaluate_segmentation", params=params)


def test_workers_find_the_file_beside_the_datasets_and_isolated_jobs_may_read_it(queue, annotation):
    job = _submit(queue, annotation.id)
    claim = queue.claim(queue.open_worker(materialize_volume_annotation=1))
    assert (claim.job_id, sorted(claim.places)) == (job.id, sorted([annotation.id, "corrected", "demo"]))
    # Another machine has the folder of datasets alone.
    elsewhere = Places(queue.settings.datasets_dir)
    place = claim.places[annotation.id]
    assert place == f"annotation:local/{annotation.id}.nml"
    assert Path(elsewhere.locate(place)).read_bytes() == NML
    confinement = confine(
        claim.places.values(), None, None, places=queue.places, settings=queue.settings, has_own_processes=True,
        shared_memory_bytes=0,
    )  # fmt: skip
    assert queue.places.locate(place) in confinement.readable
    assert not any(path.endswith((".annotations", ".annotations/local")) for path in confinement.readable), (
        "nothing beside it"
    )


def test_an_annotation_that_went_meanwhile_fails_the_job_before_it_runs(queue, annotation):
    job = _submit(queue, annotation.id)
    by = queue.principal("ada")
    queue.call(catalog.trash_annotation, annotation.id, by=by, settings=queue.settings)
    assert queue.call(jobs.claim, queue.open_worker(materialize_volume_annotation=1)) is None
    failed = queue.show(job.id).job
    assert (failed.state, failed.failure_class) == ("failed", "user_input")
    assert "'soma' is in the trash; restore it first" in failed.message
    with pytest.raises(AnnotationNotFound, match="'soma' is in the trash; restore it first"):
        _submit(queue, annotation.id, target="again")


def test_an_annotation_that_is_still_on_its_way_is_refused(queue):
    box = SecretBox(queue.settings.secret_key_file)
    address = "https://wk.example.org/annotations/0123456789abcdef01234567"
    settings = queue.settings.model_copy(update={"remote_hosts": frozenset({"wk.example.org"})})
    made = queue.call(
        catalog.add_far_annotation, box, by=queue.principal("ada"), name="theirs", address=address,
        places=Places.of(settings),
    )  # fmt: skip
    with pytest.raises(InvalidInput, match="'theirs' is being fetched; wait until it is here"):
        _submit(queue, made.id)


def test_nobody_names_the_file_of_an_annotation_as_a_source(queue, annotation):
    with pytest.raises(UnsafeReference, match="is not a source"):
        queue.submit(
            by=queue.principal("ada"), workflow="convert",
            params={
                "layers": [{"source": f"annotation:local/{annotation.id}.nml"}], "target": "x", "voxel_size": "1,1,1"
            },
        )  # fmt: skip


def test_a_saved_form_keeps_no_annotation():
    workflow = get_workflow("materialize_volume_annotation")
    params = {"dataset": "demo", "annotation": "0123", "target": "x", "merge_segments": True}
    assert workflow.without_data(params) == {"merge_segments": "true"}


def test_a_result_that_the_organization_has_no_room_for_is_refused(queue, annotation):
    settings = queue.settings.model_copy(update={"storage_bytes_max": 1000})
    with pytest.raises(QuotaExceeded, match="are needed"):
        _submit(queue, annotation.id, settings=settings)
