"""T35: what workers written for WEBKNOSSOS say and hear, field by field, over HTTP."""

from __future__ import annotations

import json
import time

import httpx
import pytest
from sqlalchemy import update

from voxelworks import jobs
from voxelworks.client import Client
from voxelworks.jobs._tables import AttemptRow, JobRow
from voxelworks.protocol.foreign import native_id
from voxelworks.protocol.messages import PROTOCOL_VERSION, SessionRequest
from voxelworks.protocol.places import Places
from voxelworks.server.wk.images import put_away_forgotten

from .conftest import PROPERTIES, Face, Worker

ERROR_DETAILS = {"message": "the layer is empty", "trace": ["a.py:1"]}


def test_a_job_from_poll_to_success(face: Face, worker: Worker):
    job_id = face.find_largest()
    orders = worker.poll()
    (order,) = orders["to_run"]
    token = order["job_kwargs"].pop("user_auth_token")
    assert order == {
        "job_id": job_id,
        "command": "find_largest_segment_id",
        "job_kwargs": {
            "organization_id": "local",
            "dataset_id": face.dataset_id,
            "dataset_name": "demo",
            "dataset_directory_name": "demo",
            "layer_name": "segmentation",
        },
    }
    assert orders["to_cancel"] == []
    assert face.job(job_id)["state"] == "PENDING"
    started_ms = int(time.time() * 1000)
    worker.say(job_id, "STARTED", started=started_ms)
    assert face.job(job_id)["state"] == "STARTED"
    assert worker.poll()["to_run"] == [
        {**order, "job_kwargs": {**order["job_kwargs"], "user_auth_token": token}}
    ]
    worker.say(
        job_id, "SUCCESS", returnValue="18446744073709551615", started=started_ms, ended=started_ms + 5
    )
    shown = face.job(job_id)
    assert (shown["state"], shown["returnValue"]) == ("SUCCESS", "18446744073709551615")
    assert worker.poll() == {"to_run": [], "to_cancel": []}


def test_the_jobs_token_reads_as_its_user(face: Face, worker: Worker):
    job_id = face.find_largest("ben")
    (order,) = worker.poll()["to_run"]
    headers = {"X-Auth-Token": order["job_kwargs"]["user_auth_token"]}
    with httpx.Client(base_url=face.info.url + "/api/v14", headers=headers, trust_env=False) as client:
        assert client.get("/user").json()["email"] == "ben@example.org"
        dataset = client.get(f"/datasets/{order['job_kwargs']['dataset_id']}").json()
        assert dataset["dataSource"]["dataLayers"] == PROPERTIES["dataLayers"]
        assert client.patch(f"/jobs/{job_id}/cancel").status_code == 403
        worker.say(job_id, "FAILURE")
        assert client.get("/user").status_code == 401


@pytest.mark.parametrize("prefix", ["/api", "/api/v13", "/api/v14"])
def test_every_version_of_the_address_answers(face: Face, worker: Worker, prefix: str):
    url = f"{face.info.url}{prefix}/jobs/request"
    assert httpx.get(url, params={"key": worker.key}, trust_env=False).json() == {
        "to_run": [],
        "to_cancel": [],
    }


@pytest.mark.parametrize("prefix", ["/api/v12", "/api/v15", "/api/v2"])
def test_other_versions_are_not_there(face: Face, worker: Worker, prefix: str):
    url = f"{face.info.url}{prefix}/jobs/request"
    answer = httpx.get(url, params={"key": worker.key, "token": face.tokens["ada"]}, trust_env=False)
    assert answer.status_code == 404


def test_failures_carry_details(face: Face, worker: Worker):
    job_id = face.find_largest()
    worker.poll()
    worker.say(job_id, "STARTED")
    worker.say(job_id, "FAILURE", errorDetails=ERROR_DETAILS, ended="2026-09-01T12:00:00.000Z")
    shown = face.job(job_id)
    assert (shown["state"], shown["errorDetails"]) == ("FAILURE", ERROR_DETAILS)
    assert "returnValue" not in shown


def test_cancelling_is_answered_with_cancelled(face: Face, worker: Worker):
    job_id = face.find_largest()
    (order,) = worker.poll()["to_run"]
    worker.say(job_id, "STARTED")
    with face.client("ada") as client:
        cancelled = client.patch(f"/jobs/{job_id}/cancel").json()
    assert (cancelled["state"], cancelled["manualState"]) == ("CANCELLED", "CANCELLED")
    assert worker.poll() == {"to_run": [], "to_cancel": [order]}
    assert worker.ids("to_cancel") == [job_id]
    worker.say(job_id, "CANCELLED")
    assert worker.poll() == {"to_run": [], "to_cancel": []}
    assert face.job(job_id)["state"] == "CANCELLED"


def test_a_success_after_a_cancel_does_not_count(face: Face, worker: Worker):
    job_id = face.find_largest()
    worker.poll()
    worker.say(job_id, "STARTED")
    with face.client("ada") as client:
        client.patch(f"/jobs/{job_id}/cancel")
    worker.say(job_id, "SUCCESS", returnValue="1")
    assert face.job(job_id)["state"] == "CANCELLED"
    assert worker.ids("to_cancel") == [job_id]
    worker.say(job_id, "CANCELLED")
    assert worker.ids("to_cancel") == []


def test_a_worker_started_anew_gets_its_running_jobs_again(face: Face, worker: Worker):
    job_id = face.find_largest()
    worker.poll()
    worker.say(job_id, "STARTED", latestRunId="run-1")
    anew = Worker(worker.http, worker.key)
    assert anew.ids("to_run") == [job_id]
    anew.say(job_id, "STARTED", latestRunId="run-2")
    late = worker.post(job_id, "SUCCESS", latestRunId="run-1", returnValue="1")
    assert late.status_code == 409
    assert list(late.json()) == ["messages", "code"]
    assert face.job(job_id)["state"] == "STARTED"
    anew.say(job_id, "SUCCESS", latestRunId="run-2", returnValue="2")
    assert face.job(job_id)["returnValue"] == "2"


def test_duplicates_are_welcome_and_late_posts_refused(face: Face, worker: Worker):
    job_id = face.find_largest()
    worker.poll()
    worker.say(job_id, "STARTED")
    worker.say(job_id, "STARTED")
    for _ in range(2):
        worker.say(job_id, "SUCCESS", returnValue="7")
    assert worker.post(job_id, "FAILURE").status_code == 409
    assert worker.post(job_id, "STARTED").status_code == 409
    worker.say(job_id, "CANCELLED")
    assert (face.job(job_id)["state"], face.job(job_id)["returnValue"]) == ("SUCCESS", "7")


def test_a_retried_job_keeps_its_id_and_starts_a_fresh_run(face: Face, worker: Worker):
    job_id = face.find_largest()
    created = face.job(job_id)["created"]
    worker.poll()
    worker.say(job_id, "STARTED", latestRunId="run-1")
    worker.say(job_id, "FAILURE", latestRunId="run-1", errorDetails=ERROR_DETAILS)
    with face.client("ada") as client:
        retried = client.patch(f"/jobs/{job_id}/retry").json()
    assert (retried["id"], retried["state"], retried["created"]) == (job_id, "PENDING", created)
    assert retried["lastRetry"] >= created
    assert "errorDetails" not in retried
    assert worker.ids("to_run") == [job_id]
    worker.say(job_id, "STARTED", latestRunId="run-2")
    worker.say(job_id, "SUCCESS", latestRunId="run-2", returnValue="3")
    assert (face.job(job_id)["state"], face.job(job_id)["returnValue"]) == ("SUCCESS", "3")


def test_a_conversion_finds_its_images_and_becomes_a_dataset(face: Face, worker: Worker):
    job_id = _submit_conversion(face, "converted")
    (order,) = worker.poll()["to_run"]
    kwargs = order["job_kwargs"]
    base = face.settings.datasets_dir / "local"
    assert (order["job_id"], order["command"]) == (job_id, "convert_to_wkw")
    assert {key: kwargs[key] for key in kwargs if key != "user_auth_token"} == {
        "organization_id": "local",
        "dataset_id": None,
        "dataset_name": "converted",
        "dataset_directory_name": "converted",
        "voxel_size_factor": "4,4,40",
        "voxel_size_unit": "nanometer",
        "organization_base_directory": str(base),
        "organization_display_name": "Local lab",
    }
    source = base / ".forConversion" / "converted"
    assert (source / "color" / "s1.tif").read_bytes() == b"1234"
    worker.say(job_id, "STARTED")
    _write_dataset(face, "converted")
    worker.say(job_id, "SUCCESS")
    shown = face.job(job_id)
    assert shown["state"] == "SUCCESS"
    assert "returnValue" not in shown
    assert not source.exists()
    dataset_id = shown["args"]["dataset_id"]
    assert shown["resultLink"] == f"/datasets/converted-{dataset_id}/view"
    with face.client("ada") as client:
        assert client.get(f"/datasets/{dataset_id}").json()["usedStorageBytes"] > 0


def test_a_broken_conversion_leaves_the_name_free(face: Face, worker: Worker):
    job_id = _submit_conversion(face, "broken")
    worker.poll()
    worker.say(job_id, "STARTED")
    _write_dataset(face, "broken")
    worker.say(job_id, "FAILURE")
    base = face.settings.datasets_dir / "local"
    assert not (base / "broken").exists()
    (aside,) = (base / ".voxelworks").glob("broken.*")
    assert (aside / "datasource-properties.json").exists()
    again = _submit_conversion(face, "broken")
    assert worker.ids("to_run") == [again]


def test_what_a_worker_left_that_died_is_put_away_once_its_job_is_cancelled(face: Face, worker: Worker):
    job_id = _submit_conversion(face, "orphaned")
    worker.poll()
    worker.say(job_id, "STARTED")
    _write_dataset(face, "orphaned")
    _lose(face, job_id)
    base = face.settings.datasets_dir / "local"
    put_away_forgotten(face.database, Places.of(face.settings))
    assert ((base / "orphaned").exists(), (base / ".forConversion" / "orphaned").exists()) == (True, True)
    with face.client("ada") as client:
        client.patch(f"/jobs/{job_id}/cancel")
    put_away_forgotten(face.database, Places.of(face.settings))
    assert ((base / "orphaned").exists(), (base / ".forConversion" / "orphaned").exists()) == (False, False)
    leftovers = httpx.get(
        f"{face.info.url}/api/v1/leftovers", headers={"Authorization": f"Bearer {face.tokens['ada']}"},
        trust_env=False,
    ).json()  # fmt: skip
    (listed,) = [item for item in leftovers if item["name"].startswith("local/.voxelworks/orphaned.")]
    assert (listed["kind"], listed["removal_ms"] > time.time() * 1000) == ("attempt", True)
    again = _submit_conversion(face, "orphaned")
    assert worker.ids("to_run") == [again]


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_worker_that_takes_a_conversion_over_finds_its_place_free(
    face: Face, worker: Worker, *, is_ours: bool
):
    target = f"taken-over-{is_ours}"
    job_id = _submit_conversion(face, target)
    worker.poll()
    worker.say(job_id, "STARTED")
    _write_dataset(face, target)
    _lose(face, job_id)
    base = face.settings.datasets_dir / "local"
    assert (base / target).exists()
    other = face.worker("other")
    if is_ours:
        request = SessionRequest(
            name="ours", version="1", protocol=PROTOCOL_VERSION, workflows={"convert": 1},
            slots={"short": 1, "long": 1},
        )  # fmt: skip
        with Client(face.info.url, other.key) as client:
            claimed = client.claim(client.open_session(request).session_id)
        assert claimed is not None
        assert (claimed.job_id, claimed.attempt) == (native_id(job_id), 2)
    else:
        assert other.ids("to_run") == [job_id]
    assert not (base / target).exists()
    assert (base / ".forConversion" / target).exists() != is_ours
    with face.client("ada") as client:
        client.patch(f"/jobs/{job_id}/cancel")
    other.clear()
    other.http.close()


def test_a_worker_started_anew_finds_the_place_of_its_conversion_free(face: Face, worker: Worker):
    job_id = _submit_conversion(face, "anew")
    worker.poll()
    worker.say(job_id, "STARTED", latestRunId="run-1")
    _write_dataset(face, "anew")
    base = face.settings.datasets_dir / "local"
    anew = Worker(worker.http, worker.key)
    anew.poll()
    anew.say(job_id, "STARTED", latestRunId="run-2")
    assert not (base / "anew").exists()
    assert (base / ".forConversion" / "anew" / "color" / "s1.tif").read_bytes() == b"1234"
    _write_dataset(face, "anew")
    anew.say(job_id, "SUCCESS", latestRunId="run-2")
    assert face.job(job_id)["state"] == "SUCCESS"
    assert (base / "anew").exists()


def test_what_no_worker_was_to_make_is_not_put_away(face: Face):
    base = face.settings.datasets_dir / "local"
    (base / ".forConversion" / "uploaded").mkdir(parents=True)
    (base / ".forConversion" / "uploaded" / "images").symlink_to(base)
    _write_dataset(face, "uploaded")
    put_away_forgotten(face.database, Places.of(face.settings))
    assert (base / ".forConversion" / "uploaded" / "images").is_symlink()
    assert (base / "uploaded" / "datasource-properties.json").exists()


def test_an_end_told_again_moves_nothing(face: Face, worker: Worker):
    job_id = _submit_conversion(face, "told-twice")
    worker.poll()
    worker.say(job_id, "FAILURE")
    _write_dataset(face, "told-twice")
    worker.say(job_id, "FAILURE")
    assert (face.settings.datasets_dir / "local" / "told-twice").exists()


def test_a_place_that_cannot_be_freed_holds_up_no_worker(face: Face, worker: Worker):
    target = "stuck"
    job_id = _submit_conversion(face, target)
    worker.poll()
    worker.say(job_id, "STARTED")
    base = face.settings.datasets_dir / "local"
    _write_dataset(face, target)
    _lose(face, job_id)
    other = face.worker("patient")
    (base / ".voxelworks").mkdir(exist_ok=True)
    (base / ".voxelworks").rename(base / "away")
    (base / ".voxelworks").write_bytes(b"")  # nothing can be moved there
    try:
        assert other.ids("to_run") == [job_id]
        other.say(job_id, "FAILURE")
        assert (face.job(job_id)["state"], (base / target).exists()) == ("FAILURE", True)
    finally:
        (base / ".voxelworks").unlink()
        (base / "away").rename(base / ".voxelworks")
        other.http.close()


def test_a_conversion_that_left_nothing_is_a_failure(face: Face, worker: Worker):
    job_id = _submit_conversion(face, "nothing")
    worker.poll()
    worker.say(job_id, "SUCCESS")
    shown = face.job(job_id)
    assert shown["state"] == "FAILURE"
    assert "left no dataset 'nothing'" in shown["errorDetails"]["message"]


def test_the_hash_of_the_workers_report_is_attached(face: Face, worker: Worker):
    job_id = face.find_largest()
    worker.poll()
    path, params = f"/jobs/{job_id}/attachVoxelyticsWorkflow", {"key": worker.key}
    assert worker.http.post(path, params=params, json="f00d").status_code == 200
    assert face.job(job_id)["voxelyticsWorkflowHash"] == "f00d"
    for body in ({"hash": "f00d"}, "", None, ["f00d"]):
        assert worker.http.post(path, params=params, json=body).status_code == 422
    assert worker.http.post(path, params=params, content=b"f00d").status_code == 422


def test_datasets_are_attached_to_inferences_only(face: Face, worker: Worker):
    job_id = face.find_largest()
    worker.poll()
    answer = worker.http.post(
        f"/jobs/{job_id}/attachDatasetToInference", params={"key": worker.key}, json="demo"
    )
    assert (answer.status_code, answer.json()["messages"]) == (
        404,
        [{"error": f"job {native_id(job_id)} is no inference; a dataset can be attached to inferences only"}],
    )


@pytest.mark.parametrize("key", ["", "vxw_wrong", None])
def test_nobody_works_without_a_key(face: Face, worker: Worker, key: str | None):
    job_id = face.find_largest()
    params = {} if key is None else {"key": key}
    for token in (None, face.tokens["olga"]):
        headers = {} if token is None else {"X-Auth-Token": token}
        with httpx.Client(base_url=face.info.url + "/api", headers=headers, trust_env=False) as client:
            assert client.get("/jobs/request", params=params).status_code == 401
            for name in ("status", "attachVoxelyticsWorkflow", "attachDatasetToInference"):
                assert client.post(f"/jobs/{job_id}/{name}", params=params, json="x").status_code == 401
    answer = worker.http.get("/jobs/request", params=params)
    assert answer.json()["messages"][0]["error"].startswith("there is no worker with this key")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"STARTED"', b"{}", b'{"state": "DONE"}', b'{"state": "STARTED", "latestRunId": 3}',
     b'{"state": "FAILURE", "errorDetails": "text"}'],
)  # fmt: skip
def test_posts_that_are_no_status_are_refused(face: Face, worker: Worker, body: bytes):
    job_id = face.find_largest()
    worker.poll()
    answer = worker.http.post(f"/jobs/{job_id}/status", params={"key": worker.key}, content=body)
    assert answer.status_code == 422
    assert answer.json()["messages"][0]["error"]
    assert face.job(job_id)["state"] == "PENDING"


@pytest.mark.parametrize("job_id", ["0" * 24, "x", "ffffffffffffffffffffffff"])
def test_unknown_jobs_are_not_found(worker: Worker, job_id: str):
    for state in ("STARTED", "SUCCESS", "FAILURE", "CANCELLED"):
        assert worker.post(job_id, state).status_code == 404


def test_the_status_page_shows_the_worker(face: Face, worker: Worker):
    worker.poll()
    with face.client("ben") as client:
        workers = client.get("/jobs/status").json()["workers"]
    (shown,) = [
        item for item in workers if item["name"].startswith("wk (") and item["lastHeartBeatIsRecent"]
    ][-1:]
    assert sorted(shown) == sorted([
        "id", "name", "maxParallelHighPriorityJobs", "maxParallelLowPriorityJobs", "supportedJobCommands", "created",
        "lastHeartBeat", "lastHeartBeatIsRecent", "lastReportedVersion",
    ])  # fmt: skip
    assert (shown["maxParallelHighPriorityJobs"], shown["maxParallelLowPriorityJobs"]) == (50, 50)
    assert shown["supportedJobCommands"] == [
        "compute_segment_index_file", "convert_to_wkw", "find_largest_segment_id", "materialize_volume_annotation",
    ]  # fmt: skip
    assert shown["lastReportedVersion"] == "24.1"


def _submit_conversion(face: Face, target: str) -> str:
    params = {"layers": [{"source": "root:scope/raw"}], "target": target, "voxel_size": "4,4,40"}
    answer = httpx.post(
        f"{face.info.url}/api/v1/jobs", json={"workflow": "convert", "params": params},
        headers={"Authorization": f"Bearer {face.tokens['ada']}"}, trust_env=False,
    )  # fmt: skip
    assert answer.status_code == 201, answer.text
    return "0" * 8 + str(answer.json()["id"])


def _lose(face: Face, job_id: str) -> None:
    """Let the lease of a job run out."""
    with face.database.session() as session:
        session.execute(
            update(AttemptRow).where(AttemptRow.job_id == native_id(job_id)).values(lease_end_ms=0)
        )
    jobs.reap_all(face.database, settings=face.settings)
    assert face.job(job_id)["state"] == "PENDING"
    with face.database.session() as session:
        session.execute(update(JobRow).where(JobRow.id == native_id(job_id)).values(available_ms=0))


def _write_dataset(face: Face, name: str) -> None:
    folder = face.settings.datasets_dir / "local" / name
    folder.mkdir()
    (folder / "datasource-properties.json").write_text(json.dumps(PROPERTIES))
