"""What a paid job costs, on its way through the pages: price, agreement, charge, return."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from paid_work import CREDITS_ON, PRICE, installed
from voxelworks import catalog
from voxelworks.client import ServerInfo
from voxelworks.db import open_database
from voxelworks.protocol.places import dataset_place
from voxelworks.protocol.views import DatasetSummary, LayerSummary
from voxelworks.settings import Settings
from voxelworks.testing.server import running_server

LABELS = LayerSummary(
    name="labels", category="segmentation", dtype="uint32", channel_count=1, box="0,0,0,8,8,8", mags=("1",)
)
FORM = {"dataset": "demo", "layer": "labels", "action": "submit", "key": "one"}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[ServerInfo, httpx.Client]]:
    settings = Settings(home=tmp_path, port=0, **CREDITS_ON)
    with (
        installed(),
        running_server(settings) as info,
        httpx.Client(base_url=info.url, headers={"Origin": info.url}, trust_env=False) as browser,
    ):
        browser.get("/", params={"token": info.token})
        with closing(open_database(settings)) as database, database.session() as session:
            catalog.register(
                session, organization_id="local", user_id="local", name="demo", place=dataset_place("local", "demo"),
                summary=DatasetSummary(voxel_size="4,4,40", layers=(LABELS,)),
            )  # fmt: skip
        yield info, browser


def said(answer: httpx.Response) -> str:
    body = re.sub(r"(?s)<(script|svg)\b.*?</\1>", " ", answer.text)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body)))


def grant(browser: httpx.Client, credits: int) -> None:
    values = {"organization_id": "local", "credits": str(credits)}
    assert browser.post("/operator/grants", data=values).status_code == 303


def test_nothing_is_submitted_before_somebody_has_agreed_to_the_price(site):
    _, browser = site
    assert PRICE == 2000
    shown = browser.get("/workflows/segment/new?dataset=demo&layer=labels")
    assert "Show the price" in said(shown)
    assert "Submit for" not in said(shown)
    poor = browser.post("/workflows/segment/new", data=FORM)
    assert (poor.status_code, "There are not enough credits" in said(poor)) == (200, True)
    assert "Submit for" not in said(poor)
    grant(browser, 5)
    offered = browser.post("/workflows/segment/new", data=FORM)
    assert "Submit for 2 credits" in said(offered)
    assert browser.get("/api/v1/jobs").json()["jobs"] == []
    quote = re.search(r'name="quote" value="([^"]+)"', offered.text)
    assert quote is not None
    agreed = browser.post("/workflows/segment/new", data={**FORM, "quote": quote[1]})
    job = browser.get(agreed.headers["location"])
    assert "2 credits , held" in said(job) or "2 credits, held" in said(job)
    assert browser.get("/api/v1/organization/credits").json()["available"] == 3000


def test_a_cancelled_job_returns_its_charge_and_says_so(site):
    _, browser = site
    grant(browser, 5)
    quote = browser.post("/api/v1/jobs/quote", json={"workflow": "segment", "params": PARAMS}).json()["quote"]
    body = {"workflow": "segment", "params": PARAMS, "quote_id": quote["id"]}
    job = browser.post("/api/v1/jobs", json=body).json()
    assert (quote["amount"], job["charge_millicredits"]) == (PRICE, PRICE)
    page = said(browser.get(f"/jobs/{job['id']}"))
    assert "The 2 credits are returned" in page
    browser.post(f"/jobs/{job['id']}/cancel")
    page = said(browser.get(f"/jobs/{job['id']}"))
    assert "all returned" in page
    assert "Retry for 2 credits" in page
    assert "Retry at no charge" in page
    words = said(browser.get("/organization/credits"))
    for expected in ("Job " + job["id"], "Refund " + job["id"]):
        assert expected in words
    free = browser.post(f"/jobs/{job['id']}/retry", data={"is_free": "true"}).headers["location"]
    assert "credits" not in said(browser.get(free)).partition("Submitted")[2].partition("History")[0]
    assert browser.get("/api/v1/organization/credits").json()["available"] == 5000


def test_with_credits_switched_off_no_page_speaks_of_them(tmp_path):
    with (
        running_server(Settings(home=tmp_path, port=0)) as info,
        httpx.Client(base_url=info.url, headers={"Origin": info.url}, trust_env=False) as browser,
    ):
        browser.get("/", params={"token": info.token})
        for path in ("/jobs", "/organization", "/workflows/convert/new", "/account"):
            assert "redits" not in said(browser.get(path))
        assert browser.get("/organization/credits").status_code == 404
        assert browser.get("/api/v1/organization/credits").json()["code"] == "not-found"


PARAMS = {"layer": {"dataset": "demo", "layer": "labels"}}
