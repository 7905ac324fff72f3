"""Keys of the server: who may come in, and the files through which programs on this machine find them.

Two keys, for two trusts: the *start-up token* is the person who started the server, the *worker key* belongs to
workers. Neither opens the routes of the other.
"""

from __future__ import annotations

import hmac
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from voxelworks.client import ServerInfo, server_file, worker_key_file

SESSION_IDLE_S = 7 * 24 * 3600.0
"""A browser that was away for longer must be let in again, in seconds."""
SESSIONS_MAX = 100


@dataclass(frozen=True)
class Keys:
    """What opens this server."""

    token: str = field(repr=False)
    """Lets a person in; new at every start."""
    worker_key: str = field(repr=False)
    """Lets workers in; kept in `home/worker.key`."""

    @classmethod
    def prepare(cls, home: Path) -> Keys:
        """Make a new token, and read the worker key of `home` or make it."""
        home.mkdir(parents=True, exist_ok=True)
        return cls(token=secrets.token_urlsafe(32), worker_key=_read_or_make(worker_key_file(home)))

    def is_token(self, offered: str) -> bool:
        return hmac.compare_digest(offered.encode(), self.token.encode())

    def is_worker_key(self, offered: str) -> bool:
        return hmac.compare_digest(offered.encode(), self.worker_key.encode())


class BrowserSessions:
    """Browsers that have shown the token. They live as long as the server, like the token itself."""

    def __init__(self) -> None:
        self._last_seen: dict[str, float] = {}
        self._lock = threading.Lock()

    def open(self) -> str:
        """Let a browser in; give the value of its cookie."""
        value = secrets.token_urlsafe(32)
        with self._lock:
            self._last_seen[value] = time.monotonic()
            while len(self._last_seen) > SESSIONS_MAX:
                del self._last_seen[min(self._last_seen, key=self._last_seen.__getitem__)]
        return value

    def is_open(self, value: str) -> bool:
        """Look a cookie up, and note that its browser was here."""
        now = time.monotonic()
        with self._lock:
            last_seen = self._last_seen.get(value)
            if last_seen is None:
                return False
            if now - last_seen > SESSION_IDLE_S:
                del self._last_seen[value]
                return False
            self._last_seen[value] = now
        return True

    def close(self, value: str) -> None:
        with self._lock:
            self._last_seen.pop(value, None)


@contextmanager
def announced(home: Path, info: ServerInfo) -> Iterator[None]:
    """Write `home/server.json` while the server runs, so that the commands of the same user find it."""
    file = server_file(home)
    scratch = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    _write_private(scratch, info.model_dump_json())
    scratch.replace(file)
    try:
        yield
    finally:
        # A server that was started meanwhile has written its own; that one stays.
        if ServerInfo.read(file) == info:
            file.unlink(missing_ok=True)


def _read_or_make(file: Path) -> str:
    try:
        _write_private(file, secrets.token_urlsafe(32), exclusive=True)
    except FileExistsError:
        # Another process may be between making the file and filling it.
        deadline = time.monotonic() + 5
        while not (key := file.read_text().strip()) and time.monotonic() < deadline:
            time.sleep(0.01)
        if key:
            return key
        _write_private(file, secrets.token_urlsafe(32))
    return file.read_text().strip()


def _write_private(file: Path, text: str, *, exclusive: bool = False) -> None:
    flags = os.O_WRONLY | os.O_CREAT | (os.O_EXCL if exclusive else os.O_TRUNC)
    with os.fdopen(os.open(file, flags, 0o600), "w") as stream:
        # The mode counts only for a new file; an old one may be open to others.
        os.fchmod(stream.fileno(), 0o600)
        stream.write(text)
