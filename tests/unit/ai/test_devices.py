"""Which GPUs a process sees, and who has which."""

import subprocess
import sys

import pytest

from voxelworks.ai import devices
from voxelworks.ai.devices import find_gpus, parse_gpus, require_gpus, take_gpu
from voxelworks.errors import ResourcesExceeded

TOLD = """\
0, GPU-aaaa1111, NVIDIA A100-SXM4-40GB, 550.54.15, 40960, 40000
1, GPU-bbbb2222, NVIDIA A100-SXM4-40GB, 550.54.15, 40960, 100
2, GPU-bbbb3333, NVIDIA GeForce RTX 3090, 550.54.15, 24576, [N/A]
"""


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A driver that tells of two GPUs that can be used."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{TOLD}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv(devices.VISIBLE, raising=False)


@pytest.mark.parametrize(
    ("visible", "free"),
    [
        (None, [40000, 100]),
        ("1,0", [100, 40000]),
        ("GPU-bbbb2222", [100]),
        ("GPU-bbbb", [100]),
        ("1,7,0", [100]),
        ("", []),
        ("-1", []),
    ],
)
def test_gpus_are_numbered_as_cuda_shows_them(visible, free):
    found = parse_gpus(TOLD, visible)
    assert [gpu.free_bytes // 2**20 for gpu in found] == free
    assert [gpu.number for gpu in found] == list(range(len(free)))


def test_a_machine_without_a_driver_has_no_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_gpus() == ()
    with pytest.raises(ResourcesExceeded, match="shall run on a GPU, and this machine shows none"):
        require_gpus(0)


@pytest.mark.usefixtures("driver")
def test_full_gpus_are_not_taken(monkeypatch):
    assert [gpu.number for gpu in require_gpus(2**30)] == [0]
    assert str(require_gpus(0)[0]) == (
        "GPU 0 (NVIDIA A100-SXM4-40GB, driver 550.54.15, 40 GiB, 39.1 GiB free)"
    )
    with pytest.raises(
        ResourcesExceeded, match=r"needs 50 GiB of GPU memory, and there are GPU 0 .*; end what"
    ):
        require_gpus(50 * 2**30)
    monkeypatch.setenv(devices.VISIBLE, "")
    assert find_gpus() == ()


def test_each_process_takes_a_gpu_of_its_own_and_gives_it_back_when_it_ends(tmp_path):
    code = (
        "import sys; from pathlib import Path; from voxelworks.ai.devices import take_gpu\n"
        f"print(take_gpu(Path({str(tmp_path)!r}), (0, 1)), flush=True); sys.stdin.readline()"
    )

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return process, process.stdout.readline().strip()

    first, one = start()
    second, other = start()
    assert (one, other) == ("0", "1")
    first.communicate("\n")
    third, again = start()
    assert again == "0"
    for process in (second, third):
        process.communicate("\n")


def test_a_process_keeps_its_gpu(tmp_path):
    assert take_gpu(tmp_path, (3, 4)) == 3
    assert take_gpu(tmp_path, (3, 4)) == 3
