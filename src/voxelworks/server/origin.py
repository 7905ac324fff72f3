"""Where a request comes from: address, name by which it reached us, and whether TLS protected it."""

from __future__ import annotations

import ipaddress
from contextvars import ContextVar
from urllib.parse import urlsplit

from starlette.requests import Request

from voxelworks.settings import Settings

BASE_PATH: ContextVar[str] = ContextVar("base_path", default="")
"""Path below which browsers find this server, such as ``/voxelworks``; empty for a host of its own.

A proxy takes it off before it asks us, so that routes know nothing of it; what leaves us carries it.
"""

_FORWARDED = (
    "forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-server", "x-real-ip",
)  # fmt: skip
"""What proxies add to a request; each adds others."""


def client_address(request: Request) -> str:
    """Give the address of whoever asks; behind a trusted proxy the one that the proxy tells."""
    return request.client.host if request.client is not None else ""


def client_agent(request: Request) -> str:
    return request.headers.get("user-agent", "")[:200]


def host_name(request: Request) -> str:
    """Give the name by which the server was reached, without the port; empty if there is none."""
    try:
        return (urlsplit(f"//{request.headers.get('host', '')}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def public_address(request: Request, settings: Settings) -> str:
    """Give the address of this server for links that are handed on, without a slash at its end."""
    own = f"{request.url.scheme}://{request.headers.get('host', '')}"
    return (settings.public_url or own).rstrip("/")


def is_secure(request: Request) -> bool:
    """Tell whether the request came over TLS, also if a trusted proxy ended it."""
    return request.url.scheme == "https"


def is_from_here(request: Request) -> bool:
    """Tell whether a request comes from this machine, and not through a proxy on it."""
    is_forwarded = any(name in request.headers for name in _FORWARDED)
    return not is_forwarded and is_loopback(client_address(request)) and is_loopback(host_name(request))


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address reaches this machine only."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
