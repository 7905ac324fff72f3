"""Turns jobs and orders of ours into those of WEBKNOSSOS' job protocol."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy.orm import Session

from voxelworks import accounts, catalog, jobs
from voxelworks.errors import DatasetNotFound, InvalidParams, UnknownWorkflow
from voxelworks.jobs import ForeignOrder, ForeignRunView, Root
from voxelworks.protocol.foreign import foreign_id, wire_state
from voxelworks.protocol.messages import Json
from voxelworks.protocol.people import Principal, UserView
from voxelworks.protocol.places import Places
from voxelworks.protocol.views import DatasetView, JobView
from voxelworks.server.wk.commands import UNLINKED
from voxelworks.server.wk.models import ForeignJob, JobForWorker
from voxelworks.workflows import DatasetRef, NewDatasetRef, find_foreign, get_workflow, references

_FEW = 20
"""Up to so many jobs their datasets are looked up one by one."""
_BASE_DIRECTORY: Mapping[str, str] = {
    "convert_to_wkw": "organization_base_directory",
    "materialize_volume_annotation": "organization_base_directory",
    "export_tiff": "user_organization_base_directory",
    "render_animation": "user_organization_base_directory",
}
"""Under which name a command is told the folder of the organization."""


@dataclass(frozen=True)
class Subject:
    """The dataset that a job works on, or makes if it works on none."""

    name: str
    organization_id: str
    view: DatasetView | None
    """None if it is not there (yet, or any more)."""

    @classmethod
    def of(cls, name: str, organization_id: str, view: DatasetView | None) -> Subject:
        return cls(view.name, view.organization_id, view) if view else cls(name, organization_id, None)

    @property
    def directory_name(self) -> str:
        return directory_name_of(self.view) if self.view else self.name


@dataclass(frozen=True)
class JobWriter:
    """Writes jobs, with what it has looked up for all of them at once."""

    users: Mapping[str, UserView]
    roots: Mapping[str, Root]
    runs: Mapping[str, ForeignRunView]
    places: Mapping[str, Mapping[str, str]]
    """Of each job: reference in its params -> place."""
    datasets: Mapping[str, DatasetView]
    """By place."""

    @classmethod
    def of(cls, session: Session, views: Iterable[JobView], *, by: Principal) -> JobWriter:
        found = tuple(views)
        ids = [view.id for view in found]
        places = jobs.places_of(session, ids)
        return cls(
            users=accounts.find_users(session, {view.user_id for view in found}),
            roots=jobs.roots_of(session, ids),
            runs=jobs.foreign_runs(session, ids),
            places=places,
            datasets={dataset.place: dataset for dataset in _datasets(session, found, places, by)},
        )

    def write(self, view: JobView) -> ForeignJob:
        """Write the latest of a chain of repeats, under the id of the first."""
        root = self.roots[view.id]
        run = self.runs.get(view.id)
        states = wire_state(view.state, view.publication, has_started=view.started_ms is not None)
        first_name, last_name, email = self._owner(view)
        is_over = states.effective in ("SUCCESS", "FAILURE", "CANCELLED") and view.ended_ms is not None
        is_success = states.effective == "SUCCESS"
        return ForeignJob(
            id=foreign_id(root.job_id), command=command_of(view.workflow), organization_id=view.organization_id,
            owner_first_name=first_name, owner_last_name=last_name, owner_email=email, args=self._args(view),
            state=states.effective, manual_state=states.manual_state,
            return_value=_return_value(view, run) if is_success else None,
            result_link=self._link(view, run) if is_success else None,
            voxelytics_workflow_hash=run.workflow_hash if run else None,
            created=root.created_ms, started=view.started_ms, ended=view.ended_ms if is_over else None,
            last_retry=None if root.job_id == view.id else view.created_ms,
            cost_in_milli_credits=view.charge_millicredits,
            error_details=_error_details(view, run) if states.effective == "FAILURE" else None,
        )  # fmt: skip

    def subject(self, view: JobView) -> Subject:
        """Give the dataset that a job works on, or makes."""
        name = _named_dataset(view.workflow, view.params)
        dataset = self.datasets.get(self.places[view.id].get(name, ""))
        return Subject.of(name, view.organization_id, dataset)

    def _owner(self, view: JobView) -> tuple[str, str, str]:
        user = self.users.get(view.user_id)
        first_name, last_name = split_name(user.name if user else view.owner)
        return first_name, last_name, (user.email or "") if user else ""

    def _args(self, view: JobView) -> Json:
        return {**common_args(self.subject(view)), **command_args(view.workflow, view.params)}

    def _link(self, view: JobView, run: ForeignRunView | None) -> str | None:
        if run is not None and run.dataset_id is not None:
            return f"/datasets/{foreign_id(run.dataset_id)}/view"
        if view.result is None or view.result.place is None or command_of(view.workflow) in UNLINKED:
            return None
        if view.result.kind == "artifact":
            return f"/api/jobs/{foreign_id(view.id)}/export"
        dataset = self.datasets.get(view.result.place)
        return None if dataset is None else f"/datasets/{dataset.name}-{foreign_id(dataset.id)}/view"


def order_for_worker(session: Session, order: ForeignOrder, *, places: Places) -> JobForWorker:
    """Write a job of a poll's answer."""
    name = _named_dataset(order.workflow, order.params)
    dataset = catalog.find_by_place(session, order.places[name]) if name in order.places else None
    command = command_of(order.workflow)
    kwargs = {
        **common_args(Subject.of(name, order.organization_id, dataset)),
        **command_args(order.workflow, order.params),
        **_organization_args(session, command, order.organization_id, places),
        "user_auth_token": order.user_token,
    }
    return JobForWorker(job_id=foreign_id(order.root_id), command=command, job_kwargs=kwargs)


def common_args(subject: Subject) -> Json:
    """Give the arguments that every command has."""
    return {
        "organization_id": subject.organization_id,
        "dataset_id": foreign_id(subject.view.id) if subject.view else None,
        "dataset_name": subject.name,
        "dataset_directory_name": subject.directory_name,
    }


def command_args(workflow: str, params: Json) -> Json:
    """Give the arguments of a command; our own params where the workflow is none, or is not installed any more."""
    try:
        declared = get_workflow(workflow)
        return declared.foreign[0].args_of(declared.parse(params)) if declared.foreign else params
    except (UnknownWorkflow, InvalidParams):
        return params


def command_of(workflow: str) -> str:
    """Give the command that a workflow is; workflows that the protocol does not know go by their own name."""
    try:
        declared = get_workflow(workflow)
    except UnknownWorkflow:
        return workflow
    return declared.foreign[0].command if declared.foreign else declared.name


def workflow_of(command: str) -> str:
    """Give the workflow behind a command; anything else is its own name."""
    found = find_foreign(command)
    return found[0].name if found else command


def directory_name_of(dataset: DatasetView) -> str:
    """Name the folder of a dataset, which stays when the dataset is renamed; linked ones go by their own name."""
    return dataset.name if dataset.is_linked else dataset.place.rpartition("/")[2]


def split_name(name: str) -> tuple[str, str]:
    """Split a name where WEBKNOSSOS has two: at the first space."""
    first, _, last = name.strip().partition(" ")
    return first, last.strip()


def _named_dataset(workflow: str, params: Json) -> str:
    """Give the reference to the dataset that a job works on, or to the one that it makes if it works on none."""
    try:
        found = list(references(get_workflow(workflow).parse(params)))
    except (UnknownWorkflow, InvalidParams):
        return ""
    named = [str(ref) for ref in found if isinstance(ref, DatasetRef)]
    made = [str(ref) for ref in found if isinstance(ref, NewDatasetRef)]
    return next(iter((*named, *made)), "")


def _datasets(
    session: Session, views: Collection[JobView], places: Mapping[str, Mapping[str, str]], by: Principal
) -> Iterator[DatasetView]:
    """Find the datasets that jobs work on or have made, without those in the trash."""
    if len(views) > _FEW:
        yield from catalog.list_datasets(session, by=by, include_public=True)
        return
    for view in views:
        name = _named_dataset(view.workflow, view.params)
        wanted = {places[view.id].get(name), view.result.place if view.result else None} - {None}
        for place in wanted:
            dataset = catalog.find_by_place(session, str(place)) or _find_visible(session, name, by)
            if dataset is not None and dataset.trashed_ms is None:
                yield dataset


def _find_visible(session: Session, ref: str, by: Principal) -> DatasetView | None:
    """Find a linked dataset: only its name tells which of those at its place is meant."""
    try:
        return catalog.find(session, ref, by=by)
    except DatasetNotFound:
        return None


def _organization_args(session: Session, command: str, organization_id: str, places: Places) -> Json:
    if command not in _BASE_DIRECTORY:
        return {}
    args: Json = {_BASE_DIRECTORY[command]: str(places.data_dir / organization_id)}
    if command == "convert_to_wkw":
        args["organization_display_name"] = accounts.find_organization(session, organization_id).name
    return args


def _return_value(view: JobView, run: ForeignRunView | None) -> str | None:
    if run is not None and run.return_value is not None:
        return run.return_value
    try:
        declared = get_workflow(view.workflow)
    except UnknownWorkflow:
        return None
    return_value_of = declared.foreign[0].return_value_of if declared.foreign else None
    return return_value_of(view.result.value) if view.result and return_value_of else None


def _error_details(view: JobView, run: ForeignRunView | None) -> Json:
    if run is not None and run.error_details is not None:
        return run.error_details
    message = view.publish_error if view.publication == "failed" else view.message
    return {"failureClass": view.failure_class, "code": view.code, "message": message}
