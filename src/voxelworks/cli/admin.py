"""`voxelworks admin`: accounts, keys and backups of the server on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from voxelworks.cli._lazy import LazyCommand, LazyGroup
from voxelworks.cli._settings import home_option


@click.group(
    cls=LazyGroup,
    commands_at={
        "set-up": LazyCommand(
            "voxelworks.cli.admin:set_up", "Give the first user an address and a password."
        ),
        "users": LazyCommand("voxelworks.cli.admin_people:users", "List, make and disable users."),
        "organizations": LazyCommand(
            "voxelworks.cli.admin_organizations:organizations", "List, make and change organizations."
        ),
        "members": LazyCommand(
            "voxelworks.cli.admin_organizations:members", "List members; change roles; remove members."
        ),
        "invitations": LazyCommand(
            "voxelworks.cli.admin_people:invitations", "Invite people, and take invitations back."
        ),
        "worker-keys": LazyCommand("voxelworks.cli.admin_keys:worker_keys", "Make and revoke worker keys."),
        "audit": LazyCommand("voxelworks.cli.admin:audit", "Show who did what."),
        "backup": LazyCommand("voxelworks.cli.backup:backup", "Copy database, keys and logs into one file."),
        "restore": LazyCommand("voxelworks.cli.backup:restore", "Put a backup back."),
    },
)
def admin() -> None:
    """Manage accounts, keys and backups of the server on this machine.

    These commands open the server's database directly: whoever may read its settings may do everything. The server may
    run meanwhile.
    """


@click.command("set-up")
@click.option("--name", prompt="Your name", help="Your name.")
@click.option("--email", prompt="Your e-mail address", help="With which you log in.")
@click.option("--organization-name", prompt="Name of your organization", help="As people read it.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input: one line.")
@home_option
def set_up(name: str, email: str, organization_name: str, password_stdin: bool, home: Path | None) -> None:
    """Give the first user, who runs this instance, an address and a password; this is done once.

    A server that others reach over the network needs it before its first start.
    """
    from voxelworks import accounts
    from voxelworks.cli import _show
    from voxelworks.cli._accounts import office

    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    with office(home) as here:
        user = accounts.set_up(
            here.session, name=name, email=email, password=password, organization_name=organization_name
        )
    _show.output().print(f"{user.name} ({user.email}) can log in now, and runs this instance", markup=False)


@click.command()
@click.option(
    "--organization", "organization_id", metavar="ORG", help="Only what concerns it; by default everything."
)
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=50,
    show_default=True,
    help="At most so many, newest first.",
)
@home_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def audit(organization_id: str | None, limit: int, home: Path | None, as_json: bool) -> None:
    """Show the audit log, newest first."""
    from voxelworks import accounts
    from voxelworks.cli._accounts import opened_database
    from voxelworks.cli._lists import date, print_views

    with opened_database(home) as (database, _), database.read_session() as session:
        entries = accounts.list_audit(session, organization_id=organization_id, limit=limit).entries
    rows: list[dict[str, object]] = [
        {
            "when": date(entry.at_ms), "who": entry.who, "action": entry.action, "subject": entry.subject,
            "organization": entry.organization_id, "from": entry.address,
            "detail": ", ".join(f"{name}={value!r}" for name, value in entry.detail.items()),
        }
        for entry in entries
    ]  # fmt: skip
    print_views(entries, rows, as_json=as_json, none="Nothing was noted yet.")
