"""What `--help` says, over all commands."""

from __future__ import annotations

from collections.abc import Iterator

import click

from voxelworks.cli import commands


def groups(group: click.Group, within: click.Context | None = None) -> Iterator[click.Context]:
    """Give a group, and all that are below it."""
    context = click.Context(group, info_name=group.name, parent=within, terminal_width=80)
    yield context
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from groups(command, context)


def test_what_lists_of_commands_say_fits_on_a_line():
    """Of a first sentence that is too long the end is missing."""
    found = list(groups(commands))
    assert {"admin", "users", "submit"} <= {context.command.name for context in found}
    cut_off = [
        f"{context.command_path}: {line.strip()}"
        for context in found
        for line in context.command.get_help(context).partition("Commands:")[2].splitlines()
        if line.endswith("...")
    ]
    assert cut_off == []
