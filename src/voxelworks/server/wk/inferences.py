"""Segmentations with AI models, as clients list them: each is one of our jobs."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter
from sqlalchemy.orm import Session
from starlette.requests import Request

from voxelworks import catalog
from voxelworks.errors import ModelNotFound, NotFound
from voxelworks.protocol.people import Principal
from voxelworks.protocol.views import JobView
from voxelworks.server.context import Context, Here, Who
from voxelworks.server.wk.ai_models import data_store_of, user_of, write
from voxelworks.server.wk.datasets import write_compact
from voxelworks.server.wk.jobs import latest_of, newest_jobs
from voxelworks.server.wk.models import AiInference, AiModel
from voxelworks.server.wk.translate import JobWriter

router = APIRouter()

INFERENCES = ("infer_neurons", "infer_nuclei", "infer_mitochondria", "infer_instances", "infer_with_model")
"""Workflows that are inferences."""


@router.get("/aiModels/inferences")
def list_inferences(context: Here, request: Request, who: Who) -> list[AiInference]:
    """List segmentations with models, newest first: one's own, for admins those of the organization."""
    with context.database.read_session() as session:
        views = [view for name in INFERENCES for view in newest_jobs(session, context, who, name)]
        written = _written(session, context, request, who, views)
    latest: dict[str, AiInference] = {}
    for item in written:
        # Of each workflow the newest comes first, so that the first of a chain of repeats is its latest.
        latest.setdefault(item.id, item)
    return sorted(latest.values(), key=lambda item: (item.created, item.id), reverse=True)


@router.get("/aiModels/inferences/{inference_id}")
def show_inference(context: Here, request: Request, who: Who, inference_id: str) -> AiInference:
    """Show a segmentation with a model, in the state of its latest repeat."""
    with context.database.read_session() as session:
        view = latest_of(session, context, who, inference_id)
        if view.workflow not in INFERENCES:
            raise NotFound(
                f"job {inference_id!r} is no segmentation with a model; see the list of inferences"
            )
        [found] = _written(session, context, request, who, [view])
    return found


def _written(
    session: Session, context: Context, request: Request, who: Principal, views: Sequence[JobView]
) -> list[AiInference]:
    writer = JobWriter.of(session, views, by=who)
    made = {item.made_by_job: item for item in catalog.list_datasets(session, by=who)}
    models: dict[str, AiModel | None] = {}
    found = []
    for view in views:
        ref = str(view.params.get("model", ""))
        if ref not in models:
            models[ref] = _model(session, context, request, who, ref)
        job, dataset = writer.write(view), made.get(view.id)
        found.append(
            AiInference(
                id=job.id, data_store=data_store_of(request),
                new_segmentation_layer_name=str(view.params.get("output_layer", "")),
                mask_annotation_layer_name=None, inference_job=job, ai_model=models[ref],
                user=user_of(session, view.user_id),
                new_dataset=None if dataset is None else write_compact(dataset), created=job.created,
            )
        )  # fmt: skip
    return found


def _model(session: Session, context: Context, request: Request, who: Principal, ref: str) -> AiModel | None:
    try:
        model, _ = catalog.find_model_version(session, ref, by=who, places=context.places)
    except ModelNotFound:
        return None
    return write(context, session, request, who, model)
