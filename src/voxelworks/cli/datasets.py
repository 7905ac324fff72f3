"""`voxelworks datasets ...`: the datasets of a server."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from voxelworks.cli import _show
from voxelworks.cli._server import connect, server_options
from voxelworks.protocol.views import DatasetView
from voxelworks.volumes.mags import mags_remark

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def datasets() -> None:
    """List the datasets of a server, and correct what they say about themselves."""


@datasets.command("list")
@server_options
@json_option
def list_datasets(server: str | None, token: str | None, home: Path | None, as_json: bool) -> None:
    """List the datasets of your organization."""
    with connect(server=server, token=token, home=home) as client:
        found = client.list_datasets()
    if as_json:
        click.echo(_show.as_json([item.model_dump(mode="json") for item in found]))
        return
    console = _show.output()
    if not found:
        console.print("None. Make one with `voxelworks upload`.")
        return
    console.print(_table(found))


@datasets.command("voxel-size")
@click.argument("name")
@click.argument("voxel_size", metavar="X,Y,Z")
@server_options
@json_option
def set_voxel_size(
    name: str, voxel_size: str, server: str | None, token: str | None, home: Path | None, as_json: bool
) -> None:
    """State another voxel size of a dataset, in nanometres, such as 4,4,40. Voxels and mags stay as they are."""
    with connect(server=server, token=token, home=home) as client:
        changed = client.set_voxel_size(name, voxel_size)
    if as_json:
        click.echo(_show.as_json(changed.model_dump(mode="json")))
        return
    console = _show.output()
    console.print(f"{changed.name}: voxels of {changed.summary.voxel_size} nm", markup=False)
    if remark := mags_remark(changed.summary):
        _show.messages().print(remark, markup=False)


def _table(found: tuple[DatasetView, ...]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("name", "id", "voxel size (nm)"):
        table.add_column(name, no_wrap=True)
    table.add_column("layers", overflow="fold")
    for item in found:
        layers = ", ".join(layer.name for layer in item.summary.layers)
        table.add_row(item.name, item.id, item.summary.voxel_size or "not known", layers)
    return table
