"""`voxelworks doctor`: has this machine what Voxelworks needs?"""

from __future__ import annotations

import multiprocessing
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import click
from rich.table import Table
from rich.text import Text

from voxelworks import __version__
from voxelworks.cli import _show
from voxelworks.cli._settings import home_option, load_settings
from voxelworks.client import ServerInfo, server_file
from voxelworks.errors import NotAllowed, VoxelworksError
from voxelworks.settings import Settings

Status = Literal["ok", "note", "problem"]
PYTHONS = ((3, 11), (3, 14))
"""Oldest supported version, and the first one that is not."""
ARRAY_LIBRARIES = ("numpy", "tensorstore", "numba", "tifffile", "imagecodecs", "pillow")
EXTRAS = {"postgres": ("psycopg",), "cluster": ("distributed", "dask-jobqueue")}
FREE_BYTES_MIN = 2**30
_LOOKS: dict[Status, tuple[str, str]] = {
    "ok": ("✓", "green"),
    "note": ("!", "yellow"),
    "problem": ("✗", "red"),
}


@dataclass(frozen=True)
class Finding:
    """What was looked at, and what was found."""

    name: str
    status: Status
    text: str


@click.command()
@home_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(home: Path | None, as_json: bool) -> int:
    """Check whether this machine has what is needed.

    Exit status 1 if something essential is missing.
    """
    findings = list(examine(load_settings(home=home)))
    is_well = all(finding.status != "problem" for finding in findings)
    if as_json:
        click.echo(_show.as_json({"ok": is_well, "findings": [asdict(finding) for finding in findings]}))
    else:
        _print(findings, is_well=is_well)
    return 0 if is_well else 1


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything; yield what is found."""
    yield Finding("voxelworks", "ok", f"{__version__} in {Path(__file__).parents[1]}")
    yield _python()
    yield Finding("system", "ok", f"{platform.system()} {platform.release()}, {platform.machine()}")
    yield _cores(settings)
    yield _memory(settings)
    yield _libraries()
    yield _processes()
    yield _isolation(settings)
    yield _folder("home", settings.home)
    yield _folder("datasets", settings.datasets_dir)
    yield _folder("cache", settings.cache_dir, is_essential=False)
    yield _database(settings)
    yield from _import_roots(settings)
    yield from _extras()
    yield _server(settings)


def _print(findings: list[Finding], *, is_well: bool) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        symbol, style = _LOOKS[finding.status]
        table.add_row(
            Text(symbol, style), finding.name, Text(finding.text, "" if finding.status == "ok" else style)
        )
    console = _show.output()
    console.print(table)
    verdict = (
        ("Everything essential is there.", "green") if is_well else ("Something essential is missing.", "red")
    )
    console.print(Text("\n").append(*verdict))


def _python() -> Finding:
    is_supported = PYTHONS[0] <= sys.version_info[:2] < PYTHONS[1]
    text = f"{platform.python_version()} at {sys.executable}"
    return (
        Finding("python", "ok", text)
        if is_supported
        else Finding("python", "problem", f"{text}; 3.11 to 3.13 are supported")
    )


def _cores(settings: Settings) -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    text = f"{usable} usable, a job computes with {settings.slots} processes"
    return Finding("cores", "note" if settings.slots > usable else "ok", text)


def _memory(settings: Settings) -> Finding:
    from voxelworks.blocks.memory import free_memory_bytes
    from voxelworks.worker.limits import machine_memory_bytes

    total, free = machine_memory_bytes(), free_memory_bytes()
    limit = (
        "no limit is set"
        if settings.memory_bytes_max is None
        else f"a job may use {_gib(settings.memory_bytes_max)}"
    )
    # A block of the largest shard needs about twice that, and its source beside it.
    is_short = free < 3 * settings.shard_bytes_max
    return Finding("memory", "note" if is_short else "ok", f"{_gib(total)}, {_gib(free)} free, {limit}")


def _libraries() -> Finding:
    """Load the array libraries in a process of their own: a broken one may not only fail, but crash."""
    imports = "import numpy, tensorstore, numba, tifffile, imagecodecs, PIL"
    outcome = subprocess.run(
        [sys.executable, "-P", "-c", imports], capture_output=True, text=True, check=False
    )
    if outcome.returncode != 0:
        reason = (outcome.stderr.strip().splitlines() or [f"exit status {outcome.returncode}"])[-1]
        return Finding("array libraries", "problem", f"{reason}; install voxelworks again")
    return Finding("array libraries", "ok", ", ".join(f"{name} {version(name)}" for name in ARRAY_LIBRARIES))


def _processes() -> Finding:
    """Start the pool that jobs compute in, and let it compute."""
    from voxelworks.blocks.executor import make_executor

    began_at = time.monotonic()
    try:
        with make_executor(None, 1) as executor:
            executor.start("check", abs, -1)
            while not (ended := executor.collect(timeout_s=1.0)):
                if time.monotonic() - began_at > 60:
                    return Finding("processes", "problem", "a worker process does not answer within a minute")
    except (OSError, VoxelworksError) as error:
        return Finding("processes", "problem", f"worker processes cannot be started: {error}")
    outcome = ended[0][1]
    if outcome.error is not None:
        return Finding("processes", "problem", f"a worker process cannot compute: {outcome.error}")
    took = _show.duration(time.monotonic() - began_at)
    method = (
        "forkserver"
        if "forkserver" in multiprocessing.get_all_start_methods() and sys.platform == "linux"
        else "spawn"
    )
    return Finding("processes", "ok", f"{method}, the first one was ready after {took}")


def _isolation(settings: Settings) -> Finding:
    """Shut a process in, as the worker does with each job."""
    from voxelworks.worker import isolation

    try:
        chosen = isolation.choose(settings)
    except NotAllowed as error:
        return Finding("isolation of jobs", "problem", str(error))
    return Finding("isolation of jobs", "ok" if chosen.level == "namespaces" else "note", chosen.text)


def _folder(name: str, folder: Path, *, is_essential: bool = True) -> Finding:
    """Look whether a folder can be written; one that does not exist is not made, its first existing parent counts."""
    bad: Status = "problem" if is_essential else "note"
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
        free = shutil.disk_usage(existing).free
    except OSError as error:
        return Finding(
            name, bad, f"{folder} cannot be written: {error.strerror}; choose another, or change its rights"
        )
    made = "" if existing == folder else ", made when first needed"
    return Finding(name, "note" if free < FREE_BYTES_MIN else "ok", f"{folder}, {_gib(free)} free{made}")


def _database(settings: Settings) -> Finding:
    try:
        text = _sqlite(settings) if settings.database_url is None else _postgresql(settings)
    except (VoxelworksError, sqlite3.Error, OSError) as error:
        return Finding("database", "problem", str(error))
    return Finding("database", "ok", text)


def _sqlite(settings: Settings) -> str:
    from voxelworks.db import refuse_network_file_system

    folder = settings.sqlite_path.parent
    refuse_network_file_system(folder)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    with tempfile.TemporaryDirectory(dir=existing, prefix=".voxelworks-doctor-") as scratch:
        connection = sqlite3.connect(Path(scratch) / "check.sqlite3")
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        connection.execute("CREATE TABLE answer (value INTEGER)")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO answer VALUES (42)")
        connection.commit()
        connection.close()
    if mode != "wal":
        raise OSError(
            f"SQLite cannot use write-ahead logging in {folder}; set VOXELWORKS_HOME to a local folder"
        )
    return f"SQLite {sqlite3.sqlite_version} in {settings.sqlite_path}, write-ahead logging works"


def _postgresql(settings: Settings) -> str:
    from sqlalchemy import text

    from voxelworks.db import Database

    assert settings.database_url is not None
    database = Database(settings.database_url.get_secret_value())
    try:
        with database.read_session() as session:
            return f"PostgreSQL {session.scalar(text('SHOW server_version'))}"
    finally:
        database.close()


def _import_roots(settings: Settings) -> Iterator[Finding]:
    if not settings.import_roots:
        yield Finding("import roots", "ok", "none; `voxelworks serve --import-root NAME=FOLDER` names one")
    for name, root in settings.import_roots.items():
        is_readable = root.path.is_dir() and os.access(root.path, os.R_OK | os.X_OK)
        text = str(root.path) if is_readable else f"{root.path} is not a readable folder"
        yield Finding(f"root:{name}", "ok" if is_readable else "note", text)


def _extras() -> Iterator[Finding]:
    for extra, packages in EXTRAS.items():
        found = {package: _version_of(package) for package in packages}
        if all(found.values()):
            yield Finding(
                f"extra {extra}", "ok", ", ".join(f"{name} {number}" for name, number in found.items())
            )
        else:
            yield Finding(f"extra {extra}", "ok", f"not installed; pip install 'voxelworks[{extra}]' adds it")


def _server(settings: Settings) -> Finding:
    info = ServerInfo.read(server_file(settings.home))
    return Finding("server", "ok", "none runs here" if info is None else f"runs at {info.url}")


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
