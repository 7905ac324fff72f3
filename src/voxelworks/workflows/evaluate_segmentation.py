"""Compare a segmentation with the truth: scores, and a report of where they differ."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from voxelworks.errors import InvalidAnnotation, InvalidGeometry, InvalidParams, MagNotFound
from voxelworks.geometry import Box, VoxelSize
from voxelworks.workflows import (
    ADVANCED,
    ANY_DATASET,
    FREE,
    AnnotationRef,
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
    from voxelworks.ops.evaluation import Interval, Scores
    from voxelworks.ops.skeletons import SkeletonScores
    from voxelworks.volumes.annotations import Annotation
    from voxelworks.volumes.dataset import Layer, MagArray

_REPORT_BYTES = 2**18
_SAME_SIZE = 0.01
"""Voxel sizes that differ by less are the same: they are rounded in many ways."""


class EvaluateSegmentationParams(Params):
    """What to compare with what."""

    layer: SegmentationRef
    """Segmentation layer to judge."""

    truth: SegmentationRef | None = None
    """Segmentation layer that is taken for right; 0 is background. Give either this or `truth_annotation`."""

    truth_annotation: Annotated[AnnotationRef | None, ANY_DATASET] = None
    """Annotation whose trees are taken for right: each is the skeleton of one neuron."""

    box: Box | None = None
    """Box to compare, `x,y,z,width,height,depth` in voxels of mag 1; by default all that layers on both sides cover."""

    mag: Annotated[LayerMag | None, ADVANCED] = None
    """Magnification to compare; by default the finest that both layers have."""

    neurons: Annotated[Literal["trees", "groups"], ADVANCED] = "trees"
    """What is one neuron: each tree of the annotation, or all trees of a group together."""

    max_edge_length_nm: Annotated[float | None, Field(ge=1, allow_inf_nan=False), ADVANCED] = None
    """Longer edges of trees are looked at in steps of at most this length; by default at their ends alone."""

    min_merger_path_length_nm: Annotated[float, Field(ge=0, allow_inf_nan=False), ADVANCED] = 800
    """A segment joins two neurons if it holds at least this much path of each: single nodes may lie beside theirs."""

    other_dataset: Annotated[bool, ADVANCED] = False
    """The annotation was made in another dataset of the same volume, such as the one that was segmented."""

    file: Annotated[NewFileRef | None, ADVANCED] = None
    """Name of the report; by default after dataset and layer."""

    @model_validator(mode="after")
    def _is_named_as_it_is(self) -> Self:
        if self.file is not None and not self.file.lower().endswith((".html", ".htm")):
            raise InvalidParams(
                f"the report is a page, and its name ends in .html, not like {str(self.file)!r}"
            )
        if (self.truth is None) == (self.truth_annotation is None):
            raise InvalidParams(
                "give either truth, a segmentation layer that is right, or truth_annotation, an annotation with trees"
            )
        if self.layer == self.truth:
            raise InvalidParams(
                f"{self.layer} would be compared with itself; choose the layer that is right as truth"
            )
        about_trees = ("neurons", "max_edge_length_nm", "min_merger_path_length_nm", "other_dataset")
        given = [name for name in about_trees if getattr(self, name) != type(self).model_fields[name].default]
        if given and self.truth is not None:
            raise InvalidParams(
                f"{given[0]} is about the trees of an annotation, and truth is a layer; leave it out"
            )
        return self


class Evaluation(Artifact):
    """A segmentation was compared with the truth.

    What is not defined, such as scores of nothing, is null. Some scores are there with a layer as the truth alone,
    others with trees.
    """

    erl_nm: float | None = None
    """Trees: expected run length, how far one can follow a neuron in one segment from a random place on it."""
    erl_share: float | None = None
    """Trees: the same as a share of what a perfect segmentation would have."""
    splits: int = 0
    """Trees: edges whose ends lie in two segments."""
    mergers: int = 0
    """Trees: segments that hold much path of two neurons or more."""
    omitted: int = 0
    """Trees: edges with an end in no segment."""
    edges: int = 0
    """Trees: edges in the box; long ones count once for each step."""
    trees: int = 0
    """Trees: neurons with a node in the box."""
    path_length_nm: float = 0
    """Trees: length of all edges in the box, of which the next four are the parts."""
    right_path_length_nm: float = 0
    """Trees: in one segment that is no merger."""
    merged_path_length_nm: float = 0
    """Trees: in mergers."""
    cut_path_length_nm: float = 0
    """Trees: of edges that are cut."""
    omitted_path_length_nm: float = 0
    """Trees: of edges with an end in no segment."""
    voi: float | None
    """Variation of information in bits: the sum of the next two. Of points of trees, weighted by the path at them."""
    voi_split: float | None
    """H(segmentation | truth)."""
    voi_merge: float | None
    """H(truth | segmentation)."""
    adapted_rand_error: float | None
    """1 minus the F-score of pairs of voxels, or of points of trees, whose precision and recall follow."""
    rand_precision: float | None
    """Share of the pairs in one segment that belong together."""
    rand_recall: float | None
    """Share of the pairs that belong together that are in one segment."""
    assigned_voi: float | None = None
    """Layer: like `voi`, over the assigned voxels alone; so are the next three."""
    assigned_voi_split: float | None = None
    """Layer: H(segmentation | truth)."""
    assigned_voi_merge: float | None = None
    """Layer: H(truth | segmentation)."""
    assigned_adapted_rand_error: float | None = None
    """Layer: 1 minus the F-score of pairs of assigned voxels."""
    iou: float | None = None
    """Layer: intersection over union of the foregrounds."""
    dice: float | None = None
    """Layer: Dice coefficient of the foregrounds."""
    true_positives: int = 0
    """Layer: segments that match one of the truth, with an intersection over union of more than 0.5."""
    false_positives: int = 0
    """Layer: segments that match none."""
    false_negatives: int = 0
    """Layer: segments of the truth that none matches."""
    precision: float | None = None
    """Layer: share of the segments that match one of the truth."""
    recall: float | None = None
    """Layer: share of the segments of the truth that one matches."""
    f1: float | None = None
    """Layer: harmonic mean of precision and recall."""
    panoptic_quality: float | None = None
    """Layer: F1, times the mean intersection over union of what matches."""
    mag: str
    """Magnification that was compared."""
    voxels: int = 0
    """Layer: voxels in which the truth has a segment."""
    assigned_voxels: int = 0
    """Layer: those of them that the segmentation gives to a segment."""
    f1_above: dict[str, float | None] = {}
    """Layer: F1 for each threshold of the intersection over union, 0.5 to 0.95."""
    intervals: dict[str, tuple[float, float]]
    """Range in which each score lies with 95 % confidence, where that can be told."""


def _file_name(params: EvaluateSegmentationParams) -> str:
    truth = "annotation" if params.truth is None else params.truth.layer
    return params.file or export_name(params.layer, params.mag, f"__against__{truth}.html")


def _result_bytes(_params: EvaluateSegmentationParams, _inputs: Inputs) -> int:
    return _REPORT_BYTES


@workflow(
    version=1,
    cost=FREE,
    group="Analysis",
    result_bytes=_result_bytes,
    file_name=_file_name,
    example={"layer": "result/segmentation", "truth": "demo/segmentation"},
    preloads=[
        "voxelworks.workflows._evaluation",
        "voxelworks.workflows._points",
        "voxelworks.ops.warm_overlaps",
    ],
)
def evaluate_segmentation(params: EvaluateSegmentationParams, job: Job) -> Evaluation:
    """Compare a segmentation with the truth: scores, and a report of where they differ.

    The truth is a layer, or the trees of an annotation. The report is a page for the browser that shows all scores, and
    where the segmentation is worst.

    With a layer: the variation of information (split, merge, in bits), the adapted Rand error, intersection over union
    and Dice of the foregrounds, and precision, recall, F1 and panoptic quality of objects at ten thresholds, with
    intervals of 95 % confidence. Variation of information and Rand error are those of the voxels in which the truth has
    a segment; what the segmentation leaves out there counts as one segment more, except in the scores of assigned
    voxels. For the foreground and for objects 0 is background in both: compare a part that was labelled as a whole.

    With trees: the expected run length (Januszewski et al. 2018), where edges are cut, lie in no segment or in one that
    joins several neurons, and variation of information and adapted Rand error of the points on the trees. Nothing else
    of the volume is read, and nothing is said of what nobody traced.
    """
    layer = job.open(params.layer)
    params.layer.require_category(layer.category)
    if params.truth is None:
        return _against_trees(params, layer, job)
    return _against_layer(params, params.truth, layer, job)


def _against_layer(
    params: EvaluateSegmentationParams, ref: SegmentationRef, layer: Layer, job: Job
) -> Evaluation:
    from voxelworks.ops.evaluation import OVERLAP, score
    from voxelworks.workflows import _evaluation as work
    from voxelworks.workflows import _runs as files
    from voxelworks.workflows._report import Heading

    truth = job.open(ref)
    ref.require_category(truth.category)
    require_same_size(layer, truth.name, truth.voxel_size)
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
        ("Segmentation", str(params.layer)), ("Truth", str(ref)),
        ("Box", f"{box.from_mag(source.mag)} (x, y, z, width, height, depth in voxels of mag 1)"),
        ("Mag", f"{source.mag}, voxels of {layer.voxel_size.in_mag(source.mag)} nm"),
    ]  # fmt: skip
    names = [f"{item.dataset.name}/{item.name}" for item in (layer, truth)]
    heading = Heading(" compared with ".join(names), tuple(facts))
    path.write_text(work.report(heading, scores), encoding="utf-8")
    return _outcome(params, source, scores)


def _against_trees(params: EvaluateSegmentationParams, layer: Layer, job: Job) -> Evaluation:
    from voxelworks.ops.skeletons import POINT_BYTES, Edges, score
    from voxelworks.workflows import _runs as files
    from voxelworks.workflows import _skeleton_evaluation as work
    from voxelworks.workflows._points import LabelsUnder, Points, voxels_under
    from voxelworks.workflows._report import Heading

    assert params.truth_annotation is not None
    annotation = job.open_annotation(params.truth_annotation)
    _require_fit(params, annotation, layer)
    source = layer.finest if params.mag is None else layer.mag(params.mag)
    box = layer.box if params.box is None else params.box
    check_box(layer.name, layer.box, box)
    truth = work.Truth(annotation.skeleton, params.neurons == "groups")
    edges = Edges(
        annotation.skeleton.positions_xyz, truth.neurons, annotation.skeleton.edges(),
        box=box, voxel_size=layer.voxel_size, step_nm_max=params.max_edge_length_nm,
    )  # fmt: skip
    job.require_memory(
        POINT_BYTES * edges.points_max,
        item="skeleton",
        remedy="raise max_edge_length_nm, choose a smaller box",
    )
    paths = edges.paths()
    count = len(paths.positions_xyz)
    if not count:
        raise InvalidGeometry(
            f"no node of the annotation lies in box {str(box)!r}: they lie in {truth.box}; choose a box there, or the "
            "annotation of this dataset"
        )
    path = job.start_artifact(
        media_type="text/html", size_bytes=_REPORT_BYTES,
        inputs=[str(source), annotation.fingerprint, str(box)],
    )  # fmt: skip
    scratch = job.folder.scratch
    points = Points.save(
        voxels_under(paths.positions_xyz, source.mag), scratch / "points.npy",
        piece=work.piece_of(source), origin=source.stored_box.topleft,
    )  # fmt: skip
    job.expect(count)
    runs = job.process(
        f"{layer.name}: looking along trees in mag {source.mag}",
        points.items,
        LabelsUnder(source, points.file, str(scratch)),
        units=count,
        memory_bytes_per_item=work.block_bytes(source),
        result_type=files.Run,
        is_intact=partial(files.is_intact, scratch, source.dtype),
    )
    job.log("computing scores and their intervals")
    scores = score(
        paths, points.labels(scratch, runs, source.dtype), merger_nm_min=params.min_merger_path_length_nm,
        check=job.check,
    )  # fmt: skip
    step = params.max_edge_length_nm
    facts = [
        ("Segmentation", str(params.layer)), ("Truth", f"trees of annotation {params.truth_annotation}"),
        ("Box", f"{box} (x, y, z, width, height, depth in voxels of mag 1)"),
        ("Mag", f"{source.mag}, voxels of {layer.voxel_size.in_mag(source.mag)} nm"),
        ("Looked at", "both ends of each edge" if step is None else f"edges in steps of at most {step:g} nm"),
    ]  # fmt: skip
    heading = Heading(f"{layer.dataset.name}/{layer.name} compared with skeletons", tuple(facts))
    text = work.report(heading, scores, truth, merger_nm_min=params.min_merger_path_length_nm)
    path.write_text(text, encoding="utf-8")
    return _outcome_of_trees(params, source, scores)


def _require_fit(params: EvaluateSegmentationParams, annotation: Annotation, layer: Layer) -> None:
    """Refuse an annotation that has nothing to compare with, or belongs to another volume."""
    summary, dataset = annotation.summary, layer.dataset
    if not summary.node_count:
        what = "trees have no nodes" if summary.tree_count else "annotation has no trees"
        raise InvalidAnnotation(f"the {what}; give one with skeletons, or compare with a layer as truth")
    names = (dataset.name, dataset.source.id and dataset.source.id.get("name"), str(params.layer.dataset))
    if summary.dataset_name not in (None, *names) and not params.other_dataset:
        raise InvalidAnnotation(
            f"the annotation was made in dataset {summary.dataset_name!r}, not in {dataset.name!r}; if both show the "
            "same volume, say so with other_dataset"
        )
    if annotation.skeleton.voxel_size is not None:
        require_same_size(layer, "the annotation", annotation.skeleton.voxel_size)


def require_same_size(layer: Layer, what: str, size: VoxelSize) -> None:
    """Refuse what cannot be compared with a layer voxel by voxel; `InvalidGeometry` says why."""
    pairs = zip(layer.voxel_size.zyx, size.zyx, strict=True)
    if any(not math.isclose(one, other, rel_tol=_SAME_SIZE) for one, other in pairs):
        raise InvalidGeometry(
            f"voxels of {layer.name} are {layer.voxel_size} nm large, those of {what} {size}: they cannot be compared "
            "one by one; give both the same voxel size"
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
    from voxelworks.workflows._report import rounded

    best = scores.matches[0]
    objects = {name: getattr(best, name) for name in ("precision", "recall", "f1", "panoptic_quality")}
    shown = scores.voxelwise | objects
    return Evaluation(
        file=str(_file_name(params)), mag=str(source.mag), voxels=scores.voxels, assigned_voxels=scores.assigned,
        true_positives=best.true_positives, false_positives=best.false_positives,
        false_negatives=best.false_negatives,
        f1_above={f"{match.threshold:g}": rounded(match.f1.value) for match in scores.matches},
        intervals=_intervals(shown),
        **{name: rounded(found.value) for name, found in shown.items() if name in Evaluation.model_fields},
    )  # fmt: skip


def _outcome_of_trees(
    params: EvaluateSegmentationParams, source: MagArray, scores: SkeletonScores
) -> Evaluation:
    from voxelworks.workflows._report import rounded

    total = scores.total
    plain = (
        "voi_split", "voi_merge", "voi", "adapted_rand_error", "rand_precision", "rand_recall",
    )  # fmt: skip
    lengths = {
        "path_length_nm": "length_nm", "right_path_length_nm": "right_nm", "merged_path_length_nm": "merged_nm",
        "cut_path_length_nm": "cut_nm", "omitted_path_length_nm": "omitted_nm",
    }  # fmt: skip
    return Evaluation(
        file=str(_file_name(params)), mag=str(source.mag), trees=len(scores.neurons),
        erl_nm=_rounded_nm(scores.erl_nm.value), erl_share=rounded(scores.erl_share.value),
        splits=int(total["cut"]), mergers=int(total["mergers"]), omitted=int(total["omitted"]),
        edges=int(total["pieces"]),
        intervals=_intervals({"erl_nm": scores.erl_nm, "erl_share": scores.erl_share}),
        **{name: rounded(getattr(scores, name)) for name in plain},
        **{name: _rounded_nm(float(total[column])) for name, column in lengths.items()},
    )  # fmt: skip


def _intervals(scores: dict[str, Interval]) -> dict[str, tuple[float, float]]:
    from voxelworks.workflows._report import rounded_interval

    found = {name: rounded_interval(interval) for name, interval in scores.items()}
    return {name: interval for name, interval in found.items() if interval is not None}


def _rounded_nm(length: float) -> float | None:
    return None if math.isnan(length) else round(length, 1)
