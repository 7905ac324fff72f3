"""`voxelworks admin worker-keys`."""

from __future__ import annotations

from pathlib import Path

import click

from voxelworks import accounts
from voxelworks.cli import _show
from voxelworks.cli._accounts import office, opened_database
from voxelworks.cli._lists import date, json_option, print_secret, print_views
from voxelworks.cli._settings import home_option


@click.group("worker-keys")
def worker_keys() -> None:
    """Make and revoke the keys with which workers of other machines connect."""


@worker_keys.command("list")
@home_option
@json_option
def list_keys(home: Path | None, as_json: bool) -> None:
    """List all keys; the revoked ones come last."""
    with opened_database(home) as (database, _), database.read_session() as session:
        found = accounts.list_worker_keys(session)
    rows: list[dict[str, object]] = [
        {
            "id": key.id, "name": key.name, "begins_with": key.hint, "jobs_of": key.organization_id or "all",
            "workflows": ", ".join(key.commands) or "all", "last_used": date(key.used_ms),
            "revoked": date(key.revoked_ms),
        }
        for key in found
    ]  # fmt: skip
    print_views(found, rows, as_json=as_json, none="No keys yet.")


@worker_keys.command("create")
@click.argument("name")
@click.option("--organization", "organization_id", metavar="ORG", help="Only jobs of it; by default of all.")
@click.option(
    "--workflow", "workflows", multiple=True, help="Only this workflow. May be given several times."
)
@click.option(
    "--high-slots", type=click.IntRange(0, accounts.SLOTS_MAX), default=1, show_default=True,
    help="Jobs of high priority at once, for WEBKNOSSOS workers.",
)  # fmt: skip
@click.option(
    "--low-slots", type=click.IntRange(0, accounts.SLOTS_MAX), default=1, show_default=True,
    help="Jobs of low priority at once, for WEBKNOSSOS workers.",
)  # fmt: skip
@home_option
def create_key(
    name: str,
    organization_id: str | None,
    workflows: tuple[str, ...],
    high_slots: int,
    low_slots: int,
    home: Path | None,
) -> None:
    """Make a key, and print it."""
    with office(home) as here:
        key, view = accounts.create_worker_key(
            here.session, here.by, name, organization_id=organization_id, commands=workflows,
            high_slots=high_slots, low_slots=low_slots,
        )  # fmt: skip
    print_secret({"id": view.id, "name": view.name}, "key", key)


@worker_keys.command("revoke")
@click.argument("key_id", metavar="KEY")
@home_option
def revoke_key(key_id: str, home: Path | None) -> None:
    """Shut the workers of a key out. KEY is an id of the list."""
    with office(home) as here:
        view = accounts.revoke_worker_key(here.session, here.by, key_id)
    _show.output().print(f"key {view.name} is revoked", markup=False)
