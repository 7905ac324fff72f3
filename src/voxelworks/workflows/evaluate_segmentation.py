"""Compare a segmentation with the truth: scores, and a report of where they differ."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import model_validator

from voxelworks.errors import InvalidGeometry, InvalidParams, MagNotFound
from voxelworks.geometry import Box
from voxelworks.workflows import (
    ADVANCED,
    FREE,
    Artifact,
    Inputs,
    Job,
    LayerMag,
    NewFileRef,
    Params,
    SegmentationRef,
    check_box,
    workflow,
)
from voxelworks.workflows.export_tiff import export_name

if TYPE_CHECKING:
    from voxelworks.ops.evaluation import Scores
    from voxelworks.volumes.dataset import Layer, MagArray

_REPORT_BYTES = 2**18
_SAME_SIZE = 0.01
"""Voxel sizes that differ by less are the same: they are rounded in many ways."""


class EvaluateSegmentationParams(Params):
    """What to compare with what."""

    layer: SegmentationRef
    """Segmentation layer to judge."""

    truth: SegmentationRef
    """Segmentation layer that is taken for right; 0 is background."""

    box: Box | None = None
    """Box to compare, `x,y,z,width,height,depth` in voxels of mag 1; by default all that both layers cover."""

    mag: Annotated[LayerMag | None, ADVANCED] = None
    """Magnification to compare; by default the finest that both layers have."""

    file: Annotated[NewFileRef | None, ADVANCED] = None
    """Name of the report; by default after dataset and layer."""

    @model_validator(mode="after")
    def _is_named_as_it_is(self) -> Self:
        if self.file is not None and not self.file.lower().endswith((".html", ".htm")):
            raise InvalidParams(
                f"the report is a page, and its name ends in .html, not like {str(self.file)!r}"
            )
        if self.layer == self.truth:
            raise InvalidParams(
                f"{self.layer} would be compared with itself; choose the layer that is right as truth"
            )
        return self


class Evaluation(Artifact):
    """A segmentation was compared with the truth. What is not defined, such as scores of nothing, is null."""

    voi: float | None
    """Variation of information in bits: the sum of the next two."""
    voi_split: float | None
    """H(segmentation | truth)."""
    voi_merge: float | None
    """H(truth | segmentation)."""
    adapted_rand_error: float | None
    """1 minus the F-score of pairs of voxels, whose precision and recall follow."""
    rand_precision: float | None
    """Share of the pairs of voxels in one segment that belong together."""
    rand_recall: float | None
    """Share of the pairs of voxels that belong together that are in one segment."""
    assigned_voi: float | None
    """Like `voi`, over the assigned voxels alone; so are the next three."""
    assigned_voi_split: float | None
    """H(segmentation | truth)."""
    assigned_voi_merge: float | None
    """H(truth | segmentation)."""
    assigned_adapted_rand_error: float | None
    """1 minus the F-score of pairs of assigned voxels."""
    iou: float | None
    """Intersection over union of the foregrounds."""
    dice: float | None
    """Dice coefficient of the foregrounds."""
    true_positives: int
    """Segments that match one of the truth, with an intersection over union of more than 0.5."""
    false_positives: int
    """Segments that match none."""
    false_negatives: int
    """Segments of the truth that none matches."""
    precision: float | None
    """Share of the segments that match one of the truth."""
    recall: float | None
    """Share of the segments of the truth that one matches."""
    f1: float | None
    """Harmonic mean of precision and recall."""
    panoptic_quality: float | None
    """F1, times the mean intersection over union of what matches."""
    mag: str
    """Magnification that was compared."""
    voxels: int
    """Voxels in which the truth has a segment."""
    assigned_voxels: int
    """Those of them that the segmentation gives to a segment."""
    f1_above: dict[str, float | None]
    """F1 for each threshold of the intersection over union, 0.5 to 0.95."""
    intervals: dict[str, tuple[float, float]]
    """Range in which each score lies with 95 % confidence, where that can be told."""


def _file_name(params: EvaluateSegmentationParams) -> str:
    return params.file or export_name(params.layer, params.mag, f"__against__{params.truth.layer}.html")


def _result_bytes(_params: EvaluateSegmentationParams, _inputs: Inputs) -> int:
    return _REPORT_BYTES


@workflow(
    version=1,
    cost=FREE,
    group="Analysis",
    result_bytes=_result_bytes,
    file_name=_file_name,
    example={"layer": "result/segmentation", "truth": "demo/segmentation"},
    preloads=["voxelworks.workflows._evaluation", "voxelworks.ops.warm_overlaps"],
)
def evaluate_segmentation(params: EvaluateSegmentationParams, job: Job) -> Evaluation:
    """Compare a segmentation with the truth: scores, and a report of where they differ.

    Gives the variation of information (split, merge, in bits), the adapted Rand error, intersection over union and Dice
    of the foregrounds, and precision, recall, F1 and panoptic quality of objects at ten thresholds, with intervals of
    95 % confidence. The report is a page for the browser that shows them all, and which segments are split and merged
    worst.

    Variation of information and Rand error are those of the voxels in which the truth has a segment; what the
    segmentation leaves out there counts as one segment more, except in the scores of assigned voxels. For the
    foreground and for objects 0 is background in both: compare a part that was labelled as a whole.
    """
    from voxelworks.ops.evaluation import OVERLAP, score
    from voxelworks.workflows import _evaluation as work
    from voxelworks.workflows import _runs as files

    layer, truth = job.open(params.layer), job.open(params.truth)
    params.layer.require_category(layer.category)
    params.truth.require_category(truth.category)
    _require_same_size(layer, truth)
    source, right = _in_mag(params, layer, truth)
    box = _box(params, layer, truth).in_mag(source.mag)
    path = job.start_artifact(
        media_type="text/html", size_bytes=_REPORT_BYTES, inputs=[str(source), str(right), str(box)]
    )
    scratch = job.folder.scratch
    parts = work.parts_of(box)
    edge = work.pieces_of(source, right, 2 * work.READ_EDGE)
    items = [(part, piece) for part in parts for piece in part.tiles(edge)]
    job.expect(box.voxel_count)
    runs = job.process(
        f"{layer.name}: comparing mag {source.mag}",
        [(str(piece), piece) for _, piece in items],
        work.OverlapsIn(source, right, str(scratch)),
        units=box.voxel_count,
        memory_bytes_per_item=work.block_bytes(source, right),
        result_type=files.Run,
        is_intact=partial(files.is_intact, scratch, OVERLAP),
    )
    job.require_memory(
        work.memory_bytes(sum(run.rows for run in runs)),
        item="table of overlaps",
        remedy="choose a smaller box",
    )
    grouped: dict[Box, list[files.Run]] = {part: [] for part in parts}
    for (part, _), run in zip(items, runs, strict=True):
        grouped[part].append(run)
    job.log("computing scores and their intervals")
    scores = score([work.overlaps_of(scratch, group) for group in grouped.values()], check=job.check)
    facts = [
        ("Segmentation", str(params.layer)), ("Truth", str(params.truth)),
        ("Box", f"{box.from_mag(source.mag)} (x, y, z, width, height, depth in voxels of mag 1)"),
        ("Mag", f"{source.mag}, voxels of {layer.voxel_size.in_mag(source.mag)} nm"),
    ]  # fmt: skip
    names = [f"{item.dataset.name}/{item.name}" for item in (layer, truth)]
    heading = work.Heading(" compared with ".join(names), tuple(facts))
    path.write_text(work.report(heading, scores), encoding="utf-8")
    return _outcome(params, source, scores)


def _require_same_size(layer: Layer, truth: Layer) -> None:
    pairs = zip(layer.voxel_size.zyx, truth.voxel_size.zyx, strict=True)
    if any(not math.isclose(one, other, rel_tol=_SAME_SIZE) for one, other in pairs):
        raise InvalidGeometry(
            f"voxels of {layer.name} are {layer.voxel_size} nm large, those of {truth.name} {truth.voxel_size}: they "
            "cannot be compared one by one; give both datasets the same voxel size"
        )


def _in_mag(params: EvaluateSegmentationParams, layer: Layer, truth: Layer) -> tuple[MagArray, MagArray]:
    if params.mag is not None:
        return layer.mag(params.mag), truth.mag(params.mag)
    common = [mag for mag in layer.mags if mag in truth.mags]
    if not common:
        raise MagNotFound(
            f"{layer.name} has mags {', '.join(map(str, layer.mags)) or 'none'}, {truth.name} "
            f"{', '.join(map(str, truth.mags)) or 'none'}: none in common; make one with downsample"
        )
    return layer.mag(common[0]), truth.mag(common[0])


def _box(params: EvaluateSegmentationParams, layer: Layer, truth: Layer) -> Box:
    both = layer.box.intersect(truth.box)
    if params.box is not None:
        check_box(layer.name, layer.box, params.box)
        check_box(truth.name, truth.box, params.box)
        return params.box
    if both.is_empty:
        raise InvalidGeometry(
            f"{layer.name} covers {layer.box}, {truth.name} {truth.box}: nothing in common; choose layers of the same "
            "place"
        )
    return both


def _outcome(params: EvaluateSegmentationParams, source: MagArray, scores: Scores) -> Evaluation:
    from voxelworks.workflows._evaluation import rounded, rounded_interval

    best = scores.matches[0]
    objects = {name: getattr(best, name) for name in ("precision", "recall", "f1", "panoptic_quality")}
    shown = scores.voxelwise | objects
    return Evaluation(
        file=str(_file_name(params)), mag=str(source.mag), voxels=scores.voxels, assigned_voxels=scores.assigned,
        true_positives=best.true_positives, false_positives=best.false_positives,
        false_negatives=best.false_negatives,
        f1_above={f"{match.threshold:g}": rounded(match.f1.value) for match in scores.matches},
        intervals={
            name: found for name, interval in shown.items() if (found := rounded_interval(interval)) is not None
        },
        **{name: rounded(found.value) for name, found in shown.items() if name in Evaluation.model_fields},
    )  # fmt: skip
