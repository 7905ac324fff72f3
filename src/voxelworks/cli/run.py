"""`voxelworks run WORKFLOW ...`: a workflow on this machine, without a server."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.text import Text

from voxelworks.cli import _show
from voxelworks.cli._settings import cluster_option, load_settings, slots_option
from voxelworks.cli._workflow_options import WorkflowGroup
from voxelworks.errors import Cancelled
from voxelworks.protocol.messages import Json, SealedResult
from voxelworks.sizes import size_text
from voxelworks.workflows import StopFlag, Workflow, run_locally


def _run(workflow: Workflow, raw: Json, options: dict[str, Any]) -> None:
    params = workflow.parse(raw)
    settings = load_settings(slots=options["slots"])
    began_at = time.monotonic()
    with _show.RunDisplay(workflow.name, _show.messages()) as display, _stopped_by_signals() as stop:
        sealed = run_locally(
            workflow, params, settings=settings, cluster=options["cluster"], reporter=display, stop=stop
        )
    if options["as_json"]:
        click.echo(_show.as_json(sealed.value))
        return
    _print_answer(workflow, sealed, time.monotonic() - began_at)


def _print_answer(workflow: Workflow, sealed: SealedResult, took_s: float) -> None:
    line = Text.assemble(("✓ ", "green"), (workflow.name, "bold"), f" in {_show.duration(took_s)}")
    if sealed.size_bytes:
        line.append(f", {size_text(sealed.size_bytes)} written")
    _show.messages().print(line)
    _show.output().print(_show.facts(sealed.value))


@contextmanager
def _stopped_by_signals() -> Iterator[StopFlag]:
    """Let the first Ctrl-C or SIGTERM stop the run in good order, and the second one at once."""
    stop = StopFlag()

    def handle(*_: object) -> None:
        stop.set(Cancelled("stopped; the same command goes on where it stopped"))
        for kind, handler in before.items():
            signal.signal(kind, handler)

    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
    for kind in before:
        signal.signal(kind, handle)
    try:
        yield stop
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


run = WorkflowGroup(
    "run",
    handler=_run,
    extra_options=(
        click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON on standard output."),
        slots_option,
        cluster_option,
    ),
    help="Run a workflow here and now, without a server. The same command goes on where an earlier one was stopped.",
    short_help="Run a workflow here and now, without a server.",
    no_args_is_help=True,
)
