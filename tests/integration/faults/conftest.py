"""Image stacks, what an undisturbed run makes of them, and sites where everything may be killed."""

from __future__ import annotations

import gzip
import math
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import voxelworks
from voxelworks.settings import Settings
from voxelworks.testing.independent_writers import TiffStyle, write_nifti, write_png, write_tiff
from voxelworks.testing.rounds import rounds

from .fault_site import SHARD_BYTES_MAX, Site, Tree, tree

LARGE_ZYX = rounds((200, 260, 260), (500, 300, 300))
BLOCK_COUNT = math.prod(-(-extent // 64) for extent in LARGE_ZYX)
FORMS = ("plain", "png", "deflated", "packed")
"""Forms of the large stack: TIFF that is cut block by block; PNG and compressed TIFF, whose sections are decoded
beforehand; and a file that is packed in one piece, and unpacked beforehand."""
LAYER_COUNTS = (2, 8)
VOXEL_SIZE = "4,4,4"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.parent == here and sys.platform != "linux":
            item.add_marker(pytest.mark.skip(reason="looks into /proc"))


@dataclass(frozen=True)
class Stacks:
    """Folders of sections, and the files that an undisturbed run makes of them."""

    folder: Path
    large: Tree
    """Of `large-FORM`, each of `FORMS` with the same voxels, which have `BLOCK_COUNT` blocks in mag 1."""
    small: Tree
    """Of `small`, which has 12 blocks in mag 1."""
    almost: Path
    """A dataset of two layers with mags 1, 2 and 4, but for the first, which has mag 1 only."""
    layers: dict[int, Tree]
    """Number of layers -> files of a dataset with mags 1, 2 and 4 of so many layers."""


@pytest.fixture(scope="session")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Stacks:
    folder, made = tmp_path_factory.mktemp("stacks"), tmp_path_factory.mktemp("undisturbed")
    for form in FORMS:
        _write_stack(folder / f"large-{form}", LARGE_ZYX, form)
    _write_stack(folder / "small", (120, 120, 190), "plain")
    trees: dict[str, Tree] = {}
    layers: dict[int, Tree] = {}
    for name in ("large-plain", "small"):
        undisturbed("convert", **convert_params(folder / name, made / name / "cells"))
        trees[name] = tree(made / name / "cells")
    for count in LAYER_COUNTS:
        dataset = made / str(count) / "cells"
        undisturbed("convert", **layers_params(folder / "small", dataset, count))
        for number in reversed(range(count)):
            if (count, number) == (2, 0):
                shutil.copytree(dataset, made / "almost" / "cells")
            undisturbed("downsample", layer=f"{dataset}/layer{number}", coarsest_mag="4")
        layers[count] = tree(dataset)
    return Stacks(folder, trees["large-plain"], trees["small"], made / "almost" / "cells", layers)


def convert_params(source: object, target: object) -> dict[str, Any]:
    layer = {"source": str(source), "layer_name": "color", "category": "color"}
    return {"layers": [layer], "target": str(target), "voxel_size": VOXEL_SIZE}


def layers_params(source: object, target: object, count: int) -> dict[str, Any]:
    layers = [{"source": str(source), "layer_name": f"layer{number}"} for number in range(count)]
    return {"layers": layers, "target": str(target), "voxel_size": VOXEL_SIZE, "pyramid": False}


def undisturbed(workflow: str, shard_bytes_max: int = SHARD_BYTES_MAX, **params: Any) -> None:
    """Run a workflow in this process alone."""
    if "target" in params:
        Path(params["target"]).parent.mkdir(parents=True, exist_ok=True)
    settings = Settings(slots=1, shard_bytes_max=shard_bytes_max)
    voxelworks.run(workflow, settings=settings, cluster="serial", **params)


def _write_stack(folder: Path, shape_zyx: tuple[int, int, int], form: str) -> None:
    folder.mkdir()
    # No voxel is zero: a shard of zeros would not be stored, and could not be seen to be lost.
    voxels = np.random.default_rng(1).integers(1, 9, shape_zyx, dtype=np.uint8)
    if form == "packed":
        path = write_nifti(folder / "volume.nii", voxels)
        (folder / "volume.nii.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
        path.unlink()
        return
    for z, section in enumerate(voxels):
        if form == "png":
            write_png(folder / f"section{z:04}.png", section)
        else:
            style = TiffStyle(is_deflated=form == "deflated")
            write_tiff(folder / f"section{z:04}.tif", section[np.newaxis], style)


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers whose seed is printed; VOXELWORKS_TEST_SEED repeats a run."""
    seed = int(os.environ.get("VOXELWORKS_TEST_SEED") or random.SystemRandom().randrange(10**6))
    print(f"VOXELWORKS_TEST_SEED={seed}")
    request.node.user_properties.append(("seed", seed))
    return random.Random(seed)


@pytest.fixture
def make_site(tmp_path: Path, stacks: Stacks) -> Iterator[Callable[..., Site]]:
    sites: list[Site] = []

    def make(**options: Any) -> Site:
        sites.append(Site(tmp_path / f"site{len(sites)}", stacks.folder, **options))
        return sites[-1]

    yield make
    for site in sites:
        site.close()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()
