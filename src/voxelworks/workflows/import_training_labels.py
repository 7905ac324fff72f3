"""Put painted labels of boxes back at their place in a dataset, as ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import field_validator

from voxelworks.errors import InvalidGeometry, InvalidParams, TargetExists, UnsupportedFormat
from voxelworks.geometry import Box
from voxelworks.protocol.places import is_remote
from voxelworks.volumes.metadata import PROPERTIES_FILE
from voxelworks.workflows import (
    ADVANCED,
    FREE,
    DatasetRef,
    Inputs,
    Job,
    LayerAddition,
    LayerRef,
    Mag,
    Params,
    SourceRef,
    check_name,
    workflow,
)
from voxelworks.workflows.publishing import LayerChange, NewLayer

if TYPE_CHECKING:
    from voxelworks.volumes.dataset import Dataset, Layer
    from voxelworks.volumes.metadata import LayerProperties
    from voxelworks.workflows._labelling import GroundTruth, Painted, PlacedLabels, Seen
    from voxelworks.workflows._planes import RawPlanes

_LEFT_OUT = ("attachments", "mappings")
"""What was made of the labels as they were before."""


class ImportTrainingLabelsParams(Params):
    """What was painted, and where it belongs."""

    dataset: DatasetRef
    """Dataset that the box was cut out of."""

    source: SourceRef
    """The painted TIFF or OME-Zarr, the whole folder that was exported, or a zip of them; several boxes, too."""

    layer_name: str = "ground_truth"
    """Segmentation layer for the labels. Further boxes are added to it; a box that is in it already is replaced."""

    ids: Literal["distinct", "keep"] = "distinct"
    """`distinct` gives objects of a further box ids that no other box has, `keep` leaves ids as they were painted."""

    box: Box | None = None
    """Box that was painted, `x,y,z,width,height,depth` in voxels of mag 1; by default as the name of the file says."""

    mag: Mag | None = None
    """Magnification that was painted in; by default as the name of the file says."""

    may_be_empty: Annotated[bool, ADVANCED] = False
    """Also take a box without any label: one that holds no object."""

    @field_validator("layer_name")
    @classmethod
    def _is_name(cls, value: str) -> str:
        return check_name("layer", value)


class GroundTruthAddition(LayerAddition):
    """Labels became ground truth of a dataset."""

    boxes: tuple[str, ...]
    """Boxes that were put into the layer, in voxels of mag 1."""
    mag: str
    """Magnification that was painted in."""
    labelled_voxels: int
    """Voxels of these boxes that belong to an object."""
    box_count: int
    """Labelled boxes that the layer has now."""
    largest_segment_id: int
    """Largest id in the layer."""


def _result_bytes(params: ImportTrainingLabelsParams, inputs: Inputs) -> int:
    return inputs.source_bytes(params.source) * 8 // 7


@workflow(
    version=1,
    cost=FREE,
    group="Training",
    priority_class="short",
    result_bytes=_result_bytes,
    example={"dataset": "demo", "source": "upload:3f2a9c41d07b4e65"},
)
def import_training_labels(params: ImportTrainingLabelsParams, job: Job) -> GroundTruthAddition:
    """Put painted labels back at their place in a dataset, as ground truth.

    Takes what `export_training_box` gave out, when it was painted in: the TIFF of the labels, the OME-Zarr, or the
    whole folder. The names of the files say where they belong, or else `position.json` beside them, the coordinates of
    the OME-Zarr, or the params `box` and `mag`. The labels must have the size of the box, and be whole numbers; floats,
    as Fiji saves them, are taken if they are whole.

    They become a segmentation layer of the dataset with all magnifications. It remembers which boxes were labelled, so
    that training and evaluation can use them. Several boxes go into one layer if they were painted in the same mag;
    what was computed of the layer before, such as statistics, is removed when it changes.
    """
    from voxelworks.volumes.dataset import Dataset
    from voxelworks.volumes.labelled import labelled_boxes, with_boxes
    from voxelworks.workflows._labelling import stage
    from voxelworks.workflows._new_layers import LayerPlan

    dataset = job.open_dataset(params.dataset)
    _require_addable(dataset)
    earlier = _earlier(dataset, params.layer_name)
    painted = _find(params, dataset, job)
    mag = _common_mag(painted, earlier)
    _require_inside(painted, dataset, params, job)
    old_boxes = [] if earlier is None else labelled_boxes(earlier)
    new_boxes = [item.place.box for item in painted]
    boxes = with_boxes(old_boxes, new_boxes)
    kept = [box for box in old_boxes if not any(new.contains(box) for new in new_boxes)]
    largest_before = _largest_before(params, earlier if kept else None)
    ref = LayerRef(dataset=params.dataset, layer=params.layer_name)
    inputs = [str(earlier and earlier.properties), *(item.source.fingerprint for item in painted)]
    job.start_addition(ref, inputs=inputs)
    job.expect(3 * sum(item.box.voxel_count for item in painted))
    staged = [stage(item, number, job) for number, item in enumerate(painted, start=1)]
    _require_labels(params, painted, [seen for _, seen in staged])
    parts, largest = _placed(painted, staged, largest_before, is_distinct=params.ids == "distinct")
    truth = _ground_truth(earlier, kept, parts, largest, mag)
    replaced = None if earlier is None else earlier.properties
    within = NewLayer.folder_for(replaced)
    made = Dataset.create(job.folder.result, dataset.voxel_size)
    whole = Box((0, 0, 0), (0, 0, 0))
    for box in boxes:
        whole = whole.union(box)
    plan = LayerPlan(made, params.layer_name, whole, truth, job, within=within)
    job.expect(sum(item.box.voxel_count for item in painted) + plan.units)
    largest = plan.write(job)
    properties = _with_what_stays(made.source.layer(params.layer_name), earlier, boxes)
    job.change(
        LayerChange(
            layer=params.layer_name,
            whole=NewLayer(properties=properties, replaces=replaced),
        )
    )
    return GroundTruthAddition(
        dataset=str(params.dataset), layer=params.layer_name, boxes=tuple(map(str, new_boxes)), mag=str(mag),
        labelled_voxels=sum(seen.labelled for _, seen in staged), box_count=len(boxes), largest_segment_id=largest,
    )  # fmt: skip


def _require_addable(dataset: Dataset) -> None:
    if not is_remote(dataset.location) and not (Path(dataset.location) / PROPERTIES_FILE).is_file():
        raise UnsupportedFormat(
            f"{dataset.name} is a single OME-Zarr image, to which no layer can be added; convert it to a dataset first"
        )


def _earlier(dataset: Dataset, name: str) -> Layer | None:
    """Find the layer to add to; refuse one that is something else."""
    found = next((layer for layer in dataset.layers if layer.name == name), None)
    if found is not None and found.properties.labelled_boxes is None:
        raise TargetExists(
            f"dataset {dataset.name!r} has a layer {name!r} already that was not made of labelled boxes; choose "
            "another layer_name"
        )
    return found


def _find(params: ImportTrainingLabelsParams, dataset: Dataset, job: Job) -> list[Painted]:
    from voxelworks.workflows._labelling import Given, find_painted

    location = job.unpack(params.source, params.dataset)
    archive = job.locate(params.source).rstrip("/").rpartition("/")[2]
    given = Given(params.box, params.mag, archive, dataset.voxel_size)
    painted = find_painted(location, given, may_leave_folder=job.is_trusting)
    for item in painted:
        job.require_inside(params.source, item.source.files)
        job.log(f"{item.name}: {item.place}, {item.source.dtype.name}")
    return painted


def _common_mag(painted: list[Painted], earlier: Layer | None) -> Mag:
    """Give the mag of all boxes; those of one layer are painted in the same."""
    mags = sorted({item.place.mag for item in painted})
    if len(mags) > 1:
        raise InvalidParams(
            f"the boxes were painted in different mags ({', '.join(map(str, mags))}); put each mag into a layer "
            "of its own"
        )
    [mag] = mags
    if earlier is not None and earlier.mags[0] != mag:
        raise InvalidParams(
            f"the box was painted in mag {mag}, but those in layer {earlier.name!r} in mag {earlier.mags[0]}; choose "
            "another layer_name"
        )
    return mag


def _require_inside(
    painted: list[Painted], dataset: Dataset, params: ImportTrainingLabelsParams, job: Job
) -> None:
    """Refuse boxes that leave the dataset; say if one seems to be of another."""
    from voxelworks.volumes.labelled import is_of

    whole = Box((0, 0, 0), (0, 0, 0))
    for layer in dataset.layers:
        whole = whole.union(layer.box) if layer.name != params.layer_name else whole
    for item in painted:
        place = item.place
        is_outside = not whole.is_empty and not whole.in_mag(place.mag).contains(item.box)
        if min(place.box.topleft) < 0 or is_outside:
            raise InvalidGeometry(
                f"{item.name}: box {place.box} leaves dataset {dataset.name!r}, which is {whole}; choose the dataset "
                "that it was cut out of, or give the right box"
            )
        if not is_of(place, dataset.name):
            job.log(f"{item.name} was cut out of {place.dataset!r}, and is put into {dataset.name!r}")


def _largest_before(params: ImportTrainingLabelsParams, others: Layer | None) -> int:
    """Give the largest id that other boxes have; 0 if that does not matter."""
    if others is None or params.ids == "keep":
        return 0
    if others.largest_segment_id is None:
        raise InvalidParams(
            f"the largest segment id of layer {others.name!r} is not known; run find_largest_segment_id first, or set "
            "ids to keep"
        )
    return others.largest_segment_id


def _require_labels(params: ImportTrainingLabelsParams, painted: list[Painted], seen: list[Seen]) -> None:
    for item, found in zip(painted, seen, strict=True):
        if not found.labelled and not params.may_be_empty:
            raise InvalidParams(
                f"{item.name} holds no label, only 0: save the labels after painting, and upload that file; if the box "
                "really holds no object, set may_be_empty"
            )


def _placed(
    painted: list[Painted], staged: list[tuple[RawPlanes, Seen]], taken: int, *, is_distinct: bool
) -> tuple[tuple[PlacedLabels, ...], int]:
    """Put labels at their place, with ids above those that are `taken` where they clash; give the largest id, too."""
    from voxelworks.workflows._labelling import UINT64_MAX, PlacedLabels

    parts = []
    for item, (planes, seen) in zip(painted, staged, strict=True):
        shift = taken if is_distinct and 0 < seen.lowest <= taken else 0
        if seen.largest + shift > UINT64_MAX:
            raise InvalidParams(
                f"{item.name} has ids up to {seen.largest}, and above the {taken} of the other boxes there is no room "
                "for as many; set ids to keep, or number the objects anew"
            )
        parts.append(PlacedLabels(item.box, planes, shift))
        taken = max(taken, seen.largest + shift)
    return tuple(parts), taken


def _ground_truth(
    earlier: Layer | None, kept: list[Box], parts: tuple[PlacedLabels, ...], largest: int, mag: Mag
) -> GroundTruth:
    import numpy as np

    from voxelworks.workflows._labelling import GroundTruth

    is_wide = largest > np.iinfo(np.uint32).max or (earlier is not None and earlier.dtype.itemsize > 4)
    return GroundTruth(
        mag, np.dtype(np.uint64 if is_wide else np.uint32), parts, earlier.finest if earlier is not None else None,
        tuple(box.in_mag(mag) for box in kept),
    )  # fmt: skip


def _with_what_stays(made: LayerProperties, earlier: Layer | None, boxes: tuple[Box, ...]) -> LayerProperties:
    stated = {} if earlier is None else earlier.properties.model_extra or {}
    kept = {key: value for key, value in stated.items() if key not in _LEFT_OUT}
    return made.model_copy(update={**kept, "labelled_boxes": boxes})
