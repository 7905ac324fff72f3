import shutil
from dataclasses import replace

import pytest

from voxelworks import jobs
from voxelworks.errors import (
    DatasetNotFound,
    IllegalTransition,
    InvalidInput,
    InvalidParams,
    LayerNotFound,
    NotFound,
    QuotaExceeded,
    SourceNotFound,
    TargetExists,
    UnknownWorkflow,
    UnsafeReference,
)
from voxelworks.protocol.messages import PublishedRequest, SealedResult
from voxelworks.testing.queues import at_once
from voxelworks.workflows import get_workflow

RAW = {"source": "root:scope/raw"}


def _count(queue):
    with queue.database.read_session() as session:
        return sum(jobs.list_jobs(session, by=queue.operator, settings=queue.settings).counts.values())


def test_a_submitted_job_is_queued_with_its_defaults_filled_in(queue):
    job = queue.submit_convert("cortex", priority=3)
    assert job.model_dump(
        include={"owner", "workflow", "version", "state", "priority", "attempt", "params"}
    ) == {
        "owner": "Ada",
        "workflow": "convert",
        "version": 1,
        "state": "queued",
        "priority": 3,
        "attempt": 0,
        "params": {
            "layers": [
                {
                    "source": "root:scope/raw",
                    "layer_name": None,
                    "category": "color",
                    "part": None,
                    "raw_size": None,
                    "raw_dtype": "uint8",
                    "raw_header_bytes": 0,
                    "raw_byte_order": "little",
                    "raw_axes": "xyz",
                }
            ],
            "target": "cortex",
            "voxel_size": None,
            "fill_missing": False,
            "pyramid": True,
            "modality": None,
            "coarsest_mag": None,
        },
    }


def test_the_submission_is_the_first_event(queue):
    job = queue.submit()
    (event,) = queue.show(job.id).events
    assert (event.who, event.from_state, event.to_state, event.why) == (
        "user:ada",
        None,
        "queued",
        "submitted",
    )


def test_references_become_places_that_mean_the_same_everywhere(queue):
    queue.submit_convert("cortex")
    queue.submit()
    worker = queue.open_worker()
    assert queue.claim(worker).places == {"root:scope/raw": "root:scope/raw", "cortex": "data:local/cortex"}
    assert queue.claim(worker).places == {"demo": "data:local/demo"}


@pytest.mark.parametrize(
    ("workflow", "params", "error", "message"),
    [
        ("paint", {}, UnknownWorkflow, "there is no workflow 'paint'"),
        ("convert", {"layers": [RAW]}, InvalidParams, "target is missing"),
        ("convert", {"layers": [RAW], "target": "c", "speed": 9}, InvalidParams, "speed is not a parameter"),
        (
            "convert",
            {"layers": [{"source": "/etc"}], "target": "c"},
            UnsafeReference,
            "'/etc' is not a place",
        ),
        (
            "convert",
            {"layers": [{"source": "data:local/demo"}], "target": "c"},
            UnsafeReference,
            "is not a source",
        ),
        (
            "convert",
            {"layers": [{"source": "root:scope/../x"}], "target": "c"},
            UnsafeReference,
            "leaves its root",
        ),
        (
            "convert",
            {"layers": [{"source": "root:lab/x"}], "target": "c"},
            UnsafeReference,
            "no import root 'lab'",
        ),
        (
            "convert",
            {"layers": [{"source": "root:scope/x"}], "target": "c"},
            SourceNotFound,
            "at 'root:scope/x'",
        ),
        (
            "convert",
            {"layers": [{"source": "http://10.0.0.1/x"}], "target": "c"},
            UnsafeReference,
            "http://10.0.0.1 is not",
        ),
        ("convert", {"layers": [RAW], "target": "/tmp/c"}, UnsafeReference, "'/tmp/c' is a path or address"),
        ("convert", {"layers": [RAW], "target": ".."}, UnsafeReference, "'..' is a path or address"),
        ("convert", {"layers": [RAW], "target": "my set"}, InvalidParams, "'my set' is not a dataset name"),
        (
            "convert",
            {"layers": [RAW], "target": "demo"},
            TargetExists,
            "the name 'demo' is taken (it exists)",
        ),
        ("downsample", {"layer": "cortex/color"}, DatasetNotFound, "there is no dataset 'cortex'"),
        ("downsample", {"layer": "/data/demo/color"}, UnsafeReference, "'/data/demo' is a path or address"),
        ("downsample", {"layer": "demo/color"}, LayerNotFound, "has no layer 'color'; it has segmentation"),
    ],
)
def test_a_job_that_cannot_run_is_refused_by_name(queue, workflow, params, error, message):
    with pytest.raises(error) as refused:
        queue.submit(workflow=workflow, params=params)
    assert type(refused.value) is error
    assert message in str(refused.value)
    assert _count(queue) == 0


def test_a_link_that_leads_out_of_an_import_root_is_refused(queue):
    (queue.settings.home / "scope" / "link").symlink_to("/")
    with pytest.raises(UnsafeReference, match="leads out of its root"):
        queue.submit(
            workflow="convert", params={"layers": [{"source": "root:scope/link/etc"}], "target": "c"}
        )


def test_a_folder_that_nobody_registered_is_not_written_over(queue):
    (queue.settings.datasets_dir / "local" / "cortex").mkdir(parents=True)
    with pytest.raises(TargetExists):
        queue.submit_convert("cortex")


def test_the_name_of_a_dataset_is_reserved_by_the_job_that_makes_it(queue):
    job = queue.submit_convert("cortex")
    with pytest.raises(TargetExists) as refused:
        queue.submit_convert("cortex")
    assert (
        str(refused.value) == f"the name 'cortex' is taken (job {job.id} is making it); choose another name"
    )


def test_a_cancelled_job_frees_the_name(queue):
    queue.cancel(queue.submit_convert("cortex").id)
    assert queue.submit_convert("cortex").state == "queued"


def test_of_jobs_that_ask_for_one_name_at_once_one_gets_it(queue):
    answers = at_once([lambda: queue.submit_convert("cortex") for _ in range(8)])
    refused = [answer for answer in answers if isinstance(answer, Exception)]
    assert {type(error) for error in refused} == {TargetExists}
    assert len(refused) == 7
    assert _count(queue) == 1


def test_the_same_key_gives_the_same_job(queue):
    first = queue.submit_convert("cortex", idempotency_key="k1")
    again = queue.submit_convert("cortex", idempotency_key="k1")
    assert again.id == first.id
    assert _count(queue) == 1


def test_the_same_key_at_once_makes_one_job(queue):
    answers = at_once([lambda: queue.submit(idempotency_key="k1").id for _ in range(8)])
    assert len(set(answers)) == 1
    assert _count(queue) == 1


def test_a_key_belongs_to_its_owner(queue):
    mine = queue.submit(by=queue.principal("ada"), idempotency_key="k1")
    theirs = queue.submit(by=queue.principal("ben"), idempotency_key="k1")
    assert mine.id != theirs.id


def test_a_key_for_other_content_is_refused(queue):
    queue.submit(idempotency_key="k1")
    with pytest.raises(InvalidInput, match="the idempotency key 'k1' was used for another job"):
        queue.submit_convert("cortex", idempotency_key="k1")


def test_a_key_is_free_again_after_a_day(queue):
    first = queue.submit(idempotency_key="k1")
    queue.advance(24 * 3600 + 1)
    assert queue.submit(idempotency_key="k1").id != first.id


def test_a_refused_submission_does_not_use_up_its_key(queue):
    with pytest.raises(TargetExists):
        queue.submit_convert("demo", idempotency_key="k1")
    assert queue.submit_convert("cortex", idempotency_key="k1").state == "queued"


def _limited(queue, bytes_max):
    return queue.settings.model_copy(update={"storage_bytes_max": bytes_max})


def _write_sections(queue, count, size_bytes):
    for z in range(count):
        (queue.settings.home / "scope" / "raw" / f"{z}.tif").write_bytes(bytes(size_bytes))


def test_a_conversion_that_the_organization_has_no_room_for_is_refused(queue):
    _write_sections(queue, 2, 700)
    with pytest.raises(QuotaExceeded) as refused:
        queue.submit_convert("cortex", settings=_limited(queue, 1599))
    assert str(refused.value) == (
        "1.56 KiB are needed, and the organization has 1.56 KiB of 1.56 KiB left; delete datasets and empty the trash, "
        "or ask the operator for more room"
    )
    assert _count(queue) == 0
    assert queue.submit_convert("cortex", settings=_limited(queue, 1600)).state == "queued"
    assert queue.submit_convert("cortex2").state == "queued"  # without a limit


def test_a_file_of_images_counts_for_the_quota_too(queue):
    _write_sections(queue, 1, 700)
    params = {"layers": [{"source": "root:scope/raw/0.tif"}], "target": "cortex"}
    with pytest.raises(QuotaExceeded):
        queue.submit(workflow="convert", params=params, settings=_limited(queue, 799))
    assert queue.submit(workflow="convert", params=params, settings=_limited(queue, 800)).state == "queued"


def test_jpeg_counts_for_what_it_takes_without_loss(queue):
    _write_sections(queue, 2, 100)
    (queue.settings.home / "scope" / "raw" / "1.tif").rename(queue.settings.home / "scope" / "raw" / "1.JPG")
    needed = (100 + 5 * 100) * 8 // 7
    with pytest.raises(QuotaExceeded):
        queue.submit_convert("cortex", settings=_limited(queue, needed - 1))
    assert queue.submit_convert("cortex", settings=_limited(queue, needed)).state == "queued"


def test_the_chunks_of_a_store_count_however_deep_they_lie(queue):
    raw = queue.settings.home / "scope" / "raw"
    shutil.rmtree(raw)
    (raw / "c" / "0").mkdir(parents=True)
    for file in ("zarr.json", "c/0/0", "c/0/1"):
        (raw / file).write_bytes(bytes(700))
    (raw / "c" / "loop").symlink_to("..")
    with pytest.raises(QuotaExceeded):
        queue.submit_convert("cortex", settings=_limited(queue, 2399))
    assert queue.submit_convert("cortex", settings=_limited(queue, 2400)).state == "queued"


def test_a_large_folder_is_measured_by_some_of_its_files(queue, monkeypatch):
    monkeypatch.setattr("voxelworks.jobs._references._LOOKED_AT_MIN", 3)
    _write_sections(queue, 14, 50)
    with pytest.raises(QuotaExceeded):
        queue.submit_convert("cortex", settings=_limited(queue, 799))
    assert queue.submit_convert("cortex", settings=_limited(queue, 800)).state == "queued"


def test_of_a_huge_folder_only_so_much_is_listed(queue, monkeypatch):
    monkeypatch.setattr("voxelworks.jobs._references._LISTED_MAX", 7)
    _write_sections(queue, 14, 50)
    with pytest.raises(QuotaExceeded):
        queue.submit_convert("cortex", settings=_limited(queue, 399))
    assert queue.submit_convert("cortex", settings=_limited(queue, 400)).state == "queued"


def test_a_workflow_that_cannot_measure_its_result_can_be_submitted(queue, monkeypatch, caplog):
    broken = replace(get_workflow("convert"), result_bytes=lambda _params, _inputs: 1 // 0)
    monkeypatch.setattr("voxelworks.jobs._submission.get_workflow", lambda _name: broken)
    assert queue.submit_convert("cortex", settings=_limited(queue, 1)).state == "queued"
    assert "what convert makes cannot be measured" in caplog.text


def test_an_addition_that_the_organization_has_no_room_for_is_refused(queue):
    needed = 64**3 * 4 // 7
    params = {"layer": "demo/segmentation"}
    with pytest.raises(QuotaExceeded):
        queue.submit(workflow="downsample", params=params, settings=_limited(queue, needed - 1))
    assert (
        queue.submit(workflow="downsample", params=params, settings=_limited(queue, needed)).state == "queued"
    )


def _retry(queue, job_id):
    return queue.retry(job_id)


def test_a_retry_is_a_new_job_with_equal_params(queue):
    job = queue.submit_convert("cortex", priority=2)
    queue.cancel(job.id)
    again = _retry(queue, job.id)
    assert (again.params, again.priority, again.state) == (job.params, 2, "queued")
    assert again.retried_from == job.id
    assert queue.show(job.id).retries == (again.id,)
    assert queue.show(job.id).job.state == "cancelled"


def test_only_ended_jobs_without_a_result_can_be_repeated(queue):
    job = queue.submit()
    worker = queue.open_worker()
    with pytest.raises(IllegalTransition, match="is queued; only failed and cancelled jobs can be repeated"):
        _retry(queue, job.id)
    queue.succeed(queue.claim_and_start(worker))
    with pytest.raises(IllegalTransition, match="is succeeded"):
        _retry(queue, job.id)


def test_a_job_whose_result_cannot_be_published_can_be_repeated(queue):
    job = queue.submit_convert("cortex")
    claim = queue.claim_and_start(queue.open_worker())
    queue.succeed(claim, SealedResult(kind="dataset", place="data:local/cortex", value={}))
    queue.call(jobs.published, job.id, 1, PublishedRequest(token=claim.token, error="the folder exists"))
    assert _retry(queue, job.id).retried_from == job.id


def test_a_job_that_is_not_there_cannot_be_repeated(queue):
    with pytest.raises(NotFound):
        _retry(queue, "nothing")
