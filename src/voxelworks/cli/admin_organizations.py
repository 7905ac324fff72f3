"""`voxelworks admin organizations` and `members`."""

from __future__ import annotations

from pathlib import Path

import click

from voxelworks import accounts
from voxelworks.cli import _show
from voxelworks.cli._accounts import office, opened_database, organization_option, role_type
from voxelworks.cli._lists import date, json_option, print_views
from voxelworks.cli._settings import home_option
from voxelworks.errors import InvalidInput
from voxelworks.protocol.people import Role


@click.group()
def organizations() -> None:
    """List, make and change organizations. ORG is a short name, USER an e-mail address or an id."""


@organizations.command("list")
@home_option
@json_option
def list_organizations(home: Path | None, as_json: bool) -> None:
    """List all organizations."""
    with opened_database(home) as (database, _), database.read_session() as session:
        found = accounts.list_organizations(session)
        owners = accounts.owners_of(session, [item.id for item in found])
    rows: list[dict[str, object]] = [
        {
            "organization": item.id, "name": item.name, "owner": owners[item.id].email or owners[item.id].name,
            "time_zone": item.zone, "storage_limit": item.storage_bytes_max, "since": date(item.created_ms),
        }
        for item in found
    ]  # fmt: skip
    print_views(found, rows, as_json=as_json, none="None yet. The first start of the server makes one.")


@organizations.command("create")
@click.argument("organization_id", metavar="ORG")
@click.option("--name", required=True, help="As people read it.")
@click.option("--zone", default="UTC", show_default=True, help="Time zone in which its months end.")
@click.option("--owner", metavar="USER", help="Who owns it; by default the local user.")
@home_option
def create_organization(
    organization_id: str, name: str, zone: str, owner: str | None, home: Path | None
) -> None:
    """Make an organization."""
    with office(home) as here:
        owner_id = None if owner is None else here.user(owner).id
        made = accounts.create_organization(
            here.session, here.by, organization_id=organization_id, name=name, zone=zone, owner_id=owner_id
        )
    _show.output().print(f"organization {made.id} ({made.name}) is there", markup=False)


@organizations.command("set")
@click.argument("organization_id", metavar="ORG")
@click.option("--name", help="As people read it.")
@click.option("--zone", help="Time zone in which its months end.")
@click.option(
    "--storage-bytes-max", type=click.IntRange(min=0), metavar="BYTES", help="Most that it may store."
)
@click.option("--no-storage-max", is_flag=True, help="Take its own storage limit away.")
@home_option
def set_organization(
    organization_id: str,
    name: str | None,
    zone: str | None,
    storage_bytes_max: int | None,
    no_storage_max: bool,
    home: Path | None,
) -> None:
    """Change the name, time zone or storage limit of an organization."""
    if no_storage_max and storage_bytes_max is not None:
        raise InvalidInput("--storage-bytes-max and --no-storage-max contradict each other; give one of them")
    with office(home, organization_id) as here:
        if name is not None:
            accounts.rename_organization(here.session, here.by, name)
        if zone is not None:
            accounts.set_zone(here.session, here.by, zone)
        if no_storage_max or storage_bytes_max is not None:
            accounts.set_storage_max(here.session, here.by, organization_id, storage_bytes_max)
        found = accounts.find_organization(here.session, organization_id)
    facts = {
        "organization": found.id, "name": found.name, "time_zone": found.zone,
        "storage_limit": "none of its own" if found.storage_bytes_max is None else found.storage_bytes_max,
    }  # fmt: skip
    _show.output().print(_show.facts(facts))


@organizations.command("owner")
@click.argument("organization_id", metavar="ORG")
@click.argument("who", metavar="USER")
@home_option
def set_owner(organization_id: str, who: str, home: Path | None) -> None:
    """Hand the ownership of an organization to one of its members."""
    with office(home, organization_id) as here:
        member = accounts.transfer_ownership(here.session, here.by, here.user(who).id)
    _show.output().print(f"{member.user.name} owns {organization_id} now", markup=False)


@click.group()
def members() -> None:
    """List members, change roles, remove members. USER is an e-mail address or an id."""


@members.command("list")
@organization_option
@home_option
@json_option
def list_members(organization_id: str, home: Path | None, as_json: bool) -> None:
    """List the members of an organization."""
    with opened_database(home) as (database, _), database.read_session() as session:
        accounts.find_organization(session, organization_id)
        found = accounts.list_members(session, organization_id)
    rows: list[dict[str, object]] = [
        {
            "id": item.user.id, "name": item.user.name, "address": item.user.email, "role": item.role,
            "since": date(item.since_ms), "disabled": date(item.user.disabled_ms),
        }
        for item in found
    ]  # fmt: skip
    print_views(found, rows, as_json=as_json, none="No members.")


@members.command("add")
@click.argument("who", metavar="USER")
@organization_option
@click.option("--role", type=role_type, default="member", show_default=True, help="Role there.")
@home_option
def add_member(who: str, organization_id: str, role: Role, home: Path | None) -> None:
    """Make somebody who has an account a member, without an invitation."""
    with office(home, organization_id) as here:
        member = accounts.add_member(here.session, here.by, here.user(who).id, role)
    _show.output().print(f"{member.user.name} is {member.role} of {organization_id} now", markup=False)


@members.command("role")
@click.argument("who", metavar="USER")
@click.argument("role", type=role_type)
@organization_option
@home_option
def change_role(who: str, role: Role, organization_id: str, home: Path | None) -> None:
    """Give a member another role."""
    with office(home, organization_id) as here:
        member = accounts.change_role(here.session, here.by, here.user(who).id, role)
    _show.output().print(f"{member.user.name} is {member.role} of {organization_id} now", markup=False)


@members.command("remove")
@click.argument("who", metavar="USER")
@organization_option
@home_option
def remove_member(who: str, organization_id: str, home: Path | None) -> None:
    """Remove a member. Their sessions and tokens there end; what they made stays."""
    with office(home, organization_id) as here:
        user = here.user(who)
        accounts.remove_member(here.session, here.by, user.id)
    _show.output().print(f"{user.name} is no member of {organization_id} any more", markup=False)
