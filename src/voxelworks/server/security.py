"""What every request must pass before any route sees it, and what every answer carries.

Until there are accounts the server serves one person on one machine, as a notebook server does:

- it is reached by a loopback name only, so that no foreign page can reach it by a name of its own (DNS rebinding);
- a browser is let in by the start-up token, once, and then holds a cookie; programs send the token as a header;
- a browser's change must come from a page of this server; GET changes nothing;
- workers send their own key, which opens their routes and no others.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Literal
from urllib.parse import urlencode, urlsplit

from starlette.datastructures import URL, Headers, MutableHeaders, QueryParams
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voxelworks.errors import InvalidInput, NotAllowed, VoxelworksError
from voxelworks.server.keys import BrowserSessions, Keys
from voxelworks.server.problems import answer_defect, answer_problem

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
BODY_BYTES_MAX = 8 * 2**20
"""Largest request body, in bytes: a piece of a worker's log is the largest thing that anybody sends."""
OPEN_PATHS = ("/static/", "/healthz", "/login", "/favicon.ico")
"""Reached without being let in: they show nothing of the jobs."""
WORKER_PATHS = "/api/v1/worker/"

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not `no-referrer`: with that, browsers send forms with the origin `null`.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class NotLetIn(NotAllowed):
    """The request carries neither the token nor the cookie of a browser that was let in."""

    code = "not-let-in"
    http_status = 401


class TooLarge(InvalidInput):
    """The body of the request is larger than anything that this server takes."""

    code = "too-large"
    http_status = 413


@dataclass(frozen=True)
class Guard:
    """ASGI middleware that lets in or refuses; see the module."""

    app: ASGIApp
    keys: Keys
    sessions: BrowserSessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)

        is_answered = False

        async def send_secured(message: Message) -> None:
            nonlocal is_answered
            if message["type"] == "http.response.start":
                is_answered = True
                _secure(MutableHeaders(scope=message), request)
            await send(message)

        try:
            response = self._check(request)
        except VoxelworksError as error:
            response = answer_problem(request, error)
        if response is not None:
            await response(scope, receive, send_secured)
            return
        try:
            await self.app(scope, _limited(receive, request), send_secured)
        except Exception as error:
            if is_answered:
                raise
            await answer_defect(request, error)(scope, receive, send_secured)

    def _check(self, request: Request) -> Response | None:
        """Give an answer instead of the route's, or None to go on."""
        _require_loopback_name(request.headers)
        _require_own_page(request)
        _require_small(request.headers)
        path = request.url.path
        if path.startswith(WORKER_PATHS):
            if not self.keys.is_worker_key(_bearer(request.headers)):
                raise NotLetIn("this route is for workers and needs their key (home/worker.key)")
            return None
        entry = self._enter(request)
        if entry is not None:
            return entry
        if path.startswith(OPEN_PATHS) or self._is_let_in(request):
            return None
        raise NotLetIn(
            "open the address that the server printed when it started: it carries the token that lets you in"
        )

    def _enter(self, request: Request) -> Response | None:
        """Turn the token in a page's address into a cookie, and send the browser to the clean address."""
        query = QueryParams(request.url.query)
        if request.method != "GET" or "token" not in query or request.url.path.startswith("/api/"):
            return None
        if not self.keys.is_token(query["token"]):
            raise NotLetIn(
                "the token in the address is not (or no longer) right; the server prints a new one at every start"
            )
        rest = [(key, value) for key, value in query.multi_items() if key != "token"]
        clean = URL(path=request.url.path, query=urlencode(rest))
        return let_in(request, str(clean), self.sessions)

    def _is_let_in(self, request: Request) -> bool:
        bearer = _bearer(request.headers)
        if bearer:
            return self.keys.is_token(bearer)
        cookie = session_cookie(request)
        return cookie is not None and self.sessions.is_open(cookie)


def let_in(request: Request, target: str, sessions: BrowserSessions) -> Response:
    """Redirect with the cookie of a new browser session."""
    # An address that begins with two slashes would lead to another host.
    response = RedirectResponse("/" + target.lstrip("/\\"), status_code=303)
    # Not `Secure`: the server speaks plain http, on loopback only.
    response.set_cookie(cookie_name(request), sessions.open(), httponly=True, samesite="strict", path="/")
    return response


def cookie_name(request: Request) -> str:
    # Cookies do not tell ports apart, and two servers may run on one machine.
    return f"voxelworks-{request.url.port or 80}"


def session_cookie(request: Request) -> str | None:
    jar = SimpleCookie()
    try:
        jar.load(request.headers.get("cookie", ""))
    except CookieError:
        return None
    morsel = jar.get(cookie_name(request))
    return None if morsel is None else morsel.value


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address reaches this machine only."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _require_loopback_name(headers: Headers) -> None:
    host = headers.get("host", "")
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        name = ""
    if not is_loopback(name):
        raise NotAllowed(f"this server is reached as localhost or 127.0.0.1 only, not as {host[:200]!r}")


def _require_own_page(request: Request) -> None:
    """Refuse what another site makes a browser send.

    Programs send none of these headers and are let in by their token; browsers always send at least one of them with a
    change. Following a link from elsewhere is fine, as GET changes nothing; reading from elsewhere is not.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    is_change = request.method not in SAFE_METHODS
    is_navigation = request.headers.get("sec-fetch-mode") in (None, "navigate")
    is_foreign = site is not None and (
        site != "same-origin" if is_change else site not in ("same-origin", "none") and not is_navigation
    )
    if is_foreign or (origin is not None and origin != _own_origin(request)):
        raise NotAllowed("this request comes from another site; open the page on this server and try again")
    if is_change and site is None and origin is None and not _bearer(request.headers):
        raise NotAllowed("a change needs the header Origin (browsers) or Authorization (programs)")


def _own_origin(request: Request) -> str:
    return f"{request.url.scheme}://{request.headers.get('host', '')}"


def _require_small(headers: Headers) -> None:
    declared = headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > BODY_BYTES_MAX:
        raise TooLarge(f"the request has {declared} bytes; at most {BODY_BYTES_MAX} are taken")


def _limited(receive: Receive, request: Request) -> Receive:
    """Count the bytes of a body whose length was not declared."""
    if "content-length" in request.headers:
        return receive
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > BODY_BYTES_MAX:
            raise TooLarge(f"the request has more than {BODY_BYTES_MAX} bytes")
        return message

    return counted


def _bearer(headers: Headers) -> str:
    kind, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() if kind.lower() == "bearer" else ""


def _secure(headers: MutableHeaders, request: Request) -> None:
    for name, value in SECURITY_HEADERS.items():
        headers[name] = value
    kind: Literal["no-store", "public, max-age=31536000, immutable"] = "no-store"
    if request.url.path.startswith("/static/") and "v" in request.query_params:
        kind = "public, max-age=31536000, immutable"
    headers["Cache-Control"] = kind
