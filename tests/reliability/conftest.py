"""Sites for the drills, on each database; and one record of figures for each drill and database."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from voxelworks.db import Database
from voxelworks.testing.databases import new_postgresql_database
from voxelworks.testing.rounds import rounds

from .drill_site import DrillSite

collect_ignore = rounds(
    [
        "test_bad_workers.py",
        "test_clocks.py",
        "test_database_outage.py",
        "test_full_disk.py",
        "test_load.py",
        "test_network.py",
        "test_schema_fuzz.py",
    ],
    [],
)
"""Only in `make test-faults`: they need a file system or a server of their own, or minutes even in their short form."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.parent == here and sys.platform != "linux":
            item.add_marker(
                pytest.mark.skip(reason="ties the life of processes to its own, as only Linux can")
            )


@pytest.fixture(params=rounds(["sqlite"], ["sqlite", "postgresql"]))
def own_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without tables, which the server of the test makes."""
    request.node.user_properties.append(("database", request.param))
    if request.param == "postgresql":
        with new_postgresql_database(request.getfixturevalue("postgresql_server")) as database:
            yield database
        return
    database = Database(URL.create("sqlite", database=str(tmp_path / "site.sqlite3")))
    yield database
    database.close()


@pytest.fixture
def make_site(own_database: Database, tmp_path: Path) -> Iterator[Callable[..., DrillSite]]:
    sites: list[DrillSite] = []

    def make(**settings: Any) -> DrillSite:
        sites.append(DrillSite(tmp_path / f"site{len(sites)}", own_database, **settings))
        sites[-1].start_server()
        return sites[-1]

    yield make
    for site in sites:
        site.close()


@pytest.fixture
def site(make_site: Callable[..., DrillSite]) -> DrillSite:
    return make_site()


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers whose seed is printed; VOXELWORKS_TEST_SEED repeats a run."""
    seed = int(os.environ.get("VOXELWORKS_TEST_SEED") or random.SystemRandom().randrange(10**6))
    print(f"VOXELWORKS_TEST_SEED={seed}")
    request.node.user_properties.append(("seed", seed))
    return random.Random(seed)
