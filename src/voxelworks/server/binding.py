"""Where the server listens, and what must be there before others than this machine can reach it."""

from __future__ import annotations

import re
import socket
import ssl
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from voxelworks import accounts
from voxelworks.db import Database
from voxelworks.errors import InvalidInput, NotAllowed
from voxelworks.server.origin import is_loopback
from voxelworks.settings import Settings

BACKLOG = 256
_PATH = re.compile(r"(/[\w.~-]+)*/?", re.ASCII)
"""Of a public address."""


@dataclass(frozen=True)
class Listeners:
    """The bound sockets."""

    main: socket.socket
    own: socket.socket | None
    """Plain http on loopback for the programs of this machine, where `main` is not that already."""

    @classmethod
    def bind(cls, settings: Settings) -> Self:
        """Bind the addresses, so that a used one is refused before anything else happens."""
        main = _bind(settings.host, settings.port)
        if is_loopback(settings.host) and not has_tls(settings):
            return cls(main, None)
        try:
            return cls(main, _bind("127.0.0.1", 0))
        except InvalidInput:
            main.close()
            raise

    @property
    def own_url(self) -> str:
        """Address for programs on this machine."""
        host, port = (self.own or self.main).getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def close(self) -> None:
        for listener in (self.main, self.own):
            if listener is not None:
                listener.close()


def has_tls(settings: Settings) -> bool:
    return settings.tls_certificate is not None


def check_settings(settings: Settings) -> None:
    """Refuse an address that others reach without what protects them.

    Raises
    ------
    NotAllowed
        If the server would be reached from elsewhere over plain http.
    InvalidInput
        If the settings contradict each other, or the certificate cannot be used.
    """
    _check_public_url(settings)
    _check_certificate(settings)
    if is_loopback(settings.host) or (
        (has_tls(settings) or settings.trusted_proxies) and settings.public_url
    ):
        return
    raise NotAllowed(
        f"host {settings.host!r} is reached from other machines: that needs VOXELWORKS_PUBLIC_URL=https://NAME, and"
        " either VOXELWORKS_TLS_CERTIFICATE and VOXELWORKS_TLS_KEY, or a proxy that ends TLS, named in"
        " VOXELWORKS_TRUSTED_PROXIES. For yourself alone use 127.0.0.1, and reach it from elsewhere through"
        f" `ssh -L {settings.port}:127.0.0.1:{settings.port} HOST`"
    )


def require_set_up(settings: Settings, database: Database) -> None:
    """Refuse to listen for others before there is somebody who can log in.

    Raises
    ------
    NotAllowed
    """
    if is_loopback(settings.host):
        return
    with database.read_session() as session:
        if accounts.is_set_up(session):
            return
    raise NotAllowed(
        f"host {settings.host!r} is reached from other machines, but nobody has an e-mail address and password here"
        " yet; run `voxelworks admin set-up` first, or start once with --host 127.0.0.1 and fill in the set-up page"
    )


def _check_public_url(settings: Settings) -> None:
    if settings.public_url is None:
        return
    parts = urlsplit(settings.public_url)
    is_plain = parts.scheme == "http" and is_loopback(parts.hostname or "")
    is_address = parts.hostname and _PATH.fullmatch(parts.path) and not (parts.query or parts.fragment)
    if not is_address or not (parts.scheme == "https" or is_plain):
        raise InvalidInput(
            f"setting public_url (VOXELWORKS_PUBLIC_URL): {settings.public_url!r} is not an address for browsers;"
            " write https://NAME, https://NAME:PORT or, behind a proxy, https://NAME/PATH"
        )
    if settings.base_path and not settings.trusted_proxies:
        raise InvalidInput(
            f"setting public_url (VOXELWORKS_PUBLIC_URL): only a proxy that takes the path {settings.base_path} off can"
            f" make {settings.public_url} reach this server; name it in VOXELWORKS_TRUSTED_PROXIES, or leave the"
            " path out"
        )


def _check_certificate(settings: Settings) -> None:
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        missing = "tls_key" if settings.tls_key is None else "tls_certificate"
        raise InvalidInput(
            f"setting {missing} (VOXELWORKS_{missing.upper()}) is missing; TLS needs certificate and key"
        )
    if settings.tls_certificate is None or settings.tls_key is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            settings.tls_certificate, settings.tls_key, password=lambda: ""
        )
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(
            f"certificate {settings.tls_certificate} and key {settings.tls_key} cannot be used ({error});"
            " name PEM files that belong together, the key without a password"
        ) from error


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named, though it is the only one: asyncio sends small answers at once only on sockets that say that they are TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise InvalidInput(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another port, or 0 for a free one"
        ) from error
    return listener
