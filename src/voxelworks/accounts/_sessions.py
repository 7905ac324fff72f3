"""Login sessions: the browsers that people are logged in with. The cookie's value is stored as a digest."""

from __future__ import annotations

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from voxelworks.accounts._audit import audit
from voxelworks.accounts._people import get_user, oldest_first, principal_as, shown
from voxelworks.accounts._tables import LoginSessionRow, MembershipRow
from voxelworks.accounts._texts import shortened
from voxelworks.accounts._tokens import Prefix, digest, make_id, make_token
from voxelworks.db import now, now_ms
from voxelworks.errors import NotFound, NotLetIn
from voxelworks.protocol.people import LoginSessionView, Principal
from voxelworks.settings import Settings

TOUCH_MS = 60_000
"""Uses within this time are noted once: a page that refreshes itself shall not write all the time."""
SESSIONS_MAX = 50
"""Sessions that one person may have; beyond this the one that was used longest ago ends."""
_ADDRESS_CHARACTERS_MAX = 64
_AGENT_CHARACTERS_MAX = 300
_FINDING = shown(LoginSessionRow)


def open_login_session(
    session: Session, *, user_id: str, address: str, agent: str, organization_id: str | None = None
) -> str:
    """Let a browser in, without asking for a password: that was done, or is not needed.

    Parameters
    ----------
    address, agent
        Shown to the user in the list of their sessions.
    organization_id
        For which it speaks first; by default the one of the user's latest session, else the oldest.

    Returns
    -------
    str
        Value of the cookie. It is stored nowhere.

    Raises
    ------
    NotLetIn
        If the user is disabled or in no organization.
    """
    user = get_user(session, user_id)
    if user.disabled_ms is not None:
        raise NotLetIn("this account is disabled; ask the operator of this instance")
    at_ms = now(session)
    token = make_token(Prefix.SESSION)
    session.add(
        LoginSessionRow(
            id=make_id(), token_hash=digest(token), user_id=user_id,
            organization_id=_first_organization(session, user_id, organization_id),
            address=shortened(address, _ADDRESS_CHARACTERS_MAX), agent=shortened(agent, _AGENT_CHARACTERS_MAX),
            created_ms=at_ms, seen_ms=at_ms,
        )
    )  # fmt: skip
    session.flush()
    _end_oldest(session, user_id)
    return token


def principal_of_session(session: Session, cookie: str, settings: Settings) -> Principal | None:
    """Tell who a browser is; None if it has to log in. This only reads: see `touch_session`."""
    found = find_login(session, cookie, settings)
    return None if found is None else found[0]


def find_login(session: Session, cookie: str, settings: Settings) -> tuple[Principal, bool] | None:
    """Tell who a browser is, and whether its use should be noted."""
    if not cookie.startswith(Prefix.SESSION):
        return None
    found = session.execute(_FINDING, {"token_hash": digest(cookie)}).first()
    if found is None:
        return None
    login, user, role, at_ms = found
    if _is_over(login, at_ms, settings):
        return None
    return principal_as(user, login.organization_id, role), at_ms - login.seen_ms >= TOUCH_MS


def touch_session(session: Session, cookie: str) -> None:
    """Note that a browser was here, at most once a minute."""
    session.execute(
        update(LoginSessionRow)
        .where(LoginSessionRow.token_hash == digest(cookie), LoginSessionRow.seen_ms <= now_ms() - TOUCH_MS)
        .values(seen_ms=now_ms())
    )


def log_out(session: Session, cookie: str) -> None:
    """End the session of a browser. One that has ended already is fine."""
    ended = session.execute(
        delete(LoginSessionRow)
        .where(LoginSessionRow.token_hash == digest(cookie))
        .returning(LoginSessionRow.user_id, LoginSessionRow.organization_id, LoginSessionRow.id)
    ).first()
    if ended is not None:
        audit(
            session, f"user:{ended.user_id}", "session.ended", f"session:{ended.id}",
            organization_id=ended.organization_id,
        )  # fmt: skip


def list_sessions(
    session: Session, by: Principal, *, cookie: str | None = None, settings: Settings
) -> tuple[LoginSessionView, ...]:
    """Give the sessions of a user that still let them in, the one used last first."""
    current = None if cookie is None else digest(cookie)
    at_ms = now(session)
    rows = session.scalars(
        select(LoginSessionRow)
        .where(LoginSessionRow.user_id == by.user_id)
        .order_by(LoginSessionRow.seen_ms.desc(), LoginSessionRow.id)
    )
    return tuple(
        LoginSessionView(
            id=row.id, organization_id=row.organization_id, address=row.address, agent=row.agent,
            created_ms=row.created_ms, seen_ms=row.seen_ms, is_current=row.token_hash == current,
        )
        for row in rows
        if not _is_over(row, at_ms, settings)
    )  # fmt: skip


def end_session(session: Session, by: Principal, session_id: str) -> None:
    """End one of one's own sessions.

    Raises
    ------
    NotFound
    """
    ended = session.execute(
        delete(LoginSessionRow)
        .where(LoginSessionRow.id == session_id, LoginSessionRow.user_id == by.user_id)
        .returning(LoginSessionRow.id)
    ).first()
    if ended is None:
        raise NotFound(f"you have no session {session_id!r}; it may have ended already")
    audit(session, by, "session.ended", f"session:{session_id}")


def end_other_sessions(session: Session, by: Principal, cookie: str | None) -> int:
    """End one's own sessions except that of this browser. Give how many they were."""
    query = delete(LoginSessionRow).where(LoginSessionRow.user_id == by.user_id)
    if cookie is not None:
        query = query.where(LoginSessionRow.token_hash != digest(cookie))
    ended = session.execute(query.returning(LoginSessionRow.id)).all()
    if ended:
        audit(session, by, "session.others_ended", f"user:{by.user_id}", count=len(ended))
    return len(ended)


def switch_organization(session: Session, by: Principal, cookie: str, organization_id: str) -> None:
    """Let a browser speak for another organization of its user.

    Raises
    ------
    NotFound
        If the user is not in it, or the session has ended.
    """
    if session.get(MembershipRow, (by.user_id, organization_id)) is None:
        raise NotFound(f"you are in no organization {organization_id!r}; see the list of yours")
    switched = session.execute(
        update(LoginSessionRow)
        .where(LoginSessionRow.token_hash == digest(cookie), LoginSessionRow.user_id == by.user_id)
        .values(organization_id=organization_id)
        .returning(LoginSessionRow.id)
    ).first()
    if switched is None:
        raise NotFound("this session has ended; log in again")


def end_sessions_of(session: Session, user_id: str) -> None:
    session.execute(delete(LoginSessionRow).where(LoginSessionRow.user_id == user_id))


def _is_over(login: LoginSessionRow, at_ms: int, settings: Settings) -> bool:
    is_idle = at_ms - login.seen_ms >= settings.session_idle_s * 1000
    return is_idle or at_ms - login.created_ms >= settings.session_max_s * 1000


def _first_organization(session: Session, user_id: str, wished: str | None) -> str:
    query = select(MembershipRow.organization_id).where(MembershipRow.user_id == user_id)
    if wished is not None:
        query = query.where(MembershipRow.organization_id == wished)
    latest = (
        select(func.max(LoginSessionRow.seen_ms))
        .where(
            LoginSessionRow.user_id == user_id,
            LoginSessionRow.organization_id == MembershipRow.organization_id,
        )
        .scalar_subquery()
    )
    found = session.scalar(query.order_by(func.coalesce(latest, 0).desc(), *oldest_first()).limit(1))
    if found is None:
        raise NotLetIn("this account is in no organization; ask an admin of one for an invitation")
    return found


def _end_oldest(session: Session, user_id: str) -> None:
    kept = (
        select(LoginSessionRow.id)
        .where(LoginSessionRow.user_id == user_id)
        .order_by(LoginSessionRow.seen_ms.desc(), LoginSessionRow.created_ms.desc(), LoginSessionRow.id)
        .limit(SESSIONS_MAX)
    )
    session.execute(
        delete(LoginSessionRow).where(LoginSessionRow.user_id == user_id, LoginSessionRow.id.not_in(kept))
    )
