"""Shares: addresses under which anybody can read a dataset for a while, and what opens under them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session
from starlette.requests import Request

from voxelworks import accounts, catalog
from voxelworks.accounts import SHARE_DAYS_MAX, Action, Shared
from voxelworks.errors import InvalidInput, NotAllowed
from voxelworks.protocol.people import NewShare, Principal, ShareView
from voxelworks.protocol.places import is_remote
from voxelworks.protocol.views import DatasetView
from voxelworks.server.context import Here, Who
from voxelworks.server.origin import public_address

router = APIRouter(prefix="/datasets/{ref}/shares", tags=["datasets"])

LIFETIME_DAYS = 7


class ShareRequest(BaseModel):
    """An address to be."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=100)]
    """What it is for."""
    lifetime_days: Annotated[int, Field(ge=1, le=SHARE_DAYS_MAX)] = LIFETIME_DAYS


@router.get("")
def list_shares(context: Here, who: Who, ref: str) -> tuple[ShareView, ...]:
    """List the addresses under which a dataset can be read, newest first."""
    accounts.require(who, Action.SEE_DATASET)
    with context.database.read_session() as session:
        return accounts.list_shares(session, who, Shared(_find_own(session, who, ref).id))


@router.post("", status_code=201)
def create_share(context: Here, request: Request, who: Who, ref: str, wanted: ShareRequest) -> NewShare:
    """Make an address under which anybody can read a dataset, without an account, until it ends or is revoked."""
    accounts.require(who, Action.SHARE_DATASET)
    with context.database.session() as session:
        dataset = _find_own(session, who, ref)
        if is_remote(dataset.place):
            raise InvalidInput(
                f"the files of dataset {dataset.name!r} lie at {dataset.place}; hand on that address instead"
            )
        token, view = accounts.create_share(
            session, who, Shared(dataset.id), wanted.name, wanted.lifetime_days
        )
    shared = f"{public_address(request, context.settings)}/shared/{token}"
    return NewShare(address=f"{shared}/files", viewer=f"{shared}/view", view=view)


@router.delete("/{share_id}", status_code=204)
def revoke_share(context: Here, who: Who, ref: str, share_id: str) -> None:
    """End an address at once: one's own, or, for those who manage datasets, any."""
    accounts.require(who, Action.SHARE_DATASET)
    with context.database.session() as session:
        view = accounts.find_share(session, who, Shared(_find_own(session, who, ref).id), share_id)
        if view.user_id != who.user_id:
            accounts.require(who, Action.CHANGE_DATASET)
        accounts.revoke_share(session, who, view)


def _find_own(session: Session, who: Principal, ref: str) -> DatasetView:
    dataset = catalog.find(session, ref, by=who)
    if dataset.organization_id != who.organization_id:
        raise NotAllowed(f"dataset {dataset.name!r} belongs to another organization; it alone can share it")
    return dataset
