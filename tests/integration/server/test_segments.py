"""The table of segments: sorted, paged, searched, and with ways into the viewer."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

import voxelworks
from voxelworks.blocks.executor import SerialExecutor
from voxelworks.geometry import MAG1, Box, VoxelSize
from voxelworks.protocol.messages import SealedResult
from voxelworks.volumes.dataset import Dataset

from .conftest import Served


@dataclass
class Cells:
    """A linked dataset: cuboid `number` (of 130) lies at x = 4 * number and is `number % 3 + 1` voxels long."""

    id: str
    folder: Path


@pytest.fixture(scope="module")
def cells(served: Served) -> Cells:
    folder = Path(served.settings.import_roots["scope"].path) / "cells"
    dataset = Dataset.create(folder, VoxelSize(100, 100, 100))
    labels = np.zeros((3, 5, 520), "uint32")
    for number in range(130):
        labels[1:3, 1:4, 4 * number : 4 * number + number % 3 + 1] = 1000 + number
    box = Box((10, 20, 30), (520, 5, 3))
    for name, category in (("seg", "segmentation"), ("em", "color"), ("raw", "segmentation")):
        layer = dataset.add_layer(name, category, "uint32", 1, box)
        layer.add_mag(MAG1, shard_zyx=(64, 64, 64)).write(box, labels)
    dataset.write_metadata()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("voxelworks.blocks.executor.make_executor", lambda *_, **__: SerialExecutor())
        voxelworks.run("compute_segment_statistics", layer=f"{folder}/seg", image_layers="em")
    linked = served.browser.post("/api/v1/datasets", json={"name": "cells", "place": "root:scope/cells"})
    return Cells(linked.json()["id"], folder)


def open_page(served, cells, query="", layer="seg"):
    return served.browser.get(f"/datasets/{cells.id}/segments/{layer}{query}")


def ids(answer):
    return [int(text) for text in re.findall(r'title="Show in the viewer">(\d+)</a>', answer.text)]


def test_a_table_is_paged_and_sorted(served, cells):
    first = open_page(served, cells)
    assert first.status_code == 200
    assert "130 segments, measured in mag 1" in first.text
    assert ids(first) == list(range(1000, 1050))
    assert ids(open_page(served, cells, "?page=3")) == list(range(1100, 1130))
    # Beyond the last page is the last.
    assert ids(open_page(served, cells, "?page=99")) == list(range(1100, 1130))
    small = open_page(served, cells, "?sort=volume_nm3&order=up")
    assert ids(small)[:44] == list(range(1000, 1130, 3))
    large = open_page(served, cells, "?sort=volume_nm3&order=down")
    assert ids(large)[:43] == list(range(1128, 1000, -3))
    assert ids(open_page(served, cells, "?sort=mean_em&order=down&page=3"))[-1] == 1000
    assert 'aria-sort="descending"' in large.text
    refused = open_page(served, cells, "?sort=box_x")
    assert refused.status_code == 422
    assert "cannot be sorted by &#39;box_x&#39;; sort by one of: id, voxels" in refused.text


def test_a_segment_is_found_by_its_id(served, cells):
    found = open_page(served, cells, "?segment=1077")
    assert ids(found) == list(range(1050, 1100))
    assert re.findall(r'class="is-wanted">.*?(\d{4})</a>', found.text, re.DOTALL) == ["1077"]
    for wanted in ("7", "99999999999999999999999", "x"):
        missing = open_page(served, cells, f"?segment={wanted}")
        assert missing.status_code == 200
        assert "There is no segment" in missing.text


def test_a_row_says_what_was_measured_and_opens_the_viewer_at_its_segment(served, cells):
    page = open_page(served, cells).text
    row = unescape(page[page.index(">1002<") : page.index(">1003<")])
    # 18 voxels of 0.001 µm³ each.
    assert "0.01800<" in row.replace("\u202f", "")
    assert "18 voxels" in row
    assert "3 × 3 × 2" in row
    assert "at 18, 21, 31" in row
    assert "1\u202f002 ± 0<" in row
    link = re.search(r'href="([^"]*)"[^>]*>1002<', page)
    assert link is not None
    address = unescape(link[1])
    assert parse_qs(urlsplit(address).query) == {
        "box": ["18,21,31,3,3,2"], "position": ["19.5,21.5,31.5"], "segment": ["seg/1002"],
    }  # fmt: skip
    viewer = served.browser.get(address)
    assert viewer.status_code == 200
    state = json.loads(unescape(re.search(r"data-state=\"([^\"]*)\"", viewer.text)[1]))
    shown = {layer["name"]: layer for layer in state["layers"]}
    assert shown["seg"]["segments"] == ["1002"]
    assert "segments" not in shown["raw"]
    assert [name for name, item in shown.items() if not item.get("visible", True)] == ["raw"]
    assert state["position"] == [19.5, 21.5, 31.5]
    assert served.browser.get(f"/datasets/{cells.id}/view?segment=none/5").status_code == 404
    assert served.browser.get(f"/datasets/{cells.id}/view?segment=seg/-1").status_code == 422


def test_the_histogram_counts_every_segment(served, cells):
    page = open_page(served, cells, "?sort=voxels&order=up").text
    assert ("6</span>" in page, "18</span>" in page) == (True, True)
    counts = [int(text) for text in re.findall(r"<title>(\d+) segments of", page)]
    assert counts == [44, 43, 43]


def test_the_page_of_the_dataset_leads_to_the_table_and_the_table_to_its_file(served, cells):
    page = served.browser.get(f"/datasets/{cells.id}").text
    assert f"/datasets/{cells.id}/segments/seg" in page
    assert f"/datasets/{cells.id}/segments/raw" not in page
    address = re.search(r'href="(/api/v1/datasets/[^"]*/segments.csv)"', open_page(served, cells).text)
    assert address is not None
    lines = served.browser.get(address[1]).text.splitlines()
    assert (len(lines), lines[0].split(",")[:2]) == (131, ["id", "voxels"])
    parquet = served.browser.get(address[1].replace(".csv", ".parquet")).content
    assert (parquet[:4], parquet[-4:]) == (b"PAR1", b"PAR1")
    link = f'href="{address[1].replace(".csv", ".parquet")}"'
    assert link in open_page(served, cells).text
    # Tables of before have no such file.
    file = cells.folder / "seg/segmentStatistics/segment_statistics/segments.parquet"
    file.rename(file.with_suffix(".away"))
    try:
        assert link not in open_page(served, cells).text
    finally:
        file.with_suffix(".away").rename(file)


def downloads(page):
    """Give the files of tables that a page offers, with the names under which they are saved."""
    found = re.findall(r'href="(/api/v1/datasets/[^"]*)" download="([^"]*)"', page)
    return {name: unescape(address) for address, name in found}


def test_the_page_of_the_dataset_offers_the_files_of_what_was_measured(served, cells):
    found = downloads(served.browser.get(f"/datasets/{cells.id}").text)
    assert sorted(found) == ["cells-seg-segments.csv", "cells-seg-segments.parquet"]
    assert served.browser.get(found["cells-seg-segments.parquet"]).content[:4] == b"PAR1"
    with served.anonymous() as stranger:
        assert stranger.get(found["cells-seg-segments.csv"]).status_code == 401


def test_the_page_of_a_job_offers_the_files_of_what_it_measured(served, cells):
    worker, made = served.worker(convert=1, compute_segment_statistics=1), served.convert("measured")
    while worker.claim().job_id != made:
        worker.fail("user_input", "not-wanted", "left over from another test")
    shutil.copytree(cells.folder, worker.data_dir / "local/measured")
    place = "data:local/measured"
    worker.succeed(SealedResult(kind="dataset", place=place, value={"dataset": "measured"}))
    worker.publish()
    job = served.client.submit("compute_segment_statistics", {"layer": "measured/seg"})
    assert worker.claim().job_id == job.id
    worker.succeed(SealedResult(kind="addition", place=place, layer="seg", value={"segment_count": 130}))
    assert downloads(served.browser.get(f"/jobs/{job.id}").text) == {}
    worker.publish()
    page = served.browser.get(f"/jobs/{job.id}").text
    found = downloads(page)
    assert sorted(found) == ["measured-seg-segments.csv", "measured-seg-segments.parquet"]
    for address in found.values():
        assert served.browser.get(address).status_code == 200
    assert f'href="/datasets/{served.client.show_dataset("measured").id}/segments/seg"' in page
    assert downloads(served.browser.get(f"/jobs/{made}").text) == {}, "that job has measured nothing"


def test_a_layer_that_was_not_measured_offers_to_do_so(served, cells):
    page = open_page(served, cells, layer="raw")
    assert page.status_code == 200
    assert "Not measured yet" in page.text
    assert f"/workflows/compute_segment_statistics/new?dataset={cells.id}&amp;layer=raw" in page.text
    assert open_page(served, cells, layer="em").status_code == 422
    assert open_page(served, cells, layer="none").status_code == 404


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("table.json", b"{}"),
        ("table.json", b"{" * 10_000),
        ("rows.bin", b"short"),
        ("by_voxels.bin", b"\xff" * (8 * 130)),
        ("by_voxels.bin", None),
    ],
)
def test_a_damaged_table_is_refused_with_the_way_out(served, cells, file, content):
    path = cells.folder / "seg/segmentStatistics/segment_statistics/table" / file
    kept = path.read_bytes()
    try:
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        answer = open_page(served, cells, "?sort=voxels")
        assert answer.status_code == (422 if content is not None else 404)
        assert ("compute the statistics anew" in answer.text) == (content is not None)
    finally:
        path.write_bytes(kept)


def test_a_table_outside_the_dataset_is_not_read(served, cells):
    path = cells.folder / "datasource-properties.json"
    kept = path.read_text()
    try:
        for place in ("/etc", "../cells/seg/segmentStatistics/segment_statistics"):
            properties = json.loads(kept)
            properties["dataLayers"][0]["segmentTable"] = place
            path.write_text(json.dumps(properties))
            assert "Not measured yet" in open_page(served, cells).text
    finally:
        path.write_text(kept)
