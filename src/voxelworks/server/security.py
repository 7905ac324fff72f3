"""What every request must pass before any route sees it, and what every answer carries.

- The server is reached by the names that it has: no foreign page can reach it by a name of its own (DNS rebinding).
- Plain http is for this machine only; from elsewhere a request comes over TLS, ended here or by a trusted proxy.
- A browser shows the cookie of a login session; programs send an API token as a header. The start-up token stands for
  the person who started the server, and counts for requests from this machine only.
- A browser's change must come from a page of this server; GET changes nothing.
- Workers send their own key, which opens their routes and no others.

Who asks is looked up anew for every request: whatever was ended or taken away is so at once.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlencode, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import URL, MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voxelworks import accounts
from voxelworks.errors import InvalidInput, NotAllowed, NotLetIn, VoxelworksError
from voxelworks.protocol.people import LOCAL_USER_ID, Principal
from voxelworks.server.context import PRINCIPAL, WORKER, Context, context_of, principal_of
from voxelworks.server.origin import (
    BASE_PATH,
    client_address,
    client_agent,
    host_name,
    is_from_here,
    is_loopback,
    is_secure,
)
from voxelworks.server.problems import answer_defect, answer_problem
from voxelworks.server.wk import paths as wk_paths
from voxelworks.settings import Settings

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
BODY_BYTES_MAX = 8 * 2**20
"""Largest request body, in bytes: a piece of a worker's log is the largest thing that programs send."""
UPLOAD_PATHS = ("/annotations", "/api/v1/annotations")
"""Here files come in: the catalog knows how large they may be."""
OPEN_PATHS = (
    "/static/", "/healthz", "/readyz", "/login", "/invitations/", "/forgotten", "/reset/", "/unsubscribe/",
    "/favicon.ico", "/metrics",
)  # fmt: skip
"""Reached without being let in: they show nothing of the jobs."""
SELF_PROVING_PATHS = ("/unsubscribe/",)
"""A signed token in the address says it all; mail programs send it without cookie and origin."""
SHARED_PATHS = "/shared/"
"""The address itself is the key, whoever asks. Its route looks at it."""
WORKER_PATHS = "/api/v1/worker/"
LOOK_AGAIN_S = 30.0
"""How often a stream that stays open looks whether its user is still let in, in seconds."""
NAMED_BY_CONTENT = "/static/vendor/neuroglancer-"
"""Here lie the files of the viewer, which load each other by names that change with the content."""
HSTS = "max-age=31536000"
FOR_EVER = "private, max-age=31536000, immutable"
"""For what only some may see, below an address that changes with the content."""

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
VIEWER_POLICY = f"{_POLICY}; worker-src 'self'".replace(
    "script-src 'self'", "script-src 'self' 'wasm-unsafe-eval'"
)
"""The page of the viewer decodes images in workers, with compiled code. It loads nothing else than other pages do."""
SECURITY_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not `no-referrer`: with that, browsers send forms with the origin `null`.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class TooLarge(InvalidInput):
    """The body of the request is larger than anything that this server takes."""

    code = "too-large"
    http_status = 413


@dataclass(frozen=True)
class Guard:
    """ASGI middleware that lets in or refuses; see the module."""

    app: ASGIApp
    context: Context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        # Programs and browsers of this machine may come past the proxy.
        BASE_PATH.set("" if is_from_here(request) else self.context.settings.base_path)

        is_answered = False

        async def send_secured(message: Message) -> None:
            nonlocal is_answered
            if message["type"] == "http.response.start":
                is_answered = True
                _secure(MutableHeaders(scope=message), request)
            await send(message)

        try:
            response = await self._check(request)
        except VoxelworksError as error:
            response = answer_problem(request, error)
        except Exception as error:
            response = answer_defect(request, error)
        if response is not None:
            await response(scope, receive, send_secured)
            return
        try:
            await self.app(scope, _limited(receive, request), send_secured)
        except Exception as error:
            if is_answered:
                raise
            await answer_defect(request, error)(scope, receive, send_secured)

    async def _check(self, request: Request) -> Response | None:
        """Give an answer instead of the route's, or None to go on."""
        _require_own_name(request, self.context.settings)
        _require_tls(request)
        _require_own_page(request)
        _require_small(request)
        path = request.url.path
        if path.startswith(("/static/", SHARED_PATHS)) or wk_paths.is_for_workers(path):
            # Workers written for WEBKNOSSOS carry their key in the query; their routes look at it.
            return None
        if path.startswith(WORKER_PATHS):
            await run_in_threadpool(self._let_worker_in, request)
            return None
        if _carries_token(request):
            return await run_in_threadpool(self._enter, request)
        request.scope[PRINCIPAL] = await run_in_threadpool(identify, self.context, request)
        is_open = path.startswith(OPEN_PATHS) or wk_paths.is_open(request.method, path)
        if request.scope[PRINCIPAL] is not None or is_open:
            return None
        raise NotLetIn(_how_to_come_in(request))

    def _let_worker_in(self, request: Request) -> None:
        offered = token_of(request)
        key = accounts.enter_by_worker_key(self.context.database, offered) if offered else None
        if key is None:
            raise NotLetIn("this route is for workers and needs their key (home/worker.key)")
        request.scope[WORKER] = key

    def _enter(self, request: Request) -> Response:
        """Turn the start-up token in a page's address into a cookie, and send the browser to the clean address."""
        query = request.query_params
        if not (self.context.keys.is_token(query["token"]) and is_from_here(request)):
            raise NotLetIn(
                "the token in the address is not (or no longer) right; the server prints a new one at every start"
            )
        rest = [(key, value) for key, value in query.multi_items() if key != "token"]
        clean = URL(path=request.url.path, query=urlencode(rest))
        return let_in(request, str(clean), open_session(self.context, request, LOCAL_USER_ID))


def _carries_token(request: Request) -> bool:
    is_page = not request.url.path.startswith(("/api/", *OPEN_PATHS))
    return request.method == "GET" and is_page and "token" in request.query_params


def identify(context: Context, request: Request) -> Principal | None:
    """Find out who asks: by the token in a header, or else by the cookie of a login session."""
    bearer = token_of(request)
    if not bearer:
        cookie = session_cookie(request)
        return accounts.enter_by_session(context.database, cookie, context.settings) if cookie else None
    if not context.keys.is_token(bearer):
        return accounts.enter_by_token(context.database, bearer)
    if not is_from_here(request):
        return None
    with context.database.read_session() as session:
        return accounts.local_principal(session)


async def still_in(context: Context, request: Request, pulse: AsyncIterator[bool]) -> AsyncIterator[bool]:
    """Pass the pulse of a stream on, until whoever opened it may not see it any more."""
    looked_s = time.monotonic()
    async for beat in pulse:
        if time.monotonic() - looked_s > LOOK_AGAIN_S:
            if await run_in_threadpool(identify, context, request) != principal_of(request):
                return
            looked_s = time.monotonic()
        yield beat


def open_session(context: Context, request: Request, user_id: str) -> str:
    """Begin a login session without asking for a password: something else has shown who it is. Give its cookie."""
    with context.database.session() as session:
        return accounts.open_login_session(
            session, user_id=user_id, address=client_address(request), agent=client_agent(request)
        )


def let_in(request: Request, target: str, cookie: str) -> Response:
    """Redirect with the cookie of a new login session; the one that the browser had until now ends."""
    earlier = session_cookie(request)
    if earlier is not None:
        with context_of(request).database.session() as session:
            accounts.log_out(session, earlier)
    response = RedirectResponse(own_path(target), status_code=303)
    set_session_cookie(request, response, cookie)
    return response


def set_session_cookie(request: Request, response: Response, cookie: str) -> None:
    # Lax: a link in a mail leads to its page. Changes are checked by where they come from, whatever cookie they carry.
    response.set_cookie(
        cookie_name(request), cookie, httponly=True, samesite="lax", path="/", secure=is_secure(request)
    )


def let_out(request: Request, target: str) -> Response:
    """Redirect without the cookie."""
    response = RedirectResponse(own_path(target), status_code=303)
    response.delete_cookie(
        cookie_name(request), path="/", secure=is_secure(request), httponly=True, samesite="lax"
    )
    return response


def own_path(target: str) -> str:
    """Keep a redirect on this server: an address that begins with two slashes would lead to another host."""
    cleaned = "".join(character for character in target if character.isprintable())
    return "/" + cleaned.lstrip("/\\ ")


def cookie_name(request: Request) -> str:
    # The prefix makes browsers refuse the cookie from any other host, path or plain http.
    # Without TLS: cookies do not tell ports apart, and two servers may run on one machine.
    return "__Host-voxelworks" if is_secure(request) else f"voxelworks-{request.url.port or 80}"


def session_cookie(request: Request) -> str | None:
    jar = SimpleCookie()
    try:
        jar.load(request.headers.get("cookie", ""))
    except CookieError:
        return None
    morsel = jar.get(cookie_name(request))
    return None if morsel is None else morsel.value


def public_host(settings: Settings) -> str | None:
    """Give the name by which others reach the server; None if nobody does."""
    return urlsplit(settings.public_url).hostname if settings.public_url else None


def _how_to_come_in(request: Request) -> str:
    if is_from_here(request):
        return (
            "open the address that the server printed when it started: it carries the token that lets you in"
        )
    return "log in with e-mail and password, or send an API token as `Authorization: Bearer TOKEN`"


def _require_own_name(request: Request, settings: Settings) -> None:
    name = host_name(request)
    if is_loopback(name) or (name and name == public_host(settings)):
        return
    known = " or ".join(filter(None, (public_host(settings), "localhost", "127.0.0.1")))
    host = request.headers.get("host", "")[:200]
    raise NotAllowed(
        f"this server is reached as {known}, not as {host!r}; another name is set with VOXELWORKS_PUBLIC_URL"
    )


def _require_tls(request: Request) -> None:
    if not is_secure(request) and not is_loopback(client_address(request)):
        raise NotAllowed(
            "plain http is for the server's own machine; from elsewhere use https"
            " (behind a proxy, name its address in VOXELWORKS_TRUSTED_PROXIES)"
        )


def _require_own_page(request: Request) -> None:
    """Refuse what another site makes a browser send.

    Programs send none of these headers and are let in by their token; browsers always send at least one of them with a
    change. Following a link from elsewhere is fine, as GET changes nothing; reading from elsewhere is not.
    """
    if request.url.path.startswith(SELF_PROVING_PATHS):
        return
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    is_change = request.method not in SAFE_METHODS
    is_navigation = request.headers.get("sec-fetch-mode") in (None, "navigate")
    is_foreign = site is not None and (
        site != "same-origin" if is_change else site not in ("same-origin", "none") and not is_navigation
    )
    if is_foreign or (origin is not None and origin != _own_origin(request)):
        raise NotAllowed("this request comes from another site; open the page on this server and try again")
    path = request.url.path
    is_program = (
        bool(token_of(request)) or wk_paths.is_for_workers(path) or wk_paths.is_open(request.method, path)
    )
    if is_change and site is None and origin is None and not is_program:
        raise NotAllowed("a change needs the header Origin (browsers) or Authorization (programs)")


def _own_origin(request: Request) -> str:
    return f"{request.url.scheme}://{request.headers.get('host', '')}"


def _require_small(request: Request) -> None:
    declared = request.headers.get("content-length", "0")
    most = _bytes_max(request)
    if not declared.isdecimal() or int(declared) > most:
        raise TooLarge(f"the request has {declared[:30]} bytes; at most {most} are taken")


def _bytes_max(request: Request) -> int:
    settings: Settings = context_of(request).settings
    # A form around a file takes some bytes too.
    return settings.annotation_bytes_max + 2**20 if request.url.path in UPLOAD_PATHS else BODY_BYTES_MAX


def _limited(receive: Receive, request: Request) -> Receive:
    """Count the bytes of a body whose length was not declared."""
    if "content-length" in request.headers:
        return receive
    seen, most = 0, _bytes_max(request)

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise TooLarge(f"the request has more than {most} bytes")
        return message

    return counted


def token_of(request: Request) -> str:
    """Give the token of a program: as browsers cannot send it by themselves, it also shows that no other site asks."""
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if not wk_paths.is_face(request.url.path):
        return ""
    # Clients written for WEBKNOSSOS send their token in one of these.
    return request.headers.get("x-auth-token", "").strip() or request.query_params.get("token", "").strip()


def _secure(headers: MutableHeaders, request: Request) -> None:
    path = request.url.path
    if path.startswith(SHARED_PATHS):
        # Nobody else shall get to know the address: not the next site, not a search engine.
        headers["Referrer-Policy"] = "no-referrer"
        headers["X-Robots-Tag"] = "noindex"
    if path.startswith(NAMED_BY_CONTENT):
        # A worker has the policy that its script came with.
        headers["Content-Security-Policy"] = VIEWER_POLICY
    for name, value in SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    if is_secure(request):
        headers["Strict-Transport-Security"] = HSTS
    if path.startswith("/static/") and ("v" in request.query_params or path.startswith(NAMED_BY_CONTENT)):
        headers["Cache-Control"] = "public, max-age=31536000, immutable"
    # Pictures and files of datasets say themselves how long they are good for.
    headers.setdefault("Cache-Control", "no-store")
    if headers.get("location", "").startswith("/"):
        headers["location"] = BASE_PATH.get() + headers["location"]
