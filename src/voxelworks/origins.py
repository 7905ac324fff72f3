"""What an operator allows when remote data may be read: a host with its scheme and port, or a bucket."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from voxelworks.errors import UnsafeReference

_PORTS = {"https": 443, "http": 80}
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def origin_of(address: str) -> str:
    """Give scheme, host and port of an address, or its bucket, in one spelling.

    All of it must be allowed: other ports of a host are other programs, and a bucket may be called like a host. An
    `s3` address with a dot or a port names a host (see `volumes.storage`), which is read over https.

    Raises
    ------
    UnsafeReference
        If the address cannot be read, or other programs could read it in another way.
    """
    if _CONTROL_CHARACTER.search(address):
        raise UnsafeReference(f"{address!r} holds a control character")
    scheme, _, rest = address.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        raise UnsafeReference(
            f"{scheme}://{authority.rpartition('@')[2]}: an address must not carry a user name or password"
        )
    if scheme == "gs" or (scheme == "s3" and not re.search("[.:]", authority)):
        return f"{scheme}://{authority}"
    try:
        host = (urlsplit(address).hostname or "").lower()
    except ValueError as error:
        raise UnsafeReference(f"{address!r} is not an address ({error})") from error
    scheme = "http" if scheme == "http" else "https"
    port = _port_of(address, scheme)
    named = f"[{host}]" if ":" in host else host
    return f"{scheme}://{named}" if port == _PORTS[scheme] else f"{scheme}://{named}:{port}"


def allowed_origin(allowed: str) -> str:
    """Read what an operator allows, as `origin_of` reads an address; a host alone is one of https."""
    return origin_of(allowed if "://" in allowed else f"https://{allowed}")


def _port_of(address: str, scheme: str) -> int:
    try:
        port = urlsplit(address).port
    except ValueError:
        port = 0
    if port == 0:
        raise UnsafeReference(f"{address!r} has no port between 1 and 65535")
    return _PORTS[scheme] if port is None else port
