"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest_plugins = ["voxelworks.testing.fixtures"]


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real volumes and files (see CONTRIBUTING)."""
    folder = os.environ.get("VOXELWORKS_TEST_DATA")
    if not folder:
        pytest.skip("VOXELWORKS_TEST_DATA is not set")
    return Path(folder)
