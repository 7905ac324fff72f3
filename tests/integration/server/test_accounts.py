"""Set-up, invitations, passwords, tokens and organizations, as people meet them in the browser."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from voxelworks import catalog
from voxelworks.client import Client, ServerInfo
from voxelworks.db import open_database
from voxelworks.errors import NotAllowed
from voxelworks.protocol.places import dataset_place
from voxelworks.protocol.views import DatasetSummary
from voxelworks.settings import Settings
from voxelworks.testing.server import running_server

from .conftest import make_scope

PASSWORD = "a sentence of some length"
OTHER_PASSWORD = "another sentence, just as long"


@dataclass
class Site:
    """A fresh server, and browsers in front of it."""

    info: ServerInfo
    settings: Settings
    stack: ExitStack = field(default_factory=ExitStack)

    def browser(self) -> httpx.Client:
        return self.stack.enter_context(
            httpx.Client(
                base_url=self.info.url,
                headers={"Origin": self.info.url},
                trust_env=False,
                follow_redirects=True,
            )
        )

    def local(self) -> httpx.Client:
        browser = self.browser()
        browser.get("/", params={"token": self.info.token})
        return browser

    def set_up(self) -> httpx.Client:
        browser = self.local()
        values = {"name": "Ada", "email": "ada@example.org", "password": PASSWORD, "organization_name": "Lab"}
        answer = browser.post("/setup", data=values)
        assert answer.url.path == "/organization", said(answer)
        return browser

    def join(self, owner: httpx.Client, name: str, role: str = "member") -> httpx.Client:
        answer = owner.post(
            "/organization/invitations", data={"email": f"{name.lower()}@example.org", "role": role}
        )
        browser = self.browser()
        answer = browser.post(path_in(answer, "invitations"), data={"name": name, "password": PASSWORD})
        assert answer.url.path == "/jobs", said(answer)
        return browser


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    settings = Settings(
        home=tmp_path / "home", port=0, import_roots={"scope": make_scope(tmp_path)}, credits_enabled=True,
        operator_email="op@example.org",
    )  # fmt: skip
    with running_server(settings) as info:
        site = Site(info, settings)
        with site.stack:
            yield site


def said(answer: httpx.Response) -> str:
    """Give the words of a page."""
    body = re.sub(r"(?s)<(script|svg)\b.*?</\1>", " ", answer.text)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body)))


def path_in(answer: httpx.Response, kind: str) -> str:
    found = re.search(rf"/{kind}/vx[a-z]_[\w-]+", answer.text)
    assert found is not None, said(answer)
    return found[0]


def test_the_first_person_sets_up_and_logs_in_with_a_password(site):
    owner = site.set_up()
    assert "The server is set up" in said(owner.get("/organization?done=set-up"))
    assert "set up already" in said(owner.get("/setup"))
    browser = site.browser()
    assert browser.get("/jobs").status_code == 401
    wrong = browser.post("/login", data={"email": "ada@example.org", "password": "wrong"})
    unknown = browser.post("/login", data={"email": "nobody@example.org", "password": "wrong"})
    assert (wrong.status_code, unknown.status_code) == (401, 401)
    assert said(wrong).replace("ada@", "x@") == said(unknown).replace("nobody@", "x@")
    answer = browser.post(
        "/login", data={"email": " ADA@example.org", "password": PASSWORD, "target": "/jobs?state=failed"}
    )
    assert (answer.status_code, str(answer.url)) == (200, f"{site.info.url}/jobs?state=failed")
    assert "Ada" in said(answer)


def test_a_wrong_set_up_keeps_what_was_typed_and_changes_nothing(site):
    browser = site.local()
    values = {"name": "Ada", "email": "ada@example.org", "password": "password", "organization_name": "Lab"}
    answer = browser.post("/setup", data=values)
    assert answer.status_code == 422
    assert 'value="ada@example.org"' in answer.text
    assert "password" not in re.findall(r'value="([^"]*)"', answer.text)
    assert browser.get("/setup").status_code == 200


def test_logging_in_anew_ends_the_session_that_the_browser_had(site):
    browser = site.set_up()
    with httpx.Client(base_url=site.info.url, cookies=dict(browser.cookies), trust_env=False) as earlier:
        assert earlier.get("/jobs").status_code == 200
        browser.post("/login", data={"email": "ada@example.org", "password": PASSWORD})
        assert browser.get("/jobs").status_code == 200
        assert earlier.get("/jobs").status_code == 401


def test_log_in_leads_nowhere_else(site):
    site.set_up()
    browser = site.browser()
    browser.follow_redirects = False
    values = {"email": "ada@example.org", "password": PASSWORD, "target": "//evil.example/"}
    assert browser.post("/login", data=values).headers["location"] == "/evil.example/"


def test_somebody_invited_makes_an_account_and_sees_what_the_role_allows(site):
    owner = site.set_up()
    member = site.join(owner, "Grace")
    assert "Grace" in said(owner.get("/organization"))
    words = said(member.get("/organization"))
    assert "Invite somebody" not in words
    assert "Ada" in words
    assert member.post("/organization/invitations", data={"email": "x@example.org"}).status_code == 403
    assert member.get("/operator").status_code == 403
    assert "Operator" not in said(member.get("/jobs"))
    refused = member.post("/organization", data={"name": "Mine", "zone": "UTC"})
    assert (refused.status_code, "its owner and admins" in said(refused)) == (403, True)


def test_an_invitation_works_once_and_can_be_taken_back(site):
    owner = site.set_up()
    first = path_in(owner.post("/organization/invitations", data={"email": "a@example.org"}), "invitations")
    browser = site.browser()
    assert browser.post(first, data={"name": "A", "password": PASSWORD}).url.path == "/jobs"
    assert site.browser().get(first).status_code == 404
    second = path_in(owner.post("/organization/invitations", data={"email": "b@example.org"}), "invitations")
    [invitation] = owner.get("/api/v1/organization/invitations").json()
    owner.post(f"/organization/invitations/{invitation['id']}/revoke")
    assert site.browser().get(second).status_code == 404


def test_where_mails_are_sent_the_link_of_an_invitation_is_for_its_reader_alone(tmp_path):
    settings = Settings(home=tmp_path / "home", port=0, smtp_host="127.0.0.1", smtp_port=1)
    with running_server(settings) as info:
        site = Site(info, settings)
        with site.stack:
            operator = site.set_up()
            admin = site.join(operator, "Grace", "admin")
            answer = admin.post(
                "/organization/invitations", data={"email": "eve@example.org", "role": "member"}
            )
            assert "on its way by mail" in said(answer)
            assert "/invitations/vxi_" not in answer.text
            asked = {"email": "mallory@example.org", "role": "member"}
            assert admin.post("/api/v1/organization/invitations", json=asked).json()["path"] is None


def test_a_removed_member_is_out_at_once(site):
    owner = site.set_up()
    member = site.join(owner, "Grace")
    token = member.post("/api/v1/account/tokens", json={"name": "t", "scopes": ["submit"]}).json()["token"]
    members = owner.get("/api/v1/organization/members").json()
    [grace] = [item["user"]["id"] for item in members if item["user"]["name"] == "Grace"]
    with Client(site.info.url, token) as program:
        program.list_jobs()
        owner.post(f"/organization/members/{grace}/remove")
        assert member.get("/jobs").status_code == 401
        with pytest.raises(Exception, match=r"log in|API token|start"):
            program.list_jobs()


def test_a_forgotten_password_is_chosen_anew_by_mail(site):
    owner = site.set_up()
    stranger = site.browser()
    known = stranger.post("/forgotten", data={"email": "ada@example.org"})
    unknown = stranger.post("/forgotten", data={"email": "nobody@example.org"})
    assert said(known) == said(unknown)
    mail = wait_for_mail(owner, "password_reset")
    link = re.search(r"/reset/[\w-]+", owner.get(f"/operator/mails/{mail}").text)
    assert link is not None
    assert "API token" not in said(stranger.get(link[0])), "there is none to revoke"
    made = owner.post("/api/v1/account/tokens", json={"name": "nightly", "scopes": ["read"]})
    assert re.search(
        r'name="revokes_tokens" value="true" [^>]*checked><span>Revoke my API token, too',
        stranger.get(link[0]).text,
    )
    short = stranger.post(link[0], data={"password": "short"})
    assert re.search(r'name="revokes_tokens" value="true" aria-describedby="tokens-help">', short.text)
    assert (short.status_code, "8" in said(short)) == (422, True)
    values = {"password": OTHER_PASSWORD, "revokes_tokens": "true"}
    assert "new password is set" in said(stranger.post(link[0], data=values))
    with Client(site.info.url, made.json()["token"]) as program, pytest.raises(NotAllowed):
        program.list_jobs()
    assert owner.get("/jobs").status_code == 401
    assert stranger.post("/login", data={"email": "ada@example.org", "password": PASSWORD}).status_code == 401
    assert (
        stranger.post("/login", data={"email": "ada@example.org", "password": OTHER_PASSWORD}).status_code
        == 200
    )
    assert site.browser().post(link[0], data={"password": PASSWORD}).status_code in (401, 403, 404, 422)


def test_a_new_password_logs_out_all_other_browsers(site):
    owner = site.set_up()
    other = site.browser()
    other.post("/login", data={"email": "ada@example.org", "password": PASSWORD})
    assert other.get("/jobs").status_code == 200
    wrong = owner.post("/account/password", data={"old": "wrong", "new": OTHER_PASSWORD})
    assert wrong.status_code in (403, 422), said(wrong)
    right = owner.post("/account/password", data={"old": PASSWORD, "new": OTHER_PASSWORD})
    assert "Your password is changed" in said(right)
    assert other.get("/jobs").status_code == 401


def test_a_token_is_shown_once_and_may_no_more_than_its_scope(site):
    owner = site.set_up()
    made = owner.post("/account/tokens", data={"name": "notebook", "scope": "read", "lifetime_days": "30"})
    token = re.search(r"vxt_[\w-]{20,}", made.text)
    assert token is not None
    assert token[0] not in owner.get("/account").text
    assert token[0].encode() not in (site.settings.home / "voxelworks.sqlite3").read_bytes()
    headers = {"Authorization": f"Bearer {token[0]}"}
    with httpx.Client(base_url=site.info.url, headers=headers, trust_env=False) as program:
        assert program.get("/api/v1/jobs").status_code == 200
        refused = program.post("/api/v1/jobs", json={"workflow": "convert", "params": {}})
        assert refused.json()["code"] in ("not-allowed", "invalid-params")
        answer = program.post("/api/v1/account/tokens", json={"name": "x", "scopes": ["admin"]})
        assert (answer.status_code, "scope" in answer.json()["message"]) == (403, True)
        [view] = owner.get("/api/v1/account/tokens").json()
        owner.post(f"/account/tokens/{view['id']}/revoke")
        assert program.get("/api/v1/jobs").status_code == 401


def test_where_somebody_is_logged_in_is_listed_and_ended(site):
    owner = site.set_up()
    other = site.browser()
    other.headers["User-Agent"] = "Other browser"
    other.post("/login", data={"email": "ada@example.org", "password": PASSWORD})
    page = owner.get("/account")
    assert "Other browser" in said(page)
    sessions = owner.get("/api/v1/account/sessions").json()
    [there] = [item for item in sessions if item["agent"] == "Other browser"]
    assert not there["is_current"]
    owner.post(f"/account/sessions/{there['id']}/end")
    assert other.get("/jobs").status_code == 401
    assert owner.get("/jobs").status_code == 200


def test_mails_are_chosen_and_ended_by_one_click(site):
    from voxelworks.db import SecretBox
    from voxelworks.notify import unsubscribe_path

    owner = site.set_up()
    answer = owner.post(
        "/account/notifications", data={"mails": "failures", "digest": "daily", "silenced": ["convert"]}
    )
    assert "Your choice of mails is stored" in said(answer)
    assert owner.get("/api/v1/account/notifications").json() == {
        "is_off": False, "is_silent_on_success": True, "silenced": ["convert"], "digest": "daily",
    }  # fmt: skip
    path = unsubscribe_path(SecretBox(site.settings.secret_key_file), "local")
    with httpx.Client(base_url=site.info.url, trust_env=False) as mail_program:
        assert "End the mails" in mail_program.get(path).text
        assert owner.get("/api/v1/account/notifications").json()["is_off"] is False
        # As RFC 8058 has it: without cookie, origin, or anything else.
        assert mail_program.post(path, data={"List-Unsubscribe": "One-Click"}).status_code == 200
        assert mail_program.post("/unsubscribe/made-up").status_code == 404
    assert owner.get("/api/v1/account/notifications").json()["is_off"] is True


def test_credits_are_ordered_by_the_owner_granted_by_the_operator_and_shown(site):
    owner = site.set_up()
    admin = site.join(owner, "Grace", "admin")
    assert admin.post("/organization/credits/order", data={"credits": "5"}).status_code == 403
    assert "Your order was sent" in said(owner.post("/organization/credits/order", data={"credits": "100"}))
    mail = wait_for_mail(owner, "credits_ordered")
    assert "100" in owner.get(f"/operator/mails/{mail}").text
    [order] = owner.get("/api/v1/operator/orders").json()
    values = {"paid": "80.50", "currency": "eur", "comment": "invoice 7"}
    assert "granted" in said(owner.post(f"/operator/orders/{order['id']}/grant", data=values))
    words = said(admin.get("/organization/credits"))
    for expected in ("Purchase", "80.50 EUR paid", "invoice 7", "+100"):
        assert expected in words
    csv = admin.get("/organization/credits.csv")
    assert csv.headers["content-type"].startswith("text/csv")
    assert "80.50" in csv.text
    assert owner.post(f"/operator/orders/{order['id']}/grant", data=values).status_code == 409
    told = wait_for_mail(owner, "credits_granted")
    assert "got 100 credits" in owner.get(f"/operator/mails/{told}").text


def test_who_ordered_credits_is_told_why_they_were_declined(site):
    owner = site.set_up()
    owner.post("/organization/credits/order", data={"credits": "100"})
    [order] = owner.get("/api/v1/operator/orders").json()
    owner.post(f"/operator/orders/{order['id']}/decline", data={"reason": "the grant has ended"})
    told = wait_for_mail(owner, "credits_declined")
    assert "the grant has ended" in owner.get(f"/operator/mails/{told}").text


def test_somebody_in_two_organizations_switches_between_them(site):
    owner = site.set_up()
    owner.post("/operator/organizations", data={"short_name": "second", "name": "Second lab"})
    assert "Second lab" in said(owner.get("/account"))
    assert owner.post("/account/organization", data={"organization_id": "second"}).url.path == "/organization"
    assert "Second lab" in said(owner.get("/organization"))
    assert owner.get("/api/v1/account").json()["organization"]["id"] == "second"
    assert owner.post("/account/organization", data={"organization_id": "third"}).status_code == 404


def test_a_worker_key_made_on_the_page_opens_the_worker_routes_until_it_is_revoked(site):
    owner = site.set_up()
    made = owner.post("/operator/worker-keys", data={"name": "GPU host"})
    key = re.search(r"vxw_[\w-]{20,}", made.text)
    assert key is not None
    body = {"name": "gpu", "version": "1", "workflows": {}}
    headers = {"Authorization": f"Bearer {key[0]}"}
    with httpx.Client(base_url=site.info.url, headers=headers, trust_env=False) as worker:
        assert worker.post("/api/v1/worker/sessions", json=body).status_code == 200
        assert worker.get("/api/v1/jobs").status_code == 401
        [view] = [
            item for item in owner.get("/api/v1/operator/worker-keys").json() if item["name"] == "GPU host"
        ]
        owner.post(f"/operator/worker-keys/{view['id']}/revoke")
        assert worker.post("/api/v1/worker/sessions", json=body).status_code == 401


def test_the_audit_log_says_who_did_what(site):
    owner = site.set_up()
    site.join(owner, "Grace")
    words = said(owner.get("/organization/audit"))
    for expected in ("member invited", "Ada", "grace@example.org"):
        assert expected in words
    assert "member joined" in said(owner.get("/operator/audit"))


def test_too_many_requests_are_refused_for_a_while(tmp_path):
    settings = Settings(home=tmp_path, port=0, rates_per_minute={"door": 3})
    with running_server(settings) as info, httpx.Client(
        base_url=info.url, headers={"Origin": info.url}, trust_env=False
    ) as browser:  # fmt: skip
        tries = [browser.post("/login", data={"token": "wrong"}) for _ in range(5)]
    assert [answer.status_code for answer in tries] == [401, 401, 401, 429, 429]
    assert 0 < int(tries[-1].headers["retry-after"]) <= 60


def wait_for_mail(operator: httpx.Client, template: str) -> int:
    """Wait until a mail is kept; give its number."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for mail in operator.get("/api/v1/operator/mails").json()["mails"]:
            if mail["template"] == template:
                number: int = mail["id"]
                return number
        time.sleep(0.1)
    raise AssertionError(f"no mail {template}")


def test_a_member_leaves_and_the_owner_cannot(site):
    owner = site.set_up()
    ben = site.join(owner, "Ben")
    me = re.search(r'action="/organization/members/(\w+)/remove"', ben.get("/organization").text)
    assert me is not None
    assert 'popovertarget="leave"' not in owner.get("/organization").text
    answer = ben.post(f"/organization/members/{me[1]}/remove")
    assert (answer.url.path, "You have left the organization" in said(answer)) == ("/login", True)
    assert ben.get("/organization").status_code == 401
    assert "Ben" not in said(owner.get("/organization"))
    refused = owner.post("/organization/members/local/remove")
    assert (refused.status_code, "transfer the ownership first" in said(refused)) == (409, True)


def test_an_operator_names_another_owner_on_the_page(site):
    operator = site.set_up()
    site.join(operator, "Ben")
    address = "/operator/organizations/local/owner"
    unknown = operator.post(address, data={"email": "nobody@example.org"})
    assert (unknown.status_code, "here has the address 'nobody@example.org'" in said(unknown)) == (
        422,
        True,
    )
    answer = operator.post(address, data={"email": "ben@example.org"})
    assert (answer.url.path, "The organization has a new owner" in said(answer)) == (
        "/operator/organizations",
        True,
    )
    with Client(site.info.url, site.info.token) as client:
        members = client._get("organization/members")
    assert {item["user"]["name"]: item["role"] for item in members} == {"Ada": "admin", "Ben": "owner"}


def test_what_is_done_to_annotations_and_webhooks_is_in_the_audit_log(site):
    owner = site.set_up()
    nml = (
        b'<things><parameters><experiment name="x"/><scale x="4" y="4" z="40"/></parameters>'
        b'<thing id="1" name="t"><nodes/><edges/></thing></things>'
    )
    made = owner.post("/api/v1/annotations", files={"file": ("a.nml", nml)}).json()["id"]
    owner.delete(f"/api/v1/annotations/{made}")
    owner.post(f"/api/v1/annotations/{made}/restore")
    owner.delete(f"/api/v1/annotations/{made}")
    owner.post(f"/api/v1/annotations/{made}/delete-now")
    hook = owner.post("/api/v1/organization/webhooks", json={"url": "https://hooks.example.org/x"}).json()
    owner.patch(f"/api/v1/organization/webhooks/{hook['view']['id']}", json={"is_on": False})
    lines = owner.get("/api/v1/organization/audit").json()["entries"]
    noted = [(line["action"], line["subject"], line["detail"].get("is_on")) for line in reversed(lines)]
    assert [line for line in noted if line[0].startswith(("annotation.", "webhook."))] == [
        ("annotation.uploaded", made, None), ("annotation.trashed", made, None), ("annotation.restored", made, None),
        ("annotation.trashed", made, None), ("annotation.deleted", made, None),
        ("webhook.created", hook["view"]["id"], None), ("webhook.changed", hook["view"]["id"], False),
    ]  # fmt: skip


def test_what_is_done_to_datasets_is_in_the_audit_log(site):
    owner = site.set_up()
    with closing(open_database(site.settings)) as database, database.session() as session:
        dataset = catalog.register(
            session, organization_id="local", user_id="local", name="old", place=dataset_place("local", "old"),
            summary=DatasetSummary(voxel_size=None, layers=()),
        ).id  # fmt: skip
    owner.patch(f"/api/v1/datasets/{dataset}", json={"name": "new"})
    owner.delete(f"/api/v1/datasets/{dataset}")
    owner.post(f"/api/v1/datasets/{dataset}/restore")
    lines = owner.get("/api/v1/organization/audit").json()["entries"]
    noted = [(line["action"], line["subject"], line["detail"]) for line in reversed(lines)]
    assert [line for line in noted if line[0].startswith("dataset.")] == [
        ("dataset.renamed", dataset, {"old": "old", "new": "new"}), ("dataset.trashed", dataset, {"name": "new"}),
        ("dataset.restored", dataset, {"name": "new"}),
    ]  # fmt: skip
