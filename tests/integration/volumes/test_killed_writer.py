"""A writer that is killed leaves whole shards or none, and its rubbish is removed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from voxelworks.geometry import MAG1, Box, VoxelSize
from voxelworks.volumes.dataset import Dataset
from voxelworks.volumes.files import remove_leftovers

WRITER = """
import sys
import numpy as np
from voxelworks.geometry import MAG1, Box, VoxelSize
from voxelworks.volumes.dataset import Dataset

box = Box((0, 0, 0), (256, 256, 256))
layer = Dataset.create(sys.argv[1], VoxelSize(1, 1, 1)).add_layer("layer", "color", "uint8", 1, box)
array = layer.add_mag(MAG1, shard_zyx=(256, 256, 256))
data = np.random.default_rng(0).integers(0, 255, box.shape_zyx, "uint8")
print("ready", flush=True)
for _ in range(int(sys.argv[2])):
    array.write(box, data)
"""


def write(folder, times):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, folder, str(times)], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.faults("T20", "A process that writes one shard again and again is killed while it writes")
def test_a_killed_writer_leaves_a_whole_shard_or_none(tmp_path):
    with write(tmp_path / "whole", 1) as process:
        assert process.wait(60) == 0
    shard = Path("layer/1/c/0/0/0/0")
    expected = (tmp_path / "whole" / shard).read_bytes()
    for delay in range(4):
        folder = tmp_path / str(delay)
        with write(folder, 1000) as process:
            assert process.stdout.readline() == "ready\n"
            seen = 0
            while seen < 40 * (1 + delay):
                seen += any(".__lock" in name for _, _, names in os.walk(folder) for name in names)
            process.send_signal(signal.SIGKILL)
        assert not (folder / shard).exists() or (folder / shard).read_bytes() == expected
        remove_leftovers(folder)
        assert {path.name for path in folder.rglob("*") if path.is_file()} <= {"zarr.json", "0"}


def test_two_processes_write_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        with write(tmp_path / name, 1) as process:
            assert process.wait(60) == 0
    one, two = (
        {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        for folder in (tmp_path / "one", tmp_path / "two")
    )
    assert one == two
    assert sorted(one) == ["layer/1/c/0/0/0/0", "layer/1/zarr.json"]


def test_a_shard_can_be_written_again_after_its_writer_was_killed(tmp_path):
    box = Box((0, 0, 0), (64, 64, 64))
    layer = Dataset.create(tmp_path / "d", VoxelSize(1, 1, 1)).add_layer("layer", "color", "uint8", 1, box)
    array = layer.add_mag(MAG1, shard_zyx=(64, 64, 64))
    folder = Path(array.location) / "c/0/0/0"
    folder.mkdir(parents=True)
    (folder / "0.__lock").write_bytes(b"half")
    data = np.full(box.shape_zyx, 7, "uint8")
    array.write(box, data)
    assert np.array_equal(array.read(box)[0], data)
    assert remove_leftovers(tmp_path) == [folder / "0.__lock"]
