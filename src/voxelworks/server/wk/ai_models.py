"""AI models, as clients train, list, rename, share and delete them.

In WEBKNOSSOS a model is in the list as soon as its training is started. Here the training makes it, so that until then
the job stands for it: the model is found by the id of the job, afterwards too.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session
from starlette.requests import Request

from voxelworks import accounts, catalog, jobs
from voxelworks.accounts import Action
from voxelworks.errors import InvalidInput, ModelNotFound, NotFound, TargetExists
from voxelworks.protocol.foreign import foreign_id, native_id
from voxelworks.protocol.messages import Json
from voxelworks.protocol.people import Principal
from voxelworks.protocol.views import UNENDED_STATES, AnnotationView, DatasetView, JobView, ModelView
from voxelworks.server.api import models as api
from voxelworks.server.context import Context, Here, Who
from voxelworks.server.origin import BASE_PATH
from voxelworks.server.wk.datasets import DATA_STORE
from voxelworks.server.wk.jobs import JOBS_MAX
from voxelworks.server.wk.models import AiModel, AiModelUser, DataStore, ForeignJob, ForeignVoxelSize
from voxelworks.server.wk.translate import JobWriter, command_of, split_name

router = APIRouter()

TRAININGS = ("train_neuron_model", "train_instance_model")
_STRUCTURES = {
    "em_neurons": "neurons", "em_nuclei": "nuclei", "em_synapses": "synapses", "em_cell_organelles": "organelles",
}  # fmt: skip
"""What a model finds, by what the protocol calls it."""
_CATEGORIES = {"neuron": "em_neurons", "nucle": "em_nuclei", "synap": "em_synapses"}
"""Part of the name of what a model finds -> what the protocol calls it."""


class AiModelChange(BaseModel):
    """What a client says anew of a model."""

    name: Annotated[str, Field(max_length=128)]
    comment: Annotated[str | None, Field(max_length=2000)] = None
    shared_organization_ids: Annotated[
        list[str] | None, Field(alias="sharedOrganizationIds", max_length=200)
    ] = None


class TrainingAnnotation(BaseModel):
    """An annotation in whose boxes everything is labelled."""

    annotation_id: Annotated[str, Field(alias="annotationId", max_length=64)]
    color_layer_name: Annotated[str, Field(alias="colorLayerName", max_length=256)]
    segmentation_layer_name: Annotated[str, Field(alias="segmentationLayerName", max_length=256)]
    """Volume layer of the annotation, or segmentation layer of its dataset."""
    mag: tuple[int, int, int]


class AiTraining(BaseModel):
    """A training that a client asks for."""

    training_annotations: Annotated[
        list[TrainingAnnotation], Field(alias="trainingAnnotations", max_length=1000)
    ] = []
    name: Annotated[str, Field(max_length=128)]
    category: Annotated[str | None, Field(alias="aiModelCategory", max_length=64)] = None
    instance_diameter_nm: Annotated[float | None, Field(alias="instanceDiameterNm")] = None
    workflow_yaml: Annotated[str | None, Field(alias="workflowYaml")] = None


@router.get("/aiModels")
def list_models(context: Here, request: Request, who: Who) -> list[AiModel]:
    """List models in training, those of the organization, those that others share with it, and installed ones."""
    found = api.list_models(context, who)
    with context.database.read_session() as session:
        models = [write(context, session, request, who, model) for model in found]
        return [*_in_training(context, session, request, who), *models]


@router.get("/aiModels/{model_id}")
def show(context: Here, request: Request, who: Who, model_id: str) -> AiModel:
    """Show a model, or what a training will make."""
    try:
        model = _find(context, who, model_id)
    except ModelNotFound:
        with context.database.read_session() as session:
            view = _find_training(context, session, who, model_id)
            return _write_training(session, request, who, view)
    with context.database.read_session() as session:
        return write(context, session, request, who, model)


@router.post("/aiModels/runNeuronModelTraining")
def train_neurons(context: Here, request: Request, who: Who, given: AiTraining) -> AiModel:
    """Train a model of neurons; what comes back is not usable before the training has succeeded."""
    return _train(context, request, who, "train_neuron_model", given, {})


@router.post("/aiModels/runInstanceModelTraining")
def train_instances(context: Here, request: Request, who: Who, given: AiTraining) -> AiModel:
    """Train a model of single objects; what comes back is not usable before the training has succeeded."""
    structure = _STRUCTURES.get(given.category or "")
    more = {"structure": structure, "instance_diameter_nm": given.instance_diameter_nm}
    return _train(context, request, who, "train_instance_model", given, more)


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
        return write(context, session, request, who, changed)


@router.delete("/aiModels/{model_id}")
def delete(context: Here, who: Who, model_id: str) -> None:
    """Delete a model with all its versions. Refused while a job works with it."""
    api.delete_model(context, who, _find(context, who, model_id).id)


def _train(
    context: Context, request: Request, who: Principal, workflow: str, given: AiTraining, more: Json
) -> AiModel:
    context.limits.count_for("submission", who)
    accounts.require(who, Action.SUBMIT_JOB)
    if given.workflow_yaml:
        raise InvalidInput(
            "workflowYaml is for workflows of WEBKNOSSOS' own; leave it out, and name annotations to learn from"
        )
    if not given.training_annotations:
        raise InvalidInput("trainingAnnotations is empty; name annotations to learn from")
    with context.database.session() as session:
        models = catalog.list_models(session, by=who, places=context.places)
        if any(model.name == given.name and model.organization_id == who.organization_id for model in models):
            raise TargetExists(f"there is a model {given.name!r} already; choose another name")
        boxes = [box for item in given.training_annotations for box in _boxes_of(session, who, item)]
        told = {name: value for name, value in more.items() if value is not None}
        view = jobs.submit(
            session, by=who, workflow=workflow, params={"boxes": boxes, "target": given.name, **told},
            places=context.places, settings=context.settings, is_foreign=True,
        )  # fmt: skip
        session.flush()
        return _write_training(session, request, who, view)


def _boxes_of(session: Session, who: Principal, given: TrainingAnnotation) -> list[dict[str, Any]]:
    """Translate an annotation to learn from: its volume layer, or the layer of the dataset in each of its boxes."""
    annotation = catalog.find_annotation(session, native_id(given.annotation_id), by=who)
    dataset = _dataset_of(session, who, annotation)
    reference = dataset.name if dataset.organization_id == who.organization_id else dataset.id
    beside = {
        "image": {"dataset": reference, "layer": given.color_layer_name}, "mag": "-".join(map(str, given.mag)),
    }  # fmt: skip
    if annotation.summary is None:
        raise InvalidInput(f"annotation {annotation.name!r} has not been fetched yet; try again in a minute")
    name = given.segmentation_layer_name
    if any(layer.name == name for layer in annotation.summary.volume_layers):
        return [{**beside, "annotation": annotation.id, "volume_layer": name}]
    truth = {"dataset": reference, "layer": name}
    boxes = annotation.summary.bounding_boxes
    if not boxes:
        raise InvalidInput(
            f"no box is drawn in annotation {annotation.name!r}; draw boxes around what is labelled everywhere"
        )
    return [{**beside, "truth": truth, "box": box} for box in boxes]


def _dataset_of(session: Session, who: Principal, annotation: AnnotationView) -> DatasetView:
    stated = annotation.summary.dataset_name if annotation.summary is not None else None
    ref = annotation.dataset_id or stated
    if ref is None:
        raise InvalidInput(
            f"nobody has said which dataset annotation {annotation.name!r} belongs to; choose it on its page"
        )
    return catalog.find(session, ref, by=who)


def _in_training(context: Context, session: Session, request: Request, who: Principal) -> list[AiModel]:
    """Give what will become models, for those who may see the jobs."""
    if not accounts.is_allowed(who, Action.SEE_OWN_JOBS):
        return []
    under_way = [
        view
        for name in TRAININGS
        for view in jobs.list_jobs(
            session, by=who, settings=context.settings, workflow=name, organization_id=who.organization_id,
            states=(*UNENDED_STATES, "succeeded"), limit=JOBS_MAX,
        ).jobs
        if view.state != "succeeded" or view.publication == "pending"
    ]  # fmt: skip
    return [_write_training(session, request, who, view) for view in under_way]


def _find_training(context: Context, session: Session, who: Principal, job_id: str) -> JobView:
    """Find the job that stands for a model; `ModelNotFound` if there is none."""
    missing = ModelNotFound(f"there is no model {job_id!r}; see the list of models")
    if not accounts.is_allowed(who, Action.SEE_OWN_JOBS):
        raise missing
    try:
        view = jobs.show(session, native_id(job_id), by=who, settings=context.settings).job
    except NotFound:
        raise missing from None
    if view.workflow not in TRAININGS:
        raise missing
    return view


def _write_training(session: Session, request: Request, who: Principal, view: JobView) -> AiModel:
    structure = "neurons" if view.workflow == TRAININGS[0] else str(view.params.get("structure", ""))
    return AiModel(
        id=foreign_id(view.id), name=str(view.params.get("target", "")), is_owned_by_users_organization=True,
        data_store=data_store_of(request), user=user_of(session, view.user_id), comment="",
        training_job=JobWriter.of(session, [view], by=who).write(view), created=view.created_ms,
        shared_organization_ids=[view.organization_id], category=_category(structure), path=None, is_usable=False,
    )  # fmt: skip


def _find(context: Context, who: Principal, model_id: str) -> ModelView:
    """Find a model by its id, or by that of the job that made it."""
    try:
        return api.show_model(context, who, native_id(model_id))
    except ModelNotFound:
        for model in api.list_models(context, who):
            if native_id(model_id) in {version.made_by_job for version in model.versions}:
                return model
        raise


def data_store_of(request: Request) -> DataStore:
    """Write the one data store that there is."""
    url = str(request.base_url).rstrip("/") + BASE_PATH.get()
    return DataStore(name=DATA_STORE, url=url, allows_upload=False)


def write(context: Context, session: Session, request: Request, who: Principal, model: ModelView) -> AiModel:
    """Write a model as somebody may see it."""
    is_own = model.organization_id == who.organization_id
    return AiModel(
        id=foreign_id(model.id), name=model.name, is_owned_by_users_organization=is_own,
        data_store=data_store_of(request),
        user=user_of(session, model.user_id) if is_own else None, comment=model.comment,
        training_job=_training(context, session, who, model) if is_own else None, created=model.created_ms or 0,
        shared_organization_ids=[who.organization_id, *model.shared_with] if is_own else None,
        category=_category(model.facts.structure), path=None, is_usable=True,
    )  # fmt: skip


def user_of(session: Session, user_id: str | None) -> AiModelUser | None:
    """Write a user; None if there is none."""
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
