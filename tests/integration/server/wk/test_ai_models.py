"""Models, as clients written for WEBKNOSSOS see and change them."""

from small_networks import small_facts
from voxelworks import accounts, catalog, jobs
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
        missing = client.post("/aiModels/inferences/runNeuronModelInference", json=neurons)
        judged = client.post(
            "/aiModels/inferences/runNeuronModelInference", json={**neurons, "doSplitMergerEvaluation": True}
        )
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
    assert missing.status_code == 404
    assert "run evaluate_segmentation on the result" in judged.text
