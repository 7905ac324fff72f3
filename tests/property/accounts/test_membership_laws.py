"""Whatever people do, in any order: one owner each, no rights beyond a membership, nothing stored in clear."""

import tempfile
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)
from sqlalchemy import select

import state_machines
from voxelworks import accounts
from voxelworks.accounts import Action
from voxelworks.db import Base
from voxelworks.errors import VoxelworksError
from voxelworks.settings import Settings
from voxelworks.testing.databases import postgresql_database, sqlite_database
from voxelworks.testing.rounds import rounds

ORGANIZATIONS = ("neuro", "chem")
PEOPLE = tuple(f"{name}@example.org" for name in ("ada", "bob", "cem", "dee", "eve"))
BEGINNING = {
    "neuro": {"ada": "owner", "bob": "admin", "cem": "member"},
    "chem": {"bob": "owner", "ada": "admin", "dee": "dataset_manager"},
}
"""Eve comes by an invitation, if at all."""
PASSWORD = "correct horse battery staple"

organizations = st.sampled_from(ORGANIZATIONS)
people = st.sampled_from(PEOPLE)
picks = st.integers(0, 5)
roles = st.sampled_from(["admin", "admin", "admin", "dataset_manager", "member", "member", "owner"])


class Accounts(RuleBasedStateMachine):
    """An instance beside a plain table of who is what where."""

    open_database = None
    """Set for each database."""

    cookies = Bundle("cookies")
    tokens = Bundle("tokens")
    letters = Bundle("letters")

    def __init__(self):
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._context = type(self).open_database()
        self.database = self._context.__enter__()
        self.settings = Settings(home=Path(self._folder.name))
        self.roles = {}
        """(organization, user) -> role, as it should be."""
        self.disabled = set()
        self.ids = {}
        """Address -> user."""
        self.sessions = {}
        """Cookie -> (user, organization), as long as it should let in."""
        self.keys = {}
        """Token -> (user, organization), as long as it should let in."""
        self.invitations = {}
        """Token of an invitation -> (inviter, organization, address, role), as long as it should let in."""
        self.secrets = []

    def teardown(self):
        self._context.__exit__(None, None, None)
        self._folder.cleanup()

    def call(self, function, *args, **kwargs):
        """One request: committed, or refused with a sentence and no effect."""
        try:
            with self.database.session() as session:
                return function(session, *args, **kwargs)
        except VoxelworksError as error:
            return error

    def asks(self, email, organization, action):
        """Somebody asks for something: their principal if the matrix allows it."""
        if email not in self.ids:
            return None
        principal = self.call(accounts.find_principal, self.ids[email], organization)
        expected = (
            None if self.ids[email] in self.disabled else self.roles.get((organization, self.ids[email]))
        )
        assert (principal and principal.role) == expected
        return principal if principal and accounts.is_allowed(principal, action) else None

    def pick(self, organization, number, *roles):
        """Choose somebody who has one of the roles and is not disabled: a random person could do next to nothing."""
        found = [
            email
            for email, user in sorted(self.ids.items())
            if self.roles.get((organization, user)) in roles and user not in self.disabled
        ]
        return found[number % len(found)] if found else PEOPLE[number % len(PEOPLE)]

    @initialize()
    def begin(self):
        self.call(accounts.prepare)
        self.operator = self.call(accounts.local_principal)
        for email in PEOPLE[:-1]:
            self.ids[email] = self.call(accounts.create_user, self.operator, email=email, name=email[:3]).id
        for organization, members in BEGINNING.items():
            for name, role in members.items():
                user = self.ids[f"{name}@example.org"]
                if role == "owner":
                    self.call(
                        accounts.create_organization, self.operator, organization_id=organization,
                        name=organization, owner_id=user,
                    )  # fmt: skip
                else:
                    self.call(accounts.add_member, self.operator, user, role, organization_id=organization)
                self.roles[organization, user] = role

    @rule(target=letters, by=picks, organization=organizations, email=people, role=roles)
    def invite(self, by, organization, email, role):
        by = self.pick(organization, by, "admin", "owner")
        principal = self.asks(by, organization, Action.MANAGE_MEMBERS)
        if principal is None:
            return multiple()
        if (organization, self.ids.get(email)) in self.roles:
            email = PEOPLE[-1]
        answer = self.call(accounts.invite, principal, email, role, settings=self.settings)
        if role == "owner" or (organization, self.ids.get(email)) in self.roles:
            assert isinstance(answer, VoxelworksError)
            return multiple()
        token, _ = answer
        self.invitations = {
            key: item for key, item in self.invitations.items() if item[1:3] != (organization, email)
        }
        self.invitations[token] = (principal.user_id, organization, email, role)
        self.secrets.append(token)
        return token

    @rule(pick=picks)
    def accept_an_open_one(self, pick):
        if self.invitations:
            self.accept(list(self.invitations)[pick % len(self.invitations)])

    @rule(token=letters)
    def accept(self, token):
        answer = self.call(accounts.accept_invitation, token, name="Somebody", password=PASSWORD)
        if token not in self.invitations:
            assert isinstance(answer, VoxelworksError)
            return
        _, organization, email, role = self.invitations[token]
        if self.ids.get(email) in self.disabled or (organization, self.ids.get(email)) in self.roles:
            assert isinstance(answer, VoxelworksError)
            return
        del self.invitations[token]
        assert self.ids.setdefault(email, answer.id) == answer.id
        self.roles[organization, answer.id] = role

    @rule(by=picks, organization=organizations, pick=picks, role=roles)
    def change_a_members_role(self, by, organization, pick, role):
        email = self.pick(organization, pick, "admin", "dataset_manager", "member")
        self.change_role(by, organization, email, role)

    @rule(by=picks, organization=organizations, email=people, role=roles)
    def change_role(self, by, organization, email, role):
        by = self.pick(organization, by, "admin", "owner")
        principal = self.asks(by, organization, Action.MANAGE_MEMBERS)
        if principal is None or email not in self.ids:
            return
        user = self.ids[email]
        answer = self.call(accounts.change_role, principal, user, role)
        if role == "owner" or self.roles.get((organization, user)) in (None, "owner"):
            assert isinstance(answer, VoxelworksError)
            return
        if role != self.roles[organization, user] and role != "admin":
            self._forget_letters(user, organization)
        self.roles[organization, user] = role

    @rule(organization=organizations, pick=picks)
    def transfer_to_a_member(self, organization, pick):
        heirs = [email for email, user in sorted(self.ids.items()) if (organization, user) in self.roles]
        self.transfer(pick, organization, heirs[pick % len(heirs)])

    @rule(by=picks, organization=organizations, email=people)
    def transfer(self, by, organization, email):
        by = self.pick(organization, by, "owner")
        principal = self.asks(by, organization, Action.MANAGE_OWNER)
        if principal is None or email not in self.ids:
            return
        heir = self.ids[email]
        answer = self.call(accounts.transfer_ownership, principal, heir)
        if (organization, heir) not in self.roles or heir in self.disabled:
            assert isinstance(answer, VoxelworksError)
            return
        self.roles[organization, principal.user_id] = "admin"
        self.roles[organization, heir] = "owner"

    @rule(by=picks, organization=organizations, pick=picks)
    def remove_somebody(self, by, organization, pick):
        self.remove(by, organization, self.pick(organization, pick, "admin", "dataset_manager", "member"))

    @rule(by=picks, organization=organizations, email=people)
    def remove(self, by, organization, email):
        by = self.pick(organization, by, "admin", "owner", "member")
        is_leaving = by == email
        principal = self.asks(by, organization, Action.SEE_MEMBERS if is_leaving else Action.MANAGE_MEMBERS)
        if principal is None or email not in self.ids:
            return
        user = self.ids[email]
        answer = self.call(accounts.remove_member, principal, user)
        if self.roles.get((organization, user)) in (None, "owner"):
            assert isinstance(answer, VoxelworksError)
            return
        del self.roles[organization, user]
        self._forget_letters(user, organization)
        for kept in (self.sessions, self.keys):
            for key in [key for key, owner in kept.items() if owner == (user, organization)]:
                del kept[key]

    @rule(email=people)
    def disable_or_enable(self, email):
        if email not in self.ids:
            return
        user = self.ids[email]
        if self.disabled:  # at most one at a time, as the disabled do nothing any more
            user = self.disabled.pop()
            self.call(accounts.enable_user, self.operator, user)
            return
        self.call(accounts.disable_user, self.operator, user)
        self.disabled.add(user)
        for organization in ORGANIZATIONS:
            self._forget_letters(user, organization)
        for kept in (self.sessions, self.keys):
            for key in [key for key, owner in kept.items() if owner[0] == user]:
                del kept[key]

    @rule(target=cookies, email=people, organization=organizations)
    def open_browser(self, email, organization):
        principal = self.asks(email, organization, Action.SEE_DATASET)
        if principal is None:
            return multiple()
        cookie = self.call(
            accounts.open_login_session, user_id=principal.user_id, address="", agent="",
            organization_id=organization,
        )  # fmt: skip
        self.sessions[cookie] = (principal.user_id, organization)
        self.secrets.append(cookie)
        return cookie

    @rule(cookie=cookies, organization=organizations)
    def switch(self, cookie, organization):
        if cookie not in self.sessions:
            return
        user, at = self.sessions[cookie]
        principal = self.call(accounts.find_principal, user, at)
        answer = self.call(accounts.switch_organization, principal, cookie, organization)
        if (organization, user) in self.roles:
            self.sessions[cookie] = (user, organization)
        else:
            assert isinstance(answer, VoxelworksError)

    @rule(cookie=consumes(cookies))
    def log_out(self, cookie):
        self.call(accounts.log_out, cookie)
        self.sessions.pop(cookie, None)

    @rule(target=tokens, email=people, organization=organizations, is_of_job=st.booleans())
    def make_token(self, email, organization, is_of_job):
        principal = self.asks(email, organization, Action.MANAGE_TOKENS_OWN)
        if principal is None:
            return multiple()
        if is_of_job:
            token = self.call(
                accounts.mint_job_token, user_id=principal.user_id, organization_id=organization,
                job_id=str(len(self.secrets)), at_ms=0, expires_ms=2**60,
            )  # fmt: skip
        else:
            token, _ = self.call(accounts.create_api_token, principal, "t", ["admin"], None)
        self.keys[token] = (principal.user_id, organization)
        self.secrets.append(token)
        return token

    def _forget_letters(self, user, organization):
        self.invitations = {
            key: item for key, item in self.invitations.items() if item[:2] != (user, organization)
        }

    @invariant()
    def each_organization_has_exactly_one_owner_and_the_members_that_it_should(self):
        for organization in {organization for organization, _ in self.roles}:
            members = self.call(accounts.list_members, organization)
            assert {(organization, item.user.id): item.role for item in members} == {
                key: role for key, role in self.roles.items() if key[0] == organization
            }
            assert [item.role for item in members].count("owner") == 1

    @invariant()
    def nothing_lets_in_who_is_no_member_and_everything_has_the_role_of_now(self):
        with self.database.read_session() as session:
            found = [
                (
                    secret,
                    accounts.principal_of_session(session, secret, self.settings),
                    accounts.principal_of_token(session, secret),
                    accounts.find_invitation(session, secret),
                )
                for secret in self.secrets
            ]
        for secret, by_cookie, by_token, letter in found:
            for principal, kept in ((by_cookie, self.sessions), (by_token, self.keys)):
                assert (principal is not None) == (secret in kept)
                if principal is not None:
                    user, organization = kept[secret]
                    assert (principal.user_id, principal.organization_id) == (user, organization)
                    assert principal.role == self.roles[organization, user]
                    assert user not in self.disabled
            assert (letter is not None) == (secret in self.invitations)

    @invariant()
    def every_open_invitation_is_of_somebody_who_may_still_invite(self):
        for inviter, organization, _, _ in self.invitations.values():
            assert self.roles[organization, inviter] in ("owner", "admin")
            assert inviter not in self.disabled

    @invariant()
    def nothing_secret_is_stored_in_clear(self):
        with self.database.read_session() as session:
            stored = "\n".join(
                str(value)
                for table in Base.metadata.sorted_tables
                for row in session.execute(select(table))
                for value in row
            )
        assert PASSWORD not in stored
        assert not [secret for secret in self.secrets if secret in stored]


def test_the_laws_hold_on_sqlite():
    state_machines.run(Accounts, sqlite_database, examples=rounds(8, 1000), steps=100)


def test_the_laws_hold_on_postgresql(postgresql_server):
    state_machines.run(
        Accounts, lambda: postgresql_database(postgresql_server), examples=rounds(1, 150), steps=100
    )
