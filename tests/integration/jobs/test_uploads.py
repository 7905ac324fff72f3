"""Jobs that read what somebody has uploaded."""

import pytest

from voxelworks import catalog, jobs
from voxelworks.errors import InvalidInput, SourceNotFound
from voxelworks.protocol.messages import SealedResult
from voxelworks.protocol.uploads import NewFile, NewUpload

NEW = NewUpload(files=(NewFile(path="raw/s1.tif", size_bytes=0),))


@pytest.fixture
def upload(queue):
    """An upload of one empty file, complete without a piece."""
    begun = queue.call(catalog.begin_upload, NEW, by=queue.principal("ada"))
    return catalog.finish_upload(
        queue.database, begun.id, by=queue.principal("ada"), places=queue.places, settings=queue.settings
    )


def _convert(queue, source, target="made", by="ada"):
    params = {"layers": [{"source": source}], "target": target, "voxel_size": "4,4,40"}
    return queue.submit(by=queue.principal(by), workflow="convert", params=params)


def _in_use(queue):
    return queue.call(jobs.uploads_in_use)


def _removal_ms(queue, upload):
    return queue.call(catalog.find_upload, upload.id, by=queue.principal("ada")).removal_ms


def test_members_convert_what_a_colleague_has_sent_and_others_do_not(queue, upload):
    assert _convert(queue, upload.ref).state == "queued"
    assert _convert(queue, f"{upload.ref}/raw", "other", by="ben").state == "queued"
    for source in (upload.ref, f"upload:local/{upload.id}"):
        with pytest.raises(SourceNotFound, match="there is no upload"):
            _convert(queue, source, by="cleo")


@pytest.mark.parametrize("relative", ["..", "../../cortex", "raw/../.."])
def test_a_source_in_an_upload_does_not_lead_out_of_it(queue, upload, relative):
    with pytest.raises(InvalidInput, match="leaves its root"):
        _convert(queue, f"{upload.ref}/{relative}")


def test_a_price_is_asked_for_before_everything_is_sent_but_no_job_is_taken(queue):
    begun = queue.call(
        catalog.begin_upload,
        NewUpload(files=(NewFile(path="a.tif", size_bytes=9),)),
        by=queue.principal("ada"),
    )
    params = {"layers": [{"source": begun.ref}], "target": "made", "voxel_size": "4,4,40"}
    asked = {"by": queue.principal("ada"), "workflow": "convert", "params": params}
    assert queue.call(jobs.quote, **asked) is None
    with pytest.raises(InvalidInput, match="is not complete"):
        queue.submit(**asked)


def test_a_worker_is_told_the_place_and_the_upload_stays_until_the_job_has_ended(queue, upload):
    job = _convert(queue, upload.ref)
    assert _in_use(queue) == {upload.id}
    claim = queue.claim_and_start(queue.open_worker())
    assert claim.places[upload.ref] == f"upload:local/{upload.id}"

    before_ms = _removal_ms(queue, upload)
    result = SealedResult(
        kind="dataset", place="data:local/made", value={}, manifest_sha256="0" * 64, size_bytes=9
    )
    queue.seal(claim, result)
    queue.succeed(claim, result)
    assert _in_use(queue) == {upload.id}
    queue.publish(claim)
    assert queue.show(job.id).job.publication == "published"
    assert _in_use(queue) == frozenset()
    assert before_ms - _removal_ms(queue, upload) == pytest.approx(6 * 86_400_000, abs=60_000)


def test_a_job_whose_upload_was_removed_meanwhile_is_not_given_away(queue, upload):
    job = _convert(queue, upload.ref)
    queue.call(catalog.abandon_upload, upload.id, by=queue.principal("ada"))
    assert queue.call(jobs.claim, queue.open_worker()) is None
    ended = queue.show(job.id).job
    assert (ended.state, ended.failure_class) == ("failed", "user_input")
    assert "its input cannot be used any more: there is no upload" in ended.message
