"""Models: those of your organization, those that others share with it, and those that are installed for all."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from voxelworks import accounts, catalog, jobs
from voxelworks.accounts import Action
from voxelworks.errors import IllegalTransition, ModelNotFound, NotAllowed
from voxelworks.protocol.models import ModelTask
from voxelworks.protocol.people import Principal
from voxelworks.protocol.views import ModelView
from voxelworks.server.context import Context, Here, Who

router = APIRouter(prefix="/models", tags=["models"])


class ModelChange(BaseModel):
    """What may be changed; what is not named stays."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str | None, Field(max_length=128)] = None
    comment: Annotated[str | None, Field(max_length=2000)] = None
    shared_with: Annotated[tuple[str, ...] | None, Field(max_length=200)] = None
    """Short names of the other organizations that may use it: these and no others."""


@router.get("")
def list_models(context: Here, who: Who, task: ModelTask | None = None) -> tuple[ModelView, ...]:
    """List the models that your organization can use. To bring one in, submit a job `import_model`."""
    accounts.require(who, Action.SEE_MODEL)
    with context.database.read_session() as session:
        found = catalog.list_models(session, by=who, places=context.places)
    return tuple(model for model in found if task in (None, model.facts.task))


@router.get("/{ref}")
def show_model(context: Here, who: Who, ref: str) -> ModelView:
    """Show a model by its name or id, with all its versions."""
    accounts.require(who, Action.SEE_MODEL)
    with context.database.read_session() as session:
        return catalog.find_model(session, ref, by=who, places=context.places)


@router.patch("/{ref}")
def change_model(context: Here, who: Who, ref: str, change: ModelChange) -> ModelView:
    """Rename a model, comment on it, or say which other organizations may use it."""
    with context.database.session() as session:
        model = require_change(context, session, who, ref)
        if change.shared_with is not None:
            accounts.require(who, Action.MANAGE_MODEL)
        changed = catalog.change_model(session, model.id, by=who, name=change.name, comment=change.comment)
        if changed.name != model.name:
            accounts.audit(session, who, "model.renamed", model.id, old=model.name, new=changed.name)
        if change.shared_with is not None and set(change.shared_with) != set(model.shared_with):
            changed = catalog.share_model(session, model.id, change.shared_with, by=who)
            accounts.audit(
                session, who, "model.shared", model.id, name=changed.name, organizations=", ".join(changed.shared_with)
            )  # fmt: skip
        return changed


@router.delete("/{ref}", status_code=204)
def delete_model(context: Here, who: Who, ref: str) -> None:
    """Delete a model with all its versions. Refused while a job takes one, or makes one."""
    _delete(context, who, ref, None)


@router.delete("/{ref}/versions/{number}", status_code=204)
def delete_version(context: Here, who: Who, ref: str, number: int) -> None:
    """Delete one version of a model. Its number is not given again."""
    _delete(context, who, ref, number)


def require_change(context: Context, session: Session, who: Principal, ref: str) -> ModelView:
    """Give a model of one's own organization that somebody may change: members what they made themselves.

    Raises
    ------
    ModelNotFound
    NotAllowed
        Also for what is installed, or shared by others.
    """
    model = catalog.find_model(session, ref, by=who, places=context.places)
    is_own = model.user_id == who.user_id and model.organization_id == who.organization_id
    accounts.require(who, Action.MAKE_MODEL if is_own else Action.MANAGE_MODEL)
    if model.organization_id != who.organization_id:
        whose = (
            "is installed on the server" if model.is_installed else f"belongs to {model.organization_id!r}"
        )
        raise NotAllowed(f"model {model.name!r} {whose} and can only be used")
    return model


def _delete(context: Context, who: Principal, ref: str, number: int | None) -> None:
    with context.database.session() as session:
        model = require_change(context, session, who, ref)
        if model.version(number) is None:
            raise ModelNotFound(
                f"model {model.name!r} has no version {number}; see its page for those that it has"
            )
        if jobs.is_model_in_use(session, model, number=number):
            raise IllegalTransition(
                f"a job works with model {model.name!r}; wait until it has ended, or cancel it first"
            )
        catalog.delete_model(session, model.id, by=who, number=number)
        accounts.audit(session, who, "model.deleted", model.id, name=model.name, version=number)
    # What cannot be removed now is tried again by the server.
    catalog.purge_models(context.database, places=context.places)
