"""The networks that are trained here: residual 3D U-Nets. Needs the extra `train`.

Čiçek, Ö. et al. (2016). 3D U-Net: learning dense volumetric segmentation from sparse annotation. MICCAI 2016.
Lee, K. et al. (2017). Superhuman accuracy on the SNEMI3D connectomics challenge. arXiv:1706.00120 (residual blocks,
added skip connections, anisotropic kernels).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from voxelworks.geometry import VoxelSize, Zyx

NetworkSize = Literal["small", "medium", "large"]
_FEATURES: dict[NetworkSize, tuple[int, ...]] = {
    "small": (16, 32, 64, 128),
    "medium": (32, 64, 128, 256),
    "large": (32, 64, 128, 256, 320),
}
"""Features of each level: for the CPU, a small GPU, and a large GPU. Multiples of 16, as vector units are wide: a step
with (12, 24, 48, 96) takes a CPU longer than one with (16, 32, 64, 128)."""
_ANISOTROPIC_FROM = 1.5
"""Axes whose voxels are so much longer than the shortest are left as they are, and not mixed, at a level."""


@dataclass(frozen=True)
class Architecture:
    """What a network is built from; its text form stands in the checkpoint and the model card."""

    in_channels: int
    out_channels: int
    features: tuple[int, ...]
    """Of each level, finest first."""
    kernels: tuple[Zyx, ...]
    """Of each level."""
    factors: tuple[Zyx, ...]
    """By which each level but the last shrinks to the next."""

    @classmethod
    def plan(
        cls, in_channels: int, out_channels: int, voxel_size: VoxelSize, size: NetworkSize
    ) -> Architecture:
        """Choose kernels and shrinking factors so that all levels see about as far on each axis, in nm.

        Isensee, F. et al. (2021). nnU-Net: a self-configuring method for deep learning-based biomedical image
        segmentation. Nature Methods 18, 203-211.
        """
        features = _FEATURES[size]
        spacing = list(voxel_size.zyx)
        kernels: list[Zyx] = []
        factors: list[Zyx] = []
        for level in range(len(features)):
            near = [length < _ANISOTROPIC_FROM * min(spacing) for length in spacing]
            kernels.append(_triple(3 if is_near else 1 for is_near in near))
            if level + 1 < len(features):
                factors.append(_triple(2 if is_near else 1 for is_near in near))
                spacing = [length * step for length, step in zip(spacing, factors[-1], strict=True)]
        return cls(in_channels, out_channels, features, tuple(kernels), tuple(factors))

    @property
    def step_zyx(self) -> Zyx:
        """What each side of a patch is a multiple of."""
        return _triple(math.prod(factor[axis] for factor in self.factors) for axis in range(3))

    @property
    def reach_zyx(self) -> Zyx:
        """How far a voxel sees, in voxels on each side."""
        reach, scale = [0, 0, 0], [1, 1, 1]
        for level, kernel in enumerate(self.kernels):
            convolutions = 2 if level + 1 == len(self.kernels) else 4  # on the way down and up
            for axis in range(3):
                reach[axis] += convolutions * (kernel[axis] // 2) * scale[axis]
                if level < len(self.factors):
                    scale[axis] *= self.factors[level][axis]
        return _triple(reach)


class _Block(nn.Module):
    """Two convolutions whose result is added to what they were given."""

    def __init__(self, features_in: int, features: int, kernel: Zyx) -> None:
        super().__init__()
        padding = _triple(size // 2 for size in kernel)
        self.first = nn.Conv3d(features_in, features, kernel, padding=padding, bias=False)
        self.first_norm = nn.BatchNorm3d(features, momentum=0.05)
        self.second = nn.Conv3d(features, features, kernel, padding=padding, bias=False)
        self.second_norm = nn.BatchNorm3d(features, momentum=0.05)
        self.direct = nn.Conv3d(features_in, features, 1) if features_in != features else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.first_norm(self.first(x)))
        return functional.relu(self.second_norm(self.second(inner)) + self.direct(x))


class ResidualUNet(nn.Module):
    """Gives logits for each voxel: (n, c, z, y, x) float32 -> (n, out_channels, z, y, x).

    Each side of a patch must be a multiple of `architecture.step_zyx`.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        features, kernels = architecture.features, architecture.kernels
        self.down = nn.ModuleList()
        channels = architecture.in_channels
        for wide, kernel in zip(features, kernels, strict=True):
            self.down.append(_Block(channels, wide, kernel))
            channels = wide
        self.narrow = nn.ModuleList()
        self.up = nn.ModuleList()
        for level in reversed(range(len(features) - 1)):
            self.narrow.append(nn.Conv3d(features[level + 1], features[level], 1))
            self.up.append(_Block(features[level], features[level], kernels[level]))
        self.head = nn.Conv3d(features[0], architecture.out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x)
            if level < len(self.architecture.factors):
                kept.append(x)
                factor = self.architecture.factors[level]
                x = functional.max_pool3d(x, factor, factor)
        for narrow, block, factor in zip(
            self.narrow, self.up, reversed(self.architecture.factors), strict=True
        ):
            x = functional.interpolate(
                narrow(x), scale_factor=[float(step) for step in factor], mode="nearest"
            )
            x = block(x + kept.pop())
        return self.head(x)  # type: ignore[no-any-return]


class Probabilities(nn.Module):
    """The network as it is used: logits become probabilities."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.network(x))


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _triple(numbers: Iterable[int]) -> Zyx:
    z, y, x = numbers
    return z, y, x
