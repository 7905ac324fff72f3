"""How a workflow is declared: one decorated function, from which every surface is derived."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
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

from voxelworks.errors import InvalidGeometry, InvalidParams, MagNotFound, VoxelworksError
from voxelworks.geometry import Box, Mag, VoxelSize
from voxelworks.protocol.messages import Json, PriorityClass, ResultKind
from voxelworks.protocol.models import ModelTask
from voxelworks.workflows._refs import (
    AnnotationRef,
    DatasetRef,
    LayerRef,
    ModelRef,
    NewDatasetRef,
    NewFileRef,
    NewModelRef,
    SourceRef,
)

if TYPE_CHECKING:
    from voxelworks.protocol.models import ModelFacts
    from voxelworks.protocol.views import AnnotationSummary, DatasetSummary, LayerSummary


class Params(BaseModel):
    """Base of the params of every workflow: strict, frozen, described by the docstrings of its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @property
    def needs_gpu(self) -> bool:
        """Whether a job with these params needs a GPU, where the workflow itself does not."""
        return False


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


class Artifact(Outcome):
    """The job left a file for download."""

    kind = "artifact"
    file: str
    """Name of the file."""


class NewModel(Outcome):
    """The job made a model."""

    kind = "model"
    model: str
    """Name of the new model."""


class Mark:
    """Says something about a param that its type does not, in `Annotated`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


ADVANCED = Mark("ADVANCED")
"""Of a param with a default: forms fold it away."""
ANY_DATASET = Mark("ANY_DATASET")
"""Of an annotation: forms offer those of other datasets, too."""


Device = Literal["cpu", "gpu"]
"""Where a network runs."""


class OfTask(Mark):
    """Of a param that names a model: forms offer only those of these tasks, and servers refuse others at once."""

    def __init__(self, *tasks: ModelTask) -> None:
        super().__init__(f"OfTask{tasks}")
        self.tasks = tasks


_OF_LAYER = Mark("OF_LAYER")
LayerMag = Annotated[Mag, _OF_LAYER]
"""A mag that the layer beside it has: forms offer no others, and servers refuse them at once."""


class Inputs(Protocol):
    """What a server knows of the data that params name, before a job runs."""

    def layer(self, ref: LayerRef) -> LayerSummary:
        """Describe a layer; `InvalidInput` if another job must make it first."""

    def dataset(self, ref: DatasetRef) -> DatasetSummary:
        """Describe a dataset; `InvalidInput` if another job must make it first."""

    def source_bytes(self, ref: SourceRef) -> int:
        """Tell about how much a source takes without loss, in bytes; 0 if that cannot be told."""

    def annotation_bytes(self, ref: AnnotationRef) -> int:
        """Tell how large the file of an annotation is, in bytes; 0 if that cannot be told."""

    def annotation(self, ref: AnnotationRef) -> AnnotationSummary:
        """Tell what an annotation holds; `InvalidInput` if its file is not there yet."""

    def model(self, ref: ModelRef) -> ModelFacts:
        """Give what is known of a model; `InvalidInput` if it was not looked up."""


Measure = Callable[[Any, Inputs], int]
"""Measures a job with these params."""


@dataclass(frozen=True)
class Cost:
    """What a job is charged by: a quantity. Its price is in the price list. Free workflows have none."""

    price: str | None = None
    """Name of the price in the price list."""
    quantity: Measure | None = None
    region: Callable[[Any, Inputs], tuple[Box, Mag]] | None = None
    """Gives the box, in voxels of its mag, whose voxels are the quantity; None if they are counted otherwise."""

    @property
    def is_free(self) -> bool:
        return self.price is None

    def measure(self, params: Params, inputs: Inputs) -> int:
        """Give the voxels to charge for; 0 if free."""
        return 0 if self.quantity is None else self.quantity(params, inputs)


FREE = Cost()


_MagOf = Callable[[Any, Inputs], Mag | None]


def PerGigavoxel(  # noqa: N802 - reads as a kind of cost
    price: str, *, of: str | Measure | None = None, in_mag: Callable[[Any, Inputs], Mag] | None = None
) -> Cost:
    """Charge by the voxels that a job works on.

    Parameters
    ----------
    price
        Name of the price in the price list.
    of
        Name of the param that says in which mag voxels are counted, such as `target_mag`; by default the finest mag of
        the layer. Counted is the param `box`, if there is one and it is given, otherwise the whole param `layer`.
        Or a function that counts.
    in_mag
        Function that tells that mag, in place of a param.
    """
    if callable(of):
        return Cost(price, of)
    mag_of = partial(_mag_in_param, of) if in_mag is None else in_mag
    return Cost(price, partial(_voxels_in_mag, mag_of), partial(_region_in_mag, mag_of))


def _mag_in_param(name: str | None, params: Any, _inputs: Inputs) -> Mag | None:
    return None if name is None else getattr(params, name)


def _voxels_in_mag(mag_of: _MagOf, params: Any, inputs: Inputs) -> int:
    box, _ = _region_in_mag(mag_of, params, inputs)
    return box.voxel_count


def _region_in_mag(mag_of: _MagOf, params: Any, inputs: Inputs) -> tuple[Box, Mag]:
    box: Box | None = getattr(params, "box", None)
    mag = mag_of(params, inputs)
    if box is not None and mag is not None:
        return box.in_mag(mag), mag
    layer = inputs.layer(params.layer)
    mag = mag or finest_mag(layer)
    return (box or Box.parse(layer.box)).in_mag(mag), mag


def finest_mag(layer: LayerSummary) -> Mag:
    return Mag.parse(layer.mags[0] if layer.mags else "1")


def raw_bytes(layer: LayerSummary) -> int:
    """Give the size of the finest voxels of a layer before compression, in bytes."""
    mag = finest_mag(layer)
    bits = int("".join(filter(str.isdigit, layer.dtype)) or 8)
    return Box.parse(layer.box).in_mag(mag).voxel_count * layer.channel_count * bits // 8


def box_bytes(layer: LayerSummary, box: Box | None, mag: Mag | None) -> int:
    """Give the size of the voxels of a box, by default the whole layer in its finest mag, in bytes."""
    part = layer.model_copy(update={"box": str(box or layer.box), "mags": (str(mag or finest_mag(layer)),)})
    return raw_bytes(part)


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
    "annotation",
    "model",
    "new_dataset",
    "new_file",
    "new_model",
    "text",
    "choice",
    "flag",
    "int",
    "float",
    "mag",
    "voxel_size",
    "box",
]
_PROPER = {
    "tiff": "TIFF",
    "ome": "OME",
    "zarr": "Zarr",
    "voi": "VOI",
    "rand": "Rand",
    "iou": "IoU",
    "f1": "F1",
    "erl": "ERL",
}
"""Words of names that are not written small."""
DATA_KINDS: frozenset[FieldKind] = frozenset(
    {"dataset", "layer", "source", "annotation", "new_dataset", "new_file", "new_model", "box"}
)
"""Fields that name what one job works on, or what it makes."""
_KINDS: dict[type, FieldKind] = {
    DatasetRef: "dataset", NewDatasetRef: "new_dataset", NewFileRef: "new_file", SourceRef: "source",
    AnnotationRef: "annotation", ModelRef: "model", NewModelRef: "new_model",
    bool: "flag", int: "int", float: "float", str: "text", Mag: "mag", VoxelSize: "voxel_size", Box: "box",
}  # fmt: skip


def words_of(name: str) -> str:
    """Write a name of code as people do, inside a sentence."""
    return " ".join(_PROPER.get(word, word) for word in name.split("_"))


def heading(name: str) -> str:
    """Write a name of code as people do, by itself."""
    words = words_of(name)
    return words[:1].upper() + words[1:]


def singular(name: str) -> str:
    """Give what one item of a list is called: `boxes` -> `box`, `layers` -> `layer`."""
    return name[:-2] if name.endswith("xes") else name.removesuffix("s")


@dataclass(frozen=True)
class ParamField:
    """One thing a person fills in: a command-line option, or an input of a form.

    Nested params are flattened: a layer reference gives the fields `dataset` and its own name, such as `layer`, each
    further one `NAME_dataset` and `NAME`; a list of models gives its fields with `is_repeated`, filled in once for
    each item.
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
    of: str | None = None
    """Of a box, or a mag that must be there: name of the layer field that it is a part of."""
    is_advanced: bool = False
    """Few people need it; it has a default."""
    is_of_any_dataset: bool = False
    """Of an annotation: it may be one of another dataset than the first."""
    tasks: tuple[ModelTask, ...] = ()
    """Of a model: the only tasks that will do."""

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def label(self) -> str:
        return heading(self.name)


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
    outcome_of: Callable[[Any, ForeignResult], Outcome] | None
    """Turns params, and what a worker of WEBKNOSSOS left, into the outcome; `InvalidParams` if that cannot be one.
    None: workers of that system are not given it."""
    params_of: Callable[[Mapping[str, Any]], Json] | None = None
    """Turns arguments into raw params; `dataset_name` names the dataset. None: not to be started by that protocol."""
    return_value_of: Callable[[Json], str] | None = None
    """Turns our outcome into the text that the command returns; None if it returns none."""


@dataclass(frozen=True)
class MadeLayer:
    """A layer of a dataset that a job will make."""

    name: str
    category: Literal["color", "segmentation"]


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
    makes: Callable[[Any], Sequence[MadeLayer]] | None = None
    """Tells from params which layers the new dataset will have: offered to a job that goes on with it."""
    file_name: Callable[[Any], str] | None = None
    """Tells from params how the file is called that the job leaves; locally its path. Given for artifacts."""
    preloads: tuple[str, ...] | None = None
    """Modules that its blocks need, loaded once for all processes; by default what most blocks need."""

    @property
    def title(self) -> str:
        return heading(self.name)

    @cached_property
    def fields(self) -> tuple[ParamField, ...]:
        """What a person fills in.

        Raises
        ------
        TypeError
            If no dialog can offer a param.
        """
        return tuple(_fields(self.params_type))

    def needs_of(self, params: Params) -> Needs:
        """Tell what a worker must have for a job: a GPU also where params ask for one."""
        return replace(self.needs, gpu=self.needs.gpu or params.needs_gpu)

    def parse(self, raw: Mapping[str, Any]) -> Params:
        """Check params.

        Raises
        ------
        InvalidParams
            Naming each wrong value and its place.
        """
        return parse_model(self.params_type, raw)

    def collect(self, values: Mapping[str, str | bool | Sequence[str]]) -> Json:
        """Build nested raw params from the flat values of options or form inputs; empty ones are left out.

        A layer may be given as `DATASET/LAYER`, without its dataset.
        """
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
            *outer, last = field.path
            if field.kind == "layer" and "/" in str(value) and not values.get(self._beside(field).name):
                *outer, last = outer  # DATASET/LAYER says both
            for part in outer:
                place = place.setdefault(part, {})
            place[last] = value
        for name, columns in repeated.items():
            raw[name] = _rows(self, name, columns)
        return raw

    def _beside(self, field: ParamField) -> ParamField:
        """Give the field for the dataset of a layer."""
        return next(
            item for item in self.fields if item.kind == "dataset" and item.path[:-1] == field.path[:-1]
        )

    def flatten(self, params: Params) -> dict[str, str | list[str]]:
        """Give the flat text values that `collect` turns back into equal params; defaults are left out."""
        lists = {field.path[0] for field in self.fields if field.is_repeated}
        whole = params.model_dump(mode="json")
        raw = params.model_dump(mode="json", exclude_defaults=True)
        return self.flatten_raw(raw | {name: whole[name] for name in lists if name in whole})

    def flatten_raw(self, raw: Json) -> dict[str, str | list[str]]:
        """Do the same for raw params, of which some may be missing."""
        flat: dict[str, str | list[str]] = {}
        for field in self.fields:
            if field.is_repeated:
                rows = [layer_text(item.get(field.path[1])) for item in raw.get(field.path[0]) or []]
                if rows and any(row is not None for row in rows):
                    flat[field.name] = [_text(row) or "" for row in rows]
                continue
            value: Any = raw
            for part in field.path:
                if isinstance(value, str):  # DATASET/LAYER
                    value = dict(zip(("dataset", "layer"), value.rpartition("/")[::2], strict=True))
                value = value.get(part) if isinstance(value, dict) else None
            if value is not None:
                flat[field.name] = _text(value) or ""
        return flat

    def without_data(self, raw: Mapping[str, Any]) -> Json:
        """Give raw params without what names data: datasets, layers, boxes, sources."""
        flat = self.flatten_raw(dict(raw))
        return self.collect(
            {
                field.name: flat[field.name]
                for field in self.fields
                if field.kind not in DATA_KINDS and field.name in flat
            }
        )

    def check_some(self, raw: Mapping[str, Any]) -> None:
        """Check params of which some may be missing.

        Raises
        ------
        InvalidParams
            Naming each wrong value and its place.
        """
        try:
            self.params_type.model_validate(dict(raw))
        except ValidationError as error:
            wrong = [item for item in error.errors(include_url=False) if item["type"] != "missing"]
            if wrong:
                raise InvalidParams("; ".join(map(_problem, wrong))) from error


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
    makes: Callable[[Any], Sequence[MadeLayer]] | None = None,
    file_name: Callable[[Any], str] | None = None,
    preloads: Sequence[str] | None = None,
) -> Callable[[_F], _F]:
    """Declare the decorated function as a workflow and return it unchanged.

    Params and outcome types are read from its annotations, texts from the docstrings.
    """

    def declare(function: _F) -> _F:
        hints = get_type_hints(function)
        params_type, outcome_type = hints["params"], hints["return"]
        if not (issubclass(params_type, Params) and issubclass(outcome_type, Outcome)):
            raise TypeError(f"{function.__name__}: needs `params: Params subclass` and `-> Outcome subclass`")
        if (outcome_type.kind == "artifact") != (file_name is not None):
            raise TypeError(
                f"{function.__name__}: `file_name` is for workflows that leave a file, and needed there"
            )
        description = inspect.cleandoc(function.__doc__ or "")
        function.__workflow__ = Workflow(  # type: ignore[attr-defined]
            name=function.__name__, version=version, params_type=params_type, outcome_type=outcome_type, cost=cost,
            example=example, summary=description.split("\n\n")[0].replace("\n", " "), description=description,
            group=group, run=function, aliases=aliases, upgrade=upgrade, foreign=tuple(foreign),
            priority_class=priority_class, needs=needs, cancel_grace_s=cancel_grace_s,
            result_bytes=result_bytes, makes=makes, file_name=file_name,
            preloads=None if preloads is None else tuple(preloads),
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
            if is_repeated:  # one text for each item: two lists of unequal length could not be told apart
                help_ = f"{info.description or ''} Written `DATASET/LAYER`."
                found.append(
                    ParamField(name, path, "text", help_, info.is_required(), None, is_repeated=True)
                )
                continue
            needed, help_ = info.is_required(), info.description or ""
            # A further layer may be one of another dataset.
            is_further = any(field.kind == "layer" for field in found)
            beside = f"{name}_dataset" if is_further else "dataset"
            about = f"Dataset of the layer `{name}`." if is_further else "Dataset to work on."
            found += [
                ParamField(beside, (*path, "dataset"), "dataset", about, needed, None),
                ParamField(name, (*path, "layer"), "layer", help_, needed, None, category=kind.category),
            ]
        else:
            choices: tuple[str, ...] = ()
            if get_origin(kind) is Literal:
                field_kind: FieldKind = "choice"
                choices = tuple(str(choice) for choice in get_args(kind))
            elif kind in _KINDS:
                field_kind = _KINDS[kind]
            else:
                raise TypeError(f"{model.__name__}.{name}: {kind} cannot be filled in by a person")
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
                    is_advanced=ADVANCED in info.metadata,
                    is_of_any_dataset=ANY_DATASET in info.metadata,
                    tasks=next((mark.tasks for mark in info.metadata if isinstance(mark, OfTask)), ()),
                )
            )
    layers = [field.name for field in found if field.kind == "layer" and field.path[:-2] == prefix]
    return [
        replace(field, of=layers[0]) if layers and _is_of_layer(model, field, prefix) else field
        for field in found
    ]


def _is_of_layer(model: type[BaseModel], field: ParamField, prefix: tuple[str, ...]) -> bool:
    if field.path[:-1] != prefix:
        return False
    return field.kind == "box" or _is_layer_mag(model.model_fields[field.path[-1]])


def _is_layer_mag(info: FieldInfo) -> bool:
    # Where `None` is possible too, the mark stands inside the union.
    parts = (info.annotation, *get_args(info.annotation))
    return _OF_LAYER in info.metadata or any(
        _OF_LAYER in get_args(part)[1:] for part in parts if get_origin(part) is Annotated
    )


@dataclass(frozen=True)
class LayerPart:
    """A layer that params name, with the box and the mag of it that stand beside it."""

    layer: LayerRef
    box: Box | None = None
    """Mag 1."""
    mag: Mag | None = None


def layer_parts(params: BaseModel) -> Iterator[LayerPart]:
    """Yield every layer that params name, nested ones too, in order of declaration."""
    box: Box | None = None
    mag: Mag | None = None
    layers: list[LayerRef] = []
    for name, info in type(params).model_fields.items():
        value: object = getattr(params, name)
        if isinstance(value, LayerRef):
            layers.append(value)
        elif isinstance(value, Box):
            box = value
        elif isinstance(value, Mag) and _is_layer_mag(info):
            mag = value
        else:
            for item in value if isinstance(value, tuple) else (value,):
                if isinstance(item, BaseModel):
                    yield from layer_parts(item)
    for position, layer in enumerate(layers):
        yield LayerPart(layer, box, mag) if position == 0 else LayerPart(layer)


def check_part(layer: LayerSummary, box: Box | None, mag: Mag | None = None) -> None:
    """Refuse a box that leaves a layer, and a mag that it does not have.

    Raises
    ------
    InvalidGeometry, MagNotFound
    """
    if box is not None:
        check_box(layer.name, Box.parse(layer.box), box)
    if mag is not None and str(mag) not in layer.mags:
        raise MagNotFound(
            f"layer {layer.name} has no mag {str(mag)!r}; it has {', '.join(layer.mags) or 'none'}"
        )


def check_box(layer_name: str, whole: Box, box: Box) -> None:
    """Refuse a box that is empty or leaves a layer, which is `whole`; `InvalidGeometry` says so."""
    if box.is_empty:
        raise InvalidGeometry(f"box {str(box)!r} is empty; each side must be 1 voxel or more")
    if not whole.contains(box):
        inside = whole.intersect(box)
        remedy = "choose one inside it" if inside.is_empty else f"the part inside it is {inside}"
        raise InvalidGeometry(f"box {str(box)!r} leaves layer {layer_name}, which is {whole}; {remedy}")


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


def layer_text(value: object) -> object:
    """Write a layer as one text, as it is filled in for the items of a list."""
    if isinstance(value, dict) and value.keys() == {"dataset", "layer"}:
        return f"{value['dataset']}/{value['layer']}"
    return value


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
    if not where:  # about several together
        return message
    return (
        f"{where}: {message}"
        if isinstance(cause, VoxelworksError)
        else f"{where} = {item['input']!r}: {message}"
    )
