"""`voxelworks tokens` and `voxelworks sessions`: what lets somebody in at a server."""

from __future__ import annotations

from pathlib import Path

import click

from voxelworks.cli import _show
from voxelworks.cli._lists import date, json_option, print_secret, print_views
from voxelworks.cli._server import connect, server_options
from voxelworks.protocol.people import SCOPES, Scope


@click.group()
def tokens() -> None:
    """Make and revoke your API tokens, with which programs act for you."""


@tokens.command("list")
@server_options
@json_option
def list_tokens(server: str | None, token: str | None, home: Path | None, as_json: bool) -> None:
    """List your tokens of this organization, newest first."""
    with connect(server=server, token=token, home=home) as client:
        found = client.list_tokens()
    rows: list[dict[str, object]] = [
        {
            "id": item.id, "name": item.name, "begins_with": item.hint, "scopes": ", ".join(item.scopes),
            "last_used": date(item.used_ms), "ends": date(item.expires_ms) or "never", "expired": item.is_expired,
        }
        for item in found
    ]  # fmt: skip
    print_views(found, rows, as_json=as_json, none="No tokens. Make one with `voxelworks tokens create`.")


@tokens.command()
@click.argument("name")
@click.option(
    "--scope", type=click.Choice(SCOPES), default="submit", show_default=True,
    help="What it may be used for; each allows what those before it allow.",
)  # fmt: skip
@click.option(
    "--days", type=click.IntRange(min=1), default=90, show_default=True, help="It ends after so many."
)
@click.option("--no-end", is_flag=True, help="It does not end by itself.")
@server_options
@json_option
def create(
    name: str,
    scope: Scope,
    days: int,
    no_end: bool,
    server: str | None,
    token: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Make a token, and print it. NAME says what it is for.

    What was let in with a token cannot make another one: this is for the server of this machine. Elsewhere make tokens
    on the page Account.
    """
    with connect(server=server, token=token, home=home) as client:
        made = client.create_token(name, [scope], lifetime_days=None if no_end else days)
    if as_json:
        click.echo(_show.as_json(made.model_dump(mode="json")))
        return
    facts = {"id": made.view.id, "name": made.view.name, "ends": date(made.view.expires_ms) or "never"}
    print_secret(facts, "token", made.token)


@tokens.command()
@click.argument("token_id", metavar="ID")
@server_options
def revoke(token_id: str, server: str | None, token: str | None, home: Path | None) -> None:
    """End one of your tokens at once. ID is one of the list."""
    with connect(server=server, token=token, home=home) as client:
        client.revoke_token(token_id)
    _show.output().print(f"token {token_id} is revoked", markup=False)


@click.group()
def sessions() -> None:
    """List and end your log-ins with browsers."""


@sessions.command("list")
@server_options
@json_option
def list_sessions(server: str | None, token: str | None, home: Path | None, as_json: bool) -> None:
    """List the browsers that you are logged in with. The one used last comes first."""
    with connect(server=server, token=token, home=home) as client:
        found = client.list_sessions()
    rows: list[dict[str, object]] = [
        {
            "id": item.id, "browser": item.agent, "from": item.address, "since": date(item.created_ms),
            "last_used": date(item.seen_ms),
        }
        for item in found
    ]  # fmt: skip
    print_views(found, rows, as_json=as_json, none="You are logged in with no browser.")


@sessions.command()
@click.argument("session_id", metavar="SESSION", required=False)
@click.option("--all", "is_all", is_flag=True, help="All of them.")
@server_options
def end(
    session_id: str | None, is_all: bool, server: str | None, token: str | None, home: Path | None
) -> None:
    """Log a browser out. SESSION is an id of the list."""
    if (session_id is None) != is_all:
        raise click.UsageError("Give either a session or --all.")
    with connect(server=server, token=token, home=home) as client:
        if session_id is None:
            client.end_sessions()
        else:
            client.end_session(session_id)
    _show.output().print(
        "all sessions are ended" if is_all else f"session {session_id} is ended", markup=False
    )
