"""What training an instance model and a neuron model have in common."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from voxelworks.errors import (
    InvalidAnnotation,
    InvalidGeometry,
    InvalidInput,
    InvalidModel,
    InvalidParams,
    ResourcesExceeded,
)
from voxelworks.geometry import Box, Mag, Vec3, VoxelSize, Zyx
from voxelworks.protocol.messages import CURVE_POINTS_MAX, Curve, Json, Picture
from voxelworks.protocol.modality import are_apart
from voxelworks.protocol.models import (
    TRAINED_WEIGHTS,
    ModelFacts,
    ModelScore,
    ModelTask,
    PostProcessing,
    allows_commercial_use,
)
from voxelworks.workflows import (
    ADVANCED,
    ANY_DATASET,
    AnnotationRef,
    Device,
    ForeignName,
    ImageRef,
    Inputs,
    Job,
    ModelRef,
    NewModel,
    NewModelRef,
    Params,
    SegmentationRef,
    check_box,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from voxelworks.ai.devices import Gpu
    from voxelworks.ai.networks import NetworkSize
    from voxelworks.ai.package import ModelPackage
    from voxelworks.ai.training import Evaluation, Example, LabelledBox, Predictor, Progress, TrainingPlan
    from voxelworks.protocol.views import AnnotationSummary, LayerSummary
    from voxelworks.volumes.dataset import Layer
    from voxelworks.workflows._painted import Painted
    from voxelworks.workflows._planes import LayerArray

_MODEL_BYTES = 64 * 2**20
_VALIDATION_SHARE, _GUARD_SHARE = 0.2, 0.05
"""Of the longest side of each box, where no box is given for validation: its end, and what is left out before it."""
_PATCH_VOXELS = {"small": 48**3, "medium": 80**3, "large": 96**3}
_MOST = 2 / 3
"""Share of what is learned from whose boxes hold a patch: sections that are mirrored teach what no image shows."""
_INFERENCE_EDGE, _BORDER = 160, 16
"""Of the patches that are predicted, in voxels of the network: large ones overlap less."""
_READ_EDGE = 128
"""Of the pieces in which labels are loaded, in voxels that are read: all at once would take many times what is kept."""
_IMAGE_BYTES, _LABEL_BYTES, _ID_BYTES = 24, 48, 48
"""Memory that each voxel takes at most that is read at once (of an image, in each channel), and each id of a box."""
_OBJECTS_MAX = 2**22
"""Of one box: trainings tell four times as many apart, but the table of so many would outgrow most boxes."""
_PANE_MAX = 128
"""Of each part of the picture that a training shows, in voxels."""
_MEASURES: dict[ModelTask, str] = {
    "affinities": "F1 of membranes", "instances": "IoU of the foreground", "semantic": "IoU of the foreground",
}  # fmt: skip
_OUTSIDE = 4.0
"""Layers whose voxels are up to so many times smaller or larger than those that were learned from are not warned of."""


class TrainingBox(BaseModel):
    """A part of a dataset in which everything is labelled."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    image: ImageRef
    """Image layer."""

    truth: SegmentationRef | None = None
    """Segmentation layer with one id for each object; 0 is background. Give either this or `annotation`."""

    annotation: Annotated[AnnotationRef | None, ANY_DATASET] = None
    """Annotation of the dataset in whose volume layer each object has an id of its own."""

    box: Box | None = None
    """Labelled part, `x,y,z,width,height,depth` in voxels of mag 1; by default the boxes that were drawn in the
    annotation or labelled for training, or else all that both layers cover."""

    volume_layer: Annotated[str | None, ADVANCED] = None
    """Volume layer of the annotation, if it has several."""

    mag: Annotated[Mag | None, ADVANCED] = None
    """Magnification of the labels to learn from; by default the finest."""

    purpose: Literal["train", "validate"] = "train"
    """Whether the network learns from it, or is measured with it; by default an end of each box is for measuring."""

    weight: Annotated[float, ADVANCED] = Field(1.0, gt=0, le=1000)
    """How often the network looks at it, against other boxes of its size."""

    @model_validator(mode="after")
    def _has_one_truth(self) -> Self:
        if (self.truth is None) == (self.annotation is None):
            raise InvalidParams(
                "give either truth, a segmentation layer in which all is labelled, or annotation, one with a volume "
                "layer"
            )
        if self.volume_layer is not None and self.annotation is None:
            raise InvalidParams(f"volume layer {self.volume_layer!r} is one of an annotation; name that too")
        return self

    @property
    def labels_name(self) -> str:
        """What its labels are called."""
        return str(self.truth) if self.annotation is None else f"annotation {_file_name(self.annotation)}"


class TrainingParams(Params):
    """What a model is trained on, and how."""

    boxes: Annotated[tuple[TrainingBox, ...], Field(min_length=1)]
    """Labelled parts of datasets."""

    target: NewModelRef
    """Model to make."""

    start_from: ModelRef | None = None
    """Model whose weights training begins with; by default the shipped one for this, if its licence lets all use it."""

    from_zero: bool = False
    """Begin with no weights of another model."""

    voxel_size: VoxelSize | None = None
    """Voxel size, x,y,z in nm, that the network works on; by default that of `start_from` if it is for layers like
    the first one and all boxes are large enough for it, or else that of the first labels."""

    device: Annotated[Device, ADVANCED] = "cpu"
    """Where the network is trained. With `gpu` the job waits for a worker with an NVIDIA GPU, and never falls back to
    the CPU."""

    network: Annotated[Literal["small", "medium", "large"], ADVANCED] = "small"
    """`small` for the CPU, `medium` for a GPU of 8 GB, `large` for one of 24 GB."""

    steps: int = Field(2000, ge=1, le=10_000_000)
    """Steps to train at most; each looks at two small parts of the boxes."""

    learning_rate: Annotated[float, ADVANCED] = Field(0.002, gt=0, lt=1)
    """How much a step changes the network at most."""

    evaluate_every: Annotated[int, ADVANCED] = Field(100, ge=1)
    """Steps between two measurements."""

    patience: Annotated[int, ADVANCED] = Field(20, ge=1)
    """Training ends when so many measurements in a row were no better."""

    seed: Annotated[int, ADVANCED] = Field(0, ge=0, lt=2**32)
    """Where chance begins: the same seed gives the same model on a CPU."""

    modality: Annotated[str, ADVANCED] = Field("", max_length=100)
    """Kind of microscopy, such as `FIB-SEM`, for the model card; by default what the images state."""

    tissue: Annotated[str, ADVANCED] = Field("", max_length=100)
    """What was imaged, for the model card."""

    licence: Annotated[str, ADVANCED] = Field("", max_length=200)
    """Licence of the model, which is that of the data it learned from."""

    @property
    def needs_gpu(self) -> bool:
        return self.device == "gpu"

    @model_validator(mode="before")
    @classmethod
    def _starts_from_what_is_shipped(cls, given: object) -> object:
        # Forms and commands give flags as text, in more ways than one for true.
        if (
            not isinstance(given, Mapping)
            or given.get("start_from")
            or given.get("from_zero") not in (None, False, "", "false")
        ):
            return given
        shipped = cls.shipped_start(given)
        return given if shipped is None else {**given, "start_from": shipped}

    @classmethod
    def shipped_start(cls, _given: Mapping[str, object]) -> str | None:
        """Name the model to begin with where none is given; None for none."""
        return None

    @model_validator(mode="after")
    def _begins_with_one_thing(self) -> TrainingParams:
        if self.from_zero and self.start_from is not None:
            raise InvalidParams(f"start_from is {self.start_from} and from_zero is set; give one of them")
        return self

    @model_validator(mode="after")
    def _learns_from_something(self) -> TrainingParams:
        if all(item.purpose == "validate" for item in self.boxes):
            raise InvalidParams("all boxes are for validation; give at least one with purpose `train`")
        return self


class TrainedModel(NewModel):
    """A model was trained."""

    steps: int
    """Steps that were made."""
    best_step: int
    """The step whose weights were kept."""
    score: float
    """Of the kept weights on the boxes for validation: intersection over union of the foreground, or F1 of the
    membranes between neurons."""
    training_loss: float
    """At the end."""
    validation_loss: float
    """Of the kept weights."""
    hours: float
    """How long it was trained, all attempts together."""
    export_difference: float
    """Largest difference between the probabilities of the exported network and those of the trained one."""


@dataclass(frozen=True)
class SizeRule:
    """How large a labelled box must be."""

    kind: str
    """Of models, as in `SIZES_MIN`: voxels of the network. On axes with longer voxels so many that they are half as
    long will do."""
    what: str

    def is_met(self, size_zyx: Zyx, voxel_size: VoxelSize) -> bool:
        """Tell whether a box of so many voxels is large enough."""
        return all(have >= need for have, need in zip(size_zyx[::-1], self._needed(voxel_size), strict=True))

    def check(self, size_zyx: Zyx, voxel_size: VoxelSize, name: str) -> None:
        """Refuse a box that is too small; `InvalidGeometry` says by how much."""
        if not self.is_met(size_zyx, voxel_size):
            raise InvalidGeometry(
                f"{name} has {_by(size_zyx[::-1])} voxels of {voxel_size} nm, and {self.what} need boxes of at least "
                f"{_by(self._needed(voxel_size))}; label a larger box, or choose a smaller voxel_size"
            )

    def _needed(self, voxel_size: VoxelSize) -> Vec3:
        from voxelworks.volumes.labelled import SIZES_MIN

        finest = min(voxel_size.xyz)
        x, y, z = (
            voxels if own < 1.5 * finest else max(4, math.ceil(voxels * finest / own / 2))
            for voxels, own in zip(SIZES_MIN[self.kind], voxel_size.xyz, strict=True)
        )
        return x, y, z


def foreign(command: str) -> ForeignName:
    """Give the command of WEBKNOSSOS that a training is. Its workers are not given it: they know no models of ours."""
    return ForeignName(command, args_of=_args_of, outcome_of=None)


def _args_of(params: TrainingParams) -> Json:
    return {
        "training_annotations": [
            {
                "annotationId": str(item.annotation), "colorLayerName": item.image.layer,
                "segmentationLayerName": item.volume_layer, "mag": None if item.mag is None else list(item.mag.xyz),
            }
            for item in params.boxes
            if item.annotation is not None
        ],
        "model_name": str(params.target),
        "instance_diameter_nm": getattr(params, "instance_diameter_nm", None),
    }  # fmt: skip


def result_bytes(_params: TrainingParams, _inputs: Inputs) -> int:
    return _MODEL_BYTES


def annotated_voxels(params: TrainingParams, inputs: Inputs) -> int:
    """Count the voxels that are learned from and measured with, in the mag of the labels."""
    return sum(box.voxel_count for item in params.boxes for box in _regions(item, inputs))


def _regions(item: TrainingBox, inputs: Inputs) -> list[Box]:
    """Give the labelled boxes that the job will open, in voxels of the mag that is learned from."""
    from voxelworks.workflows import finest_mag

    image = inputs.layer(item.image)
    if item.truth is not None:
        truth = inputs.layer(item.truth)
        common = Box.parse(truth.box).intersect(Box.parse(image.box))
        boxes = _labelled_in(common, map(Box.parse, truth.labelled_boxes))
        mag = item.mag or finest_mag(truth)
    else:
        assert item.annotation is not None
        summary = inputs.annotation(item.annotation)
        boxes = _drawn(item, summary) if item.box is None else []
        mag = item.mag or finest_mag(_layer_below(item, summary, inputs) or image)
    return [box.in_mag(mag) for box in ([item.box] if item.box is not None else boxes)]


def _layer_below(item: TrainingBox, summary: AnnotationSummary, inputs: Inputs) -> LayerSummary | None:
    """Find the layer below the volume layer of an annotation, if that can be told before the job."""
    names = [
        layer.fallback_layer for layer in summary.volume_layers if item.volume_layer in (None, layer.name)
    ]
    layers = inputs.dataset(item.image.dataset).layers
    return next((layer for layer in layers if len(names) == 1 and layer.name == names[0]), None)


def _labelled_in(common: Box, labelled: Iterable[Box]) -> list[Box]:
    """Give what is labelled as a whole of what image and labels both cover: all of it, if no boxes are named.

    Boxes are whole voxels of the labels, of which the last may reach beyond the image. One that lies outside as a whole
    stays as it is, to be refused by its own name.
    """
    cut = [(box, box.intersect(common)) for box in labelled]
    return [box if part.is_empty else part for box, part in cut] or [common]


def _drawn(item: TrainingBox, summary: AnnotationSummary) -> list[Box]:
    """Give the boxes of an annotation: everything in them is labelled.

    Raises
    ------
    InvalidAnnotation
        If there are none.
    """
    if not summary.bounding_boxes:
        raise InvalidAnnotation(
            f"no box is drawn in {item.labels_name}, and nobody can tell what is labelled everywhere; draw boxes "
            "around that, or give box"
        )
    return [Box.parse(text) for text in summary.bounding_boxes]


def train(
    params: TrainingParams,
    job: Job,
    *,
    task: ModelTask,
    structure: str,
    rule: SizeRule,
    post_processing_of: Callable[[float], PostProcessing],
    distance_scale_nm: float | None = None,
) -> TrainedModel:
    """Train a network, export it, and write its package."""
    _require_torch()
    gpu = _gpu() if params.device == "gpu" else None
    from safetensors.torch import load_file

    from voxelworks.ai.exporting import export_onnx
    from voxelworks.ai.networks import parameter_count
    from voxelworks.ai.package import write_package
    from voxelworks.ai.training import Predictor, Training

    opened = [_Labelled.open(item, job) for item in params.boxes]
    counts = sorted({labelled.image.channel_count for labelled in opened})
    if len(counts) > 1:
        raise InvalidInput(
            f"the images have {' and '.join(map(str, counts))} channels; a network learns from images that are alike"
        )
    parent = None if params.start_from is None else job.open_model(params.start_from)
    modalities = list(
        dict.fromkeys(filter(None, (labelled.image.properties.modality for labelled in opened)))
    )
    start_modality = "" if parent is None else parent.facts.modality
    for modality in modalities:
        if are_apart(modality, start_modality):
            job.log(
                f"warning: the image is from {modality}, and {params.start_from} is for {start_modality}: it may be of "
                "little use as a start"
            )
    licence = _licence(params, parent)
    start = None if parent is None else _weights_of(parent, str(params.start_from))
    voxel_size = params.voxel_size or _voxel_size(opened, parent, rule, job)
    parts = [_Part.of(labelled, box, voxel_size, rule) for labelled in opened for box in labelled.boxes]
    job.require_memory(
        _loaded_bytes(parts, counts[0]), item="training set", remedy="give fewer or smaller boxes"
    )
    facts = [str((*part.labelled.inputs, part.box)) for part in parts]
    folder = job.start_model(
        params.target, inputs=[*facts, "" if parent is None else parent.facts.weights_sha256]
    )
    loaded = _load(parts, job)
    learning, measuring = _split(parts, loaded, job)
    scale = distance_scale_nm
    if task == "instances" and scale is None:
        scale = _typical_radius_nm(learning, voxel_size)
        job.log(f"objects have a typical radius of {scale:.0f} nm: that is where the distance is 1")
    plan = _plan(params, task, voxel_size, counts[0], scale, learning, job)
    training = Training(plan, learning, measuring, job.folder.scratch / "training", start)
    if parent is not None:
        job.log(f"{training.reused:,} parameters of {params.start_from} are the start")
    job.log(
        f"{parameter_count(training.network):,} parameters, patches of {_by(plan.patch_zyx[::-1])} voxels of "
        f"{voxel_size} nm, {sum(box.labels.size for box in learning):,} voxels to learn from, "
        f"{sum(box.labels.size for box in measuring):,} to measure with, on {gpu or 'the CPU'}"
    )
    job.expect(params.steps)
    reporter = _Reporter(job, params.steps, _MEASURES[task], training.progress.evaluations)
    progress = training.run(check=job.check, report=reporter.step, evaluated=reporter.evaluation)
    best = next(item for item in progress.evaluations if item.step == progress.best_step)
    kept = load_file(training.best)
    weights = job.folder.scratch / "network.onnx"
    difference = export_onnx(plan.architecture, kept, weights, plan.patch_zyx)
    job.log(f"exported: probabilities differ by at most {difference:.1e} from the trained network's")
    patch, border = _inference_patch(plan)
    rules = _with_threshold(post_processing_of(scale or 0), task, best.threshold)
    written = ModelFacts(
        title=str(params.target).rstrip("/").rpartition("/")[2], task=task, structure=structure,
        modality=params.modality or ", ".join(modalities), tissue=params.tissue, voxel_size=voxel_size,
        voxel_size_min=_scaled(voxel_size, 1 / _OUTSIDE), voxel_size_max=_scaled(voxel_size, _OUTSIDE),
        input_channels=plan.architecture.in_channels,
        outputs=_outputs(plan), offsets=plan.offsets, distance_scale_nm=scale, patch=patch, border=border,
        step=plan.architecture.step_zyx[::-1], post_processing=rules,
        training_data=tuple(sorted({f"{item.image} with {item.labels_name}" for item in params.boxes})),
        **licence, started_from=None if parent is None else str(params.start_from),
        scores=(
            ModelScore(
                data="held-out parts of the training boxes", measure=_MEASURES[task], value=round(best.score, 4),
                trained_on=True,
            ),
        ),
    )  # fmt: skip
    if task == "instances":
        written = _with_chosen_rules(
            written, Predictor(plan, kept, written, job.check), [*learning, *measuring], job
        )
    write_package(folder, written, weights, extra={TRAINED_WEIGHTS: _shortened(kept, job)})
    return TrainedModel(
        model=str(params.target), steps=progress.step, best_step=best.step, score=round(best.score, 4),
        training_loss=round(progress.running_loss, 4), validation_loss=round(best.validation_loss, 4),
        hours=round(progress.elapsed_s / 3600, 3),
        export_difference=float(f"{difference:.1e}"),
    )  # fmt: skip


def _voxel_size(
    opened: Sequence[_Labelled], parent: ModelPackage | None, rule: SizeRule, job: Job
) -> VoxelSize:
    """Choose the voxel size of the network where none is given."""
    own = [labelled.voxel_size.in_mag(labelled.mag) for labelled in opened]
    chosen = own[0]
    if parent is not None:
        unfit = parent.facts.unfit(own[0])
        if unfit is None:
            chosen = parent.facts.voxel_size
        else:
            job.log(f"{unfit}; the network works on the voxels of the labels")
    # Boxes are given out as large enough in their own voxels.
    fitting = [size for size in (chosen, *own) if all(labelled.is_large(size, rule) for labelled in opened)]
    if not fitting or fitting[0] == chosen:
        return chosen
    job.log(
        f"{rule.what} need larger boxes in voxels of {chosen} nm; the network works on those of the labels, "
        f"{fitting[0]} nm"
    )
    return fitting[0]


def _licence(params: TrainingParams, parent: ModelPackage | None) -> dict[str, Any]:
    """Say what one may do with the model: no more than with the one that it began with.

    Raises
    ------
    InvalidParams
        If the licence that is given for it allows more.
    """
    if parent is None:
        return {"licence": params.licence}
    begun, chosen = parent.facts, params.licence
    stated = begun.licence or "not stated"
    if chosen and allows_commercial_use(chosen) and not begun.is_commercial_use_allowed:
        raise InvalidParams(
            f"licence {chosen} allows commercial use, and {params.start_from}, which training begins with, does not "
            f"(licence {stated}); leave licence out for the same one, or name another for non-commercial use alone"
        )
    return {
        "licence": chosen or begun.licence,
        "licence_text": f"It began as {begun.title}, whose licence is {stated}. {begun.licence_text}".strip(),
        "is_commercial_use_allowed": begun.is_commercial_use_allowed,
    }


@dataclass(frozen=True)
class _Labelled:
    """An image, and what is labelled in it: a layer, or what was painted in an annotation."""

    item: TrainingBox
    image: Layer
    truth: Layer | Painted
    mag: Mag
    """Of the labels."""
    name: str
    """Of the labels."""
    voxel_size: VoxelSize
    """Of mag 1."""
    box: Box
    """In which there can be labels, mag 1."""
    boxes: tuple[Box, ...]
    """Labelled as a whole, mag 1: the one that is asked for, or all."""

    @classmethod
    def open(cls, item: TrainingBox, job: Job) -> _Labelled:
        """Open both, and refuse what does not fit together."""
        image = job.open(item.image)
        if item.truth is None:
            return cls._of_annotation(item, image, job)
        from voxelworks.volumes.labelled import labelled_boxes
        from voxelworks.workflows.evaluate_segmentation import require_same_size

        truth = job.open(item.truth)
        item.truth.require_category(truth.category)
        require_same_size(image, truth.name, truth.voxel_size)
        common = image.box.intersect(truth.box)
        if common.is_empty:
            raise InvalidGeometry(
                f"{image.name} covers {image.box}, {truth.name} {truth.box}: nothing in common; choose layers of the "
                "same place"
            )
        array = truth.finest if item.mag is None else truth.mag(item.mag)
        boxes = _labelled_in(common, labelled_boxes(truth)) if item.box is None else [item.box]
        return cls(item, image, truth, array.mag, truth.name, truth.voxel_size, truth.box, tuple(boxes))

    @classmethod
    def _of_annotation(cls, item: TrainingBox, image: Layer, job: Job) -> _Labelled:
        from voxelworks.workflows._painted import Painted

        assert item.annotation is not None
        painted = Painted.open(item.annotation, item.volume_layer, image.dataset, job)
        boxes = _drawn(item, painted.annotation.summary) if item.box is None else [item.box]
        shown = painted.streamed or (image if painted.below is None else painted.below).finest
        mag = item.mag or shown.mag
        painted.require_mag(mag)
        # What was painted may go beyond the layer below.
        return cls(
            item, image, painted, mag, item.labels_name, image.voxel_size, image.box, tuple(boxes)
        )  # fmt: skip

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the labels and the image depend on."""
        from voxelworks.volumes.dataset import Layer

        if isinstance(self.truth, Layer):
            return str(self.image.finest), str(self.truth.mag(self.mag))
        return str(self.image.finest), *self.truth.inputs, str(self.mag)

    def shown_as(self, voxel_size: VoxelSize) -> VoxelSize:
        """Give the voxels in which a network for a voxel size sees the image."""
        own = self.image.voxel_size
        return own.in_mag(own.mag_for(voxel_size, self.image.mags)).shown_as(voxel_size)

    def size_zyx(self, box: Box, voxel_size: VoxelSize) -> Zyx:
        """Give the size of a box in voxels of this size."""
        # Where the layers end inside of a voxel of the labels, that counts as a whole.
        stop_zyx = box.in_mag(self.mag).from_mag(self.mag).stop_zyx
        z, y, x = (
            math.floor((last - first) * own / wanted + 1e-6)
            for first, last, own, wanted in zip(
                box.start_zyx, stop_zyx, self.voxel_size.zyx, voxel_size.zyx, strict=True
            )
        )
        return z, y, x

    def is_large(self, voxel_size: VoxelSize, rule: SizeRule) -> bool:
        """Tell whether all that is learned from here is large enough for a network of this voxel size."""
        shown = self.shown_as(voxel_size)
        return self.item.purpose == "validate" or all(
            rule.is_met(self.size_zyx(box, shown), shown) for box in self.boxes
        )

    def array(self, folder: Path, job: Job) -> LayerArray:
        """Give the labels to read; those of an annotation are unpacked into a folder first."""
        from voxelworks.volumes.dataset import Layer

        if isinstance(self.truth, Layer):
            return self.truth.mag(self.mag)
        return self.truth.unpacked(self.mag, folder, job.check)


@dataclass(frozen=True)
class _Part:
    """One labelled box, not loaded yet."""

    labelled: _Labelled
    box: Box
    """Mag 1."""
    size_zyx: Zyx
    """In voxels of the network."""
    voxel_size: VoxelSize
    """In which the network sees it."""

    @classmethod
    def of(cls, labelled: _Labelled, box: Box, voxel_size: VoxelSize, rule: SizeRule) -> _Part:
        image, mag = labelled.image, labelled.mag
        check_box(image.name, image.box, box)
        check_box(labelled.name, labelled.box, box)
        # What both layers cover may end anywhere.
        fitting = box.in_mag(mag).from_mag(mag).intersect(image.box.intersect(labelled.box))
        if box != fitting:
            raise InvalidGeometry(
                f"box {box} begins or ends inside of voxels of mag {mag}, in which {labelled.name} is labelled; choose "
                f"{fitting}"
            )
        voxel_size = labelled.shown_as(voxel_size)
        size = labelled.size_zyx(box, voxel_size)
        name = f"box {box} of {labelled.item.labels_name}"
        if labelled.item.purpose == "train":
            rule.check(size, voxel_size, name)
        if min(size) < 1:
            raise InvalidGeometry(
                f"{name} has {_by(size[::-1])} voxels of {voxel_size} nm, and to be measured with it needs one or more "
                "along each axis; choose a larger box, or a smaller voxel_size"
            )
        return cls(labelled, box, size, voxel_size)

    @property
    def voxel_count(self) -> int:
        return math.prod(self.size_zyx)

    @property
    def read_count(self) -> int:
        """Voxels of the image that are read, in each channel."""
        image = self.labelled.image
        return self.box.in_mag(image.voxel_size.mag_for(self.voxel_size, image.mags)).voxel_count

    def load(self, truth: LayerArray, job: Job) -> LabelledBox:
        """Read image and labels on the voxel size of the network.

        Raises
        ------
        InvalidInput
            If nothing is labelled, or too many objects are, or ids are below 0, or the image holds values that are not
            numbers.
        """
        import numpy as np

        from voxelworks.ai.inference import open_source
        from voxelworks.ai.training import LabelledBox

        name, weight = self.labelled.item.labels_name, self.labelled.item.weight
        source, _ = open_source(self.labelled.image, self.box, self.voxel_size)
        job.check()
        image = source.read((0, 0, 0), self.size_zyx)
        labels = np.empty(self.size_zyx, np.int32)
        numbers = _Numbers(f"box {self.box} of {name}", truth.dtype)
        for piece, ids in self._labels(truth, source.array.mag):
            job.check()
            labels[piece.slices_zyx] = numbers.of(ids)
        if not numbers.count:
            raise InvalidInput(
                f"nothing is labelled in box {self.box} of {name}; choose a box with objects, or label some"
            )
        job.log(f"{name} {self.box}: {numbers.count:,} objects")
        return LabelledBox(image, labels, name, weight)

    def _labels(self, truth: LayerArray, image_mag: Mag) -> Iterator[tuple[Box, NDArray[np.integer]]]:
        """Take for each voxel of the network the label in its middle, piece by piece.

        A middle between two labels counts both, and the most frequent one is taken: always the next one would move all
        objects by half a voxel.
        """
        import numpy as np

        from voxelworks.ops.downsampling import downsample

        image = self.labelled.image
        own = self.labelled.voxel_size.in_mag(truth.mag).zyx
        read = image.voxel_size.in_mag(image_mag).zyx
        origin = self.box.in_mag(image_mag).start_zyx
        whole = self.box.in_mag(truth.mag)
        places, window, needed = [], [], []
        for axis in range(3):
            step = self.voxel_size.zyx[axis]
            middles = (origin[axis] * read[axis] + (np.arange(self.size_zyx[axis]) + 0.5) * step) / own[axis]
            beside = np.stack([np.ceil(middles - 1e-6) - 1, np.floor(middles + 1e-6)], axis=1).astype(int)
            is_between = bool((beside[:, 0] != beside[:, 1]).any())
            chosen = beside if is_between else beside[:, :1]
            places.append(np.clip(chosen, whole.start_zyx[axis], whole.stop_zyx[axis] - 1))
            window.append(2 if is_between else 1)
            needed.append(max(step / own[axis], window[axis]))
        edges = [max(1, int(_READ_EDGE / max(1, length))) for length in needed]
        for piece in Box.from_zyx((0, 0, 0), self.size_zyx).tiles((edges[2], edges[1], edges[0])):
            index = [place[inside].ravel() for place, inside in zip(places, piece.slices_zyx, strict=True)]
            z, y, x = (int(along[0]) for along in index)
            depth, height, width = (int(along[-1] - along[0]) + 1 for along in index)
            voxels = truth.read(Box((x, y, z), (width, height, depth)))[0]
            near = voxels[np.ix_(*(along - along[0] for along in index))]
            yield piece, downsample(near, (window[0], window[1], window[2]), "mode")


def _loaded_bytes(parts: Sequence[_Part], channels: int) -> int:
    """Tell how much memory boxes take at most while they are loaded: all of them, and what is read of one."""
    from voxelworks.ai.inference import READ_VOXELS_MAX

    kept = 4 * (channels + 1) * sum(part.voxel_count for part in parts)
    ids = _ID_BYTES * min(_OBJECTS_MAX, max(part.voxel_count for part in parts))
    image = _IMAGE_BYTES * channels * min(READ_VOXELS_MAX, max(part.read_count for part in parts))
    return kept + ids + max(image, _LABEL_BYTES * _READ_EDGE**3)


class _Numbers:
    """Numbers the objects of a box in the order in which they come; 0 stays 0."""

    def __init__(self, where: str, dtype: np.dtype[Any]) -> None:
        import numpy as np

        self._where = where
        self._ids = np.zeros(1, dtype)  # sorted
        self._numbers = np.zeros(1, dtype)

    @property
    def count(self) -> int:
        return len(self._ids) - 1

    def of(self, labels: NDArray[np.integer]) -> NDArray[np.integer]:
        """Put numbers in place of ids; `InvalidInput` if one is below 0, or there are too many."""
        import numpy as np

        from voxelworks.ops.relabelling import replace_labels

        found = np.unique(labels)
        if found[0] < 0:
            raise InvalidInput(
                f"{self._where} has the id {found[0]}, and ids are 0 and above, 0 being background; give these objects "
                "other ids, or choose a box without them"
            )
        places = np.searchsorted(self._ids, found)
        is_new = places == np.searchsorted(self._ids, found, "right")
        total = len(self._ids) + int(np.count_nonzero(is_new))
        if total - 1 > _OBJECTS_MAX:
            raise InvalidInput(
                f"{self._where} has more objects than the {_OBJECTS_MAX:,} that are told apart; choose a smaller box"
            )
        added = np.arange(len(self._ids), total, dtype=self._numbers.dtype)
        self._ids = np.insert(self._ids, places[is_new], found[is_new])
        self._numbers = np.insert(self._numbers, places[is_new], added)
        replace_labels(labels, self._ids, self._numbers)
        return labels


def _load(parts: Sequence[_Part], job: Job) -> list[LabelledBox]:
    """Read all boxes. What is unpacked for that is removed again."""
    loaded = []
    folder = job.folder.scratch / "painted"
    for _, group in groupby(parts, key=lambda part: id(part.labelled)):
        alike = list(group)
        truth = alike[0].labelled.array(folder, job)
        loaded += [part.load(truth, job) for part in alike]
        shutil.rmtree(folder, ignore_errors=True)
    return loaded


def curves_of(found: Sequence[Evaluation], measure: str) -> list[Curve]:
    """Give what a training has to show: losses, and how good the network is on what it does not learn from."""
    step = -(-len(found) // CURVE_POINTS_MAX)
    shown = [item for index, item in enumerate(found) if (len(found) - 1 - index) % step == 0]
    values = {
        "Loss in training": [(item.step, item.training_loss) for item in shown],
        "Loss in validation": [(item.step, item.validation_loss) for item in shown],
        measure: [(item.step, item.score) for item in shown],
    }
    return [
        Curve(name=name, points=tuple((at, round(value, 5)) for at, value in points))
        for name, points in values.items()
    ]


def picture_of(example: Example, step: int) -> Picture:
    """Draw a section beside what the network shall give for it and what it gives."""
    import base64
    import io

    import numpy as np
    from PIL import Image

    # Two standard deviations about the mean: more would leave little contrast to the rest.
    image = np.clip((example.image + 2) / 4, 0, 1)
    panes = [pane[:_PANE_MAX, :_PANE_MAX] for pane in (image, example.wanted, example.found)]
    gap = np.ones((panes[0].shape[0], 2), np.float32)
    row = np.concatenate([panes[0], gap, panes[1], gap, panes[2]], axis=1)
    # 16 levels of grey are enough to look at, and keep it small.
    grey = np.rint(np.rint(row * 15) * 17).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "PNG", optimize=True)
    height, width = grey.shape
    return Picture(
        name=f"Image, labels and prediction in validation at step {step:,}", step=step, width=width, height=height,
        png=base64.b64encode(stream.getvalue()).decode(),
    )  # fmt: skip


class _Reporter:
    """Tells users how a training goes on."""

    def __init__(self, job: Job, steps: int, measure: str, earlier: Sequence[Evaluation]) -> None:
        self._job, self._steps, self._measure = job, steps, measure
        self._found = list(earlier)
        if self._found:
            job.draw(curves_of(self._found, measure))
        self._begun_s = self._told_s = time.monotonic()
        self._first: int | None = None

    def step(self, progress: Progress) -> None:
        now_s = time.monotonic()
        if self._first is None:
            self._first = progress.step
        if now_s - self._told_s < 1 and progress.step < self._steps:
            return
        self._told_s = now_s
        self._job.tell(
            "training",
            progress.step,
            f"step {progress.step:,} of {self._steps:,}, loss {progress.running_loss:.3f}",
        )

    def evaluation(self, found: Evaluation, example: Example) -> None:
        self._found.append(found)
        self._job.draw(curves_of(self._found, self._measure), picture_of(example, found.step))
        self._job.log(
            f"step {found.step:,}: loss {found.training_loss:.4f}, validation loss {found.validation_loss:.4f}, "
            f"score {found.score:.4f}"
        )


def _split(
    parts: Sequence[_Part], loaded: Sequence[LabelledBox], job: Job
) -> tuple[list[LabelledBox], list[LabelledBox]]:
    """Part what is learned from and what is measured with."""
    learning = [box for part, box in zip(parts, loaded, strict=True) if part.labelled.item.purpose == "train"]
    measuring = [
        box for part, box in zip(parts, loaded, strict=True) if part.labelled.item.purpose == "validate"
    ]
    if measuring:
        return learning, measuring
    pairs = []
    for box in learning:
        pair = _cut_end(box)
        if pair is None:
            job.log(
                f"warning: {box.name} has too few objects to hold some back, and is measured with as a whole: the "
                "score will be too good; give another box with purpose validate"
            )
        pairs.append(pair or (box, box))
    return [first for first, _ in pairs], [last for _, last in pairs]


def _cut_end(box: LabelledBox) -> tuple[LabelledBox, LabelledBox] | None:
    """Cut an end off, the last one of the longest side if there are objects in both parts.

    A little is left out between them: neighbouring voxels are alike. None if no end has objects and leaves some.
    """
    for axis in sorted(range(3), key=lambda item: -box.labels.shape[item]):
        length = box.labels.shape[axis]
        count = max(1, round(length * _VALIDATION_SHARE))
        guard = max(1, round(length * _GUARD_SHARE))
        for kept, held_back in (
            (slice(None, length - count - guard), slice(length - count, None)),
            (slice(count + guard, None), slice(None, count)),
        ):
            pair = _part_of(box, axis, kept), _part_of(box, axis, held_back)
            if all(part.labels.any() for part in pair):
                return pair
    return None


def _part_of(box: LabelledBox, axis: int, chosen: slice) -> LabelledBox:
    index = [slice(None)] * 3
    index[axis] = chosen
    where = tuple(index)
    return replace(box, image=box.image[(slice(None), *where)], labels=box.labels[where])


def _plan(
    params: TrainingParams,
    task: ModelTask,
    voxel_size: VoxelSize,
    channels: int,
    scale_nm: float | None,
    boxes: Sequence[LabelledBox],
    job: Job,
) -> TrainingPlan:
    from voxelworks.ai.networks import Architecture
    from voxelworks.ai.targets import offsets_for
    from voxelworks.ai.training import TrainingPlan
    from voxelworks.blocks.threads import core_count

    offsets = offsets_for(voxel_size) if task == "affinities" else ()
    outputs = {"affinities": len(offsets), "instances": 2, "semantic": 1}[task]
    size: NetworkSize = params.network
    architecture = Architecture.plan(channels, outputs, voxel_size, size)
    return TrainingPlan(
        task=task, architecture=architecture, voxel_size=voxel_size,
        patch_zyx=_patch(voxel_size, architecture.step_zyx, _PATCH_VOXELS[size], boxes), offsets=offsets,
        distance_scale_nm=scale_nm, steps=params.steps, learning_rate=params.learning_rate,
        evaluate_every=params.evaluate_every, patience=params.patience, seed=params.seed,
        device="cpu" if params.device == "cpu" else "cuda:0", threads=min(core_count(), job.slots),
    )  # fmt: skip


def _patch(voxel_size: VoxelSize, step_zyx: Zyx, voxels: int, boxes: Sequence[LabelledBox]) -> Zyx:
    """Choose a patch of about so many voxels that is about as long on each axis, where the boxes are not too thin.

    Most of what is learned from lies in boxes that hold it; the others are mirrored at their borders.
    """
    lengths = voxel_size.zyx
    weights = [box.labels.size * box.weight for box in boxes]
    most = [_reached_by_most([box.labels.shape[axis] for box in boxes], weights) for axis in range(3)]
    sides = [0, 0, 0]
    left = float(voxels)
    # From the shortest: what an axis cannot take is left to the others.
    for count, axis in enumerate(sorted(range(3), key=lambda axis: most[axis] * lengths[axis])):
        others = [length for index, length in enumerate(lengths) if not sides[index]]
        fair = (left * math.prod(others)) ** (1 / (3 - count)) / lengths[axis]
        step = step_zyx[axis]
        sides[axis] = max(step, min(round(fair / step), max(1, most[axis] // step)) * step)
        left /= sides[axis]
    return sides[0], sides[1], sides[2]


def _reached_by_most(values: Sequence[int], weights: Sequence[float]) -> int:
    """Give the largest value that values with at least `_MOST` of the weight reach."""
    passed = 0.0
    for value, weight in sorted(zip(values, weights, strict=True), reverse=True):
        passed += weight
        if passed >= _MOST * sum(weights):
            return value
    return min(values)


def _inference_patch(plan: TrainingPlan) -> tuple[Vec3, Vec3]:
    """Choose how large a part of an image the network is given at once, and how much of it is not used (x, y, z)."""
    patch, border = [], []
    finest = min(plan.voxel_size.zyx)
    for axis in range(3):
        step = plan.architecture.step_zyx[axis]
        edge = min(_BORDER, max(1, plan.architecture.reach_zyx[axis] // 2))
        side = max(4 * edge, round(_INFERENCE_EDGE * finest / plan.voxel_size.zyx[axis]))
        patch.append(max(step, -(-side // step) * step))
        border.append(edge)
    return (patch[2], patch[1], patch[0]), (border[2], border[1], border[0])


def _typical_radius_nm(boxes: Sequence[LabelledBox], voxel_size: VoxelSize) -> float:
    """Give half the diameter of a ball as large as the middle one of all objects."""
    import numpy as np

    sizes = np.concatenate([_object_sizes(box.labels) for box in boxes])
    volume = float(np.median(sizes)) * math.prod(voxel_size.xyz)
    return float((3 * volume / (4 * math.pi)) ** (1 / 3))


def _object_sizes(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Count the voxels of each object, section by section: to count all at once takes many times the memory."""
    import numpy as np

    sizes = np.zeros(int(labels.max()) + 1, np.int64)
    for section in labels:
        ids, counts = np.unique(section, return_counts=True)
        sizes[ids] += counts
    sizes[0] = 0
    return sizes[sizes > 0]


def _with_threshold(rules: PostProcessing, task: ModelTask, threshold: float) -> PostProcessing:
    """Take for foreground what is best on the boxes for validation."""
    return rules if task == "affinities" else rules.model_copy(update={"threshold": round(threshold, 4)})


def _with_chosen_rules(
    facts: ModelFacts, predict: Predictor, boxes: Sequence[LabelledBox], job: Job
) -> ModelFacts:
    """Let the labels say at which necks objects are parted, and what is too small to be one."""
    from voxelworks.workflows._object_rules import choose_rules

    assert facts.distance_scale_nm is not None
    job.log("choosing, by the labels, at which necks objects are parted and what is too small to be one")
    found = choose_rules(boxes, predict, facts.post_processing, facts.distance_scale_nm, facts.voxel_size)
    rules = found.rules
    job.log(
        f"objects of at least {rules.size_min_nm3:,.0f} nm³, parted at necks that are {rules.min_depth_nm:.0f} nm "
        f"thinner: F1 of the {found.objects:,} labelled ones {found.f1:.3f}, with the usual rules {found.first_f1:.3f}"
    )
    return facts.model_copy(update={"post_processing": rules})


def _outputs(plan: TrainingPlan) -> tuple[str, ...]:
    if plan.task == "affinities":
        return tuple(f"affinity {_by(offset)}" for offset in plan.offsets)
    return ("foreground", "distance") if plan.task == "instances" else ("foreground",)


def _weights_of(parent: ModelPackage, name: str) -> dict[str, Tensor]:
    """Read the weights that a training may start from.

    Raises
    ------
    InvalidInput
        If the model, which is called `name`, has none.
    InvalidModel
        If they cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = parent.folder / TRAINED_WEIGHTS
    if not file.is_file():
        raise InvalidInput(
            f"{name} was not trained by Voxelworks: it holds no {file.name}, and nothing can start from it"
        )
    try:
        return load_file(file)
    except SafetensorError as error:
        raise InvalidModel(
            f"{file.name} of model {name} is damaged ({error}); copy the model again, or start from another"
        ) from error


def _gpu() -> Gpu:
    """Give the GPU to train on: the first one that is seen, which on a server is the one that the job was given.

    Raises
    ------
    ResourcesExceeded
        If there is none that PyTorch can use: a job that shall run on a GPU never falls back to the CPU.
    """
    import torch

    from voxelworks.ai.devices import require_gpus

    first = require_gpus(0)[0]
    if not torch.cuda.is_available():
        raise ResourcesExceeded(
            f"the training shall run on {first}, and PyTorch {torch.__version__} finds no CUDA; install a build of "
            "PyTorch for this driver, or choose device cpu"
        )
    return first


def _shortened(weights: Mapping[str, Tensor], job: Job) -> Path:
    """Write what a training may start from: with half the digits, of which training changes more in its first step."""
    import torch
    from safetensors.torch import save_file

    file = job.folder.scratch / TRAINED_WEIGHTS
    halves = {name: value.to(torch.float16) if value.dim() > 1 else value for name, value in weights.items()}
    save_file({name: value.contiguous() for name, value in halves.items()}, file)
    return file


def _require_torch() -> None:
    for module in ("torch", "safetensors", "scipy"):
        if find_spec(module) is None:
            raise InvalidInput(
                f"training needs {module}, which is not installed here; install voxelworks[train]"
            )


def _scaled(size: VoxelSize, by: float) -> VoxelSize:
    return VoxelSize(*(length * by for length in size.xyz))


def _file_name(ref: AnnotationRef) -> str:
    return ref.rstrip("/").rpartition("/")[2]


def _by(numbers: Sequence[int]) -> str:
    return "x".join(map(str, numbers))
