"""The form of a workflow, derived from its declaration: what to show, what was filled in, what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from voxelworks.errors import InvalidInput, VoxelworksError
from voxelworks.protocol.messages import PRIORITY_MAX
from voxelworks.protocol.views import DatasetView, LayerSummary
from voxelworks.workflows import ParamField, Workflow

PLACEHOLDERS = {
    "source": "root:NAME/folder",
    "new_dataset": "my-dataset",
    "mag": "16-16-4",
    "voxel_size": "4,4,40",
    "box": "x,y,z,width,height,depth",
}

Values = Mapping[str, Sequence[str]]
"""Flat values by name of field; several for a field that is filled in once for each item."""


class InvalidPriority(InvalidInput):
    """The priority that was typed is none."""


@dataclass(frozen=True)
class Input:
    """One input of the form."""

    field: ParamField
    row: int
    value: str
    error: str | None = None
    layers: tuple[LayerSummary, ...] = ()
    """For the picker of a layer: those of the chosen dataset."""
    dataset: str = ""
    """For the picker of a layer: the chosen dataset."""

    @property
    def id(self) -> str:
        return f"input-{self.field.name}-{self.row}" if self.field.is_repeated else f"input-{self.field.name}"

    @property
    def placeholder(self) -> str:
        return PLACEHOLDERS.get(self.field.kind, "")


@dataclass(frozen=True)
class Group:
    """Inputs that stand together: one item of a list, or all plain ones."""

    name: str
    rows: tuple[tuple[Input, ...], ...]
    is_repeated: bool

    @property
    def item_title(self) -> str:
        return self.name.replace("_", " ").removesuffix("s").capitalize()


@dataclass(frozen=True)
class Form:
    """A form, as far as it is filled in."""

    workflow: Workflow
    values: dict[str, list[str]]
    rows: dict[str, int]
    """Items of each repeated group."""
    datasets: tuple[DatasetView, ...]
    """Of the own organization, to choose from."""
    foreign: tuple[DatasetView, ...] = ()
    """Of other organizations: named by their ids alone, as an own one may have the same name."""
    errors: dict[tuple[str, int], str] = field(default_factory=dict)
    """By name of field and row."""
    problem: str | None = None
    """What is wrong and belongs to no single input."""
    priority: str = ""
    """As it was typed."""

    @classmethod
    def fill(
        cls,
        workflow: Workflow,
        values: Values,
        datasets: tuple[DatasetView, ...],
        *,
        foreign: tuple[DatasetView, ...] = (),
        rows: Mapping[str, int] | None = None,
    ) -> Form:
        """Take over what was typed; the form grows as many items as there are values."""
        known = {item.name: [str(value) for value in values.get(item.name, ())] for item in workflow.fields}
        counted = {
            item.path[0]: max(
                1, *(len(known[other.name]) for other in workflow.fields if other.path[0] == item.path[0])
            )
            for item in workflow.fields
            if item.is_repeated
        }
        priority = "".join(values.get("priority", ())[-1:])
        return cls(workflow, known, {**counted, **(rows or {})}, datasets, foreign, priority=priority)

    def read_priority(self) -> int:
        """Give the priority that was typed, 0 if none was.

        Raises
        ------
        InvalidPriority
        """
        text = self.priority.strip().replace("\N{MINUS SIGN}", "-") or "0"
        number = int(text) if re.fullmatch("[-+]?[0-9]{1,9}", text) else PRIORITY_MAX + 1
        if abs(number) > PRIORITY_MAX:
            raise InvalidPriority(
                f"{self.priority!r} is no priority; give a whole number from -{PRIORITY_MAX} to {PRIORITY_MAX}"
            )
        return number

    @property
    def is_empty_catalog(self) -> bool:
        """Whether the form asks for a dataset and there is none."""
        return not (self.datasets or self.foreign) and any(
            item.kind == "dataset" for item in self.workflow.fields
        )

    @property
    def main(self) -> tuple[Group, ...]:
        """What must be filled in, and the lists."""
        groups: list[Group] = [self._repeated(name) for name in self.rows]
        plain = tuple(
            self._input(item) for item in self.workflow.fields if not item.is_repeated and item.is_required
        )
        return (*groups, Group("main", (plain,), False)) if plain else tuple(groups)

    @property
    def options(self) -> tuple[Input, ...]:
        """What has a default."""
        fields = [item for item in self.workflow.fields if not item.is_repeated and not item.is_required]
        return tuple(self._input(item) for item in fields)

    def input_named(self, name: str, row: int = 0) -> Input | None:
        for item in self.workflow.fields:
            if item.name == name:
                return self._input(item, row)
        return None

    def collected(self) -> Mapping[str, str | bool | Sequence[str]]:
        """Give the values as `Workflow.collect` takes them."""
        flat: dict[str, str | bool | Sequence[str]] = {}
        for item in self.workflow.fields:
            given = self.values[item.name]
            # A tick box sends its `false` first and, if ticked, its `true` after it.
            flat[item.name] = given if item.is_repeated else (given[-1] if given else "")
        return flat

    def with_row_added(self, group: str) -> Form:
        return self._with(rows={**self.rows, group: self.rows[group] + 1})

    def with_row_removed(self, group: str, row: int) -> Form:
        values = {
            item.name: [value for index, value in enumerate(self.values[item.name]) if index != row]
            if item.path[0] == group
            else self.values[item.name]
            for item in self.workflow.fields
        }
        return self._with(values=values, rows={**self.rows, group: max(1, self.rows[group] - 1)})

    def with_error(self, error: VoxelworksError) -> Form:
        """Put each problem beside the input that it is about."""
        if isinstance(error, InvalidPriority):
            return self._with(errors={("priority", 0): error.message})
        cause = error.__cause__
        if isinstance(cause, ValidationError):
            return self._with_validation_error(cause)
        place = self._place_of_value_in(error.message)
        return self._with(errors={place: error.message}) if place else self._with(problem=error.message)

    def _with_validation_error(self, cause: ValidationError) -> Form:
        errors: dict[tuple[str, int], str] = {}
        unplaced: list[str] = []
        for item in cause.errors(include_url=False):
            inner = item.get("ctx", {}).get("error")
            message = str(inner) if inner is not None else item["msg"]
            message = "Fill this in." if item["type"] == "missing" else message
            place = self._place_of(item["loc"])
            if place is None:
                unplaced.append(message)
            else:
                errors.setdefault(place, message)
        return self._with(errors=errors, problem="; ".join(unplaced) or None)

    def _place_of(self, location: tuple[int | str, ...]) -> tuple[str, int] | None:
        path = tuple(part for part in location if isinstance(part, str))
        row = next((part for part in location if isinstance(part, int)), 0)
        for item in self.workflow.fields:
            # A missing reference is reported as a whole: its first input then shows it.
            if item.path[: len(path)] == path and path:
                return item.name, row
        return None

    def _place_of_value_in(self, message: str) -> tuple[str, int] | None:
        """Find the input whose value the message quotes first."""
        places = [
            (at, item.name, row)
            for item in self.workflow.fields
            for row, value in enumerate(self.values[item.name])
            if (at := message.find(repr(value.strip()))) >= 0 and value.strip()
        ]
        return min(places)[1:] if places else None

    def _repeated(self, name: str) -> Group:
        fields = [item for item in self.workflow.fields if item.is_repeated and item.path[0] == name]
        rows = tuple(tuple(self._input(item, row) for item in fields) for row in range(self.rows[name]))
        return Group(name, rows, True)

    def _input(self, item: ParamField, row: int = 0) -> Input:
        given = self.values[item.name]
        at = row if item.is_repeated else len(given) - 1
        value = given[at] if 0 <= at < len(given) else item.default or ""
        dataset = self._dataset_beside(item, row) if item.kind == "layer" else ""
        by_ref = {view.id: view for view in (*self.foreign, *self.datasets)} | {
            view.name: view for view in self.datasets
        }
        layers = by_ref[dataset].summary.layers if dataset in by_ref else ()
        fitting = tuple(layer for layer in layers if item.category in (None, layer.category))
        return Input(item, row, value, self.errors.get((item.name, row)), fitting, dataset)

    def _dataset_beside(self, layer: ParamField, row: int) -> str:
        for item in self.workflow.fields:
            if item.kind == "dataset" and item.path[:-1] == layer.path[:-1]:
                return self._input(item, row).value
        return ""

    def _with(
        self,
        *,
        values: dict[str, list[str]] | None = None,
        rows: dict[str, int] | None = None,
        errors: dict[tuple[str, int], str] | None = None,
        problem: str | None = None,
    ) -> Form:
        return Form(
            self.workflow, values if values is not None else self.values, rows if rows is not None else self.rows,
            self.datasets, self.foreign, errors or {}, problem, self.priority,
        )  # fmt: skip
