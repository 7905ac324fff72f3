"""How much an organization stores, and how much it may."""

from __future__ import annotations

from sqlalchemy import BigInteger, Text, column, func, select, table
from sqlalchemy.orm import Session

from voxelworks.catalog._tables import AnnotationRow, ArtifactRow, DatasetRow, ModelVersionRow, UploadRow
from voxelworks.errors import QuotaExceeded
from voxelworks.protocol.views import StorageView
from voxelworks.settings import Settings
from voxelworks.sizes import size_text

# The limit is set together with the other facts of an organization, whose package is not imported here.
_organizations = table("organizations", column("id", Text), column("storage_bytes_max", BigInteger))


def storage_usage(session: Session, organization_id: str, *, settings: Settings) -> StorageView:
    """Tell what an organization stores: datasets, annotations, models, files for download, uploads; with the trash."""
    used = 0
    for stored in (DatasetRow, AnnotationRow, ModelVersionRow, ArtifactRow, UploadRow):
        total = select(func.coalesce(func.sum(stored.size_bytes), 0)).where(
            stored.organization_id == organization_id
        )
        used += int(session.execute(total).scalar_one())  # PostgreSQL sums to decimals
    own_max = session.scalar(
        select(_organizations.c.storage_bytes_max).where(_organizations.c.id == organization_id)
    )
    return StorageView(used_bytes=used, max_bytes=settings.storage_bytes_max if own_max is None else own_max)


def check_quota(
    session: Session,
    organization_id: str,
    more_bytes: int,
    *,
    settings: Settings,
    is_taken_at_once: bool = False,
) -> None:
    """Refuse what an organization has no room for.

    Parameters
    ----------
    is_taken_at_once
        The room is taken in this transaction: others that take some wait until it has ended.

    Raises
    ------
    QuotaExceeded
    """
    if is_taken_at_once:
        # Of two that sum up at the same moment, each would find the room that the other takes.
        session.execute(
            select(_organizations.c.id)
            .where(_organizations.c.id == organization_id)
            .with_for_update(key_share=True)
        )
    stored = storage_usage(session, organization_id, settings=settings)
    if stored.max_bytes is None or stored.used_bytes + more_bytes <= stored.max_bytes:
        return
    left = max(0, stored.max_bytes - stored.used_bytes)
    raise QuotaExceeded(
        f"{size_text(more_bytes)} are needed, and the organization has {size_text(left)} of "
        f"{size_text(stored.max_bytes)} left; "
        "delete datasets and empty the trash, or ask the operator for more room"
    )
