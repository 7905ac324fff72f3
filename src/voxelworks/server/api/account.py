"""The account of who asks: name, password, login sessions, API tokens, mails."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from starlette.requests import Request

from voxelworks import accounts
from voxelworks import notify as notifications
from voxelworks.accounts import Action
from voxelworks.errors import InvalidInput
from voxelworks.notify import Preferences
from voxelworks.protocol.messages import Message
from voxelworks.protocol.people import (
    ApiTokenView,
    LoginSessionView,
    MembershipView,
    NewToken,
    OrganizationView,
    Role,
    Scope,
    UserView,
)
from voxelworks.server.context import Here, Who
from voxelworks.server.security import session_cookie

router = APIRouter(prefix="/account", tags=["account"])

NAME_MAX = 100
PASSWORD_MAX = 1000
"""Longer ones are not even read; the rules are those of `accounts`."""


class AccountView(Message):
    """Who asks, and for which organization."""

    user: UserView
    organization: OrganizationView
    role: Role
    memberships: tuple[MembershipView, ...]
    """In all organizations that the user is a member of."""


class AccountChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=NAME_MAX)]


class PasswordChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    old: Annotated[SecretStr, Field(max_length=PASSWORD_MAX)]
    new: Annotated[SecretStr, Field(max_length=PASSWORD_MAX)]
    revokes_tokens: bool = False
    """Whether all API tokens end, too, in all organizations."""


class TokenRequest(BaseModel):
    """An API token to be."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=NAME_MAX)]
    scopes: frozenset[Scope]
    lifetime_days: Annotated[int | None, Field(ge=1, le=3650)] = 90
    """None: it does not end by itself."""


class OrganizationChoice(BaseModel):
    model_config = ConfigDict(extra="forbid")

    organization_id: Annotated[str, Field(max_length=100)]


@router.get("")
def show(context: Here, who: Who) -> AccountView:
    """Show who you are here."""
    with context.database.read_session() as session:
        return AccountView(
            user=accounts.find_user(session, who.user_id),
            organization=accounts.find_organization(session, who.organization_id),
            role=who.role,
            memberships=accounts.list_memberships(session, who.user_id),
        )


@router.patch("")
def change(context: Here, who: Who, change: AccountChange) -> UserView:
    accounts.require(who, Action.MANAGE_ACCOUNT_OWN)
    with context.database.session() as session:
        return accounts.rename_user(session, who, change.name)


@router.post("/password", status_code=204)
def change_password(context: Here, request: Request, who: Who, change: PasswordChange) -> None:
    """Change the password. All other login sessions end, and, if wanted, all API tokens."""
    accounts.require(who, Action.MANAGE_ACCOUNT_OWN)
    accounts.change_password(
        context.database, who, change.old.get_secret_value(), change.new.get_secret_value(),
        cookie=_cookie(request, who.entrance), settings=context.settings, revokes_tokens=change.revokes_tokens,
    )  # fmt: skip


@router.get("/sessions")
def list_sessions(context: Here, request: Request, who: Who) -> tuple[LoginSessionView, ...]:
    """List where you are logged in."""
    accounts.require(who, Action.MANAGE_ACCOUNT_OWN)
    with context.database.read_session() as session:
        return accounts.list_sessions(
            session, who, cookie=_cookie(request, who.entrance), settings=context.settings
        )


@router.delete("/sessions/{session_id}", status_code=204)
def end_session(context: Here, who: Who, session_id: str) -> None:
    """Log out elsewhere."""
    accounts.require(who, Action.MANAGE_ACCOUNT_OWN)
    with context.database.session() as session:
        accounts.end_session(session, who, session_id)


@router.delete("/sessions", status_code=204)
def end_other_sessions(context: Here, request: Request, who: Who) -> None:
    """Log out everywhere but here."""
    accounts.require(who, Action.MANAGE_ACCOUNT_OWN)
    with context.database.session() as session:
        accounts.end_other_sessions(session, who, _cookie(request, who.entrance))


@router.post("/organization", status_code=204)
def switch_organization(context: Here, request: Request, who: Who, choice: OrganizationChoice) -> None:
    """Speak for another of your organizations in this login session. An API token always speaks for its own."""
    cookie = _cookie(request, who.entrance)
    if cookie is None:
        raise InvalidInput(
            "only a login session can switch; an API token speaks for the organization that it was made in"
        )
    with context.database.session() as session:
        accounts.switch_organization(session, who, cookie, choice.organization_id)


@router.get("/tokens")
def list_tokens(context: Here, who: Who) -> tuple[ApiTokenView, ...]:
    accounts.require(who, Action.MANAGE_TOKENS_OWN)
    with context.database.read_session() as session:
        return accounts.list_api_tokens(session, who)


@router.post("/tokens", status_code=201)
def create_token(context: Here, who: Who, wanted: TokenRequest) -> NewToken:
    """Make an API token for the present organization. It is shown this once."""
    accounts.require(who, Action.MANAGE_TOKENS_OWN)
    with context.database.session() as session:
        token, view = accounts.create_api_token(
            session, who, wanted.name, wanted.scopes, wanted.lifetime_days
        )
    return NewToken(token=token, view=view)


@router.delete("/tokens/{token_id}", status_code=204)
def revoke_token(context: Here, who: Who, token_id: str) -> None:
    accounts.require(who, Action.MANAGE_TOKENS_OWN)
    with context.database.session() as session:
        accounts.revoke_api_token(session, who, token_id)


@router.get("/notifications")
def show_notifications(context: Here, who: Who) -> Preferences:
    """Show which mails you get."""
    with context.database.read_session() as session:
        return notifications.preferences(session, who.user_id)


@router.put("/notifications")
def set_notifications(context: Here, who: Who, chosen: Preferences) -> Preferences:
    """Choose which mails you get."""
    accounts.require(who, Action.MANAGE_ACCOUNT_OWN)
    with context.database.session() as session:
        notifications.set_preferences(session, who.user_id, chosen)
    return chosen


def _cookie(request: Request, entrance: str) -> str | None:
    return session_cookie(request) if entrance == "session" else None
