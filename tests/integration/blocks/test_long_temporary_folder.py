"""Temporary folders with long names, as batch systems give them to jobs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
from functools import partial
from operator import mul
from voxelworks.blocks.executor import make_executor
from voxelworks.blocks.processing import process

with make_executor(None, 2) as executor:
    print(process([("a", 3), ("b", 4)], partial(mul, 2), executor=executor, phase="", report=lambda progress: None))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux uses the fork server and its socket")
def test_the_pool_starts_below_a_folder_with_a_long_name(tmp_path: Path) -> None:
    folder = tmp_path / ("scratch-of-a-cluster-job-" * 6)
    folder.mkdir()
    environment = os.environ | {"TMPDIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("[6, 8]\n", 0), done.stderr
    assert list(folder.iterdir()) == []
