"""A real server and real workers that are killed, stopped and started again; and what must hold whatever happens."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import psutil
import pytest

from voxelworks.client import Client, ServerInfo, server_file
from voxelworks.protocol.people import LOCAL_ORGANIZATION_ID
from voxelworks.protocol.views import JobDetail
from voxelworks.testing.databases import fill_sqlite_file
from voxelworks.testing.server import free_port
from voxelworks.worker.limits import group_members

TIMEOUT_S = 120.0
SLOTS = 2
SHARD_BYTES_MAX = 2**18
"""One chunk: the smallest shard there is, so that a small volume has many blocks."""
PROPERTIES = "datasource-properties.json"
WATCHER = Path(__file__).with_name("fault_watcher.py")
WORK_FOLDER = ".voxelworks"

Victim = Literal["worker", "job", "pool", "group", "server"]
VICTIMS: tuple[Victim, ...] = ("worker", "job", "pool", "group", "server")
"""What is killed: the agent, the first process of its job, another process of the job, all of them, or the server."""

Tree = dict[str, str]
"""File -> SHA-256 of its content."""


@dataclass(frozen=True)
class Status:
    """How far a job is, read from the database itself: the server may be dead."""

    state: str
    publication: str
    attempt: int

    @property
    def is_settled(self) -> bool:
        return self.state in ("succeeded", "failed", "cancelled") and self.publication != "pending"


class Site:
    """A home with a server, workers, a data folder and an import root `stacks`."""

    def __init__(self, folder: Path, stacks: Path, *, has_own_worker: bool = False, **settings: str) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.data = self.home / "datasets" / LOCAL_ORGANIZATION_ID
        self.data.mkdir(parents=True)
        fill_sqlite_file(self.home / "voxelworks.sqlite3")
        self._has_own_worker = has_own_worker
        self._temporary = TemporaryDirectory(prefix="voxelworks-site-")
        self.port = free_port()
        quick = {
            "LEASE_S": "4", "RENEW_S": "0.5", "POLL_S": "0.1", "REAP_EVERY_S": "0.3", "DATASET_LEASE_S": "3",
            "BACKOFF_BASE_S": "0.05", "BACKOFF_CAP_S": "0.1", "CANCEL_GRACE_S": "5", "LOG_TAIL_S": "1",
            "RETRIES_INFRASTRUCTURE": "1000", "LOST_LEASES_MAX": "1000",
            "SLOTS": str(SLOTS), "SHARD_BYTES_MAX": str(SHARD_BYTES_MAX),
            "HOME": str(self.home), "IMPORT_ROOTS": json.dumps({"stacks": str(stacks)}),
        } | settings  # fmt: skip
        self._environment = _plain_environment() | {
            f"VOXELWORKS_{name}": value for name, value in quick.items()
        }
        # Every process of a job can be told by this: it stays in a clean environment too.
        self._environment["TMPDIR"] = self._temporary.name
        self._started: list[psutil.Process] = []
        """Servers and workers: they show their environment to nobody but root."""
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.start_server()

    def start_server(self) -> None:
        server_file(self.home).unlink(missing_ok=True)
        options = [] if self._has_own_worker else ["--no-worker"]
        self.server = self._start("server", "serve", "--port", str(self.port), *options)
        wait_for(lambda: ServerInfo.read(server_file(self.home)) is not None, "the server")
        info = ServerInfo.read(server_file(self.home))
        assert info is not None
        self.client = Client(info.url, info.token)

    def kill_server(self) -> None:
        self._remember_worker_of_server()
        end(self.server)
        self.client.close()

    def start_worker(self, name: str, *, job_slots: int = 1, slots: int = SLOTS) -> None:
        options = ["--name", name, "--job-slots", str(job_slots), "--slots", str(slots)]
        url = f"http://127.0.0.1:{self.port}"
        self.workers[name] = self._start(name, "worker", "--server", url, *options)

    def stop_worker(self, name: str) -> int:
        """Let a worker end in good order; give its exit status."""
        self.workers[name].send_signal(signal.SIGTERM)
        return self.workers.pop(name).wait(TIMEOUT_S)

    def log(self, name: str) -> str:
        """Give what a server or worker printed."""
        return (self.folder / f"{name}.txt").read_text()

    # Killing

    def kill(self, victim: Victim, dice: random.Random, *, worker: str = "worker") -> bool:
        """Kill something at once, and start again what does not come back by itself; False if there was nothing.

        On return none of the killed processes runs.
        """
        if victim == "server":
            self.kill_server()
            self.start_server()
            return True
        group = self.group_of(worker)
        if victim == "worker":
            end(self.workers[worker])
            # Without it the processes of the job end by themselves.
            wait_for(lambda: _all_ended(group), "the job of a killed worker to end")
            self.start_worker(worker)
            return True
        chosen = {"job": group[:1], "pool": group[1:], "group": group}[victim]
        if victim == "pool" and chosen:
            chosen = [dice.choice(chosen)]
        for pid in chosen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # Without the first process of a job the others end by themselves; they are no victims any more.
        ending = group if victim == "job" else chosen
        wait_for(lambda: _all_ended(ending), "killed processes to end")
        return bool(chosen)

    def group_of(self, worker: str) -> list[int]:
        """List the processes of the jobs of a worker, the first one of a job first."""
        with suppress(psutil.NoSuchProcess):
            children = [child.pid for child in psutil.Process(self.workers[worker].pid).children()]
            leaders = [pid for pid in children if pid in group_members(pid)]
            return leaders + [pid for leader in leaders for pid in group_members(leader) if pid != leader]
        return []

    def processes(self) -> list[str]:
        """List the processes that were started here and still run."""
        found = {process for process in self._started if _is_running(process.pid)}
        for process in psutil.process_iter():
            with suppress(OSError, psutil.Error):
                if process.environ().get("TMPDIR", "").startswith(self._temporary.name):
                    found.add(process)
        return [str(process) for process in found if process.is_running()]

    def _remember_worker_of_server(self) -> None:
        with suppress(psutil.NoSuchProcess):
            self._started += psutil.Process(self.server.pid).children()

    # Jobs

    def submit(self, workflow: str, **params: Any) -> str:
        return self.client.submit(workflow, params).id

    def status(self, job_id: str) -> Status:
        with closing(
            sqlite3.connect(f"file:{self.home}/voxelworks.sqlite3?mode=ro", uri=True, timeout=30)
        ) as database:
            row = database.execute(
                "SELECT state, publication, attempt FROM jobs WHERE id = ?", [job_id]
            ).fetchone()
        return Status(*row)

    def wait_while_running(self, job_id: str, *, until: Callable[[], bool]) -> None:
        """Wait for a moment of a job closely, and fail if the job ends before."""
        watched = self.watch_closely(job_id, until=until)
        assert watched, self.client.show(job_id)

    def watch_closely(self, job_id: str, *, until: Callable[[], bool]) -> bool:
        """Wait for a moment of a job; False if the job ends before."""
        deadline = time.monotonic() + TIMEOUT_S
        look_at = time.monotonic()
        while not until():
            if time.monotonic() >= look_at:
                if self.status(job_id).is_settled and not until():
                    return False
                assert time.monotonic() < deadline, f"waited in vain for a moment of job {job_id}"
                look_at = time.monotonic() + 0.5
            time.sleep(0.002)
        return True

    def wait_until_published(self, job_id: str) -> JobDetail:
        """Wait for the end of a job, and see that it is the good one."""
        wait_for(
            lambda: self.status(job_id).is_settled,
            f"the end of job {job_id}",
            lambda: str(self.status(job_id)),
        )
        detail = self.client.show(job_id)
        assert (detail.job.state, detail.job.publication) == ("succeeded", "published"), detail.job.message
        return detail

    def attempt_folders(self) -> list[Path]:
        """List the folders of attempts, beside and in the datasets."""
        patterns = (f"{WORK_FOLDER}/*/[0-9]*/", f"*/{WORK_FOLDER}/*/[0-9]*/")
        return [path for pattern in patterns for path in find(self.data, pattern)]

    def marker_count(self) -> int:
        """Count the blocks that are marked as done."""
        return sum(len(find(folder, "checkpoints/*/*.json")) for folder in self.attempt_folders())

    def wait_until_clean(self) -> None:
        """See that no job has left anything on the disk; a worker may need a moment to clear up."""

        def left() -> list[Path]:
            patterns = (WORK_FOLDER, f"*/{WORK_FOLDER}", f"{WORK_FOLDER}/**/*", f"*/{WORK_FOLDER}/**/*")
            return [path for pattern in patterns for path in find(self.data, pattern)]

        wait_for(lambda: not left(), "the work folders to go", lambda: str(left()[:20]))

    # The end

    def close(self) -> None:
        """End everything, and see that nothing is left running."""
        self.client.close()
        self._remember_worker_of_server()
        for process in [*self.workers.values(), self.server]:
            end(process)
        wait_for(lambda: not self.processes(), "all processes to end", lambda: str(self.processes()))
        self._temporary.cleanup()

    def watched(self) -> AbstractContextManager[dict[str, int]]:
        """Watch the data folder; see `watched`."""
        return watched(self.data, self.folder / "watch.json")

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.txt").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "voxelworks", *arguments],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._environment,
            )  # fmt: skip
        self._started.append(psutil.Process(process.pid))
        return process


@contextmanager
def watched(data: Path, report: Path) -> Iterator[dict[str, int]]:
    """Watch all datasets of a folder during the block; fail if something half-done was visible for a moment."""
    facts: dict[str, int] = {}
    process = subprocess.Popen([sys.executable, str(WATCHER), str(data), str(report)])
    try:
        yield facts
    finally:
        process.terminate()
        process.wait(TIMEOUT_S)
    seen = json.loads(report.read_text())
    assert seen["faults"] == []
    changed = [path for path, listings in seen["listings"].items() if len(listings) > 1]
    assert changed == [], "these magnifications changed while they were visible"
    facts["looks"] = seen["looks"]


def find(folder: Path, pattern: str) -> list[Path]:
    """List paths while others are removing some of them."""
    while True:
        with suppress(FileNotFoundError):
            return list(folder.glob(pattern))


def wait_for(
    condition: Callable[[], object],
    what: str,
    found: Callable[[], str] = lambda: "",
    *,
    every_s: float = 0.02,
) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited in vain for {what}; {found()}")
        time.sleep(every_s)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, also a stopped one, and wait for its end."""
    process.kill()
    process.wait()


def tree(dataset: Path) -> Tree:
    """Give all files of a dataset with a hash of their content, as if it were named `cells`."""
    found = {}
    for path in sorted(dataset.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if path.name == PROPERTIES:
                data = data.replace(f'"name": "{dataset.name}"'.encode(), b'"name": "cells"')
            found[path.relative_to(dataset).as_posix()] = hashlib.sha256(data).hexdigest()
    return found


def _all_ended(pids: list[int]) -> bool:
    return not any(_is_running(pid) for pid in pids)


def _is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _plain_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("VOXELWORKS_")}
