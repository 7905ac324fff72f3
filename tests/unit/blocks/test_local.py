"""What the processes of a job load before their first block."""

import os
import subprocess
import sys

import pytest

from voxelworks.blocks.local import PRELOADED_MODULES
from voxelworks.ops import cache
from voxelworks.workflows import get_workflow


@pytest.mark.parametrize(
    ("preloads", "slow"),
    [
        (PRELOADED_MODULES, ["voxelworks.settings"]),
        (
            get_workflow("find_largest_segment_id").preloads,
            ["voxelworks.settings", "numba", "voxelworks.volumes.formats"],
        ),
        (
            get_workflow("compute_segment_index_file").preloads,
            ["voxelworks.settings", "voxelworks.volumes.formats", "pyarrow"],
        ),
        (
            get_workflow("compute_segment_statistics").preloads,
            ["voxelworks.settings", "voxelworks.volumes.formats"],
        ),
    ],
    ids=["most", "largest id", "index", "statistics"],
)
def test_workers_load_nothing_that_their_blocks_do_not_need(preloads, slow, tmp_path):
    code = f"import sys, {', '.join(preloads)}; print([name for name in {slow} if name in sys.modules])"
    environment = {**os.environ, cache.VARIABLE: str(tmp_path)}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert answer.stdout == "[]\n"
