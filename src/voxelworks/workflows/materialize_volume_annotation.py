"""Make a dataset of what a volume annotation shows: its edits over the segmentation below, segments merged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import field_validator

from voxelworks.errors import (
    InvalidAnnotation,
    InvalidGeometry,
    InvalidParams,
    TargetExists,
)
from voxelworks.geometry import Box, Mag
from voxelworks.protocol.foreign import native_id
from voxelworks.protocol.messages import Json
from voxelworks.protocol.places import DATASET_NAME
from voxelworks.workflows import (
    ADVANCED,
    FREE,
    AnnotationRef,
    DatasetRef,
    ForeignName,
    ForeignResult,
    Inputs,
    Job,
    NewDataset,
    NewDatasetRef,
    Params,
    check_name,
    raw_bytes,
    workflow,
)

if TYPE_CHECKING:
    from voxelworks.protocol.views import VolumeLayerSummary
    from voxelworks.volumes.annotations import Annotation, Buckets
    from voxelworks.volumes.dataset import Dataset, Layer, MagArray
    from voxelworks.volumes.streaming import StreamedArray
    from voxelworks.workflows._materialize import MergedVolume, Merges


class MaterializeVolumeAnnotationParams(Params):
    """Which annotation of which dataset, and what becomes of it."""

    dataset: DatasetRef
    """Dataset that was annotated."""

    annotation: AnnotationRef
    """Annotation with volume data, or with trees that merge segments."""

    target: NewDatasetRef
    """Dataset to make. It must not exist yet."""

    merge_segments: bool = False
    """Merge the segments under the nodes of each tree, as merger mode shows them."""

    box: Box | None = None
    """Part of the segmentation to keep, `x,y,z,width,height,depth` in voxels of mag 1; by default all of it."""

    volume_layer: Annotated[str | None, ADVANCED] = None
    """Volume layer of the annotation, if it has several."""

    skip_volume_data: Annotated[bool, ADVANCED] = False
    """Leave the edits of voxels out, and only merge segments."""

    fallback_layer: Annotated[str | None, ADVANCED] = None
    """Segmentation layer below the annotation; by default the one that the annotation names."""

    output_layer: Annotated[str | None, ADVANCED] = None
    """Name of the new segmentation layer; by default that of the one below with `_materialized` after it."""

    copy_other_layers: Annotated[bool, ADVANCED] = True
    """Also copy the other layers of the dataset."""

    @field_validator("fallback_layer", "output_layer")
    @classmethod
    def _is_name(cls, value: str | None) -> str | None:
        return value if value is None else check_name("layer", value)


class MaterializedDataset(NewDataset):
    """An annotation was made a dataset of its own."""

    layer: str
    """The new segmentation layer."""

    mags: tuple[str, ...]
    """Its magnifications, finest first."""

    largest_segment_id: int | None
    """Largest id in the new layer, if that is known."""

    merged_segment_count: int | None
    """How many segments became part of another one, if that is known."""


def _result_bytes(params: MaterializeVolumeAnnotationParams, inputs: Inputs) -> int:
    """Estimate the copied layers, of which one becomes the new segmentation, with a pyramid as a seventh of each."""
    layers = inputs.dataset(params.dataset).layers
    kept = [layer for layer in layers if params.copy_other_layers or layer.category == "segmentation"]
    return sum(map(raw_bytes, kept)) * 8 // 7


def _args_of(params: MaterializeVolumeAnnotationParams) -> Json:
    return {
        "fallback_layer_name": params.fallback_layer,
        "annotation_id": str(params.annotation),
        "annotation_type": "Explorational",
        "new_dataset_name": str(params.target),
        "output_segmentation_layer_name": params.output_layer,
        "merge_segments": params.merge_segments,
        "volume_layer_name": None if params.skip_volume_data else params.volume_layer,
        "use_zarr_streaming": False,
        "bounding_box": None if params.box is None else str(params.box),
    }


def _params_of(args: Mapping[str, Any]) -> Json:
    # `use_zarr_streaming` is not needed: the annotation itself tells whether it has an editable mapping.
    volume_layer = args.get("volume_layer_name")
    given = {
        "fallback_layer": args["fallback_layer_name"],
        "output_layer": args.get("output_segmentation_layer_name"),
        "volume_layer": volume_layer,
        "box": args.get("bounding_box"),
        "merge_segments": args.get("merge_segments"),
    }
    return {
        "dataset": args["dataset_name"],
        "annotation": native_id(str(args["annotation_id"])),
        "target": args["new_dataset_name"],
        "skip_volume_data": volume_layer in (None, ""),
        **{name: value for name, value in given.items() if value not in (None, "")},
    }


def _outcome_of(params: MaterializeVolumeAnnotationParams, result: ForeignResult) -> MaterializedDataset:
    summary = result.summary
    segmentations = [layer for layer in summary.layers if layer.category == "segmentation"] if summary else []
    named = [layer for layer in segmentations if params.output_layer in (None, layer.name)]
    if summary is None or not named:
        raise InvalidParams(
            f"the worker left no dataset {str(params.target)!r} with the segmentation that was asked for"
        )
    return MaterializedDataset(
        dataset=str(params.target),
        layers=tuple(layer.name for layer in summary.layers),
        layer=named[-1].name,
        mags=named[-1].mags,
        largest_segment_id=None,
        merged_segment_count=None,
    )


@workflow(
    version=1,
    cost=FREE,
    result_bytes=_result_bytes,
    example={"dataset": "demo", "annotation": "4f1c2ab09d3e5678", "target": "demo_corrected"},
    foreign=[
        ForeignName(
            "materialize_volume_annotation",
            args_of=_args_of,
            outcome_of=_outcome_of,
            params_of=_params_of,
        )
    ],
)
def materialize_volume_annotation(params: MaterializeVolumeAnnotationParams, job: Job) -> MaterializedDataset:
    """Make a dataset of what a volume annotation shows.

    Its edits are put over the segmentation layer below; what was erased stays erased. With `merge_segments` the
    segments under the nodes of each tree become one, the id under the first node. The new layer gets all
    magnifications anew, and its largest segment id. The other layers of the dataset are copied.

    A layer that was proofread is read from the WEBKNOSSOS of the annotation, with its token: leave it as it is there
    while the job runs.
    """
    from voxelworks.workflows._materialize import Fallback, MergedVolume, dtype_of
    from voxelworks.workflows._new_layers import LayerCopy, LayerPlan, other_layers

    job.check_new_dataset(params.target)
    dataset = job.open_dataset(params.dataset)
    annotation = job.open_annotation(params.annotation)
    volume = None if params.skip_volume_data else annotation.volume_layer(params.volume_layer)
    streamed = _open_proofread(params, volume, job)
    below = _fallback(params, dataset, annotation, volume)
    others = other_layers(dataset, below) if params.copy_other_layers else []
    name = _output_name(params, below, volume, others)
    _say_what_is_left_out(params, annotation, dataset, job)
    source = streamed or (None if below is None else below.finest)
    inputs = [annotation.fingerprint, str(source), *(str(layer.properties) for layer in others)]
    made = job.start_dataset(params.target, dataset.voxel_size, inputs=inputs)
    scratch = job.folder.scratch
    edits = (
        None if volume is None or streamed else annotation.unpack_volume(volume, scratch / "edits", job.check)
    )
    if edits is not None:
        job.log(f"{len(edits)} buckets were changed in mag {edits.mag}")
    shown = streamed.box.from_mag(streamed.mag) if streamed else below.box if below else None
    fallback = None if shown is None or source is None else Fallback(source, shown)
    merged = MergedVolume(_mag_of(source, edits), dtype_of(source, edits), fallback, edits)
    box = _box_of(params, dataset, shown, edits, job)
    copies = [LayerCopy(made, layer, job) for layer in others]
    plan = LayerPlan(made, name, box, merged, job)
    merge_units = len(annotation.skeleton.trees) if params.merge_segments else 0
    job.expect(merge_units + plan.units + sum(copy.units for copy in copies))
    merges = _find_merges(annotation, merged, job) if params.merge_segments else {}
    largest = plan.write(job, replace(merged, merges=_saved(merges, merged, job)))
    for copy in copies:
        copy.write(job)
    made.write_metadata()
    return MaterializedDataset(
        dataset=str(params.target),
        layers=(*(layer.name for layer in others), name),
        layer=name,
        mags=tuple(str(mag) for mag in plan.mags),
        largest_segment_id=largest,
        merged_segment_count=len(merges),
    )


def _open_proofread(
    params: MaterializeVolumeAnnotationParams, volume: VolumeLayerSummary | None, job: Job
) -> StreamedArray | None:
    """Open a layer that was proofread; None if it was not."""
    from voxelworks.workflows._materialize import open_proofread

    if volume is not None and volume.has_editable_mapping:
        return open_proofread(params.annotation, volume, job)
    if volume is not None and volume.location is None:
        raise InvalidAnnotation(
            f"the annotation was downloaded without the voxels of volume layer {volume.name!r}; download it with its "
            "volume data, or leave that out with skip_volume_data"
        )
    return None


def _fallback(
    params: MaterializeVolumeAnnotationParams,
    dataset: Dataset,
    annotation: Annotation,
    volume: VolumeLayerSummary | None,
) -> Layer | None:
    """Find the layer below the annotation; None if it has none."""
    from voxelworks.workflows._materialize import segmentation_below

    stated = volume or next(iter(annotation.summary.volume_layers), None)
    name = params.fallback_layer or (stated.fallback_layer if stated else None)
    if name is None and volume is not None:
        return None
    if name is None:
        found = [layer.name for layer in dataset.layers if layer.category == "segmentation"]
        if len(found) != 1:
            raise InvalidParams(
                f"the annotation does not say which segmentation is below; name it with fallback_layer: "
                f"{', '.join(found) or 'the dataset has none'}"
            )
        name = found[0]
    return segmentation_below(dataset, name)


def _output_name(
    params: MaterializeVolumeAnnotationParams,
    below: Layer | None,
    volume: VolumeLayerSummary | None,
    others: list[Layer],
) -> str:
    made_of = below.name if below is not None else (volume.name if volume is not None else None)
    usual = f"{made_of}_materialized"
    name = params.output_layer or (usual if DATASET_NAME.fullmatch(usual) else "segmentation_materialized")
    if any(layer.name == name for layer in others):
        raise TargetExists(f"the dataset has a layer {name!r} already; choose another name with output_layer")
    return name


def _say_what_is_left_out(
    params: MaterializeVolumeAnnotationParams, annotation: Annotation, dataset: Dataset, job: Job
) -> None:
    summary = annotation.summary
    if summary.tree_count and not params.merge_segments:
        job.log(f"{summary.tree_count} trees are left out; with merge_segments they would merge segments")
    if summary.dataset_name not in (None, dataset.name, dataset.source.id and dataset.source.id.get("name")):
        job.log(
            f"the annotation was made in a dataset {summary.dataset_name!r}, and is put over {dataset.name!r}"
        )


def _mag_of(below: MagArray | StreamedArray | None, edits: Buckets | None) -> Mag:
    """Give the mag that is as fine as both."""
    mags = [part.mag for part in (below, edits) if part is not None]
    if not mags:
        raise InvalidAnnotation(
            "the annotation holds no voxels, and no layer is below it: nothing is to be made"
        )
    x, y, z = (min(parts) for parts in zip(*(mag.xyz for mag in mags), strict=True))
    return Mag(x, y, z)


def _box_of(
    params: MaterializeVolumeAnnotationParams,
    dataset: Dataset,
    shown: Box | None,
    edits: Buckets | None,
    job: Job,
) -> Box:
    """Give the box of the new layer: what is shown of the one below, or all layers, and what is annotated outside."""
    from voxelworks.workflows._materialize import beyond

    whole = Box((0, 0, 0), (0, 0, 0))
    for part in [layer.box for layer in dataset.layers] if shown is None else [shown]:
        whole = whole.union(part)
    if edits is not None:
        whole = whole.union(beyond(edits, whole, job.check))
    if whole.is_empty:
        raise InvalidAnnotation(
            "the annotation holds no segments, and no layer is below it: nothing is to be made"
        )
    if params.box is None:
        return whole
    if params.box.is_empty or not whole.contains(params.box):
        inside = whole.intersect(params.box)
        remedy = "choose one inside it" if inside.is_empty else f"the part inside it is {inside}"
        raise InvalidGeometry(f"box {str(params.box)!r} leaves the segmentation, which is {whole}; {remedy}")
    return params.box


def _find_merges(annotation: Annotation, merged: MergedVolume, job: Job) -> dict[int, int]:
    """Look up the segments under the nodes of all trees, and merge those of each."""
    from voxelworks.workflows._materialize import PIECE, merges_of
    from voxelworks.workflows._points import LabelsUnder, Points, voxels_under
    from voxelworks.workflows._runs import Run, is_intact

    scratch = job.folder.scratch
    voxels = voxels_under(annotation.skeleton.positions_xyz, merged.mag)
    points = Points.save(voxels, scratch / "nodes.npy", piece=PIECE)
    runs = job.process(
        "segments under nodes",
        points.items,
        LabelsUnder(merged, points.file, str(scratch)),
        units=len(points.order),
        memory_bytes_per_item=3 * math.prod(PIECE) * merged.dtype.itemsize,
        result_type=Run,
        is_intact=partial(is_intact, scratch, merged.dtype),
    )
    found = merges_of(annotation.skeleton, points.labels(scratch, runs, merged.dtype))
    job.log(f"{len(found)} segments become part of another one")
    return found


def _saved(merges: dict[int, int], merged: MergedVolume, job: Job) -> Merges | None:
    from voxelworks.workflows._materialize import Merges

    return Merges.save(merges, job.folder.scratch / "merges.npy", merged.dtype) if merges else None
