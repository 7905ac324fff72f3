"""Make fluorescence images of nuclei together with their labels, each from a seed.

Few images of nuclei in 3D come with labels and a licence to share them. What such images have in common can be drawn:
bodies of round and bent shapes that lie apart or touch, textured, with dark nucleoli, under the blur of the microscope,
sinking brightness, stray light and noise of the camera. How large, dense, bright and noisy varies from image to image.

Svoboda, D. et al. (2009). Generation of digital phantoms of cell nuclei and simulation of image formation in 3D image
cytometry. Cytometry A 75, 494-509.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Volume = NDArray[np.float32]
VOXEL_NM = 700.0
"""Of the volume that is drawn, on all axes."""
SHAPE_ZYX = (80, 112, 112)


@dataclass(frozen=True)
class Scene:
    """What all nuclei of one image have in common."""

    diameter: float
    """Of a typical nucleus, in voxels."""
    spread: float
    """Standard deviation of the logarithm of diameters."""
    distance: float
    """Least distance of two centres in sums of their radii: below 1 they are pressed together."""
    share: float
    """Of the tries to put a nucleus somewhere that are made: few leave the image empty."""
    texture: float
    spread_of_light: float
    """Standard deviation of the logarithm of their brightness."""
    condensed: float
    """Share of nuclei in division: smaller, and much brighter."""
    rim: float
    """Share of the radius over which a nucleus fades to its border."""
    contrast: float
    """How much brighter nuclei are than what is around, in standard deviations of the noise."""
    haze: float
    """Light between the nuclei, as share of theirs."""
    glare: float
    """Share of the light that is spread wide, most of it along z."""
    blur_zyx: tuple[float, float, float]
    thickness: int
    """Of a section, in voxels: images are coarser in z."""

    @classmethod
    def draw(cls, random: np.random.Generator) -> Scene:
        lateral = random.uniform(0.3, 1.0)
        diameter = float(np.exp(random.uniform(np.log(9), np.log(30))))
        return cls(
            diameter=diameter,
            spread=random.uniform(0.05, 0.25),
            distance=random.uniform(0.75, 1.1),
            share=float(np.exp(random.uniform(np.log(0.03), np.log(2)))),
            texture=random.uniform(0.05, 0.5),
            spread_of_light=random.uniform(0.05, 0.6),
            condensed=random.choice([0.0, 0.05, 0.15]),
            rim=random.uniform(0, 0.5),
            contrast=float(np.exp(random.uniform(np.log(4), np.log(40)))),
            haze=random.uniform(0, 0.25),
            glare=random.uniform(0, 0.3),
            blur_zyx=(lateral * random.uniform(1, 3), lateral, lateral),
            thickness=int(random.integers(1, min(3, int(diameter / 5)) + 1)),
        )


def nuclei(seed: int) -> tuple[NDArray[np.uint16], NDArray[np.uint32], float]:
    """Draw an image.

    Returns
    -------
    image : (Z, Y, X) uint16
    labels : (Z, Y, X) uint32
        One id for each nucleus; 0 is background.
    thickness_nm : float
        Length of a voxel in z; it is `VOXEL_NM` in y and x.
    """
    random = np.random.default_rng([seed, 20261129])
    scene = Scene.draw(random)
    labels, depths, centres, radii, is_condensed = _place(scene, random)
    light = _light(scene, labels, depths, centres, radii, is_condensed, random)
    wide = ndimage.gaussian_filter(light, (random.uniform(4, 9), 3, 3))
    light = (1 - scene.glare) * ndimage.gaussian_filter(light, scene.blur_zyx) + scene.glare * wide
    sinking = np.exp(-random.uniform(0, 1.0) * np.linspace(0, 1, light.shape[0], dtype=np.float32))
    light *= sinking[:, None, None]
    step = scene.thickness
    light, labels = light[step // 2 :: step], labels[step // 2 :: step]
    gain = random.uniform(20, 200)
    noise = random.standard_normal(light.shape, np.float32)
    noisy = light * scene.contrast + noise * np.sqrt(
        1 + np.maximum(light, 0) * scene.contrast * random.uniform(0, 0.5)
    )
    image = np.clip(random.uniform(90, 400) + gain * noisy, 1, 65535)  # 0 is where nothing was imaged
    return image.astype(np.uint16), labels, VOXEL_NM * step


def _place(
    scene: Scene, random: np.random.Generator
) -> tuple[NDArray[np.uint32], Volume, NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Put nuclei where there is room; a voxel belongs to the one whose middle is nearest, in radii.

    Gives the labels, how deep inside each voxel is (0 at the border, 1 in the middle), and of each nucleus the centre,
    the radius, and whether it is in division.
    """
    size = np.array(SHAPE_ZYX)
    nearest = np.ones(SHAPE_ZYX, np.float32)
    labels = np.zeros(SHAPE_ZYX, np.uint32)
    centres: list[NDArray[np.float64]] = []
    radii: list[float] = []
    is_condensed: list[bool] = []
    tries = max(8, int(scene.share * 6 * size.prod() / scene.diameter**3))
    for _ in range(tries):
        radius = scene.diameter / 2 * float(np.exp(scene.spread * random.standard_normal()))
        condensed = bool(random.random() < scene.condensed)
        radius *= 0.65 if condensed else 1
        centre = random.uniform(-radius / 2, size + radius / 2)
        if centres:
            apart = np.linalg.norm(np.array(centres) - centre, axis=1)
            if (apart < scene.distance * (np.array(radii) + radius)).any():
                continue
        centres.append(centre)
        radii.append(radius)
        is_condensed.append(condensed)
        _draw(len(centres), centre, radius, nearest, labels, random)
    _keep_largest_pieces(labels)
    return labels, 1 - nearest, np.array(centres), np.array(radii), np.array(is_condensed)


def _draw(
    number: int,
    centre: NDArray[np.float64],
    radius: float,
    nearest: Volume,
    labels: NDArray[np.uint32],
    random: np.random.Generator,
) -> None:
    axes = np.exp(0.15 * random.standard_normal(3))
    axes *= radius / np.prod(axes) ** (1 / 3)
    turn, _ = np.linalg.qr(random.standard_normal((3, 3)))
    reach = int(np.ceil(1.5 * axes.max())) + 1
    low = np.maximum(0, np.floor(centre).astype(int) - reach)
    high = np.minimum(labels.shape, np.floor(centre).astype(int) + reach + 1)
    if (low >= high).any():
        return
    where = tuple(slice(first, last) for first, last in zip(low, high, strict=True))
    grid = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), axis=-1) - centre
    distance = np.linalg.norm(grid @ turn / axes, axis=-1)
    bends = _smooth(random, distance.shape, radius / 2)
    distance = (distance * (1 + 0.08 * bends)).astype(np.float32)
    is_own = distance < nearest[where]
    nearest[where][is_own] = distance[is_own]
    labels[where][is_own] = number


def _keep_largest_pieces(labels: NDArray[np.uint32]) -> None:
    """Drop what a neighbour cut off of a nucleus: each id is one piece."""
    for number, where in enumerate(ndimage.find_objects(labels.astype(np.int32)), 1):
        if where is None:
            continue
        own = labels[where] == number
        pieces, count = ndimage.label(own)
        if count > 1:
            largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
            labels[where][own & (pieces != largest)] = 0


def _light(
    scene: Scene,
    labels: NDArray[np.uint32],
    depths: Volume,
    centres: NDArray[np.float64],
    radii: NDArray[np.float64],
    is_condensed: NDArray[np.bool_],
    random: np.random.Generator,
) -> Volume:
    """Say how bright each voxel is: 1 is a typical nucleus."""
    brightness = np.exp(scene.spread_of_light * random.standard_normal(len(radii) + 1)).astype(np.float32)
    brightness[0] = 0
    brightness[1:][is_condensed] *= 3
    light = brightness[labels]
    light *= np.clip(depths / max(scene.rim, 1e-3), 0, 1)
    light *= np.clip(1 + scene.texture * _smooth(random, SHAPE_ZYX, random.uniform(0.8, 2.5)), 0.1, None)
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE_ZYX), indexing="ij"), axis=-1)
    for number, (centre, radius) in enumerate(zip(centres, radii, strict=True), 1):
        for _ in range(int(random.integers(0, 3))):  # nucleoli
            middle = centre + random.uniform(-0.5, 0.5, 3) * radius
            hole = random.uniform(0.15, 0.35) * radius
            low = np.maximum(0, (middle - hole - 1).astype(int))
            high = np.maximum(low, np.minimum(SHAPE_ZYX, (middle + hole + 2).astype(int)))
            where = tuple(slice(first, last) for first, last in zip(low, high, strict=True))
            inside = (np.linalg.norm(grid[where] - middle, axis=-1) < hole) & (labels[where] == number)
            light[where][inside] *= random.uniform(0.3, 0.8)
    between = np.clip(0.5 + 0.5 * _smooth(random, SHAPE_ZYX, 12.0), 0, None)
    light += scene.haze * between
    for _ in range(int(random.integers(0, 6))):  # dirt: bright, and no nucleus
        place = tuple(int(random.integers(0, length)) for length in SHAPE_ZYX)
        light[place] += random.uniform(5, 40)
    return light


def _smooth(random: np.random.Generator, shape: tuple[int, ...], scale: float) -> Volume:
    """Noise of mean 0 and deviation 1 that is alike over so many voxels."""
    noise = ndimage.gaussian_filter(random.standard_normal(shape, np.float32), scale)
    return noise / max(float(noise.std()), 1e-6)
