"""Pages and programs hear of changes without asking."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from voxelworks.protocol.messages import Progress


@contextmanager
def stream(served, path: str, **headers: str) -> Iterator[Iterator[tuple[str, str, str]]]:
    """Open a stream; give its events as (name, data, id)."""
    with served.browser.stream("GET", path, headers=headers, timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield events(answer)


def events(answer: httpx.Response) -> Iterator[tuple[str, str, str]]:
    name, data, identity = "message", [], ""
    for line in answer.iter_lines():
        key, _, value = line.partition(": ")
        if key == "event":
            name = value
        elif key == "data":
            data.append(value)
        elif key == "id":
            identity = value
        elif not line and (data or name != "message"):
            yield name, "\n".join(data), identity
            name, data = "message", []


def test_a_program_sees_every_state_of_a_job_until_its_result_is_published(served):
    job_id = served.convert("streamed")
    worker = served.worker("streamer", convert=1)
    with stream(served, f"/api/v1/jobs/{job_id}/events") as heard:
        assert job_of(next(heard))["state"] == "queued"
        worker.claim()
        while (job := job_of(next(heard)))["state"] != "running":
            assert job["state"] == "claimed"
        worker.fail("user_input", "invalid-input", "no")
        assert job_of(next(heard))["state"] == "failed"
        assert list(heard) == []


def test_an_unknown_job_is_a_plain_answer_not_a_stream(served):
    assert served.browser.get("/api/v1/jobs/nope/events").json()["code"] == "not-found"
    assert served.browser.get("/jobs/nope/live").status_code == 404


def test_a_job_page_hears_parts_that_changed_and_the_log_from_where_it_is(served):
    job_id = served.convert("live")
    worker = served.worker("liver", convert=1)
    worker.claim()
    worker.log("one\n")
    with stream(served, f"/jobs/{job_id}/live?since=1:0") as heard:
        first = [next(heard) for _ in range(7)]
        assert {name for name, _, _ in first} == {
            "status", "actions", "result", "attempts", "events", "announcement", "log",
        }  # fmt: skip
        assert json.loads(first[-1][1]) == {
            "attempt": 1, "first": 1, "lines": ["one"], "total": 1, "is_open": False,
        }  # fmt: skip
        assert first[-1][2] == "1:1"
        worker.renew(Progress(phase="halfway", done=1, total=2))
        name, html, _ = next(heard)
        assert (name, "halfway" in html, "50 %" in html) == ("status", True, True)
        worker.log("two\nthr", offset=4)
        assert next(identity for name, _, identity in heard if name == "log") == "1:2"
        worker.log("ee\n", offset=11)
        last = next(json.loads(data) for name, data, _ in heard if name == "log")
        assert (last["first"], last["lines"]) == (3, ["three"]), "a line that had no end comes again"
    with stream(served, f"/jobs/{job_id}/live", **{"Last-Event-ID": "1:2"}) as again:
        logs = [
            json.loads(data)["lines"] for name, data, _ in (next(again) for _ in range(7)) if name == "log"
        ]
        assert logs == [["three"]]


def test_a_burst_of_lines_comes_to_a_page_as_its_end(served):
    job_id = served.convert("bursting")
    worker = served.worker("burster", convert=1)
    while worker.claim().job_id != job_id:
        worker.fail("user_input", "x", "not wanted")
    worker.log("".join(f"line {number}\n" for number in range(1, 5001)))
    with stream(served, f"/jobs/{job_id}/live?since=1:10") as heard:
        lines = next(json.loads(data) for name, data, _ in heard if name == "log")
    assert (lines["first"], lines["lines"][0], lines["lines"][-1], lines["total"]) == (
        4001, "line 4001", "line 5000", 5000,
    )  # fmt: skip


def test_a_page_of_an_ended_job_closes_its_stream(served):
    job_id = served.convert("ended")
    served.client.cancel(job_id)
    with stream(served, f"/jobs/{job_id}/live") as heard:
        assert list(heard)[-1][0] == "end"


def test_the_list_hears_single_rows_and_new_jobs(served):
    job_id = served.convert("row_one")
    page = served.browser.get("/jobs").text
    address = page.partition('sse-connect="')[2].partition('"')[0].replace("&amp;", "&")
    with stream(served, address) as heard:
        served.client.cancel(job_id)
        names = [next(heard)[0], next(heard)[0]]
        assert names == ["counts", f"job-{job_id}"]
        served.convert("row_two")
        assert [next(heard)[0], next(heard)[0]] == ["counts", "list"]


def test_the_list_renders_no_row_for_a_claim_that_only_brings_it_forward(served):
    params = {"layers": [{"source": "root:scope/run1"}], "voxel_size": "4,4,40"}
    ids = [
        served.client.submit("convert", params | {"target": f"line_{number}"}, group="line").id
        for number in range(4)
    ]
    page = served.browser.get("/jobs?group=line").text
    address = page.partition('sse-connect="')[2].partition('"')[0].replace("&amp;", "&")
    with stream(served, address) as heard:
        heard_of = []
        for job_id in (ids[1], ids[3]):
            served.client.cancel(job_id)
            while not heard_of or heard_of[-1] != f"job-{job_id}":
                heard_of.append(next(heard)[0])
    assert heard_of == ["counts", f"job-{ids[1]}", "counts", f"job-{ids[3]}"]


def job_of(event: tuple[str, str, str]) -> dict[str, object]:
    name, data, _ = event
    assert name == "job"
    found: dict[str, object] = json.loads(data)["job"]
    return found
