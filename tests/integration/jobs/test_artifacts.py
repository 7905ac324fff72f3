"""Files that jobs leave: what a worker may say of them, and what becomes of them if it dies."""

import pytest

from voxelworks import catalog, jobs
from voxelworks.errors import NotAllowed, NotFound, QuotaExceeded
from voxelworks.protocol.messages import ArtifactFile, SealedResult

FILE = ArtifactFile(name="cells.zip", media_type="application/zip", size_bytes=5, sha256="ab" * 32)


def _export(queue, **options):
    params = {"layer": "demo/segmentation", "box": "0,0,0,10,10,10"}
    return queue.submit(workflow="export_tiff", params=params, **options)


def _result(claim, **changed):
    sealed = SealedResult(
        kind="artifact", place=claim.places["artifact:"], value={"file": FILE.name}, size_bytes=5, file=FILE
    )
    return sealed.model_copy(update=changed)


def _find(queue, job_id, by="ada", **settings):
    chosen = queue.settings.model_copy(update=settings)
    with queue.database.read_session() as session:
        return jobs.find_artifact(session, job_id, by=queue.principal(by), settings=chosen)


def test_a_file_is_there_when_it_is_published_and_for_its_term(queue):
    job = _export(queue)
    claim = queue.claim_and_start(queue.open_worker())
    assert claim.places["artifact:"] == f"artifact:local/{job.id}"
    assert queue.succeed(claim, _result(claim)).publish
    with pytest.raises(NotFound):
        _find(queue, job.id)
    queue.publish(claim)
    queue.publish(claim)
    found = _find(queue, job.id)
    assert (found.name, found.size_bytes, found.sha256) == ("cells.zip", 5, FILE.sha256)
    assert queue.show(job.id).artifact == found
    with pytest.raises(NotFound):
        _find(queue, job.id, artifact_term_days=1e-9)
    with queue.database.read_session() as session:
        used = catalog.storage_usage(session, "local", settings=queue.settings).used_bytes
    assert used == 5
    with pytest.raises(NotFound, match="no file"):
        queue.call(jobs.find_artifact, job.id, by=queue.operator.__class__(
            user_id="local", organization_id="other", role="owner", name="Op", is_operator=True,
        ))  # fmt: skip


def test_a_file_whose_worker_died_is_published_by_another(queue):
    job = _export(queue)
    first = queue.open_worker("first")
    claim = queue.claim_and_start(first)
    assert queue.succeed(claim, _result(claim)).publish
    queue.advance(queue.settings.lease_s + 1)
    other = queue.open_worker("other")
    order = queue.call(jobs.take_publish_order, other)
    assert (order.job_id, order.result) == (job.id, _result(claim))


@pytest.mark.parametrize(
    "changed",
    [
        {"place": "artifact:local/0123456789abcdef"}, {"file": None}, {"kind": "dataset"},
        {"file": FILE.model_copy(update={"name": "../cells.zip"})},
        {"place": "data:local/demo"},
    ],
)  # fmt: skip
def test_a_worker_cannot_leave_a_file_elsewhere(queue, changed):
    _export(queue)
    claim = queue.claim_and_start(queue.open_worker())
    with pytest.raises(NotAllowed):
        queue.seal(claim, _result(claim, **changed))


def test_a_file_that_was_deleted_is_gone_at_once(queue):
    job = _export(queue)
    claim = queue.claim_and_start(queue.open_worker())
    queue.succeed(claim, _result(claim))
    queue.publish(claim)
    with pytest.raises(NotFound):
        queue.call(jobs.delete_artifact, job.id, by=queue.principal("ben"))
    queue.call(jobs.delete_artifact, job.id, by=queue.principal("ada"))
    with pytest.raises(NotFound):
        _find(queue, job.id)
    assert queue.show(job.id).events[-1].why == "the file was deleted"


def test_an_export_for_which_there_is_no_room_is_refused_at_submission(queue):
    small = queue.settings.model_copy(update={"storage_bytes_max": 100})
    with pytest.raises(QuotaExceeded, match=r"3\.91 KiB are needed"):
        _export(queue, settings=small)
    limited = queue.settings.model_copy(update={"artifact_bytes_max": 100})
    with pytest.raises(QuotaExceeded, match="files of at most 100 B are made here"):
        _export(queue, settings=limited)
