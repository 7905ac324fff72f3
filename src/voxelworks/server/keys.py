"""Keys of the server: who may come in, and the files through which programs on this machine find them.

Two keys, for two trusts: the *start-up token* is the person who started the server, the *worker key* belongs to
workers. Neither opens the routes of the other.
"""

from __future__ import annotations

import hmac
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from voxelworks import accounts
from voxelworks.client import ServerInfo, server_file, worker_key_file
from voxelworks.db import Database

OWN_WORKERS = "this machine"
"""Name of the key in `home/worker.key`, in the list of worker keys."""


@dataclass(frozen=True)
class Keys:
    """What opens this server, beside what the database knows."""

    token: str = field(repr=False)
    """Lets in the person who started the server, from this machine; new at every start."""

    @classmethod
    def prepare(cls, home: Path, database: Database) -> Keys:
        """Make a new token, and see that the database knows the worker key of `home`."""
        home.mkdir(parents=True, exist_ok=True)
        file = worker_key_file(home)
        with database.session() as session:
            known = accounts.ensure_worker_key(session, _read_or_make(file), OWN_WORKERS)
            if known.revoked_ms is not None:
                # The operator took it back: workers of this machine get another one.
                accounts.ensure_worker_key(session, _make_anew(file), OWN_WORKERS)
        return cls(token=secrets.token_urlsafe(32))

    def is_token(self, offered: str) -> bool:
        return hmac.compare_digest(offered.encode(), self.token.encode())


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


def _make_anew(file: Path) -> str:
    scratch = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    key = secrets.token_urlsafe(32)
    _write_private(scratch, key)
    scratch.replace(file)
    return key


def _write_private(file: Path, text: str, *, exclusive: bool = False) -> None:
    flags = os.O_WRONLY | os.O_CREAT | (os.O_EXCL if exclusive else os.O_TRUNC)
    with os.fdopen(os.open(file, flags, 0o600), "w") as stream:
        # The mode counts only for a new file; an old one may be open to others.
        os.fchmod(stream.fileno(), 0o600)
        stream.write(text)
