"""`voxelworks admin users` and `invitations`."""

from __future__ import annotations

from pathlib import Path

import click

from voxelworks import accounts
from voxelworks.cli import _show
from voxelworks.cli._accounts import office, opened_database, organization_option, role_type
from voxelworks.cli._lists import date, json_option, print_secret, print_views
from voxelworks.cli._settings import home_option
from voxelworks.protocol.people import Role


@click.group()
def users() -> None:
    """List, make and disable users. USER is an e-mail address or an id."""


@users.command("list")
@home_option
@json_option
def list_users(home: Path | None, as_json: bool) -> None:
    """List everybody."""
    with opened_database(home) as (database, _), database.read_session() as session:
        found = accounts.list_users(session)
        places = {user.id: accounts.list_memberships(session, user.id) for user in found}
    rows: list[dict[str, object]] = [
        {
            "id": user.id, "name": user.name, "address": user.email, "operator": user.is_operator,
            "organizations": ", ".join(f"{item.organization.id} ({item.role})" for item in places[user.id]),
            "disabled": date(user.disabled_ms),
        }
        for user in found
    ]  # fmt: skip
    print_views(found, rows, as_json=as_json, none="Nobody yet. The first start of the server makes a user.")


@users.command("create")
@click.argument("email", metavar="ADDRESS")
@click.option("--name", required=True, help="Name of the person.")
@organization_option
@click.option("--role", type=role_type, default="member", show_default=True, help="Role there.")
@click.option("--operator", is_flag=True, help="They run this instance, too.")
@home_option
def create_user(
    email: str, name: str, organization_id: str, role: Role, operator: bool, home: Path | None
) -> None:
    """Make a user, and print the link for choosing a password."""
    with office(home, organization_id) as here:
        user = accounts.create_user(here.session, here.by, email=email, name=name, is_operator=operator)
        accounts.add_member(here.session, here.by, user.id, role)
        token = accounts.make_reset(here.session, here.by, user.id, here.settings)
        link = here.link(f"/reset/{token}")
    print_secret({"user": user.id, "name": user.name, "address": user.email}, "link to the password", link)


@users.command("link")
@click.argument("who", metavar="USER")
@home_option
def link_to_password(who: str, home: Path | None) -> None:
    """Print a link with which somebody chooses a new password."""
    with office(home) as here:
        user = here.user(who)
        token = accounts.make_reset(here.session, here.by, user.id, here.settings)
        link = here.link(f"/reset/{token}")
    minutes = round(here.settings.password_reset_s / 60)
    print_secret({"user": user.id, "name": user.name, "valid_for": f"{minutes} min"}, "link", link)


@users.command("disable")
@click.argument("who", metavar="USER")
@home_option
def disable_user(who: str, home: Path | None) -> None:
    """Shut somebody out at once. What they made stays."""
    with office(home) as here:
        user = accounts.disable_user(here.session, here.by, here.user(who).id)
    _show.output().print(f"{user.name} is disabled", markup=False)


@users.command("enable")
@click.argument("who", metavar="USER")
@home_option
def enable_user(who: str, home: Path | None) -> None:
    """Let somebody in again."""
    with office(home) as here:
        user = accounts.enable_user(here.session, here.by, here.user(who).id)
    _show.output().print(f"{user.name} is enabled", markup=False)


@users.command("operator")
@click.argument("who", metavar="USER")
@click.option("--dismiss", is_flag=True, help="They are no operator any more.")
@home_option
def set_operator(who: str, dismiss: bool, home: Path | None) -> None:
    """Make somebody an operator of this instance."""
    with office(home) as here:
        user = accounts.set_operator(here.session, here.by, here.user(who).id, not dismiss)
    _show.output().print(
        f"{user.name} is {'an operator' if user.is_operator else 'no operator'} now", markup=False
    )


@click.group()
def invitations() -> None:
    """Invite people, and take invitations back."""


@invitations.command("list")
@organization_option
@home_option
@json_option
def list_invitations(organization_id: str, home: Path | None, as_json: bool) -> None:
    """List the invitations of an organization that nobody has accepted."""
    with office(home, organization_id) as here:
        found = accounts.list_invitations(here.session, here.by)
    rows: list[dict[str, object]] = [
        {
            "id": item.id, "address": item.email, "role": item.role, "by": item.invited_by,
            "valid_until": date(item.expires_ms), "expired": item.is_expired,
        }
        for item in found
    ]  # fmt: skip
    print_views(found, rows, as_json=as_json, none="No open invitations.")


@invitations.command("create")
@click.argument("email", metavar="ADDRESS")
@organization_option
@click.option("--role", type=role_type, default="member", show_default=True, help="Role there.")
@home_option
def create_invitation(email: str, organization_id: str, role: Role, home: Path | None) -> None:
    """Invite somebody, and print the link for them. No mail is sent."""
    with office(home, organization_id) as here:
        token, view = accounts.invite(here.session, here.by, email, role, settings=here.settings)
        link = here.link(f"/invitation/{token}")
    facts = {"invitation": view.id, "address": view.email, "role": view.role, "until": date(view.expires_ms)}
    print_secret(facts, "link", link)


@invitations.command("revoke")
@click.argument("invitation_id", metavar="INVITATION")
@organization_option
@home_option
def revoke_invitation(invitation_id: str, organization_id: str, home: Path | None) -> None:
    """Take an invitation back."""
    with office(home, organization_id) as here:
        accounts.revoke_invitation(here.session, here.by, invitation_id)
    _show.output().print(f"invitation {invitation_id} is revoked", markup=False)
