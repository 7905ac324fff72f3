"""A server, many light workers, and everything that may happen to them; and a count of what was lost or doubled."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import text

from voxelworks import credits
from voxelworks.client import Client, ServerInfo, server_file, worker_key_file
from voxelworks.db import Database
from voxelworks.errors import VoxelworksError
from voxelworks.testing.server import free_port

DRILL = Path(__file__).parent / "drill"
TIMEOUT_S = 900.0
MONTHLY_CREDITS = 1_000_000
QUICK = {
    "LEASE_S": "5", "RENEW_S": "1", "POLL_S": "0.2", "REAP_EVERY_S": "0.5", "BACKOFF_BASE_S": "0.2",
    "BACKOFF_CAP_S": "1",
    "CANCEL_GRACE_S": "2", "CANCEL_STUCK_S": "10", "LOG_TAIL_S": "2", "DATASET_LEASE_S": "5",
    "RETRIES_INFRASTRUCTURE": "10", "LOST_LEASES_MAX": "11", "ISOLATION": "off",
}  # fmt: skip
"""Leases of seconds; and as many retries as make a job that was killed by pure chance no poison."""


class DrillSite:
    """A home with a server and workers, on a database of its own.

    Parameters
    ----------
    folder
    database
        An own, empty one. The server opens it by its address; here it is only read.
    settings
        Beyond `QUICK`, without the prefix of environment variables.
    has_own_clock
        Whether the clock of the server can be stepped.
    """

    def __init__(
        self, folder: Path, database: Database, *, has_own_clock: bool = False, **settings: str
    ) -> None:
        self.home = folder / "home"
        self.journal = folder / "journal"
        self.database = database
        self.port = free_port()
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.submitted: list[str] = []
        self.struck: set[tuple[str, int]] = set()
        """Attempts that were running when the process of their worker ended."""
        self._numbers = itertools.count()
        self._folder = folder
        self._clock = folder / "clock" if has_own_clock else None
        self.data = self.home / "datasets"
        self.data.mkdir(parents=True)
        self.step_clock(0)
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("VOXELWORKS_")
        }
        self._environment |= {"PYTHONPATH": str(DRILL), "OMP_NUM_THREADS": "1"}
        url = database.engine.url.render_as_string(hide_password=False)
        chosen = {
            "HOME": str(self.home), "DATABASE_URL": url, "CREDITS_ENABLED": "true",
            "MONTHLY_FREE_CREDITS": str(MONTHLY_CREDITS), **QUICK, **settings,
        }  # fmt: skip
        self._environment |= {f"VOXELWORKS_{name}": value for name, value in chosen.items()}
        self.server: subprocess.Popen[bytes] | None = None
        self.client: Client | None = None

    # Processes

    def start_server(self, *, trick: str = "", **settings: str) -> None:
        """Start the server; a trick is what `drill_server.py` does otherwise."""
        server_file(self.home).unlink(missing_ok=True)
        if self._clock is not None:
            trick = f"clock:{self._clock}"
        program = [str(DRILL / "drill_server.py"), trick] if trick else ["-m", "voxelworks"]
        self.server = self._start(
            "server", [*program, "serve", "--no-worker", "--port", str(self.port)], settings
        )
        wait_for(lambda: ServerInfo.read(server_file(self.home)) or self.server_ended(), "the server")
        assert not self.server_ended(), (self._folder / "server.txt").read_text()[-2000:]
        info = ServerInfo.read(server_file(self.home))
        assert info is not None
        self.client_token = info.token
        if self.client is not None:
            self.client.close()
        self.client = Client(info.url, info.token)

    def server_ended(self) -> bool:
        return self.server is not None and self.server.poll() is not None

    def kill_server(self) -> None:
        assert self.server is not None
        end(self.server)

    def step_clock(self, ahead_s: float) -> None:
        """Set by how much the clock of the server is ahead."""
        if self._clock is not None:
            fresh = self._clock.with_suffix(".new")
            fresh.write_text(str(ahead_s))
            fresh.replace(self._clock)

    def start_worker(self, name: str, *, url: str | None = None, trick: str = "", **settings: str) -> None:
        """Start a worker; a trick is what `drill_worker.py` does otherwise than others, such as `fails`."""
        address = url or f"http://127.0.0.1:{self.port}"
        options = ["--name", name, "--slots", "1", "--server", address]
        self.workers[name] = self._start(
            name, [str(DRILL / "drill_worker.py"), str(self.journal), trick, *options], settings
        )

    def kill_worker(self, name: str) -> None:
        end(self.workers[name])
        self.bury_worker(name)

    def bury_worker(self, name: str) -> None:
        """Note what a worker whose process has ended was running."""
        assert self.workers.pop(name).poll() is not None
        self.struck |= {(row.id, row.number) for row in self._running() if row.name == name}

    def close(self) -> None:
        if self.client is not None:
            self.client.close()
        for process in [*self.workers.values(), *([self.server] if self.server else [])]:
            end(process)
        self.workers.clear()

    def _start(self, name: str, command: list[str], settings: dict[str, str]) -> subprocess.Popen[bytes]:
        own = {f"VOXELWORKS_{key}": value for key, value in settings.items()}
        with (self._folder / f"{name}.txt").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._environment | own, cwd=self._folder,
            )  # fmt: skip

    def printed(self, name: str) -> str:
        return (self._folder / f"{name}.txt").read_text()

    @property
    def worker_key(self) -> str:
        return worker_key_file(self.home).read_text().strip()

    # Jobs

    def submit(self, *, seconds: float = 0.0, deed: str = "work", **more: Any) -> str:
        """Submit a job under a name of its own; repeated until the server has answered, as clients do."""
        params = {"target": f"made{next(self._numbers)}", "seconds": seconds, "deed": deed, **more}
        key = f"{params['target']}-{os.getpid()}"
        client = self.client
        assert client is not None
        job_id = until_answered(lambda: client.submit("drill", params, idempotency_key=key)).id
        self.submitted.append(job_id)
        return job_id

    def states(self) -> Counter[str]:
        return Counter(row.state for row in self.rows("SELECT state FROM jobs"))

    def openapi(self) -> str:
        """Give the description of the API."""
        answer = httpx.get(
            f"http://127.0.0.1:{self.port}/api/v1/openapi.json",
            headers={"Authorization": f"Bearer {self.client_token}"},
            timeout=60,  # the first one makes it
        )
        return answer.raise_for_status().text

    def rows(self, statement: str, **values: Any) -> list[Any]:
        """Ask the database itself: the server may be dead."""
        for tries_left in reversed(range(60)):
            try:
                with self.database.read_session() as session:
                    return list(session.execute(text(statement), values).all())
            except VoxelworksError:
                if not tries_left:
                    raise
                time.sleep(0.5)
        raise AssertionError

    def running(self) -> dict[str, str]:
        """Give the workers that have begun on a job, each with the job."""
        return {row.name: row.id for row in self._running() if row.name in self.workers}

    def _running(self) -> list[Any]:
        return self.rows(
            "SELECT s.name, j.id, a.number FROM jobs j JOIN attempts a ON a.job_id = j.id AND a.number = j.attempt"
            " JOIN worker_sessions s ON s.id = a.session_id WHERE j.state = 'running' AND s.replaced_ms IS NULL"
        )

    def is_known(self, name: str) -> bool:
        """Whether a worker has told the server that it is there."""
        found = self.rows("SELECT id FROM worker_sessions WHERE name = :name", name=name)
        return bool(found)

    def is_done(self) -> bool:
        open_count = self.rows(
            "SELECT count(*) AS n FROM jobs WHERE state NOT IN ('succeeded', 'failed', 'cancelled')"
            " OR publication = 'pending'"
        )[0].n
        return bool(open_count == 0)

    def wait_until_done(self, do: Callable[[], object] = lambda: None, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until every job has ended and is published, doing something every now and then."""
        deadline = time.monotonic() + timeout_s
        while not self.is_done():
            assert time.monotonic() < deadline, f"jobs do not end: {self.states()}"
            do()
            time.sleep(0.2)


@dataclass
class Verdict:
    """What was lost or done twice, in words; and the counts for the figures."""

    jobs: int
    kills: int
    """Ends of a worker's process that a running attempt was lost by."""
    lost_leases: int
    """Running attempts that were lost, by a kill or otherwise."""
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, int]:
        return {
            "jobs": self.jobs, "kills": self.kills, "lost": len(self.lost), "doubled": len(self.doubled),
            "leases lost": self.lost_leases,
        }  # fmt: skip


def judge(site: DrillSite) -> Verdict:
    """Compare what was submitted, the journal of the workers, the tables, the ledger and the published folders.

    A job is *lost* if it is not in a final state, or it succeeded and its dataset is not there, or nobody did it. It is
    *doubled* if it ended, was published, settled or given back twice, both settled and given back, or if there is a
    dataset of it though it did not succeed.
    """
    job_rows = {
        row.id: row for row in site.rows("SELECT id, state, publication, attempt, organization_id FROM jobs")
    }
    done = Counter(line for line in site.journal.read_text().splitlines() if line.endswith(" sealed"))
    published = {
        path.parent.name
        for path in site.data.glob("*/*/datasource-properties.json")
        if path.parent.parent.name != ".voxelworks"
    }
    targets = {row.id: _params(row.params)["target"] for row in site.rows("SELECT id, params FROM jobs")}
    lost_attempts = {
        (row.job_id, row.number)
        for row in site.rows(
            "SELECT job_id, number FROM attempts WHERE outcome = 'lost' AND started_ms IS NOT NULL"
        )
    }
    verdict = Verdict(len(job_rows), len(site.struck & lost_attempts), len(lost_attempts))
    for job_id in site.submitted:
        row = job_rows.get(job_id)
        if row is None or row.state not in ("succeeded", "failed", "cancelled"):
            verdict.lost.append(f"{job_id}: {row.state if row else 'unknown'}")
        elif row.state == "succeeded":
            name = targets[job_id]
            if row.publication != "published" or name not in published:
                verdict.lost.append(f"{job_id}: its dataset {name} is not there ({row.publication})")
            if done[f"{job_id} {row.attempt} sealed"] != 1:
                verdict.lost.append(f"{job_id}: attempt {row.attempt} counts, but nobody did it")
    verdict.lost += [f"{job_id}: nobody has submitted it" for job_id in job_rows.keys() - set(site.submitted)]
    paid_for = {targets[job_id] for job_id, row in job_rows.items() if row.state == "succeeded"}
    verdict.doubled += [f"dataset {name}: no job has succeeded in making it" for name in published - paid_for]
    verdict.doubled += _twice(site)
    verdict.lost += _open_charges(site)
    return verdict


def _params(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else dict(json.loads(value))


def _twice(site: DrillSite) -> Iterator[str]:
    ends = site.rows(
        "SELECT job_id, count(*) AS n FROM events WHERE to_state IN ('succeeded', 'failed', 'cancelled')"
        " AND (from_state IS NULL OR from_state <> to_state) GROUP BY job_id HAVING count(*) > 1"
    )
    publications = site.rows(
        # With or without a remark on the catalog.
        "SELECT job_id, count(*) AS n FROM events WHERE why LIKE 'the result is published%'"
        " GROUP BY job_id HAVING count(*) > 1"
    )
    yield from (f"{row.job_id}: ended {row.n} times" for row in ends)
    yield from (f"{row.job_id}: published {row.n} times" for row in publications)
    yield from _charged_twice(site)


def _charged_twice(site: DrillSite) -> Iterator[str]:
    charges = site.rows(
        "SELECT job_id, count(*) AS n FROM credit_reservations GROUP BY job_id HAVING count(*) > 1"
    )
    ends = site.rows(
        "SELECT r.job_id, count(*) AS n FROM credit_reservations r JOIN credit_bookings b ON b.reservation_id = r.id"
        " WHERE b.kind IN ('settle', 'release') GROUP BY r.job_id HAVING count(*) > 1"
    )
    yield from (f"{row.job_id}: charged {row.n} times" for row in charges)
    yield from (f"{row.job_id}: settled or given back {row.n} times" for row in ends)
    with site.database.read_session() as session:
        yield from (f"the books differ: {difference}" for difference in credits.check(session))


def _open_charges(site: DrillSite) -> Iterator[str]:
    """Find jobs without a charge, charges without a job, and charges that did not end as their job did."""
    found = site.rows(
        "SELECT j.id, j.state, r.state AS charge FROM jobs j LEFT JOIN credit_reservations r ON r.job_id = j.id"
        " UNION ALL SELECT job_id, 'unknown', state FROM credit_reservations WHERE job_id NOT IN (SELECT id FROM jobs)"
    )
    fitting = {"succeeded": "settled", "failed": "released", "cancelled": "released"}
    for row in found:
        if fitting.get(row.state) != row.charge:
            yield f"{row.id}: the job is {row.state}, its charge {row.charge}"


# Helpers


def until_answered(call: Callable[[], Any], timeout_s: float = 120.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return call()
        except (VoxelworksError, httpx.HTTPError) as error:
            if getattr(error, "http_status", 503) < 500 or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process at once, also one that sleeps."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    process.wait()


@contextmanager
def every(seconds: float, do: Callable[[], object], dice: random.Random) -> Iterator[Callable[[], None]]:
    """Give a function that does something about every so many seconds, however often it is called."""
    due = time.monotonic() + seconds

    def maybe() -> None:
        nonlocal due
        if time.monotonic() >= due:
            do()
            due = time.monotonic() + seconds * dice.uniform(0.8, 1.2)

    yield maybe
