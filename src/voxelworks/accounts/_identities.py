"""Whom the statement of an identity provider lets in."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from voxelworks.accounts._audit import audit
from voxelworks.accounts._invitations import find_open_invitations, take
from voxelworks.accounts._organizations import get_organization
from voxelworks.accounts._people import add_user, end_everything
from voxelworks.accounts._sessions import open_login_session
from voxelworks.accounts._tables import UserRow
from voxelworks.accounts._texts import NAME_CHARACTERS_MAX, check_email, shortened
from voxelworks.accounts.oidc import Identity
from voxelworks.db import Database
from voxelworks.errors import InvalidInput, NotLetIn


def log_in_with(database: Database, identity: Identity, *, address: str, agent: str) -> str:
    """Let somebody in whom the identity provider knows.

    That is the user who came with this identity before; else the one with the same e-mail address, if the provider has
    checked it; else whoever was invited under that address, with a new account.

    Who made an account may never have read mail at its address. So the password, sessions and tokens that it had end
    when an identity finds it by its address.

    Returns
    -------
    str
        Value of the session's cookie.

    Raises
    ------
    NotLetIn
    """
    email = _checked_email(identity)
    with database.session() as session:
        user = _find(session, identity, email) or _make(session, identity, email)
        if user is not None and user.disabled_ms is None:
            cookie = open_login_session(session, user_id=user.id, address=address, agent=agent)
            audit(session, f"user:{user.id}", "login", f"user:{user.id}", address=address, through="oidc")
            return cookie
        # Not raised in here, or the line would be taken back.
        audit(session, "nobody", "login.refused", f"identity:{identity.key}", address=address, through="oidc")
    raise NotLetIn(
        "nobody here has this identity, or the account is disabled; ask an admin for an invitation to your address"
    )


def _find(session: Session, identity: Identity, email: str | None) -> UserRow | None:
    user = session.scalar(select(UserRow).where(UserRow.oidc_subject == identity.key))
    if user is not None or email is None:
        return user
    user = session.scalar(
        select(UserRow)
        .where(UserRow.email == email, UserRow.oidc_subject.is_(None))
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if user is not None and user.disabled_ms is None:
        had_password = user.password_hash is not None
        user.oidc_subject, user.password_hash = identity.key, None
        end_everything(session, user.id)
        audit(
            session, f"user:{user.id}", "identity.linked", f"user:{user.id}", identity=identity.key,
            password_ended=had_password,
        )  # fmt: skip
    return user


def _make(session: Session, identity: Identity, email: str | None) -> UserRow | None:
    if email is None or session.scalar(select(UserRow.id).where(UserRow.email == email)) is not None:
        return None
    for invitation in find_open_invitations(session, email):
        get_organization(session, invitation.organization_id, is_locked=True)
        name = shortened(identity.name, NAME_CHARACTERS_MAX) or email
        user = add_user(session, email=email, name=name, oidc_subject=identity.key)
        take(session, invitation, user)
        return user
    return None


def _checked_email(identity: Identity) -> str | None:
    if identity.email is None:
        return None
    try:
        return check_email(identity.email)
    except InvalidInput:
        return None
