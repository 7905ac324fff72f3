"""What a server asks before every request: who is this?

These functions take the database. Looking somebody up reads only, so that no request waits for another one that writes;
that a session, token or key was used is noted once a minute, in a short transaction of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.orm import Session

from voxelworks.accounts._api_tokens import find_token, touch_token
from voxelworks.accounts._sessions import find_login, touch_session
from voxelworks.accounts._shares import Shared, principal_of_share
from voxelworks.accounts._worker_keys import find_key, touch_worker_key
from voxelworks.db import Database
from voxelworks.protocol.people import Principal, WorkerKeyView
from voxelworks.settings import Settings

_Found = TypeVar("_Found")


def enter_by_session(database: Database, cookie: str, settings: Settings) -> Principal | None:
    """Tell who a browser is; None if it has to log in."""
    return _enter(
        database,
        find=lambda session: find_login(session, cookie, settings),
        touch=lambda session: touch_session(session, cookie),
    )


def enter_by_token(database: Database, token: str) -> Principal | None:
    """Tell as whom an API token, or that of a job, acts; None if it is not valid."""
    return _enter(
        database,
        find=lambda session: find_token(session, token),
        touch=lambda session: touch_token(session, token),
    )


def enter_by_worker_key(database: Database, key: str) -> WorkerKeyView | None:
    """Find the key of a worker; None if it is not valid."""
    return _enter(
        database,
        find=lambda session: find_key(session, key),
        touch=lambda session: touch_worker_key(session, key),
    )


def enter_by_share(database: Database, token: str) -> tuple[Principal, Shared] | None:
    """Tell for whom the address of a share acts, and what it opens; None if it is not valid."""
    with database.glance() as session:
        return principal_of_share(session, token)


def _enter(
    database: Database,
    *,
    find: Callable[[Session], tuple[_Found, bool] | None],
    touch: Callable[[Session], object],
) -> _Found | None:
    """Look somebody up, and note the use if `find` says that this is due."""
    with database.glance() as session:
        found = find(session)
    if found is None:
        return None
    known, is_due = found
    if is_due:
        with database.session() as session:
            touch(session)
    return known
