"""Score a trained model on the parts of splits.toml that it did not learn from, and put it where it is found.

    python training/ship.py mitochondria --data FOLDER --work FOLDER
    python training/ship.py flood_filling --data FOLDER --work FOLDER

`--work` is the folder in which `train.py` made the model. Each data set is segmented as a whole, with the workflow and
the defaults that users have, and compared with the labels of its test parts. The package goes to `models/` of the
repository, or into the wheel where its licence allows that; its card has the scores, and so has
`docs/figures/models.json`, from which `tools/make_models_table.py` writes `docs/models.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from scipy import ndimage

import voxelworks
from voxelworks.ai.package import ModelPackage, read_package, write_package
from voxelworks.protocol.models import TRAINED_WEIGHTS, ModelScore
from voxelworks.volumes.dataset import Dataset

ROOT = Path(__file__).resolve().parent.parent
CARDS = ROOT / "training" / "cards.toml"
FIGURES = ROOT / "docs" / "figures" / "models.json"
SCORED: dict[str, tuple[str, ...]] = {
    "mitochondria": ("mito_sbem_cdeep3m", "mito_vnc_sstem"),
    "neurons": ("neuron_fib25", "neuron_gala"),
    "nuclei": ("nuclei_qcanet", "nuclei_stardist"),
}
WORKFLOWS = {
    "mitochondria": "infer_mitochondria", "neurons": "infer_neurons", "nuclei": "infer_nuclei",
}  # fmt: skip
REFERENCE = "flood_filling"
"""Not a model of ours: the published segmentation of `neuron_fib25`, scored in the same way."""
OBJECT_SCORES = ("iou", "f1", "precision", "recall", "panoptic_quality")
NEURON_SCORES = (
    "voi", "voi_split", "voi_merge", "assigned_voi", "assigned_voi_split", "assigned_voi_merge",
    "adapted_rand_error", "assigned_adapted_rand_error",
)  # fmt: skip
CENTRES = {"nuclei_qcanet": "labels_centres"}
"""Files with a small blob in the middle of each object, published to count what was found, apart from its outline."""
COUNTS = ("true_positives", "false_positives", "false_negatives", "voxels", "assigned_voxels")
ON_CARD = {"iou": "IoU of the foreground", "f1": "F1 of objects at IoU 0.5", "voi": "VOI in bits"}

Json = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=[*sorted(SCORED), REFERENCE])
    parser.add_argument("--data", type=Path, required=True, help="folder with the files of the data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder in which the model was trained")
    parser.add_argument("--only-score", action="store_true", help="print the scores, and leave all as it is")
    arguments = parser.parse_args()
    data = arguments.data.resolve()
    os.chdir(arguments.work)
    name = arguments.model
    if name == REFERENCE:
        write_figures(REFERENCE, {"scores": reference_scores(data)})
        return
    package = read_package(Path(name))
    scores = [score for dataset in SCORED[name] for score in scores_of(data, name, dataset)]
    print(json.dumps(scores, indent=2))
    if arguments.only_score:
        return
    target = ship(name, package, scores)
    size = sum(file.stat().st_size for file in target.iterdir())
    write_figures(name, {"training": trained(Path(name)), "bytes": size, "scores": scores})


def write_figures(name: str, found: Json) -> None:
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    FIGURES.write_text(json.dumps({**figures, name: found}, indent=1) + "\n", encoding="utf-8")


def scores_of(data: Path, model: str, dataset: str) -> list[Json]:
    """Segment a data set, and compare the result with each of its test parts."""
    datasets.make_dataset(data, dataset, Path())
    result = Path(f"{dataset}_{model}")
    shutil.rmtree(result, ignore_errors=True)
    voxelworks.run(
        WORKFLOWS[model],
        layer=f"{dataset}/color",
        model=model,
        target=str(result),
        copy_image=False,
    )
    learned = {part.data for part in datasets.splits() if part.purpose == "train"}
    detected = {"centres": centres_in(result, data, dataset)} if dataset in CENTRES else {}
    return [
        {
            "data": dataset,
            "box": str(part.box),
            "learned_from_other_parts": dataset in learned,
            **compared(model, f"{result}/segmentation", dataset, part),
            **detected,
        }
        for part in datasets.splits()
        if part.dataset == dataset and part.purpose == "test"
    ]


def centres_in(result: Path, data: Path, dataset: str) -> Json:
    """Count the centres that lie in a segment, and those that share one with another centre."""
    layer = Dataset.open(result).layer("segmentation")
    segments = layer.finest.read(layer.box)[0]
    blobs, count = ndimage.label(datasets.load(data / dataset / f"{CENTRES[dataset]}.npz"))
    owners = [int(np.bincount(segments[blobs == number]).argmax()) for number in range(1, count + 1)]
    found = [owner for owner in owners if owner]
    return {"count": count, "found": len(found), "merged": sum(found.count(owner) > 1 for owner in found)}


def reference_scores(data: Path) -> list[Json]:
    """Score the published flood-filling result of the same data in the same way."""
    datasets.make_dataset(data, "neuron_fib25", Path())
    datasets.add_reference(data, "neuron_fib25", Path())
    return [
        {
            "data": part.dataset,
            "box": str(part.box),
            **compared("neurons", "neuron_fib25/ffn", part.dataset, part),
        }
        for part in datasets.splits()
        if part.dataset == "neuron_fib25" and part.purpose == "test"
    ]


def compared(model: str, layer: str, dataset: str, part: datasets.Split) -> Json:
    report = f"{layer.replace('/', '_')}_{str(part.box).replace(',', '_')}.html"
    Path(report).unlink(missing_ok=True)
    found = voxelworks.run(
        "evaluate_segmentation", layer=layer, truth=f"{dataset}/labels", box=str(part.box), file=report
    )
    wanted = (NEURON_SCORES if model == "neurons" else OBJECT_SCORES) + COUNTS
    intervals = {name: found["intervals"][name] for name in wanted if name in found["intervals"]}
    return {name: found[name] for name in wanted} | {"intervals": intervals}


def ship(name: str, package: ModelPackage, scores: list[Json]) -> Path:
    """Write the package with its card; give its folder."""
    card: Mapping[str, Any] = tomllib.loads(CARDS.read_text())[name]
    target = ROOT / card["folder"] / name
    held_out = tuple(
        ModelScore(
            data=f"{score['data']} {score['box']}", measure=what, value=round(score[key], 4),
            low=_end(score, key, 0), high=_end(score, key, 1),
            count=score["true_positives"] + score["false_negatives"] if key == "f1" else None,
            trained_on=score["learned_from_other_parts"],
        )
        for score in scores
        for key, what in ON_CARD.items()
        if score.get(key) is not None
    )  # fmt: skip
    facts = package.facts.model_copy(
        update={
            key: tuple(value) if isinstance(value, list) else value
            for key, value in card.items()
            if key != "folder"
        }
        | {"scores": package.facts.scores + held_out}
    )
    write_package(target, facts, package.weights, extra={TRAINED_WEIGHTS: package.folder / TRAINED_WEIGHTS})
    return target


def trained(package: Path) -> Json:
    """Say how a model was trained: what its training gave."""
    record = json.loads((package.parent / f"{package.name}.json").read_text())
    return {key: record[key] for key in ("steps", "best_step", "score", "hours", "seed")}


def _end(score: Json, key: str, index: int) -> float | None:
    interval = score["intervals"].get(key)
    return None if interval is None else round(interval[index], 4)


if __name__ == "__main__":
    main()
