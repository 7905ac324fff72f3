"""Members of organizations. Each organization has exactly one owner, and rights end with the membership."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from voxelworks.accounts._audit import audit
from voxelworks.accounts._organizations import get_organization
from voxelworks.accounts._people import get_user, user_view
from voxelworks.accounts._tables import (
    ApiTokenRow,
    InvitationRow,
    LoginSessionRow,
    MembershipRow,
    ShareRow,
    UserRow,
)
from voxelworks.db import among, now, texts
from voxelworks.errors import IllegalTransition, InvalidInput, NotFound, TargetExists
from voxelworks.protocol.people import ROLES, MemberView, Principal, Role, UserView


def list_members(session: Session, organization_id: str) -> tuple[MemberView, ...]:
    """Give all members by name."""
    found = session.execute(
        select(UserRow, MembershipRow)
        .join(MembershipRow, MembershipRow.user_id == UserRow.id)
        .where(MembershipRow.organization_id == organization_id)
        .order_by(UserRow.name, UserRow.id)
    )
    return tuple(_view(user, membership) for user, membership in found)


def members_with_role(session: Session, organization_id: str, *roles: Role) -> tuple[UserView, ...]:
    """Give those who can act as one of the roles, such as the people to whom a mail about credits goes."""
    members = list_members(session, organization_id)
    return tuple(item.user for item in members if item.role in roles and not item.user.is_disabled)


def owner_of(session: Session, organization_id: str) -> UserView:
    """Find the owner.

    Raises
    ------
    NotFound
        If there is no such organization.
    """
    get_organization(session, organization_id)
    return user_view(get_user(session, _owner(session, organization_id).user_id))


def owners_of(session: Session, organization_ids: Collection[str]) -> dict[str, UserView]:
    """Find the owners of organizations, by the id of the organization."""
    found = session.execute(
        select(MembershipRow.organization_id, UserRow)
        .join(UserRow, MembershipRow.user_id == UserRow.id)
        .where(
            among(MembershipRow.organization_id, texts("organization_ids")), MembershipRow.role == "owner"
        ),
        {"organization_ids": list(organization_ids)},
    )
    return {organization_id: user_view(user) for organization_id, user in found}


def add_member(
    session: Session, by: Principal, user_id: str, role: Role, *, organization_id: str | None = None
) -> MemberView:
    """Make a user a member without an invitation: for operators.

    Parameters
    ----------
    organization_id
        By default the one for which `by` speaks.

    Raises
    ------
    TargetExists
        If they are a member already.
    NotFound
    InvalidInput
    """
    organization = get_organization(session, organization_id or by.organization_id, is_locked=True)
    user = get_user(session, user_id)
    membership = join(session, user, organization.id, role)
    audit(session, by, "member.added", f"user:{user.id}", organization_id=organization.id, role=role)
    return _view(user, membership)


def join(session: Session, user: UserRow, organization_id: str, role: Role) -> MembershipRow:
    """Add a membership to an organization whose row is locked."""
    require_given_role(role)
    if session.get(MembershipRow, (user.id, organization_id)) is not None:
        raise TargetExists(f"{user.name} is a member already; change their role in the list of members")
    membership = MembershipRow(
        user_id=user.id, organization_id=organization_id, role=role, created_ms=now(session)
    )
    session.add(membership)
    session.flush()
    return membership


def change_role(session: Session, by: Principal, user_id: str, role: Role) -> MemberView:
    """Give a member another role, except that of the owner.

    Raises
    ------
    NotFound
    IllegalTransition
        For the owner.
    InvalidInput
    """
    require_given_role(role)
    get_organization(session, by.organization_id, is_locked=True)
    membership = _get_membership(session, user_id, by.organization_id)
    user = get_user(session, user_id)
    if membership.role == "owner":
        raise IllegalTransition(f"{user.name} owns this organization; transfer the ownership first")
    if membership.role != role:
        old, membership.role = membership.role, role
        if role != "admin":
            # Who may not invite any more must not come back by a letter to an address of theirs.
            _revoke_invitations(session, user_id, by.organization_id)
        audit(session, by, "member.role_changed", f"user:{user_id}", old=old, new=role)
    return _view(user, membership)


def transfer_ownership(session: Session, by: Principal, user_id: str) -> MemberView:
    """Give the ownership to another member; the owner so far becomes an admin.

    Raises
    ------
    NotFound
    IllegalTransition
        If the member's account is disabled.
    """
    get_organization(session, by.organization_id, is_locked=True)
    owner = _owner(session, by.organization_id)
    heir = _get_membership(session, user_id, by.organization_id)
    user = get_user(session, user_id)
    if user.disabled_ms is not None:
        raise IllegalTransition(f"the account of {user.name} is disabled; choose another owner")
    if owner.user_id != heir.user_id:
        owner.role = "admin"
        session.flush()  # the database takes no two owners, not even for a moment
        heir.role = "owner"
        audit(
            session, by, "organization.owner_changed", f"organization:{by.organization_id}",
            old=f"user:{owner.user_id}", new=f"user:{user_id}",
        )  # fmt: skip
    return _view(user, heir)


def name_owner(session: Session, by: Principal, organization_id: str, user_id: str) -> MemberView:
    """Make somebody the owner of an organization, also if they are no member yet: for operators.

    The owner so far, who may have been shut out, becomes an admin.

    Raises
    ------
    NotFound
    IllegalTransition
        If the account is disabled.
    """
    there = replace(by, organization_id=organization_id)
    get_organization(session, organization_id, is_locked=True)
    if session.get(MembershipRow, (user_id, organization_id)) is None:
        add_member(session, there, user_id, "admin")
    return transfer_ownership(session, there, user_id)


def remove_member(session: Session, by: Principal, user_id: str) -> None:
    """End a membership, one's own or another's, and all that hangs on it: sessions, tokens, open invitations.

    Datasets and jobs stay: they belong to the organization.

    Raises
    ------
    NotFound
    IllegalTransition
        For the owner.
    """
    get_organization(session, by.organization_id, is_locked=True)
    membership = _get_membership(session, user_id, by.organization_id)
    user = get_user(session, user_id)
    if membership.role == "owner":
        raise IllegalTransition(f"{user.name} owns this organization; transfer the ownership first")
    for table in (LoginSessionRow, ApiTokenRow, ShareRow):
        session.execute(
            delete(table).where(table.user_id == user_id, table.organization_id == by.organization_id)
        )
    _revoke_invitations(session, user_id, by.organization_id)
    session.delete(membership)
    audit(session, by, "member.removed", f"user:{user_id}", role=membership.role)


def require_given_role(role: Role) -> None:
    """Refuse what is no role, and that of the owner, which is only handed over."""
    if role == "owner" or role not in ROLES:
        known = ", ".join(item for item in ROLES if item != "owner")
        raise InvalidInput(
            f"{role!r} is no role that can be given; choose from {known} (an owner hands the ownership over)"
        )


def _get_membership(session: Session, user_id: str, organization_id: str) -> MembershipRow:
    membership = session.get(MembershipRow, (user_id, organization_id), populate_existing=True)
    if membership is None:
        raise NotFound(f"there is no member {user_id!r} in this organization; see the list of members")
    return membership


def _owner(session: Session, organization_id: str) -> MembershipRow:
    query = select(MembershipRow).where(
        MembershipRow.organization_id == organization_id, MembershipRow.role == "owner"
    )
    return session.scalars(query.execution_options(populate_existing=True)).one()


def _revoke_invitations(session: Session, user_id: str, organization_id: str) -> None:
    session.execute(
        delete(InvitationRow).where(
            InvitationRow.invited_by == user_id, InvitationRow.organization_id == organization_id
        )
    )


def _view(user: UserRow, membership: MembershipRow) -> MemberView:
    return MemberView(user=user_view(user), role=membership.role, since_ms=membership.created_ms)
