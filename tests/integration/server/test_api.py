"""The JSON API, as programs and workers use it."""

from __future__ import annotations

import html

import pytest

from voxelworks.client import Client, worker_key_file
from voxelworks.errors import (
    IllegalTransition,
    InvalidParams,
    LeaseLost,
    LogGap,
    NotAllowed,
    NotFound,
    SourceNotFound,
    TargetExists,
    UnknownWorkflow,
    UnsafeReference,
)
from voxelworks.protocol.messages import (
    DatasetLeaseRequest,
    Progress,
    PublishedRequest,
    RenewRequest,
    SealedResult,
)
from voxelworks.testing.server import PretendWorker
from voxelworks.workflows import workflows

PROPERTIES = {
    "id": {"name": "made", "team": ""},
    "scale": {"factor": [4, 4, 40], "unit": "nanometer"},
    "dataLayers": [
        {
            "name": "color",
            "category": "color",
            "boundingBox": {"topLeft": [0, 0, 0], "width": 64, "height": 32, "depth": 16},
            "elementClass": "uint8",
            "dataFormat": "zarr3",
            "numChannels": 1,
            "mags": [{"mag": [1, 1, 1], "path": "./color/1"}, {"mag": [2, 2, 1], "path": "./color/2-2-1"}],
        }
    ],
}


def sealed(name: str) -> SealedResult:
    value = {"dataset": name, "layers": ["color"]}
    return SealedResult(
        kind="dataset", place=f"data:local/{name}", value=value, manifest_sha256="0" * 64, size_bytes=2048
    )


def test_a_job_travels_from_submission_to_a_dataset(served):
    job_id = served.convert("made")
    assert served.client.show(job_id).job.state == "queued"
    worker = served.worker(convert=1)
    claim = take(worker, job_id)
    assert claim.places == {"root:scope/run1": "root:scope/run1", "made": "data:local/made"}
    assert served.client.show(job_id).job.state == "running"
    worker.renew(Progress(phase="color: mag 1", done=3, total=4))
    assert worker.log("first line\nsecond") == 17
    assert worker.log(" line\n", offset=17) == 23
    shown = served.client.show(job_id).job
    assert (shown.progress, shown.worker) == (Progress(phase="color: mag 1", done=3, total=4), "pretender")
    assert served.client.read_log(job_id).text == "first line\nsecond line\n"
    worker.write_dataset("made", PROPERTIES)
    answer = worker.succeed(sealed("made"))
    assert (answer.state, answer.publish) == ("succeeded", True)
    assert served.client.show(job_id).job.publication == "pending"
    worker.publish()
    assert served.client.show(job_id).job.publication == "published"
    dataset = served.client.show_dataset("made")
    assert (dataset.made_by_job, dataset.summary.voxel_size) == (job_id, "4,4,40")
    assert dataset.summary.layers[0].mags == ("1", "2-2-1")
    assert dataset in served.client.list_datasets()
    with pytest.raises(TargetExists):
        served.convert("made")


def test_a_wrong_submission_is_the_same_error_here_as_there(served):
    source = {"layers": [{"source": "root:scope/run1"}], "target": "never"}
    with pytest.raises(UnknownWorkflow, match="there is no workflow 'dream'"):
        served.client.submit("dream", {})
    with pytest.raises(InvalidParams, match="target is missing"):
        served.client.submit("convert", {"layers": [{"source": "root:scope/run1"}]})
    with pytest.raises(UnsafeReference):
        served.client.submit("convert", {**source, "layers": [{"source": "/etc/passwd"}]})
    with pytest.raises(UnsafeReference):
        served.client.submit("convert", {**source, "layers": [{"source": "root:scope/../../outside.tif"}]})
    with pytest.raises(SourceNotFound):
        served.client.submit("convert", {**source, "layers": [{"source": "root:scope/nothing"}]})
    with pytest.raises(NotFound):
        served.client.show("nope")
    assert [
        job for job in served.client.list_jobs(limit=500).jobs if job.params.get("target") == "never"
    ] == []


def test_the_same_idempotency_key_gives_the_same_job(served):
    params = {"layers": [{"source": "root:scope/run1"}], "target": "keyed"}
    first = served.client.submit("convert", params, idempotency_key="one")
    assert served.client.submit("convert", params, idempotency_key="one").id == first.id


def test_every_workflow_has_a_route_with_its_own_schema(served):
    openapi = served.browser.get("/api/v1/openapi.json").json()
    for name, workflow in workflows().items():
        body = openapi["paths"][f"/api/v1/workflows/{name}/jobs"]["post"]["requestBody"]
        reference = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert reference == workflow.params_type.__name__
        assert set(openapi["components"]["schemas"][reference]["properties"]) == set(
            workflow.params_type.model_fields
        )
    params = {"layers": [{"source": "root:scope/run1"}], "target": "by_route", "voxel_size": "4,4,40"}
    made = served.browser.post("/api/v1/workflows/convert/jobs?priority=-2", json=params)
    assert made.status_code == 201, made.text
    assert (made.json()["params"]["target"], made.json()["priority"]) == ("by_route", -2)
    wrong = served.browser.post("/api/v1/workflows/convert/jobs", json={**params, "voxel_size": "4,4"})
    assert (wrong.status_code, "is not a voxel size" in wrong.json()["message"]) == (422, True)


def test_every_route_says_how_it_refuses(served):
    openapi = served.browser.get("/api/v1/openapi.json").json()
    routes = [(path, route) for path, methods in openapi["paths"].items() for route in methods.values()]
    # The numbers for Prometheus are no JSON, and are refused to nobody.
    silent = {path for path, route in routes if "4XX" not in route["responses"]}
    assert silent <= {"/metrics"}


@pytest.mark.parametrize(
    "path",
    [
        "operator/mails?after=-248213423317353860779",
        "organization/audit?before=248213423317353860779",
    ],
)
def test_a_number_that_is_too_large_is_bad_input(served, path):
    answer = served.browser.get(f"/api/v1/{path}")
    assert (answer.status_code, "cannot take a" in answer.json()["message"]) == (422, True)


def test_workflows_are_described(served):
    described = {item["name"]: item for item in served.browser.get("/api/v1/workflows").json()}
    assert set(described) == set(workflows())
    assert [field["name"] for field in described["downsample"]["fields"]] == [
        "dataset", "layer", "coarsest_mag", "method",
    ]  # fmt: skip
    assert served.browser.get("/api/v1/workflows/convert").json() == described["convert"]


def test_jobs_are_listed_by_state_and_in_pages(served):
    ids = [served.convert(f"page_{number}") for number in range(5)]
    first = served.client.list_jobs(states=["queued"], workflow="convert", limit=2)
    assert [job.id for job in first.jobs] == ids[:-3:-1]
    second = served.client.list_jobs(states=["queued"], workflow="convert", limit=2, after=first.next_after)
    assert [job.id for job in second.jobs] == ids[2:0:-1]
    assert served.client.list_jobs(workflow="downsample").jobs == ()
    assert served.browser.get("/api/v1/jobs?state=sleeping").json()["code"] == "invalid-request"


def test_cancel_and_retry(served):
    job_id = served.convert("again")
    with pytest.raises(IllegalTransition):
        served.client.retry(job_id)
    assert served.client.cancel(job_id).state == "cancelled"
    assert served.client.cancel(job_id).state == "cancelled"
    again = served.client.retry(job_id)
    assert (again.state, again.retried_from) == ("queued", job_id)
    assert served.client.show(job_id).retries == (again.id,)


def test_all_jobs_that_failed_alike_are_repeated_and_refusals_hold_up_none(served):
    worker = served.worker()
    failed = [served.convert(f"alike-{number}") for number in range(7)]
    for job_id in failed:
        take(worker, job_id)
        worker.fail("user_input", "alike", f"section {job_id} is missing")
    taken = served.convert("alike-3")
    [group] = [
        one for one in served.browser.get("/api/v1/operator/failures").json() if one["code"] == "alike"
    ]
    assert (group["count"], group["job_ids"]) == (7, failed[:1:-1])
    page = served.browser.post("/operator/failures/repeat", data={"group": group["id"], "days": 1}).text
    assert "6 jobs are queued again." in page
    assert "1 job could not be repeated." in page
    repeats = [served.client.show(job_id).retries for job_id in failed]
    assert [len(later) for later in repeats] == [1, 1, 1, 0, 1, 1, 1]
    again = served.browser.post("/api/v1/operator/failures/repeat", json={"group": group["id"]}).json()
    reason = f"the name 'alike-3' is taken (job {taken} is making it); choose another name"
    assert again == {"queued": [], "refused": [{"job_id": failed[3], "reason": reason}], "left": 0}
    served.client.cancel(taken)
    last = served.browser.post("/api/v1/operator/failures/repeat", json={"group": group["id"]}).json()
    assert last == {"queued": list(served.client.show(failed[3]).retries), "refused": [], "left": 0}


@pytest.mark.parametrize("written", ["10 GB", "nan", "inf", "1e400", "1e999999999", "-1", "9e18"])
def test_a_storage_limit_that_is_no_size_is_bad_input(served, written):
    answer = served.browser.post("/operator/organizations/local/storage", data={"gibibytes": written})
    assert answer.status_code == 422
    assert f"'{written}' is not a size; write GiB as a number, such as 100 or 0.5" in html.unescape(
        answer.text
    )


def test_a_storage_limit_is_set_and_lifted(served):
    def limit(written):
        served.browser.post("/operator/organizations/local/storage", data={"gibibytes": written})
        [organization] = served.browser.get("/api/v1/operator/organizations").json()
        return organization["storage_bytes_max"]

    assert [limit(written) for written in ("100", "0,5", " ")] == [100 * 2**30, 2**29, None]
    too_large = served.browser.patch(
        "/api/v1/operator/organizations/local", json={"storage_bytes_max": 2**63}
    )
    assert too_large.status_code == 422


def test_a_worker_without_the_right_token_is_refused(served):
    job_id = served.convert("held")
    worker = served.worker("holder", convert=1)
    take(worker, job_id)
    assert worker.client.renew(job_id, 1, RenewRequest(token="other")).order == "lost"
    with pytest.raises(LeaseLost):
        worker.client.append_log(job_id, 1, "other", 0, b"x")
    with pytest.raises(LeaseLost):
        worker.client.published(job_id, 1, PublishedRequest(token="other"))
    with pytest.raises(LogGap) as gap:
        worker.log("x", offset=10)
    assert gap.value.offset == 0


@pytest.mark.parametrize("walltime_s", [-2.15e306, -1, 1e18])
def test_a_worker_that_must_leave_before_now_or_never_is_refused(served, walltime_s):
    key = worker_key_file(served.settings.home).read_text()
    told = {"name": "late", "version": "test", "workflows": {}, "walltime_s": walltime_s}
    answer = served.browser.post(
        "/api/v1/worker/sessions", json=told, headers={"Authorization": f"Bearer {key}"}
    )
    assert (answer.status_code, "walltime_s" in answer.text) == (422, True)


def test_a_worker_is_asked_to_cancel(served):
    job_id = served.convert("stopped")
    worker = served.worker("stopper", convert=1)
    take(worker, job_id)
    assert served.client.cancel(job_id).state == "cancelling"
    assert worker.renew().order == "cancel"
    assert worker.stop_cancelled().state == "cancelled"


def test_one_publisher_has_a_dataset_at_a_time(served):
    worker = served.worker("leaser", convert=1)
    job_id = served.convert("leased")
    claim = take(worker, job_id)
    worker.write_dataset("leased", PROPERTIES)
    worker.succeed(sealed("leased"))
    request = DatasetLeaseRequest(token=claim.token, place="data:local/leased")
    assert worker.client.lease_dataset(job_id, 1, request).held
    worker.client.release_dataset(job_id, 1, request)
    worker.publish()


def test_an_idle_worker_gets_neither_job_nor_publish_order(served):
    worker = served.worker("idle", some_other_workflow=1)
    assert worker.client.claim(worker.session_id) is None
    assert worker.client.take_publish_order(worker.session_id) is None
    assert "idle" in {view.name for view in served.client.list_workers()}


def test_import_roots_are_browsed_and_nothing_else(served):
    assert [root.place for root in served.client.list_roots()] == ["root:scope"]
    top = served.client.browse("root:scope")
    assert [(entry.name, entry.is_folder) for entry in top.entries] == [("empty", True), ("run1", True)]
    run = served.client.browse("root:scope/run1/")
    assert [entry.place for entry in run.entries] == ["root:scope/run1/s2.tif", "root:scope/run1/s10.tif"]
    assert (run.parent, run.file_count, run.entries[0].size_bytes) == ("root:scope", 2, 4)
    for place in ("/etc", "root:scope/..", "root:other", "data:local/made", "http://127.0.0.1/"):
        with pytest.raises(UnsafeReference):
            served.client.browse(place)
    with pytest.raises(SourceNotFound):
        served.client.browse("root:scope/nothing")


def test_watching_ends_with_the_job(served):
    job_id = served.convert("watched")
    states = []
    for view in served.client.watch(job_id):
        states.append(view.state)
        if view.state == "queued":
            served.client.cancel(job_id)
    assert states == ["queued", "cancelled"]


def test_a_wrong_key_is_told_apart_from_a_wrong_right(served):
    with Client(served.info.url, "wrong") as stranger, pytest.raises(NotAllowed, match="the server printed"):
        stranger.list_datasets()
    key = worker_key_file(served.settings.home).read_text()
    with Client(served.info.url, key) as worker, pytest.raises(NotAllowed):
        worker.list_datasets()


def take(worker: PretendWorker, job_id: str):
    """Claim until it is this job: tests of a module share a server."""
    while (claim := worker.claim()).job_id != job_id:
        worker.fail("user_input", "not-wanted", "left over from another test")
    return claim
