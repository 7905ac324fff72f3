"""Write a trained network as ONNX, and see that it gives the same. Needs the extra `train`."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from voxelworks.ai.inference import Session
from voxelworks.ai.networks import Architecture, Probabilities, ResidualUNet
from voxelworks.errors import InvalidModel
from voxelworks.geometry import Zyx

_OPSET = 17
_DIFFERENCE_MAX = 2e-3
"""Of probabilities: a fraction of what rounding to 8 bits changes."""


def export_onnx(architecture: Architecture, weights: dict[str, Tensor], file: Path, patch_zyx: Zyx) -> float:
    """Write a network with its weights; give the largest difference between its probabilities and PyTorch's.

    The file takes (1, c, z, y, x) float32 of any size that is a multiple of `architecture.step_zyx`, and gives
    (1, channels, z, y, x) float32 from 0 to 1.

    Raises
    ------
    InvalidModel
        If the two differ by more than rounding does.
    """
    network = ResidualUNet(architecture)
    network.load_state_dict(weights)
    used: nn.Module = Probabilities(network).eval()
    image = torch.from_numpy(
        np.random.default_rng(0).standard_normal((1, architecture.in_channels, *patch_zyx), np.float32)
    )
    free = {2: "z", 3: "y", 4: "x"}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        torch.onnx.export(
            used, (image,), str(file), opset_version=_OPSET, input_names=["image"], output_names=["probabilities"],
            dynamic_axes={"image": free, "probabilities": free}, dynamo=False,
        )  # fmt: skip
        wanted = used(image)[0].numpy()
    found = Session(str(file), "cpu", 1).run(image[0].numpy())
    difference = float(np.abs(found - wanted).max())
    if not difference <= _DIFFERENCE_MAX:
        raise InvalidModel(
            f"the exported network differs from the trained one by {difference:.2g}; please report this"
        )
    return difference
