"""A real mail server for tests: speaks SMTP on a port of this machine, and keeps what it gets."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

HOST = "127.0.0.1"


@dataclass
class MailServer:
    """Runs in a thread. May be stopped and started again on the same port, as real ones are."""

    port: int
    starttls: ssl.SSLContext | None = None
    tls: ssl.SSLContext | None = None
    login: tuple[str, str] | None = None
    """User name and password that it asks for."""
    on_stored: Callable[[EmailMessage], str | None] = lambda _mail: None
    """Called with each mail that is stored, before the sender is told; may give another answer."""
    on_recipient: Callable[[str], str] = lambda _address: "250 OK"
    stored: list[EmailMessage] = field(default_factory=list)
    """All mails, in order of arrival."""
    envelopes: list[tuple[str, list[str]]] = field(default_factory=list)
    """Sender and recipients of each."""
    was_encrypted: list[bool] = field(default_factory=list)
    _connections: list[SMTP] = field(default_factory=list)
    _loop: asyncio.AbstractEventLoop | None = None
    _thread: threading.Thread | None = None

    def start(self) -> None:
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(self._loop, ready), name="mail server")
        self._thread.start()
        assert ready.wait(10), "the mail server did not start"

    def stop(self) -> None:
        """Hang up on everybody, and take no more."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop = self._thread = None

    def _run(self, loop: asyncio.AbstractEventLoop, ready: threading.Event) -> None:
        asyncio.set_event_loop(loop)
        server = loop.run_until_complete(loop.create_server(self._protocol, HOST, self.port, ssl=self.tls))
        ready.set()
        loop.run_forever()
        loop.run_until_complete(self._hang_up(server))
        loop.close()

    async def _hang_up(self, server: asyncio.Server) -> None:
        server.close()
        connections, self._connections = self._connections, []
        for connection in connections:
            if isinstance(connection.transport, asyncio.Transport):
                connection.transport.abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.01)  # the transports close their sockets in the next turns of the loop

    def _protocol(self) -> SMTP:
        connection = SMTP(
            _Handler(self), hostname="mail.test", enable_SMTPUTF8=True, tls_context=self.starttls,
            require_starttls=self.starttls is not None, authenticator=self._authenticate,
            auth_required=self.login is not None, auth_require_tls=self.starttls is not None, loop=self._loop,
        )  # fmt: skip
        self._connections.append(connection)
        return connection

    def _authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, given: Any
    ) -> AuthResult:
        assert isinstance(given, LoginPassword)
        is_right = (given.login.decode(), given.password.decode()) == self.login
        return AuthResult(success=is_right, handled=False)


@contextmanager
def mail_server(**options: Any) -> Iterator[MailServer]:
    """Run a mail server until the block ends."""
    server = MailServer(port=free_port(), **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class _Handler:
    """What aiosmtpd asks."""

    server: MailServer

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        answer = self.server.on_recipient(address)
        if answer.startswith("2"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, _server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.original_content or b""
        mail = message_from_bytes(content, policy=default)
        assert isinstance(mail, EmailMessage)
        self.server.stored.append(mail)
        self.server.envelopes.append((envelope.mail_from or "", list(envelope.rcpt_tos)))
        self.server.was_encrypted.append(session.ssl is not None or self.server.tls is not None)
        return self.server.on_stored(mail) or "250 OK"


def text_of(mail: EmailMessage, kind: str = "plain") -> str:
    """Give what a mail says, as text or (`html`) as HTML."""
    part = mail.get_body((kind,))
    assert part is not None, f"the mail has no part {kind}"
    content: str = part.get_content()
    return content.replace("\r\n", "\n")
