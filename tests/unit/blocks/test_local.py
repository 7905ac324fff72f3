"""What the processes of a job load before their first block."""

import os
import subprocess
import sys

from voxelworks.blocks.local import PRELOADED_MODULES
from voxelworks.ops import cache


def test_workers_load_no_settings(tmp_path):
    code = f"import sys, {', '.join(PRELOADED_MODULES)}; print('voxelworks.settings' in sys.modules)"
    environment = {**os.environ, cache.VARIABLE: str(tmp_path)}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert answer.stdout == "False\n"
