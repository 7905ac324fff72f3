"""Train a shipped model with the parts of splits.toml, through the same workflows that users have.

    python training/train.py mitochondria --data FOLDER --work FOLDER
    python training/train.py neurons --data FOLDER --work FOLDER

`--data` is a folder with one folder for each data set, which holds its arrays (see fetch.py); `--work` is where
datasets, checkpoints and the model are written. It can be stopped (Ctrl-C) and started again: it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import datasets

import voxelworks

SEED = 0
RECIPES: dict[str, dict[str, Any]] = {
    # `data`: which data sets are learned from, and how often each is looked at against its size; the rest are params.
    "mitochondria": {
        "workflow": "train_instance_model",
        "data": {"mito_sbem_cdeep3m": 1.0, "mito_vnc_sstem": 1.5},
        "structure": "mitochondria",
        "voxel_size": "10,10,35",
        "instance_diameter_nm": 200.0,
        "steps": 6000,
        "evaluate_every": 300,
        "modality": "serial block-face and serial-section EM",
        "tissue": "brain, and nerve cord of a Drosophila larva",
        "licence": "CC BY-NC-SA 3.0, and CDeep3M licence (non-commercial)",
    },
    "neurons": {
        "workflow": "train_neuron_model",
        "data": {"neuron_fib25": 1.0},
        "voxel_size": "10,10,10",
        "steps": 5400,
        "evaluate_every": 300,
        "modality": "FIB-SEM",
        "tissue": "Drosophila medulla",
        "licence": "CC BY",
    },
    "nuclei": {
        "workflow": "train_instance_model",
        # The real image is small: without its weight it would hardly be looked at.
        "data": {"nuclei_stardist": 40.0, "nuclei_synthetic": 1.0},
        "structure": "nuclei",
        "voxel_size": "620,620,620",
        "instance_diameter_nm": 9000.0,
        "steps": 3000,
        "evaluate_every": 150,
        "modality": "fluorescence",
        "tissue": "embryos and cultures; most images are synthetic",
        "licence": "BSD-3-Clause",
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=sorted(RECIPES))
    parser.add_argument("--data", type=Path, required=True, help="folder with the files of the data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder to work in")
    parser.add_argument("--steps", type=int, help="other number of steps, to try things out")
    arguments = parser.parse_args()
    recipe = dict(RECIPES[arguments.model])
    workflow, weights = recipe.pop("workflow"), recipe.pop("data")
    arguments.work.mkdir(parents=True, exist_ok=True)
    data = arguments.data.resolve()
    os.chdir(arguments.work)  # names in the model card are then those of the datasets alone
    boxes = []
    for part in datasets.splits():
        if part.data not in weights or part.purpose == "test":
            continue
        datasets.make_dataset(data, part.dataset, Path())
        boxes.append(
            {
                "image": f"{part.dataset}/color",
                "truth": f"{part.dataset}/labels",
                "box": None if part.box is None else str(part.box),
                "purpose": part.purpose,
                "weight": weights[part.data],
            }
        )
    if arguments.steps is not None:
        recipe["steps"] = arguments.steps
    found = voxelworks.run(
        workflow, boxes=boxes, target=arguments.model, seed=SEED, from_zero=True, **recipe
    )  # fmt: skip
    Path(f"{arguments.model}.json").write_text(json.dumps({**found, "seed": SEED}) + "\n", encoding="utf-8")
    print(found)


if __name__ == "__main__":
    main()
