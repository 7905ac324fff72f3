"""Train a shipped model with the parts of splits.toml, through the same workflows that users have.

    python training/train.py mitochondria --data FOLDER --work FOLDER
    python training/train.py neurons --data FOLDER --work FOLDER

`--data` is a folder with one folder for each data set, which holds its arrays (see fetch.py); `--work` is where
datasets, checkpoints and the model are written. It can be stopped (Ctrl-C) and started again: it goes on where it was.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import datasets

import voxelworks

RECIPES: dict[str, dict[str, Any]] = {
    "mitochondria": {
        "workflow": "train_instance_model",
        "data": ["mito_sbem_cdeep3m", "mito_vnc_sstem"],
        "structure": "mitochondria",
        "voxel_size": "10,10,35",
        "instance_diameter_nm": 200.0,
        "steps": 8000,
        "evaluate_every": 400,
        "modality": "serial block-face and serial-section EM",
        "tissue": "mouse brain and Drosophila nerve cord",
        "licence": "CC BY-NC-SA 3.0, and CDeep3M licence (non-commercial)",
    },
    "neurons": {
        "workflow": "train_neuron_model",
        "data": ["neuron_fib25"],
        "voxel_size": "10,10,10",
        "steps": 20000,
        "evaluate_every": 250,
        "modality": "FIB-SEM",
        "tissue": "Drosophila medulla",
        "licence": "CC BY 4.0",
    },
    "nuclei": {
        "workflow": "train_instance_model",
        "data": ["nuclei_stardist"],
        "structure": "nuclei",
        "voxel_size": "500,500,500",
        "steps": 2000,
        "evaluate_every": 100,
        "modality": "fluorescence",
        "tissue": "embryo",
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
    workflow, names = recipe.pop("workflow"), recipe.pop("data")
    arguments.work.mkdir(parents=True, exist_ok=True)
    data = arguments.data.resolve()
    os.chdir(arguments.work)  # names in the model card are then those of the datasets alone
    boxes = []
    for name in names:
        datasets.make_dataset(data, name, Path())
        boxes += [
            {
                "image": f"{name}/color",
                "truth": f"{name}/labels",
                "box": str(part.box),
                "purpose": part.purpose,
            }
            for part in datasets.splits()
            if part.dataset == name and part.purpose != "test"
        ]
    if arguments.steps is not None:
        recipe["steps"] = arguments.steps
    print(voxelworks.run(workflow, boxes=boxes, target=arguments.model, **recipe))


if __name__ == "__main__":
    main()
