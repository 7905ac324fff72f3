"""Train a shipped model further on two boxes of a data set that it has not seen, and compare.

    python training/finetune.py --data FOLDER --work FOLDER

Three models segment the part of `nuclei_qcanet` that nothing was learned from: the shipped one of nuclei, one that was
trained further from it on the two boxes, and one that was trained from zero on the same boxes for as many steps. The
scores go to `docs/figures/models.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

import datasets
from ship import FIGURES, OBJECT_SCORES

import voxelworks

DATASET = "nuclei_qcanet"
BOXES = ("0,0,0,55,45,51", "56,0,0,66,45,51")
"""Each has one nucleus of the eight; rows 45 to 47 are left out."""
TEST = "0,48,0,122,72,51"
"""The six others."""
STEPS = 300
LEARNING_RATE = 5e-4

Json = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the files of the data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder to work in")
    arguments = parser.parse_args()
    data = arguments.data.resolve()
    arguments.work.mkdir(parents=True, exist_ok=True)
    os.chdir(arguments.work)
    datasets.make_dataset(data, DATASET, Path())
    found = {
        "shipped": scores_of("nuclei", "shipped"),
        "trained further": scores_of(trained("nuclei_further", start_from="nuclei"), "further"),
        "from zero": scores_of(trained("nuclei_zero", from_zero=True), "zero"),
    }
    figures = json.loads(FIGURES.read_text())
    figures["fine_tuning"] = {"data": DATASET, "boxes": BOXES, "test": TEST, "steps": STEPS, "scores": found}
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


def trained(target: str, **params: object) -> str:
    shutil.rmtree(target, ignore_errors=True)
    voxelworks.run(
        "train_instance_model", target=target, structure="nuclei", voxel_size="620,620,620",
        instance_diameter_nm=9000, steps=STEPS, evaluate_every=50, learning_rate=LEARNING_RATE,
        boxes=[{"image": f"{DATASET}/color", "truth": f"{DATASET}/labels", "box": box} for box in BOXES],
        **params,
    )  # fmt: skip
    return target


def scores_of(model: str, name: str) -> Json:
    result = f"qcanet_{name}"
    shutil.rmtree(result, ignore_errors=True)
    voxelworks.run("infer_nuclei", layer=f"{DATASET}/color", model=model, target=result, copy_image=False)
    Path(f"{result}.html").unlink(missing_ok=True)
    found = voxelworks.run(
        "evaluate_segmentation", layer=f"{result}/segmentation", truth=f"{DATASET}/labels", box=TEST,
        file=f"{result}.html",
    )  # fmt: skip
    return {key: found[key] for key in (*OBJECT_SCORES, "f1_above")}


if __name__ == "__main__":
    main()
