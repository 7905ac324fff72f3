"""Models, as clients written for WEBKNOSSOS train, see and change them."""

import httpx
import pytest

from small_networks import small_facts
from voxelworks import accounts, catalog, jobs
from voxelworks.jobs._tables import JobRow
from voxelworks.protocol.foreign import foreign_id, native_id
from voxelworks.protocol.places import model_place

from .conftest import Face


def test_models_are_listed_changed_shared_and_deleted(face: Face):
    with face.client("ada") as ada:
        shipped = {model["id"] for model in ada.get("/aiModels").json()}

    def listed(client):
        return [model for model in client.get("/aiModels").json() if model["id"] not in shipped]

    with face.database.session() as session:
        ada = accounts.find_principal(session, face.user_ids["ada"], "local")
        made = catalog.register_model(
            session, model_place("local", "neurons", 1), small_facts(structure="Neurons"), user_id=ada.user_id,
            size_bytes=5, made_by_job=None,
        )  # fmt: skip
    model_id = foreign_id(made.id)
    with face.client("ada") as ada, face.client("ben") as ben, face.client("cleo") as cleo:
        [shown] = listed(ada)
        assert shown == {
            "id": model_id, "name": "neurons", "isOwnedByUsersOrganization": True,
            "dataStore": {"name": "voxelworks", "url": face.info.url, "allowsUpload": False},
            "user": {
                "id": foreign_id(face.user_ids["ada"]), "email": "ada@example.org", "firstName": "Ada",
                "lastName": "Doe",
            },
            "comment": "", "trainingJob": None, "created": made.created_ms, "sharedOrganizationIds": ["local"],
            "category": "em_neurons", "path": None, "isUsable": True,
        }  # fmt: skip
        assert ada.get(f"/aiModels/{model_id}").json() == shown
        assert ada.get(f"/aiModels/{model_id}/voxelSize").json() == {
            "factor": [8, 8, 30],
            "unit": "nanometer",
        }
        assert listed(cleo) == []
        assert cleo.get(f"/aiModels/{model_id}").status_code == 404
        change = {"name": "cells", "comment": "good", "sharedOrganizationIds": ["local", "other"]}
        assert ben.put(f"/aiModels/{model_id}", json=change).status_code == 403
        changed = ada.put(f"/aiModels/{model_id}", json=change).json()
        assert changed == {**shown, **change}
        [seen] = listed(cleo)
        expected = {"isOwnedByUsersOrganization": False, "user": None, "sharedOrganizationIds": None}
        assert seen == {**changed, **expected}
        assert cleo.put(f"/aiModels/{model_id}", json={"name": "mine"}).status_code == 403
        assert cleo.delete(f"/aiModels/{model_id}").status_code == 403
        assert (
            ada.put(f"/aiModels/{model_id}", json={"name": "x", "sharedOrganizationIds": ["?"]}).status_code
            == 404
        )
        assert ada.delete(f"/aiModels/{model_id}").status_code == 200
        assert listed(ada) == listed(cleo) == []


def test_segmentations_are_started_as_older_and_newer_clients_do(face: Face):
    with face.database.session() as session:
        ada = accounts.find_principal(session, face.user_ids["ada"], "local")
        made = catalog.register_model(
            session, model_place("local", "mitochondria", 1), small_facts(), user_id=ada.user_id, size_bytes=5,
            made_by_job=None,
        )  # fmt: skip
    box = "0,0,0,8,8,8"
    older = {"layerName": "color", "bbox": box, "newDatasetName": "older"}
    newer = {
        "datasetId": face.dataset_id, "colorLayerName": "color", "boundingBox": box, "newDatasetName": "newer",
        "aiModelId": foreign_id(made.id), "invertColorLayer": True, "seedGeneratorDistanceThreshold": 20,
    }  # fmt: skip
    with face.client("ada") as client:
        first = client.post(f"/jobs/run/inferMitochondria/{face.dataset_id}", params=older).json()
        second = client.post("/aiModels/inferences/runInstanceModelInference", json=newer).json()
        neurons = {**newer, "newDatasetName": "other", "aiModelId": None}
        shipped = client.post("/aiModels/inferences/runNeuronModelInference", json=neurons)
        judged = client.post(
            "/aiModels/inferences/runNeuronModelInference", json={**neurons, "doSplitMergerEvaluation": True}
        )
        listed = client.get("/aiModels/inferences").json()
        shown = client.get(f"/aiModels/inferences/{second['id']}").json()
        missing = [client.get(f"/aiModels/inferences/{job}") for job in (face.find_largest(), "0" * 24)]
    with face.client("cleo") as cleo:
        assert cleo.get("/aiModels/inferences").json() == []
        assert cleo.get(f"/aiModels/inferences/{second['id']}").status_code == 404
    by_job = {item["id"]: item for item in listed}
    assert [by_job[job["id"]]["inferenceJob"]["command"] for job in (first, second)] == [
        "infer_mitochondria", "infer_instances",
    ]  # fmt: skip
    assert shown == by_job[second["id"]]
    assert shown.keys() == {
        "id", "dataStore", "newSegmentationLayerName", "maskAnnotationLayerName", "inferenceJob", "aiModel", "user",
        "newDataset", "created",
    }  # fmt: skip
    assert (shown["aiModel"]["id"], shown["newSegmentationLayerName"]) == (
        foreign_id(made.id),
        "segmentation",
    )
    assert (shown["user"]["email"], shown["newDataset"]) == ("ada@example.org", None)
    assert [answer.status_code for answer in missing] == [404, 404]
    assert (first["command"], second["command"]) == ("infer_mitochondria", "infer_instances")
    with face.database.read_session() as session:
        by_id = {
            native_id(job["id"]): jobs.show(session, native_id(job["id"]), by=ada, settings=face.settings).job
            for job in (first, second)
        }
    params = [job.params for job in by_id.values()]
    assert [item["model"] for item in params] == ["mitochondria@1"] * 2
    assert [item["box"] for item in params] == [box] * 2
    told = (params[1]["invert_color_layer"], params[1]["seed_generator_distance_threshold_nm"])
    assert told == (True, 20)
    # Without a model it is the one of neurons that comes with Voxelworks.
    assert (shipped.status_code, shipped.json()["command"]) == (200, "infer_neurons")
    assert "run evaluate_segmentation on the result" in judged.text


def upload_annotation(face: Face, nml: str, dataset: str | None = "demo") -> str:
    """Upload a skeleton file of ada's; give its id as the protocol has it."""
    with httpx.Client(
        base_url=face.info.url, headers={"Authorization": f"Bearer {face.tokens['ada']}"}, trust_env=False
    ) as client:
        made = client.post(
            "/api/v1/annotations",
            files={"file": ("a.nml", nml)},
            data={"dataset": dataset} if dataset else {},
        )
        assert made.status_code == 201, made.text
    return foreign_id(made.json()["id"])


BOX_TAG = '<userBoundingBox topLeftX="0" topLeftY="0" topLeftZ="0" width="8" height="8" depth="8"/>'
VOLUME_TAG = "<volume id='0' name='Volume' fallbackLayer='segmentation'/>"
PAINTED = f"<things><parameters>{BOX_TAG}</parameters>{VOLUME_TAG}</things>"


@pytest.mark.parametrize(
    ("route", "command"),
    [
        ("runNeuronModelTraining", "train_neuron_model"),
        ("runInstanceModelTraining", "train_instance_model"),
    ],
)
def test_a_training_stands_for_its_model_until_that_is_there(face: Face, route: str, command: str):
    annotation = upload_annotation(face, PAINTED)
    learned_from = {"annotationId": annotation, "colorLayerName": "color", "mag": [1, 1, 1]}
    name = f"my-{command}"
    given = {
        "name": name, "comment": "", "aiModelCategory": "em_nuclei", "instanceDiameterNm": 500,
        "trainingAnnotations": [
            {**learned_from, "segmentationLayerName": "Volume"},
            {**learned_from, "segmentationLayerName": "segmentation"},
        ],
    }  # fmt: skip
    with face.client("ada") as client, face.client("cleo") as cleo:
        answer = client.post(f"/aiModels/{route}", json=given)
        assert answer.status_code == 200, answer.text
        model = answer.json()
        assert (model["name"], model["isUsable"], model["trainingJob"]["command"]) == (name, False, command)
        assert model["category"] == ("em_neurons" if command == "train_neuron_model" else "em_nuclei")
        job_id = model["trainingJob"]["id"]
        assert model["id"] == job_id
        assert model.keys() == client.get("/aiModels").json()[0].keys()
        asked = client.get(f"/aiModels/{job_id}").json()
        assert (asked["name"], asked["isUsable"]) == (name, False)
        assert job_id in {item["id"] for item in client.get("/aiModels").json()}
        assert cleo.get(f"/aiModels/{job_id}").status_code == 404
        assert job_id not in {item["id"] for item in cleo.get("/aiModels").json()}
        assert client.get(f"/aiModels/{face.find_largest()}").status_code == 404
        for state, publication in (
            ("succeeded", "pending"),
            ("queued", "none"),
        ):  # also while it is brought in
            with face.database.session() as session:
                row = session.get(JobRow, native_id(job_id))
                row.state, row.publication = state, publication
            assert job_id in {item["id"] for item in client.get("/aiModels").json()}
    with face.database.session() as session:
        ada = accounts.find_principal(session, face.user_ids["ada"], "local")
        view = jobs.show(session, native_id(job_id), by=ada, settings=face.settings).job
        image = {"dataset": "demo", "layer": "color"}
        truth = {"dataset": "demo", "layer": "segmentation"}
        first, second = view.params["boxes"]
        assert (first["image"], first["annotation"], first["volume_layer"]) == (
            image, native_id(annotation), "Volume",
        )  # fmt: skip
        assert (first["mag"], first["truth"]) == ("1", None)
        assert (second["truth"], second["box"], second["annotation"]) == (truth, "0,0,0,8,8,8", None)
        assert model["trainingJob"]["args"]["training_annotations"] == [
            {
                "annotationId": native_id(annotation),
                "colorLayerName": "color",
                "segmentationLayerName": "Volume",
                "mag": [1, 1, 1],
            }
        ]
        if command == "train_instance_model":
            assert (view.params["structure"], view.params["instance_diameter_nm"]) == ("nuclei", 500)
        made = catalog.register_model(
            session, model_place("local", name, 1), small_facts(), user_id=ada.user_id, size_bytes=5,
            made_by_job=view.id,
        )  # fmt: skip
    with face.client("ada") as client:
        found = client.get(f"/aiModels/{job_id}").json()
        assert (found["id"], found["isUsable"]) == (foreign_id(made.id), True)
        client.patch(f"/jobs/{job_id}/cancel")
        assert job_id not in {item["id"] for item in client.get("/aiModels").json()}
        taken = client.post(f"/aiModels/{route}", json=given)
        assert (taken.status_code, "choose another name" in taken.text) == (409, True)
        client.delete(f"/aiModels/{found['id']}")


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"trainingAnnotations": []}, 422, "trainingAnnotations is empty"),
        ({"workflowYaml": "tasks: {}"}, 422, "workflowYaml is for workflows of WEBKNOSSOS' own"),
        ({"instanceDiameterNm": 0}, 422, "instance_diameter_nm"),
        ({"name": "no name!"}, 422, "'no name!' is not a model name"),
        ({"annotationId": "0" * 24}, 404, "there is no annotation"),
        ({"colorLayerName": "nothing"}, 404, "has no layer 'nothing'"),
        ({"segmentationLayerName": "nothing"}, 404, "has no layer 'nothing'"),
        ({"segmentationLayerName": "color"}, 422, "is a color layer"),
        ({"mag": [1, 1]}, 422, "mag"),
        ({"nml": PAINTED.replace(BOX_TAG, "")}, 422, "no box is drawn in annotation"),
        (
            {"nml": PAINTED.replace(BOX_TAG, ""), "segmentationLayerName": "segmentation"},
            422,
            "no box is drawn in annotation",
        ),
        ({"dataset": None}, 422, "nobody has said which dataset"),
    ],
)
def test_trainings_that_cannot_be_are_refused(face: Face, changes, status, message):
    changes = dict(changes)
    annotation = upload_annotation(face, changes.pop("nml", PAINTED), changes.pop("dataset", "demo"))
    learned_from = {
        "annotationId": annotation, "colorLayerName": "color", "segmentationLayerName": "Volume", "mag": [1, 1, 1],
    }  # fmt: skip
    given = {"name": "refused", "trainingAnnotations": [learned_from]}
    for name, value in changes.items():
        (learned_from if name in learned_from else given)[name] = value
    with face.client("ada") as client:
        answer = client.post("/aiModels/runInstanceModelTraining", json=given)
        assert (answer.status_code, message in answer.text) == (status, True), answer.text
        assert "refused" not in {model["name"] for model in client.get("/aiModels").json()}


def test_who_may_not_submit_jobs_trains_nothing(face: Face):
    with face.client("cleo") as client:
        answer = client.post(
            "/aiModels/runNeuronModelTraining",
            json={
                "name": "mine",
                "trainingAnnotations": [
                    {
                        "annotationId": upload_annotation(face, PAINTED),
                        "colorLayerName": "color",
                        "segmentationLayerName": "Volume",
                        "mag": [1, 1, 1],
                    }
                ],
            },
        )
    assert answer.status_code == 404  # the annotation is ada's organization's
