"""People in a real browser: the first set-up, an invitation, and credits that only the owner orders."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from voxelworks.settings import Settings
from voxelworks.testing.server import running_server

from .conftest import is_complaint

expect = pytest.importorskip("playwright.sync_api").expect
PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the address that the server prints when it is started for the first time."""
    settings = Settings(home=tmp_path_factory.mktemp("people") / "home", port=0, credits_enabled=True)
    with running_server(settings) as info:
        yield info.entry_url


@pytest.fixture
def visitor(browser) -> Iterator[Callable[[str], object]]:
    """Open an address as somebody who was never here; fails if a page logs an error."""
    contexts, complaints = [], []

    def open_(url: str) -> object:
        context = browser.new_context()
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda told: complaints.append(told.text) if is_complaint(told) else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []


def test_a_server_is_set_up_people_join_and_the_owner_alone_orders_credits(address, visitor):
    owner = visitor(address)
    owner.get_by_label("Account menu of Local operator").click()
    owner.get_by_role("link", name="Set up accounts").click()
    owner.get_by_label("Your name").fill("Ada")
    owner.get_by_label("E-mail").fill("ada@example.org")
    owner.get_by_label("Password").fill(PASSWORD)
    owner.get_by_label("Name of the organization").fill("Fly lab")
    owner.get_by_role("button", name="Set up").click()
    expect(owner.get_by_role("heading", name="Fly lab")).to_be_visible()

    others = {role: visitor(_invited(owner, role)) for role in ("admin", "member")}
    for role, page in others.items():
        expect(page.get_by_text(f"Ada invites {role}@example.org as {role}")).to_be_visible()
        page.get_by_label("Your name").fill(role.capitalize())
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Make the account and join").click()
        expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
        page.goto(f"{_origin(page)}/organization/credits")
        expect(page.get_by_role("heading", name="To spend")).to_be_visible()
        expect(page.get_by_role("button", name="Send the order")).to_have_count(0)
        expect(page.get_by_role("heading", name="Activity")).to_have_count(1 if role == "admin" else 0)

    owner.goto(f"{_origin(owner)}/organization/credits")
    owner.get_by_label("Credits", exact=True).fill("250")
    owner.get_by_label("Note to the operator").fill("For the new microscope")
    owner.get_by_role("button", name="Send the order").click()
    expect(owner.get_by_text("250 · open")).to_be_visible()
    owner.goto(f"{_origin(owner)}/operator/orders")
    order = owner.get_by_role("region", name="250 credits for Fly lab")
    expect(order.get_by_text("For the new microscope")).to_be_visible()
    order.get_by_label("Paid").fill("99.50")
    order.get_by_label("Currency").fill("EUR")
    order.get_by_role("button", name="Grant").click()
    expect(owner.get_by_text("Granted", exact=True)).to_be_visible()

    member, admin = others["member"], others["admin"]
    for page in (member, admin):
        page.reload()
        expect(page.locator(".big-number")).to_have_text("250")
    expect(admin.get_by_text("99.50 EUR paid")).to_be_visible()


def _invited(owner, role: str) -> str:
    """Invite somebody, and give the link that is shown once."""
    owner.goto(f"{_origin(owner)}/organization")
    owner.get_by_label("E-mail").fill(f"{role}@example.org")
    owner.locator("#invite-role").select_option(role)
    owner.get_by_role("button", name="Invite").click()
    return owner.locator("#new-invitation").inner_text()


def _origin(page) -> str:
    return page.evaluate("location.origin")
