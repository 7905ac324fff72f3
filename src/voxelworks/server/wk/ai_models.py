"""AI models, as clients list, rename, share and delete them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session
from starlette.requests import Request

from voxelworks import accounts, jobs
from voxelworks.accounts import Action
from voxelworks.errors import NotFound
from voxelworks.protocol.foreign import foreign_id, native_id
from voxelworks.protocol.people import Principal
from voxelworks.protocol.views import ModelView
from voxelworks.server.api import models as api
from voxelworks.server.context import Context, Here, Who
from voxelworks.server.origin import BASE_PATH
from voxelworks.server.wk.datasets import DATA_STORE
from voxelworks.server.wk.models import AiModel, AiModelUser, DataStore, ForeignJob, ForeignVoxelSize
from voxelworks.server.wk.translate import JobWriter, command_of, split_name

router = APIRouter()

TRAININGS = ("train_neuron_model", "train_instance_model")
_CATEGORIES = {"neuron": "em_neurons", "nucle": "em_nuclei", "synap": "em_synapses"}
"""Part of the name of what a model finds -> what the protocol calls it."""


class AiModelChange(BaseModel):
    """What a client says anew of a model."""

    name: Annotated[str, Field(max_length=128)]
    comment: Annotated[str | None, Field(max_length=2000)] = None
    shared_organization_ids: Annotated[
        list[str] | None, Field(alias="sharedOrganizationIds", max_length=200)
    ] = None


@router.get("/aiModels")
def list_models(context: Here, request: Request, who: Who) -> list[AiModel]:
    """List the models of the organization, those that others share with it, and those that are installed."""
    found = api.list_models(context, who)
    with context.database.read_session() as session:
        return [_write(context, session, request, who, model) for model in found]


@router.get("/aiModels/{model_id}")
def show(context: Here, request: Request, who: Who, model_id: str) -> AiModel:
    """Show a model."""
    model = _find(context, who, model_id)
    with context.database.read_session() as session:
        return _write(context, session, request, who, model)


@router.get("/aiModels/{model_id}/voxelSize")
def show_voxel_size(context: Here, who: Who, model_id: str) -> ForeignVoxelSize:
    """Say on voxels of which size a model works."""
    size = _find(context, who, model_id).facts.voxel_size
    return ForeignVoxelSize(factor=list(size.xyz), unit="nanometer")


@router.put("/aiModels/{model_id}")
def change(context: Here, request: Request, who: Who, model_id: str, given: AiModelChange) -> AiModel:
    """Rename a model, comment on it, or say who may use it. Its own organization always may."""
    shared = given.shared_organization_ids
    named = None if shared is None else tuple(item for item in shared if item != who.organization_id)
    model = _find(context, who, model_id)
    if named is not None and set(named) == set(model.shared_with):
        named = None  # whoever may only rename a model sends what it says
    wanted = api.ModelChange(name=given.name, comment=given.comment, shared_with=named)
    changed = api.change_model(context, who, model.id, wanted)
    with context.database.read_session() as session:
        return _write(context, session, request, who, changed)


@router.delete("/aiModels/{model_id}")
def delete(context: Here, who: Who, model_id: str) -> None:
    """Delete a model with all its versions. Refused while a job works with it."""
    api.delete_model(context, who, _find(context, who, model_id).id)


def _find(context: Context, who: Principal, model_id: str) -> ModelView:
    return api.show_model(context, who, native_id(model_id))


def _write(context: Context, session: Session, request: Request, who: Principal, model: ModelView) -> AiModel:
    is_own = model.organization_id == who.organization_id
    return AiModel(
        id=foreign_id(model.id), name=model.name, is_owned_by_users_organization=is_own,
        data_store=DataStore(
            name=DATA_STORE, url=str(request.base_url).rstrip("/") + BASE_PATH.get(), allows_upload=False
        ),
        user=_user(session, model.user_id) if is_own else None, comment=model.comment,
        training_job=_training(context, session, who, model) if is_own else None, created=model.created_ms or 0,
        shared_organization_ids=[who.organization_id, *model.shared_with] if is_own else None,
        category=_category(model.facts.structure), path=None, is_usable=True,
    )  # fmt: skip


def _user(session: Session, user_id: str | None) -> AiModelUser | None:
    user = accounts.find_users(session, {user_id}).get(user_id) if user_id else None
    if user is None:
        return None
    first_name, last_name = split_name(user.name)
    return AiModelUser(
        id=foreign_id(user.id), email=user.email or "", first_name=first_name, last_name=last_name
    )


def _training(context: Context, session: Session, who: Principal, model: ModelView) -> ForeignJob | None:
    """Give the job that trained a model, for those who may see it; imported models have none."""
    if model.latest.made_by_job is None or not accounts.is_allowed(who, Action.SEE_OWN_JOBS):
        return None
    try:
        view = jobs.show(session, model.latest.made_by_job, by=who, settings=context.settings).job
    except NotFound:
        return None
    if command_of(view.workflow) not in TRAININGS:
        return None
    return JobWriter.of(session, [view], by=who).write(view)


def _category(structure: str) -> str:
    small = structure.lower()
    return next((name for part, name in _CATEGORIES.items() if part in small), "em_cell_organelles")
