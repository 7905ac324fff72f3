"""Logging in through an identity provider: OpenID Connect, authorization-code flow with PKCE. Optional.

`begin` sends the browser to the provider; `finish` takes what it brings back, gets the provider's signed statement, and
checks it. Both talk to the provider, so they are called outside of transactions. `accounts.log_in_with` then decides
whom the statement lets in.

References
----------
OpenID Connect Core 1.0; RFC 7636 (PKCE); RFC 9207 (issuer in the answer).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlencode, urlsplit

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from voxelworks.db import SecretBox
from voxelworks.errors import InvalidInput, NotLetIn, ServerUnreachable, StorageFailed
from voxelworks.settings import Settings

if TYPE_CHECKING:
    from joserfc.jwk import KeySet

TICKET_S = 600
"""How long somebody may take at the provider, in seconds."""
_SIGNATURES = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519"]
_KEY_TYPES = frozenset({"RSA", "EC", "OKP"})
_CLOCK_S = 60
"""How far the provider's clock may be off, in seconds."""
_TIMEOUT_S = 10.0
_ANSWER_BYTES_MAX = 2**20
_KNOWN_S = 3600.0
"""How long the provider's description and keys are taken for current, in seconds."""
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Begun:
    """A log-in that was begun."""

    address: str
    """Where the browser goes now."""
    ticket: str = field(repr=False)
    """To be kept in a cookie of this browser (`HttpOnly`, and `SameSite=Lax`: it comes back from another site)."""


@dataclass(frozen=True)
class Identity:
    """Who somebody is, as the provider stated and signed it."""

    issuer: str
    subject: str
    email: str | None
    """Only if the provider has checked that it is theirs."""
    name: str

    @property
    def key(self) -> str:
        """Name this identity among those of all providers."""
        return f"{self.issuer} {self.subject}"


class _Ticket(BaseModel):
    state: str
    nonce: str
    verifier: str
    at_s: float


class _Provider(BaseModel):
    """What a provider says of itself."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False


class _Tokens(BaseModel):
    id_token: str
    access_token: str | None = None


def is_configured(settings: Settings) -> bool:
    return settings.oidc_issuer is not None and settings.oidc_client_id is not None


def begin(settings: Settings, box: SecretBox, redirect_uri: str) -> Begun:
    """Begin a log-in.

    Parameters
    ----------
    redirect_uri
        Address of this server to which the provider sends the browser back, as it was registered there.

    Raises
    ------
    InvalidInput
        If the settings name no provider, or its address is not safe.
    ServerUnreachable
        If the provider does not answer as one.
    """
    provider = _known.provider(settings)
    ticket = _Ticket(
        state=secrets.token_urlsafe(32), nonce=secrets.token_urlsafe(32), verifier=secrets.token_urlsafe(48),
        at_s=time.time(),
    )  # fmt: skip
    query = {
        "response_type": "code", "client_id": settings.oidc_client_id, "redirect_uri": redirect_uri,
        "scope": "openid email profile", "state": ticket.state, "nonce": ticket.nonce,
        "code_challenge": _challenge(ticket.verifier), "code_challenge_method": "S256",
    }  # fmt: skip
    separator = "&" if urlsplit(provider.authorization_endpoint).query else "?"
    address = f"{provider.authorization_endpoint}{separator}{urlencode(query)}"
    return Begun(address, box.seal(ticket.model_dump_json()))


def finish(
    settings: Settings, box: SecretBox, ticket: str, *, query: Mapping[str, str], redirect_uri: str
) -> Identity:
    """Check what the browser brought back, and learn who it is.

    Parameters
    ----------
    ticket
        Of `begin`, from the cookie.
    query
        Of the address to which the provider sent the browser.
    redirect_uri
        The same as that of `begin`.

    Raises
    ------
    NotLetIn
        If the log-in was refused, took too long, or was not begun in this browser; or if the provider's statement is
        not for this server, this log-in and this time, or its signature is wrong.
    ServerUnreachable
    """
    begun = _open_ticket(box, ticket)
    provider = _known.provider(settings)
    code = _code(begun, provider, query)
    tokens = _fetch_tokens(settings, provider, code, begun.verifier, redirect_uri)
    claims = _check_statement(settings, provider, tokens.id_token, begun.nonce)
    if "email" not in claims:
        claims = {**_fetch_userinfo(provider, tokens, claims["sub"]), **claims}
    return _identity(provider.issuer, claims)


class _Known:
    """What is known of the provider, for an hour."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._provider: tuple[float, str, _Provider] | None = None
        self._keys: tuple[float, str, KeySet] | None = None

    def provider(self, settings: Settings) -> _Provider:
        if settings.oidc_issuer is None or settings.oidc_client_id is None:
            raise InvalidInput("no identity provider is set; set VOXELWORKS_OIDC_ISSUER and _OIDC_CLIENT_ID")
        issuer = settings.oidc_issuer
        with self._lock:
            known = self._provider
            if known is None or known[1] != issuer or time.monotonic() - known[0] > _KNOWN_S:
                known = (time.monotonic(), issuer, _discover(issuer))
                self._provider = known
            return known[2]

    def keys(self, address: str, *, is_new: bool = False) -> KeySet:
        """Give the provider's keys; new ones if its statement names one that is not known."""
        with self._lock:
            known = self._keys
            is_current = known is not None and known[1] == address and time.monotonic() - known[0] <= _KNOWN_S
            if known is None or is_new or not is_current:
                known = (time.monotonic(), address, _fetch_keys(address))
                self._keys = known
            return known[2]


_known = _Known()


def _discover(issuer: str) -> _Provider:
    _require_safe(issuer, issuer)
    found = _fetch("GET", issuer.rstrip("/") + "/.well-known/openid-configuration")
    try:
        provider = _Provider.model_validate(found)
    except ValidationError as error:
        raise ServerUnreachable(
            f"{issuer} does not describe itself as an OpenID Connect provider; check VOXELWORKS_OIDC_ISSUER"
        ) from error
    if provider.issuer.rstrip("/") != issuer.rstrip("/"):
        raise ServerUnreachable(
            f"{issuer} says that it is {provider.issuer!r}; set VOXELWORKS_OIDC_ISSUER to that if it is right"
        )
    for address in (
        provider.authorization_endpoint, provider.token_endpoint, provider.jwks_uri, provider.userinfo_endpoint,
    ):  # fmt: skip
        if address is not None:
            _require_safe(address, issuer)
    return provider


def _require_safe(address: str, issuer: str) -> None:
    """Refuse to speak with the provider in clear, except with one on this machine."""
    parts = urlsplit(address)
    is_local = urlsplit(issuer).hostname in _LOOPBACK and parts.hostname in _LOOPBACK
    if not (parts.scheme == "https" or (parts.scheme == "http" and is_local)):
        raise InvalidInput(f"the identity provider has the address {address!r}; it must begin with https://")


def _fetch_keys(address: str) -> KeySet:
    joserfc = _library()
    listed = _fetch("GET", address).get("keys")
    # Symmetric keys have no business here: with one, everybody who knows it could sign.
    keys = [key for key in listed if _is_signing_key(key)] if isinstance(listed, list) else []
    try:
        usable: KeySet = joserfc.jwk.KeySet.import_key_set({"keys": keys})
        return usable
    except (joserfc.errors.JoseError, ValueError) as error:
        raise ServerUnreachable("the identity provider publishes no keys that can be used") from error


def _is_signing_key(key: object) -> bool:
    return isinstance(key, dict) and key.get("kty") in _KEY_TYPES and key.get("use", "sig") == "sig"


def _open_ticket(box: SecretBox, ticket: str) -> _Ticket:
    try:
        begun = _Ticket.model_validate_json(box.open(ticket))
    except (StorageFailed, ValidationError) as error:
        raise NotLetIn("this log-in was not begun in this browser; begin it again") from error
    if not 0 <= time.time() - begun.at_s < TICKET_S:
        raise NotLetIn(f"this log-in took longer than {TICKET_S // 60} minutes; begin it again")
    return begun


def _code(begun: _Ticket, provider: _Provider, query: Mapping[str, str]) -> str:
    if not hmac.compare_digest(query.get("state", "").encode(errors="replace"), begun.state.encode()):
        raise NotLetIn("this log-in was not begun in this browser; begin it again")
    is_told = provider.authorization_response_iss_parameter_supported or "iss" in query
    if is_told and query.get("iss") != provider.issuer:
        raise NotLetIn("the answer comes from another identity provider; begin the log-in again")
    if "code" not in query:
        why = query.get("error", "no code")[:100]
        raise NotLetIn(f"the identity provider let nobody in ({why!r}); begin the log-in again")
    return query["code"]


def _fetch_tokens(
    settings: Settings, provider: _Provider, code: str, verifier: str, redirect_uri: str
) -> _Tokens:
    client_id = settings.oidc_client_id or ""
    form = {
        "grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri, "code_verifier": verifier,
    }  # fmt: skip
    headers = {}
    if settings.oidc_client_secret is None:
        form["client_id"] = client_id
    elif "client_secret_basic" in provider.token_endpoint_auth_methods_supported:
        secret = settings.oidc_client_secret.get_secret_value()
        pair = f"{quote(client_id, safe='')}:{quote(secret, safe='')}"
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    else:
        form |= {"client_id": client_id, "client_secret": settings.oidc_client_secret.get_secret_value()}
    found = _fetch("POST", provider.token_endpoint, form=form, headers=headers)
    try:
        return _Tokens.model_validate(found)
    except ValidationError as error:
        raise NotLetIn("the identity provider made no statement; begin the log-in again") from error


def _check_statement(settings: Settings, provider: _Provider, statement: str, nonce: str) -> dict[str, Any]:
    joserfc = _library()
    claims = _verified(provider, statement)
    registry = joserfc.jwt.JWTClaimsRegistry(
        leeway=_CLOCK_S,
        iss={"essential": True, "value": provider.issuer},
        aud={"essential": True, "value": settings.oidc_client_id},
        sub={"essential": True},
        exp={"essential": True},
        iat={"essential": True},
        nonce={"essential": True, "value": nonce},
    )
    try:
        registry.validate(claims)
    except joserfc.errors.JoseError as error:
        raise NotLetIn(
            f"the identity provider's statement does not fit this log-in ({error}); begin it again"
        ) from error
    # A statement for several parties says to which of them it was given.
    is_shared = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
    if claims.get("azp", None if is_shared else settings.oidc_client_id) != settings.oidc_client_id:
        raise NotLetIn(
            "the identity provider's statement was made for another program; begin the log-in again"
        )
    if not 0 < len(claims["sub"]) <= 255:
        raise NotLetIn("the identity provider names nobody; tell the operator of this instance")
    return claims


def _verified(provider: _Provider, statement: str) -> dict[str, Any]:
    """Check the signature of a statement, and give what it claims."""
    joserfc = _library()
    try:
        try:
            token = joserfc.jwt.decode(statement, _known.keys(provider.jwks_uri), algorithms=_SIGNATURES)
        except joserfc.errors.InvalidKeyIdError:
            keys = _known.keys(provider.jwks_uri, is_new=True)
            token = joserfc.jwt.decode(statement, keys, algorithms=_SIGNATURES)
    except (joserfc.errors.JoseError, ValueError) as error:
        raise NotLetIn(
            "the signature of the identity provider's statement is wrong; begin the log-in again"
        ) from error
    claims: dict[str, Any] = token.claims
    return claims


def _fetch_userinfo(provider: _Provider, tokens: _Tokens, subject: str) -> dict[str, Any]:
    """Ask for the address of somebody whose statement does not hold it."""
    if provider.userinfo_endpoint is None or tokens.access_token is None:
        return {}
    headers = {"Authorization": f"Bearer {tokens.access_token}"}
    found = _fetch("GET", provider.userinfo_endpoint, headers=headers)
    # What is said of somebody else is nothing about this one.
    return found if found.get("sub") == subject else {}


def _identity(issuer: str, claims: Mapping[str, Any]) -> Identity:
    email = claims.get("email")
    verified = claims.get("email_verified")
    is_verified = verified is True or verified == "true"  # some providers write it as text
    name = claims.get("name") or claims.get("preferred_username") or email or claims["sub"]
    return Identity(
        issuer=issuer,
        subject=claims["sub"],
        email=email if isinstance(email, str) and is_verified else None,
        name=str(name),
    )


def _challenge(verifier: str) -> str:
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _fetch(
    method: Literal["GET", "POST"],
    address: str,
    *,
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Get a JSON object from the provider, in limited time and size, without redirects."""
    host = urlsplit(address).hostname
    try:
        with (
            httpx.Client(timeout=_TIMEOUT_S, follow_redirects=False) as client,
            client.stream(
                method, address, data=form, headers={"Accept": "application/json", **(headers or {})}
            ) as response,
        ):
            body = _read(response)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServerUnreachable(
            f"the identity provider {host} does not answer ({type(error).__name__}); try again later"
        ) from error
    if response.status_code in (400, 401) and method == "POST":
        raise NotLetIn(f"the identity provider {host} refused this log-in; begin it again")
    try:
        found = json.loads(body) if response.status_code == 200 else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ServerUnreachable(
            f"the identity provider {host} answered with {response.status_code} and nothing that can be used"
        )
    return found


def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    for piece in response.iter_bytes():
        body += piece
        if len(body) > _ANSWER_BYTES_MAX:
            return b""
    return bytes(body)


def _library() -> Any:
    """Load the library that checks signatures, which is optional."""
    try:
        import joserfc.errors
        import joserfc.jwk
        import joserfc.jwt
    except ModuleNotFoundError as error:
        raise InvalidInput(
            "log-in through an identity provider needs more packages; run `pip install 'voxelworks[oidc]'`"
        ) from error
    return joserfc
