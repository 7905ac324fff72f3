"""Says in a few words what a job is about, and what its parameters are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from voxelworks.errors import UnknownWorkflow, VoxelworksError
from voxelworks.protocol.messages import Json
from voxelworks.settings import Settings
from voxelworks.workflows import (
    DatasetRef,
    LayerRef,
    NewDatasetRef,
    NewModelRef,
    ParamField,
    Params,
    SourceRef,
    Workflow,
    get_workflow,
    heading,
    layer_text,
    singular,
)

NOTHING = "–"
"""Shown for what has no value."""


@dataclass(frozen=True)
class ParamView:
    """One parameter of a job, as its page shows it."""

    label: str
    value: str
    is_default: bool


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that stand together: one item of a list, or all that belong to the job as a whole."""

    title: str | None
    params: tuple[ParamView, ...]


def is_priced(settings: Settings, workflow: Workflow | None) -> bool:
    """Whether the jobs of a workflow cost credits here."""
    return settings.credits_enabled and workflow is not None and not workflow.cost.is_free


def find_workflow(name: str) -> Workflow | None:
    """Find a workflow; None if the package that brought it is gone."""
    try:
        return get_workflow(name)
    except UnknownWorkflow:
        return None


def workflow_title(name: str) -> str:
    workflow = find_workflow(name)
    return workflow.title if workflow is not None else heading(name)


def subject(workflow_name: str, raw: Json) -> str:
    """Name what a job makes, or else what it works on; empty if its params cannot be read any more."""
    workflow = find_workflow(workflow_name)
    if workflow is None:
        return ""
    try:
        params = workflow.parse(raw)
    except VoxelworksError:
        return ""
    made, read = (
        list(_named(params, (NewDatasetRef, NewModelRef))),
        list(_named(params, (DatasetRef, LayerRef, SourceRef))),
    )
    names = made or read
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def describe_params(workflow_name: str, raw: Json) -> list[ParamGroup]:
    """List the params in their order of declaration, defaults marked; of an unknown workflow as they were stored."""
    workflow = find_workflow(workflow_name)
    if workflow is None:
        unknown = (ParamView(heading(key), _text(value), False) for key, value in raw.items())
        return [ParamGroup(None, tuple(unknown))]
    groups: list[ParamGroup] = []
    lists = dict.fromkeys(field.path[0] for field in workflow.fields if field.is_repeated)
    for name in lists:
        items = raw.get(name) or []
        fields = [field for field in workflow.fields if field.path[0] == name]
        for number, item in enumerate(items, start=1):
            title = heading(singular(name)) + (f" {number}" if len(items) > 1 else "")
            groups.append(
                ParamGroup(title, tuple(_view(field, _at(item, field.path[1:])) for field in fields))
            )
    plain = tuple(
        _view(field, _at(raw, field.path)) for field in workflow.fields if field.path[0] not in lists
    )
    return [*groups, ParamGroup("Job" if groups else None, plain)]


def _view(field: ParamField, value: object) -> ParamView:
    given, default = _text(value), field.default or NOTHING
    is_default = not field.is_required and given in (NOTHING, default)
    return ParamView(field.label, default if is_default else given, is_default)


def _named(params: Params, kinds: tuple[type, ...]) -> Iterator[str]:
    for name in type(params).model_fields:
        value: object = getattr(params, name)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, kinds):
                yield str(item)
            elif isinstance(item, Params):
                yield from _named(item, kinds)


def _at(raw: object, path: tuple[str, ...]) -> object:
    for part in path:
        raw = raw.get(part) if isinstance(raw, dict) else None
    return raw


def _text(value: object) -> str:
    value = layer_text(value)
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)
    return str(value)
