"""Params that people keep under a name: list, save, change, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from voxelworks import jobs
from voxelworks.protocol.messages import Json
from voxelworks.protocol.views import SavedParams
from voxelworks.server.context import Here, Who

router = APIRouter(prefix="/params", tags=["params"])

Name = Annotated[str, Field(max_length=1000)]


class ParamsToSave(BaseModel):
    """Params of a workflow, and the name that they are kept under."""

    model_config = ConfigDict(extra="forbid")

    workflow: str
    name: Name
    params: Json
    """Some or all of them."""
    is_shared: bool = False
    """All members of the organization may use them."""
    with_data: bool = False
    """Keep datasets, layers, boxes and sources too."""


class ParamsChange(BaseModel):
    """What becomes different; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    is_shared: bool | None = None
    params: Json | None = None
    with_data: bool = False


@router.get("")
def list_params(context: Here, who: Who, workflow: str | None = None) -> tuple[SavedParams, ...]:
    """List your own sets of params, and those that members of your organization share."""
    with context.database.read_session() as session:
        return jobs.list_params(session, by=who, workflow=workflow)


@router.post("", status_code=201)
def save_params(context: Here, who: Who, given: ParamsToSave) -> SavedParams:
    """Keep params under a name. Datasets, layers, boxes and sources are left out unless wanted."""
    context.limits.count_for("submission", who)
    with context.database.session() as session:
        return jobs.save_params(
            session, by=who, workflow=given.workflow, name=given.name, params=given.params, is_shared=given.is_shared,
            with_data=given.with_data,
        )  # fmt: skip


@router.get("/{set_id}")
def show_params(context: Here, who: Who, set_id: str) -> SavedParams:
    """Show a set of params."""
    with context.database.read_session() as session:
        return jobs.find_params(session, set_id, by=who)


@router.patch("/{set_id}")
def change_params(context: Here, who: Who, set_id: str, change: ParamsChange) -> SavedParams:
    """Rename your set, share it or not, or keep other params in it."""
    context.limits.count_for("submission", who)
    with context.database.session() as session:
        return jobs.change_params(
            session, set_id, by=who, name=change.name, is_shared=change.is_shared, params=change.params,
            with_data=change.with_data,
        )  # fmt: skip


@router.delete("/{set_id}", status_code=204)
def delete_params(context: Here, who: Who, set_id: str) -> None:
    """Forget a set; admins may forget shared ones of others."""
    with context.database.session() as session:
        jobs.delete_params(session, set_id, by=who)
