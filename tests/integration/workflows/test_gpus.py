"""Networks on GPUs, as far as that can be told without one: the driver and CUDA are played by others."""

import re

import numpy as np
import onnxruntime
import pytest

import voxelworks
from ball_networks import balls, write_ball_model, write_image
from voxelworks.ai import inference
from voxelworks.ai.inference import OutOfGpuMemory, Session, predict_patch
from voxelworks.blocks.executor import SerialExecutor
from voxelworks.errors import InvalidParams, ResourcesExceeded
from voxelworks.volumes.dataset import Dataset
from voxelworks.workflows import get_workflow

SHAPE = (40, 48, 56)
CENTRES = [(12, 12, 12), (12, 12, 25), (28, 34, 14), (20, 30, 44)]


class Here(SerialExecutor):
    """Runs blocks in this process, where CUDA is played."""


class Cuda:
    """ONNX Runtime with CUDA: computes on the CPU, and has memory for patches of so many voxels."""

    voxels_max = 10**9
    seen: list = []
    starts = True

    def __init__(self, weights, options, providers):
        self.seen.append(providers)
        del options  # with those for CUDA the CPU is refused
        self._session = REAL_SESSION(weights, providers=["CPUExecutionProvider"])

    def get_providers(self):
        return ["CUDAExecutionProvider"] if self.starts else ["CPUExecutionProvider"]

    def get_inputs(self):
        return self._session.get_inputs()

    def get_outputs(self):
        return self._session.get_outputs()

    def run(self, names, values):
        (image,) = values.values()
        if image.size > self.voxels_max:
            raise RuntimeError(
                "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. "
                "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 939524096"
            )
        return self._session.run(names, values)


REAL_SESSION = onnxruntime.InferenceSession


@pytest.fixture
def cuda(tmp_path, monkeypatch):
    """A machine with a GPU. Gives what plays ONNX Runtime."""
    program = tmp_path / "driver" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho '0, GPU-aaaa1111, NVIDIA A100, 550.54.15, 40960, 40000'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    played = type("Played", (Cuda,), {"seen": []})
    monkeypatch.setattr(onnxruntime, "InferenceSession", played)
    monkeypatch.setattr("voxelworks.blocks.executor.make_executor", lambda *_, **__: Here())
    inference.open_session.cache_clear()
    yield played
    inference.open_session.cache_clear()


def segment(folder, target, **params):
    return voxelworks.run(
        "infer_instances",
        layer=f"{folder}/image/color",
        model=str(folder / "model"),
        target=str(target),
        **params,
    )


def voxels(folder):
    layer = Dataset.open(folder).layer("segmentation").finest
    return layer.read(layer.box)


def test_a_network_that_runs_out_of_gpu_memory_goes_on_with_halves_and_gives_the_same(tmp_path, cuda, capsys):
    write_image(tmp_path / "image", balls(SHAPE, CENTRES))
    write_ball_model(tmp_path / "model")
    segment(tmp_path, tmp_path / "on_cpu")
    assert cuda.seen == [["CPUExecutionProvider"]]
    assert "not enough" not in capsys.readouterr().err
    cuda.voxels_max = 9000
    segment(tmp_path, tmp_path / "on_gpu", device="gpu")
    (provider, options), *_ = cuda.seen[-1]
    assert (provider, options["device_id"]) == ("CUDAExecutionProvider", 0)
    told = capsys.readouterr().err
    assert "on GPU 0 (NVIDIA A100, driver 550.54.15, 40 GiB, 39.1 GiB free)" in told
    assert re.search(r"the memory of the GPU was not enough [1-9]\d* times: patches went", told)
    assert np.array_equal(voxels(tmp_path / "on_cpu"), voxels(tmp_path / "on_gpu"))


def test_a_patch_is_halved_until_it_fits_or_cannot_be_halved(tmp_path, cuda):
    package = write_ball_model(tmp_path / "model")
    image = np.random.default_rng(0).random((1, 24, 32, 40), np.float32)
    whole = Session(f"{package}/weights.onnx", "cpu", 1).run(image)
    cuda.voxels_max = 5000
    session = Session(f"{package}/weights.onnx", "cuda:0", 1)
    border = (4, 4, 4)
    halved = predict_patch(session, image, border, (2, 2, 2))
    assert halved.shape == whole.shape
    inner = (slice(None), *[slice(4, -4)] * 3)
    np.testing.assert_allclose(halved[inner], whole[inner], atol=1e-6)
    cuda.voxels_max = 500
    with pytest.raises(OutOfGpuMemory, match="does not fit into the memory of cuda:0; end what else"):
        predict_patch(session, image, border, (2, 2, 2))


def test_a_gpu_that_cannot_be_used_is_an_error_and_never_the_cpu(tmp_path, cuda, monkeypatch):
    write_image(tmp_path / "image", balls(SHAPE, CENTRES))
    write_ball_model(tmp_path / "model")
    made = sorted(path.name for path in tmp_path.iterdir())

    def refused(error, words):
        with pytest.raises(error, match=words):
            segment(tmp_path, tmp_path / "made", device="gpu")
        assert sorted(path.name for path in tmp_path.iterdir()) == made

    monkeypatch.setattr(Here, "is_here", False)
    refused(InvalidParams, "not on those of a Dask cluster")
    monkeypatch.setattr(Here, "is_here", True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    refused(ResourcesExceeded, "this machine shows none")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    refused(ResourcesExceeded, "ONNX Runtime is one without CUDA; run `pip uninstall")
    monkeypatch.undo()


def test_a_driver_that_does_not_fit_is_an_error_and_never_the_cpu(tmp_path, cuda):
    package = write_ball_model(tmp_path / "model")
    cuda.starts = False
    with pytest.raises(ResourcesExceeded, match="could not start CUDA there"):
        Session(f"{package}/weights.onnx", "cuda:0", 1)


def test_training_on_a_gpu_that_pytorch_cannot_use_is_refused(tmp_path, cuda):
    write_image(tmp_path / "image", balls(SHAPE, CENTRES))
    boxes = [{"image": f"{tmp_path}/image/color", "truth": f"{tmp_path}/image/truth"}]
    with pytest.raises(ResourcesExceeded, match=r"shall run on GPU 0 .*and PyTorch .* finds no CUDA"):
        voxelworks.run(
            "train_instance_model", boxes=boxes, target=str(tmp_path / "made"), steps=1, device="gpu"
        )
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["infer_nuclei", "infer_with_model", "train_neuron_model"])
def test_jobs_on_a_gpu_wait_for_a_worker_with_one(name):
    workflow = get_workflow(name)
    asked = {
        "infer": {"layer": "demo/color", "model": "m", "target": "made"},
        "train": {"boxes": [{"image": "demo/color", "truth": "demo/truth"}], "target": "made"},
    }[name.partition("_")[0]]
    assert not workflow.needs_of(workflow.parse(asked)).gpu
    assert workflow.needs_of(workflow.parse({**asked, "device": "gpu"})).gpu
