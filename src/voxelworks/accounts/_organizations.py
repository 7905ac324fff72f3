"""Organizations: made by operators, named and set by their admins."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from voxelworks.accounts._audit import audit
from voxelworks.accounts._people import get_user, oldest_first
from voxelworks.accounts._tables import MembershipRow, OrganizationRow
from voxelworks.accounts._texts import check_name, check_organization_id, check_zone
from voxelworks.db import insert_into, now
from voxelworks.errors import IllegalTransition, InvalidInput, NotFound, TargetExists
from voxelworks.protocol.people import MembershipView, OrganizationView, Principal

_BYTES_MAX = 2**62


def create_organization(
    session: Session,
    by: Principal,
    *,
    organization_id: str,
    name: str,
    zone: str = "UTC",
    owner_id: str | None = None,
) -> OrganizationView:
    """Make an organization.

    Parameters
    ----------
    organization_id
        Short name, used in places and addresses; it never changes.
    owner_id
        User who owns it; by default the one who makes it.

    Raises
    ------
    TargetExists
        If the short name is taken.
    NotFound
        If there is no such user.
    InvalidInput
    """
    owner = get_user(session, owner_id or by.user_id)
    if owner.disabled_ms is not None:
        raise IllegalTransition(f"the account of {owner.name} is disabled; choose another owner")
    at_ms = now(session)
    added = session.execute(
        insert_into(session, OrganizationRow)
        .values(
            id=check_organization_id(organization_id), name=check_name("name of the organization", name),
            zone=check_zone(zone), created_ms=at_ms,
        )
        .on_conflict_do_nothing()
        .returning(OrganizationRow.id)
    ).first()  # fmt: skip
    if added is None:
        raise TargetExists(f"there is already an organization {organization_id!r}; choose another short name")
    session.add(
        MembershipRow(user_id=owner.id, organization_id=organization_id, role="owner", created_ms=at_ms)
    )
    session.flush()
    audit(
        session, by, "organization.created", f"organization:{organization_id}",
        organization_id=organization_id, owner=f"user:{owner.id}",
    )  # fmt: skip
    return find_organization(session, organization_id)


def find_organization(session: Session, organization_id: str) -> OrganizationView:
    """Find an organization.

    Raises
    ------
    NotFound
    """
    return _view(get_organization(session, organization_id))


def list_organizations(session: Session, *, user_id: str | None = None) -> tuple[OrganizationView, ...]:
    """Give all organizations by name, or those of one user."""
    query = select(OrganizationRow).order_by(OrganizationRow.name, OrganizationRow.id)
    if user_id is not None:
        query = query.join(MembershipRow).where(MembershipRow.user_id == user_id)
    return tuple(_view(row) for row in session.scalars(query))


def list_memberships(session: Session, user_id: str) -> tuple[MembershipView, ...]:
    """Give the organizations of a user and what they are there, the oldest membership first."""
    found = session.execute(
        select(OrganizationRow, MembershipRow.role)
        .join(MembershipRow)
        .where(MembershipRow.user_id == user_id)
        .order_by(*oldest_first())
    )
    return tuple(MembershipView(organization=_view(row), role=role) for row, role in found)


def rename_organization(session: Session, by: Principal, name: str) -> OrganizationView:
    """Change what people read; the short name stays."""
    row = get_organization(session, by.organization_id)
    old, row.name = row.name, check_name("name of the organization", name)
    audit(session, by, "organization.renamed", f"organization:{row.id}", old=old, new=row.name)
    return _view(row)


def set_zone(session: Session, by: Principal, zone: str) -> OrganizationView:
    """Choose the time zone in which the organization's months end."""
    row = get_organization(session, by.organization_id)
    old, row.zone = row.zone, check_zone(zone)
    audit(session, by, "organization.zone_set", f"organization:{row.id}", old=old, new=row.zone)
    return _view(row)


def set_storage_max(
    session: Session, by: Principal, organization_id: str, storage_bytes_max: int | None
) -> OrganizationView:
    """Limit what an organization may store, in bytes; None: no limit of its own."""
    if storage_bytes_max is not None and not 0 <= storage_bytes_max <= _BYTES_MAX:
        raise InvalidInput(f"{storage_bytes_max} bytes is no storage limit; give 0 or more, or none")
    row = get_organization(session, organization_id)
    old, row.storage_bytes_max = row.storage_bytes_max, storage_bytes_max
    audit(
        session, by, "organization.storage_set", f"organization:{row.id}", organization_id=row.id, old=old,
        new=storage_bytes_max,
    )  # fmt: skip
    return _view(row)


def get_organization(session: Session, organization_id: str, *, is_locked: bool = False) -> OrganizationRow:
    """Get the row of an organization. Who changes its members locks it first, so that they follow each other."""
    row = session.get(
        OrganizationRow, organization_id, with_for_update=is_locked, populate_existing=is_locked
    )
    if row is None:
        raise NotFound(f"there is no organization {organization_id!r}; see the list of organizations")
    return row


def _view(row: OrganizationRow) -> OrganizationView:
    return OrganizationView(
        id=row.id, name=row.name, zone=row.zone, created_ms=row.created_ms,
        storage_bytes_max=row.storage_bytes_max,
    )  # fmt: skip
