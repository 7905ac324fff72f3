"""What params name: looked up when a job is submitted, as far as it is there already."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from voxelworks import catalog
from voxelworks.db import SecretBox
from voxelworks.errors import (
    AnnotationNotFound,
    InvalidInput,
    LayerNotFound,
    NotFound,
    SourceNotFound,
    TargetExists,
    UnsafeReference,
)
from voxelworks.jobs._tables import JobRow
from voxelworks.protocol.messages import Claim, Json
from voxelworks.protocol.models import ModelFacts
from voxelworks.protocol.people import Principal
from voxelworks.protocol.places import (
    MODEL,
    OWN_PLACES,
    PREVIEWS_OF,
    STREAM_OF,
    Places,
    dataset_place,
    is_remote,
)
from voxelworks.protocol.uploads import UPLOAD_REF
from voxelworks.protocol.views import (
    AnnotationSummary,
    AnnotationView,
    DatasetSummary,
    DatasetView,
    LayerSummary,
    ModelVersionView,
)
from voxelworks.workflows import (
    AnnotationRef,
    DatasetRef,
    LayerRef,
    ModelRef,
    NewDatasetRef,
    NewFileRef,
    NewModelRef,
    Params,
    Ref,
    SourceRef,
    Workflow,
    check_file_name,
    check_name,
    check_part,
    layer_parts,
    references,
)

_LISTED_MAX = 10_000
"""Of a larger folder no more is listed: whoever submits a job holds up others meanwhile."""
_LOOKED_AT_MIN = 500
"""Of a larger folder at least so many files are looked at, and less than twice as many."""
_LOSSY_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".webp")
_SECTION_SUFFIXES = (*_LOSSY_SUFFIXES, ".tif", ".tiff", ".png")
_LOSSLESS_PER_LOSSY = 5
"""How many times the size of a JPEG file its voxels take without loss: 4.8 to 5.9 for tiles of electron microscopy."""
JOB_REF = "job:"
"""`job:ID` in place of a dataset means: the one that this job makes or adds to."""


@dataclass(frozen=True)
class FoundModel:
    """A version of a model that params name."""

    pinned: str
    """What it is called in the params of the job: the same version also when there are newer ones."""
    version: ModelVersionView


@dataclass(frozen=True)
class Resolved:
    """What the params of a job name."""

    places: Mapping[str, str]
    """Reference -> place; without those to what other jobs will make."""
    datasets: Mapping[str, DatasetView]
    """Reference -> dataset that is there."""
    new_place: str | None
    """Of the dataset or model that the job makes."""
    sources: Mapping[str, Path]
    """Reference -> file or folder of images on this machine."""
    annotations: Mapping[str, AnnotationView]
    """Reference -> annotation."""
    models: Mapping[str, FoundModel] = field(default_factory=dict)
    """Reference -> version of a model."""

    def layer(self, ref: LayerRef) -> LayerSummary:
        """Give what is known of a layer, for the price.

        Raises
        ------
        InvalidInput
            If another job must make it first, or the dataset has no such layer any more.
        """
        return fit_layer(self._dataset(ref.dataset, str(ref)), ref)

    def dataset(self, ref: DatasetRef) -> DatasetSummary:
        """Give what is known of a dataset; `InvalidInput` as for a layer."""
        return self._dataset(ref, str(ref)).summary

    def _dataset(self, name: str, what: str) -> DatasetView:
        dataset = self.datasets.get(name)
        if dataset is None:
            raise InvalidInput(
                f"the size of {what} is not known before {name} has ended, and so is the price; give the box "
                "and the mag to work on, or submit the job when its input is there"
            )
        return dataset

    def source_bytes(self, ref: SourceRef) -> int:
        """Tell about how much a source takes without loss, in bytes; 0 if it is remote or cannot be looked at.

        Of a very large folder less than all is counted.
        """
        path = self.sources.get(ref)
        if path is None:
            return 0
        # What was sent with a file belongs to it.
        return _stored_bytes(path.parent if ref.startswith(UPLOAD_REF) and path.is_file() else path)

    def annotation_bytes(self, ref: AnnotationRef) -> int:
        """Tell how large the file of an annotation is, in bytes; 0 if that cannot be told."""
        annotation = self.annotations.get(ref)
        return 0 if annotation is None else annotation.size_bytes

    def annotation(self, ref: AnnotationRef) -> AnnotationSummary:
        """Tell what an annotation holds.

        Raises
        ------
        InvalidInput
            If its file has not come yet.
        """
        found = self.annotations.get(ref)
        if found is None or found.summary is None:
            raise InvalidInput(
                f"annotation {str(ref)!r} has not been fetched yet; wait until its page shows what it holds"
            )
        return found.summary

    def model(self, ref: ModelRef) -> ModelFacts:
        """Give what is known of a model.

        Raises
        ------
        InvalidInput
            If it was not looked up.
        """
        found = self.models.get(ref)
        if found is None:
            raise InvalidInput(f"nothing is known of the model {str(ref)!r} here")
        return found.version.facts

    def pinned(self, declared: Workflow, raw: Json) -> Json:
        """Give raw params in which each model is named with its version."""
        flat = declared.flatten_raw(raw)
        names = {item.name for item in declared.fields if item.kind == "model"}
        found = {name: self._pinned(flat[name]) for name in names & set(flat)}
        return raw if not found else _with_values(declared, raw, found)

    def _pinned(self, given: str | list[str]) -> str | list[str]:
        if isinstance(given, list):
            return [self.models[ref].pinned if ref in self.models else ref for ref in given]
        return self.models[given].pinned if given in self.models else given


def resolve(
    session: Session, declared: Workflow, params: Params, *, by: Principal, places: Places
) -> Resolved:
    """Find the place of every reference, and refuse what is not there or not for them.

    Parameters
    ----------
    places
        Of the server; only the import roots of the organization count.

    Raises
    ------
    InvalidInput
    """
    own = places.for_organization(by.organization_id)
    found: dict[str, str] = {}
    datasets: dict[str, DatasetView] = {}
    sources: dict[str, Path] = {}
    annotations: dict[str, AnnotationView] = {}
    models: dict[str, FoundModel] = {}
    new_place = None
    for ref in references(params):
        if isinstance(ref, SourceRef):
            found[ref] = place = _source_place(session, ref, by)
            path = _source_path(ref, place, own)
            if path is not None:
                sources[ref] = path
        elif isinstance(ref, AnnotationRef):
            annotations[ref] = annotation = _annotation(session, ref, by)
            found[ref] = catalog.place_of_annotation(annotation)
            if annotation.streams_at is not None:
                own.locate(
                    annotation.streams_at
                )  # refused here, if the operator has not listed the data store
                found[STREAM_OF + ref] = annotation.streams_at
        elif isinstance(ref, NewDatasetRef):
            _refuse_path(ref)
            found[ref] = new_place = _new_place(session, check_name("dataset", ref), by, own)
        elif isinstance(ref, NewModelRef):
            _refuse_path(ref)
            found[ref] = new_place = _new_model_place(session, check_name("model", ref), by, own)
        elif isinstance(ref, ModelRef):
            _refuse_path(ref)
            model, version = catalog.find_model_version(session, ref, by=by, places=own)
            _refuse_other_task(declared, params, ref, version)
            pinned = catalog.pinned_model(model, version, organization_id=by.organization_id)
            models[ref] = FoundModel(pinned, version)
            found[Ref(pinned)] = version.place
        elif isinstance(ref, NewFileRef):
            check_file_name(ref)  # where it lies is known by the job
        elif not ref.startswith(JOB_REF):
            assert isinstance(ref, DatasetRef), f"{type(ref).__name__} has no places yet"
            _refuse_path(ref)
            datasets[ref] = dataset = catalog.find(session, ref, by=by)
            if declared.outcome_type.kind == "addition":
                catalog.require_changeable(dataset, by=by)
            if declared.outcome_type.kind == "previews":
                catalog.require_own(dataset, by=by)
                found[PREVIEWS_OF + ref] = catalog.place_of_previews(dataset)
            found[ref] = dataset.place
    refuse_unfit_layers(params, datasets)
    places_found = {str(ref): place for ref, place in found.items()}
    return Resolved(places_found, datasets, new_place, sources, annotations, models)


def secrets_of(session: Session, claim: Claim, box: SecretBox) -> dict[str, str]:
    """Decrypt the tokens that an attempt needs for what its params name.

    Raises
    ------
    StorageFailed
        If the key file is another one.
    """
    annotations = [name.removeprefix(STREAM_OF) for name in claim.places if name.startswith(STREAM_OF)]
    tokens = {
        ref: catalog.annotation_token(session, box, ref, organization_id=claim.organization_id)
        for ref in annotations
    }
    return {ref: token for ref, token in tokens.items() if token is not None}


def can_work_on(declared: Workflow, dataset: DatasetView, *, by: Principal) -> bool:
    """Whether a workflow can be given a dataset that one can see."""
    if declared.outcome_type.kind == "previews":
        return dataset.organization_id == by.organization_id
    return declared.outcome_type.kind != "addition" or catalog.is_changeable(dataset, by=by)


def named_jobs(params: Params) -> list[str]:
    """Give the ids of the jobs whose datasets params name."""
    return [
        ref.removeprefix(JOB_REF)
        for ref in references(params)
        if isinstance(ref, DatasetRef) and ref.startswith(JOB_REF)
    ]


def refuse_unfit_layers(params: Params, datasets: Mapping[str, DatasetView]) -> None:
    """Refuse layers that their datasets do not have, boxes outside of them, and mags that they do not have.

    Raises
    ------
    LayerNotFound, WrongCategory, InvalidGeometry, MagNotFound
    """
    for part in layer_parts(params):
        dataset = datasets.get(part.layer.dataset)
        if dataset is not None:
            check_part(fit_layer(dataset, part.layer), part.box, part.mag)


def fit_layer(dataset: DatasetView, ref: LayerRef) -> LayerSummary:
    """Give a layer of a dataset.

    Raises
    ------
    LayerNotFound, WrongCategory
    """
    known = {item.name: item for item in dataset.summary.layers}
    if ref.layer not in known:
        raise LayerNotFound(
            f"dataset {dataset.name!r} has no layer {ref.layer!r}; it has {', '.join(known) or 'none'}"
        )
    ref.require_category(known[ref.layer].category)
    return known[ref.layer]


def _source_place(session: Session, ref: SourceRef, by: Principal) -> str:
    """Give the place of a source; an upload is named without its organization, which is that of the job."""
    if not ref.startswith(UPLOAD_REF):
        return str(ref)
    try:
        return catalog.place_of_upload(session, ref, by=by)
    except NotFound as error:
        raise SourceNotFound(error.message) from error


def _annotation(session: Session, ref: AnnotationRef, by: Principal) -> AnnotationView:
    try:
        return catalog.find_annotation(session, ref, by=by)
    except NotFound as error:
        raise AnnotationNotFound(error.message) from error


def _source_path(ref: SourceRef, place: str, places: Places) -> Path | None:
    """Find a source; None if it is remote, or is still being sent."""
    if ref.startswith(OWN_PLACES):
        raise UnsafeReference(
            f"{ref!r} is not a source; name images below an import root, as root:NAME/folder"
        )
    located = places.locate(place)
    if is_remote(ref):
        return None
    path = Path(located)
    if ref.startswith(UPLOAD_REF):
        return path if path.exists() else None
    if not path.exists():
        raise SourceNotFound(f"there is nothing at {ref!r}; look at the folders below the import root")
    return path


def _stored_bytes(path: Path) -> int:
    """Add up what the files of a folder take without loss: the images in it, or else all that is below it.

    Or what as many take as there is time for in a transaction, and these stand for all listed.
    """
    try:
        if path.is_file():
            return _lossless_bytes(path)
        with os.scandir(path) as entries:
            files = [entry for entry in islice(entries, _LISTED_MAX) if entry.is_file()]
        if not any(file.name.lower().endswith(_SECTION_SUFFIXES) for file in files):
            files = list(islice(_files_below(path), _LISTED_MAX))
        looked_at = files[:: max(1, len(files) // _LOOKED_AT_MIN)]
        return sum(map(_lossless_bytes, looked_at)) * len(files) // max(1, len(looked_at))
    except OSError:
        return 0  # the job will say what is wrong with it


def _files_below(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the files of a folder and of all folders below; links to folders are not followed."""
    folders = [str(folder)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_file():
                    yield entry


def _lossless_bytes(file: Path | os.DirEntry[str]) -> int:
    is_lossy = file.name.lower().endswith(_LOSSY_SUFFIXES)
    return file.stat().st_size * (_LOSSLESS_PER_LOSSY if is_lossy else 1)


def _new_place(session: Session, name: str, by: Principal, places: Places) -> str:
    place = dataset_place(by.organization_id, name)
    reserved_by = session.scalar(select(JobRow.id).where(JobRow.reserved_place == place))
    if reserved_by is not None:
        why: str | None = f"job {reserved_by} is making it"
    else:
        why = catalog.why_taken(session, by.organization_id, name, places)
    if why is not None:
        raise TargetExists(f"the name {name!r} is taken ({why}); choose another name")
    return place


def _refuse_other_task(declared: Workflow, params: Params, ref: ModelRef, version: ModelVersionView) -> None:
    flat = declared.flatten_raw(params.model_dump(mode="json"))
    for item in declared.fields:
        if item.tasks and flat.get(item.name) == str(ref) and version.facts.task not in item.tasks:
            raise InvalidInput(
                f"model {str(ref)!r} gives {version.facts.task}, and {' or '.join(item.tasks)} are needed; choose "
                "another one"
            )


def _new_model_place(session: Session, name: str, by: Principal, places: Places) -> str:
    """Give the place of the next version of a model, which no other job is making."""
    own = f"{MODEL}{by.organization_id}/"
    reserved = session.scalars(
        select(JobRow.reserved_place).where(JobRow.reserved_place.startswith(own, autoescape=True))
    )
    return catalog.new_model_place(
        session,
        name,
        organization_id=by.organization_id,
        reserved=[place for place in reserved if place],
        places=places,
    )


def _refuse_path(ref: Ref) -> None:
    if any(part in ref for part in ("/", "\\", "~", ":")) or ref in (".", ".."):
        what = "model" if isinstance(ref, ModelRef | NewModelRef) else "dataset"
        raise UnsafeReference(f"{str(ref)!r} is a path or address; on a server give the name of the {what}")


def _with_values(declared: Workflow, raw: Json, values: Mapping[str, str | list[str]]) -> Json:
    """Give a copy of raw params with other values of some fields."""
    copied: Json = json.loads(json.dumps(raw))
    for item in declared.fields:
        if item.name not in values:
            continue
        given = values[item.name]
        if item.is_repeated:
            for row, value in zip(copied[item.path[0]], given, strict=True):
                row[item.path[1]] = value or None
            continue
        place = copied
        for part in item.path[:-1]:
            place = place[part]
        place[item.path[-1]] = given
    return copied
