"""The page of an annotation: what it holds, belongs to and was used for."""

from __future__ import annotations

import io
import re
import zipfile
from contextlib import closing

import pytest

from annotated_work import installed
from voxelworks import catalog
from voxelworks.db import SecretBox, open_database
from voxelworks.jobs._tables import JobRow
from voxelworks.protocol.messages import SealedResult
from voxelworks.protocol.people import Principal
from voxelworks.protocol.places import Places

NML = """<things><parameters><experiment name="cortex"/>
<userBoundingBox topLeftX="1" topLeftY="2" topLeftZ="3" width="4" height="5" depth="6"/></parameters>
<thing id="1" name="axon &lt;b&gt;" color.r="1" color.g="0" color.b="0"><nodes><node id="1" x="1" y="2" z="3"/>
<node id="2" x="4" y="5" z="6"/></nodes><edges><edge source="1" target="2"/></edges></thing>
<thing id="2"/>
<volume id="0" name="Edits" fallbackLayer="labels" location="data_0.zip" format="zarr3"/></things>"""
PROPERTIES = {
    "id": {"name": "cortex", "team": ""}, "scale": {"factor": [4, 4, 40], "unit": "nanometer"},
    "dataLayers": [
        {
            "name": "labels", "category": "segmentation", "elementClass": "uint32", "dataFormat": "zarr3",
            "boundingBox": {"topLeft": [0, 0, 0], "width": 8, "height": 8, "depth": 8}, "mags": [{"mag": [1, 1, 1]}],
        }
    ],
}  # fmt: skip


def _zip(files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


VOLUME = _zip({"1/c/0/0/0": b"data"})


@pytest.fixture(scope="module")
def cortex(served):
    job_id = served.convert("cortex")
    worker = served.worker("converter", convert=1)
    assert worker.claim().job_id == job_id
    worker.write_dataset("cortex", PROPERTIES)
    worker.succeed(
        SealedResult(
            kind="dataset", place="data:local/cortex", value={"dataset": "cortex", "layers": ["labels"]}
        )
    )
    worker.publish()
    return served.client.show_dataset("cortex")


def _taken_by(served, annotation_id):
    """Make a job that takes an annotation; give its id."""
    job_id = served.convert("applied")
    with closing(open_database(served.settings)) as database, database.session() as session:
        job = session.get_one(JobRow, job_id)
        job.workflow = "apply_annotation"
        job.params = {"dataset": "cortex", "annotation": annotation_id, "target": "applied"}
    return job_id


def _upload(served, content, **form):
    files = {"file": ("mine.zip", content)}
    return served.browser.post("/api/v1/annotations", files=files, data={"name": "mine", **form}).json()


def test_a_dataset_without_annotations_leads_to_the_forms_with_itself_chosen(served, cortex):
    page = served.browser.get(f"/datasets/{cortex.id}").text
    assert "There are none of this dataset" in page
    (address,) = re.findall(r'href="(/annotations\?[^"]+)"', page)
    assert served.browser.get(address).text.count("<option selected>cortex</option>") == 2
    typed = {"name": "mine", "address": "https://nowhere.example/annotations/5", "dataset": "cortex"}
    refused = served.browser.post("/annotations/link", data=typed)
    assert refused.status_code == 422
    assert 'value="mine"' in refused.text
    assert 'value="https://nowhere.example/annotations/5"' in refused.text
    assert refused.text.count("<option selected>cortex</option>") == 2


def test_the_page_shows_trees_volumes_dataset_and_boxes(served, cortex):
    made = _upload(served, _zip({"a.nml": NML, "data_0.zip": VOLUME}), dataset="cortex")
    contents = served.browser.get(f"/api/v1/annotations/{made['id']}/contents").json()
    assert contents == {
        "trees": [
            {"name": "axon <b>", "color": "#ff0000", "node_count": 2, "edge_count": 1},
            {"name": None, "color": None, "node_count": 0, "edge_count": 0},
        ],
        "edge_count": 1,
        "volume_layers": [
            {
                "name": "Edits", "fallback_layer": "labels", "location": "data_0.zip", "data_format": "zarr3",
                "size_bytes": len(VOLUME),
            }
        ],
    }  # fmt: skip
    page = served.browser.get(f"/annotations/{made['id']}").text
    assert "axon &lt;b&gt;" in page
    assert 'fill="#ff0000"' in page
    assert f'<a href="/datasets/{cortex.id}#layer-1">labels</a>' in page
    assert f"/datasets/{cortex.id}/view?box=1%2C2%2C3%2C4%2C5%2C6" in page
    assert "Jobs that took it" not in page
    for path in ("/annotations", "/datasets/cortex"):
        assert f'href="/annotations/{made["id"]}"' in served.browser.get(path).text
    assert "There are none of this dataset" not in served.browser.get("/datasets/cortex").text
    trashed = served.browser.post(f"/annotations/{made['id']}/trash", follow_redirects=True)
    assert "The annotation is in the trash." in trashed.text
    assert served.browser.get(f"/annotations/{made['id']}").status_code == 404


def test_the_file_is_looked_through_once(served):
    made = _upload(served, NML.replace("data_0.zip", "").encode())
    address = f"/api/v1/annotations/{made['id']}/contents"
    first = served.browser.get(address).json()
    (served.settings.annotations_dir / "local" / f"{made['id']}.nml").unlink()
    assert served.browser.get(address).json() == first
    assert first["volume_layers"][0]["size_bytes"] is None


def test_a_file_that_is_gone_is_said_on_the_page_and_the_rest_is_there(served):
    made = _upload(served, NML.encode())
    (served.settings.annotations_dir / "local" / f"{made['id']}.nml").unlink()
    answer = served.browser.get(f"/annotations/{made['id']}")
    assert answer.status_code == 200
    assert "cannot be read (No such file or directory); tell the operator" in answer.text
    assert "Volume layers</dt>" in answer.text


def test_one_that_is_not_fetched_leads_there_and_has_no_file(served):
    settings = served.settings
    with closing(open_database(settings)) as database, database.session() as session:
        who = Principal(user_id="local", organization_id="local", role="owner", name="Local")
        places = Places(settings.datasets_dir, remote_hosts=frozenset({"http://127.0.0.1:9"}))
        made = catalog.add_far_annotation(
            session, SecretBox(settings.secret_key_file), by=who, name="far", places=places,
            address="http://127.0.0.1:9/annotations/5f0123456789abcdef012345",
        )  # fmt: skip
    page = served.browser.get(f"/annotations/{made.id}").text
    assert 'href="http://127.0.0.1:9/annotations/5f0123456789abcdef012345"' in page
    assert "Trees" not in page
    for part in ("contents", "file"):
        answer = served.browser.get(f"/api/v1/annotations/{made.id}/{part}")
        assert answer.status_code == 422
        assert answer.json()["message"].startswith("annotation 'far' is ")


def test_it_is_picked_in_the_form_and_its_page_lists_the_job(served, cortex):
    with installed():
        made = _upload(served, NML.replace("data_0.zip", "").encode(), dataset="cortex")
        page = served.browser.get(f"/annotations/{made['id']}").text
        [path] = re.findall(r'href="(/workflows/apply_annotation\?[^"]+)"', page)
        form = served.browser.get(path.replace("&amp;", "&"), follow_redirects=True).text
        assert f'<option value="{made["id"]}" selected>mine – 2 trees, 1 volume layer</option>' in form
        other = _upload(served, NML.encode())
        job_id = _taken_by(served, made["id"])
        assert f'href="/jobs/{job_id}"' in served.browser.get(f"/annotations/{made['id']}").text
        assert f'href="/jobs/{job_id}"' not in served.browser.get(f"/annotations/{other['id']}").text
        served.client.cancel(job_id)


def test_real_annotations_are_taken_and_shown(served, test_data):
    for file in sorted((test_data / "formats" / "wk_annotations").iterdir()):
        answer = served.browser.post("/api/v1/annotations", files={"file": (file.name, file.read_bytes())})
        assert (file.name, answer.status_code) == (file.name, 201)
        page = served.browser.get(f"/annotations/{answer.json()['id']}")
        assert (file.name, page.status_code, "callout bad" in page.text) == (file.name, 200, False)
