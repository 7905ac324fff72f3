"""The form of a workflow, derived from its declaration: what to show, what was filled in, what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import ValidationError

from voxelworks.errors import InvalidInput, VoxelworksError
from voxelworks.geometry import Box, Mag, VoxelSize
from voxelworks.protocol.models import ModelFacts
from voxelworks.protocol.views import AnnotationView, DatasetView, LayerSummary, ModelView
from voxelworks.server.pictures import ShownSlice, shown_slices
from voxelworks.server.rendering import count_text, physical_text, size_text
from voxelworks.workflows import (
    DATA_KINDS,
    MadeLayer,
    ParamField,
    Workflow,
    check_part,
    finest_mag,
    heading,
    singular,
)

RUNS = "runs"
"""Name of the group of inputs that each of several jobs has for itself: a dataset, and what belongs to it."""
TEST_SIZE = (256, 256, 256)
"""Most voxels (x, y, z) of a test run."""
PLACEHOLDERS = {
    "source": "root:NAME/folder",
    "annotation": "id of an annotation",
    "model": "name of a model",
    "new_dataset": "my-dataset",
    "new_model": "my-model",
    "mag": "16-16-4",
    "voxel_size": "4,4,40",
    "box": "whole layer, or x,y,z,width,height,depth",
}

Values = Mapping[str, Sequence[str]]
"""Flat values by name of input; several for an input that is filled in once for each item."""


@dataclass(frozen=True)
class Choice:
    """One of the values that an input offers."""

    value: str
    text: str


@dataclass(frozen=True)
class Stock:
    """What there is to choose from."""

    datasets: tuple[DatasetView, ...] = ()
    """Of the own organization."""
    foreign: tuple[DatasetView, ...] = ()
    """Of other organizations: named by their ids alone, as an own one may have the same name."""
    drawn: Mapping[str, tuple[Choice, ...]] = field(default_factory=dict)
    """Boxes that people drew in annotations, by id of the dataset."""
    annotations: tuple[AnnotationView, ...] = ()
    """Those that jobs can read, newest first."""
    models: tuple[ModelView, ...] = ()
    """Own, shared and installed ones."""
    organization_id: str = ""
    """Whose stock it is."""

    def find(self, ref: str) -> DatasetView | None:
        own = {item.name: item for item in self.datasets}
        by_id = {item.id: item for item in (*self.foreign, *self.datasets)}
        return own.get(ref) or by_id.get(ref)

    def ref_of(self, model: ModelView) -> str:
        """Name a model as jobs do: own and installed ones by name, those of others by id."""
        return model.name if model.organization_id in (None, self.organization_id) else model.id

    def find_model(self, ref: str) -> tuple[ModelView, ModelFacts, str] | None:
        """Find a version of a model: give the model, what is known of the version, and what to call it."""
        name, _, number = ref.rpartition("@") if re.search(r"@[0-9]{1,9}$", ref) else (ref, "", "")
        for model in self.models:
            version = model.version(int(number) if number else None)
            if name in (self.ref_of(model), model.id) and version is not None:
                title = model.name + (f", version {version.number}" if number else "")
                return model, version.facts, title
        return None

    def name_of(self, ref: str) -> str:
        """Name an own dataset by its name, by which it is listed, and any other as it was."""
        found = self.find(ref)
        return found.name if found in self.datasets else ref

    def without(self, refs: Iterable[str]) -> tuple[DatasetView, ...]:
        """Give the own datasets that are not named yet."""
        named = set(refs)
        return tuple(item for item in self.datasets if not named & {item.name, item.id})


@dataclass(frozen=True)
class Earlier:
    """A job whose result a form goes on with."""

    title: str
    layers: tuple[MadeLayer, ...] | None
    """Layers of its dataset; None if they cannot be told before it has ended."""


@dataclass(frozen=True)
class Canvas:
    """Pictures of a layer, on which a box of it can be drawn."""

    box: str
    """Of the layer: what is drawn stays inside."""
    slices: tuple[ShownSlice, ...]


@dataclass(frozen=True)
class ChosenModel:
    """The version of a model that is chosen, for its card."""

    id: str
    facts: ModelFacts


@dataclass(frozen=True)
class Input:
    """One input of the form."""

    field: ParamField
    name: str
    id: str
    row: int
    value: str
    error: str | None = None
    choices: tuple[Choice, ...] | None = None
    """None: it is typed."""
    nothing: str = ""
    """What choosing nothing says."""
    shortcuts: tuple[Choice, ...] = ()
    """Values that a button fills in."""
    canvas: Canvas | None = None
    """Where the value can be drawn, too."""
    note: str = ""
    """What the value comes to."""
    is_refused: bool = False
    """The note says why the value cannot be used."""
    refreshes: bool = False
    """What other inputs offer depends on it."""
    model: ChosenModel | None = None
    """The model that is chosen."""
    warnings: tuple[str, ...] = ()
    """What speaks against it for what is to be worked on."""

    @property
    def placeholder(self) -> str:
        return PLACEHOLDERS.get(self.field.kind, "")

    @property
    def is_default(self) -> bool:
        return self.value == (self.field.default or "")


@dataclass(frozen=True)
class Group:
    """Inputs that stand together: one item of a list, one of several jobs, or all plain ones."""

    name: str
    rows: tuple[tuple[Input, ...], ...]
    is_repeated: bool

    @property
    def item_title(self) -> str:
        if self.name == RUNS:
            return "Dataset" if len(self.rows) > 1 else "What to work on"
        return heading(singular(self.name))


@dataclass(frozen=True)
class Form:
    """A form, as far as it is filled in."""

    workflow: Workflow
    values: dict[str, list[str]]
    """By name of field."""
    rows: dict[str, int]
    """Items of each repeated group."""
    stock: Stock
    prefix: str = ""
    """Before the names of its inputs, where several forms stand on a page."""
    earlier: Earlier | None = None
    """What it goes on with, in place of a dataset."""
    errors: dict[tuple[str, int], str] = field(default_factory=dict)
    """By name of field and row."""
    problem: str | None = None
    """What is wrong and belongs to no single input."""

    @classmethod
    def fill(
        cls,
        workflow: Workflow,
        values: Values,
        stock: Stock,
        *,
        prefix: str = "",
        earlier: Earlier | None = None,
        rows: Mapping[str, int] | None = None,
    ) -> Form:
        """Take over what was typed; the form grows as many items as there are values."""
        known = {item.name: list(values.get(prefix + item.name, ())) for item in workflow.fields}
        for item in workflow.fields:
            if item.kind == "dataset":
                known[item.name] = [stock.name_of(ref) for ref in known[item.name]]
        counted: dict[str, int] = {}
        for item in workflow.fields:
            group = item.path[0] if item.is_repeated else RUNS if _is_of_run(workflow, item) else None
            if group is not None:
                counted[group] = max(1, counted.get(group, 1), len(known[item.name]))
        if earlier is not None:
            counted.pop(RUNS, None)
        said = {group: max(1, count) for group, count in (rows or {}).items() if group in counted}
        return cls(workflow, known, {**counted, **said}, stock, prefix, earlier)

    @property
    def takes_several(self) -> bool:
        """Whether several datasets can be worked on at once."""
        return RUNS in self.rows

    @property
    def runs(self) -> int:
        """How many jobs are submitted."""
        return self.rows.get(RUNS, 1)

    @property
    def is_empty_catalog(self) -> bool:
        """Whether the form asks for a dataset and there is none."""
        return (
            not (self.stock.datasets or self.stock.foreign or self.earlier)
            and self._dataset_field is not None
        )

    @property
    def main(self) -> tuple[Group, ...]:
        """What must be filled in, the lists, and what belongs to a dataset."""
        groups = [self._group(name) for name in self.rows]
        plain = self._inputs(item for item in self._plain_fields if _is_main(item))
        return (*groups, Group("main", (plain,), False)) if plain else tuple(groups)

    @property
    def options(self) -> tuple[Input, ...]:
        """What has a default."""
        return self._inputs(item for item in self._optional_fields if not item.is_advanced)

    @property
    def advanced(self) -> tuple[Input, ...]:
        """What has a default that few people change."""
        return self._inputs(item for item in self._optional_fields if item.is_advanced)

    @property
    def has_changed_advanced(self) -> bool:
        """Whether what is folded away must be seen."""
        return any(item.error or not item.is_default for item in self.advanced)

    @property
    def boxes(self) -> tuple[Input, ...]:
        """All inputs that say what their value comes to."""
        inputs = (item for group in self.main for row in group.rows for item in row)
        return tuple(item for item in inputs if item.field.kind == "box" and item.field.of)

    @property
    def models(self) -> tuple[Input, ...]:
        """All inputs that name a model."""
        return self._inputs(
            item for item in self.workflow.fields if item.kind == "model" and not item.is_repeated
        )

    @property
    def unnamed(self) -> tuple[DatasetView, ...]:
        """Datasets that more jobs could work on."""
        name = self._dataset_field
        return self.stock.without(self.values[name.name]) if name is not None else ()

    def input_named(self, name: str, row: int = 0) -> Input | None:
        for item in self.workflow.fields:
            if item.name == name:
                return self._input(item, row)
        return None

    def dataset_of(self, run: int) -> DatasetView | None:
        """Give the dataset that one of the jobs works on, if it is known."""
        name = self._dataset_field
        return None if name is None else self.stock.find(self._value(name, run))

    def collected(self, run: int = 0, *, dataset: str = "") -> Mapping[str, str | bool | Sequence[str]]:
        """Give the values of one job as `Workflow.collect` takes them.

        Parameters
        ----------
        run
        dataset
            To work on, for a form that goes on with a result.
        """
        flat: dict[str, str | bool | Sequence[str]] = {}
        for item in self.workflow.fields:
            flat[item.name] = self.values[item.name] if item.is_repeated else self._value(item, run)
            if self.earlier is not None and item.kind == "dataset":
                flat[item.name] = dataset
        return flat

    def collected_for_now(self) -> Mapping[str, str | bool | Sequence[str]]:
        """Give the values with something in place of names that are not typed yet, which no other value depends on."""
        flat = dict(self.collected(dataset="-"))
        for item in self.workflow.fields:
            if item.kind not in ("new_dataset", "new_model", "source"):
                continue
            if item.is_repeated:
                given = self.values[item.name] or [""] * self.rows[item.path[0]]
                flat[item.name] = [value or "-" for value in given]
            else:
                flat[item.name] = flat[item.name] or "-"
        return flat

    def settled(self) -> Form:
        """Choose layers where there is one choice, and drop layers, annotations and mags that a new dataset has not."""
        form = self
        for kind in ("layer", "annotation", "mag"):
            for item in self.workflow.fields:
                if item.kind == kind and (kind != "mag" or item.of):
                    form = form._with(values=form.values | {item.name: form._chosen(item)})
        return form

    def with_params(self, flat: Mapping[str, str | list[str]]) -> Form:
        """Take over params that were saved. What they do not name is as by default, and what names data stays."""
        values: dict[str, list[str]] = {}
        rows = dict(self.rows)
        for item in self.workflow.fields:
            given, group = flat.get(item.name), self._group_of(item)
            if given is None:
                values[item.name] = self.values[item.name] if item.kind in DATA_KINDS else []
            elif isinstance(given, list):
                values[item.name] = given
                rows[item.path[0]] = max(rows[item.path[0]], len(given))
            elif group == RUNS and item.kind in DATA_KINDS:
                values[item.name] = [given, *self.values[item.name][1:]]
            else:
                values[item.name] = [given] * (self.runs if group == RUNS else 1)
        return self._with(values=values, rows=rows)

    def with_value(self, name: str, row: int, value: str) -> Form:
        given = [*self.values[name]]
        given += [""] * (row + 1 - len(given))
        given[row] = value
        return self._with(values=self.values | {name: given})

    def with_row_added(self, group: str) -> Form:
        return self._with(rows={**self.rows, group: self.rows[group] + 1})

    def with_datasets_added(self, refs: Sequence[str]) -> Form:
        """Add a job for each of several datasets, like the first; or one whose dataset is to be chosen."""
        form = self
        for ref in refs or ("",):
            row = form.runs
            form = form.with_row_added(RUNS)
            for item in form.workflow.fields:
                if item.kind == "dataset":
                    form = form.with_value(item.name, row, ref)
                elif item.kind == "layer":
                    form = form.with_value(item.name, row, form._value(item, 0))
                elif item.kind == "new_dataset" and ref:
                    form = form.with_value(item.name, row, form._name_like_first(item, ref))
        return form

    def with_row_removed(self, group: str, row: int) -> Form:
        values = {
            item.name: [value for index, value in enumerate(self.values[item.name]) if index != row]
            if self._group_of(item) == group
            else self.values[item.name]
            for item in self.workflow.fields
        }
        return self._with(values=values, rows={**self.rows, group: max(1, self.rows[group] - 1)})

    def with_error(self, error: VoxelworksError, run: int = 0) -> Form:
        """Put each problem beside the input that it is about; those that are there already stay."""
        cause = error.__cause__
        if isinstance(cause, ValidationError):
            return self._with_validation_error(cause, run)
        place = self._place_of_value_in(error.message, run)
        if place:
            return self._with(errors={place: error.message} | self.errors, problem=self.problem)
        about = self.dataset_of(run) if self.runs > 1 else None
        message = f"{about.name}: {error.message}" if about else error.message
        return self._with(errors=self.errors, problem=self.problem or message)

    def _with_validation_error(self, cause: ValidationError, run: int) -> Form:
        errors = dict(self.errors)
        unplaced: list[str] = []
        for item in cause.errors(include_url=False):
            inner = item.get("ctx", {}).get("error")
            message = str(inner) if inner is not None else item["msg"]
            place = self._place_of(item["loc"], run)
            if place is None:
                unplaced.append(message)
            else:
                errors.setdefault(place[:2], place[2] if item["type"] == "missing" else message)
        return self._with(errors=errors, problem="; ".join(unplaced) or self.problem)

    def _place_of(self, location: tuple[int | str, ...], run: int) -> tuple[str, int, str] | None:
        """Find the input of a problem, and what it says when it is empty."""
        path = tuple(part for part in location if isinstance(part, str))
        row = next((part for part in location if isinstance(part, int)), None)
        for item in self.workflow.fields:
            # A missing reference is reported as a whole: its first input then shows it.
            if item.path[: len(path)] == path and path and not self._is_given(item):
                empty = {
                    "dataset": "Choose a dataset.", "layer": "Choose a layer.", "annotation": "Choose an annotation.",
                    "model": "Choose a model.",
                }  # fmt: skip
                at = row if row is not None else run if self._group_of(item) == RUNS else 0
                return item.name, at, empty.get(item.kind, "Fill this in.")
        return None

    def _place_of_value_in(self, message: str, run: int) -> tuple[str, int] | None:
        """Find the input whose value the message quotes first."""
        places = [
            (at, item.name, row)
            for item in self.workflow.fields
            for row, value in enumerate(self.values[item.name])
            if (at := message.find(repr(value.strip()))) >= 0 and value.strip()
            if row == run or self._group_of(item) != RUNS
        ]
        return min(places)[1:] if places else None

    # What it is made of

    @property
    def _dataset_field(self) -> ParamField | None:
        return next((item for item in self.workflow.fields if item.kind == "dataset"), None)

    @property
    def _plain_fields(self) -> list[ParamField]:
        return [
            item
            for item in self.workflow.fields
            if self._group_of(item) not in self.rows and not self._is_given(item)
        ]

    @property
    def _optional_fields(self) -> list[ParamField]:
        return [item for item in self._plain_fields if not _is_main(item)]

    def _is_given(self, item: ParamField) -> bool:
        return self.earlier is not None and item.kind == "dataset"

    def _group_of(self, item: ParamField) -> str | None:
        if item.is_repeated:
            return item.path[0]
        return RUNS if RUNS in self.rows and _is_of_run(self.workflow, item) else None

    def _group(self, name: str) -> Group:
        fields = [item for item in self.workflow.fields if self._group_of(item) == name]
        rows = tuple(tuple(self._input(item, row) for item in fields) for row in range(self.rows[name]))
        return Group(name, rows, True)

    def _inputs(self, fields: Iterable[ParamField]) -> tuple[Input, ...]:
        return tuple(self._input(item) for item in fields)

    def _value(self, item: ParamField, row: int) -> str:
        """Give what was filled in; empty if nothing was."""
        given = self.values[item.name]
        # A tick box sends its `false` first and, if ticked, its `true` after it.
        at = row if self._group_of(item) is not None else len(given) - 1
        return given[at] if 0 <= at < len(given) else ""

    # What its inputs show

    def _input(self, item: ParamField, row: int = 0) -> Input:
        is_given = len(self.values[item.name]) > (row if self._group_of(item) is not None else 0)
        value = self._value(item, row) if is_given else item.default or ""
        suffix = f"-{row}" if item.is_repeated or row else ""
        is_mag_of_layer = item.kind == "mag" and item.of is not None
        shown = Input(
            item, self.prefix + item.name, f"input-{self.prefix}{item.name}{suffix}", row, value,
            self.errors.get((item.name, row)), refreshes=item.kind in ("dataset", "layer") or is_mag_of_layer,
        )  # fmt: skip
        match item.kind:
            case "choice" | "flag":
                choices = tuple(Choice(choice, choice) for choice in item.choices or ("false", "true"))
                return replace(
                    shown, choices=choices, nothing="" if item.default or item.kind == "flag" else "–"
                )
            case "dataset":
                return replace(shown, choices=self._datasets(value), nothing="Choose a dataset")
            case "layer":
                return self._with_layers(shown, row)
            case "annotation":
                return self._with_annotations(shown, row)
            case "model":
                return self._with_models(shown)
            case "mag" if item.of:
                return self._with_mags(shown, row)
            case "box" if item.of:
                return self._with_boxes(shown, row)
        return shown

    def _datasets(self, value: str) -> tuple[Choice, ...]:
        own = [Choice(item.name, item.name) for item in self.stock.datasets]
        foreign = [Choice(item.id, f"{item.name} (of {item.organization_id})") for item in self.stock.foreign]
        is_unknown = value and self.stock.find(value) is None
        unknown = [Choice(value, f"{value} (not in the list)")] if is_unknown else []
        return (*own, *foreign, *unknown)

    def _with_layers(self, shown: Input, row: int) -> Input:
        category = shown.field.category
        if self.earlier is not None:
            if self.earlier.layers is None:
                return shown
            made = [layer for layer in self.earlier.layers if category in (None, layer.category)]
            choices = tuple(Choice(layer.name, f"{layer.name} – {layer.category}") for layer in made)
            nothing = "Choose a layer" if made else f"It has no {category or ''} layer".replace("  ", " ")
            return replace(shown, choices=choices, nothing=nothing)
        ref = self._dataset_beside(shown.field, row)
        dataset = self.stock.find(ref)
        if dataset is None:
            return shown if ref else replace(shown, choices=(), nothing="Choose a dataset first")
        layers = [layer for layer in dataset.summary.layers if category in (None, layer.category)]
        choices = tuple(Choice(layer.name, _layer_text(layer)) for layer in layers)
        nothing = (
            "Choose a layer" if layers else f"This dataset has no {category or ''} layer".replace("  ", " ")
        )
        return replace(shown, choices=choices, nothing=nothing)

    def _with_annotations(self, shown: Input, row: int) -> Input:
        """Offer the annotations of the chosen dataset, and those of which nobody has said what they belong to.

        Where those of other datasets may be given, they come last.
        """
        dataset = None if self.earlier else self.dataset_of(row)
        if dataset is None and self.earlier is None and self._dataset_field is not None:
            return replace(shown, choices=(), nothing="Choose a dataset first")
        # Nobody can have annotated what is not there yet.
        stock = () if self.earlier is not None else self.stock.annotations
        loose = [item for item in stock if item.dataset_id is None]
        given = [item for item in stock if item.dataset_id is not None]
        fitting = [item for item in given if dataset is not None and item.dataset_id == dataset.id]
        # First those that are sure to fit.
        choices = tuple(Choice(item.id, _annotation_text(item)) for item in (*fitting, *loose))
        if shown.field.is_of_any_dataset or dataset is None:
            others = [item for item in given if dataset is None or item.dataset_id != dataset.id]
            choices += tuple(Choice(item.id, self._other_annotation_text(item)) for item in others)
        nothing = "Choose an annotation" if choices else "There is no annotation of this dataset"
        if not shown.field.is_required:
            nothing = "None"
        return replace(shown, choices=choices, nothing=nothing)

    def _other_annotation_text(self, annotation: AnnotationView) -> str:
        dataset = self.stock.find(annotation.dataset_id or "")
        name = dataset.name if dataset is not None else "another dataset"
        return f"{_annotation_text(annotation)}, of {name}"

    def _with_models(self, shown: Input) -> Input:
        """Offer the models that will do, say what is known of the chosen one, and what speaks against it."""
        tasks, stock = shown.field.tasks, self.stock
        fitting = [model for model in stock.models if not tasks or model.facts.task in tasks]
        offered: dict[str, ModelView] = {}
        for model in fitting:  # own ones come first, and hide installed ones of the same name
            offered.setdefault(stock.ref_of(model), model)
        choices = [Choice(ref, _model_text(model)) for ref, model in offered.items()]
        found = stock.find_model(shown.value) if shown.value else None
        if shown.value and shown.value not in offered:
            choices.append(Choice(shown.value, found[2] if found else f"{shown.value} (not in the list)"))
        nothing = "Choose a model" if choices else "There is no model for this yet"
        if not shown.field.is_required:
            nothing = "" if shown.field.default else "None"
        if found is None:
            return replace(shown, choices=tuple(choices), nothing=nothing)
        model, facts, _ = found
        return replace(
            shown, choices=tuple(choices), nothing=nothing, model=ChosenModel(model.id, facts),
            warnings=self._unfit(facts),
        )  # fmt: skip

    def _unfit(self, facts: ModelFacts) -> tuple[str, ...]:
        """Say of each layer to work on why it is outside of what a model is for."""
        layers = [item for item in self.workflow.fields if item.kind == "layer" and not item.is_repeated]
        said: list[str] = []
        for row in range(self.runs if layers else 0):
            found = self._layer_of(layers[0], row)
            why = None if found is None else _why_unfit(facts, *found)
            if found is not None and why is not None:
                said.append(f"{found[0].name}: {why}" if self.runs > 1 else why)
        return tuple(dict.fromkeys(said))

    def _layer_of(self, item: ParamField, row: int) -> tuple[DatasetView, LayerSummary] | None:
        dataset = None if self.earlier else self.stock.find(self._dataset_beside(item, row))
        layer = self._value(item, row)
        for found in dataset.summary.layers if dataset is not None else ():
            if found.name == layer:
                assert dataset is not None
                return dataset, found
        return None

    def _mag_of(self, layer: str | None, row: int) -> Mag | None:
        """Give the mag of a layer that was chosen."""
        for other in self.workflow.fields:
            if other.kind == "mag" and other.of == layer and (text := self._value(other, row)):
                try:
                    return Mag.parse(text)
                except InvalidInput:
                    return None
        return None

    def _with_mags(self, shown: Input, row: int) -> Input:
        found = self._layer_beside(shown.field, row)
        if found is None:
            return shown
        dataset, layer = found
        choices = tuple(Choice(mag, _mag_text(mag, dataset.summary.voxel_size)) for mag in layer.mags)
        nothing = "Choose a mag" if shown.field.is_required else f"The finest, {finest_mag(layer)}"
        return replace(shown, choices=choices, nothing=nothing)

    def _with_boxes(self, shown: Input, row: int) -> Input:
        found = self._layer_beside(shown.field, row)
        if found is None:
            return shown
        dataset, layer = found
        whole, mag = Box.parse(layer.box), self._mag_of(shown.field.of, row) or finest_mag(layer)
        note, is_refused = _box_note(shown.value, layer, mag, dataset.summary.voxel_size)
        shortcuts = [Choice("", "Whole layer")]
        test = whole.middle(TEST_SIZE, mag)
        if test != whole:
            shortcuts.append(
                Choice(
                    str(test), f"Test run on a small box in the middle, {size_text(str(test.in_mag(mag)))}"
                )
            )
        for drawn in self.stock.drawn.get(dataset.id, ()):
            inside = Box.parse(drawn.value).intersect(whole)
            if not inside.is_empty:
                shortcuts.append(Choice(str(inside), f"{drawn.text}, {size_text(str(inside.in_mag(mag)))}"))
        # With several datasets the pictures of all of them would be in the way.
        slices = (
            shown_slices(dataset, layer) if self.rows.get(self._group_of(shown.field) or "", 1) == 1 else ()
        )
        canvas = Canvas(layer.box, slices) if slices else None
        return replace(shown, shortcuts=tuple(shortcuts), canvas=canvas, note=note, is_refused=is_refused)

    def _chosen(self, item: ParamField) -> list[str]:
        """Give the layers, mags or annotations of all rows, as far as they can be chosen."""
        count = self.rows[group] if (group := self._group_of(item)) is not None else 1
        chosen = []
        for row in range(count):
            shown = self._input(item, row)
            offered = [choice.value for choice in shown.choices or ()]
            is_kept = shown.choices is None or shown.value in offered
            is_clear = item.kind == "layer" and len(offered) == 1
            chosen.append(shown.value if is_kept else offered[0] if is_clear else "")
        return chosen

    def _name_like_first(self, item: ParamField, ref: str) -> str:
        """Name what a further dataset becomes as the first was named, with its name in place of that one's."""
        first, dataset, further = self._value(item, 0), self.dataset_of(0), self.stock.find(ref)
        if not first or dataset is None or further is None:
            return ""
        if dataset.name in first:
            return first.replace(dataset.name, further.name)
        return f"{further.name}_{first}"

    def _dataset_beside(self, item: ParamField, row: int) -> str:
        for other in self.workflow.fields:
            if other.kind == "dataset" and other.path[:-1] == item.path[:-1]:
                return self._value(other, row)
        return ""

    def _layer_beside(self, item: ParamField, row: int) -> tuple[DatasetView, LayerSummary] | None:
        """Find the layer that a box or mag is a part of."""
        return self._layer_of(next(other for other in self.workflow.fields if other.name == item.of), row)

    def _with(
        self,
        *,
        values: dict[str, list[str]] | None = None,
        rows: dict[str, int] | None = None,
        errors: dict[tuple[str, int], str] | None = None,
        problem: str | None = None,
    ) -> Form:
        return replace(
            self, values=values if values is not None else self.values, rows=rows if rows is not None else self.rows,
            errors=errors or {}, problem=problem,
        )  # fmt: skip


def one_dataset_field(workflow: Workflow) -> ParamField | None:
    """Give the input for a dataset of a workflow that works on one; None for others."""
    fields = [item for item in workflow.fields if item.kind == "dataset"]
    return fields[0] if len(fields) == 1 and not fields[0].is_repeated else None


def kind_values(workflow: Workflow, values: Mapping[str, str]) -> dict[str, str]:
    """Name values by the inputs that they are for: those are named by kind, such as `layer`, `box` and `mag`."""
    named: dict[str, str] = {}
    own = {item.name for item in workflow.fields}
    for key, value in values.items():
        of_kind = [item for item in workflow.fields if item.kind == key and (key != "mag" or item.of)]
        if key in own or not of_kind:
            named[key] = value
        else:
            named[of_kind[0].name] = value
    return named


def _is_main(item: ParamField) -> bool:
    """Whether an input is no mere option: it must be filled in, or is one of several things to work on."""
    is_data = item.kind in ("dataset", "layer", "annotation") and not item.is_advanced
    return item.is_required or item.of is not None or is_data


def _is_of_run(workflow: Workflow, item: ParamField) -> bool:
    is_about_dataset = item.kind in ("dataset", "layer", "annotation", "new_dataset") or item.of is not None
    return is_about_dataset and not item.is_repeated and one_dataset_field(workflow) is not None


def _layer_text(layer: LayerSummary) -> str:
    mags = "1 mag" if len(layer.mags) == 1 else f"{len(layer.mags)} mags"
    return f"{layer.name} – {layer.category}, {layer.dtype}, {size_text(layer.box)}, {mags}"


def _annotation_text(annotation: AnnotationView) -> str:
    text, summary = annotation.name, annotation.summary
    if summary is None:
        return text
    layers = len(summary.volume_layers)
    held = [count_text(summary.tree_count, "tree", "trees")] if summary.tree_count else []
    held += [count_text(layers, "volume layer", "volume layers")] if layers else []
    text += f" – {', '.join(held) or 'empty'}"
    if annotation.dataset_id is None and summary.dataset_name:
        text += f", made in {summary.dataset_name}"
    return text


def _model_text(model: ModelView) -> str:
    whose = " (installed)" if model.is_installed else ""
    return f"{model.name}{whose} – {model.facts.structure}, voxels of {model.facts.voxel_size} nm"


def _why_unfit(facts: ModelFacts, dataset: DatasetView, layer: LayerSummary) -> str | None:
    """Say why a layer, in the mag that a network would be given, is outside of what a model is for."""
    if dataset.summary.voxel_size is None:
        return "the dataset does not say how large its voxels are, so nobody can tell whether the model is for it"
    finest = VoxelSize.parse(dataset.summary.voxel_size)
    mags = [Mag.parse(mag) for mag in layer.mags]
    if not mags:
        return None
    return facts.unfit(finest.in_mag(finest.mag_for(facts.voxel_size, mags)), layer.modality)


def _mag_text(mag: str, voxel_size: str | None) -> str:
    if voxel_size is None:
        return mag
    size = VoxelSize.parse(voxel_size).in_mag(Mag.parse(mag))
    return f"{mag} – voxels of {' × '.join(str(size).split(','))} nm"


def _box_note(text: str, layer: LayerSummary, mag: Mag, voxel_size: str | None) -> tuple[str, bool]:
    """Say what a box comes to, or why it cannot be used; and whether it is that."""
    try:
        box = Box.parse(text) if text.strip() else Box.parse(layer.box)
        check_part(layer, box)
    except InvalidInput as error:
        return error.message, True
    what = "" if text.strip() else "The whole layer: "
    size = f"{size_text(str(box.in_mag(mag)))} voxels in mag {mag}"
    physical = physical_text(str(box), voxel_size)
    return what + size + (f", {physical}" if physical else ""), False
