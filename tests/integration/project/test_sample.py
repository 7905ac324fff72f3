"""The sample stack that the demo converts."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SAMPLE = Path(str(files("voxelworks") / "sample"))
SIZE_BYTES_MAX = 3 * 2**20


def stack_of(name: str) -> np.ndarray:
    sections = sorted((SAMPLE / name).glob("*.tif"))
    return np.stack([np.asarray(Image.open(path)) for path in sections])


def test_the_sample_is_small_and_tells_its_source_and_licence():
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) < SIZE_BYTES_MAX
    source = (SAMPLE / "SOURCE.txt").read_text(encoding="utf-8")
    assert "Creative Commons Attribution" in source
    assert "PNAS 112:13711" in source


def test_the_sample_is_the_crop_of_fib25_that_it_says_it_is():
    data = os.environ.get("VOXELWORKS_TEST_DATA")
    if not data:
        pytest.skip("VOXELWORKS_TEST_DATA (folder of the real test volumes) is not set")
    fib25 = Path(data) / "neuron_fib25"
    crop = np.s_[0:64, 45:205, 45:205]
    raw = np.load(fib25 / "raw.npz")["data"][crop]
    labels = np.load(fib25 / "labels_neuron.npz")["data"][crop]
    np.testing.assert_array_equal(stack_of("raw"), raw, strict=True)
    np.testing.assert_array_equal(stack_of("labels"), labels.astype(np.int64))
    assert (len(np.unique(labels)), labels.max()) == (59, 135620)
