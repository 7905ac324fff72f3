"""`voxelworks serve`: the server, with a worker of its own unless told otherwise."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import click
from rich.text import Text

from voxelworks import __version__, logs
from voxelworks.cli import _show
from voxelworks.cli._embedded import EmbeddedWorker
from voxelworks.cli._private import keep_memory_private
from voxelworks.cli._server import only_server_of
from voxelworks.cli._settings import (
    data_dir_option,
    home_option,
    import_root_option,
    job_slots_option,
    load_settings,
    parse_import_roots,
    slots_option,
)
from voxelworks.client import ServerInfo
from voxelworks.settings import Settings


@click.command()
@home_option
@data_dir_option
@click.option(
    "--host",
    help="Address to listen on; 127.0.0.1 by default. Others need TLS, an address and a set-up: see the docs.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port to listen on; 8440 by default, 0 takes a free one."
)
@import_root_option
@slots_option
@job_slots_option
@click.option("--no-worker", is_flag=True, help="Start no worker; start some with `voxelworks worker`.")
def serve(
    home: Path | None,
    data_dir: Path | None,
    host: str | None,
    port: int | None,
    import_roots: tuple[str, ...],
    slots: int | None,
    job_slots: int | None,
    no_worker: bool,
) -> None:
    """Start the server, with a worker.

    Prints the address of the jobs page. It carries the start-up token once; who has it may do everything.
    """
    keep_memory_private()
    settings = load_settings(
        home=home, data_dir=data_dir, host=host, port=port, import_roots=parse_import_roots(import_roots),
        slots=slots, job_slots=job_slots,
    )  # fmt: skip
    logs.set_up(settings, program="server")
    run_server(settings, worker=None if no_worker else EmbeddedWorker(settings))


def run_server(settings: Settings, *, worker: EmbeddedWorker | None) -> None:
    """Serve until Ctrl-C or SIGTERM; jobs that run then are interrupted and go on at the next start."""
    from voxelworks.server import serve as serve_until_stopped  # slow import: only for this command

    def on_ready(info: ServerInfo) -> None:
        # Modules stay for good: looking through them again and again would stop all requests for 0.15 s each time.
        gc.collect()
        gc.freeze()
        _print_address(info, settings, has_worker=worker is not None)
        if worker is not None:
            worker.start()

    with only_server_of(settings):
        make_data_folder(settings)
        serve_until_stopped(settings, on_ready=on_ready, on_stop=worker.stop if worker is not None else None)


def make_data_folder(settings: Settings) -> None:
    settings.datasets_dir.mkdir(parents=True, exist_ok=True)


def _print_address(info: ServerInfo, settings: Settings, *, has_worker: bool) -> None:
    roots = ", ".join(f"root:{name} = {root.path}" for name, root in settings.import_roots.items())
    facts = {
        "open": Text(info.entry_url, "bold cyan"),
        **({"for others": Text(settings.public_url, "bold cyan")} if settings.public_url is not None else {}),
        "datasets": settings.datasets_dir,
        "images": roots or "no import roots; name one with --import-root NAME=FOLDER",
        "worker": f"{settings.slots} processes" if has_worker else "none; start one with `voxelworks worker`",
    }
    console = _show.output()
    console.print(Text.assemble(("Voxelworks ", "bold"), __version__))
    console.print(_show.facts(facts))
    console.print("Ctrl-C stops it.", style="dim")
    sys.stdout.flush()
