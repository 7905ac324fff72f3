"""A real server in a thread, and a worker that only pretends to work: for tests of what talks to a server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from voxelworks import accounts
from voxelworks.client import Client, ServerInfo, worker_key_file
from voxelworks.db import open_database
from voxelworks.errors import FailureClass
from voxelworks.protocol.messages import (
    Claim,
    FinishAnswer,
    FinishRequest,
    Json,
    PriorityClass,
    Progress,
    PublishedRequest,
    RenewAnswer,
    RenewRequest,
    SealedResult,
    SealRequest,
    SessionRequest,
)
from voxelworks.protocol.people import LOCAL_ORGANIZATION_ID
from voxelworks.server import serve
from voxelworks.settings import Settings

START_TIMEOUT_S = 120.0
SLOTS = 100
"""Jobs that a pretending worker may hold at once."""


OWNER = ("ada@example.org", "a sentence of some length")
"""E-mail and password of the person that `set_up` makes."""


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def set_up(settings: Settings) -> None:
    """Make an operator who owns an organization, in the database of a server that does not run yet."""
    email, password = OWNER
    with closing(open_database(settings)) as database, database.session() as session:
        accounts.prepare(session)
        accounts.set_up(session, name="Ada", email=email, password=password, organization_name="Lab")


@contextmanager
def running_server(settings: Settings) -> Iterator[ServerInfo]:
    """Run a server in a thread until the block ends."""
    ready, stop = threading.Event(), threading.Event()
    told: list[ServerInfo] = []
    failures: list[BaseException] = []

    def on_ready(info: ServerInfo) -> None:
        told.append(info)
        ready.set()

    def run() -> None:
        try:
            serve(settings, on_ready=on_ready, stop=stop)
        except BaseException as error:
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="server")
    thread.start()
    try:
        if not ready.wait(START_TIMEOUT_S) or not told:
            raise RuntimeError("the server did not start") from (failures[0] if failures else None)
        yield told[0]
    finally:
        stop.set()
        thread.join()
    if failures:
        raise failures[0]


@dataclass
class PretendWorker:
    """Speaks as a worker does, and does what the test says instead of the work."""

    client: Client
    session_id: str
    data_dir: Path
    claimed: Claim | None = None

    @classmethod
    def join(
        cls, info: ServerInfo, settings: Settings, *, name: str = "pretender", **workflows: int
    ) -> PretendWorker:
        """Open a session for the given workflows and versions; by default for version 1 of those that come with us."""
        client = Client(info.url, worker_key_file(settings.home).read_text())
        known = workflows or {"convert": 1, "downsample": 1, "find_largest_segment_id": 1}
        # Tests leave jobs with it that they have looked at enough.
        slots: dict[PriorityClass, int] = {"short": SLOTS, "long": SLOTS}
        answer = client.open_session(SessionRequest(name=name, version="test", workflows=known, slots=slots))
        return cls(client, answer.session_id, settings.datasets_dir)

    def claim(self) -> Claim:
        """Take a job and begin to work on it."""
        claim = self.client.claim(self.session_id)
        assert claim is not None, "there is no job to take"
        self.claimed = claim
        self.renew()
        return claim

    def renew(self, progress: Progress | None = None) -> RenewAnswer:
        job = self._job
        return self.client.renew(job.job_id, job.attempt, RenewRequest(token=job.token, progress=progress))

    def log(self, text: str, *, offset: int = 0) -> int:
        job = self._job
        return self.client.append_log(job.job_id, job.attempt, job.token, offset, text.encode())

    def fail(
        self, failure_class: FailureClass, code: str, message: str, *, exit_code: int = 1
    ) -> FinishAnswer:
        job = self._job
        report = FinishRequest(
            token=job.token, outcome="failed", failure_class=failure_class, code=code, message=message,
            exit_code=exit_code, peak_memory_bytes=48 * 2**20,
        )  # fmt: skip
        return self.client.finish(job.job_id, job.attempt, report)

    def stop_cancelled(self) -> FinishAnswer:
        job = self._job
        return self.client.finish(
            job.job_id, job.attempt, FinishRequest(token=job.token, outcome="cancelled")
        )

    def succeed(self, result: SealedResult) -> FinishAnswer:
        """Seal and report a result, without publishing it."""
        job = self._job
        self.client.seal(job.job_id, job.attempt, SealRequest(token=job.token, result=result))
        report = FinishRequest(
            token=job.token, outcome="succeeded", result=result, peak_memory_bytes=310 * 2**20
        )
        return self.client.finish(job.job_id, job.attempt, report)

    def publish(self) -> None:
        job = self._job
        self.client.published(job.job_id, job.attempt, PublishedRequest(token=job.token))

    def write_dataset(self, name: str, properties: Json) -> None:
        """Write only the metadata of a dataset: the server never looks at more."""
        folder = self.data_dir / LOCAL_ORGANIZATION_ID / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "datasource-properties.json").write_text(json.dumps(properties))

    @property
    def _job(self) -> Claim:
        assert self.claimed is not None, "claim a job first"
        return self.claimed
