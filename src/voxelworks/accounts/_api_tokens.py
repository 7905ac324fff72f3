"""API tokens of people, and the tokens of running jobs. They are stored as digests and shown once."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import bindparam, delete, func, select, update
from sqlalchemy.orm import Session

from voxelworks.accounts._audit import audit
from voxelworks.accounts._people import principal_as, shown
from voxelworks.accounts._sessions import TOUCH_MS
from voxelworks.accounts._tables import ApiTokenRow
from voxelworks.accounts._texts import check_name
from voxelworks.accounts._tokens import Prefix, digest, hint, make_id, make_token
from voxelworks.db import now, now_ms
from voxelworks.errors import InvalidInput, NotAllowed, NotFound
from voxelworks.protocol.people import SCOPES, ApiTokenView, Principal, Scope

DAYS_MAX = 3650
TOKENS_MAX = 100
"""API tokens that one person may have in one organization."""
_DAY_MS = 86_400_000
_JOB_SCOPES: list[Scope] = ["read"]
_FINDING = shown(ApiTokenRow)
_ENDING_JOB_TOKENS = delete(ApiTokenRow).where(ApiTokenRow.job_id == bindparam("ended_job_id"))


def create_api_token(
    session: Session, by: Principal, name: str, scopes: Collection[Scope], lifetime_days: int | None
) -> tuple[str, ApiTokenView]:
    """Make a token with which a program acts as this user in this organization, at most as far as the scopes go.

    Parameters
    ----------
    lifetime_days
        None: until it is revoked, or its user leaves the organization.

    Returns
    -------
    token, view
        The token is shown now and never again.

    Raises
    ------
    NotAllowed
        If the request itself carries a token: one that leaked must not bear others.
    InvalidInput
    """
    if by.entrance in ("token", "job"):
        raise NotAllowed("a token cannot make another one; log in with a browser, and make it there")
    checked = _check_scopes(scopes)
    if lifetime_days is not None and not 1 <= lifetime_days <= DAYS_MAX:
        raise InvalidInput(f"a token cannot live for {lifetime_days} days; choose 1 to {DAYS_MAX}, or no end")
    at_ms = now(session)
    if _count(session, by) >= TOKENS_MAX:
        raise InvalidInput(f"you have {TOKENS_MAX} tokens; revoke one that nobody uses any more")
    token = make_token(Prefix.API)
    row = ApiTokenRow(
        id=make_id(), token_hash=digest(token), hint=hint(token), user_id=by.user_id,
        organization_id=by.organization_id, name=check_name("name of the token", name), scopes=checked,
        created_ms=at_ms, expires_ms=None if lifetime_days is None else at_ms + lifetime_days * _DAY_MS,
    )  # fmt: skip
    session.add(row)
    session.flush()
    audit(session, by, "token.created", f"token:{row.id}", name=row.name, scopes=[*checked])
    return token, _view(row, at_ms)


def list_api_tokens(session: Session, by: Principal) -> tuple[ApiTokenView, ...]:
    """Give the tokens of a user in this organization, newest first."""
    at_ms = now(session)
    rows = session.scalars(
        select(ApiTokenRow)
        .where(
            ApiTokenRow.user_id == by.user_id,
            ApiTokenRow.organization_id == by.organization_id,
            ApiTokenRow.job_id.is_(None),
        )
        .order_by(ApiTokenRow.created_ms.desc(), ApiTokenRow.id)
    )
    return tuple(_view(row, at_ms) for row in rows)


def revoke_api_token(session: Session, by: Principal, token_id: str) -> None:
    """End one of one's own tokens.

    Raises
    ------
    NotFound
    """
    revoked = session.execute(
        delete(ApiTokenRow)
        .where(
            ApiTokenRow.id == token_id, ApiTokenRow.user_id == by.user_id,
            ApiTokenRow.organization_id == by.organization_id, ApiTokenRow.job_id.is_(None),
        )
        .returning(ApiTokenRow.name)
    ).first()  # fmt: skip
    if revoked is None:
        raise NotFound(f"you have no token {token_id!r}; see the list of your tokens")
    audit(session, by, "token.revoked", f"token:{token_id}", name=revoked.name)


def count_api_tokens(session: Session, user_id: str) -> int:
    """Count the tokens of a user, in all organizations."""
    query = select(func.count()).where(ApiTokenRow.user_id == user_id, ApiTokenRow.job_id.is_(None))
    return session.execute(query).scalar_one()


def revoke_api_tokens(session: Session, by: Principal | str, user_id: str) -> None:
    """End all tokens of a user, in all organizations. Those of their running jobs end with the jobs."""
    query = delete(ApiTokenRow).where(ApiTokenRow.user_id == user_id, ApiTokenRow.job_id.is_(None))
    revoked = session.execute(query.returning(ApiTokenRow.id)).all()
    if revoked:
        audit(session, by, "token.all_revoked", f"user:{user_id}", count=len(revoked))


def principal_of_token(session: Session, token: str) -> Principal | None:
    """Tell as whom a token acts; None if it is not valid. This only reads: see `touch_token`."""
    found = find_token(session, token)
    return None if found is None else found[0]


def find_token(session: Session, token: str) -> tuple[Principal, bool] | None:
    """Tell as whom a token acts, and whether its use should be noted."""
    if not token.startswith((Prefix.API, Prefix.JOB)):
        return None
    found = session.execute(_FINDING, {"token_hash": digest(token)}).first()
    if found is None:
        return None
    row, user, role, at_ms = found
    if _is_expired(row, at_ms):
        return None
    principal = principal_as(
        user, row.organization_id, role, entrance="token" if row.job_id is None else "job",
        scopes=frozenset(row.scopes),
    )  # fmt: skip
    # A job asks often and ends soon: nobody wants to know when its token was used.
    is_due = row.job_id is None and (row.used_ms is None or at_ms - row.used_ms >= TOUCH_MS)
    return principal, is_due


def touch_token(session: Session, token: str) -> None:
    """Note that an API token was used, at most once a minute."""
    is_due = ApiTokenRow.used_ms.is_(None) | (ApiTokenRow.used_ms <= now_ms() - TOUCH_MS)
    session.execute(
        update(ApiTokenRow)
        .where(ApiTokenRow.token_hash == digest(token), ApiTokenRow.job_id.is_(None), is_due)
        .values(used_ms=now_ms())
    )


def mint_job_token(
    session: Session, *, user_id: str, organization_id: str, job_id: str, at_ms: int, expires_ms: int
) -> str:
    """Make the token of a job's next attempt. It can only read, and takes the place of those of earlier attempts."""
    end_job_tokens(session, job_id)
    token = make_token(Prefix.JOB)
    session.add(
        ApiTokenRow(
            id=make_id(), token_hash=digest(token), hint=hint(token), user_id=user_id,
            organization_id=organization_id, name=f"job {job_id}", scopes=[*_JOB_SCOPES], job_id=job_id,
            created_ms=at_ms, expires_ms=expires_ms,
        )
    )  # fmt: skip
    session.flush()
    return token


def end_job_tokens(session: Session, job_id: str) -> None:
    session.execute(
        _ENDING_JOB_TOKENS, {"ended_job_id": job_id},
        # What a session holds of them it finds through the database alone: parameters are not looked at otherwise.
        execution_options={"synchronize_session": "fetch"},
    )  # fmt: skip


def _check_scopes(scopes: Collection[Scope]) -> list[Scope]:
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise InvalidInput(
            f"a token cannot have the scopes {', '.join(unknown) or '(none)'}; choose from {', '.join(SCOPES)}"
        )
    return [scope for scope in SCOPES if scope in scopes]


def _count(session: Session, by: Principal) -> int:
    query = select(func.count()).where(
        ApiTokenRow.user_id == by.user_id,
        ApiTokenRow.organization_id == by.organization_id,
        ApiTokenRow.job_id.is_(None),
    )
    return session.execute(query).scalar_one()


def _is_expired(row: ApiTokenRow, at_ms: int) -> bool:
    return row.expires_ms is not None and at_ms >= row.expires_ms


def _view(row: ApiTokenRow, at_ms: int) -> ApiTokenView:
    return ApiTokenView(
        id=row.id, hint=row.hint, organization_id=row.organization_id, name=row.name, scopes=tuple(row.scopes),
        created_ms=row.created_ms, expires_ms=row.expires_ms, used_ms=row.used_ms,
        is_expired=_is_expired(row, at_ms),
    )  # fmt: skip
