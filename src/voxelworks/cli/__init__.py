"""The command `voxelworks`: one module per group of commands, loaded when it is used."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from voxelworks.cli._lazy import LazyCommand, LazyGroup
from voxelworks.errors import Cancelled, Interrupted, VoxelworksError

STOPPED = 130
"""Exit status after Ctrl-C."""


@click.group(
    cls=LazyGroup,
    commands_at={
        "demo": LazyCommand("voxelworks.cli.demo:demo", "Show everything at work, with a real image stack."),
        "run": LazyCommand("voxelworks.cli.run:run", "Run a workflow here and now, without a server."),
        "serve": LazyCommand("voxelworks.cli.serve:serve", "Start the server, with a worker."),
        "worker": LazyCommand("voxelworks.cli.worker:worker", "Start one more worker for a server."),
        "jobs": LazyCommand("voxelworks.cli.jobs:jobs", "Submit and follow the jobs of a server."),
        "inspect": LazyCommand("voxelworks.cli.inspect:inspect", "Say what would be read from files."),
        "upload": LazyCommand(
            "voxelworks.cli.upload:upload", "Send images to a server, which makes a dataset of them."
        ),
        "datasets": LazyCommand(
            "voxelworks.cli.datasets:datasets", "List, link, rename, publish and delete datasets of a server."
        ),
        "annotations": LazyCommand(
            "voxelworks.cli.annotations:annotation_commands", "Upload, link, download and delete annotations."
        ),
        "models": LazyCommand("voxelworks.cli.models:models", "List, add, share and delete models."),
        "shares": LazyCommand(
            "voxelworks.cli.shares:shares", "Let anybody read a dataset for a while, without an account."
        ),
        "download": LazyCommand("voxelworks.cli.download:download", "Download the file that a job has left."),
        "params": LazyCommand(
            "voxelworks.cli.params:params", "Keep parameters under a name, to use them again."
        ),
        "tokens": LazyCommand("voxelworks.cli.account:tokens", "Make and revoke your API tokens."),
        "sessions": LazyCommand(
            "voxelworks.cli.account:sessions", "List and end your log-ins with browsers."
        ),
        "admin": LazyCommand("voxelworks.cli.admin:admin", "Manage accounts, keys and backups of a server."),
        "credits": LazyCommand("voxelworks.cli.credits:credits", "Look at balances, and grant credits."),
        "mail": LazyCommand("voxelworks.cli.mail:mail", "Test the mail settings; read and repeat mails."),
        "doctor": LazyCommand(
            "voxelworks.cli.doctor:doctor", "Check whether this machine has what is needed."
        ),
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="voxelworks", message="voxelworks %(version)s")
def commands() -> None:
    """Processing jobs for volume microscopy: convert, downsample and analyse large 3D images.

    Try `voxelworks demo` first.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    An error that a person can do something about is one line on standard error; its class decides the exit status.
    """
    try:
        status = _invoke(arguments)
        sys.stdout.flush()
    except (Cancelled, Interrupted) as error:
        fail(str(error), STOPPED)
    except VoxelworksError as error:
        fail(f"error: {error}", error.exit_status)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "voxelworks"
        fail(f"error: {error.format_message()} See `{where} --help`.", error.exit_code)
    except click.ClickException as error:
        fail(f"error: {error.format_message()}", error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        fail("stopped", STOPPED)
    except BrokenPipeError:
        # Whoever read the output has seen enough. Python would complain once more when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(status)


def _invoke(arguments: Sequence[str] | None) -> int:
    try:
        status = commands.main(arguments, prog_name="voxelworks", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    return status if isinstance(status, int) else 0


def fail(message: str, status: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(status)
