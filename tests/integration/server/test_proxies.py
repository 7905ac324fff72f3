"""Caddy and nginx with the examples in `deploy/`, on a host of their own and below a path of another."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from voxelworks.settings import Settings
from voxelworks.testing.certificates import make_certificate
from voxelworks.testing.proxies import EXAMPLES, Example, find_program, running_proxy
from voxelworks.testing.server import OWNER, free_port, running_server, set_up

from .conftest import make_scope

LOGIN = dict(zip(("email", "password"), OWNER, strict=True))
LARGE_NML = (
    b'<things><parameters><experiment name="demo"/><scale x="4" y="4" z="40"/></parameters>'
    b'<thing id="1" name="tree"><nodes>'
    + b"".join(b'<node id="%d" x="1" y="2" z="3" radius="1.000"/>\n' % number for number in range(1, 50_001))
    + b"</nodes><edges/></thing></things>"
)
"""More than proxies take unless told otherwise: nginx stops at 1 MiB."""


@dataclass(frozen=True)
class Proxied:
    """A server behind a proxy, and somebody who is logged in through it."""

    example: Example
    browser: httpx.Client
    """Its addresses begin behind the path of the proxy."""
    login: httpx.Response


@pytest.fixture(scope="module", params=EXAMPLES, ids=[example.file for example in EXAMPLES])
def proxied(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    example: Example = request.param
    if find_program(example.program) is None:
        pytest.skip(f"{example.program} is not installed (Debian: apt-get install {example.program})")
    folder = tmp_path_factory.mktemp("proxied")
    certificate = make_certificate(folder)
    port, server_port = free_port(), free_port()
    origin = f"https://localhost:{port}"
    settings = Settings(
        home=folder / "home", port=server_port, public_url=origin + example.path,
        trusted_proxies=frozenset({"127.0.0.1"}), import_roots={"scope": make_scope(folder)},
    )  # fmt: skip
    set_up(settings)
    trust = ssl.create_default_context(cafile=str(certificate.authority))
    with (
        running_server(settings),
        running_proxy(example, folder, certificate, port=port, server_port=server_port),
        httpx.Client(
            base_url=origin + example.path,
            headers={"Origin": origin},
            verify=trust,
            trust_env=False,
            timeout=60,
        ) as browser,
    ):
        login = browser.post("/login", data=LOGIN)
        yield Proxied(example, browser, login)


def test_logging_in_leads_to_the_jobs(proxied):
    assert (proxied.login.status_code, proxied.login.headers["location"]) == (
        303,
        f"{proxied.example.path}/jobs",
    )
    assert proxied.browser.get("/jobs").status_code == 200
    [session] = proxied.browser.get("/api/v1/account/sessions").json()
    assert session["address"] == "127.0.0.1"


def test_what_a_client_claims_about_itself_is_not_passed_on(proxied):
    forged = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "http"}
    answer = proxied.browser.post("/login", data=LOGIN, headers=forged)
    assert answer.status_code == 303
    sessions = proxied.browser.get("/api/v1/account/sessions").json()
    assert {session["address"] for session in sessions} == {"127.0.0.1"}


def test_every_address_on_a_page_leads_somewhere(proxied):
    path = proxied.example.path
    for page in (
        "/jobs",
        "/uploads/new",
        "/workflows/convert/new",
        "/datasets",
        "/organization",
        "/operator",
    ):
        answer = proxied.browser.get(page)
        assert answer.status_code == 200
        html = answer.text
        found = set(re.findall(r'(?:href|src|hx-get|sse-connect)="([^"#]+)"', html))
        own = {address for address in found if address.startswith("/")}
        assert len(own) > 5
        assert all(address.startswith(f"{path}/") for address in own)
        # A stream has no end, and scripts complete addresses: the test of streams opens one of both kinds.
        for address in own - set(re.findall(r'(?:hx-get|sse-connect)="([^"]+)"', html)):
            answer = proxied.browser.get(address.removeprefix(path).replace("&amp;", "&"))
            assert answer.status_code < 400, f"{page} leads to {address}: {answer.status_code}"
        forms = re.findall(r'\saction="([^"]*)"', html)
        assert forms
        assert all(action.startswith(f"{path}/") for action in forms)


def test_a_large_file_comes_through(proxied):
    answer = proxied.browser.post("/api/v1/annotations", files={"file": ("large.nml", LARGE_NML)})
    assert answer.status_code == 201, answer.text
    assert answer.json()["size_bytes"] == len(LARGE_NML)


def test_streams_come_through_as_they_are_written(proxied):
    params = {
        "layers": [{"source": "root:scope/run1"}],
        "target": "made",
        "voxel_size": "4,4,40",
    }
    live = re.search(r'sse-connect="([^"]+)"', proxied.browser.get("/jobs").text)
    assert live is not None
    address = live[1].removeprefix(proxied.example.path).replace("&amp;", "&")
    with proxied.browser.stream("GET", address, timeout=30) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        job = proxied.browser.post("/api/v1/jobs", json={"workflow": "convert", "params": params})
        assert job.status_code == 201, job.text
        # An answer that the proxy holds back ends in a timeout.
        link = f'/jobs/{job.json()["id"]}"'
        told = next(line for line in stream.iter_lines() if link in line)
    assert f'href="{proxied.example.path}{link}' in told
