"""How training images are varied, so that a network learns what stays the same. Needs the extra `train`.

Lee, K. et al. (2017). Superhuman accuracy on the SNEMI3D connectomics challenge. arXiv:1706.00120 (missing, blurred and
shifted sections).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from voxelworks.geometry import VoxelSize, Zyx

Image = NDArray[np.float32]
Labels = NDArray[np.int32]
_SAME_LENGTH = 1.2
"""Axes whose voxels differ by less may be exchanged."""


@dataclass(frozen=True)
class Augmentation:
    """Which variations, and how strong."""

    voxel_size: VoxelSize
    deform_share: float = 0.6
    """Share of the patches that are turned, scaled and bent."""
    turn_max_rad: float = math.pi
    scale_max: float = 1.2
    bend_max: float = 4.0
    """Voxels."""
    contrast_max: float = 1.4
    brightness_max: float = 0.4
    """In standard deviations of the image; so are the next."""
    noise_max: float = 0.3
    blur_share: float = 0.15
    defect_share: float = 0.15
    """Share of the patches with a missing, blurred or shifted section."""

    @property
    def margin(self) -> float:
        """How much larger a patch is cut out than it is used, so that it may be turned."""
        return 1.45

    @property
    def has_sections(self) -> bool:
        return self.voxel_size.has_sections

    def cut_size(self, patch_zyx: Zyx, *, deforms: bool) -> Zyx:
        """Give the size of what is cut out for a patch."""
        if not deforms:
            return patch_zyx
        z, y, x = patch_zyx
        wide = (math.ceil(y * self.margin), math.ceil(x * self.margin))
        return (z if self.has_sections else math.ceil(z * self.margin), *wide)

    def deforms(self, random: np.random.Generator) -> bool:
        return bool(random.random() < self.deform_share)

    def apply(
        self, image: Image, labels: Labels, patch_zyx: Zyx, random: np.random.Generator, *, deforms: bool
    ) -> tuple[Image, Labels]:
        """Vary one patch.

        Parameters
        ----------
        image : (c, Z, Y, X) float32
            Normalized: mean 0, standard deviation 1.
        labels : (Z, Y, X) int32
        patch_zyx : tuple of int
            Size of what is given back; the arrays have the size that `cut_size` says.
        random : Generator
        deforms : bool
            Whether the patch is turned, scaled and bent.
        """
        if deforms:
            image, labels = self._deform(image, labels, patch_zyx, random)
        image, labels = self._mirror(image, labels, random)
        image = self._change_intensities(np.array(image), random)
        if random.random() < self.defect_share:
            image, labels = self._spoil_section(image, labels, random)
        return np.ascontiguousarray(image, np.float32), np.ascontiguousarray(labels)

    def _mirror(self, image: Image, labels: Labels, random: np.random.Generator) -> tuple[Image, Labels]:
        for axis in range(3):
            if random.random() < 0.5:
                image, labels = np.flip(image, axis + 1), np.flip(labels, axis)
        lengths = self.voxel_size.zyx
        for one, other in ((1, 2), (0, 2), (0, 1)):
            is_alike = max(lengths[one], lengths[other]) <= _SAME_LENGTH * min(lengths[one], lengths[other])
            is_square = labels.shape[one] == labels.shape[other]
            if random.random() < 0.5 and is_alike and is_square:
                image, labels = image.swapaxes(one + 1, other + 1), labels.swapaxes(one, other)
        return image, labels

    def _deform(
        self, image: Image, labels: Labels, patch_zyx: Zyx, random: np.random.Generator
    ) -> tuple[Image, Labels]:
        """Turn and scale in a plane, and bend: all at once, so that voxels are interpolated once."""
        plane = (1, 2) if self.has_sections else ((1, 2), (0, 2), (0, 1))[random.integers(3)]
        angle = random.uniform(-self.turn_max_rad, self.turn_max_rad)
        scale = self.scale_max ** random.uniform(-1, 1)
        size = np.array(labels.shape)
        axes = [np.arange(length) - (length - 1) / 2 for length in patch_zyx]
        where = np.stack(np.meshgrid(*axes, indexing="ij"))
        if self.bend_max:
            where = where + self._bends(patch_zyx, random)
        one, other = where[plane[0]].copy(), where[plane[1]].copy()
        where[plane[0]] = (math.cos(angle) * one - math.sin(angle) * other) * scale
        where[plane[1]] = (math.sin(angle) * one + math.cos(angle) * other) * scale
        relative = (
            where / np.maximum((size - 1) / 2, 0.5)[:, None, None, None]
        )  # -1 and 1 are the outermost voxels
        grid = torch.from_numpy(np.ascontiguousarray(np.moveaxis(relative[::-1], 0, -1), np.float32))[None]
        bent = functional.grid_sample(
            torch.from_numpy(np.ascontiguousarray(image))[None],
            grid,
            "bilinear",
            "reflection",
            align_corners=True,
        )
        # Labels are small numbers here: float32 holds them exactly.
        chosen = functional.grid_sample(
            torch.from_numpy(np.ascontiguousarray(labels, np.float32))[None, None], grid, "nearest", "reflection",
            align_corners=True,
        )  # fmt: skip
        return bent[0].numpy(), chosen[0, 0].numpy().astype(np.int32)

    def _bends(self, patch_zyx: Zyx, random: np.random.Generator) -> NDArray[np.float32]:
        coarse = torch.from_numpy(random.uniform(-1, 1, (1, 3, 3, 4, 4)).astype(np.float32))
        if self.has_sections:
            coarse[:, 0] = 0  # voxels in z are longer than any bend
        fine = functional.interpolate(coarse, list(patch_zyx), mode="trilinear", align_corners=True)
        bends: NDArray[np.float32] = fine[0].numpy() * np.float32(random.uniform(0, self.bend_max))
        return bends

    def _change_intensities(self, image: NDArray[Any], random: np.random.Generator) -> Image:
        contrast = self.contrast_max ** random.uniform(-1, 1)
        image = image * np.float32(contrast) + np.float32(random.uniform(-1, 1) * self.brightness_max)
        if random.random() < 0.3:  # gamma, about the darkest voxel
            low, high = float(image.min()), float(image.max())
            if high > low:
                gamma = 1.5 ** random.uniform(-1, 1)
                image = ((image - low) / (high - low)) ** np.float32(gamma) * (high - low) + low
        if self.has_sections and random.random() < 0.5:
            count = image.shape[1]
            image = image * (1 + np.float32(0.1) * random.standard_normal((1, count, 1, 1), np.float32))
            image = image + np.float32(0.15) * random.standard_normal((1, count, 1, 1), np.float32)
        if random.random() < self.blur_share:
            image = _blurred(image.astype(np.float32), has_sections=self.has_sections)
        if random.random() < 0.5:
            noise = random.standard_normal(image.shape, np.float32)
            image = image + noise * np.float32(random.uniform(0, self.noise_max))
        return image.astype(np.float32)

    def _spoil_section(
        self, image: Image, labels: Labels, random: np.random.Generator
    ) -> tuple[Image, Labels]:
        image, labels = np.array(image), np.array(labels)
        at = int(random.integers(labels.shape[0]))
        kind = random.integers(3)
        if kind == 0:
            image[:, at] = random.uniform(-1, 1)
        elif kind == 1:
            image[:, at : at + 1] = _blurred(
                _blurred(image[:, at : at + 1], has_sections=True), has_sections=True
            )
        else:
            # All that follows was cut from another place: image and labels move together.
            by = random.integers(-6, 7, 2)
            image[:, at:] = np.roll(image[:, at:], by, (2, 3))
            labels[at:] = np.roll(labels[at:], by, (1, 2))
        return image, labels


def _blurred(image: Image, *, has_sections: bool) -> Image:
    kernel = torch.tensor([0.25, 0.5, 0.25])
    blurred = torch.from_numpy(np.ascontiguousarray(image))[:, None]
    for axis in (2, 3) if has_sections else (1, 2, 3):
        if image.shape[axis] < 3:
            continue
        shape = [1, 1, 1, 1, 1]
        shape[axis + 1] = 3
        padding = [0, 0, 0, 0, 0, 0]
        padding[2 * (3 - axis)] = padding[2 * (3 - axis) + 1] = 1
        padded = functional.pad(blurred, padding, mode="replicate")
        blurred = functional.conv3d(padded, kernel.reshape(shape))
    found: Image = blurred[:, 0].numpy()
    return found
