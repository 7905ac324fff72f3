"""T35: what clients written for WEBKNOSSOS ask and hear, field by field, over HTTP."""

from __future__ import annotations

import httpx
import pytest

from voxelworks import credits
from voxelworks.protocol.foreign import foreign_id, native_id

from .conftest import PASSWORD, PROPERTIES, Face, Worker


def test_clients_learn_the_versions_and_features_before_they_log_in(face: Face):
    with face.anonymous() as client:
        assert client.get("/health").status_code == 200
        info = client.get("/buildinfo").json()
        assert info["httpApiVersioning"] == {"currentApiVersion": 14, "oldestSupportedApiVersion": 13}
        features = client.get("/features").json()
    assert features == {
        "jobsEnabled": True,
        "voxelyticsEnabled": False,
        "isWkorgInstance": False,
        "neuronInferralCostInMilliCreditsPerGVx": 1000,
        "nucleiInferralCostInMilliCreditsPerGVx": 500,
        "mitochondriaInferralCostInMilliCreditsPerGVx": 1000,
        "instancesInferralCostInMilliCreditsPerGVx": 1000,
        "alignmentCostInMilliCreditsPerGVx": 250,
    }


def test_a_job_as_clients_see_it(face: Face, worker: Worker):
    job_id = face.find_largest("ben")
    shown = face.job(job_id, "ben")
    created = shown.pop("created")
    assert shown == {
        "id": job_id,
        "command": "find_largest_segment_id",
        "organizationId": "local",
        "ownerFirstName": "Ben",
        "ownerLastName": "Doe",
        "ownerEmail": "ben@example.org",
        "args": {
            "organization_id": "local",
            "dataset_id": face.dataset_id,
            "dataset_name": "demo",
            "dataset_directory_name": "demo",
            "layer_name": "segmentation",
        },
        "state": "PENDING",
    }
    worker.poll()
    worker.say(job_id, "STARTED")
    started = face.job(job_id, "ben")
    assert {key: started[key] for key in started if key not in shown} == {
        "created": created,
        "started": started["started"],
    }
    worker.say(job_id, "SUCCESS", returnValue="5")
    ended = face.job(job_id, "ben")
    assert ended == {**started, "state": "SUCCESS", "returnValue": "5", "ended": ended["ended"]}
    assert created <= ended["started"] <= ended["ended"]


def test_what_a_job_does_not_have_is_not_required_in_the_description(face: Face):
    shown = face.job(face.find_largest("ben"), "ben")
    local = {"Authorization": f"Bearer {face.info.token}"}
    description = httpx.get(face.info.url + "/api/v1/openapi.json", headers=local, trust_env=False).json()
    described = description["components"]["schemas"]["ForeignJob"]
    assert "id" in described["required"]
    assert set(described["required"]) <= set(shown) < set(described["properties"])


def test_who_sees_which_jobs(face: Face, worker: Worker):
    of_ben, of_ada = face.find_largest("ben"), face.find_largest("ada")
    seen = {}
    for user in ("olga", "ada", "ben", "cleo"):
        with face.client(user) as client:
            jobs = client.get("/jobs").json()
            seen[user] = [job["id"] for job in jobs if job["id"] in (of_ada, of_ben)]
            assert jobs == sorted(jobs, key=lambda job: (job["created"], job["id"]), reverse=True)
    assert seen == {"olga": [of_ada, of_ben], "ada": [of_ada, of_ben], "ben": [of_ben], "cleo": []}
    for user in ("ben", "cleo"):
        with face.client(user) as client:
            for method, path in (("GET", ""), ("PATCH", "/cancel"), ("PATCH", "/retry"), ("GET", "/export")):
                answer = client.request(method, f"/jobs/{of_ada}{path}")
                assert (answer.status_code, list(answer.json())) == (404, ["messages", "code"])


def test_the_list_is_filtered_by_command_and_deleted_datasets(face: Face, worker: Worker):
    job_id = face.find_largest()
    with face.client("ada") as client:
        of_command = client.get("/jobs", params={"command": "find_largest_segment_id"}).json()
        assert job_id in [job["id"] for job in of_command]
        assert {job["command"] for job in of_command} == {"find_largest_segment_id"}
        assert client.get("/jobs", params={"command": "compute_mesh_file"}).json() == []
        kept = client.get("/jobs", params={"skipForDeletedDatasets": "true"}).json()
        assert job_id in [job["id"] for job in kept]


def test_repeats_are_one_job_in_the_list(face: Face, worker: Worker):
    job_id = face.find_largest()
    with face.client("ada") as client:
        client.patch(f"/jobs/{job_id}/cancel")
        client.patch(f"/jobs/{job_id}/retry")
        listed = [job for job in client.get("/jobs").json() if job["id"] == job_id]
        assert [(job["state"], "lastRetry" in job) for job in listed] == [("PENDING", True)]
        counts = client.get("/jobs/status").json()["jobsByState"]
        assert list(counts) == ["PENDING", "STARTED", "SUCCESS", "FAILURE", "CANCELLED"]


@pytest.mark.parametrize("user", ["ada", "olga"])
def test_a_job_that_somebody_else_repeats_stays_that_of_its_member(face: Face, worker: Worker, user: str):
    job_id = face.find_largest("ben")
    assert worker.ids("to_run") == [job_id]
    worker.say(job_id, "FAILURE")
    before = face.job(job_id, "ben")
    assert before["state"] == "FAILURE"
    with face.client(user) as client:
        assert client.patch(f"/jobs/{job_id}/retry").json()["ownerEmail"] == before["ownerEmail"]
    again = face.job(job_id, "ben")
    assert (again["state"], again["ownerEmail"]) == ("PENDING", before["ownerEmail"])
    assert worker.ids("to_run") == [job_id]
    worker.say(job_id, "SUCCESS", latestRunId=f"{job_id}__command__2", returnValue="5")
    assert face.job(job_id, "ben")["state"] == "SUCCESS"


def test_a_job_is_cancelled_and_retried(face: Face, worker: Worker):
    job_id = face.find_largest()
    with face.client("ada") as client:
        assert client.patch(f"/jobs/{job_id}/retry").status_code == 409
        for _ in range(2):
            assert client.patch(f"/jobs/{job_id}/cancel").json()["state"] == "CANCELLED"
        assert worker.poll() == {"to_run": [], "to_cancel": []}
        assert client.patch(f"/jobs/{job_id}/retry").json()["state"] == "PENDING"
        assert worker.ids("to_run") == [job_id]
        worker.say(job_id, "SUCCESS", returnValue="1")
        assert client.patch(f"/jobs/{job_id}/cancel").status_code == 409


def test_there_is_nothing_to_download(face: Face, worker: Worker):
    job_id = face.find_largest()
    with face.client("ada") as client:
        answer = client.get(f"/jobs/{job_id}/export")
    assert (answer.status_code, answer.json()["messages"]) == (
        404,
        [{"error": f"job {native_id(job_id)} has left no file to download"}],
    )


@pytest.mark.parametrize(
    ("route", "command"),
    [
        ("computeMeshFile", "compute_mesh_file"),
        ("alignSections", "align_sections"),
        ("renderAnimation", "render_animation"),
    ],
)
def test_commands_that_are_not_there_say_so(face: Face, route: str, command: str):
    with face.client("ada") as client:
        answer = client.post(f"/jobs/run/{route}/{face.dataset_id}", params={"layerName": "color"})
    assert (answer.status_code, answer.json()["messages"]) == (
        422,
        [{"error": f"no worker of this server supports the command {command}"}],
    )


def test_there_is_nothing_else_to_run_with_models(face: Face):
    with face.client("ada") as client:
        answer = client.post("/aiModels/runNothing")
    assert answer.status_code == 404
    assert "there is nothing to run at 'runNothing'" in answer.json()["messages"][0]["error"]


OF_NOBODY = {
    "fallbackLayerName": "segmentation", "annotationId": "0123456789abcdef", "annotationType": "Task",
    "newDatasetName": "corrected",
}  # fmt: skip
EDITABLE = {"includesEditableMapping": "true"}


@pytest.mark.parametrize(
    ("route", "dataset", "params", "status", "message"),
    [
        ("findLargestSegmentId", None, {}, 422, "layerName is missing"),
        ("findLargestSegmentId", None, {"layerName": "color"}, 422, "is a color layer"),
        ("findLargestSegmentId", None, {"layerName": "nothing"}, 404, "has no layer"),
        ("findLargestSegmentId", None, {"layerName": "../x"}, 422, "is not a layer name"),
        ("findLargestSegmentId", "0" * 24, {"layerName": "segmentation"}, 404, "there is no dataset"),
        ("findLargestSegmentId", "..%2F..%2Fetc", {"layerName": "segmentation"}, 404, "there is nothing"),
        ("convertToWkw", None, {"scale": "4,4,40"}, 422, "cannot be started by this route"),
        ("materializeVolumeAnnotation", None, OF_NOBODY, 404, "there is no annotation '0123456789abcdef'"),
        ("materializeVolumeAnnotation", None, OF_NOBODY | EDITABLE, 404, "there is no annotation"),
        ("makeCoffee", None, {}, 404, "there is no command"),
    ],
)
def test_what_cannot_be_started_is_refused_with_a_reason(face: Face, route, dataset, params, status, message):
    with face.client("ada") as client:
        answer = client.post(f"/jobs/run/{route}/{dataset or face.dataset_id}", params=params)
    assert answer.status_code == status, answer.text
    assert message in answer.json()["messages"][0]["error"]


def test_a_volume_annotation_is_materialized_with_the_arguments_that_webknossos_has(face: Face):
    nml = "<things><volume id='0' name='Volume' fallbackLayer='segmentation'/></things>"
    made = httpx.post(
        f"{face.info.url}/api/v1/annotations", files={"file": ("a.nml", nml)},
        headers={"Authorization": f"Bearer {face.tokens['ada']}"}, trust_env=False,
    ).json()  # fmt: skip
    given = {
        "fallbackLayerName": "segmentation", "annotationId": foreign_id(made["id"]), "annotationType": "Explorational",
        "newDatasetName": "corrected", "outputSegmentationLayerName": "cells", "mergeSegments": "true",
        "volumeLayerName": "Volume", "includesEditableMapping": "false", "boundingBox": "0,0,0,8,8,8",
    }  # fmt: skip
    with face.client("ada") as client:
        answer = client.post(f"/jobs/run/materializeVolumeAnnotation/{face.dataset_id}", params=given)
        assert answer.status_code == 200, answer.text
        job = answer.json()
        client.patch(f"/jobs/{job['id']}/cancel")
    assert (job["command"], job["state"]) == ("materialize_volume_annotation", "PENDING")
    assert job["args"] == {
        "organization_id": "local", "dataset_id": face.dataset_id, "dataset_name": "demo",
        "dataset_directory_name": "demo", "fallback_layer_name": "segmentation", "annotation_id": made["id"],
        "annotation_type": "Explorational", "new_dataset_name": "corrected",
        "output_segmentation_layer_name": "cells", "merge_segments": True, "volume_layer_name": "Volume",
        "use_zarr_streaming": False, "bounding_box": "0,0,0,8,8,8",
    }  # fmt: skip


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b"\xff"])
def test_a_body_that_is_no_json_object_is_refused(face: Face, body: bytes):
    with face.client("ada") as client:
        answer = client.post(f"/jobs/run/findLargestSegmentId/{face.dataset_id}", content=body)
    assert answer.status_code == 422


def test_arguments_may_come_as_json(face: Face, worker: Worker):
    with face.client("ada") as client:
        answer = client.post(
            f"/jobs/run/findLargestSegmentId/{face.dataset_id}",
            json={"layerName": "segmentation", "other": 1},
        )
    assert (answer.status_code, answer.json()["args"]["layer_name"]) == (200, "segmentation")


def test_datasets_of_others_are_not_there(face: Face):
    with face.client("cleo") as client:
        for answer in (
            client.post(
                f"/jobs/run/findLargestSegmentId/{face.dataset_id}", params={"layerName": "segmentation"}
            ),
            client.get(f"/datasets/{face.dataset_id}"),
            client.get("/datasets/disambiguate/local/demo/toId"),
            client.get("/organizations/local"),
        ):
            assert (answer.status_code, list(answer.json())) == (404, ["messages", "code"])
        assert client.get("/datasets").json() == []


def test_prices_are_told_before_the_job(face: Face):
    with face.client("ben") as client:

        def cost(command: str, box: str) -> httpx.Response:
            return client.get("/jobs/getCreditCost", params={"command": command, "boundingBoxInMag": box})

        assert cost("infer_mitochondria", "0,0,0,1000,1000,2000").json() == {
            "costInMilliCredits": 2000,
            "hasEnoughCredits": True,
            "organizationMilliCredits": 5000,
        }
        assert cost("infer_neurons", "0,0,0,2000,2000,2000").json()["hasEnoughCredits"] is False
        assert cost("export_tiff", "0,0,0,2000,2000,2000").json()["costInMilliCredits"] == 0
        assert cost("make_coffee", "0,0,0,1,1,1").status_code == 422
        assert cost("infer_neurons", "everything").status_code == 422


def test_credit_activity_is_for_admins(face: Face):
    with face.client("ada") as client:
        (row,) = [item for item in client.get("/creditTransactions").json() if item["creditChange"] == 5000]
    assert {key: row[key] for key in row if key not in ("id", "createdAt", "updatedAt")} == {
        "organization_id": "local",
        "relatedTransaction": None,
        "paidJob": None,
        "creditChange": 5000,
        "comment": "",
        "transactionState": "Complete",
        "creditState": "AddCredits",
        "expirationDate": None,
    }
    assert len(row["id"]) == 24
    for user, status in (("ben", 403), ("cleo", 200)):
        with face.client(user) as client:
            answer = client.get("/creditTransactions")
            assert answer.status_code == status
            assert status != 200 or answer.json() == []


def test_only_operators_give_credits(face: Face):
    params = {
        "organizationId": "other", "creditAmount": 2, "moneySpent": "11.50", "currency": "EUR", "comment": "invoice 7",
        "expiresAt": "2099-01-01T00:00:00Z",
    }  # fmt: skip
    for user, status in (("ada", 403), ("cleo", 403), ("olga", 200)):
        with face.client(user) as client:
            assert client.post("/creditTransactions/addCredits", params=params).status_code == status
            booking = client.get("/maintenance/revokeExpiredCredits")
            assert booking.status_code == (200 if user == "olga" else 403)
            refund = client.patch(f"/creditTransactions/{'0' * 24}", params={"organizationId": "other"})
            assert refund.status_code == (409 if user == "olga" else 403)
    with face.database.session() as session:
        (grant,) = credits.balance(session, "other").grants
    assert (grant.amount, str(grant.paid), grant.currency, grant.comment, grant.expires_ms) == (
        2000, "11.50", "EUR", "invoice 7", 4_070_908_800_000,
    )  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"creditAmount": "0"}, {"creditAmount": "1.5"}, {"moneySpent": "-1"}, {"currency": "euro"},
        {"expiresAt": "1960-01-01T00:00:00Z"}, {"organizationId": "nobody"},
    ],
)  # fmt: skip
def test_impossible_grants_are_refused(face: Face, change: dict[str, str]):
    params = {"organizationId": "other", "creditAmount": "2", "moneySpent": "1", "currency": "EUR", **change}
    with face.client("olga") as client:
        assert client.post("/creditTransactions/addCredits", params=params).status_code in (404, 422)


def test_only_the_owner_orders_credits(face: Face):
    for user, status in (("ben", 403), ("ada", 403), ("olga", 200)):
        with face.client(user) as client:
            answer = client.post("/pricing/requestCredits", params={"requestedCredits": 3})
            assert answer.status_code == status
    with face.database.session() as session:
        assert [order.credits for order in credits.list_orders(session, "local")] == [3]


def test_who_asks(face: Face):
    with face.client("olga") as client:
        user = client.get("/user").json()
    assert {key: user[key] for key in user if key not in ("id", "created", "lastActivity", "teams")} == {
        "email": "olga@example.org",
        "firstName": "Olga",
        "lastName": "Maria Operator",
        "organization": "local",
        "isAdmin": True,
        "isOrganizationOwner": True,
        "isDatasetManager": True,
        "isActive": True,
        "isSuperUser": True,
        "experiences": {},
    }
    assert user["teams"] == [{"id": foreign_id("local"), "name": "local", "isTeamManager": True}]
    with face.client("ben") as client:
        user = client.get("/user").json()
    assert [user[key] for key in ("isAdmin", "isDatasetManager", "isSuperUser")] == [False, False, False]


def test_the_organization(face: Face):
    with face.client("ben") as client:
        shown = client.get("/organizations/local").json()
        assert client.get("/organizations").json() == [shown]
    balance = shown.pop("milliCreditBalance")
    assert balance >= 0
    assert shown.pop("usedStorageBytes") >= 100
    assert shown == {
        "id": "local",
        "name": "Local lab",
        "additionalInformation": "",
        "enableAutoVerify": False,
        "includedStorageBytes": None,
        "ownerName": "Olga Maria Operator",
    }


def test_datasets_are_looked_up(face: Face):
    with face.client("ben") as client:
        found = client.get("/datasets/disambiguate/local/demo/toId").json()
        assert found == {
            "id": face.dataset_id, "name": "demo", "organization": "local", "directoryName": "demo",
        }  # fmt: skip
        dataset = client.get(f"/datasets/{found['id']}").json()
        assert found["id"] in [item["id"] for item in client.get("/datasets").json()]
    assert dataset["dataSource"] == {**PROPERTIES, "id": {"name": "demo", "team": "local"}}
    assert {key: dataset[key] for key in ("id", "name", "directoryName", "owningOrganization", "isPublic")} == {
        "id": face.dataset_id, "name": "demo", "directoryName": "demo", "owningOrganization": "local",
        "isPublic": False,
    }  # fmt: skip


def test_metadata_that_is_away_or_leads_elsewhere_is_not_shown(face: Face, tmp_path):
    file = face.settings.datasets_dir / "local" / "demo" / "datasource-properties.json"
    text = file.read_text()
    secret = tmp_path / "secret.json"
    secret.write_text('{"secret": true}')
    try:
        for damage in (lambda: file.write_text("["), file.unlink, lambda: file.symlink_to(secret)):
            damage()
            with face.client("ben") as client:
                source = client.get(f"/datasets/{face.dataset_id}").json()["dataSource"]
            assert source == {
                "id": {"name": "demo", "team": "local"}, "status": "its metadata cannot be read on the server",
            }  # fmt: skip
    finally:
        file.unlink(missing_ok=True)
        file.write_text(text)


def test_result_links_lead_to_the_dataset(face: Face):
    with httpx.Client(
        base_url=face.info.url, headers={"Authorization": f"Bearer {face.tokens['ben']}"}, trust_env=False
    ) as client:
        for link in (f"demo-{face.dataset_id}", face.dataset_id, "demo"):
            answer = client.get(f"/datasets/{link}/view", follow_redirects=True)
            assert answer.status_code == 200, link
            assert "demo" in answer.text
        assert client.get("/datasets/%2F%2Fexample.org/view").status_code in (303, 404)


def test_somebody_logs_in_with_a_password(face: Face):
    with face.anonymous() as client:
        user = client.post("/auth/login", json={"email": "olga@example.org", "password": PASSWORD})
        assert (user.status_code, user.json()["firstName"]) == (200, "Olga")
        token = client.get("/auth/token").json()["token"]
        short = client.post("/userToken/generate", headers={"Origin": face.info.url}).json()["token"]
    for value in (token, short):
        with face.anonymous() as client:
            assert client.get("/user", headers={"X-Auth-Token": value}).json()["email"] == "olga@example.org"
            assert client.get("/user", params={"token": value}).json()["email"] == "olga@example.org"
    with face.anonymous() as client:
        headers = {"X-Auth-Token": token}
        assert client.get("/auth/token", headers=headers).json() == {"token": token}
        assert client.post("/userToken/generate", headers=headers).json() == {"token": token}
        # Reading only: it starts nothing.
        answer = client.post(
            f"/jobs/run/findLargestSegmentId/{face.dataset_id}", params={"layerName": "segmentation"},
            headers={"X-Auth-Token": short},
        )  # fmt: skip
        assert answer.status_code == 403


def test_a_new_token_ends_the_one_before_and_so_does_deleting_it(face: Face):
    with face.anonymous() as browser:
        browser.headers["Origin"] = face.info.url
        browser.post("/auth/login", json={"email": "olga@example.org", "password": PASSWORD})
        first, second = (browser.get("/auth/token").json()["token"] for _ in range(2))
        with face.anonymous() as client:
            assert client.get("/user", headers={"X-Auth-Token": first}).status_code == 401
            assert client.get("/user", headers={"X-Auth-Token": second}).status_code == 200
            assert browser.delete("/auth/token").status_code == 200
            assert client.get("/user", headers={"X-Auth-Token": second}).status_code == 401
        foreign = browser.get(
            "/auth/token", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        )
        assert foreign.status_code == 403
        for _ in range(8):
            assert browser.post("/userToken/generate").status_code == 200


def test_wrong_passwords_and_missing_fields(face: Face):
    with face.anonymous() as client:
        wrong = client.post("/auth/login", json={"email": "olga@example.org", "password": "wrong password"})
        assert (wrong.status_code, list(wrong.json())) == (401, ["messages", "code"])
        assert client.post("/auth/login", json={"email": "olga@example.org"}).status_code == 422


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/jobs"), ("GET", "/jobs/status"), ("GET", "/jobs/0"), ("PATCH", "/jobs/0/cancel"),
        ("PATCH", "/jobs/0/retry"), ("GET", "/jobs/0/export"), ("POST", "/jobs/run/computeMeshFile/0"),
        ("GET", "/jobs/getCreditCost"), ("GET", "/user"), ("GET", "/auth/token"), ("DELETE", "/auth/token"),
        ("POST", "/userToken/generate"), ("GET", "/organizations/local"), ("GET", "/datasets"), ("GET", "/datasets/0"),
        ("GET", "/creditTransactions"), ("POST", "/creditTransactions/addCredits"),
        ("POST", "/pricing/requestCredits"), ("GET", "/maintenance/revokeExpiredCredits"),
    ],
)  # fmt: skip
def test_strangers_get_nothing(face: Face, method: str, path: str):
    with face.anonymous() as client:
        for headers in ({}, {"X-Auth-Token": "vxt_wrong"}):
            answer = client.request(method, path, headers=headers)
            assert answer.status_code in (401, 403)
            assert answer.json()["messages"][0]["error"]


def test_our_own_api_keeps_its_errors(face: Face):
    answer = httpx.get(f"{face.info.url}/api/v1/jobs", trust_env=False)
    assert (answer.status_code, sorted(answer.json())) == (401, ["code", "message"])
    token = {"token": face.tokens["ada"]}
    assert httpx.get(f"{face.info.url}/api/v1/jobs", params=token, trust_env=False).status_code == 401


def test_what_is_not_there_is_said_in_the_same_form(face: Face):
    with face.client("ada") as client:
        answer = client.get("/annotations/readable")
    assert (answer.status_code, answer.json()["messages"]) == (
        404, [{"error": "there is nothing at /api/annotations/readable"}],
    )  # fmt: skip
