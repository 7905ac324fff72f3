"""Keeps what the long fault tests found in docs/figures/reliability.json, a record for each as soon as it has ended.

``make test-faults`` runs only what has not passed yet with the very same sources: it may be stopped at any time and
started again. VOXELWORKS_FAULTS_AGAIN=1 runs everything anew. Short forms write nothing.

A test names its row with ``@pytest.mark.faults("T20", "A conversion is killed ...")`` and what it counted with
`record_property`: `database`, `jobs`, `kills`, `lost`, `doubled` and `seed` are fields of every record, null where a
test has no such thing.
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
FIGURES = REPOSITORY / "docs" / "figures" / "reliability.json"
FOLDERS = ("src", "tests")
FIELDS = ("database", "jobs", "kills", "lost", "doubled", "seed")
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
            record["id"] for record in self._read() if record["passed"] and record["sources"] == self.sources
        }

    def write(self, record: dict[str, Any]) -> None:
        others = [known for known in self._read() if known["id"] != record["id"]]
        records = sorted([*others, record | self._facts], key=lambda each: str(each["id"]))
        FIGURES.parent.mkdir(exist_ok=True)
        FIGURES.write_text(json.dumps({"command": "make test-faults", "records": records}, indent=1) + "\n")

    def _read(self) -> list[dict[str, Any]]:
        return list(json.loads(FIGURES.read_text())["records"]) if FIGURES.exists() else []


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
_was_skipped = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    marker = item.get_closest_marker("faults")
    if report.skipped:
        item.stash[_was_skipped] = True
    # The end of a skipped test is reported too: that is no pass.
    if not IS_LONG or marker is None or _was_skipped in item.stash:
        return report
    if report.failed:
        item.stash[_failed_phase] = report.when
    if report.when == "teardown":
        test, about = (*marker.args, "", "")[:2]
        began_at = item.stash[_began_at]
        counted = dict(item.user_properties)
        item.config.stash[_figures].write(
            {
                "test": test,
                "about": about,
                **{name: counted.pop(name, None) for name in FIELDS},
                "passed": _failed_phase not in item.stash,
                "wall_s": round((datetime.now(UTC) - began_at).total_seconds()),
                "counted": counted,
                "id": item.nodeid,
                "date": began_at.isoformat(timespec="seconds"),
            }
        )
    return report
