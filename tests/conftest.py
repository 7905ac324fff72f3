"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

pytest_plugins = ["voxelworks.testing.fixtures", "reliability_figures"]

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

IS_STRICT = bool(os.environ.get("VOXELWORKS_TEST_STRICT"))
"""A skipped test counts as failed: set where everything that tests need is there."""

# Tests share few cores with servers, workers and browsers: an answer may take longer than httpx waits by default.
httpx._config.DEFAULT_TIMEOUT_CONFIG.read = 60.0


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real volumes and files (see CONTRIBUTING)."""
    folder = os.environ.get("VOXELWORKS_TEST_DATA")
    if not folder:
        pytest.skip("VOXELWORKS_TEST_DATA is not set")
    return Path(folder)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    return _without_skip(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    return _without_skip(report)


def _without_skip(report: Report) -> Report:
    if IS_STRICT and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"nothing may be skipped here (VOXELWORKS_TEST_STRICT is set), but: {reason}"
    return report
