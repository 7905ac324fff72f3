"""The database goes away again and again (T4)."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from sqlalchemy import create_engine, make_url, text

from voxelworks.db import Database
from voxelworks.testing.rounds import rounds

from .drill_site import DrillSite, judge

SCRIPT = Path(__file__).resolve().parents[2] / ".ci" / "postgres"


class OwnPostgres:
    """A PostgreSQL server of this test alone, which can be stopped without warning."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = self._run("start")
        self._data = folder / "data"
        # The throw-away server forgets its last commits when it is stopped at once. This one must not.
        self._execute("ALTER ROLE voxelworks SET synchronous_commit = on", "CREATE DATABASE drill")
        self.database_url = make_url(self.url).set(database="drill")
        self._command = (self._data / "postmaster.opts").read_text().strip()

    def stop(self) -> None:
        self._run("stop")

    def start(self) -> None:
        program, *options = self._command.split(" ", 1)
        pg_ctl = Path(program).with_name("pg_ctl")
        command = [str(pg_ctl), "-D", str(self._data), "-l", str(self._data / "server.log"), "-w", "-t", "60"]
        command += ["-o", " ".join(options), "start"]
        if os.getuid() == 0:
            command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--", *command]
        subprocess.run(command, check=True, capture_output=True, cwd="/")

    def _run(self, what: str) -> str:
        done = subprocess.run(
            [str(SCRIPT), what, str(self.folder)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"no PostgreSQL server of its own: {done.stderr.strip()[-200:]}")
        return done.stdout.strip()

    def _execute(self, *statements: str) -> None:
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))
        engine.dispose()


@pytest.fixture
def postgres() -> Iterator[OwnPostgres]:
    # Not in the folder of the test: the server's user may not enter the folders above it.
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        server = OwnPostgres(Path(folder))
        yield server
        with suppress(subprocess.CalledProcessError):
            server.stop()


@pytest.mark.faults("T4", "PostgreSQL is stopped at once for up to two seconds, every few seconds")
def test_a_database_that_goes_away_loses_and_doubles_nothing(
    postgres: OwnPostgres,
    tmp_path: Path,
    dice: random.Random,
    record_property: Callable[[str, object], None],
) -> None:
    database = Database(postgres.database_url)
    site = DrillSite(tmp_path, database)
    outages = 0
    try:
        site.start_server()
        for number in range(rounds(3, 12)):
            site.start_worker(f"worker{number}")
        next_outage = time.monotonic() + 1

        def strike() -> None:
            nonlocal outages, next_outage
            if time.monotonic() < next_outage:
                return
            postgres.stop()
            time.sleep(dice.uniform(0, 2))
            postgres.start()
            outages += 1
            next_outage = time.monotonic() + dice.uniform(*rounds((3, 5), (5, 40)))

        for _ in range(rounds(15, 500)):
            site.submit(seconds=dice.uniform(0.5, 3.0))
            strike()
        site.wait_until_done(strike)
        verdict = judge(site)
    finally:
        site.close()
        database.close()
    record_property("database", "postgresql")
    for name, value in (verdict.figures() | {"kills": outages}).items():
        record_property(name, value)
    assert (verdict.lost, verdict.doubled) == ([], [])
    assert outages >= rounds(2, 5)
