"""Logging in through an identity provider, as a browser does: out, there, and back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from pydantic import SecretStr

from identity_provider import CLIENT_ID, CLIENT_SECRET, Provider, running_provider
from voxelworks.accounts import oidc
from voxelworks.client import ServerInfo
from voxelworks.settings import Settings
from voxelworks.testing.server import running_server

TICKET = "voxelworks-ticket"


@dataclass
class Door:
    """A server that sends browsers to a provider, where everybody is Ada."""

    info: ServerInfo
    provider: Provider
    browser: httpx.Client

    def invite(self, email: str) -> None:
        answer = httpx.post(
            f"{self.info.url}/api/v1/organization/invitations", json={"email": email, "role": "dataset_manager"},
            headers={"Authorization": f"Bearer {self.info.token}"}, trust_env=False,
        )  # fmt: skip
        assert answer.status_code == 201, answer.text

    def go(self) -> httpx.Response:
        """Press the button of the log-in page."""
        assert 'href="/login/oidc"' in self.browser.get("/login").text
        return self.browser.get("/login/oidc")

    def come_back(self, sent: httpx.Response, **changes: str) -> httpx.Response:
        query = self.provider.visit(sent.headers["location"]) | changes
        return self.browser.get("/login/oidc/callback", params=query)


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    monkeypatch.setattr(oidc, "_known", oidc._Known())
    with running_provider() as provider:
        settings = Settings(
            home=tmp_path, port=0, oidc_issuer=provider.issuer, oidc_client_id=CLIENT_ID,
            oidc_client_secret=SecretStr(CLIENT_SECRET),
        )  # fmt: skip
        with (
            running_server(settings) as info,
            httpx.Client(base_url=info.url, trust_env=False) as browser,
        ):
            yield Door(info, provider, browser)


def test_whoever_is_invited_comes_in_through_the_provider(door: Door):
    door.invite("ada@example.org")
    sent = door.go()
    assert sent.status_code == 303
    asked = parse_qs(urlsplit(sent.headers["location"]).query)
    assert asked["redirect_uri"] == [f"{door.info.url}/login/oidc/callback"]
    ticket = sent.headers["set-cookie"]
    assert ticket.startswith(f"{TICKET}=")
    assert {"HttpOnly", "Path=/login/oidc", "SameSite=lax"} <= set(ticket.split("; "))
    back = door.come_back(sent)
    assert (back.status_code, back.headers["location"]) == (303, "/jobs")
    assert TICKET not in door.browser.cookies
    account = door.browser.get("/account")
    assert (account.status_code, "ada@example.org" in account.text) == (200, True)


def test_whoever_is_not_invited_stays_out(door: Door):
    back = door.come_back(door.go())
    assert (back.status_code, "ask an admin for an invitation" in back.text) == (401, True)
    assert door.browser.get("/account").status_code == 401


def test_an_answer_counts_once_and_only_in_the_browser_that_asked(door: Door):
    door.invite("ada@example.org")
    sent = door.go()
    with httpx.Client(base_url=door.info.url, trust_env=False) as other:
        stolen = other.get("/login/oidc/callback", params=door.provider.visit(sent.headers["location"]))
        assert (stolen.status_code, other.get("/account").status_code) == (401, 401)
    assert door.come_back(sent, state="another").status_code == 401
    assert door.come_back(sent).status_code == 303
    again = door.come_back(sent)
    assert again.status_code == 401
