"""Logging in, tokens, and who asks."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field, SecretStr
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from voxelworks import accounts, catalog, credits
from voxelworks.accounts import Action
from voxelworks.db import now
from voxelworks.errors import NotAllowed, NotFound
from voxelworks.protocol.foreign import foreign_id
from voxelworks.protocol.people import Principal, Scope
from voxelworks.server.context import Context, Here, Who
from voxelworks.server.origin import client_address, client_agent
from voxelworks.server.security import set_session_cookie, token_of
from voxelworks.server.wk.models import ForeignOrganization, ForeignUser, TeamMembership, Token
from voxelworks.server.wk.translate import split_name

router = APIRouter()

CLIENT_TOKEN = "WEBKNOSSOS client"  # noqa: S105 - a name
"""Name of the token that `/auth/token` gives; a user has one."""
DATA_TOKEN = "WEBKNOSSOS data"  # noqa: S105 - a name
CLIENT_SCOPES: tuple[Scope, ...] = ("read", "submit", "manage")
DATA_SCOPES: tuple[Scope, ...] = ("read",)
CLIENT_TOKEN_DAYS = 90
DATA_TOKENS_MAX = 5
_TOKEN_ENTRANCES = frozenset({"token", "job", "start_up"})


class LogIn(BaseModel):
    """Who logs in."""

    email: Annotated[str, Field(max_length=320)]
    password: Annotated[SecretStr, Field(max_length=1000)]


@router.post("/auth/login")
def log_in(context: Here, request: Request, given: LogIn) -> Response:
    """Begin a login session; its cookie comes with the answer, which is the user."""
    context.limits.count("door", client_address(request))
    cookie = accounts.log_in(
        context.database, given.email, given.password.get_secret_value(), address=client_address(request),
        agent=client_agent(request), settings=context.settings,
    )  # fmt: skip
    principal = accounts.enter_by_session(context.database, cookie, context.settings)
    assert principal is not None, "the session was opened just now"
    with context.database.read_session() as session:
        user = _user(session, principal)
    response = JSONResponse(user.model_dump(mode="json", by_alias=True))
    set_session_cookie(request, response, cookie)
    return response


@router.get("/auth/token")
def give_token(context: Here, request: Request, who: Who) -> Token:
    """Give the token with which a program acts as this user: the one that it sent, or a new one for a login session.

    Tokens are stored as digests, so an earlier one cannot be shown again: it ends.
    """
    if who.entrance in _TOKEN_ENTRANCES:
        return Token(token=token_of(request))
    _refuse_other_sites(request)
    accounts.require(who, Action.MANAGE_TOKENS_OWN)
    with context.database.session() as session:
        _revoke(session, who, CLIENT_TOKEN, keep=0)
        token, _ = accounts.create_api_token(session, who, CLIENT_TOKEN, CLIENT_SCOPES, CLIENT_TOKEN_DAYS)
    return Token(token=token)


@router.delete("/auth/token", response_class=Response)
def end_token(context: Here, who: Who) -> Response:
    """End the token that `GET /auth/token` gave to a login session."""
    accounts.require(who, Action.MANAGE_TOKENS_OWN)
    with context.database.session() as session:
        _revoke(session, who, CLIENT_TOKEN, keep=0)
    return Response()


@router.post("/userToken/generate")
def give_data_token(context: Here, request: Request, who: Who) -> Token:
    """Give a token for reading that ends after a day; whoever sent a token gets that one, which cannot make others."""
    if who.entrance in _TOKEN_ENTRANCES:
        return Token(token=token_of(request))
    accounts.require(who, Action.MANAGE_TOKENS_OWN)
    with context.database.session() as session:
        _revoke(session, who, DATA_TOKEN, keep=DATA_TOKENS_MAX - 1)
        token, _ = accounts.create_api_token(session, who, DATA_TOKEN, DATA_SCOPES, 1)
    return Token(token=token)


@router.get("/user")
def show_user(context: Here, who: Who) -> ForeignUser:
    """Show who asks."""
    with context.database.read_session() as session:
        return _user(session, who)


@router.get("/organizations")
def list_organizations(context: Here, who: Who) -> list[ForeignOrganization]:
    """List the organization that the request speaks for, alone."""
    with context.database.read_session() as session:
        return [_organization(session, context, who)]


@router.get("/organizations/{organization_id}")
def show_organization(context: Here, who: Who, organization_id: str) -> ForeignOrganization:
    """Show the organization that the request speaks for."""
    if organization_id != who.organization_id:
        raise NotFound(f"there is no organization {organization_id!r} here for you")
    with context.database.read_session() as session:
        return _organization(session, context, who)


def _user(session: Session, who: Principal) -> ForeignUser:
    user = accounts.find_user(session, who.user_id)
    first_name, last_name = split_name(user.name)
    return ForeignUser(
        id=foreign_id(user.id), email=user.email or "", first_name=first_name, last_name=last_name,
        organization=who.organization_id, is_admin=who.is_admin, is_organization_owner=who.role == "owner",
        is_dataset_manager=who.is_admin or who.role == "dataset_manager", is_active=user.disabled_ms is None,
        is_super_user=who.is_operator, teams=[team_of(who)], experiences={}, created=user.created_ms,
        last_activity=now(session),
    )  # fmt: skip


def team_of(who: Principal) -> TeamMembership:
    """Give the one team that there is: the whole organization."""
    return TeamMembership(
        id=foreign_id(who.organization_id), name=who.organization_id, is_team_manager=who.is_admin
    )


def _organization(session: Session, context: Context, who: Principal) -> ForeignOrganization:
    organization = accounts.find_organization(session, who.organization_id)
    storage = catalog.storage_usage(session, organization.id, settings=context.settings)
    shows_balance = context.settings.credits_enabled and accounts.is_allowed(who, Action.SEE_BALANCE)
    return ForeignOrganization(
        id=organization.id, name=organization.name, additional_information="", enable_auto_verify=False,
        included_storage_bytes=storage.max_bytes, used_storage_bytes=storage.used_bytes,
        owner_name=accounts.owner_of(session, organization.id).name,
        milli_credit_balance=credits.balance(session, organization.id).available if shows_balance else None,
    )  # fmt: skip


def _revoke(session: Session, who: Principal, name: str, *, keep: int) -> None:
    """End the older tokens of a name."""
    named = [token for token in accounts.list_api_tokens(session, who) if token.name == name]
    for token in named[keep:]:
        accounts.revoke_api_token(session, who, token.id)


def _refuse_other_sites(request: Request) -> None:
    # The route is a GET that changes something: a link on another site must not end the token that is in use.
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise NotAllowed("this request comes from another site; open the address on this server")
