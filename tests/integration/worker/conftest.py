"""A real server and real workers, each a process of its own, with the probe workflows installed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from voxelworks.client import Client, ServerInfo, server_file
from voxelworks.protocol.views import JobDetail
from voxelworks.testing.databases import fill_sqlite_file
from voxelworks.worker.limits import group_members

PROBE = Path(__file__).parent / "probe"
TIMEOUT_S = 60.0
QUICK = {
    "RENEW_S": "0.3", "POLL_S": "0.1", "CANCEL_GRACE_S": "1.5", "BACKOFF_BASE_S": "0.05", "REAP_EVERY_S": "0.2",
    "LOG_TAIL_S": "2", "RETRIES_RESOURCES": "0",
    # The probes leave notes where no isolated job can; what isolation changes is tested by itself.
    "ISOLATION": "off",
}  # fmt: skip


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited in vain for {what}")
        time.sleep(0.02)


class Site:
    """A home with a server, and the workers that were started for it."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.home = home
        fill_sqlite_file(home / "voxelworks.sqlite3")
        self._environment = os.environ | {"PYTHONPATH": str(PROBE)}
        self._environment |= {f"VOXELWORKS_{name}": value for name, value in {**QUICK, **settings}.items()}
        self._environment["VOXELWORKS_HOME"] = str(home)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._test_number = 0
        self.server = self._start("serve", "--no-worker", "--port", "0")
        wait_for(lambda: ServerInfo.read(server_file(home)), "the server")
        info = ServerInfo.read(server_file(home))
        assert info is not None
        self.client = Client(info.url, info.token)

    def worker(
        self,
        *options: str,
        environment: Mapping[str, str] = MappingProxyType({}),
        before: Callable[[], None] | None = None,
        **settings: str,
    ) -> subprocess.Popen[bytes]:
        own = {f"VOXELWORKS_{name}": value for name, value in settings.items()}
        return self._start("worker", *options, environment={**environment, **own}, before=before)

    def note(self, name: str = "note") -> Path:
        """Name a file that no other test uses."""
        return self.home / f"{name}-{self._test_number}"

    def submit(self, deed: str = "work", *, seconds: float = 0.0, note: Path | None = None) -> str:
        params = {"deed": deed, "seconds": seconds, "note": str(note or self.note())}
        return self.client.submit("probe", params).id

    def wait_until_it_works(self, note: Path | None = None, *, attempts: int = 1) -> int:
        """Wait until so many attempts have begun; give the process id, which is the process group, of the last."""
        path = note or self.note()
        wait_for(lambda: path.exists() and path.read_text().count("\n") >= attempts, "the job to begin")
        return int(path.read_text().split()[attempts - 1])

    def wait_until_ended(self, job_id: str) -> JobDetail:
        wait_for(lambda: self.client.show(job_id).job.is_ended, f"the end of job {job_id}")
        wait_for(lambda: self.client.show(job_id).job.publication != "pending", "its publication")
        return self.client.show(job_id)

    def log(self, job_id: str, attempt: int) -> bytes:
        return (self.home / "logs" / job_id / f"{attempt}.log").read_bytes()

    def clear(self) -> None:
        """End all workers, and what they have left."""
        for process in self._processes[1:]:
            _end(process)
        del self._processes[1:]
        page = self.client.list_jobs(states=["queued", "claimed", "running", "cancelling"])
        for job in page.jobs:
            self.client.cancel(job.id)
        self._test_number += 1

    def close(self) -> None:
        self.client.close()
        for process in self._processes:
            _end(process)

    def _start(
        self,
        *arguments: str,
        environment: Mapping[str, str] = MappingProxyType({}),
        before: Callable[[], None] | None = None,
    ) -> subprocess.Popen[bytes]:
        with (self.home / f"{arguments[0]}.txt").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "voxelworks", *arguments],
                stdin=subprocess.PIPE, stdout=output, stderr=output, env=self._environment | dict(environment),
                preexec_fn=before,
            )  # fmt: skip
        self._processes.append(process)
        return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def is_gone(group: int) -> bool:
    """Whether no process of a group runs any more; a dead one whose parent has not asked for it does not count."""
    return all(_is_zombie(pid) for pid in group_members(group))


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone before, or while it was read
        return True


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Make servers with settings of their own."""
    sites: list[Site] = []

    def make(**settings: str) -> Site:
        home = tmp_path / f"home{len(sites)}"
        home.mkdir()
        sites.append(Site(home, **settings))
        return sites[-1]

    yield make
    for site in sites:
        site.close()


@pytest.fixture(scope="module")
def patient_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """With leases of a minute: what happens sooner does not happen because a lease ran out."""
    site = Site(tmp_path_factory.mktemp("home"), LEASE_S="60")
    yield site
    site.close()


@pytest.fixture
def site(patient_site: Site) -> Iterator[Site]:
    """The same server for all tests, but no worker and no job of the test before."""
    yield patient_site
    patient_site.clear()


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Make a folder for temporary files whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="vw-") as folder:
        yield Path(folder)
