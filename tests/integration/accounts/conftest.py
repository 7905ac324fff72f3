from contextlib import nullcontext
from dataclasses import dataclass

import pytest
from sqlalchemy import select, update

from voxelworks import accounts
from voxelworks.db import APPEND_ONLY, Base, Database, changes_let_through
from voxelworks.settings import Settings
from voxelworks.testing.people import make_member, make_organization


@dataclass
class Site:
    """An instance: every call is one transaction, as a request is."""

    database: Database
    settings: Settings

    def call(self, function, *args, **kwargs):
        with self.database.session() as session:
            return function(session, *args, **kwargs)

    def read(self, function, *args, **kwargs):
        with self.database.read_session() as session:
            return function(session, *args, **kwargs)

    def member(self, name, organization_id="neuro", role="member"):
        return self.call(make_member, name, organization_id, role)

    def owner(self, organization_id):
        return self.call(make_organization, organization_id)

    def log_in(self, email, password, *, address="192.0.2.7", agent="Firefox"):
        return accounts.log_in(
            self.database, email, password, address=address, agent=agent, settings=self.settings
        )

    def open(self, who, **options):
        """Open a browser for somebody."""
        return self.call(
            accounts.open_login_session, user_id=who.user_id, address="192.0.2.7", agent="Firefox", **options
        )

    def who(self, cookie):
        return accounts.enter_by_session(self.database, cookie, self.settings)

    def by_token(self, token):
        return accounts.enter_by_token(self.database, token)

    def actions(self, organization_id=None):
        """What the audit log says, oldest first."""
        page = self.read(accounts.list_audit, organization_id=organization_id)
        return [entry.action for entry in reversed(page.entries)]

    def everything(self):
        """Give all values of all columns that hold text, by table."""
        with self.database.read_session() as session:
            return [
                str(value)
                for table in Base.metadata.sorted_tables
                for row in session.execute(select(table))
                for value in row
            ]

    def advance(self, seconds):
        """Let time pass: every date of the database moves into the past."""
        with self.database.session() as session:
            for table in Base.metadata.sorted_tables:
                dates = {
                    column: column - round(seconds * 1000)
                    for column in table.columns
                    if column.name.endswith("_ms")
                }
                if not dates:
                    continue
                is_kept = table.info.get(APPEND_ONLY, False)
                with changes_let_through(session, table) if is_kept else nullcontext():
                    session.execute(update(table).values(dates))


@pytest.fixture
def site(database, tmp_path):
    site = Site(database, Settings(home=tmp_path))
    site.call(accounts.prepare)
    return site
