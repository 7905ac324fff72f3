"""Invitations: a link by mail that makes its reader a member."""

from __future__ import annotations

from sqlalchemy import delete, exists, select
from sqlalchemy.orm import Session

from voxelworks.accounts._audit import audit
from voxelworks.accounts._members import join, require_given_role
from voxelworks.accounts._organizations import get_organization
from voxelworks.accounts._passwords import check_password, hash_password
from voxelworks.accounts._people import add_user, get_user, user_view
from voxelworks.accounts._tables import InvitationRow, MembershipRow, OrganizationRow, UserRow
from voxelworks.accounts._texts import check_email, check_name
from voxelworks.accounts._tokens import Prefix, digest, make_id, make_token
from voxelworks.db import now
from voxelworks.errors import InvalidInput, NotAllowed, NotFound, TargetExists
from voxelworks.protocol.people import InvitationView, Principal, Role, UserView
from voxelworks.settings import Settings


def invite(
    session: Session, by: Principal, email: str, role: Role, *, settings: Settings
) -> tuple[str, InvitationView]:
    """Invite somebody. An earlier invitation to the same address ends.

    Returns
    -------
    token, view
        The token goes into the link of the mail, and nowhere else.

    Raises
    ------
    TargetExists
        If a member has this address.
    InvalidInput
    """
    require_given_role(role)
    address = check_email(email)
    organization = get_organization(session, by.organization_id, is_locked=True)
    if _is_member(session, address, organization.id):
        raise TargetExists(f"{address} is a member already; change their role in the list of members")
    session.execute(
        delete(InvitationRow).where(
            InvitationRow.organization_id == organization.id, InvitationRow.email == address
        )
    )
    token = make_token(Prefix.INVITATION)
    at_ms = now(session)
    row = InvitationRow(
        id=make_id(), organization_id=organization.id, email=address, role=role, token_hash=digest(token),
        invited_by=by.user_id, created_ms=at_ms, expires_ms=at_ms + round(settings.invitation_s * 1000),
    )  # fmt: skip
    session.add(row)
    session.flush()
    audit(session, by, "member.invited", f"email:{address}", role=role)
    return token, _view(session, row, at_ms)


def find_invitation(session: Session, token: str) -> InvitationView | None:
    """Find what a link invites to; None if it is not, or no longer, valid."""
    row = _find(session, token)
    return None if row is None else _view(session, row, now(session))


def accept_invitation(
    session: Session, token: str, *, name: str | None = None, password: str | None = None
) -> UserView:
    """Make the invited person a member.

    Whoever has an account under the invited address joins with it, and name and password are ignored: the link shows
    that its reader reads that mailbox, not that they may change the account. Others get a new account.

    Raises
    ------
    NotFound
        If the invitation was accepted, revoked, or has expired.
    InvalidInput
        If a new account lacks its name or password, or the password is too easy to guess.
    NotAllowed
        If the account is disabled.
    """
    row = _find(session, token)
    if row is None:
        raise NotFound("this invitation is not valid any more; ask for a new one")
    get_organization(session, row.organization_id, is_locked=True)
    user = session.scalar(select(UserRow).where(UserRow.email == row.email))
    if user is None:
        user = _make_user(session, row.email, name, password)
    take(session, row, user)
    return user_view(user)


def take(session: Session, row: InvitationRow, user: UserRow) -> None:
    """Turn an invitation into a membership, in an organization whose row is locked."""
    if user.disabled_ms is not None:
        raise NotAllowed("this account is disabled; ask the operator of this instance")
    taken = session.execute(
        delete(InvitationRow).where(InvitationRow.id == row.id).returning(InvitationRow.id)
    ).first()
    if taken is None:
        raise NotFound("this invitation was accepted or revoked a moment ago; log in, or ask for a new one")
    join(session, user, row.organization_id, row.role)
    audit(
        session, f"user:{user.id}", "member.joined", f"user:{user.id}", organization_id=row.organization_id,
        role=row.role, invited_by=f"user:{row.invited_by}",
    )  # fmt: skip


def find_open_invitations(session: Session, email: str) -> tuple[InvitationRow, ...]:
    """Find what somebody with this address is invited to, oldest first."""
    query = select(InvitationRow).where(InvitationRow.email == email, InvitationRow.expires_ms > now(session))
    return tuple(session.scalars(query.order_by(InvitationRow.created_ms, InvitationRow.id)))


def list_invitations(session: Session, by: Principal) -> tuple[InvitationView, ...]:
    """Give the invitations of this organization that nobody has accepted, newest first."""
    at_ms = now(session)
    rows = session.scalars(
        select(InvitationRow)
        .where(InvitationRow.organization_id == by.organization_id)
        .order_by(InvitationRow.created_ms.desc(), InvitationRow.id)
    )
    return tuple(_view(session, row, at_ms) for row in rows)


def revoke_invitation(session: Session, by: Principal, invitation_id: str) -> None:
    """End an invitation of this organization.

    Raises
    ------
    NotFound
    """
    revoked = session.execute(
        delete(InvitationRow)
        .where(InvitationRow.id == invitation_id, InvitationRow.organization_id == by.organization_id)
        .returning(InvitationRow.email)
    ).first()
    if revoked is None:
        raise NotFound(f"there is no invitation {invitation_id!r}; it may have been accepted already")
    audit(session, by, "member.invitation_revoked", f"email:{revoked.email}")


def _find(session: Session, token: str) -> InvitationRow | None:
    if not token.startswith(Prefix.INVITATION):
        return None
    return session.scalar(
        select(InvitationRow)
        .where(InvitationRow.token_hash == digest(token), InvitationRow.expires_ms > now(session))
        .execution_options(populate_existing=True)
    )


def _make_user(session: Session, email: str, name: str | None, password: str | None) -> UserRow:
    if name is None or password is None:
        raise InvalidInput("a new account needs a name and a password; give both")
    checked = check_name("name", name)
    check_password(password, email=email, name=checked)
    return add_user(session, email=email, name=checked, password_hash=hash_password(password))


def _is_member(session: Session, email: str, organization_id: str) -> bool:
    is_same = (UserRow.email == email) & (MembershipRow.organization_id == organization_id)
    return bool(session.scalar(select(exists().where(MembershipRow.user_id == UserRow.id, is_same))))


def _view(session: Session, row: InvitationRow, at_ms: int) -> InvitationView:
    return InvitationView(
        id=row.id, organization_id=row.organization_id,
        organization_name=session.get_one(OrganizationRow, row.organization_id).name, email=row.email,
        role=row.role, invited_by=get_user(session, row.invited_by).name, created_ms=row.created_ms,
        expires_ms=row.expires_ms, is_expired=row.expires_ms <= at_ms,
        is_known=bool(session.scalar(select(exists().where(UserRow.email == row.email)))),
    )  # fmt: skip
