"""Options of a workflow, made from its declaration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from voxelworks.protocol.messages import Json
from voxelworks.workflows import ParamField, Workflow, get_workflow, workflows

_METAVARS = {
    "dataset": "DATASET", "layer": "LAYER", "source": "SOURCE", "annotation": "ANNOTATION", "model": "MODEL",
    "new_dataset": "DATASET", "new_file": "FILE", "new_model": "MODEL", "text": "TEXT", "int": "NUMBER",
    "float": "NUMBER", "mag": "MAG", "voxel_size": "X,Y,Z", "box": "X,Y,Z,W,H,D",
}  # fmt: skip

Handler = Callable[[Workflow, Json, dict[str, Any]], object]
"""Gets the workflow, the raw params from its options, and the values of the other options."""


class WorkflowGroup(click.Group):
    """One command for each installed workflow.

    Parameters
    ----------
    handler
        What such a command does.
    needs_all
        Whether options without a default must be given.
    extra_options
        Decorators made by `click.option`: what every command has beside the options of its workflow.
    """

    def __init__(
        self,
        *args: Any,
        handler: Handler,
        extra_options: Sequence[Callable[[Any], Any]],
        needs_all: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._needs_all = needs_all
        self._handler = handler
        self._extra_options = extra_options

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(workflows())

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        workflow = get_workflow(cmd_name)

        def call(**values: Any) -> object:
            own = {field.name: values.pop(field.name) for field in workflow.fields}
            return self._handler(workflow, workflow.collect(own), values)

        for decorate in reversed(self._extra_options):
            decorate(call)
        command = click.command(workflow.name, help=workflow.description, short_help=workflow.summary)(call)
        command.params[:0] = [option_of(field, needs_all=self._needs_all) for field in workflow.fields]
        return command


def require_all(workflow: Workflow, raw: Json) -> None:
    """Refuse params of which some are missing, as click does.

    Raises
    ------
    click.UsageError
        Naming the option.
    """
    given = workflow.flatten_raw(raw)
    for field in workflow.fields:
        if field.is_required and field.name not in given:
            raise click.UsageError(f"Missing option '{field.option}'.", click.get_current_context())


def option_of(field: ParamField, *, needs_all: bool = True) -> click.Option:
    """Make the option of one field. Values stay texts: the workflow itself reads them, as it does those of forms."""
    help_text = field.help.replace("`", "") + _default_note(field)
    if field.kind == "flag":
        both = f"{field.option}/--no-{field.option.removeprefix('--')}"
        return click.Option([both, field.name], default=None, help=help_text)
    return click.Option(
        [field.option, field.name],
        type=click.Choice(field.choices) if field.kind == "choice" else str,
        metavar=_METAVARS.get(field.kind),
        required=field.is_required and needs_all,
        multiple=field.is_repeated,
        help=help_text,
    )


def _default_note(field: ParamField) -> str:
    if field.default is None:
        return ""
    default = {"true": "yes", "false": "no"}.get(field.default, "") if field.kind == "flag" else field.default
    return f"  [default: {default}]"
