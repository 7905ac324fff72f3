"""`voxelworks worker`: runs the jobs of a server on this machine."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from voxelworks import logs
from voxelworks.cli._private import keep_memory_private
from voxelworks.cli._settings import (
    cluster_option,
    data_dir_option,
    home_option,
    import_root_option,
    job_slots_option,
    load_settings,
    parse_import_roots,
    slots_option,
)
from voxelworks.client import Client, find_server, worker_key_file
from voxelworks.errors import InvalidInput
from voxelworks.settings import Settings
from voxelworks.worker.agent import Agent, when_parent_ends


@click.command()
@click.option(
    "--server", metavar="URL", envvar="VOXELWORKS_SERVER", help="The server; by default the one in --home."
)
@click.option(
    "--key", envvar="VOXELWORKS_WORKER_KEY",
    help="Worker key of that server. Others on this machine see it in the list of processes: rather set"
    " VOXELWORKS_WORKER_KEY, or give a file.",
)  # fmt: skip
@click.option(
    "--key-file", envvar="VOXELWORKS_WORKER_KEY_FILE", type=click.Path(path_type=Path),
    help="File with the key, which counts more than --key; by default worker.key in --home"
    " (VOXELWORKS_WORKER_KEY_FILE).",
)  # fmt: skip
@click.option(
    "--name",
    help="Name of this worker; by default that of the machine. A worker keeps its name over restarts.",
)
@home_option
@data_dir_option
@import_root_option
@slots_option
@job_slots_option
@cluster_option
@click.option("--embedded", is_flag=True, hidden=True, help="End with the process that holds standard input.")
def worker(
    server: str | None,
    key: str | None,
    key_file: Path | None,
    name: str | None,
    home: Path | None,
    data_dir: Path | None,
    import_roots: tuple[str, ...],
    slots: int | None,
    job_slots: int | None,
    cluster: str | None,
    embedded: bool,
) -> None:
    """Start one more worker for a server.

    The worker finds datasets and import roots below its own --data-dir and --import-root: they must lead to the same
    files as those of the server. SIGTERM or Ctrl-C lets it end its jobs and take no new ones; a second one
    interrupts them, and they go on elsewhere.
    """
    keep_memory_private()
    settings = load_settings(
        home=home,
        data_dir=data_dir,
        import_roots=parse_import_roots(import_roots),
        slots=slots,
        job_slots=job_slots,
    )
    logs.set_up(settings, program="worker")
    with (
        _own_name(settings.home, name, is_embedded=embedded) as own_name,
        _connect(settings, server, key, key_file) as client,
    ):
        agent = Agent(client, settings, name=own_name, cluster=cluster)
        if embedded:
            when_parent_ends(agent.kill_jobs)
        _stop_on_signals(agent, at_once=embedded)
        agent.run()


def _connect(settings: Settings, server: str | None, key: str | None, key_file: Path | None) -> Client:
    if key is None or key_file is not None:
        file = key_file or worker_key_file(settings.home)
        try:
            key = file.read_text().strip()
        except OSError as error:
            raise InvalidInput(
                f"the worker key is missing: {file} cannot be read ({error.strerror}); give --key-file, or set"
                " VOXELWORKS_WORKER_KEY"
            ) from error
    return Client(server or find_server(settings).url, key)


def _stop_on_signals(agent: Agent, *, at_once: bool) -> None:
    def handle(*_: object) -> None:
        count = agent.stop()
        if at_once:
            agent.stop()
        elif count == 1 and agent.running_count:
            logging.getLogger(__name__).info("ends when its jobs have ended; once more interrupts them")

    for kind in (signal.SIGTERM, signal.SIGINT):
        signal.signal(kind, handle)


@contextmanager
def _own_name(home: Path, name: str | None, *, is_embedded: bool) -> Iterator[str]:
    """Keep a name that no other worker of this machine uses, and that is the same after a restart.

    A session of the same name ends the earlier one: two living workers of one name would end each other's for ever.
    """
    if is_embedded:
        # One for each server: the server keeps a second of its kind away from its home.
        yield "embedded"
        return
    folder = home / "workers"
    folder.mkdir(parents=True, exist_ok=True)
    machine = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())
    candidates = [name] if name else [machine, *(f"{machine}-{number}" for number in range(2, 1000))]
    for candidate in candidates:
        descriptor = os.open(folder / f"{candidate}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        try:
            yield candidate
        finally:
            os.close(descriptor)
        return
    raise InvalidInput(
        f"a worker named {candidates[0]!r} runs on this machine already; choose another --name"
    )
