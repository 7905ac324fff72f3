"""How commands print what they found: lists as tables or JSON, and secrets that are shown once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from voxelworks.cli import _show
from voxelworks.protocol.messages import Message

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_views(
    views: Sequence[Message], rows: Sequence[dict[str, object]], *, as_json: bool, none: str
) -> None:
    """Print a list: as JSON, or as a table with the given cells."""
    if as_json:
        click.echo(_show.as_json([view.model_dump(mode="json") for view in views]))
        return
    console = _show.output()
    if not rows:
        console.print(none)
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in rows[0]:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    console.print(table)


def print_view(view: Message, facts: dict[str, object], *, as_json: bool) -> None:
    """Print one thing: as JSON, or as names and values."""
    if as_json:
        click.echo(_show.as_json(view.model_dump(mode="json")))
    else:
        _show.output().print(_show.facts({name: value for name, value in facts.items() if value is not None}))


def print_secret(facts: dict[str, Any], name: str, secret: str) -> None:
    """Print a token or link that is shown this once, on a line of its own so that it can be copied."""
    console = _show.output()
    console.print(_show.facts(facts))
    console.print(f"{name}, shown this once:", style="dim")
    click.echo(secret)


def date(at_ms: int | None) -> str:
    if at_ms is None:
        return ""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _cell(value: object) -> str:
    if value is None or value is False:
        return ""
    return "yes" if value is True else str(value)
