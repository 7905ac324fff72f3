"""Finding and keeping the server that a command talks to."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from voxelworks.cli._settings import home_option, load_settings
from voxelworks.client import Client, find_server
from voxelworks.errors import InvalidInput, TargetNotWritable
from voxelworks.settings import Settings

_F = TypeVar("_F", bound=Callable[..., Any])


def server_options(command: _F) -> _F:
    """Add the options that name a server: by default the one of this user on this machine."""
    for option in (
        home_option,
        click.option(
            "--token", envvar="VOXELWORKS_TOKEN",
            help="Start-up token of that server, or an API token. Others on this machine see it in the list of"
            " processes: rather set VOXELWORKS_TOKEN.",
        ),
        click.option(
            "--server", metavar="URL", envvar="VOXELWORKS_SERVER",
            help="Another server than the one that runs on this machine (VOXELWORKS_SERVER).",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def connect(*, server: str | None, token: str | None, home: Path | None) -> Client:
    """Connect to the server that the options name.

    Raises
    ------
    InvalidInput
        If a server is named, but no token.
    ServerUnreachable
        If none is named and none runs here.
    """
    if server is None:
        info = find_server(load_settings(home=home))
        return Client(info.url, token or info.token)
    if token is None:
        raise InvalidInput(f"server {server}: its token is missing; give --token, or set VOXELWORKS_TOKEN")
    return Client(server, token)


@contextmanager
def only_server_of(settings: Settings) -> Iterator[None]:
    """Keep a second server away from the same home; the system gives it free when this process ends in any way.

    Raises
    ------
    NetworkFileSystem
        If SQLite would lie on a network file system: before anything is written there.
    TargetNotWritable
        If the folder cannot be made or written.
    InvalidInput
        If a server of this home runs already.
    """
    from voxelworks.db import require_local_database  # slow import: not for those who only look for a server

    require_local_database(settings)
    home = settings.home
    path = home / "server.lock"
    try:
        home.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise TargetNotWritable(
            f"cannot write to {home}: {error.strerror}; choose another folder with --home, or change its rights"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InvalidInput(
            f"a server runs in {home} already; stop it first, or choose another --home"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)
