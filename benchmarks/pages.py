"""Measure the list of jobs, a long log and a live page in a real browser.

    python benchmarks/pages.py                                          SQLite: 10,000 jobs, 1,000,000 lines, 5 rounds
    python benchmarks/pages.py --postgres postgresql+psycopg://...      also PostgreSQL, in a database of its own
    python benchmarks/pages.py --jobs 500 --lines 20000 --rounds 1 --output try.json

Writes docs/figures/pages.json and the table of docs/benchmarks.md. Needs Chromium and the Python package playwright.

Times begin with the navigation, as the browser counts them, and end when what is looked for is painted. Each round has
a browser context of its own, so that nothing is cached but what the server keeps.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import table
from bench import describe_commit, describe_machine
from playwright.sync_api import Browser, Page, sync_playwright
from sqlalchemy import create_engine, insert, make_url, update

from voxelworks.client import Client
from voxelworks.db import now, open_database
from voxelworks.jobs._logs import log_path
from voxelworks.jobs._tables import AttemptRow, JobRow
from voxelworks.protocol.messages import Progress
from voxelworks.settings import Settings
from voxelworks.testing.server import PretendWorker, running_server

CHROMIUM = (
    os.environ.get("VOXELWORKS_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)
FILTERS = (
    "state=failed", "workflow=convert&state=succeeded", "dataset=volume_00042", "text=volume_0004", "period=7d",
    "failure=resources", "owner=local&charged=true", "since=2026-01-01&until=2030-01-01&state=cancelled",
)  # fmt: skip
LIVE_S = 20.0
"""How long a live page is watched, in seconds, with a step of progress and ten lines of log in each."""
WATCHING = """
window.shift = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
}).observe({ type: "layout-shift", buffered: true });
const wanted = new URLSearchParams(location.search).get("measured");
if (wanted) requestAnimationFrame(function look() {
  const line = document.getElementById(`L${wanted}`);
  const box = document.getElementById("log");
  const edges = line && line.getBoundingClientRect();
  const frame = box && box.getBoundingClientRect();
  if (edges && edges.height && edges.top >= frame.top - 1 && edges.bottom <= frame.bottom + 1) {
    window.lineSeenMs = performance.now();
  } else requestAnimationFrame(look);
});
"""


@dataclass
class Figures:
    """What was measured on one database, run by run."""

    database: str
    list_ms: list[float] = field(default_factory=list)
    filter_ms: dict[str, list[float]] = field(default_factory=dict)
    log_ms: list[float] = field(default_factory=list)
    """Of the end of the log; the first one is that of a log that nobody has looked at before."""
    line_ms: list[float] = field(default_factory=list)
    """Of a line in the middle, by its address."""
    search_ms: list[float] = field(default_factory=list)
    """Of a text that stands in the last line alone, without drawing it."""
    live_share: dict[str, float] = field(default_factory=dict)
    """Share of a core that all processes of the browser use, by page."""
    layout_shift: dict[str, float] = field(default_factory=dict)


class Bench:
    """One server with many jobs, and a browser."""

    def __init__(self, browser: Browser, settings: Settings, options: argparse.Namespace) -> None:
        self.browser, self.settings, self.options = browser, settings, options

    def measure(self, name: str) -> Figures:
        figures = Figures(name)
        with running_server(self.settings) as info, Client(info.url, info.token) as client:
            self.url, self.entry_url = info.url, info.entry_url
            worker = PretendWorker.join(info, self.settings)
            with worker.client:
                params = {
                    "layers": [{"source": "root:scope/run1"}],
                    "target": "long_log",
                    "voxel_size": "4,4,40",
                }
                job_id = client.submit("convert", params).id
                worker.claim()
                self._store(job_id)
                for number in range(self.options.rounds):
                    self._round(figures, job_id)
                    times = f"list {figures.list_ms[-1]:.0f} ms, log {figures.log_ms[-1]:.0f} ms"
                    tell(f"{name}, round {number + 1}: {times}")
                self._live(figures, worker, job_id)
        return figures

    def _round(self, figures: Figures, job_id: str) -> None:
        with self._page() as page:
            page.goto(f"{self.url}/jobs")
            figures.list_ms.append(painted_ms(page))
            page.wait_for_timeout(1500)  # the stream and the scripts may still move things
            note_shift(figures, "list", page)
            for query in FILTERS:
                page.goto(f"{self.url}/jobs?{query}")
                figures.filter_ms.setdefault(query, []).append(painted_ms(page))
        last = self.options.lines
        with self._page() as page:
            page.goto(f"{self.url}/jobs/{job_id}/log?measured={last}")
            figures.log_ms.append(seen_ms(page))
            page.wait_for_timeout(1500)
            note_shift(figures, "log", page)
            middle = last // 2
            page.goto(f"{self.url}/jobs/{job_id}/log?measured={middle}#L{middle}")
            figures.line_ms.append(seen_ms(page))
            began_s = time.monotonic()
            found = page.request.get(f"{self.url}/api/v1/jobs/{job_id}/log/search?text=the+last+line").json()
            figures.search_ms.append(round((time.monotonic() - began_s) * 1000, 1))
            assert found["lines"] == [last], found
        with self._page() as page:
            page.goto(f"{self.url}/jobs/{job_id}")
            page.wait_for_timeout(1500)
            note_shift(figures, "job", page)

    def _live(self, figures: Figures, worker: PretendWorker, job_id: str) -> None:
        for name, path in (("job", f"/jobs/{job_id}"), ("list", "/jobs")):
            with self._page() as page:
                page.goto(f"{self.url}{path}")
                page.wait_for_timeout(3000)
                before_s, began_s = browser_cpu_s(), time.monotonic()
                for number in range(round(LIVE_S)):
                    worker.renew(
                        Progress(
                            phase="color: mag 1",
                            done=100 + number,
                            total=1000,
                            text=f"{number} of 1000 blocks",
                        )
                    )
                    self._append("".join(f"block {number}.{line} is written\n" for line in range(10)))
                    page.wait_for_timeout(1000)
                share = (browser_cpu_s() - before_s) / (time.monotonic() - began_s)
                figures.live_share[name] = round(share, 4)
                note_shift(figures, f"live {name}", page)

    def _append(self, text: str) -> None:
        with closing(open_database(self.settings)) as database, database.session() as session:
            attempt = session.get_one(AttemptRow, (self.job_id, 1))
            with log_path(self.settings, self.job_id, 1).open("ab") as file:
                file.write(text.encode())
            attempt.log_stored += len(text)
            attempt.log_received += len(text)

    def _store(self, job_id: str) -> None:
        """Put the jobs into the table, as they are after months, and the log into its file."""
        self.job_id = job_id
        dice = random.Random(7)
        lines = self.options.lines
        path = log_path(self.settings, job_id, 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            for number in range(1, lines):
                file.write(
                    f"2026-11-28 12:00:00 INFO block {number} of {lines} was read, computed and written\n"
                )
            file.write("the last line\n")
        with closing(open_database(self.settings)) as database:
            with database.session() as session:
                job = session.get_one(JobRow, job_id)
                template = {column.name: getattr(job, column.key) for column in JobRow.__table__.columns}
                at_ms = now(session)
                rows = [template | made_up(dice, number, at_ms) for number in range(self.options.jobs)]
                for start in range(0, len(rows), 1000):
                    session.execute(insert(JobRow), rows[start : start + 1000])
                size = path.stat().st_size
                session.execute(
                    update(AttemptRow)
                    .where(AttemptRow.job_id == job_id)
                    .values(log_stored=size, log_received=size)
                )
            with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("ANALYZE")

    @contextmanager
    def _page(self) -> Iterator[Page]:
        context = self.browser.new_context(viewport={"width": 1280, "height": 860})
        page = context.new_page()
        page.goto(self.entry_url)
        page.add_init_script(WATCHING)
        yield page
        context.close()


def made_up(dice: random.Random, number: int, at_ms: int) -> dict[str, Any]:
    """Give what makes a job of the table different from the first one."""
    state = dice.choices(["succeeded", "failed", "cancelled"], [75, 15, 10])[0]
    created_ms = at_ms - dice.randrange(90 * 86_400_000)
    target = f"volume_{number:05}"
    failure = dice.choice(["resources", "user_input", "infrastructure"]) if state == "failed" else None
    return {
        "id": f"{number:016x}", "state": state, "created_ms": created_ms, "available_ms": created_ms,
        "started_ms": created_ms + 1000, "ended_ms": created_ms + dice.randrange(2_000, 7_200_000),
        "updated_ms": created_ms, "attempt": 0, "publication": "none", "reserved_place": None, "lane": None,
        "failure_class": failure, "code": failure and "broke", "message": failure and "it ended before its time",
        "params": {"layers": [{"source": "root:scope/run1"}], "target": target, "voxel_size": "4,4,40"},
        "places": {"root:scope/run1": "root:scope/run1", target: f"data:local/{target}"},
        "words": f"convert root:scope/run1 {target} 4,4,40",
    }  # fmt: skip


def painted_ms(page: Page) -> float:
    """Give when a page was first painted; of one that waits for a frame, once it was."""
    for _ in range(200):
        found = page.evaluate(
            "performance.getEntriesByName('first-contentful-paint').map((entry) => entry.startTime)"
        )
        if found:
            return round(found[0], 1)
        page.wait_for_timeout(10)
    raise RuntimeError(f"{page.url} was not painted")


def seen_ms(page: Page) -> float:
    """Give when the line that the address names was in view."""
    for _ in range(1000):
        found = page.evaluate("window.lineSeenMs || 0")
        if found:
            return round(found, 1)
        page.wait_for_timeout(20)
    raise RuntimeError(f"the line of {page.url} was not seen")


def note_shift(figures: Figures, name: str, page: Page) -> None:
    figures.layout_shift[name] = max(
        figures.layout_shift.get(name, 0.0), round(page.evaluate("window.shift"), 4)
    )


def browser_cpu_s() -> float:
    """Add up the CPU time of all processes of the browser."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            if "chrom" in process.name():
                times = process.cpu_times()
                total += times.user + times.system
        except psutil.Error:
            continue
    return total


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def scratch_database(server_url: str) -> Iterator[str]:
    """Make a database on a PostgreSQL server, and remove it in the end."""
    name = f"bench_{secrets.token_hex(4)}"
    engine = create_engine(server_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        engine.dispose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=10_000, help="jobs in the list")
    parser.add_argument("--lines", type=int, default=1_000_000, help="lines of the log")
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured")
    parser.add_argument("--postgres", help="a PostgreSQL server, to measure with a database on it too")
    parser.add_argument("--output", type=Path, default=table.PAGE_FIGURES, help="file to write")
    options = parser.parse_args()
    if CHROMIUM is None:
        parser.error("Chromium is not installed (Debian: apt-get install chromium)")
    began_at = datetime.now(UTC)
    values: list[Figures] = []
    with TemporaryDirectory(prefix="voxelworks-pages-") as temporary, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name in ("SQLite", *(["PostgreSQL"] if options.postgres else [])):
            folder = Path(temporary) / name
            (folder / "scope" / "run1").mkdir(parents=True)
            (folder / "scope" / "run1" / "s1.tif").write_bytes(b"1234")
            chosen = {"home": folder / "home", "port": 0, "import_roots": {"scope": folder / "scope"}}
            more = {"credits_enabled": True, "silent_after_s": 3600.0, "lease_s": 3600.0}
            if name == "SQLite":
                values.append(Bench(browser, Settings(**chosen, **more), options).measure(name))
            else:
                with scratch_database(options.postgres) as url:
                    settings = Settings(**chosen, **more, database_url=url)
                    values.append(Bench(browser, settings, options).measure(name))
        browser_version = browser.version
        browser.close()
        machine = describe_machine(Path(temporary))
    asked = {"jobs": options.jobs, "lines": options.lines, "rounds": options.rounds}
    arguments = [text for name, value in asked.items() for text in (f"--{name}", str(value))]
    arguments += ["--postgres", "URL"] if options.postgres else []
    versions = {"chromium": browser_version} | {name: version(name) for name in ("voxelworks", "playwright")}
    figures = {
        "command": shlex.join(["python", "benchmarks/pages.py", *arguments]),
        "date": began_at.isoformat(timespec="seconds"),
        "duration_s": round((datetime.now(UTC) - began_at).total_seconds()),
        "commit": describe_commit(),
        "versions": versions,
        "machine": machine,
        "load": [round(value, 2) for value in os.getloadavg()],
        **asked,
        "values": [
            vars(item) | {"filter_ms": dict(item.filter_ms)} for item in values
        ],
    }  # fmt: skip
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(figures, indent=1) + "\n")
    print(table.page_tables(figures))
    slowest = {item.database: max(median(runs) for runs in item.filter_ms.values()) for item in values}
    tell(f"slowest filters: {slowest} ms")
    if options.output == table.PAGE_FIGURES:
        table.PAGE.write_text(table.made_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
