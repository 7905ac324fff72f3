"""Cut the work into other parts, three times, and compare what comes out.

    python training/tilings.py --data FOLDER --work FOLDER

Each shipped model segments a data set with the patches that it says, with smaller ones and with those halved, and with
blocks that are smaller, too. How far apart the three segmentations are goes to `docs/figures/models.json`: the share of
voxels that belong to something in one and not in another, and the variation of information, both the largest of the
three pairs. With the same predictions, blocks change nothing at all; what is left comes from the borders of patches.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
import numpy as np
from numpy.typing import NDArray
from ship import FIGURES, WORKFLOWS

import voxelworks
from voxelworks.ai.package import read_package, write_package
from voxelworks.ops.evaluation import count_overlaps, variation_of_information
from voxelworks.settings import Settings
from voxelworks.volumes.dataset import Dataset
from voxelworks.workflows import _fragments

DATA = {"mitochondria": "mito_vnc_sstem", "neurons": "neuron_fib25", "nuclei": "nuclei_qcanet"}
TILINGS = ((1.0, 256), (0.75, 96), (0.5, 64))
"""Edge of a patch, of that which the model says; and edge of a block in voxels."""

Json = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the files of the data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder to work in")
    parser.add_argument("models", nargs="*", help="by default all", choices=[[], *DATA])
    arguments = parser.parse_args()
    data = arguments.data.resolve()
    arguments.work.mkdir(parents=True, exist_ok=True)
    os.chdir(arguments.work)
    for model in arguments.models or DATA:
        datasets.make_dataset(data, DATA[model], Path())
        made = [segmented(model, share, edge) for share, edge in TILINGS]
        found = {
            "data": DATA[model],
            "tilings": [tiling for tiling, _ in made],
            **apart([one for _, one in made]),
        }
        print(model, json.dumps(found))
        figures = json.loads(FIGURES.read_text())
        figures.setdefault("tilings", {})[model] = found
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def segmented(model: str, share: float, edge: int) -> tuple[Json, NDArray[np.integer]]:
    """Segment with patches of other sizes, and blocks of other edges; give both, and the labels (z, y, x)."""
    package = read_package(shipped(model))
    facts = package.facts
    patch = tuple(
        max(step, 4 * border // step * step, round(side * share / step) * step)
        for side, border, step in zip(facts.patch, facts.border, facts.step, strict=True)
    )
    other, target = Path(f"{model}_{edge}_model"), Path(f"{model}_{edge}")
    for folder in (other, target):
        shutil.rmtree(folder, ignore_errors=True)
    write_package(other, facts.model_copy(update={"patch": patch}), package.weights)
    # People cannot choose blocks: they make no difference.
    with mock.patch.object(_fragments, "BLOCK", (edge,) * 3):
        voxelworks.run(
            WORKFLOWS[model],
            layer=f"{DATA[model]}/color",
            model=str(other),
            target=str(target),
            copy_image=False,
        )
    layer = Dataset.open(target).layer("segmentation")
    return {"patch": list(patch), "block": edge}, layer.finest.read(layer.finest.box)[0]


def shipped(name: str) -> Path:
    """Find a model that comes with Voxelworks."""
    return next(root / name for root in Settings().model_roots if (root / name).is_dir())


def apart(labels: list[NDArray[np.integer]]) -> Json:
    """Say how far apart segmentations are, the largest of all pairs."""
    vois, shares = [], []
    for one, other in combinations(labels, 2):
        # Background is an object like others here: what belongs to nothing in one only is a difference.
        overlaps = count_overlaps(one + 1, other + 1)
        first, second = (np.unique(overlaps[side], return_inverse=True)[1] for side in ("segment", "truth"))
        vois.append(variation_of_information(first, second, overlaps["count"].astype(float))[2])
        shares.append(float(np.mean((one > 0) != (other > 0))))
    return {
        "voi": round(max(vois), 5),
        "foreground": round(max(shares), 6),
        "objects": [int(len(np.unique(one)) - 1) for one in labels],
    }


if __name__ == "__main__":
    main()
