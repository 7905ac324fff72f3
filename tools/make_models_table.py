"""Write the tables of docs/models.md from docs/figures/models.json, or check that they are up to date.

python tools/make_models_table.py            write the tables
python tools/make_models_table.py --check    exit with 1 if the page differs from the figures
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs"
FIGURES = DOCS / "figures" / "models.json"
PAGE = DOCS / "models.md"
BEGIN, END = "<!-- models: begin, made by tools/make_models_table.py -->", "<!-- models: end -->"
OBJECT_MODELS = ("mitochondria", "nuclei")

Json = dict[str, Any]


def main() -> int:
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    made = f"{before}{BEGIN}\n\n{tables(json.loads(FIGURES.read_text(encoding='utf-8')))}\n\n{END}{after}"
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(made, encoding="utf-8")
        return 0
    if made != page:
        print("docs/models.md differs from its figures: run tools/make_models_table.py", file=sys.stderr)
    return int(made != page)


def tables(figures: Json) -> str:
    """Give everything that the figures show, as Markdown."""
    parts = ["### Objects", objects(figures)]
    if "flood_filling" in figures:
        parts += ["### Neurons", neurons(figures)]
    if "fine_tuning" in figures:
        parts += ["### Trained further on two boxes", fine_tuning(figures["fine_tuning"])]
    if "tilings" in figures:
        parts += ["### Cut into other parts", tilings(figures["tilings"])]
    parts += ["### Training", training(figures)]
    return "\n\n".join(parts)


def objects(figures: Json) -> str:
    head = [
        "Model", "Data", "Part (x,y,z,width,height,depth)", "Seen in training", "IoU", "F1 at 0.5",
        "Found", "Missed", "Wrong",
    ]  # fmt: skip
    rows = [
        [
            model,
            score["data"],
            score["box"],
            "other parts" if score["learned_from_other_parts"] else "nothing of it",
            _number(score, "iou"),
            _number(score, "f1"),
            str(score["true_positives"]),
            str(score["false_negatives"]),
            str(score["false_positives"]),
        ]
        for model in OBJECT_MODELS
        if model in figures
        for score in figures[model]["scores"]
    ]
    return "\n\n".join([_table(head, rows), *detections(figures)])


def detections(figures: Json) -> list[str]:
    """Say of which data the centres of objects were published, and how many of them were found."""
    found = [
        (score["data"], score["centres"])
        for model in OBJECT_MODELS
        for score in figures.get(model, {"scores": []})["scores"]
        if "centres" in score
    ]
    return [
        f"Of the {centres['count']} centres that were published for `{data}`, {centres['found']} lie in a segment, "
        f"and {centres['merged']} of these share it with another centre."
        for data, centres in found
    ]


def neurons(figures: Json) -> str:
    head = [
        "Segmentation",
        "Data",
        "Part",
        "Seen in training",
        "VOI",
        "split",
        "merge",
        "VOI of assigned voxels",
    ]
    rows = []
    for title, model in (("`infer_neurons`", "neurons"), ("flood-filling network", "flood_filling")):
        for score in figures.get(model, {"scores": []})["scores"]:
            seen = {True: "other parts", False: "nothing of it", None: "not stated"}
            rows.append(
                [
                    title,
                    score["data"],
                    score["box"],
                    seen[score.get("learned_from_other_parts")],
                    _number(score, "voi"),
                    *(f"{score[key]:.2f}" for key in ("voi_split", "voi_merge")),
                    _number(score, "assigned_voi"),
                ]
            )
    return _table(head, rows)


def fine_tuning(figures: Json) -> str:
    head = ["Model", "IoU", "Panoptic quality", "F1 at 0.5", "F1 at 0.7", "F1 at 0.8"]
    rows = [
        [
            name,
            *(f"{score[key]:.3f}" for key in ("iou", "panoptic_quality", "f1")),
            *(f"{score['f1_above'][key]:.2f}" for key in ("0.7", "0.8")),
        ]
        for name, score in figures["scores"].items()
    ]
    about = (
        f"On `{figures['data']}`, of which the model of nuclei had seen nothing: {figures['steps']} steps on the boxes "
        f"{' and '.join(figures['boxes'])}, scored in {figures['test']}."
    )
    return f"{about}\n\n{_table(head, rows)}"


def tilings(figures: Json) -> str:
    head = ["Model", "Data", "Patches (x,y,z), blocks", "VOI", "Foreground that differs", "Objects"]
    rows = [
        [
            model,
            item["data"],
            "; ".join(f"{','.join(map(str, one['patch']))}, {one['block']}³" for one in item["tilings"]),
            f"{item['voi']:.4f}",
            f"{item['foreground']:.3%}",
            ", ".join(f"{count:,}" for count in item["objects"]),
        ]
        for model, item in sorted(figures.items())
    ]
    return _table(head, rows)


def training(figures: Json) -> str:
    head = ["Model", "Steps", "Kept", "Score in validation", "Hours", "Seed", "MB"]
    rows = [
        [
            model,
            f"{item['training']['steps']:,}",
            f"{item['training']['best_step']:,}",
            f"{item['training']['score']:.3f}",
            f"{item['training']['hours']:.2f}",
            str(item["training"]["seed"]),
            f"{item['bytes'] / 1e6:.1f}",
        ]
        for model, item in figures.items()
        if "training" in item
    ]
    return _table(head, rows)


def _number(score: Json, key: str) -> str:
    """Give a score with its interval of 95 %, where that can be told."""
    if score[key] is None:
        return "–"
    interval = score["intervals"].get(key)
    return f"{score[key]:.3f}" + (f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    raise SystemExit(main())
