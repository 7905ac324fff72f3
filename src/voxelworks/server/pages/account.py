"""The account page: name, password, login sessions, API tokens, mails, organizations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Form
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from voxelworks import accounts
from voxelworks.db import now
from voxelworks.notify import Preferences
from voxelworks.protocol.people import SCOPES, NewToken, Principal
from voxelworks.server import rendering
from voxelworks.server.api import account as api
from voxelworks.server.context import Context, Here, Who
from voxelworks.server.pages.acting import act, read
from voxelworks.workflows import workflows

router = APIRouter(prefix="/account")

DONE = {
    "name": "Your name is changed.",
    "password": "Your password is changed. All other browsers are logged out.",
    "session": "That browser is logged out.",
    "sessions": "All other browsers are logged out.",
    "revoked": "The token is revoked.",
    "mails": "Your choice of mails is stored.",
    "switched": "You speak for another organization now.",
}
LIFETIMES = {"30": "30 days", "90": "90 days", "365": "1 year", "": "until it is revoked"}
Text = Annotated[str, Form(max_length=1000)]


@router.get("", response_class=HTMLResponse)
def account_page(context: Here, request: Request, who: Who, done: str = "") -> Response:
    return _page(context, request, who, note=DONE.get(done, ""))


@router.post("/name")
def change_name(context: Here, request: Request, who: Who, name: Text = "") -> Response:
    return _act(
        context,
        request,
        who,
        lambda: api.change(context, who, read(api.AccountChange, {"name": name})),
        "name",
    )


@router.post("/password")
def change_password(
    context: Here,
    request: Request,
    who: Who,
    old: Text = "",
    new: Text = "",
    revokes_tokens: Annotated[bool, Form()] = False,
) -> Response:
    change = read(api.PasswordChange, {"old": old, "new": new, "revokes_tokens": revokes_tokens})
    return _act(context, request, who, lambda: api.change_password(context, request, who, change), "password")


@router.post("/sessions/{session_id}/end")
def end_session(context: Here, request: Request, who: Who, session_id: str) -> Response:
    return _act(context, request, who, lambda: api.end_session(context, who, session_id), "session")


@router.post("/sessions/end")
def end_other_sessions(context: Here, request: Request, who: Who) -> Response:
    return _act(context, request, who, lambda: api.end_other_sessions(context, request, who), "sessions")


@router.post("/tokens", response_class=HTMLResponse)
def create_token(
    context: Here, request: Request, who: Who, name: Text = "", scope: Text = "", lifetime_days: Text = ""
) -> Response:
    """Make a token and show it, this once."""
    made: list[NewToken] = []

    def create() -> None:
        values = {"name": name, "scopes": [scope], "lifetime_days": lifetime_days or None}
        made.append(api.create_token(context, who, read(api.TokenRequest, values)))

    answer = _act(context, request, who, create, "token")
    return _page(context, request, who, new_token=made[0]) if made else answer


@router.post("/tokens/{token_id}/revoke")
def revoke_token(context: Here, request: Request, who: Who, token_id: str) -> Response:
    return _act(context, request, who, lambda: api.revoke_token(context, who, token_id), "revoked")


@router.post("/notifications")
def choose_mails(
    context: Here,
    request: Request,
    who: Who,
    mails: Text = "all",
    digest: Text = "none",
    silenced: Annotated[list[str] | None, Form(max_length=200)] = None,
) -> Response:
    values = {
        "is_off": mails == "none", "is_silent_on_success": mails == "failures", "silenced": silenced or [],
        "digest": digest,
    }  # fmt: skip
    return _act(
        context,
        request,
        who,
        lambda: api.set_notifications(context, who, read(Preferences, values)),
        "mails",
    )


@router.post("/organization")
def switch(context: Here, request: Request, who: Who, organization_id: Text = "") -> Response:
    choice = read(api.OrganizationChoice, {"organization_id": organization_id})
    api.switch_organization(context, request, who, choice)
    return RedirectResponse("/organization", status_code=303)


def _act(
    context: Context, request: Request, who: Principal, action: Callable[[], object], done: str
) -> Response:
    return act(
        action,
        show=lambda problem, status: _page(context, request, who, problem=problem, status=status),
        back="/account",
        done=done,
    )


def _page(
    context: Context,
    request: Request,
    who: Principal,
    *,
    note: str = "",
    problem: str = "",
    status: int = 200,
    new_token: NewToken | None = None,
) -> Response:
    is_own_session = accounts.is_allowed(who, accounts.Action.MANAGE_ACCOUNT_OWN)
    with context.database.read_session() as session:
        as_of_ms = now(session)
    return rendering.page(
        request, "account.html", status=status, note=note, problem=problem, account=api.show(context, who),
        sessions=api.list_sessions(context, request, who) if is_own_session else (),
        tokens=api.list_tokens(context, who) if is_own_session else (), new_token=new_token,
        preferences=api.show_notifications(context, who), workflows=workflows(), scopes=SCOPES, lifetimes=LIFETIMES,
        as_of_ms=as_of_ms,
    )  # fmt: skip
