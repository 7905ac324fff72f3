"""People: who is on this instance, and the first of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Select, bindparam, delete, exists, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from voxelworks.accounts._audit import audit
from voxelworks.accounts._passwords import check_password, hash_password
from voxelworks.accounts._tables import (
    ApiTokenRow,
    InvitationRow,
    LoginSessionRow,
    MembershipRow,
    OrganizationRow,
    PasswordResetRow,
    ShareRow,
    UserRow,
)
from voxelworks.accounts._texts import check_email, check_name
from voxelworks.accounts._tokens import make_id
from voxelworks.db import among, insert_into, now, now_ms, texts
from voxelworks.errors import IllegalTransition, NotFound, NotLetIn, TargetExists
from voxelworks.protocol.people import (
    LOCAL_ORGANIZATION_ID,
    LOCAL_USER_ID,
    Entrance,
    Principal,
    Role,
    Scope,
    UserView,
)

_FINDING_PRINCIPAL = (
    select(UserRow, MembershipRow.role)
    .join(MembershipRow, MembershipRow.user_id == UserRow.id)
    .where(
        UserRow.id == bindparam("user_id"),
        UserRow.disabled_ms.is_(None),
        MembershipRow.organization_id == bindparam("organization_id"),
    )
)
_FINDING_USERS = select(UserRow).where(among(UserRow.id, texts("ids")))


def shown(proof: type[ApiTokenRow] | type[LoginSessionRow] | type[ShareRow]) -> Select[*tuple[Any, ...]]:
    """Select what somebody has shown, with its user, their role, and the time.

    Role and user are looked up every time: who was removed, disabled, or has another role, has it at once.
    """
    return (
        select(proof, UserRow, MembershipRow.role, now_ms())
        .join(UserRow, UserRow.id == proof.user_id)
        .join(
            MembershipRow,
            (MembershipRow.user_id == proof.user_id)
            & (MembershipRow.organization_id == proof.organization_id),
        )
        .where(proof.token_hash == bindparam("token_hash"), UserRow.disabled_ms.is_(None))
    )


def prepare(session: Session) -> None:
    """Make the first user and organization if nobody is there. Several servers may do this at once."""
    if session.scalar(select(exists().select_from(UserRow))):
        return
    at_ms = now(session)
    rows = (
        (UserRow, {"id": LOCAL_USER_ID, "name": "Local operator", "is_operator": True, "created_ms": at_ms}),
        (OrganizationRow, {"id": LOCAL_ORGANIZATION_ID, "name": "Local", "zone": "UTC", "created_ms": at_ms}),
        (
            MembershipRow,
            {
                "user_id": LOCAL_USER_ID, "organization_id": LOCAL_ORGANIZATION_ID, "role": "owner",
                "created_ms": at_ms,
            },
        ),
    )  # fmt: skip
    for table, values in rows:
        session.execute(insert_into(session, table).values(values).on_conflict_do_nothing())


def local_principal(
    session: Session, *, organization_id: str | None = None, entrance: Entrance = "start_up"
) -> Principal:
    """Give the person who started the server, or who sits at its machine.

    Parameters
    ----------
    organization_id
        For which they speak. A command on the server's own machine (entrance `program`) may name any: whoever can run
        it can change the database anyway. By default the oldest one that they are a member of.

    Raises
    ------
    NotLetIn
        If there is no such user, or they are in no organization.
    NotFound
        If there is no such organization.
    """
    user = session.get(UserRow, LOCAL_USER_ID)
    if user is None:
        raise NotLetIn("this instance has no local user yet; start its server once with `voxelworks serve`")
    if organization_id is not None and entrance == "program":
        if session.get(OrganizationRow, organization_id) is None:
            raise NotFound(f"there is no organization {organization_id!r}; see the list of organizations")
        return principal_as(user, organization_id, "owner", entrance=entrance)
    memberships = select(MembershipRow).where(MembershipRow.user_id == user.id)
    if organization_id is not None:
        memberships = memberships.where(MembershipRow.organization_id == organization_id)
    membership = session.scalars(memberships.order_by(*oldest_first()).limit(1)).first()
    if membership is None:
        raise NotLetIn("the local user is in no organization any more; log in with an account of your own")
    return principal_as(user, membership.organization_id, membership.role, entrance=entrance)


def find_principal(session: Session, user_id: str, organization_id: str) -> Principal | None:
    """Give a user as they are now in an organization; None if they are disabled or no member."""
    found = session.execute(
        _FINDING_PRINCIPAL, {"user_id": user_id, "organization_id": organization_id}
    ).first()
    return None if found is None else principal_as(found[0], organization_id, found[1])


def principal_as(
    user: UserRow,
    organization_id: str,
    role: Role,
    *,
    entrance: Entrance = "session",
    scopes: frozenset[Scope] | None = None,
) -> Principal:
    return Principal(
        user_id=user.id, organization_id=organization_id, role=role, name=user.name, email=user.email,
        is_operator=user.is_operator, scopes=scopes, entrance=entrance,
    )  # fmt: skip


def is_set_up(session: Session) -> bool:
    """Tell whether an operator can log in without the start-up token."""
    is_operator = UserRow.is_operator & UserRow.disabled_ms.is_(None)
    can_log_in = UserRow.password_hash.is_not(None) | UserRow.oidc_subject.is_not(None)
    return bool(session.scalar(select(exists().where(is_operator, can_log_in))))


def set_up(session: Session, *, name: str, email: str, password: str, organization_name: str) -> UserView:
    """Give the local user an e-mail address and password, and their organization a name. This can be done once.

    Raises
    ------
    IllegalTransition
        If it was done before.
    InvalidInput
    """
    user = session.get(UserRow, LOCAL_USER_ID, with_for_update=True, populate_existing=True)
    if user is None:
        raise NotFound("this instance has no local user yet; start its server once with `voxelworks serve`")
    if user.password_hash is not None or is_set_up(session):
        raise IllegalTransition("this instance is set up already; log in, or ask for a new password")
    user.name = check_name("name", name)
    user.email = _free_email(session, email)
    check_password(password, email=user.email, name=user.name)
    user.password_hash = hash_password(password)
    organization = session.get(OrganizationRow, LOCAL_ORGANIZATION_ID)
    if organization is not None:
        organization.name = check_name("name of the organization", organization_name)
    audit(
        session, f"user:{user.id}", "instance.set_up", f"user:{user.id}", organization_id=LOCAL_ORGANIZATION_ID,
        email=user.email,
    )  # fmt: skip
    return user_view(user)


def create_user(
    session: Session, by: Principal, *, email: str, name: str, is_operator: bool = False
) -> UserView:
    """Make a user without a password, for commands of the operator: `make_reset` lets them choose one.

    Raises
    ------
    TargetExists
        If somebody has this address.
    """
    user = add_user(session, email=_free_email(session, email), name=name, is_operator=is_operator)
    audit(session, by, "user.created", f"user:{user.id}", email=user.email, is_operator=is_operator or None)
    return user_view(user)


def add_user(
    session: Session,
    *,
    email: str,
    name: str,
    password_hash: str | None = None,
    oidc_subject: str | None = None,
    is_operator: bool = False,
) -> UserRow:
    """Add the row of a user whose e-mail address was checked.

    Raises
    ------
    TargetExists
        If somebody got this address meanwhile.
    """
    user_id = make_id()
    added = session.execute(
        insert_into(session, UserRow)
        .values(
            id=user_id, email=email, name=check_name("name", name), password_hash=password_hash,
            oidc_subject=oidc_subject, is_operator=is_operator, created_ms=now(session),
        )
        .on_conflict_do_nothing()
        .returning(UserRow.id)
    ).first()  # fmt: skip
    if added is None:
        raise TargetExists(f"somebody has the address {email} already; log in, or take another one")
    return session.get_one(UserRow, user_id)


def find_user(session: Session, user_id: str) -> UserView:
    """Find somebody.

    Raises
    ------
    NotFound
    """
    return user_view(get_user(session, user_id))


def find_users(session: Session, ids: Collection[str]) -> dict[str, UserView]:
    """Find several; those who are not there are missing in the answer."""
    if not ids:
        return {}
    rows = session.scalars(_FINDING_USERS, {"ids": sorted(set(ids))})
    return {row.id: user_view(row) for row in rows}


def find_user_ids(session: Session, text: str) -> list[str]:
    """Find those whose name holds a text, in small or capital letters; at most 200."""
    holds = func.lower(UserRow.name).contains(text.lower(), autoescape=True)
    return list(session.scalars(select(UserRow.id).where(holds).order_by(UserRow.id).limit(200)))


def find_user_by_email(session: Session, email: str) -> UserView | None:
    row = session.scalar(select(UserRow).where(UserRow.email == check_email(email)))
    return None if row is None else user_view(row)


def list_users(session: Session) -> tuple[UserView, ...]:
    """Give everybody, oldest first."""
    return tuple(
        user_view(row) for row in session.scalars(select(UserRow).order_by(UserRow.created_ms, UserRow.id))
    )


def rename_user(session: Session, by: Principal, name: str) -> UserView:
    """Change one's own name."""
    user = get_user(session, by.user_id)
    old, user.name = user.name, check_name("name", name)
    audit(session, by, "user.renamed", f"user:{user.id}", old=old, new=user.name)
    return user_view(user)


def set_operator(session: Session, by: Principal, user_id: str, is_operator: bool) -> UserView:
    """Make somebody an operator, or no longer.

    Raises
    ------
    IllegalTransition
        If nobody would be left who runs the instance.
    """
    operators = _lock_operators(session)
    user = get_user(session, user_id)
    if user.is_operator == is_operator:
        return user_view(user)
    if not is_operator:
        _require_another(operators, user_id)
    user.is_operator = is_operator
    action = "operator.named" if is_operator else "operator.dismissed"
    audit(session, by, action, f"user:{user.id}")
    return user_view(user)


def disable_user(session: Session, by: Principal, user_id: str) -> UserView:
    """Shut somebody out: their sessions, tokens, resets and invitations end at once. What they made stays.

    Raises
    ------
    IllegalTransition
        For the last operator, oneself, and the local user, who is whoever starts the server.
    """
    operators = _lock_operators(session)
    user = get_user(session, user_id)
    if user_id in (by.user_id, LOCAL_USER_ID):
        who = "yourself" if user_id == by.user_id else "the local user, who starts the server"
        raise IllegalTransition(f"you cannot disable {who}; ask another operator")
    if user.is_operator:
        _require_another(operators, user_id)
    if user.disabled_ms is None:
        user.disabled_ms = now(session)
        end_everything(session, user_id)
        audit(session, by, "user.disabled", f"user:{user.id}")
    return user_view(user)


def enable_user(session: Session, by: Principal, user_id: str) -> UserView:
    """Let somebody in again. They log in anew; tokens have to be made anew."""
    user = get_user(session, user_id)
    if user.disabled_ms is not None:
        user.disabled_ms = None
        audit(session, by, "user.enabled", f"user:{user.id}")
    return user_view(user)


def get_user(session: Session, user_id: str) -> UserRow:
    user = session.get(UserRow, user_id)
    if user is None:
        raise NotFound(f"there is no user {user_id!r}; see the list of members")
    return user


def user_view(row: UserRow) -> UserView:
    return UserView(
        id=row.id, name=row.name, email=row.email, is_operator=row.is_operator, created_ms=row.created_ms,
        disabled_ms=row.disabled_ms, has_password=row.password_hash is not None,
    )  # fmt: skip


def oldest_first() -> tuple[InstrumentedAttribute[int], InstrumentedAttribute[str]]:
    """Order of memberships: the first one is where somebody lands when they log in."""
    return MembershipRow.created_ms, MembershipRow.organization_id


def _free_email(session: Session, email: str) -> str:
    checked = check_email(email)
    if session.scalar(select(exists().where(UserRow.email == checked))):
        raise TargetExists(f"somebody has the address {checked} already; log in, or take another one")
    return checked


def _lock_operators(session: Session) -> list[str]:
    """Give the operators who can act; nobody else changes them until the transaction ends."""
    # All of them, also the disabled ones: two changes at once must meet at the same rows.
    query = select(UserRow).where(UserRow.is_operator).order_by(UserRow.id).with_for_update()
    rows = session.scalars(query.execution_options(populate_existing=True))
    return [row.id for row in rows if row.disabled_ms is None]


def _require_another(operators: list[str], user_id: str) -> None:
    if not set(operators) - {user_id}:
        raise IllegalTransition("nobody else runs this instance; make somebody else an operator first")


def end_everything(session: Session, user_id: str) -> None:
    """End the sessions, tokens, shares, resets and invitations of a user."""
    for table in (LoginSessionRow, ApiTokenRow, ShareRow, PasswordResetRow):
        session.execute(delete(table).where(table.user_id == user_id))
    session.execute(delete(InvitationRow).where(InvitationRow.invited_by == user_id))
