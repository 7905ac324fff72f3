"""Who comes in, from where, and what every answer carries."""

from __future__ import annotations

import stat
from typing import Any

import httpx
import pytest

from voxelworks.client import ServerInfo, server_file, worker_key_file


def test_the_printed_address_lets_a_browser_in_once_and_leads_to_a_clean_address(served):
    with served.anonymous() as browser:
        first = browser.get("/jobs", params={"state": "failed", "token": served.info.token})
        assert (first.status_code, first.headers["location"]) == (303, "/jobs?state=failed")
        [cookie] = first.headers.get_list("set-cookie")
        assert served.info.token not in cookie
        assert {"HttpOnly", "SameSite=lax", "Path=/"} <= set(cookie.split("; "))
        assert browser.get("/jobs").status_code == 200


def test_without_token_or_cookie_there_is_only_the_door(served):
    with served.anonymous() as stranger:
        page = stranger.get("/jobs")
        assert (page.status_code, "You are not let in yet" in page.text) == (401, True)
        assert stranger.get("/api/v1/jobs").json()["code"] == "not-let-in"
        assert stranger.get("/jobs?token=wrong").status_code == 401
        assert stranger.get("/healthz").json()["version"]
        assert stranger.get("/static/voxelworks.css").status_code == 200


def test_the_token_can_be_pasted_and_signing_out_ends_the_session(served):
    with served.anonymous(Origin=served.info.url) as browser:
        assert browser.post("/login", data={"token": "wrong"}).status_code == 401
        assert browser.post("/login", data={"token": served.info.token}).headers["location"] == "/jobs"
        cookies = dict(browser.cookies)
        assert browser.post("/logout").status_code == 303
        with served.anonymous() as thief:
            thief.cookies.update(cookies)
            assert thief.get("/jobs").status_code == 401


def test_the_worker_key_and_the_token_open_each_their_own_routes(served):
    key = worker_key_file(served.settings.home).read_text()
    session = {"name": "w", "version": "1", "workflows": {}}
    with served.anonymous(Authorization=f"Bearer {key}") as worker:
        assert worker.post("/api/v1/worker/sessions", json=session).status_code == 200
        assert worker.get("/api/v1/jobs").status_code == 401
        assert worker.get("/jobs").status_code == 401
    with served.anonymous(Authorization=f"Bearer {served.info.token}") as person:
        assert person.get("/api/v1/jobs").status_code == 200
        assert person.post("/api/v1/worker/sessions", json=session).status_code == 401
    assert served.browser.post("/api/v1/worker/sessions", json=session).status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", "[::1"])
def test_another_name_of_this_machine_is_refused(served, host):
    with served.anonymous(Host=host) as browser:
        answer = browser.get("/healthz")
    assert (answer.status_code, answer.json()["code"]) == (403, "not-allowed")


@pytest.mark.parametrize("host", ["localhost:9999", "127.0.0.1", "[::1]:8440", "LOCALHOST"])
def test_loopback_names_are_served_also_through_a_tunnel(served, host):
    with served.anonymous(Host=host) as browser:
        assert browser.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {},
    ],
)
def test_a_change_from_elsewhere_is_refused_even_with_the_cookie(served, headers):
    with served.anonymous(**headers) as browser:
        browser.cookies.update(served.browser.cookies)
        answer = browser.post("/logout")
    assert answer.status_code == 403
    assert served.browser.get("/jobs").status_code == 200


def test_other_sites_may_link_here_but_not_read(served):
    with served.anonymous() as browser:
        browser.cookies.update(served.browser.cookies)
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert browser.get("/jobs", headers=link).status_code == 200
        script = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
        assert browser.get("/jobs/live", headers=script).status_code == 403


def test_reading_never_changes_anything(served):
    """Every route that answers GET is tried; none may add an event to a job."""
    job = served.convert("unchanged")
    before = served.client.show(job)
    routes = [route for route, methods in _routes(served) if "get" in methods]
    assert len(routes) > 8
    for route in routes:
        if not route.endswith("/events"):
            served.browser.get(
                route.replace("{job_id}", job).replace("{name}", "convert").replace("{ref}", "x")
            )
    assert served.client.show(job).events == before.events


@pytest.mark.parametrize("path", ["/jobs", "/api/v1/jobs", "/nothing", "/static/voxelworks.js"])
def test_every_answer_carries_the_security_headers(served, path):
    headers = served.browser.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"


def test_files_with_a_version_in_their_address_are_kept_by_browsers(served):
    answer = served.browser.get("/static/voxelworks.css?v=1")
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"


def test_pages_contain_no_inline_scripts_or_styles(served):
    job = served.convert("inline")
    for path in ("/jobs", f"/jobs/{job}", "/workflows", "/workflows/convert/new", "/datasets", "/nothing"):
        text = served.browser.get(path).text
        assert " style=" not in text
        assert "<style" not in text
        assert "<script>" not in text
        assert "javascript:" not in text
        assert " onclick=" not in text


def test_a_body_beyond_the_limit_is_refused(served):
    with served.anonymous(Authorization=f"Bearer {served.info.token}") as person:
        declared = person.post("/api/v1/jobs", content=b"[" * 9 * 2**20)
        assert (declared.status_code, declared.json()["code"]) == (413, "too-large")
        chunked = person.post("/api/v1/jobs", content=(b"[" * 2**20 for _ in range(9)))
        assert 400 <= chunked.status_code < 500


def test_what_users_wrote_is_shown_escaped(served):
    params = {"layers": [{"source": "root:scope/run1"}], "target": "escaped", "voxel_size": "4,4,40"}
    form = {"target": '"><script>alert(1)</script>', "source": "<img src=x>", "action": "submit"}
    text = served.browser.post("/workflows/convert/new", data=form).text
    assert "<script>alert" not in text
    assert "<img src=x>" not in text
    job = served.client.submit("convert", params)
    worker = served.worker(convert=1)
    while worker.claim().job_id != job.id:
        worker.fail("user_input", "x", "not wanted")
    worker.log("</pre><script>alert(2)</script>\n")
    worker.fail("user_input", "invalid-input", "<script>alert(3)</script>")
    text = served.browser.get(f"/jobs/{job.id}").text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(2)" in text


def test_keys_lie_in_files_that_only_their_user_reads(served):
    for file in (server_file(served.settings.home), worker_key_file(served.settings.home)):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert ServerInfo.read(server_file(served.settings.home)) == served.info


def _routes(served: Any) -> list[tuple[str, set[str]]]:
    paths = httpx.get(
        f"{served.info.url}/api/v1/openapi.json", headers={"Authorization": f"Bearer {served.info.token}"}
    ).json()["paths"]
    pages = [
        "/",
        "/jobs",
        "/jobs/{job_id}",
        "/jobs/{job_id}/log.txt?attempt=1",
        "/workflows/{name}/new",
        "/browse",
    ]
    return [(path, set(methods)) for path, methods in paths.items()] + [(path, {"get"}) for path in pages]
