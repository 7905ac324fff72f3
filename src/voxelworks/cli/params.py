"""`voxelworks params ...`: parameters that are kept on a server under a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from voxelworks.cli import _show
from voxelworks.cli._lists import json_option
from voxelworks.cli._server import connect, server_options
from voxelworks.cli._workflow_options import WorkflowGroup
from voxelworks.client import Client
from voxelworks.errors import NotFound
from voxelworks.protocol.messages import Json
from voxelworks.protocol.views import SavedParams
from voxelworks.workflows import Workflow

workflow_option = click.option("--workflow", help="Only those of this workflow.")


@click.group()
def params() -> None:
    """Keep parameters under a name, for yourself or your organization; `jobs submit --params NAME` uses them."""


@params.command("list")
@server_options
@workflow_option
@json_option
def list_params(
    server: str | None, token: str | None, home: Path | None, workflow: str | None, as_json: bool
) -> None:
    """List your own sets, and those that others share."""
    with connect(server=server, token=token, home=home) as client:
        found = client.list_params(workflow)
    if as_json:
        click.echo(_show.as_json([item.model_dump(mode="json") for item in found]))
        return
    console = _show.output()
    if not found:
        console.print("None. Save one with `voxelworks params save`.")
        return
    console.print(_table(found))


@params.command("show")
@click.argument("name")
@server_options
@workflow_option
@json_option
def show(
    name: str,
    server: str | None,
    token: str | None,
    home: Path | None,
    workflow: str | None,
    as_json: bool,
) -> None:
    """Show a set, named by its name or id."""
    with connect(server=server, token=token, home=home) as client:
        found = find(client, name, workflow)
    if as_json:
        click.echo(_show.as_json(found.model_dump(mode="json")))
    else:
        _print(found, _show.output())


def _save(workflow: Workflow, raw: Json, options: dict[str, Any]) -> None:
    with connect(server=options["server"], token=options["token"], home=options["home"]) as client:
        made = client.save_params(
            workflow.name,
            options["saved_as"],
            raw,
            is_shared=options["share"],
            with_data=options["with_data"],
        )
    _print(made, _show.output())


params.add_command(
    WorkflowGroup(
        "save",
        handler=_save,
        needs_all=False,
        extra_options=(
            server_options,
            click.option("--as", "saved_as", metavar="NAME", required=True, help="Name to keep them under."),
            click.option("--share", is_flag=True, help="Let all members of the organization use them."),
            click.option("--with-data", is_flag=True, help="Keep dataset, layer, box and sources too."),
        ),
        help="Keep parameters under a name.",
        short_help="Keep parameters under a name.",
        no_args_is_help=True,
    )
)


@params.command("rename")
@click.argument("name")
@click.argument("new_name")
@server_options
@workflow_option
def rename(
    name: str, new_name: str, server: str | None, token: str | None, home: Path | None, workflow: str | None
) -> None:
    """Give your set another name."""
    with connect(server=server, token=token, home=home) as client:
        changed = client.change_params(find(client, name, workflow).id, name=new_name)
    _show.output().print(f"{changed.workflow}: {changed.name}", markup=False)


@params.command("delete")
@click.argument("name")
@server_options
@workflow_option
def delete(name: str, server: str | None, token: str | None, home: Path | None, workflow: str | None) -> None:
    """Forget a set."""
    with connect(server=server, token=token, home=home) as client:
        found = find(client, name, workflow)
        client.delete_params(found.id)
    _show.output().print(f"{found.workflow}: {found.name} is deleted", markup=False)


def find(client: Client, name: str, workflow: str | None) -> SavedParams:
    """Find a set by its name or id; of several one's own comes first.

    Raises
    ------
    NotFound
    """
    known = client.list_params(workflow)
    fitting = sorted(
        (item for item in known if name in (item.name, item.id)), key=lambda item: not item.is_own
    )
    if not fitting:
        of = f" of {workflow}" if workflow else ""
        raise NotFound(f"there are no parameters {name!r}{of}; see `voxelworks params list`")
    return fitting[0]


def _print(found: SavedParams, console: Console) -> None:
    shared = "shared" if found.is_shared else "kept to yourself"
    console.print(f"{found.workflow}: {found.name} ({shared})", markup=False)
    console.print(_show.facts(found.params))


def _table(found: tuple[SavedParams, ...]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("workflow", "name", "of", "shared"):
        table.add_column(name, no_wrap=True)
    table.add_column("parameters", overflow="fold")
    for item in found:
        table.add_row(
            item.workflow, item.name, "you" if item.is_own else item.owner, "yes" if item.is_shared else "no",
            _show.plain(item.params),
        )  # fmt: skip
    return table
