"""What a job answered, as rows of a table and links."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from voxelworks import accounts, catalog
from voxelworks.accounts import Action
from voxelworks.errors import DatasetNotFound
from voxelworks.protocol.messages import SealedResult
from voxelworks.protocol.people import Principal
from voxelworks.protocol.places import MODEL
from voxelworks.protocol.views import DatasetView, JobView, ModelView
from voxelworks.server.context import Context
from voxelworks.server.pictures import ShownLayer, shown_layers
from voxelworks.server.rendering import bytes_text
from voxelworks.server.segments import TableFile, tables_of
from voxelworks.workflows import heading, words_of

LAYERS_MAX = 3
"""Layers of which the page of a job shows pictures."""
MEASURES = "compute_segment_statistics"
"""The workflow that leaves a table."""
GIVES_OUT, TAKES_BACK = "export_training_box", "import_training_labels"
"""The workflow that leaves a box to label, and the one that takes it when it is painted."""


_TOLD_MAX = 5
"""Facts in the line of a result: the page of the job has all."""


@dataclass(frozen=True)
class ResultView:
    """The result of a job."""

    values: tuple[tuple[str, str], ...]
    """Names and texts of what the workflow answered."""
    groups: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    """Further ones, folded away: their name, and what is in each."""
    dataset: DatasetView | None
    """Where it can be opened; None if it is gone, or the job made no files."""
    size_bytes: int
    view: str | None
    """Path of the viewer, looking at the box of the job; None if there is nothing to look at."""
    model: ModelView | None
    """That it made a version of; None if it is gone, or the job made none."""


def describe_result(context: Context, job: JobView) -> ResultView | None:
    """Describe a result that counts; None while there is none."""
    if job.result is None or job.state != "succeeded":
        return None
    place = job.result.place if job.publication == "published" else None
    dataset = _dataset(context, place)
    told = job.result.value
    groups = {key: _facts(value) for key, value in told.items() if isinstance(value, Mapping)}
    values = _facts({key: value for key, value in told.items() if key not in groups})
    named = tuple((heading(key), group) for key, group in groups.items() if group)
    return ResultView(
        values, named, dataset, job.result.size_bytes, view_of(job, dataset), _model(context, place)
    )


def result_pictures(result: ResultView | None, job: JobView, who: Principal) -> tuple[ShownLayer, ...]:
    """Give the pictures of what a job made or added to, for those who may see its dataset."""
    if result is None or result.dataset is None or job.result is None:
        return ()
    if not (result.dataset.organization_id == who.organization_id or result.dataset.is_public):
        return ()
    layer = job.result.layer
    names = [layer] if layer is not None else [item.name for item in result.dataset.summary.layers]
    return shown_layers(result.dataset, names[:LAYERS_MAX])


def result_tables(
    context: Context, result: ResultView | None, job: JobView, who: Principal
) -> tuple[TableFile, ...]:
    """Give the files of the table that a job has measured, for those who may read its dataset."""
    if result is None or result.dataset is None or job.result is None or job.workflow != MEASURES:
        return ()
    return tables_of(context, who, result.dataset).get(job.result.layer or "", ())


def take_back(context: Context, job: JobView, who: Principal) -> str | None:
    """Give the path of the page on which a box that a job gave out is uploaded when it is painted.

    None for other jobs, and where labels cannot be put back, as into a dataset that is only linked.
    """
    if job.workflow != GIVES_OUT or job.result is None or job.publication != "published":
        return None
    told = job.result.value
    try:
        with context.database.read_session() as session:
            dataset = catalog.find(session, str(told["dataset"]), by=who)
    except DatasetNotFound:
        return None
    if not (catalog.is_changeable(dataset, by=who) and accounts.is_allowed(who, Action.ADD_TO_DATASET)):
        return None
    known = {"dataset": told["dataset"], "box": told["box"], "mag": told["mag"]}
    # Labels that were corrected keep their ids: other boxes may show the same objects.
    ids = {"ids": "keep"} if job.params.get("start_from") else {}
    return "/uploads/new?" + urlencode({"then": TAKES_BACK, **known, **ids})


def result_line(result: SealedResult) -> str:
    """Say a result in one line, without the names that the job's title has already."""
    parts = [
        f"{words_of(key)} {_text(value)}"
        for key, value in result.value.items()
        if key not in ("dataset", "layer") and not isinstance(value, Mapping)
    ]
    size = [bytes_text(result.size_bytes)] if result.size_bytes else []
    line = " · ".join(parts[:_TOLD_MAX] + size)
    return line[:1].upper() + line[1:]


def view_of(job: JobView, dataset: DatasetView | None) -> str | None:
    """Give the path of the viewer for the result of a job; None if there is nothing to look at."""
    if dataset is None or dataset.trashed_ms is not None or not dataset.summary.layers:
        return None
    box = job.params.get("box") or next(iter(_boxes(job)), None)
    query = urlencode({"box": box}) if isinstance(box, str) else ""
    return f"/datasets/{dataset.id}/view" + (f"?{query}" if query else "")


def _boxes(job: JobView) -> list[object]:
    """Give the boxes that a job has put into a layer."""
    told = job.result.value.get("boxes") if job.result is not None else None
    return told if isinstance(told, list) else []


def _dataset(context: Context, place: str | None) -> DatasetView | None:
    if place is None:
        return None
    with context.database.read_session() as session:
        return catalog.find_by_place(session, place)


def _model(context: Context, place: str | None) -> ModelView | None:
    if place is None or not place.startswith(MODEL):
        return None
    with context.database.read_session() as session:
        return catalog.find_model_by_place(session, place)


def _facts(values: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    return tuple((heading(key), _text(value)) for key, value in values.items())


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        # Thin groups of three: ids and counts run to twenty digits.
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value) or "none"
    return "–" if value is None else str(value)
