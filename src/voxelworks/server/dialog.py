"""What a person submits at once: one workflow on one dataset or several, and what is to run after it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from voxelworks.errors import InvalidInput, VoxelworksError
from voxelworks.protocol.messages import PRIORITY_MAX, NewJob
from voxelworks.protocol.views import JobPrice
from voxelworks.server.forms import RUNS, Earlier, Form, Stock, Values, one_dataset_field
from voxelworks.server.subjects import subject
from voxelworks.workflows import MadeLayer, Workflow, workflows

STEPS_MAX = 5
"""Most jobs that follow one another."""

Price = Callable[[NewJob], JobPrice]
"""Says what a job would cost, or refuses it."""


@dataclass(frozen=True)
class Order:
    """One of the jobs to be, and where in the dialog it was filled in."""

    run: int
    step: int
    """0 is the workflow itself, then come those that follow it."""
    job: NewJob
    title: str


@dataclass(frozen=True)
class Offer:
    """What all jobs would cost now."""

    lines: tuple[tuple[str, JobPrice], ...]
    """Of each job that is priced: what it is about, and its price."""
    amount: int
    available: int

    @property
    def has_enough(self) -> bool:
        return self.amount <= self.available

    @property
    def rest(self) -> int:
        """What remains; below 0: what is missing."""
        return self.available - self.amount

    @property
    def prices(self) -> tuple[int, ...]:
        """Millicredits for a gigavoxel: each price that occurs."""
        return tuple(sorted({line.price.price for _, line in self.lines if line.price is not None}))

    @property
    def price_list_version(self) -> str:
        (_, first), *_ = self.lines
        assert first.price is not None, "only what is priced has a line"
        return first.price.price_list_version


@dataclass(frozen=True)
class Dialog:
    """A form, with the forms of what follows it, as far as they are filled in."""

    form: Form
    steps: tuple[Form, ...]
    priority: str = ""
    """As it was typed."""
    priority_error: str | None = None

    @classmethod
    def read(cls, workflow: Workflow, values: Values, stock: Stock) -> Dialog:
        """Take over what was typed."""
        followers = [name for name in values.get("then", ()) if name in workflows()][:STEPS_MAX]
        form = Form.fill(workflow, values, stock, rows=_rows(workflow, values, ""))
        priority = "".join(values.get("priority", ())[-1:])
        return cls(form, (), priority).with_steps(followers, values)

    def with_steps(self, followers: Sequence[str], values: Values) -> Dialog:
        """Let these workflows follow, each with what was typed for it."""
        steps: list[Form] = []
        before, layers = self.form, _layers_after(self.form, self._layers_before)
        for position, name in enumerate(followers):
            workflow, prefix = workflows()[name], f"then{position}-"
            step = Form.fill(
                workflow, values, self.form.stock, prefix=prefix, earlier=Earlier(before.workflow.title, layers),
                rows=_rows(workflow, values, prefix),
            )  # fmt: skip
            steps.append(step)
            before, layers = step, _layers_after(step, layers)
        return replace(self, steps=tuple(steps))

    @property
    def forms(self) -> tuple[Form, ...]:
        return (self.form, *self.steps)

    @property
    def followers(self) -> tuple[str, ...]:
        return tuple(step.workflow.name for step in self.steps)

    @property
    def can_be_followed_by(self) -> tuple[Workflow, ...]:
        """Workflows that take what the last job makes; it has drawn its pictures already."""
        last = self.forms[-1].workflow
        if last.outcome_type.kind not in ("dataset", "addition") or len(self.steps) == STEPS_MAX:
            return ()
        return tuple(
            item
            for item in workflows().values()
            if item.outcome_type.kind != "previews"
            and one_dataset_field(item) is not None
            # Nobody can have annotated what is not there yet.
            and not any(field.kind == "annotation" and field.is_required for field in item.fields)
            and _takes_one_of(item, self._layers_last)
        )

    @property
    def is_faulty(self) -> bool:
        return self.priority_error is not None or any(form.errors or form.problem for form in self.forms)

    @property
    def job_count(self) -> int:
        return self.form.runs * len(self.forms)

    def settled(self) -> Dialog:
        """Choose what is clear by itself: see `Form.settled`."""
        form = self.form.settled()
        renewed = replace(self, form=form).with_steps(self.followers, self._step_values)
        return replace(renewed, steps=tuple(step.settled() for step in renewed.steps))

    def with_form(self, form: Form) -> Dialog:
        return replace(self, form=form)

    def without_step(self, position: int) -> Dialog:
        kept = [step for index, step in enumerate(self.steps) if index != position]
        values = {
            f"then{index}-{name}": given
            for index, step in enumerate(kept)
            for name, given in step.values.items()
        }
        return self.with_steps([step.workflow.name for step in kept], values)

    def orders(self) -> tuple[Dialog, tuple[Order, ...]]:
        """Make the jobs, and put what is wrong with their params beside the inputs."""
        dialog, found, priority = self, [], self._priority_number
        if priority is None:
            message = f"{self.priority!r} is no priority; give a whole number from -{PRIORITY_MAX} to {PRIORITY_MAX}"
            dialog = replace(self, priority_error=message)
        for run in range(self.form.runs):
            before: str | None = None
            for step, form in enumerate(self.forms):
                dataset = f"job:{before}" if before is not None else ""
                key = f"{run + 1}.{step + 1}"
                try:
                    params = form.workflow.collect(form.collected(run, dataset=dataset))
                    form.workflow.parse(params)
                except InvalidInput as error:
                    dialog = dialog.with_error(error, step=step, run=run)
                else:
                    job = NewJob(key=key, workflow=form.workflow.name, params=params, priority=priority or 0)
                    title = subject(form.workflow.name, params) if step == 0 else form.workflow.title
                    found.append(Order(run, step, job, title))
                before = key
        return dialog, tuple(found)

    def priced(self, orders: Sequence[Order], price: Price) -> tuple[Dialog, Offer | None]:
        """Ask for the price of each job, and put what is wrong with it beside the inputs; None if all are free."""
        dialog, lines = self, []
        for order in orders:
            try:
                found = price(order.job)
            except VoxelworksError as error:
                if error.http_status >= 500:
                    raise
                dialog = dialog.with_error(error, step=order.step, run=order.run)
            else:
                if found.price is not None:
                    lines.append((order.title, found))
        prices = [found.price for _, found in lines if found.price is not None]
        if not prices:
            return dialog, None
        return dialog, Offer(tuple(lines), sum(item.amount for item in prices), prices[0].available)

    def with_error(self, error: VoxelworksError, *, step: int = 0, run: int = 0) -> Dialog:
        """Put a problem beside the input that it is about."""
        if step:
            form = self.steps[step - 1]
            assert form.earlier is not None, "it goes on with something"
            # The keys of jobs are nothing that people have seen.
            message = re.sub(r"job:\d+\.\d+/", "layer ", error.message)
            message = re.sub(r"job:\d+\.\d+", form.earlier.title, message)
            changed = form.with_error(error if message == error.message else InvalidInput(message))
            return replace(self, steps=(*self.steps[: step - 1], changed, *self.steps[step:]))
        return replace(self, form=self.form.with_error(error, run))

    def with_group_error(self, error: VoxelworksError) -> Dialog:
        """Put a problem of all jobs together beside the first input whose value it quotes."""
        for run in range(self.form.runs):
            changed = self.with_error(error, run=run)
            if changed.form.errors:
                return changed
        return self.with_error(error)

    @property
    def _priority_number(self) -> int | None:
        """The priority that was typed, 0 if none was; None if it is none."""
        text = self.priority.strip().replace("\N{MINUS SIGN}", "-") or "0"
        number = int(text) if re.fullmatch("[-+]?[0-9]{1,9}", text) else PRIORITY_MAX + 1
        return number if abs(number) <= PRIORITY_MAX else None

    @property
    def _step_values(self) -> Mapping[str, list[str]]:
        return {step.prefix + name: given for step in self.steps for name, given in step.values.items()}

    @property
    def _layers_before(self) -> tuple[MadeLayer, ...] | None:
        dataset = self.form.dataset_of(0)
        if dataset is None:
            return None
        return tuple(MadeLayer(layer.name, layer.category) for layer in dataset.summary.layers)

    @property
    def _layers_last(self) -> tuple[MadeLayer, ...] | None:
        layers = self._layers_before
        for form in self.forms:
            layers = _layers_after(form, layers)
        return layers


def _layers_after(form: Form, layers: tuple[MadeLayer, ...] | None) -> tuple[MadeLayer, ...] | None:
    """Give the layers of the dataset that a job leaves; None if they cannot be told.

    Parameters
    ----------
    form
        Of the job.
    layers
        Of the dataset that it works on.
    """
    workflow = form.workflow
    if workflow.outcome_type.kind == "addition":
        return layers
    if workflow.makes is None:
        return None
    try:
        return tuple(workflow.makes(workflow.parse(workflow.collect(form.collected_for_now()))))
    except InvalidInput:
        return None


def _takes_one_of(workflow: Workflow, layers: tuple[MadeLayer, ...] | None) -> bool:
    wanted = [item.category for item in workflow.fields if item.kind == "layer"]
    categories = {layer.category for layer in layers} if layers is not None else None
    return categories is None or all(
        category in categories if category else categories for category in wanted
    )


def _rows(workflow: Workflow, values: Values, prefix: str) -> dict[str, int]:
    """Give how many items each group has, as the form says that was sent."""
    groups = {item.path[0] for item in workflow.fields if item.is_repeated} | {RUNS}
    given = {group: "".join(values.get(f"rows:{prefix}{group}", ())[:1]) for group in groups}
    return {group: min(int(text), 200) for group, text in given.items() if text.isdecimal()}
