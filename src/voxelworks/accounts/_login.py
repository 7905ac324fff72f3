"""Logging in, and passwords: theirs to give, to change, and to choose anew.

Some functions take the database in place of a session. A wrong password has to be counted although the request fails,
and Argon2 takes its time, which must not pass while this process holds the one write lock of SQLite.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from voxelworks.accounts._api_tokens import revoke_api_tokens
from voxelworks.accounts._audit import audit
from voxelworks.accounts._passwords import check_password, hash_password, is_outdated, is_password
from voxelworks.accounts._people import get_user, user_view
from voxelworks.accounts._sessions import end_other_sessions, end_sessions_of, open_login_session
from voxelworks.accounts._tables import PasswordResetRow, UserRow
from voxelworks.accounts._texts import network_of, same_email
from voxelworks.accounts._throttle import forget_tries, throttle
from voxelworks.accounts._tokens import Prefix, digest, make_token
from voxelworks.db import Database, now, now_ms
from voxelworks.errors import NotAllowed, NotFound, NotLetIn
from voxelworks.protocol.people import Principal, UserView
from voxelworks.settings import Settings

TRIES_PER_S = 900.0
"""The time within which wrong passwords are counted, in seconds."""
_ADDRESS_FACTOR = 3
_ACCOUNT_FACTOR = 10
_RESETS_PER_HOUR = 5
_RESETS_PER_HOUR_AND_ADDRESS = 20


def log_in(
    database: Database, email: str, password: str, *, address: str, agent: str, settings: Settings
) -> str:
    """Let somebody in who knows the password.

    Returns
    -------
    str
        Value of the session's cookie.

    Raises
    ------
    NotLetIn
        With the same words, and after the same time, for a wrong password, an unknown address and a disabled account.
    TooManyRequests
    """
    known = same_email(email)
    tries = _Tries.of(known, network_of(address), settings)
    with database.session() as session:
        tries.count(session)
        user_id, password_hash = _find_login(session, known)
    if not is_password(password, password_hash):
        with database.session() as session:
            # Not what was typed: people type their password into the wrong field.
            subject = "unknown" if user_id is None else f"user:{user_id}"
            audit(session, "nobody", "login.refused", subject, address=address)
        raise NotLetIn("the e-mail address or the password is wrong; try again, or choose a new password")
    assert user_id is not None
    assert password_hash is not None
    renewed = hash_password(password) if is_outdated(password_hash) else None
    with database.session() as session:
        tries.forget(session)
        _require_unchanged(session, user_id, password_hash)
        if renewed is not None:
            get_user(session, user_id).password_hash = renewed
        cookie = open_login_session(session, user_id=user_id, address=address, agent=agent)
        audit(session, f"user:{user_id}", "login", f"user:{user_id}", address=address)
        return cookie


def change_password(
    database: Database,
    by: Principal,
    old: str,
    new: str,
    *,
    cookie: str | None,
    settings: Settings,
    revokes_tokens: bool = False,
) -> None:
    """Change one's own password; all other sessions of the user end, and, if wanted, all API tokens.

    Raises
    ------
    NotAllowed
        If the old password is wrong, or there is none.
    TooManyRequests
    InvalidInput
        If the new one is too easy to guess.
    """
    key = f"password of {by.user_id}"
    with database.session() as session:
        throttle(session, key, limit=settings.login_tries, per_s=TRIES_PER_S)
        password_hash = get_user(session, by.user_id).password_hash
    if password_hash is None:
        raise NotAllowed("you have no password yet; let the log-in page send you a link to choose one")
    if not is_password(old, password_hash):
        with database.session() as session:
            audit(session, by, "password.refused", f"user:{by.user_id}")
        raise NotAllowed("the old password is wrong; try again, or log out and choose a new one by mail")
    check_password(new, email=by.email, name=by.name)
    new_hash = hash_password(new)
    with database.session() as session:
        _require_unchanged(session, by.user_id, password_hash)
        forget_tries(session, key)
        get_user(session, by.user_id).password_hash = new_hash
        _forget_resets(session, by.user_id)
        end_other_sessions(session, by, cookie)
        if revokes_tokens:
            revoke_api_tokens(session, by, by.user_id)
        audit(session, by, "password.changed", f"user:{by.user_id}")


def request_reset(
    session: Session, email: str, *, address: str, settings: Settings
) -> tuple[str, UserView] | None:
    """Make the token of a link to a new password.

    Returns
    -------
    tuple or None
        The token, and the user to whose stored address it is to be sent; None if nobody has this address. The answer
        to the request must be the same.

    Raises
    ------
    TooManyRequests
    """
    known, place = same_email(email), network_of(address)
    throttle(session, f"reset address {place}", limit=_RESETS_PER_HOUR_AND_ADDRESS, per_s=3600)
    throttle(session, f"reset email {known}", limit=_RESETS_PER_HOUR, per_s=3600)
    user = session.scalar(select(UserRow).where(UserRow.email == known, UserRow.disabled_ms.is_(None)))
    if user is None:
        return None
    audit(session, "nobody", "password.reset_requested", f"user:{user.id}", address=address)
    return _add_reset(session, user.id, settings), user_view(user)


def make_reset(session: Session, by: Principal, user_id: str, settings: Settings) -> str:
    """Make the token of a link to a new password, for an operator to hand over.

    Raises
    ------
    NotFound
    NotAllowed
        If the account is disabled.
    """
    user = get_user(session, user_id)
    if user.disabled_ms is not None:
        raise NotAllowed(f"the account of {user.name} is disabled; enable it first")
    audit(session, by, "password.reset_made", f"user:{user.id}")
    return _add_reset(session, user.id, settings)


def reset_password(session: Session, token: str, password: str, *, revokes_tokens: bool = True) -> UserView:
    """Give a new password to whoever holds a reset token; all their sessions end, and, unless unwanted, all API tokens.

    Raises
    ------
    NotFound
        If the token is not, or no longer, valid.
    InvalidInput
        If the password is too easy to guess. The token stays valid.
    """
    user = _user_of_reset(session, token, is_locked=True)
    if user is None:
        raise NotFound("this link is not valid any more; ask for a new one on the log-in page")
    check_password(password, email=user.email, name=user.name)
    user.password_hash = hash_password(password)
    _forget_resets(session, user.id)
    end_sessions_of(session, user.id)
    if revokes_tokens:
        revoke_api_tokens(session, f"user:{user.id}", user.id)
    audit(session, f"user:{user.id}", "password.reset", f"user:{user.id}")
    return user_view(user)


def find_reset(session: Session, token: str) -> UserView | None:
    """Tell whose password a reset token may change; None if it is not valid."""
    user = _user_of_reset(session, token)
    return None if user is None else user_view(user)


@dataclass(frozen=True)
class _Tries:
    """The buckets in which one try to log in counts.

    Who guesses from one address is stopped soon, and cannot keep the account's user out, who comes from another one.
    """

    limits: dict[str, int]
    own_key: str

    @classmethod
    def of(cls, email: str, address: str, settings: Settings) -> _Tries:
        most = settings.login_tries
        own_key = f"login email {email} address {address}"
        limits = {
            own_key: most,
            f"login address {address}": most * _ADDRESS_FACTOR,
            f"login email {email}": most * _ACCOUNT_FACTOR,
        }
        return cls(limits, own_key)

    def count(self, session: Session) -> None:
        for key, limit in self.limits.items():
            throttle(session, key, limit=limit, per_s=TRIES_PER_S)

    def forget(self, session: Session) -> None:
        # The address keeps its count: who guesses must not get new tries by logging in as themselves.
        forget_tries(session, self.own_key)


def _find_login(session: Session, email: str) -> tuple[str | None, str | None]:
    found = session.execute(
        select(UserRow.id, UserRow.password_hash).where(UserRow.email == email, UserRow.disabled_ms.is_(None))
    ).first()
    return (None, None) if found is None else (found.id, found.password_hash)


def _require_unchanged(session: Session, user_id: str, password_hash: str) -> None:
    """Refuse if the password was changed, or the account disabled, while the offered one was compared."""
    user = session.get(UserRow, user_id, with_for_update=True, populate_existing=True)
    if user is None or user.disabled_ms is not None or user.password_hash != password_hash:
        raise NotLetIn("the account was changed a moment ago; log in again")


def _add_reset(session: Session, user_id: str, settings: Settings) -> str:
    token = make_token(Prefix.RESET)
    at_ms = now(session)
    expires_ms = at_ms + round(settings.password_reset_s * 1000)
    session.add(
        PasswordResetRow(token_hash=digest(token), user_id=user_id, created_ms=at_ms, expires_ms=expires_ms)
    )
    session.flush()
    return token


def _user_of_reset(session: Session, token: str, *, is_locked: bool = False) -> UserRow | None:
    if not token.startswith(Prefix.RESET):
        return None
    query = (
        select(UserRow)
        .join(PasswordResetRow, PasswordResetRow.user_id == UserRow.id)
        .where(
            PasswordResetRow.token_hash == digest(token),
            PasswordResetRow.expires_ms > now_ms(),
            UserRow.disabled_ms.is_(None),
        )
    )
    if is_locked:
        # Both rows: of two who use one link at once, the second one finds it gone.
        query = query.with_for_update().execution_options(populate_existing=True)
    return session.scalar(query)


def _forget_resets(session: Session, user_id: str) -> None:
    session.execute(delete(PasswordResetRow).where(PasswordResetRow.user_id == user_id))
