"""How a workflow is declared: one decorated function, from which every surface is derived."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from voxelworks.errors import InvalidParams, VoxelworksError
from voxelworks.geometry import Box, Mag, VoxelSize
from voxelworks.protocol.messages import Json, PriorityClass, ResultKind
from voxelworks.workflows._refs import DatasetRef, LayerRef, NewDatasetRef, SourceRef

if TYPE_CHECKING:
    from voxelworks.protocol.views import DatasetSummary, LayerSummary


class Params(BaseModel):
    """Base of the params of every workflow: strict, frozen, described by the docstrings of its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Outcome(BaseModel):
    """Base of what a workflow gives back; its fields are the answer that users see."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    kind: ClassVar[ResultKind]


class NewDataset(Outcome):
    """The job made a dataset."""

    kind = "dataset"
    dataset: str
    """Name of the new dataset."""
    layers: tuple[str, ...]
    """Its layers."""


class LayerAddition(Outcome):
    """The job added to a layer of a dataset."""

    kind = "addition"
    dataset: str
    """Name of the dataset."""
    layer: str
    """The layer that was added to."""


class DatasetPreviews(Outcome):
    """The job made pictures of a dataset, and left the dataset as it is."""

    kind = "previews"
    dataset: str
    """Name of the dataset."""


class Inputs(Protocol):
    """What a server knows of the data that params name, before a job runs."""

    def layer(self, ref: LayerRef) -> LayerSummary:
        """Describe a layer; `InvalidInput` if another job must make it first."""

    def source_bytes(self, ref: SourceRef) -> int:
        """Tell about how much a source takes without loss, in bytes; 0 if that cannot be told."""


Measure = Callable[[Any, Inputs], int]
"""Measures a job with these params."""


@dataclass(frozen=True)
class Cost:
    """What a job is charged by: a quantity. Its price is in the price list. Free workflows have none."""

    price: str | None = None
    """Name of the price in the price list."""
    quantity: Measure | None = None

    @property
    def is_free(self) -> bool:
        return self.price is None

    def measure(self, params: Params, inputs: Inputs) -> int:
        """Give the voxels to charge for; 0 if free."""
        return 0 if self.quantity is None else self.quantity(params, inputs)


FREE = Cost()


def PerGigavoxel(price: str, *, of: str | Measure | None = None) -> Cost:  # noqa: N802 - reads as a kind of cost
    """Charge by the voxels that a job works on.

    Parameters
    ----------
    price
        Name of the price in the price list.
    of
        Name of the param that says in which mag voxels are counted, such as `target_mag`; by default the finest mag of
        the layer. Counted is the param `box`, if there is one and it is given, otherwise the whole param `layer`.
        Or a function that counts.
    """
    return Cost(price, of if callable(of) else partial(_voxels_in_mag, of))


def _voxels_in_mag(mag_param: str | None, params: Any, inputs: Inputs) -> int:
    box: Box | None = getattr(params, "box", None)
    mag: Mag | None = getattr(params, mag_param) if mag_param is not None else None
    if box is None or mag is None:
        layer = inputs.layer(params.layer)
        box = box or Box.parse(layer.box)
        mag = mag or Mag.parse(layer.mags[0] if layer.mags else "1")
    return box.in_mag(mag).voxel_count


def raw_bytes(layer: LayerSummary) -> int:
    """Give the size of the finest voxels of a layer before compression, in bytes."""
    mag = Mag.parse(layer.mags[0] if layer.mags else "1")
    bits = int("".join(filter(str.isdigit, layer.dtype)) or 8)
    return Box.parse(layer.box).in_mag(mag).voxel_count * layer.channel_count * bits // 8


@dataclass(frozen=True)
class Needs:
    """What a worker must have to run a job."""

    gpu: bool = False
    memory_bytes: int | None = None
    """Memory that the first attempt gets, in bytes; by default all that the worker gives to one job."""
    walltime_s: int | None = None
    """Time that an attempt may take, in seconds: workers that must leave earlier do not get it. Then it is stopped."""


FieldKind = Literal[
    "dataset",
    "layer",
    "source",
    "new_dataset",
    "text",
    "choice",
    "flag",
    "int",
    "float",
    "mag",
    "voxel_size",
    "box",
]
_KINDS: dict[type, FieldKind] = {
    DatasetRef: "dataset", NewDatasetRef: "new_dataset", SourceRef: "source",
    bool: "flag", int: "int", float: "float", str: "text", Mag: "mag", VoxelSize: "voxel_size", Box: "box",
}  # fmt: skip


@dataclass(frozen=True)
class ParamField:
    """One thing a person fills in: a command-line option, or an input of a form.

    Nested params are flattened: a layer reference gives the fields `dataset` and `layer`; a list of models gives
    its fields with `is_repeated`, filled in once for each item.
    """

    name: str
    """Unique in the workflow: option `--layer-name`, form input `layer_name`."""
    path: tuple[str, ...]
    """Where its value stands in the params."""
    kind: FieldKind
    help: str
    is_required: bool
    default: str | None
    """Text form of the default, if there is one."""
    choices: tuple[str, ...] = ()
    is_repeated: bool = False
    category: str | None = None
    """Of a layer: the only category that will do."""

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def label(self) -> str:
        return self.name.replace("_", " ").capitalize()


@dataclass(frozen=True)
class ForeignResult:
    """What a worker of another system leaves of a job that succeeded."""

    return_value: str | None
    """Text that it reported."""
    summary: DatasetSummary | None
    """The dataset that it made, if the workflow makes one."""


@dataclass(frozen=True)
class ForeignName:
    """The command of WEBKNOSSOS' job protocol that a workflow is, and how arguments and results are translated."""

    command: str
    args_of: Callable[[Any], Json]
    """Turns params into the arguments of the command, besides those that every command has (organization, dataset)."""
    outcome_of: Callable[[Any, ForeignResult], Outcome]
    """Turns params, and what a worker of WEBKNOSSOS left, into the outcome; `InvalidParams` if that cannot be one."""
    params_of: Callable[[Mapping[str, Any]], Json] | None = None
    """Turns arguments into raw params; `dataset_name` names the dataset. None: not to be started by that protocol."""
    return_value_of: Callable[[Json], str] | None = None
    """Turns our outcome into the text that the command returns; None if it returns none."""


@dataclass(frozen=True)
class Workflow:
    """A kind of work, with all that its surfaces need to know."""

    name: str
    version: int
    params_type: type[Params]
    outcome_type: type[Outcome]
    cost: Cost
    example: Json
    summary: str
    """One sentence."""
    description: str
    """The whole docstring."""
    group: str
    run: Callable[..., Outcome]
    aliases: tuple[str, ...] = ()
    upgrade: Callable[[Json], Json] | None = None
    """Turns params of the version before into those of this one."""
    foreign: tuple[ForeignName, ...] = ()
    """What it is called in WEBKNOSSOS' job protocol."""
    priority_class: PriorityClass = "long"
    """Workers have separate slots for each class, so that short jobs never wait behind long ones."""
    needs: Needs = Needs()
    cancel_grace_s: float | None = None
    """Time that a cancelled job has to stop by itself, in seconds; by default what the server's setting says."""
    result_bytes: Measure | None = None
    """Estimates how much a job's result takes, in bytes, before it runs: compared with the quota."""

    @property
    def title(self) -> str:
        return self.name.replace("_", " ").capitalize()

    @property
    def fields(self) -> tuple[ParamField, ...]:
        return tuple(_fields(self.params_type))

    def parse(self, raw: Mapping[str, Any]) -> Params:
        """Check params.

        Raises
        ------
        InvalidParams
            Naming each wrong value and its place.
        """
        return parse_model(self.params_type, raw)

    def collect(self, values: Mapping[str, str | bool | Sequence[str]]) -> Json:
        """Build nested raw params from the flat values of options or form inputs; empty ones are left out."""
        raw: Json = {}
        repeated: dict[str, dict[str, list[str]]] = {}
        for field in self.fields:
            value = values.get(field.name)
            if value is None or value == "" or (isinstance(value, list | tuple) and not any(value)):
                continue
            if field.is_repeated:
                items = [value] if isinstance(value, str) else [str(item) for item in value]  # type: ignore[union-attr]
                repeated.setdefault(field.path[0], {})[field.path[1]] = items
                continue
            place = raw
            for part in field.path[:-1]:
                place = place.setdefault(part, {})
            place[field.path[-1]] = value
        for name, columns in repeated.items():
            raw[name] = _rows(self, name, columns)
        return raw

    def flatten(self, params: Params) -> dict[str, str | list[str]]:
        """Give the flat text values that `collect` turns back into equal params; defaults are left out."""
        raw = params.model_dump(mode="json", exclude_defaults=True)
        flat: dict[str, str | list[str]] = {}
        for field in self.fields:
            if field.is_repeated:
                rows = [
                    item.get(field.path[1]) for item in params.model_dump(mode="json").get(field.path[0], [])
                ]
                if rows and any(row is not None for row in rows):
                    flat[field.name] = [_text(row) or "" for row in rows]
                continue
            value: Any = raw
            for part in field.path:
                value = value.get(part) if isinstance(value, dict) else None
            if value is not None:
                flat[field.name] = _text(value) or ""
        return flat


def parse_model(model: type[_P], raw: Mapping[str, Any]) -> _P:
    """Validate and turn pydantic's report into one clear error."""
    try:
        return model.model_validate(dict(raw))
    except ValidationError as error:
        raise InvalidParams("; ".join(_problem(item) for item in error.errors(include_url=False))) from error


_P = TypeVar("_P", bound=BaseModel)
_F = TypeVar("_F", bound=Callable[..., Outcome])


def workflow(
    *,
    version: int,
    cost: Cost,
    example: Json,
    group: str = "Data",
    aliases: tuple[str, ...] = (),
    upgrade: Callable[[Json], Json] | None = None,
    foreign: Sequence[ForeignName] = (),
    priority_class: PriorityClass = "long",
    needs: Needs = Needs(),
    cancel_grace_s: float | None = None,
    result_bytes: Measure | None = None,
) -> Callable[[_F], _F]:
    """Declare the decorated function as a workflow and return it unchanged.

    Params and outcome types are read from its annotations, texts from the docstrings.
    """

    def declare(function: _F) -> _F:
        hints = get_type_hints(function)
        params_type, outcome_type = hints["params"], hints["return"]
        if not (issubclass(params_type, Params) and issubclass(outcome_type, Outcome)):
            raise TypeError(f"{function.__name__}: needs `params: Params subclass` and `-> Outcome subclass`")
        description = inspect.cleandoc(function.__doc__ or "")
        function.__workflow__ = Workflow(  # type: ignore[attr-defined]
            name=function.__name__, version=version, params_type=params_type, outcome_type=outcome_type, cost=cost,
            example=example, summary=description.split("\n\n")[0].replace("\n", " "), description=description,
            group=group, run=function, aliases=aliases, upgrade=upgrade, foreign=tuple(foreign),
            priority_class=priority_class, needs=needs, cancel_grace_s=cancel_grace_s,
            result_bytes=result_bytes,
        )  # fmt: skip
        return function

    return declare


def _fields(
    model: type[BaseModel], prefix: tuple[str, ...] = (), *, is_repeated: bool = False
) -> list[ParamField]:
    found: list[ParamField] = []
    for name, info in model.model_fields.items():
        kind = _plain_type(info.annotation)
        path = (*prefix, name)
        if get_origin(kind) is tuple:
            item = get_args(kind)[0]
            if prefix or not (isinstance(item, type) and issubclass(item, BaseModel)):
                raise TypeError(
                    f"{model.__name__}.{name}: lists of models are supported at the top level only"
                )
            found += _fields(item, path, is_repeated=True)
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            if not issubclass(kind, LayerRef):
                raise TypeError(f"{model.__name__}.{name}: {kind.__name__} cannot be filled in by a person")
            needed, help_ = info.is_required(), info.description or ""
            found += [
                ParamField("dataset", (*path, "dataset"), "dataset", "Dataset to work on.", needed, None),
                ParamField(name, (*path, "layer"), "layer", help_, needed, None, category=kind.category),
            ]
        else:
            choices: tuple[str, ...] = ()
            if get_origin(kind) is Literal:
                field_kind: FieldKind = "choice"
                choices = tuple(str(choice) for choice in get_args(kind))
            else:
                field_kind = _KINDS[kind]
            found.append(
                ParamField(
                    name,
                    path,
                    field_kind,
                    info.description or "",
                    info.is_required(),
                    _default(info),
                    choices,
                    is_repeated,
                )
            )
    return found


def _plain_type(annotation: Any) -> Any:
    """Strip `Annotated` and `| None`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _plain_type(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        inner = [arg for arg in get_args(annotation) if arg is not type(None)]
        if len(inner) == 1:
            return _plain_type(inner[0])
    return annotation


def _default(info: FieldInfo) -> str | None:
    value = info.get_default(call_default_factory=False)
    return None if value is None or value is PydanticUndefined else _text(value)


def _text(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _rows(workflow: Workflow, name: str, columns: dict[str, list[str]]) -> list[Json]:
    count = max(len(items) for items in columns.values())
    options = {field.path[1]: field.option for field in workflow.fields if field.path[0] == name}
    for key, items in columns.items():
        if len(items) not in (1, count):
            raise InvalidParams(
                f"{options[key]} is given {len(items)} times, but another option {count} times; give it once for each"
            )
    rows = [
        {key: items[0] if len(items) == 1 else items[row] for key, items in columns.items()}
        for row in range(count)
    ]
    return [{key: value for key, value in row.items() if value != ""} for row in rows]


def _problem(item: Any) -> str:
    cause = item.get("ctx", {}).get("error")
    message = str(cause) if isinstance(cause, VoxelworksError) else item["msg"]
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "missing":
        return f"{where} is missing"
    if item["type"] == "extra_forbidden":
        return f"{where} is not a parameter of this workflow"
    return (
        f"{where}: {message}"
        if isinstance(cause, VoxelworksError)
        else f"{where} = {item['input']!r}: {message}"
    )
