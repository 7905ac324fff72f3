"""The list of datasets, and the page of one: what it holds and how to open it elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Form
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from voxelworks import accounts, catalog, jobs
from voxelworks.accounts import Action
from voxelworks.errors import DatasetNotFound, InvalidInput, VoxelworksError
from voxelworks.geometry import Box
from voxelworks.protocol.modality import SUGGESTED
from voxelworks.protocol.people import NewShare, Principal
from voxelworks.protocol.places import is_remote
from voxelworks.protocol.views import DatasetView, JobView, LayerSummary
from voxelworks.server import rendering
from voxelworks.server.api import datasets as api
from voxelworks.server.api import shares as shares_api
from voxelworks.server.context import Context, Here, Who
from voxelworks.server.opening import openings
from voxelworks.server.pages.acting import act, read
from voxelworks.server.pictures import shown_slices, thumbnail
from voxelworks.server.rendering import layer_name_of
from voxelworks.server.results import GIVES_OUT, TAKES_BACK
from voxelworks.server.segments import tables_of
from voxelworks.server.subjects import describe_params, workflow_title
from voxelworks.server.viewing import read_source
from voxelworks.volumes.mags import mags_remark
from voxelworks.volumes.metadata import DataSource
from voxelworks.workflows import Workflow, finest_mag, workflows

router = APIRouter()

DONE = {
    "renamed": "The dataset has its new name.",
    "public": "Members of all organizations can read the dataset now.",
    "private": "Only your organization can read the dataset now.",
    "linked": "The dataset is in the list. It stays where it is.",
    "restored": "The dataset is back in the list.",
    "trashed": "The dataset is in the trash.",
    "deleted": "The files are deleted within the hour.",
    "voxel-size": "The dataset has its new voxel size.",
    "modality": "The dataset says how it was imaged.",
    "revoked": "The address opens nothing any more.",
}
JOBS_MAX = 20
"""Jobs that the page of a dataset shows."""
PREVIEWS_WORKFLOW = "describe"
LABEL_SIZE = (128, 128, 64)
"""Voxels (x, y, z) of the box that is filled in for labelling: some hours of work, and enough to train with."""
Text = Annotated[str, Form(max_length=2000)]
VIEW_CHARACTERS_MAX = 50_000


@dataclass(frozen=True)
class Offer:
    """Workflows that can be given a layer of a dataset, or the dataset as a whole."""

    dataset: DatasetView
    layer: LayerSummary | None
    workflows: tuple[Workflow, ...]

    def values(self, workflow: Workflow) -> dict[str, str]:
        """Give what the form of a workflow is filled in with."""
        field = next(item.name for item in workflow.fields if item.kind == "dataset")
        values = {field: self.dataset.id}
        if self.layer is not None:
            values[layer_name_of(workflow)] = self.layer.name
        return values


@router.get("/datasets", response_class=HTMLResponse)
def list_page(context: Here, request: Request, who: Who, public: bool = False, done: str = "") -> Response:
    return _list_page(context, request, who, public=public, note=DONE.get(done, ""))


@router.post("/datasets/link")
def link(context: Here, request: Request, who: Who, name: Text = "", place: Text = "") -> Response:
    """Take a dataset into the list where it lies."""

    def take() -> None:
        try:
            api.link_dataset(context, who, read(api.DatasetLink, {"name": name, "place": place}))
        except DatasetNotFound as error:
            # What is missing is what the form names, not the page.
            raise InvalidInput(error.message) from error

    return act(
        take,
        show=lambda problem, status: _list_page(
            context, request, who, problem=problem, status=status, link={"name": name, "place": place}
        ),
        back="/datasets", done="linked",
    )  # fmt: skip


@router.get("/trash", response_class=HTMLResponse)
def trash_page(context: Here, request: Request, who: Who, done: str = "") -> Response:
    """Show what is in the trash and what was left behind, with the day on which it is removed."""
    accounts.require(who, Action.SEE_DATASET)
    with context.database.read_session() as session:
        datasets = catalog.list_datasets(session, by=who, include_trashed=True)
        annotations = catalog.list_annotations(session, by=who, include_trashed=True)
        leftovers = catalog.leftovers(
            session, by=who, places=context.places, settings=context.settings,
            work_keys_in_use=jobs.work_keys_in_use(session), uploads_in_use=jobs.uploads_in_use(session),
        )  # fmt: skip
        storage = catalog.storage_usage(session, who.organization_id, settings=context.settings)
    return rendering.page(
        request, "trash.html", note=DONE.get(done, ""), storage=storage,
        datasets=[dataset for dataset in datasets if dataset.trashed_ms is not None],
        annotations=[annotation for annotation in annotations if annotation.trashed_ms is not None],
        leftovers=[item for item in leftovers if item.kind in ("upload", "file", "attempt")],
    )  # fmt: skip


@router.get("/datasets/{ref}", response_class=HTMLResponse)
def dataset_page(context: Here, request: Request, who: Who, ref: str, done: str = "") -> Response:
    dataset = api.find_dataset(context, who, ref)
    note = DONE.get(done, "")
    if done == "voxel-size":
        note = f"{note} {mags_remark(dataset.summary)}".strip()
    return _dataset_page(context, request, who, dataset, note=note)


@router.post("/datasets/{dataset_id}/name")
def rename(context: Here, request: Request, who: Who, dataset_id: str, name: Text = "") -> Response:
    dataset = api.find_dataset(context, who, dataset_id)
    return act(
        lambda: api.change_dataset(context, who, dataset.id, read(api.DatasetChange, {"name": name})),
        show=lambda problem, status: _dataset_page(
            context, request, who, dataset, problem=problem, status=status
        ),
        back=f"/datasets/{dataset.id}", done="renamed",
    )  # fmt: skip


@router.post("/datasets/{dataset_id}/voxel-size")
def set_voxel_size(
    context: Here, request: Request, who: Who, dataset_id: str, voxel_size: Text = ""
) -> Response:
    dataset = api.find_dataset(context, who, dataset_id)
    return act(
        lambda: api.change_dataset(context, who, dataset.id, read(api.DatasetChange, {"voxel_size": voxel_size})),
        show=lambda problem, status: _dataset_page(
            context, request, who, dataset, problem=problem, status=status, voxel_size=voxel_size
        ),
        back=f"/datasets/{dataset.id}", done="voxel-size",
    )  # fmt: skip


@router.post("/datasets/{dataset_id}/modality")
def set_modality(context: Here, request: Request, who: Who, dataset_id: str, modality: Text = "") -> Response:
    dataset = api.find_dataset(context, who, dataset_id)
    return act(
        lambda: api.change_dataset(context, who, dataset.id, read(api.DatasetChange, {"modality": modality})),
        show=lambda problem, status: _dataset_page(
            context, request, who, dataset, problem=problem, status=status, modality=modality
        ),
        back=f"/datasets/{dataset.id}", done="modality",
    )  # fmt: skip


@router.post("/datasets/{dataset_id}/public")
def set_public(
    context: Here, request: Request, who: Who, dataset_id: str, is_public: Annotated[bool, Form()]
) -> Response:
    dataset = api.find_dataset(context, who, dataset_id)
    return act(
        lambda: api.change_dataset(context, who, dataset.id, api.DatasetChange(is_public=is_public)),
        show=lambda problem, status: _dataset_page(
            context, request, who, dataset, problem=problem, status=status
        ),
        back=f"/datasets/{dataset.id}", done="public" if is_public else "private",
    )  # fmt: skip


@router.post("/datasets/{dataset_id}/shares", response_class=HTMLResponse)
def share(
    context: Here,
    request: Request,
    who: Who,
    dataset_id: str,
    name: Text = "",
    lifetime_days: Text = "",
    view: Annotated[str, Form(max_length=VIEW_CHARACTERS_MAX)] = "",
) -> Response:
    """Make an address and show it, this once.

    `view` is what of an open viewer's address says where it looks; it is handed on and not stored.
    """
    dataset = api.find_dataset(context, who, dataset_id)
    made: list[NewShare] = []

    def create() -> None:
        wanted = read(shares_api.ShareRequest, {"name": name, "lifetime_days": lifetime_days})
        new = shares_api.create_share(context, request, who, dataset.id, wanted)
        is_view = view.startswith("#!")
        made.append(new.model_copy(update={"viewer": new.viewer + view}) if is_view else new)

    answer = act(
        create,
        show=lambda problem, status: _dataset_page(
            context, request, who, dataset, problem=problem, status=status
        ),
        back=f"/datasets/{dataset.id}", done="shared",
    )  # fmt: skip
    return _dataset_page(context, request, who, dataset, new_share=made[0]) if made else answer


@router.post("/datasets/{dataset_id}/shares/{share_id}/revoke")
def revoke_share(context: Here, request: Request, who: Who, dataset_id: str, share_id: str) -> Response:
    dataset = api.find_dataset(context, who, dataset_id)
    return act(
        lambda: shares_api.revoke_share(context, who, dataset.id, share_id),
        show=lambda problem, status: _dataset_page(
            context, request, who, dataset, problem=problem, status=status
        ),
        back=f"/datasets/{dataset.id}", done="revoked",
    )  # fmt: skip


@router.post("/datasets/{dataset_id}/trash")
def trash(context: Here, who: Who, dataset_id: str) -> Response:
    api.trash_dataset(context, who, dataset_id)
    return RedirectResponse("/trash?done=trashed", status_code=303)


@router.post("/datasets/{dataset_id}/restore")
def restore(context: Here, who: Who, dataset_id: str) -> Response:
    api.restore_dataset(context, who, dataset_id)
    return RedirectResponse(f"/datasets/{dataset_id}?done=restored", status_code=303)


@router.post("/datasets/{dataset_id}/delete-now")
def delete(context: Here, who: Who, dataset_id: str) -> Response:
    api.delete_dataset(context, who, dataset_id)
    return RedirectResponse("/trash?done=deleted", status_code=303)


def _list_page(
    context: Context,
    request: Request,
    who: Principal,
    *,
    public: bool = False,
    note: str = "",
    problem: str = "",
    status: int = 200,
    link: dict[str, str] | None = None,
) -> Response:
    accounts.require(who, Action.SEE_DATASET)
    with context.database.read_session() as session:
        found = catalog.list_datasets(session, by=who, include_public=public)
        storage = catalog.storage_usage(session, who.organization_id, settings=context.settings)
    places = context.places.for_organization(who.organization_id)
    return rendering.page(
        request, "datasets.html", status=status, datasets=found, shows_public=public, note=note, problem=problem,
        storage=storage, own_count=sum(dataset.organization_id == who.organization_id for dataset in found),
        thumbnail=thumbnail, link=link or {"name": "", "place": ""},
        has_roots=bool(places.import_roots or places.remote_hosts),
    )  # fmt: skip


def _dataset_page(
    context: Context,
    request: Request,
    who: Principal,
    dataset: DatasetView,
    *,
    note: str = "",
    problem: str = "",
    status: int = 200,
    new_share: NewShare | None = None,
    voxel_size: str | None = None,
    modality: str | None = None,
) -> Response:
    accounts.require(who, Action.SEE_DATASET)
    is_own = dataset.organization_id == who.organization_id
    location = context.places.locate(dataset.place) if is_own else None
    source = _source(context, who, dataset)
    offered = [workflow for workflow in workflows().values() if jobs.can_work_on(workflow, dataset, by=who)]
    stated = {layer.modality or "" for layer in dataset.summary.layers if layer.category == "color"}
    with context.database.read_session() as session:
        known_jobs = jobs.jobs_of_dataset(session, dataset, by=who, settings=context.settings, limit=JOBS_MAX)
        annotations = catalog.list_annotations(session, by=who)
    return rendering.page(
        request, "dataset.html", status=status, dataset=dataset, location=location, is_own=is_own,
        is_remote=location is not None and is_remote(location), note=note, problem=problem,
        offers=_offers(offered, dataset) if accounts.is_allowed(who, Action.SUBMIT_JOB) else [],
        label_boxes=_label_boxes(offered, dataset) if accounts.is_allowed(who, Action.SUBMIT_JOB) else {},
        slices_of={layer.name: shown_slices(dataset, layer) for layer in dataset.summary.layers},
        has_pictures=any(layer.preview for layer in dataset.summary.layers),
        tables=tables_of(context, who, dataset),
        previews_job=next((job for job in known_jobs if job.workflow == PREVIEWS_WORKFLOW), None),
        jobs=known_jobs, workflow_title=workflow_title, params_text=_params_text,
        annotations=[item for item in annotations if item.dataset_id == dataset.id],
        has_viewer=source is not None, openings=openings(source, location) if location else (),
        shares=shares_api.list_shares(context, who, dataset.id) if is_own else (), new_share=new_share,
        shared_openings=openings(source, new_share.address) if new_share else (),
        voxel_size=voxel_size if voxel_size is not None else dataset.summary.voxel_size or "",
        has_images=bool(stated), modalities=SUGGESTED,
        modality=modality if modality is not None else stated.pop() if len(stated) == 1 else "",
    )  # fmt: skip


def _source(context: Context, who: Principal, dataset: DatasetView) -> DataSource | None:
    """Read what the dataset says of itself; None if that cannot be read here, as when it lies elsewhere."""
    try:
        with context.database.glance() as session:
            folder = catalog.folder_of(session, dataset.id, by=who, places=context.places)
        return read_source(partial(catalog.read_metadata, folder), dataset.name)
    except VoxelworksError:
        return None


def _offers(offered: Sequence[Workflow], dataset: DatasetView) -> list[Offer]:
    """Group the workflows that can work on a dataset by what they work on: its layers, then the dataset as a whole."""
    of_layers = [
        Offer(dataset, layer, tuple(workflow for workflow in offered if _takes(workflow, layer)))
        for layer in dataset.summary.layers
    ]
    of_whole = tuple(
        workflow
        for workflow in offered
        if not any(field.kind == "layer" for field in workflow.fields)
        and any(field.kind == "dataset" for field in workflow.fields)
    )
    return [offer for offer in (*of_layers, Offer(dataset, None, of_whole)) if offer.workflows]


def _takes(workflow: Workflow, layer: LayerSummary) -> bool:
    """Tell whether a workflow works on such a layer: its first one, others stand beside that."""
    field = next((field for field in workflow.fields if field.kind == "layer"), None)
    return field is not None and field.category in (None, layer.category)


def _label_boxes(offered: Sequence[Workflow], dataset: DatasetView) -> dict[str, str]:
    """Give a box to begin with for each layer that can be labelled, where the labels can be put back."""
    if not {GIVES_OUT, TAKES_BACK} <= {workflow.name for workflow in offered}:
        return {}
    return {
        layer.name: str(Box.parse(layer.box).middle(LABEL_SIZE, finest_mag(layer)))
        for layer in dataset.summary.layers
        if layer.category == "color"
    }


def _params_text(job: JobView) -> str:
    """Say in one line what a job was told beside the defaults."""
    params = [param for group in describe_params(job.workflow, job.params) for param in group.params]
    return ", ".join(f"{param.label.lower()} {param.value}" for param in params if not param.is_default)
