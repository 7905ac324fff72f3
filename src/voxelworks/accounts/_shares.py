"""Shares: addresses under which anybody can read one dataset, or have one file of a job, without an account.

The secret in the address is stored as a digest and shown once. A share acts for who made it, and reads only: it ends
with its term, when it is revoked, and when its maker leaves the organization or is disabled.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, delete, func, select
from sqlalchemy.orm import Session

from voxelworks.accounts._audit import audit
from voxelworks.accounts._people import principal_as, shown
from voxelworks.accounts._tables import ShareRow, UserRow
from voxelworks.accounts._texts import check_name
from voxelworks.accounts._tokens import Prefix, digest, hint, make_id, make_token
from voxelworks.db import now
from voxelworks.errors import InvalidInput, NotAllowed, NotFound
from voxelworks.protocol.people import Principal, ShareView

SHARE_DAYS_MAX = 365
SHARES_MAX = 100
"""Shares that one dataset or file may have."""
_DAY_MS = 86_400_000
_FINDING = shown(ShareRow)


@dataclass(frozen=True)
class Shared:
    """What an address opens: a dataset, or the file that a job has left."""

    dataset_id: str = ""
    job_id: str | None = None

    @property
    def noun(self) -> str:
        return "dataset" if self.job_id is None else "file"


def create_share(
    session: Session, by: Principal, what: Shared, name: str, lifetime_days: int
) -> tuple[str, ShareView]:
    """Make an address under which anybody can have something of the organization that asks; whose it is was looked at.

    Parameters
    ----------
    name
        What it is for, as lists show it.
    lifetime_days
        There is no address without an end.

    Returns
    -------
    token, view
        The secret part of the address is given now and never again.

    Raises
    ------
    NotAllowed
        If the request itself carries a token: one that leaked must not bear others.
    InvalidInput
    """
    if by.entrance in ("token", "job"):
        raise NotAllowed(f"a token cannot share a {what.noun}; log in with a browser, and share it there")
    if not 1 <= lifetime_days <= SHARE_DAYS_MAX:
        raise InvalidInput(f"a share cannot live for {lifetime_days} days; choose 1 to {SHARE_DAYS_MAX}")
    count = select(func.count()).where(_is_of(what, by))
    if session.execute(count).scalar_one() >= SHARES_MAX:
        raise InvalidInput(f"this {what.noun} has {SHARES_MAX} shares; revoke one that nobody uses any more")
    at_ms = now(session)
    token = make_token(Prefix.SHARE)
    row = ShareRow(
        id=make_id(), token_hash=digest(token), hint=hint(token), user_id=by.user_id,
        organization_id=by.organization_id, dataset_id=what.dataset_id, job_id=what.job_id,
        name=check_name("name of the share", name),
        created_ms=at_ms, expires_ms=at_ms + lifetime_days * _DAY_MS,
    )  # fmt: skip
    session.add(row)
    session.flush()
    audit(session, by, "share.created", f"share:{row.id}", **_facts(what), name=row.name, days=lifetime_days)
    return token, _view(row, by.name, at_ms)


def list_shares(session: Session, by: Principal, what: Shared) -> tuple[ShareView, ...]:
    """Give the shares of something of the organization that asks, newest first."""
    at_ms = now(session)
    rows = session.execute(
        select(ShareRow, UserRow.name)
        .join(UserRow, UserRow.id == ShareRow.user_id)
        .where(_is_of(what, by))
        .order_by(ShareRow.created_ms.desc(), ShareRow.id)
    )
    return tuple(_view(row, maker, at_ms) for row, maker in rows)


def find_share(session: Session, by: Principal, what: Shared, share_id: str) -> ShareView:
    """Find a share of something of the organization that asks; `NotFound` if there is none."""
    for view in list_shares(session, by, what):
        if view.id == share_id:
            return view
    raise NotFound(f"this {what.noun} has no share {share_id!r}; it may have been revoked already")


def revoke_share(session: Session, by: Principal, share: ShareView) -> None:
    """End a share: its address opens nothing from now on. Ending it twice is fine."""
    session.execute(
        delete(ShareRow).where(ShareRow.id == share.id, ShareRow.organization_id == by.organization_id)
    )
    audit(session, by, "share.revoked", f"share:{share.id}", **_facts(_shared(share)), name=share.name)


def principal_of_share(session: Session, token: str) -> tuple[Principal, Shared] | None:
    """Tell for whom an address acts, and what it opens; None if it is not valid."""
    if not token.startswith(Prefix.SHARE):
        return None
    found = session.execute(_FINDING, {"token_hash": digest(token)}).first()
    if found is None:
        return None
    row, user, role, at_ms = found
    if at_ms >= row.expires_ms:
        return None
    reader = principal_as(
        user, row.organization_id, role, entrance="share", scopes=frozenset({"read"})
    )  # fmt: skip
    return reader, _shared(row)


def _shared(share: ShareRow | ShareView) -> Shared:
    return Shared(share.dataset_id, share.job_id)


def _is_of(what: Shared, by: Principal) -> ColumnElement[bool]:
    is_it = (
        and_(ShareRow.dataset_id == what.dataset_id, ShareRow.job_id.is_(None))
        if what.job_id is None
        else ShareRow.job_id == what.job_id
    )
    return and_(ShareRow.organization_id == by.organization_id, is_it)


def _facts(what: Shared) -> dict[str, str]:
    return {"dataset": what.dataset_id} if what.job_id is None else {"job": what.job_id}


def _view(row: ShareRow, maker: str, at_ms: int) -> ShareView:
    return ShareView(
        id=row.id, hint=row.hint, dataset_id=row.dataset_id, job_id=row.job_id, name=row.name,
        user_id=row.user_id, made_by=maker, created_ms=row.created_ms, expires_ms=row.expires_ms,
        is_expired=at_ms >= row.expires_ms,
    )  # fmt: skip
