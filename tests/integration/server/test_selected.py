"""Several jobs at once: found by filters, asked about, and cancelled or run again."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from paid_work import CREDITS_ON, PRICE, installed
from voxelworks.cli import main
from voxelworks.client import Client
from voxelworks.settings import Settings

from .conftest import make_scope
from .test_paying import FORM, add_demo, grant, said, served, stored  # noqa: F401

SEGMENT = {"layer": {"dataset": "demo", "layer": "labels"}}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A server with credits, a browser that is let in, and a client."""
    folder = tmp_path_factory.mktemp("selected")
    settings = Settings(
        home=folder / "home", port=0, import_roots={"scope": make_scope(folder)}, **CREDITS_ON
    )
    with installed(), served(settings) as (info, browser), Client(info.url, info.token) as client:
        with stored(settings) as session:
            add_demo(session, "local", "local")
        grant(browser, 100)
        yield info, browser, client


def convert(client: Client, target: str, group: str | None = None) -> str:
    params = {"layers": [{"source": "root:scope/run1"}], "target": target, "voxel_size": "4,4,40"}
    return client.submit("convert", params, group=group).id


def segment(client: Client) -> str:
    quote = client.quote("segment", SEGMENT)
    return client.submit("segment", SEGMENT, quote_id=quote.id).id


def fields(page: str) -> dict[str, list[str]]:
    """Give the hidden fields of the form that asks."""
    form = re.search(r'(?s)<form method="post" action="/jobs/selected.*?</form>', page)
    assert form is not None, "nothing is asked"
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form[0]):
        found.setdefault(name, []).append(html.unescape(value))
    return found


def test_selected_jobs_are_cancelled_after_one_question(site):
    _, browser, client = site
    ids = [convert(client, f"bulk_{number}") for number in range(3)]
    paid, done = segment(client), convert(client, "bulk_done")
    client.cancel(done)
    page = browser.get("/jobs/selected", params={"deed": "cancel", "job": [*ids, paid, done]})
    words = said(page)
    assert "Cancel 4 jobs?" in words
    assert "2 credits are returned" in words
    assert f"1 job left out Job {done} has already been cancelled; there is nothing to cancel." in words
    assert {client.show(one).job.state for one in ids} == {"queued"}, "asking changes nothing"
    answer = browser.post("/jobs/selected", data=fields(page.text))
    assert "4 jobs cancelled" in said(answer)
    assert {client.show(one).job.state for one in (*ids, paid)} == {"cancelled"}


def test_all_that_match_are_run_again_for_the_price_that_was_shown(site):
    _, browser, client = site
    ids = [convert(client, f"again_{number}", group="again") for number in range(2)]
    client.cancel_several(ids)
    running = convert(client, "again_not", group="again")
    query = {"deed": "retry", "all": "true", "group": "again"}
    words = said(browser.get("/jobs/selected", params=query))
    assert "Run 2 jobs again?" in words
    assert "They cost nothing." in words
    assert f"Job {running} is queued; only failed and cancelled jobs can be repeated." in words
    page = browser.get("/jobs/selected", params={**query, "state": "cancelled"})
    assert "left out" not in said(page)
    asked = fields(page.text)
    assert "2 jobs submitted again" in said(browser.post("/jobs/selected", data=asked))
    twice = said(browser.post("/jobs/selected", data=asked))
    assert "0 jobs submitted again" in twice, "the page may be loaded anew"
    assert "was repeated already, as job" in twice
    assert len(client.list_jobs(group="again").jobs) == 5


def test_a_price_that_has_changed_is_asked_for_anew(site):
    _, browser, client = site
    ids = [segment(client), segment(client)]
    client.cancel_several(ids)
    page = browser.get("/jobs/selected", params={"deed": "retry", "job": ids})
    assert "Together they cost 4 credits." in said(page)
    asked = fields(page.text)
    refused = browser.post("/jobs/selected", data={**asked, "amount": "1"})
    assert "The price has changed meanwhile, and nothing was submitted." in said(refused)
    assert client.show(ids[0]).retries == ()
    assert "2 jobs submitted again" in said(browser.post("/jobs/selected", data=asked))
    [again] = client.show(ids[0]).retries
    assert client.show(again).job.charge_millicredits == PRICE


def test_programs_cancel_and_repeat_several_and_hear_of_each(site):
    _, _, client = site
    ids = [segment(client), convert(client, "api_one")]
    answer = client.cancel_several([*ids, "nope", ids[0]])
    assert [job.id for job in answer.jobs] == ids
    assert [(one.job_id, one.code) for one in answer.refused] == [("nope", "not-found")]
    quoted = client.quote_retries([*ids, "nope"])
    assert (quoted.amount, set(quoted.quotes), quoted.has_enough) == (PRICE, set(ids), True)
    made = client.retry_several(ids, quotes=quoted.quotes)
    assert [job.retried_from for job in made.jobs] == ids
    assert [one.code for one in client.retry_several(ids).refused] == ["illegal-transition"] * 2


def test_the_command_line_takes_several_jobs(site, capsys):
    info, _, client = site
    options = ["--server", info.url, "--token", info.token]
    ids = [segment(client), convert(client, "cli_one")]

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["jobs", *arguments, *options])
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    status, out, err = call("cancel", *ids, "nope")
    assert (status, out) == (1, "".join(f"job {one} is cancelled\n" for one in ids))
    assert "there is no job 'nope'" in err
    status, _, err = call("retry", *ids)
    assert (status, "the 2 jobs cost 2 credits; add --yes to agree to that" in err) == (2, True)
    status, out, _ = call("retry", *ids, "--yes")
    assert (status, out.count("is queued")) == (0, 2)
    status, out, _ = call(
        "list", "--charged", "--state", "cancelled", "--dataset", "demo", "--since", "2026-01-01"
    )
    assert (status, ids[0] in out, ids[1] in out) == (0, True, False)
    status, _, err = call("list", "--until", "soon")
    assert (status, "'soon' is not a date; write it as 2026-01-31" in err) == (2, True)


# Filters


def test_days_begin_where_the_reader_is(site):
    _, browser, client = site
    job = client.show(convert(client, "dated")).job
    at = datetime.fromtimestamp(job.created_ms / 1000, UTC)

    def has(**query: str) -> bool:
        return f"/jobs/{job.id}" in browser.get("/jobs", params={"text": "dated", **query}).text

    today = at.date()
    assert has(since=str(today), until=str(today), zone="UTC")
    assert not has(until=str(today - timedelta(days=1)), zone="UTC")
    assert not has(since=str(today + timedelta(days=1)), zone="UTC")
    kiritimati = (at + timedelta(hours=14)).date()
    assert has(since=str(kiritimati), zone="Pacific/Kiritimati")
    assert has(since=str(kiritimati), zone="UTC") == (kiritimati == today)
    assert has(period="today", zone="UTC")
    assert has(period="30d")


def test_a_program_gives_moments(site):
    _, _, client = site
    job = client.show(convert(client, "instant")).job
    at = datetime.fromtimestamp(job.created_ms / 1000, UTC)
    second = timedelta(seconds=1)
    found = [
        len(client.list_jobs(text="instant", since=since, until=until).jobs)
        for since, until in ((at - second, at + second), (at + second, None), (None, at - second))
    ]
    assert found == [1, 0, 0]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"since": "31.1.2026"}, "'31.1.2026' is not a date; write it as 2026-01-31"),
        ({"until": "2026-02-31"}, "'2026-02-31' is not a date"),
        ({"period": "today", "zone": "Mars/Olympus"}, "'Mars/Olympus' is not a time zone"),
        ({"failure": "bad_luck"}, "failure"),
        ({"owner": "a@b@c"}, "'a@b@c' is not an e-mail address"),
    ],
)
def test_a_filter_that_cannot_be_read_is_refused_by_name(site, query, message):
    _, browser, _ = site
    for path in ("/jobs", "/api/v1/jobs", "/jobs.csv"):
        answer = browser.get(path, params=query)
        assert (answer.status_code, message in html.unescape(answer.text)) == (422, True), path


def test_the_page_names_the_filters_and_offers_to_leave_each_out(site):
    _, browser, _ = site
    address = "/jobs?failure=resources&period=7d&dataset=demo&charged=true&workflow=&owner=&since="
    page = browser.get(address).text
    chips = {
        html.unescape(text): html.unescape(href)
        for href, text in re.findall(r'<li><a class="chip" href="([^"]*)"[^>]*>([^<]*?) <svg', page)
    }
    assert set(chips) == {"Out of memory, disk or time", "Last 7 days", "Dataset demo", "With a cost"}
    assert chips["Dataset demo"] == "/jobs?failure=resources&period=7d&charged=true"
    csv = html.unescape(re.search(r'href="(/jobs\.csv[^"]*)"', page)[1])
    assert (
        httpx.URL(csv).params == httpx.URL("/?dataset=demo&failure=resources&period=7d&charged=true").params
    )
