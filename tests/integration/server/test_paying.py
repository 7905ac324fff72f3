"""What a paid job costs, on its way through the pages: price, agreement, charge, return."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from paid_work import CREDITS_ON, PRICE, installed
from voxelworks import accounts, catalog, credits, jobs
from voxelworks.cli import main
from voxelworks.client import Client, ServerInfo
from voxelworks.credits._tables import QuoteRow
from voxelworks.db import open_database
from voxelworks.protocol.places import Places, dataset_place
from voxelworks.protocol.views import DatasetSummary, LayerSummary
from voxelworks.settings import Settings
from voxelworks.testing.people import make_member, make_organization
from voxelworks.testing.server import running_server

LABELS = LayerSummary(
    name="labels", category="segmentation", dtype="uint32", channel_count=1, box="0,0,0,8,8,8", mags=("1",)
)
FORM = {"dataset": "demo", "layer": "labels", "action": "submit", "key": "one"}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[ServerInfo, httpx.Client]]:
    settings = Settings(home=tmp_path, port=0, **CREDITS_ON)
    with installed(), served(settings) as (info, browser):
        with stored(settings) as session:
            add_demo(session, "local", "local")
        yield info, browser


@pytest.fixture
def big_site(tmp_path: Path) -> Iterator[tuple[ServerInfo, httpx.Client]]:
    """The same with two datasets of 2 gigavoxels."""
    big = LABELS.model_copy(update={"box": "0,0,0,2000,1000,1000", "mags": ("1", "2-2-1")})
    settings = Settings(home=tmp_path, port=0, **CREDITS_ON)
    with installed(), served(settings) as (info, browser):
        with stored(settings) as session:
            for name in ("demo", "other"):
                add_demo(session, "local", "local", name=name, layer=big)
        yield info, browser


@contextmanager
def served(settings: Settings) -> Iterator[tuple[ServerInfo, httpx.Client]]:
    """Run a server, and let a browser in as its operator."""
    with (
        running_server(settings) as info,
        httpx.Client(base_url=info.url, headers={"Origin": info.url}, trust_env=False) as browser,
    ):
        browser.get("/", params={"token": info.token})
        yield info, browser


@contextmanager
def stored(settings: Settings) -> Iterator[Session]:
    """Open what the server stores, beside it."""
    with closing(open_database(settings)) as database, database.session() as session:
        yield session


def add_demo(
    session: Session, organization_id: str, user_id: str, *, name: str = "demo", layer: LayerSummary = LABELS
) -> None:
    catalog.register(
        session, organization_id=organization_id, user_id=user_id, name=name,
        place=dataset_place(organization_id, name), summary=DatasetSummary(voxel_size="4,4,40", layers=(layer,)),
    )  # fmt: skip


def repeats(browser: httpx.Client, job_id: str) -> list[str]:
    """Give the words of the buttons that repeat a job."""
    forms = re.findall(
        rf'(?s)<form method="post" action="/jobs/{job_id}/retry">.*?</form>',
        browser.get(f"/jobs/{job_id}").text,
    )
    return [re.sub(r"(?s)<svg.*?</svg>|<[^>]*>", "", form) for form in forms]


def press_retry(browser: httpx.Client, job_id: str) -> httpx.Response:
    """Press the button that repeats a job at the price that its page shows."""
    amount = re.search(r'name="amount" value="([^"]+)"', browser.get(f"/jobs/{job_id}").text)
    return browser.post(f"/jobs/{job_id}/retry", data={"amount": amount[1]} if amount else {})


def said(answer: httpx.Response) -> str:
    body = re.sub(r"(?s)<(script|svg)\b.*?</\1>", " ", answer.text)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body)))


def amount_of(answer: httpx.Response) -> str:
    """Give the price that a dialog shows."""
    found = re.search(r'name="amount" value="([^"]+)"', answer.text)
    assert found is not None, "no price is shown"
    return found[1]


def grant(browser: httpx.Client, credits: int) -> None:
    values = {"organization_id": "local", "credits": str(credits)}
    assert browser.post("/operator/grants", data=values).status_code == 303


def test_nothing_is_submitted_before_somebody_has_agreed_to_the_price(site, tmp_path):
    _, browser = site
    assert PRICE == 2000
    empty = said(browser.get("/workflows/segment/new"))
    assert "The price is shown when everything above is filled in and can be used." in empty
    assert "Check, and show the price" in empty
    poor = browser.post("/workflows/segment/new", data=FORM)
    assert (poor.status_code, "2 credits are missing. Order credits" in said(poor)) == (200, True)
    assert "Submit for" not in said(poor)
    grant(browser, 5)
    offered = browser.post("/workflows/segment/new", data=FORM)
    assert "Submit for 2 credits" in said(offered)
    assert browser.get("/api/v1/jobs").json()["jobs"] == []
    with stored(Settings(home=tmp_path, **CREDITS_ON)) as session:
        assert session.scalar(select(func.count()).select_from(QuoteRow)) == 0, "who looks writes nothing"
    agreed = browser.post("/workflows/segment/new", data={**FORM, "amount": amount_of(offered)})
    job = browser.get(agreed.headers["location"])
    assert "2 credits , held" in said(job) or "2 credits, held" in said(job)
    assert browser.get("/api/v1/organization/credits").json()["available"] == 3000


MAKE = {"dataset": "demo", "layer": "labels", "target": "cells", "mag": "", "box": ""}


def test_the_credit_information_follows_what_is_filled_in(big_site):
    _, browser = big_site
    grant(browser, 5)

    def card(**values: str) -> str:
        return said(browser.post("/workflows/make_segmented/quote", data=MAKE | values))

    whole = card()
    for words in (
        "cells 2 000 000 000 voxels 2000 × 1000 × 1000 in mag 1",
        "Price 1 credit a gigavoxel price list 2026-1", "Balance 5 credits", "Total 2 credits", "Remains 3 credits",
        "Submit for 2 credits", "The whole layer: 2000 × 1000 × 1000 voxels in mag 1, 8 × 4 × 40 µm",
    ):  # fmt: skip
        assert words in whole, words
    coarse = card(mag="2-2-1")
    assert "1000 × 500 × 1000 in mag 2-2-1" in coarse
    assert "Submit for 0.5 credits" in coarse
    assert "Submit for 0.1 credits" in card(box="0,0,0,1000,1000,100")
    outside = card(box="0,0,0,3000,1000,100")
    assert (
        "leaves layer labels, which is 0,0,0,2000,1000,1000; the part inside it is 0,0,0,2000,1000,100"
        in outside
    )
    assert "Submit for" not in outside
    assert "fill" in card(target="")


def test_the_price_that_was_shown_is_charged_or_asked_for_again(big_site):
    _, browser = big_site
    grant(browser, 5)
    shown = browser.get("/workflows/make_segmented/new", params={**MAKE, "mag": "2-2-1"})
    assert amount_of(shown) == "500"
    press = {**MAKE, "action": "submit", "amount": "500"}
    asked = browser.post("/workflows/make_segmented/new", data=press)
    assert (asked.status_code, amount_of(asked)) == (200, "2000")
    assert "The price is another one now, and nothing was submitted" in said(asked)
    assert browser.get("/api/v1/jobs").json()["jobs"] == []
    made = browser.post("/workflows/make_segmented/new", data=press | {"mag": "2-2-1", "key": "k"})
    job = browser.get(f"/api/v1{made.headers['location']}").json()["job"]
    assert (job["charge_millicredits"], job["params"]["mag"], job["group"]) == (500, "2-2-1", None)
    again = browser.post("/workflows/make_segmented/new", data=press | {"mag": "2-2-1", "key": "k"})
    assert again.headers["location"] == made.headers["location"], "a second click makes no second job"


SEVERAL = {
    "dataset": ["demo", "other"], "layer": ["labels", "labels"], "mag": ["", "2-2-1"], "box": ["", ""],
    "target": ["cells", "cells"], "rows:runs": "2",
}  # fmt: skip


def test_several_datasets_have_one_price_and_come_together_or_not_at_all(big_site):
    _, browser = big_site
    grant(browser, 5)
    card = said(browser.post("/workflows/make_segmented/quote", data=SEVERAL))
    for words in ("2 credits", "0.5 credits", "Total 2.5 credits", "Submit 2 jobs for 2.5 credits"):
        assert words in card
    press = SEVERAL | {"action": "submit", "amount": "2500"}
    unknown = browser.post("/workflows/make_segmented/new", data=press | {"dataset": ["demo", "gone"]})
    assert unknown.status_code == 422
    assert re.search(r"(?s)id=\"input-dataset-1-error\">.*?there is no dataset &#39;gone&#39;", unknown.text)
    taken = browser.post("/workflows/make_segmented/new", data=press)
    assert (taken.status_code, "the name 'cells' is taken" in said(taken)) == (422, True)
    assert browser.get("/api/v1/jobs").json()["jobs"] == []
    assert browser.get("/api/v1/organization/credits").json()["available"] == 5000, "nothing was charged"
    both = press | {"target": ["cells", "others"], "key": "k"}
    made = browser.post("/workflows/make_segmented/new", data=both)
    listed = browser.get("/api/v1/jobs").json()["jobs"]
    assert made.headers["location"] == f"/jobs?group={listed[0]['group']}"
    assert {job["group"] for job in listed} == {listed[0]["group"]}
    assert sorted(job["charge_millicredits"] for job in listed) == [500, 2000]
    again = browser.post("/workflows/make_segmented/new", data=both)
    assert again.headers["location"] == made.headers["location"]
    assert len(browser.get("/api/v1/jobs").json()["jobs"]) == 2


def test_boxes_that_were_drawn_in_annotations_are_offered(big_site):
    _, browser = big_site
    nml = (
        '<things><parameters><experiment name="demo"/><scale x="4" y="4" z="40"/>'
        '<userBoundingBox topLeftX="1" topLeftY="2" topLeftZ="3" width="40" height="50" depth="5000"/></parameters>'
        '<thing id="1" name="t"><nodes/><edges/></thing></things>'
    )
    sent = browser.post(
        "/api/v1/annotations", data={"name": "soma", "dataset": "demo"}, files={"file": ("soma.nml", nml)}
    )
    assert sent.status_code in (200, 201), sent.text
    page = browser.get("/workflows/make_segmented/new", params=MAKE)
    assert "Box 1 of annotation soma, 40 × 50 × 997" in said(page)
    action = "box:box:0:1,2,3,40,50,997"
    assert f'name="action" value="{action}"' in page.text
    filled = browser.post("/workflows/make_segmented/new", data={**MAKE, "action": action})
    assert re.search(r'id="input-box"[^>]* value="1,2,3,40,50,997"', filled.text)
    assert "Box 1 of" not in said(
        browser.get("/workflows/make_segmented/new", params=MAKE | {"dataset": "other"})
    )


def test_who_may_not_spend_credits_is_told_whom_to_ask(big_site, tmp_path):
    info, _ = big_site
    with stored(Settings(home=tmp_path, **CREDITS_ON)) as session:
        member = make_member(session, "ben", "local")
        cookie = accounts.open_login_session(session, user_id=member.user_id, address="127.0.0.1", agent="x")
    port = httpx.URL(info.url).port
    headers = {"Origin": info.url, "Cookie": f"voxelworks-{port}={cookie}"}
    with httpx.Client(base_url=info.url, headers=headers, trust_env=False) as browser:
        page = said(browser.post("/workflows/make_segmented/quote", data=MAKE))
        assert "are submitted by the owner, admins and dataset managers of the organization" in page
        assert "Ask the owner of your organization for more" in page
        assert "Submit for" not in page


def test_a_cancelled_job_returns_its_charge_and_says_so(site):
    _, browser = site
    grant(browser, 5)
    quote = browser.post("/api/v1/jobs/quote", json={"workflow": "segment", "params": PARAMS}).json()["quote"]
    body = {"workflow": "segment", "params": PARAMS, "quote_id": quote["id"]}
    job = browser.post("/api/v1/jobs", json=body).json()
    assert (quote["amount"], job["charge_millicredits"]) == (PRICE, PRICE)
    page = said(browser.get(f"/jobs/{job['id']}"))
    assert "The 2 credits are returned" in page
    listed, spent = said(browser.get("/jobs")), said(browser.get("/organization/credits"))
    assert "Duration, cost" in listed
    assert re.search(r" 2 credits (?!,)", listed)
    assert "Spent on jobs 2 in 12 months" in spent
    browser.post(f"/jobs/{job['id']}/cancel")
    assert " 2 credits, returned " in said(browser.get("/jobs"))
    assert "Spent on jobs" not in said(browser.get("/organization/credits"))
    page = said(browser.get(f"/jobs/{job['id']}"))
    assert "all returned" in page
    assert repeats(browser, job["id"]) == ["Retry at no charge", "Retry for 2 credits"]
    words = said(browser.get("/organization/credits"))
    for expected in ("Job " + job["id"], "Refund " + job["id"]):
        assert expected in words
    free = browser.post(f"/jobs/{job['id']}/retry", data={"is_free": "true"}).headers["location"]
    assert "credits" not in said(browser.get(free)).partition("Submitted")[2].partition("History")[0]
    assert browser.get("/api/v1/organization/credits").json()["available"] == 5000


def cancelled(browser: httpx.Client, grants: int = 10) -> str:
    """Submit a job and cancel it; give its id."""
    grant(browser, grants)
    job_id: str = browser.post("/api/v1/jobs", json={"workflow": "segment", "params": PARAMS}).json()["id"]
    browser.post(f"/jobs/{job_id}/cancel")
    return job_id


def test_a_repeat_costs_what_its_button_says(tmp_path):
    """The price list was doubled since the job was submitted (I16, I23)."""
    settings = Settings(home=tmp_path, port=0, **CREDITS_ON)
    dearer = tmp_path / "dearer.json"
    names = {"infer_neurons": 2000}
    dearer.write_text(
        json.dumps(
            {
                "version": "dearer",
                "millicredits_per_gigavoxel": names,
                "millicredits_per_annotated_gigavoxel": {},
            }
        )
    )
    with installed():
        with served(settings) as (_, browser):
            with stored(settings) as session:
                add_demo(session, "local", "local")
            job_id = cancelled(browser)
            assert repeats(browser, job_id) == ["Retry at no charge", "Retry for 2 credits"]
            with stored(settings) as session:
                assert session.scalar(select(func.count()).select_from(QuoteRow)) == 0, (
                    "who looks writes nothing"
                )
        with served(settings.model_copy(update={"price_list": dearer})) as (_, browser):
            assert repeats(browser, job_id) == ["Retry at no charge", "Retry for 4 credits"]
            for refused in ({}, {"amount": "2000"}):
                asked = browser.post(f"/jobs/{job_id}/retry", data=refused)
                assert asked.headers["location"] == f"/jobs/{job_id}?repriced=true"
                assert "nothing was submitted. Repeating the job costs 4 credits now." in said(
                    browser.get(asked.headers["location"])
                )
            assert len(browser.get("/api/v1/jobs").json()["jobs"]) == 1
            made = press_retry(browser, job_id).headers["location"]
            assert browser.get(f"/api/v1{made}").json()["job"]["charge_millicredits"] == 4000


def test_a_job_that_was_repeated_at_no_charge_has_its_price_again(site):
    _, browser = site
    job_id = cancelled(browser)
    free = browser.post(f"/jobs/{job_id}/retry", data={"is_free": "true"}).headers["location"]
    browser.post(f"{free}/cancel")
    assert repeats(browser, free.rpartition("/")[2]) == ["Retry at no charge", "Retry for 2 credits"]
    made = press_retry(browser, free.rpartition("/")[2]).headers["location"]
    assert browser.get(f"/api/v1{made}").json()["job"]["charge_millicredits"] == PRICE


def test_a_repeat_that_the_organization_cannot_pay_says_so(site):
    _, browser = site
    job_id = cancelled(browser, grants=2)
    browser.post("/api/v1/jobs", json={"workflow": "segment", "params": PARAMS})
    assert repeats(browser, job_id) == ["Retry at no charge"]
    assert "Retry costs 2 credits; 0 credits are there." in said(browser.get(f"/jobs/{job_id}"))


def test_an_operator_spends_no_credits_of_another_organization(site, tmp_path):
    info, browser = site
    settings = Settings(home=tmp_path, **CREDITS_ON)
    free = {"workflow": "find_largest_segment_id", "params": PARAMS}
    with stored(settings) as session:
        owner = make_organization(session, "lab")
        add_demo(session, "lab", owner.user_id)
        credits.grant(session, "lab", PRICE, who="user:local")
        made = [
            jobs.submit(session, by=owner, places=Places.of(settings), settings=settings, **order).id
            for order in ({"workflow": "segment", "params": PARAMS}, free)
        ]
        for job_id in made:
            jobs.cancel(session, job_id, by=owner)
    assert [repeats(browser, job_id) for job_id in made] == [["Retry at no charge"], ["Retry"]]
    again = browser.post(f"/jobs/{made[0]}/retry").headers["location"]
    job = browser.get(f"/api/v1{again}").json()["job"]
    assert (job["user_id"], job["organization_id"], job["charge_millicredits"]) == (
        owner.user_id,
        "lab",
        None,
    )
    browser.post(f"{again}/cancel")
    with pytest.raises(SystemExit) as ended:
        main(["jobs", "retry", job["id"], "--server", info.url, "--token", info.token])
    assert ended.value.code == 0, "there is no price to agree to"
    (latest, *_) = browser.get("/api/v1/jobs").json()["jobs"]
    assert (latest["retried_from"], latest["organization_id"], latest["charge_millicredits"]) == (
        job["id"],
        "lab",
        None,
    )


def test_the_command_line_shows_the_price_and_charges_only_whoever_agrees(site, capfd):
    info, browser = site
    grant(browser, 5)

    def call(*arguments: str) -> tuple[int | str | None, str]:
        at = ("--server", info.url, "--token", info.token)
        with pytest.raises(SystemExit) as ended:
            main(["jobs", *arguments, *at])
        return ended.value.code, capfd.readouterr().err

    segment = ("submit", "segment", "--dataset", "demo", "--layer", "labels")
    assert call(*segment) == (
        2,
        "the job costs 2 credits; 5 are available\nerror: the job costs 2 credits; add --yes to agree to that\n",
    )
    with Client(info.url, info.token) as client:
        assert (client.list_jobs().jobs, client.balance().available) == ((), 5000)
        first = client.submit("segment", PARAMS, priority=-2)
        assert call(*segment, "--yes", "--after", first.id, "--group", "mine")[0] == 0
        (made, _) = client.list_jobs().jobs
        assert (made.after, made.group, made.priority, made.charge_millicredits) == (
            (first.id,), "mine", 0, PRICE,
        )  # fmt: skip
        assert client.list_jobs().jobs[1].priority == -2
        client.cancel(first.id)
        assert call("retry", first.id)[0] == 2
        assert call("retry", first.id, "--yes")[0] == 0
        assert client.balance().available == 5000 - PRICE
        found = client.activity(limit=3)
        assert [(row.kind, row.change) for row in found.rows] == [
            ("spending", -PRICE), ("refund", PRICE), ("refund", PRICE),
        ]  # fmt: skip
        rest = client.activity(kinds=["purchase"], before=found.next_before)
        assert ([row.change for row in rest.rows], rest.next_before) == ([5000], None)
        grant(browser, 5)
        stale = client.quote("segment", PARAMS)
        assert stale is not None
        assert client.submit("segment", PARAMS, quote_id=stale.id).charge_millicredits == PRICE


def test_the_organization_shows_what_is_free_this_month(tmp_path):
    settings = Settings(home=tmp_path, port=0, credits_enabled=True, monthly_free_credits=7)
    with installed(), served(settings) as (_, browser):
        grant(browser, 5)
        page = said(browser.get("/organization"))
    assert re.search(r" 12 7 of them are free, of the 7 of this month, and end on 1 \w+ \d+\.", page)


def test_with_credits_switched_off_no_page_speaks_of_them(tmp_path):
    settings = Settings(home=tmp_path, port=0)
    pages = (
        "/jobs", "/organization", "/workflows", "/workflows/convert/new", "/account", "/help", "/setup", "/operator",
        "/operator/failures", "/operator/mails", "/operator/organizations",
    )  # fmt: skip
    with served(settings) as (_, browser):
        with stored(settings) as session:
            make_member(session, "Bob", "local")  # to whom the ownership can be given
        for path in pages:
            answer = browser.get(path)
            # That they are off is among the settings that an operator sees.
            found = re.search(
                r"(?i).{30}\b(credit|paid|refund|charge)", said(answer).replace("Credits off", "")
            )
            assert (path, answer.status_code, found) == (path, 200, None)
        assert browser.get("/organization/credits").status_code == 404
        assert browser.get("/api/v1/organization/credits").json()["code"] == "not-found"


PARAMS = {"layer": {"dataset": "demo", "layer": "labels"}}
