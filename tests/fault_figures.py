"""Keeps what the long fault tests found in docs/figures/faults.json, one row for each test, as soon as it has ended.

``make test-faults`` runs only what has not passed yet with the very same sources: it may be stopped at any time and
started again. VOXELWORKS_FAULTS_AGAIN=1 runs everything anew. Short forms write nothing.

A test names its row with ``@pytest.mark.faults("T20", "A conversion is killed ...")`` and its values with
`record_property`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from voxelworks.testing.provenance import describe_commit, describe_machine, describe_versions, hash_sources
from voxelworks.testing.rounds import rounds

REPOSITORY = Path(__file__).resolve().parent.parent
FIGURES = REPOSITORY / "docs" / "figures" / "faults.json"
FOLDERS = ("src", "tests")
IS_LONG = rounds(False, True)
PHASES = ("setup", "call", "teardown")


class Figures:
    """The file of figures."""

    def __init__(self) -> None:
        self.sources = hash_sources(REPOSITORY, FOLDERS)
        self._facts = {
            "commit": describe_commit(REPOSITORY, FOLDERS),
            "sources": self.sources,
            "machine": describe_machine(Path(os.environ.get("TMPDIR", "/tmp"))),
            "versions": describe_versions("sqlalchemy", "tensorstore", "numpy"),
        }

    def passed(self) -> set[str]:
        """Name the tests that have passed with these sources."""
        return {
            test
            for test, row in self._read().items()
            if row["outcome"] == "passed" and row["sources"] == self.sources
        }

    def write(self, test: str, row: dict[str, Any]) -> None:
        rows = self._read() | {test: row | self._facts}
        FIGURES.parent.mkdir(exist_ok=True)
        figures = {"command": "make test-faults", "rows": dict(sorted(rows.items()))}
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n")

    def _read(self) -> dict[str, dict[str, Any]]:
        return dict(json.loads(FIGURES.read_text())["rows"]) if FIGURES.exists() else {}


_figures = pytest.StashKey[Figures]()


def pytest_configure(config: pytest.Config) -> None:
    if IS_LONG:
        config.stash[_figures] = Figures()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not IS_LONG or os.environ.get("VOXELWORKS_FAULTS_AGAIN"):
        return
    passed = config.stash[_figures].passed()
    done = [item for item in items if item.nodeid in passed]
    if done:
        config.hook.pytest_deselected(items=done)
        items[:] = [item for item in items if item.nodeid not in passed]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    item.stash[_began_at] = datetime.now(UTC)
    return (yield)


_began_at = pytest.StashKey[datetime]()
_failed_phase = pytest.StashKey[str]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    marker = item.get_closest_marker("faults")
    if not IS_LONG or marker is None or report.skipped:
        return report
    if report.failed:
        item.stash[_failed_phase] = report.when
    if report.when == "teardown":
        row, about = (*marker.args, "", "")[:2]
        began_at = item.stash[_began_at]
        item.config.stash[_figures].write(
            item.nodeid,
            {
                "row": row,
                "about": about,
                "outcome": "failed" if _failed_phase in item.stash else "passed",
                "date": began_at.isoformat(timespec="seconds"),
                "duration_s": round((datetime.now(UTC) - began_at).total_seconds()),
                "values": dict(item.user_properties),
            },
        )
    return report
