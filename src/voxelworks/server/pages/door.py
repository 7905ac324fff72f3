"""The way in and out: log in, set up, accept an invitation, choose a new password; and what browsers ask for."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from voxelworks import accounts
from voxelworks import notify as notifications
from voxelworks.accounts import oidc
from voxelworks.errors import NotAllowed, NotFound, NotLetIn, VoxelworksError
from voxelworks.protocol.people import LOCAL_USER_ID, InvitationView, Principal
from voxelworks.server import rendering
from voxelworks.server.context import Context, Here, Visitor, Who
from voxelworks.server.origin import client_address, client_agent, is_from_here, is_secure, public_address
from voxelworks.server.rendering import STATIC
from voxelworks.server.security import let_in, let_out, open_session, session_cookie

router = APIRouter()

TICKET = "voxelworks-ticket"
"""Cookie of a log-in that is under way at an identity provider."""
TICKET_S = 600
NOTES = {
    "reset": "Your new password is set. Log in with it.",
    "joined": "You have joined. Log in with your account.",
    "left": "You have left the organization.",
    "out": "You are logged out.",
}
"""What the log-in page says after something was done."""

Text = Annotated[str, Form(max_length=1000)]


@router.get("/")
def enter() -> Response:
    return RedirectResponse("/jobs", status_code=303)


@router.get("/login", response_class=HTMLResponse)
def login_page(request: Request, visitor: Visitor, done: str = "", target: str = "/jobs") -> Response:
    if visitor is not None:
        return RedirectResponse("/jobs", status_code=303)
    return rendering.login_page(request, note=NOTES.get(done, ""), target=target)


@router.post("/login")
def log_in(
    context: Here,
    request: Request,
    email: Text = "",
    password: Text = "",
    token: Text = "",
    target: Annotated[str, Form(max_length=2000)] = "/jobs",
) -> Response:
    """Let in a browser whose user knows a password, or pasted the start-up token."""
    context.limits.count("door", client_address(request))
    if token and not email:
        if not (context.keys.is_token(token.strip()) and is_from_here(request)):
            raise NotLetIn(
                "that token is not right; the server prints it when it starts, and makes a new one every time"
            )
        return let_in(request, target, open_session(context, request, LOCAL_USER_ID))
    try:
        cookie = accounts.log_in(
            context.database, email, password, address=client_address(request), agent=client_agent(request),
            settings=context.settings,
        )  # fmt: skip
    except NotLetIn as error:
        return rendering.login_page(request, message=error.message, email=email, target=target, status=401)
    return let_in(request, target, cookie)


@router.post("/logout")
def log_out(context: Here, request: Request) -> Response:
    cookie = session_cookie(request)
    if cookie is not None:
        with context.database.session() as session:
            accounts.log_out(session, cookie)
    return let_out(request, "/login?done=out")


# An identity provider


@router.get("/login/oidc")
def begin_oidc(context: Here, request: Request) -> Response:
    """Send the browser to the identity provider; a cookie holds what must come back with it."""
    _require_oidc(context)
    context.limits.count("door", client_address(request))
    begun = oidc.begin(context.settings, context.box, _redirect_uri(context, request))
    response = RedirectResponse(begun.address, status_code=303)
    response.set_cookie(
        TICKET, begun.ticket, max_age=TICKET_S, path="/login/oidc", httponly=True, samesite="lax",
        secure=is_secure(request),
    )  # fmt: skip
    return response


@router.get("/login/oidc/callback")
def finish_oidc(context: Here, request: Request) -> Response:
    """Let in whom the identity provider has let in."""
    _require_oidc(context)
    context.limits.count("door", client_address(request))
    identity = oidc.finish(
        context.settings, context.box, request.cookies.get(TICKET, ""), query=dict(request.query_params),
        redirect_uri=_redirect_uri(context, request),
    )  # fmt: skip
    cookie = accounts.log_in_with(
        context.database, identity, address=client_address(request), agent=client_agent(request)
    )
    response = let_in(request, "/jobs", cookie)
    response.delete_cookie(TICKET, path="/login/oidc")
    return response


# The first person


@router.get("/setup", response_class=HTMLResponse)
def setup_page(context: Here, request: Request, who: Who) -> Response:
    _require_bare(context, request, who)
    return _setup_page(request)


@router.post("/setup")
def set_up(
    context: Here,
    request: Request,
    who: Who,
    name: Text = "",
    email: Text = "",
    password: Text = "",
    organization_name: Text = "",
) -> Response:
    """Give the person who started the server an e-mail address and a password."""
    _require_bare(context, request, who)
    values = {"name": name, "email": email, "organization_name": organization_name}
    try:
        with context.database.session() as session:
            accounts.set_up(session, password=password, **values)
    except VoxelworksError as error:
        if error.http_status >= 500:
            raise
        return _setup_page(request, problem=error.message, status=error.http_status, **values)
    return RedirectResponse("/organization?done=set-up", status_code=303)


# Invitations and passwords


@router.get("/invitations/{token}", response_class=HTMLResponse)
def invitation_page(context: Here, request: Request, visitor: Visitor, token: str) -> Response:
    return _invitation_page(request, visitor, token, _find_invitation(context, request, token))


@router.post("/invitations/{token}")
def accept_invitation(
    context: Here, request: Request, visitor: Visitor, token: str, name: Text = "", password: Text = ""
) -> Response:
    """Join an organization: with a new account, or with the one that the address has already."""
    invitation = _find_invitation(context, request, token)
    try:
        with context.database.session() as session:
            user = accounts.accept_invitation(session, token, name=name, password=password)
    except VoxelworksError as error:
        if error.http_status >= 500:
            raise
        return _invitation_page(
            request, visitor, token, invitation, problem=error.message, name=name, status=error.http_status
        )
    if invitation.is_known:
        # The link alone, which may have been passed on, does not open an account that has a password.
        return RedirectResponse("/account" if visitor is not None else "/login?done=joined", status_code=303)
    return let_in(request, "/jobs", open_session(context, request, user.id))


@router.get("/forgotten", response_class=HTMLResponse)
def forgotten_page(request: Request) -> Response:
    return rendering.page(request, "forgotten.html", is_sent=False)


@router.post("/forgotten", response_class=HTMLResponse)
def send_reset(context: Here, request: Request, email: Text = "") -> Response:
    """Send a link for a new password. The answer is the same whether somebody has this address or not."""
    address = client_address(request)
    context.limits.count("door", address)
    with context.database.session() as session:
        made = accounts.request_reset(session, email, address=address, settings=context.settings)
        if made is not None:
            token, user = made
            notifications.post_mail(
                session, key=f"reset:{token[-16:]}", to=user.email or email, template="password_reset", box=context.box,
                user_id=user.id,
                context={
                    "name": user.name, "path": f"/reset/{token}",
                    "valid_minutes": round(context.settings.password_reset_s / 60),
                },
            )  # fmt: skip
    return rendering.page(request, "forgotten.html", is_sent=True)


@router.get("/reset/{token}", response_class=HTMLResponse)
def reset_page(context: Here, request: Request, token: str) -> Response:
    return _reset_page(context, request, token)


@router.post("/reset/{token}")
def reset_password(
    context: Here,
    request: Request,
    token: str,
    password: Text = "",
    revokes_tokens: Annotated[bool, Form()] = False,
) -> Response:
    context.limits.count("door", client_address(request))
    try:
        with context.database.session() as session:
            accounts.reset_password(session, token, password, revokes_tokens=revokes_tokens)
    except VoxelworksError as error:
        if error.http_status >= 500:
            raise
        return _reset_page(
            context,
            request,
            token,
            revokes_tokens=revokes_tokens,
            problem=error.message,
            status=error.http_status,
        )
    return let_out(request, "/login?done=reset")


def _reset_page(
    context: Context,
    request: Request,
    token: str,
    *,
    revokes_tokens: bool = True,
    problem: str = "",
    status: int = 200,
) -> Response:
    with context.database.read_session() as session:
        user = accounts.find_reset(session, token)
        token_count = 0 if user is None else accounts.count_api_tokens(session, user.id)
    return rendering.page(
        request, "reset.html", token=token, token_count=token_count, revokes_tokens=revokes_tokens, problem=problem,
        status=status,
    )  # fmt: skip


# Mails


@router.get("/unsubscribe/{token}", response_class=HTMLResponse)
def unsubscribe_page(context: Here, request: Request, token: str) -> Response:
    notifications.user_of_unsubscribe_token(context.box, token)
    return rendering.page(request, "unsubscribe.html", token=token, is_done=False)


@router.post("/unsubscribe/{token}", response_class=HTMLResponse)
def unsubscribe(context: Here, request: Request, token: str) -> Response:
    """End the mails about jobs; mail programs call this too (RFC 8058)."""
    with context.database.session() as session:
        notifications.unsubscribe(session, context.box, token)
    return rendering.page(request, "unsubscribe.html", token=token, is_done=True)


@router.get("/favicon.ico")
def icon() -> Response:
    return FileResponse(STATIC / "icon.svg", media_type="image/svg+xml")


def _require_oidc(context: Context) -> None:
    if not oidc.is_configured(context.settings):
        raise NotFound("this server has no identity provider; log in with e-mail and password")


def _redirect_uri(context: Context, request: Request) -> str:
    return f"{public_address(request, context.settings)}/login/oidc/callback"


def _require_bare(context: Context, request: Request, who: Principal) -> None:
    """Let in only the person who started the server, and only once."""
    if who.user_id != LOCAL_USER_ID or not is_from_here(request):
        raise NotAllowed("setting up is for the person who started the server, on its own machine")
    with context.database.read_session() as session:
        if accounts.is_set_up(session):
            raise NotAllowed("this server is set up already; change name and password on the account page")


def _setup_page(
    request: Request,
    *,
    name: str = "",
    email: str = "",
    organization_name: str = "",
    problem: str = "",
    status: int = 200,
) -> Response:
    return rendering.page(
        request, "setup.html", status=status, name=name, email=email, organization_name=organization_name,
        problem=problem,
    )  # fmt: skip


def _find_invitation(context: Context, request: Request, token: str) -> InvitationView:
    context.limits.count("door", client_address(request))
    with context.database.read_session() as session:
        found = accounts.find_invitation(session, token)
    if found is None or found.is_expired:
        raise NotFound("this invitation was used, taken back, or is too old; ask for a new one")
    return found


def _invitation_page(
    request: Request,
    visitor: Principal | None,
    token: str,
    invitation: InvitationView,
    *,
    problem: str = "",
    name: str = "",
    status: int = 200,
) -> Response:
    return rendering.page(
        request, "invitation.html", status=status, token=token, invitation=invitation, problem=problem, name=name,
        visitor=visitor,
    )  # fmt: skip
