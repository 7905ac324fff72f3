"""What every route works with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import Request

from voxelworks.db import Database
from voxelworks.protocol.places import Places
from voxelworks.server.keys import BrowserSessions, Keys
from voxelworks.server.live import Live
from voxelworks.settings import Settings

OWNER = "local"
"""The one person whom the start-up token lets in, until there are accounts."""


@dataclass(frozen=True)
class Context:
    """The server's belongings, made once at its start."""

    settings: Settings
    database: Database
    places: Places
    keys: Keys
    sessions: BrowserSessions
    live: Live


def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


Here = Annotated[Context, Depends(_context)]
