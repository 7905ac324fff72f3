"""What the commands of `voxelworks admin` share: the database of this machine's server, and people by their address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
from sqlalchemy.orm import Session

from voxelworks import accounts
from voxelworks.cli._settings import load_settings
from voxelworks.db import Database, open_database
from voxelworks.errors import NotFound
from voxelworks.protocol.people import LOCAL_ORGANIZATION_ID, ROLES, Principal, UserView
from voxelworks.settings import Settings

limit_option = click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="At most so many, newest first.",
)
organization_option = click.option(
    "--organization", "organization_id", metavar="ORG", default=LOCAL_ORGANIZATION_ID, show_default=True,
    help="Short name of the organization.",
)  # fmt: skip
role_type = click.Choice([role for role in ROLES if role != "owner"])


@dataclass(frozen=True)
class Office:
    """An open session, and who speaks in it: whoever may run commands on this machine, for one organization."""

    session: Session
    settings: Settings
    by: Principal

    def user(self, who: str) -> UserView:
        """Find somebody by address or id.

        Raises
        ------
        NotFound
        """
        if "@" not in who:
            return accounts.find_user(self.session, who)
        user = accounts.find_user_by_email(self.session, who)
        if user is None:
            raise NotFound(f"nobody has the address {who!r}; see `voxelworks admin users list`")
        return user

    def link(self, path: str) -> str:
        """Write the address of a page of the server."""
        return f"{self.settings.link_base}{path}"


@contextmanager
def opened_database(home: Path | None) -> Iterator[tuple[Database, Settings]]:
    settings = load_settings(home=home)
    database = open_database(settings)
    try:
        yield database, settings
    finally:
        database.close()


@contextmanager
def office(home: Path | None, organization_id: str = LOCAL_ORGANIZATION_ID) -> Iterator[Office]:
    """Open the database for one change, which is committed in the end."""
    with opened_database(home) as (database, settings), database.session() as session:
        accounts.prepare(session)
        by = accounts.local_principal(session, organization_id=organization_id, entrance="program")
        yield Office(session, settings, by)
