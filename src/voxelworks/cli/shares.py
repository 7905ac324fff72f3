"""`voxelworks shares ...`: addresses under which anybody can read a dataset for a while."""

from __future__ import annotations

from pathlib import Path

import click

from voxelworks.cli import _show
from voxelworks.cli._lists import date, json_option, print_views
from voxelworks.cli._server import connect, server_options


@click.group()
def shares() -> None:
    """Let anybody read a dataset for a while, without an account. DATASET is a name or an id."""


@shares.command("list")
@click.argument("name", metavar="DATASET")
@server_options
@json_option
def list_shares(name: str, server: str | None, token: str | None, home: Path | None, as_json: bool) -> None:
    """List the addresses of a dataset, newest first. The addresses themselves were shown once."""
    with connect(server=server, token=token, home=home) as client:
        found = client.list_shares(name)
    rows: list[dict[str, object]] = [
        {
            "id": share.id, "for": share.name, "begins_with": share.hint, "by": share.made_by,
            "made": date(share.created_ms), "ends": date(share.expires_ms), "expired": share.is_expired,
        }
        for share in found
    ]  # fmt: skip
    print_views(found, rows, as_json=as_json, none=f"{name} is not shared.")


@shares.command()
@click.argument("name", metavar="DATASET")
@click.option(
    "--for", "purpose", metavar="PURPOSE", required=True, help="What it is for, as the dataset's page shows."
)
@click.option(
    "--days", type=click.IntRange(min=1), default=7, show_default=True, help="It ends after so many."
)
@server_options
@json_option
def create(
    name: str,
    purpose: str,
    days: int,
    server: str | None,
    token: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Make an address of a dataset. Everybody who has it can read the dataset until it ends or is revoked."""
    with connect(server=server, token=token, home=home) as client:
        made = client.share_dataset(name, purpose, lifetime_days=days)
    if as_json:
        click.echo(_show.as_json(made.model_dump(mode="json")))
        return
    console = _show.output()
    console.print(
        _show.facts({"share": made.view.id, "for": made.view.name, "ends": date(made.view.expires_ms)})
    )
    console.print("viewer for browsers, then files for programs, shown this once:", style="dim")
    click.echo(f"{made.viewer}\n{made.address}")


@shares.command()
@click.argument("name", metavar="DATASET")
@click.argument("share_id", metavar="SHARE")
@server_options
def revoke(name: str, share_id: str, server: str | None, token: str | None, home: Path | None) -> None:
    """End an address at once. SHARE is an id of the list."""
    with connect(server=server, token=token, home=home) as client:
        client.revoke_share(name, share_id)
    _show.output().print(f"share {share_id} is revoked", markup=False)
