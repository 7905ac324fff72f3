"""Pictures of datasets on the pages and in the API, and the jobs that make them."""

from __future__ import annotations

import json
import re

import pytest

from voxelworks.protocol.messages import SealedResult

VOLUME = {"topLeft": [0, 0, 0], "width": 800, "height": 400, "depth": 10}
NAMES = {"color": "a" * 31, "labels": "b" * 31}


def _properties(name="drawn"):
    layers = [
        {
            "name": layer, "category": category, "elementClass": kind, "dataFormat": "zarr3", "numChannels": 1,
            "boundingBox": VOLUME, "mags": [{"mag": [1, 1, 1]}, {"mag": [4, 4, 1]}], **more,
        }
        for layer, category, kind, more in (
            ("color", "color", "uint8", {}),
            (
                "labels", "segmentation", "uint32",
                {"attachments": {"meshes": [{"name": "coarse", "path": "x", "dataFormat": "zarr3"}], "cumsum": 5}},
            ),
        )
    ]  # fmt: skip
    return {
        "id": {"name": name, "team": ""},
        "scale": {"factor": [4, 4, 40], "unit": "nanometer"},
        "dataLayers": layers,
    }


def _preview(layer):
    slices = [
        {"plane": plane, "box": box, "width": width, "height": height, "file": f"{NAMES[layer]}{number}.webp"}
        for number, (plane, box, width, height) in enumerate(
            [
                ("xy", "0,0,5,800,400,1", 512, 256), ("xz", "0,200,0,800,1,10", 512, 64),
                ("yz", "400,0,0,1,400,10", 256, 64),
            ]
        )
    ]  # fmt: skip
    return {"slices": slices, "thumbnail": {"file": f"{NAMES[layer]}f.webp", "width": 160, "height": 80}}


def _draw(folder, layers=("color", "labels")):
    """Put pictures where a worker would; their content is their name."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {layer: _preview(layer) for layer in layers}
    (folder / "index.json").write_text(json.dumps({"version": 1, "layers": drawn}))
    for preview in drawn.values():
        for picture in (*preview["slices"], preview["thumbnail"]):
            (folder / picture["file"]).write_text(picture["file"])


@pytest.fixture(scope="module")
def worker(served):
    return served.worker("painter", convert=1, describe=1)


@pytest.fixture(scope="module")
def drawn(served, worker):
    """A dataset with pictures, and the id of the job that made it."""
    job_id = served.convert("drawn")
    worker.claim()
    worker.write_dataset("drawn", _properties())
    _draw(served.settings.datasets_dir / "local" / "drawn" / ".previews")
    worker.succeed(
        SealedResult(
            kind="dataset",
            place="data:local/drawn",
            value={"dataset": "drawn", "layers": ["color", "labels"]},
        )
    )
    worker.publish()
    return served.browser.get("/api/v1/datasets/drawn").json(), job_id


def _images(page):
    return re.findall(r'<img [^>]*src="([^"]+)"[^>]* alt="([^"]*)"', page)


def test_the_api_says_where_pictures_are_and_what_they_cover(drawn):
    dataset, _ = drawn
    first = dataset["summary"]["layers"][1]["preview"]["slices"][1]
    name = f"{NAMES['labels']}1"
    assert first == {
        "plane": "xz", "box": "0,200,0,800,1,10", "width": 512, "height": 64, "file": f"{name}.webp",
        "address": f"/datasets/{dataset['id']}/preview/labels/xz.webp?v={name}",
    }  # fmt: skip
    assert dataset["summary"]["layers"][1]["attachments"] == ["meshes/coarse"]


def test_each_address_gives_its_picture_to_be_kept_for_ever(served, drawn):
    dataset, _ = drawn
    for layer in dataset["summary"]["layers"]:
        for picture in (*layer["preview"]["slices"], layer["preview"]["thumbnail"]):
            answer = served.browser.get(picture["address"])
            assert (answer.status_code, answer.text) == (200, picture["file"])
            assert answer.headers["content-type"] == "image/webp"
            assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
            etag = answer.headers["etag"]
            again = served.browser.get(picture["address"], headers={"If-None-Match": etag})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)


def test_an_address_without_the_version_is_asked_for_each_time(served, drawn):
    dataset, _ = drawn
    for query in ("", "?v=0", "?v=" + "c" * 32):
        answer = served.browser.get(f"/datasets/{dataset['id']}/preview/color/xy.webp{query}")
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "private, no-cache")


@pytest.mark.parametrize(
    "rest",
    [
        "color/zz.webp", "color/index.webp", "other/xy.webp", "..%2Fcolor/xy.webp", "color/..%2Fxy.webp",
        "%2E%2E/xy.webp", "color/xy.png",
    ],
)  # fmt: skip
def test_other_names_give_nothing(served, drawn, rest):
    dataset, _ = drawn
    answer = served.browser.get(f"/datasets/{dataset['id']}/preview/{rest}")
    assert answer.status_code in (404, 422)
    assert answer.headers["cache-control"] == "no-store"


def test_pictures_are_for_those_who_are_let_in(served, drawn):
    dataset, _ = drawn
    with served.anonymous() as stranger:
        assert (
            stranger.get(dataset["summary"]["layers"][0]["preview"]["thumbnail"]["address"]).status_code
            == 401
        )
    with served.anonymous(Authorization=f"Bearer {served.info.token}") as program:
        assert (
            program.get(dataset["summary"]["layers"][0]["preview"]["thumbnail"]["address"]).status_code == 200
        )


def test_the_list_shows_a_small_picture_of_each_dataset_and_what_is_stored(served, drawn):
    page = served.browser.get("/datasets").text
    dataset, _ = drawn
    address = dataset["summary"]["layers"][0]["preview"]["thumbnail"]["address"]
    assert (address, "Slice through drawn") in _images(page)
    [image] = [tag for tag in re.findall(r"<img [^>]*>", page) if address in tag]
    assert 'loading="lazy"' in image
    assert 'width="80" height="80"' in image
    assert "in use</a>" in page


def test_the_page_of_a_dataset_shows_slices_with_their_extent_and_where_they_are(served, drawn):
    page = served.browser.get("/datasets/drawn").text
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page))
    assert "xy at z = 5 3.2 × 1.6 µm" in text
    assert "xz at y = 200 3.2 × 0.4 µm" in text
    assert "yz at x = 400 1.6 × 0.4 µm" in text
    assert "4-4-1 16 × 16 × 40 nm" in text
    assert "Attachmentsmeshes/coarse" in text
    images = [(address.rpartition("?v=")[2], alt) for address, alt in _images(page)]
    color, labels = NAMES["color"], NAMES["labels"]
    assert images == [
        (color + "0", "Slice xy through layer color of drawn at z = 5"),
        (color + "1", "Slice xz through layer color of drawn at y = 200"),
        (color + "2", "Slice yz through layer color of drawn at x = 400"),
        # A segmentation lies on the images of the same extent.
        (color + "0", ""), (labels + "0", "Slice xy through layer labels of drawn at z = 5"),
        (color + "1", ""), (labels + "1", "Slice xz through layer labels of drawn at y = 200"),
        (color + "2", ""), (labels + "2", "Slice yz through layer labels of drawn at x = 400"),
    ]  # fmt: skip


def test_the_page_of_a_dataset_leads_to_the_job_that_made_it_with_its_params(served, drawn):
    dataset, job_id = drawn
    page = served.browser.get("/datasets/drawn").text
    assert f'<a href="/jobs/{job_id}">Convert</a> <span class="tag">made it</span>' in page
    assert "convert version 1" in page
    assert "source root:scope/run1, target drawn, voxel size 4,4,40" in page
    assert dataset["made_by_job"] == job_id


def test_jobs_are_offered_with_the_dataset_and_the_layer_filled_in(served, drawn):
    dataset, _ = drawn
    page = served.browser.get("/datasets/drawn").text
    for address in (
        f"/workflows/downsample/new?dataset={dataset['id']}&amp;layer=color",
        f"/workflows/find_largest_segment_id/new?dataset={dataset['id']}&amp;layer=labels",
        f"/workflows/describe/new?dataset={dataset['id']}",
    ):
        assert f'href="{address}"' in page
    form = served.browser.get(f"/workflows/downsample/new?dataset={dataset['id']}&layer=labels").text
    assert re.search(r'<option value="drawn" selected>', form)
    assert re.search(r'<option value="labels" selected>', form)


def test_the_page_of_a_job_shows_what_it_made(served, drawn):
    _, job_id = drawn
    images = _images(served.browser.get(f"/jobs/{job_id}").text)
    assert len(images) == 9
    assert all(served.browser.get(address).status_code == 200 for address, _ in images)


def test_a_linked_dataset_is_drawn_by_itself_and_never_written_to(served, drawn, worker):
    source = served.settings.import_roots["scope"].path / "brain"
    source.mkdir()
    (source / "datasource-properties.json").write_text(json.dumps(_properties("brain")))
    linked = served.browser.post(
        "/api/v1/datasets", json={"name": "brain", "place": "root:scope/brain"}
    ).json()
    page = served.browser.get("/datasets/brain").text
    assert "Its pictures are being made" in page
    claim = worker.claim()
    assert (claim.workflow, claim.params) == ("describe", {"dataset": "brain"})
    place = f"previews:local/@{linked['id']}"
    assert claim.places["previews:brain"] == place
    _draw(served.settings.datasets_dir / "local" / f".previews-{linked['id']}", ["color"])
    worker.succeed(
        SealedResult(kind="previews", place=place, value={"dataset": "brain", "layers": ["color"]})
    )
    worker.publish()
    page = served.browser.get("/datasets/brain").text
    addresses = [address for address, _ in _images(page)]
    assert len(addresses) == 3
    assert all(served.browser.get(address).status_code == 200 for address in addresses)
    assert [path.name for path in source.iterdir()] == ["datasource-properties.json"]
    assert len(_images(served.browser.get(f"/jobs/{claim.job_id}").text)) == 3


def test_why_there_are_no_pictures_is_said_and_they_can_be_asked_for_again(served, drawn, worker):
    source = served.settings.import_roots["scope"].path / "odd"
    source.mkdir()
    (source / "datasource-properties.json").write_text(json.dumps(_properties("odd")))
    linked = served.browser.post("/api/v1/datasets", json={"name": "odd", "place": "root:scope/odd"}).json()
    worker.claim()
    worker.fail("user_input", "unsupported-format", "color is stored as 'wkw'")
    page = served.browser.get("/datasets/odd").text
    assert "There are no pictures of this dataset yet." in page
    assert "failed: Color is stored as &#39;wkw&#39;." in page
    answer = served.browser.post(f"/datasets/{linked['id']}/preview")
    assert answer.status_code == 303
    assert answer.headers["location"] == f"/jobs/{worker.claim().job_id}"
    assert "Its pictures are being made" in served.browser.get("/datasets/odd").text
