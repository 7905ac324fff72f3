"""The audit log: who did what to whom. The database itself refuses to change it."""

from __future__ import annotations

from typing import TypeAlias

from sqlalchemy import select
from sqlalchemy.orm import Session

from voxelworks.accounts._tables import AuditRow
from voxelworks.db import now
from voxelworks.protocol.people import AuditPage, AuditView, Principal

Detail: TypeAlias = str | int | bool | list[str] | None


def audit(
    session: Session,
    who: Principal | str,
    action: str,
    subject: str,
    *,
    organization_id: str | None = None,
    address: str | None = None,
    **detail: Detail,
) -> None:
    """Note an action, in the transaction that does it.

    Parameters
    ----------
    who
        A principal, or `server`, `nobody` or `user:ID` where there is none.
    action
        Such as `member.removed`.
    subject
        Whom or what it was done to, such as `user:ID`.
    organization_id
        By default that of the principal.
    detail
        Never a secret: who may see the log may see it.
    """
    if isinstance(who, Principal):
        organization_id = organization_id or who.organization_id
        if who.entrance != "session":
            detail["through"] = who.entrance
        who = who.who
    session.add(
        AuditRow(
            at_ms=now(session), who=who, organization_id=organization_id, action=action, subject=subject,
            address=address, detail=detail,
        )
    )  # fmt: skip
    session.flush()


def list_audit(
    session: Session, *, organization_id: str | None = None, before: int | None = None, limit: int = 100
) -> AuditPage:
    """Give the newest lines of one organization, or of the whole instance."""
    query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit + 1)
    if organization_id is not None:
        query = query.where(AuditRow.organization_id == organization_id)
    if before is not None:
        query = query.where(AuditRow.id < before)
    rows = session.scalars(query).all()
    entries = tuple(_view(row) for row in rows[:limit])
    return AuditPage(entries=entries, next_before=entries[-1].id if len(rows) > limit else None)


def _view(row: AuditRow) -> AuditView:
    return AuditView(
        id=row.id, at_ms=row.at_ms, who=row.who, organization_id=row.organization_id, action=row.action,
        subject=row.subject, address=row.address, detail=row.detail,
    )  # fmt: skip
