import pytest

from voxelworks.settings import Settings
from voxelworks.worker import capabilities


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("0,1", ("0", "1")),
        ("3, 1", ("3", "1")),
        ("GPU-8932f937", ("GPU-8932f937",)),
        ("", ()),
        ("-1", ()),
        ("0,-1,1", ("0",)),
    ],
)
def test_gpus_are_those_that_cuda_would_see(monkeypatch, visible, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert capabilities.gpus(Settings()) == names
    assert capabilities.gpus(Settings(gpus=1)) == names[:1]


def test_gpus_of_the_machine_are_its_devices(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(capabilities, "_DEVICES", tmp_path)
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert capabilities.gpus(Settings()) == ("0", "1")
    assert capabilities.gpus(Settings(gpus=0)) == ()
    assert capabilities.gpus(Settings(gpus=3)) == ("0", "1", "2")


def test_a_machine_without_devices_has_none(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(capabilities, "_DEVICES", tmp_path / "nothing")
    assert capabilities.gpus(Settings()) == ()


def test_the_memory_of_a_job_is_that_of_the_settings_or_of_the_machine():
    assert capabilities.memory_bytes(Settings(memory_bytes_max=2**30)) == 2**30
    assert capabilities.memory_bytes(Settings()) > 2**20
