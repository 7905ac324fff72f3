"""`voxelworks mail`: does mail arrive, and what waits or was kept? For the operator, on the server's own machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import click
from rich.table import Table
from rich.text import Text

from voxelworks import notify
from voxelworks.cli import _show
from voxelworks.cli._accounts import limit_option
from voxelworks.cli._lists import json_option
from voxelworks.cli._settings import home_option, load_settings
from voxelworks.db import Database, open_database
from voxelworks.notify import MailPage, OutboxState
from voxelworks.settings import Settings

LOOKS: dict[OutboxState, str] = {"sent": "green", "failed": "red", "kept": "yellow", "due": "cyan"}


@click.group()
def mail() -> None:
    """Test the mail settings; read and repeat the mails of this machine's server."""


@mail.command()
@click.option("--to", required=True, metavar="ADDRESS", help="Who gets the test mail.")
@home_option
def test(to: str, home: Path | None) -> None:
    """Send a test mail at once. It takes the mail settings of the environment."""
    _show.output().print(notify.send_test_mail(load_settings(home=home), to), markup=False)


@mail.command("list")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(get_args(OutboxState)),
    help="Only mails in this state.",
)
@limit_option
@home_option
@json_option
def list_mails(states: tuple[OutboxState, ...], limit: int, home: Path | None, as_json: bool) -> None:
    """List mails and calls of webhooks, newest first."""
    with _opened(home) as (database, _), database.read_session() as session:
        page = notify.list_mails(session, states=states, limit=limit)
    if as_json:
        click.echo(_show.as_json([item.model_dump(mode="json") for item in page.mails]))
    else:
        _print_page(page)


@mail.command()
@click.argument("mail_id", metavar="MAIL", type=int)
@home_option
def show(mail_id: int, home: Path | None) -> None:
    """Show what a mail says, or what a webhook is told."""
    with _opened(home) as (database, settings), database.read_session() as session:
        found = notify.read_mail(session, mail_id, settings=settings)
    facts = {"to": found.view.recipient, "subject": found.view.subject, "state": found.view.state}
    console = _show.output()
    console.print(_show.facts(facts | ({"error": found.view.last_error} if found.view.last_error else {})))
    console.print()
    click.echo(found.text)


@mail.command()
@click.argument("mail_id", metavar="MAIL", type=int)
@home_option
def again(mail_id: int, home: Path | None) -> None:
    """Let the server send a mail once more that it gave up or kept."""
    with _opened(home) as (database, _), database.session() as session:
        view = notify.send_again(session, mail_id)
    _show.output().print(
        f"the server sends mail {view.id} to {view.recipient} in its next round", markup=False
    )


@contextmanager
def _opened(home: Path | None) -> Iterator[tuple[Database, Settings]]:
    settings = load_settings(home=home)
    database = open_database(settings)
    try:
        yield database, settings
    finally:
        database.close()


def _print_page(page: MailPage) -> None:
    console = _show.output()
    if not page.mails:
        console.print("No mails.")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("mail", "state", "to", "tries"):
        table.add_column(name, no_wrap=True)
    table.add_column("subject", overflow="ellipsis", no_wrap=True)
    table.add_column("error", overflow="ellipsis", no_wrap=True)
    for item in page.mails:
        recipient = item.recipient if item.channel == "mail" else f"webhook {item.recipient}"
        table.add_row(
            str(item.id), Text(item.state, LOOKS.get(item.state, "dim")), Text(recipient), str(item.tries),
            Text(item.subject), Text(item.last_error or ""),
        )  # fmt: skip
    console.print(table)
    if page.next_after is not None:
        console.print(f"{sum(page.counts.values())} in all; show more with --limit", style="dim")
