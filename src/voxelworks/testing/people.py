"""People for tests, in organizations of theirs."""

from __future__ import annotations

from sqlalchemy.orm import Session

from voxelworks import accounts
from voxelworks.errors import NotFound
from voxelworks.protocol.people import Principal, Role
from voxelworks.settings import Settings

PASSWORD = "correct horse battery staple"  # noqa: S105 - of people who exist in tests only


def make_organization(session: Session, organization_id: str) -> Principal:
    """Make an organization with an owner of its own, `owner@ORGANIZATION.example`; give the owner."""
    accounts.prepare(session)
    operator = accounts.local_principal(session)
    owner = accounts.create_user(
        session, operator, email=f"owner@{organization_id}.example", name=f"Owner of {organization_id}"
    )
    accounts.create_organization(
        session, operator, organization_id=organization_id, name=organization_id.title(), owner_id=owner.id
    )
    return _principal(session, owner.id, organization_id)


def make_member(session: Session, name: str, organization_id: str, role: Role = "member") -> Principal:
    """Make a user with an account and a role in an organization, which is made if it is missing.

    Their address is `NAME@example.org`. They have no password; `give_password` gives them one.
    """
    try:
        accounts.find_organization(session, organization_id)
    except NotFound:
        make_organization(session, organization_id)
    operator = accounts.local_principal(session)
    email = f"{name.lower()}@example.org"
    user = accounts.find_user_by_email(session, email)
    if user is None:
        user = accounts.create_user(session, operator, email=email, name=name)
    accounts.add_member(session, operator, user.id, role, organization_id=organization_id)
    return _principal(session, user.id, organization_id)


def _principal(session: Session, user_id: str, organization_id: str) -> Principal:
    principal = accounts.find_principal(session, user_id, organization_id)
    assert principal is not None, "the user was made a member"
    return principal


def give_password(session: Session, who: Principal, settings: Settings) -> None:
    """Let somebody log in with `PASSWORD`."""
    operator = accounts.local_principal(session)
    accounts.reset_password(session, accounts.make_reset(session, operator, who.user_id, settings), PASSWORD)
