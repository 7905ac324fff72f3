"""The pages as they are before any script runs."""

from __future__ import annotations

import base64
import csv
import io
import re

import pytest

from voxelworks.protocol.messages import Curve, Picture, Progress, SessionRequest
from voxelworks.server import rendering
from voxelworks.server.pages import jobs as jobs_pages
from voxelworks.workflows import workflows


def text_of(page: str) -> str:
    """Give the words of a page, without tags."""
    main = re.search(r"(?s)<main[^>]*>(.*)</main>", page)
    assert main is not None
    body = re.sub(r"(?s)<(script|svg)\b.*?</\1>", " ", main[1])
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body)).replace("&#39;", "'").replace("&#34;", '"')


def test_an_address_opens_a_form_whatever_its_fields_are_called(served):
    opened = served.browser.get("/workflows/downsample?dataset=demo&layer=em&coarsest_mag=4")
    assert (opened.status_code, opened.headers["location"]) == (
        303,
        "/workflows/downsample/new?dataset=demo&layer=em&coarsest_mag=4",
    )
    form = served.browser.get(opened.headers["location"]).text
    assert 'value="em"' in form
    assert 'value="4"' in form
    assert served.browser.get("/workflows/downsample").headers["location"] == "/workflows/downsample/new"
    assert served.browser.get("/workflows/nope").status_code == 404


def test_the_workflows_are_grouped_by_what_they_are_for(served):
    words = text_of(served.browser.get("/workflows").text)
    in_order = [
        " AI analysis ", "Segment neurons", " Training ", "Train a model that tells neurons apart", " Data ",
        "Convert image stacks to a chunked",
    ]  # fmt: skip
    places = [words.index(text) for text in in_order]
    assert places == sorted(places)


def test_every_workflow_has_a_form_with_all_its_fields(served):
    index = served.browser.get("/workflows").text
    for name, workflow in workflows().items():
        assert f'href="/workflows/{name}/new"' in index
        form = served.browser.get(f"/workflows/{name}/new").text
        for field in workflow.fields:
            assert f'name="{field.name}"' in form
            assert text_of(form).count(field.label) >= 1


def test_a_form_submits_a_job_and_leads_to_its_page(served):
    form = {
        "source": "root:scope/run1", "layer_name": "color", "category": "color", "target": "by_form",
        "voxel_size": "4,4,40", "fill_missing": ["false", "true"], "pyramid": ["false"], "action": "submit",
        "key": "k1",
    }  # fmt: skip
    answer = served.browser.post("/workflows/convert/new", data=form)
    assert answer.status_code == 303
    job = served.client.show(answer.headers["location"].rpartition("/")[2]).job
    assert (job.params["fill_missing"], job.params["pyramid"], job.params["target"]) == (
        True,
        False,
        "by_form",
    )
    assert (
        served.browser.post("/workflows/convert/new", data=form).headers["location"]
        == answer.headers["location"]
    )


def test_a_wrong_form_is_shown_again_with_its_values_and_the_problem_beside_the_field(served):
    form = {"source": "root:scope/nothing", "target": "kept_value", "voxel_size": "4,4", "action": "submit"}
    answer = served.browser.post("/workflows/convert/new", data=form)
    assert answer.status_code == 422
    assert 'value="kept_value"' in answer.text
    assert problem_of(answer.text, "input-voxel_size") == (
        "'4,4' is not a voxel size; write x,y,z in nanometres, such as 4,4,40"
    )
    answer = served.browser.post("/workflows/convert/new", data=form | {"voxel_size": "4,4,40"})
    assert "'root:scope/nothing'" in problem_of(answer.text, "input-source-0")
    answer = served.browser.post("/workflows/convert/new", data={"action": "submit"})
    assert problem_of(answer.text, "input-target") == "Fill this in."


def test_a_form_takes_a_priority(served):
    form = {
        "source": "root:scope/run1", "layer_name": "color", "category": "color", "target": "later",
        "voxel_size": "4,4,40", "action": "submit",
    }  # fmt: skip
    for typed in ("soon", "25", "1.5"):
        refused = served.browser.post("/workflows/convert/new", data=form | {"priority": typed})
        assert refused.status_code == 422
        assert problem_of(refused.text, "input-priority") == (
            f"{typed!r} is no priority; give a whole number from -24 to 24"
        )
        assert f'name="priority" value="{typed}"' in refused.text, "it can be corrected"
    answer = served.browser.post("/workflows/convert/new", data=form | {"priority": "\N{MINUS SIGN}5"})
    assert served.client.show(answer.headers["location"].rpartition("/")[2]).job.priority == -5
    answer = served.browser.post("/workflows/convert/new", data=form | {"priority": "", "target": "now"})
    assert served.client.show(answer.headers["location"].rpartition("/")[2]).job.priority == 0


def test_the_form_grows_and_shrinks_by_layers(served):
    form = {
        "source": ["a"],
        "layer_name": ["first"],
        "category": ["color"],
        "rows:layers": "1",
        "target": "t",
    }
    grown = served.browser.post("/workflows/convert/new", data=form | {"action": "add:layers"}).text
    assert (grown.count('name="source"'), 'value="first"' in grown, 'value="t"' in grown) == (2, True, True)
    two = form | {
        "source": ["a", "b"],
        "layer_name": ["first", "second"],
        "category": ["color"] * 2,
        "rows:layers": "2",
    }
    shrunk = served.browser.post("/workflows/convert/new", data=two | {"action": "remove:layers:0"}).text
    assert (shrunk.count('name="source"'), 'value="first"' in shrunk, 'value="second"' in shrunk) == (
        1,
        False,
        True,
    )


def test_a_list_is_downloaded_as_a_table(served, monkeypatch):
    monkeypatch.setattr(jobs_pages, "TABLE_PIECE", 2)
    ids = [served.convert(f"tabled{number}") for number in range(3)]
    params = {"layers": [{"source": "root:scope/run1"}], "target": "calculated"}
    ids.append(served.client.submit("convert", params, group="=1+1").id)
    served.client.cancel(ids[1])
    answer = served.browser.get("/jobs.csv?workflow=convert")
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["job"] for row in rows][:4] == ids[::-1], "newest first, across the pieces"
    assert rows[0]["group"] == "'=1+1", "no formula"
    assert len({row["job"] for row in rows}) == len(rows)
    assert (rows[2]["dataset"], rows[2]["state"], rows[2]["ended"] != "") == ("tabled1", "cancelled", True)
    assert (rows[3]["started"], rows[3]["seconds"], rows[3]["credits"]) == ("", "", "")
    cancelled = list(csv.DictReader(io.StringIO(served.browser.get("/jobs.csv?state=cancelled").text)))
    assert {row["state"] for row in cancelled} == {"cancelled"}
    assert '/jobs.csv?state=cancelled"' in served.browser.get("/jobs?state=cancelled").text


def test_jobs_are_searched_on_the_page_and_by_programs(served):
    job = served.convert("needle_in_the_hay")
    page = served.browser.get("/jobs?text=NEEDLE").text
    assert f'href="/jobs/{job}"' in page
    assert page.count('class="row-link"') == 1
    assert 'name="text" value="NEEDLE"' in page
    assert "/jobs/live?text=NEEDLE&amp;" in page, "it stays so while it is open"
    assert [found.id for found in served.client.list_jobs(text="needle").jobs] == [job]
    table = served.browser.get("/jobs.csv?text=needle").text
    assert table.count(job) == 1
    assert len(table.splitlines()) == 2
    assert "No job matches these filters" in served.browser.get("/jobs?text=no-such-needle").text
    long = served.browser.get("/jobs", params={"text": "x" * 300})
    assert (long.status_code, "too long" in text_of(long.text)) == (422, True)


def _table_of(page):
    rows = re.findall(
        r'(?s)<th role="rowheader" scope="row">(.*?)</th>\s*<td[^>]*>(.*?)</td>\s*<td[^>]*>(.*?)</td>', page
    )
    return {label: (left, right) for label, left, right in rows}


def test_two_jobs_are_compared(served):
    params = {"layers": [{"source": "root:scope/run1"}], "target": "one", "voxel_size": "4,4,40"}
    one = served.client.submit("convert", params).id
    two = served.client.submit(
        "convert",
        params
        | {"target": "two", "layers": [*params["layers"], {"source": "root:scope/run1", "layer_name": "b"}]},
    ).id
    served.client.cancel(two)
    assert f'href="/jobs/{one}/compare"' in served.browser.get(f"/jobs/{one}").text
    offered = served.browser.get(f"/jobs/{one}/compare").text
    assert f'<a href="/jobs/{one}/compare?other={two}">two</a>' in offered
    differences = _table_of(served.browser.get(f"/jobs/{one}/compare?other={two}").text)
    assert differences["Target"] == ("one", "two")
    assert differences["Layer 2: layer name"] == ("–", "b")
    assert differences["State"] == ("Queued", "Cancelled")
    assert "Voxel size" not in differences
    assert "Layer: source" not in differences
    everything = _table_of(served.browser.get(f"/jobs/{one}/compare?other={two}&everything=true").text)
    assert everything["Voxel size"] == ("4,4,40", "4,4,40")
    assert everything["Layer: source"] == ("root:scope/run1",) * 2
    same = served.browser.get(f"/jobs/{one}/compare?other={one}").text
    assert "The two jobs are the same" in text_of(same)


def test_only_jobs_of_one_workflow_are_compared(served):
    job, other = served.convert("compared"), "nope"
    assert served.browser.get(f"/jobs/{job}/compare?other={other}").status_code == 404
    search = served.client.submit("find_largest_segment_id", {"layer": f"job:{job}/color"}).id
    refused = served.browser.get(f"/jobs/{job}/compare?other={search}")
    assert refused.status_code == 422
    assert "only jobs of one workflow can be compared" in text_of(refused.text)


def test_a_job_can_be_duplicated_with_its_values(served):
    params = {
        "layers": [{"source": "root:scope/run1"}, {"source": "root:scope/empty", "layer_name": "labels"}],
        "target": "original", "pyramid": False,
    }  # fmt: skip
    job = served.client.submit("convert", params)
    form = served.browser.get(f"/workflows/convert/new?from={job.id}").text
    assert form.count('name="source"') == 2
    assert 'value="root:scope/empty"' in form
    assert 'value="labels"' in form
    assert re.search(r'value="true" id="input-pyramid"[^>]*checked', form) is None


def test_the_page_of_a_running_job(served):
    job_id = served.convert("pictured")
    worker = served.worker("scope-pc", convert=1)
    while worker.claim().job_id != job_id:
        worker.fail("user_input", "x", "not wanted")
    worker.renew(Progress(phase="color: mag 1 to 4", done=45, total=100, text="9 of 20 blocks"))
    worker.log("hello from the worker\n")
    words = text_of(served.browser.get(f"/jobs/{job_id}").text)
    for expected in (
        "Convert pictured", "Running", "color: mag 1 to 4", "45 %", "9 of 20 blocks", "Worker scope-pc",
        "hello from the worker", "Voxel size 4,4,40", "Pyramid true default", "Cancel",
    ):  # fmt: skip
        assert expected in words
    assert "Retry" not in words
    worker.fail("program_error", "block-failed", "block 3 failed 3 times")
    words = text_of(served.browser.get(f"/jobs/{job_id}").text)
    for expected in ("Failed", "Program error block-failed block 3 failed 3 times", "Retry", "48 MiB"):
        assert expected in words


def test_the_page_of_a_training_shows_curves_and_a_picture(served):
    job_id = served.convert("learning")
    worker = served.worker("scope-pc", convert=1)
    while worker.claim().job_id != job_id:
        worker.fail("user_input", "x", "not wanted")
    png = b"\x89PNG\r\n\x1a\n" + bytes(20)
    picture = Picture(
        name="Prediction at step 400", step=400, width=484, height=160, png=base64.b64encode(png).decode()
    )
    curve = Curve(name="Loss in training", points=((200, 0.75), (400, 0.5)))
    progress = Progress(phase="training", done=400, total=1000, curves=(curve,), picture=picture)
    worker.renew(progress)
    page = served.browser.get(f"/jobs/{job_id}").text
    assert 'aria-label="Loss in training 0.5 at step 400"' in page
    address = f"/jobs/{job_id}/picture.png?attempt=1&amp;step=400"
    assert f'src="{address}" width="484" height="160" alt="Prediction at step 400"' in page
    shown = served.browser.get(address.replace("&amp;", "&"))
    assert (shown.status_code, shown.headers["content-type"], shown.content) == (200, "image/png", png)
    # Views name the picture and do not hold it; lists have neither.
    (told,) = (job.progress for job in served.client.list_jobs().jobs if job.id == job_id)
    assert (told.curves, told.picture) == ((), None)
    assert served.client.show(job_id).job.progress.picture == picture.model_copy(update={"png": ""})
    worker.renew(progress.model_copy(update={"picture": picture.model_copy(update={"png": "PHN2Zz4="})}))
    assert served.browser.get(f"/jobs/{job_id}/picture.png").status_code == 404
    worker.renew(progress.model_copy(update={"picture": None}))
    assert served.browser.get(f"/jobs/{job_id}/picture.png").status_code == 404
    worker.fail("user_input", "x", "not wanted")


def test_a_queued_job_says_why_it_waits(served):
    job_id = served.convert("waiting")
    words = text_of(served.browser.get(f"/jobs/{job_id}").text)
    wait = served.client.show(job_id).job.wait
    assert wait is not None
    assert wait.reason.rstrip(".")[1:] in words


def test_cancel_and_retry_buttons(served):
    job_id = served.convert("pressed")
    assert served.browser.post(f"/jobs/{job_id}/cancel").headers["location"] == f"/jobs/{job_id}"
    assert served.client.show(job_id).job.state == "cancelled"
    again = served.browser.post(f"/jobs/{job_id}/retry").headers["location"]
    words = text_of(served.browser.get(again).text)
    assert f"Repeats {job_id}" in words


def test_the_list_filters_by_the_address(served):
    job_id = served.convert("listed")
    served.client.cancel(job_id)
    everything = served.browser.get("/jobs").text
    cancelled = served.browser.get("/jobs?state=cancelled&workflow=convert").text
    assert f"/jobs/{job_id}" in everything
    assert f"/jobs/{job_id}" in cancelled
    assert "Queued" not in text_of(cancelled).split("Duration")[1]
    assert "No job matches" in text_of(served.browser.get("/jobs?state=cancelled&workflow=downsample").text)


@pytest.fixture(scope="module")
def logged(served):
    """A running job with a log of 60,000 lines."""
    job_id = served.convert("logged")
    worker = served.worker("logger", convert=1)
    while worker.claim().job_id != job_id:
        worker.fail("user_input", "x", "not wanted")
    text = "".join(f"line {number} <b>\n" for number in range(1, 60_001))
    worker.log(text)
    return job_id, text


def lines_of(page: str) -> list[str]:
    found = re.findall(r'<div class="log-line[^>]*id="L(\d+)">.*?<span class="log-text">(.*?)</span>', page)
    return [f"{number}: {re.sub('<[^>]*>', '', text)}" for number, text in found]


def test_a_log_is_downloaded_whole(served, logged):
    job_id, text = logged
    file = served.browser.get(f"/jobs/{job_id}/log.txt?attempt=1")
    assert (file.text, file.headers["content-disposition"]) == (
        text, f'attachment; filename="{job_id}-attempt-1.log"',
    )  # fmt: skip
    assert served.browser.get(f"/jobs/{job_id}/log.txt?attempt=7").status_code == 404


def test_the_page_of_a_job_shows_the_end_of_a_long_log(served, logged):
    lines = lines_of(served.browser.get(f"/jobs/{logged[0]}").text)
    assert (lines[0], lines[-1], len(lines)) == (
        "59801: line 59801 &lt;b&gt;", "60000: line 60000 &lt;b&gt;", 200,
    )  # fmt: skip


def test_the_page_of_a_log_shows_it_part_by_part(served, logged):
    address = f"/jobs/{logged[0]}/log?attempt=1"
    first = served.browser.get(f"{address}&line=1").text
    assert lines_of(first)[0] == "1: line 1 &lt;b&gt;"
    assert "Earlier lines" not in first
    later = re.search(r'href="([^"]*)">Later lines', first)[1].replace("&amp;", "&").partition("#")[0]
    second = lines_of(served.browser.get(later).text)
    assert (second[0], second[-1]) == ("501: line 501 &lt;b&gt;", "1000: line 1000 &lt;b&gt;")
    end = served.browser.get(address).text
    assert lines_of(end)[-1] == "60000: line 60000 &lt;b&gt;"
    assert "Later lines" not in end
    assert 'class="log-line is-present" id="L30000"' in served.browser.get(f"{address}&line=30000").text


def test_a_log_is_searched_without_a_script(served, logged):
    address = f"/jobs/{logged[0]}/log?attempt=1"
    page = served.browser.get(f"{address}&find=LINE+5999").text
    assert "1 of 11 lines" in text_of(page)
    assert 'class="log-line is-present" id="L5999"' in page
    assert "<mark>line 5999</mark>" in page
    step = re.search(r'href="([^"]*)" data-log-hit="1"', page)[1].replace("&amp;", "&").partition("#")[0]
    assert "2 of 11 lines" in text_of(served.browser.get(step).text)
    assert "Not found" in text_of(served.browser.get(f"{address}&find=nowhere").text)
    refused = served.browser.get(f"{address}&find={'x' * 300}")
    assert (refused.status_code, "cannot be looked for" in text_of(refused.text)) == (422, True)


def test_programs_read_and_search_the_lines_of_a_log(served, logged):
    found = served.client.search_log(logged[0], "line 5999")
    assert (found.lines[:2], found.count, found.searched, found.is_whole) == ((5999, 59990), 11, 60_000, True)
    lines = served.client.read_lines(logged[0], first=59_990, limit=2)
    assert lines.lines == ("line 59990 <b>", "line 59991 <b>")
    assert served.client.read_lines(logged[0], first=None, limit=1).first == 60_000


@pytest.mark.parametrize("path", ["/jobs/nope", "/datasets/nope", "/workflows/nope/new", "/nowhere"])
def test_what_is_not_there_is_said_on_a_page(served, path):
    answer = served.browser.get(path)
    assert (answer.status_code, "<h1>Not found</h1>" in answer.text) == (404, True)


def test_the_browse_panel_lists_a_folder(served):
    panel = served.browser.get(
        "/browse", params={"target": "input-source-0", "place": "root:scope/run1"}
    ).text
    assert 'data-value="root:scope/run1/s2.tif"' in panel
    assert ".hidden" not in panel
    assert (
        "leaves its root"
        in served.browser.get("/browse", params={"target": "x", "place": "root:scope/.."}).text
    )


def problem_of(page: str, input_id: str) -> str:
    found = re.search(rf'(?s)id="{input_id}-error">(.*?)</p>', page)
    assert found is not None, f"no problem beside {input_id}"
    return text_of(f"<main>{found[1]}</main>").strip()


def test_the_help_page_says_what_failures_mean_and_how_programs_reach_the_server(served):
    html = served.browser.get("/help").text
    assert all(advice in html for advice in rendering.FAILURE_ADVICE.values())
    assert f"--server {served.info.url} --token TOKEN" in html
    assert "Ask whoever runs this server" in html
    assert 'href="/help" aria-current="page"' in html


def test_the_page_of_the_workers_names_their_gpus(served):
    names = ("NVIDIA A100, driver 550.54.15", "NVIDIA L4, driver 550.54.15")
    request = SessionRequest(
        name="gpu-host", version="test", workflows={"convert": 1}, gpus=2, gpu_names=names
    )
    served.worker("scope-pc").client.open_session(request)
    words = text_of(served.browser.get("/operator/workers").text)
    assert "2 GPU (NVIDIA A100, driver 550.54.15; NVIDIA L4, driver 550.54.15)" in words
