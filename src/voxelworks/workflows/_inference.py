"""What all segmentations with networks have in common."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import field_validator

from voxelworks.errors import InvalidModel, InvalidParams, TargetExists
from voxelworks.geometry import Box, Mag, VoxelSize
from voxelworks.protocol.foreign import native_id
from voxelworks.protocol.messages import Json
from voxelworks.protocol.models import ModelFacts, ModelTask
from voxelworks.volumes.metadata import fragments_layer
from voxelworks.workflows import (
    ADVANCED,
    Device,
    ForeignName,
    ImageRef,
    Inputs,
    Job,
    LayerMag,
    MadeLayer,
    ModelRef,
    NewDataset,
    NewDatasetRef,
    Params,
    box_bytes,
    check_box,
    check_name,
    finest_mag,
)

if TYPE_CHECKING:
    from voxelworks.ai.devices import Gpu
    from voxelworks.ai.inference import Grid, Predictions, Source
    from voxelworks.ai.package import ModelPackage
    from voxelworks.volumes.dataset import Dataset, Layer
    from voxelworks.workflows._fragments import Neurons

PRELOADS = (
    "voxelworks.ai.inference", "voxelworks.workflows._fragments", "voxelworks.ops.warm_fragments",
)  # fmt: skip
_COARSER_MAX = 4
"""Results are made in the finest mag whose voxels are no more than so many times shorter than the network's."""
_LABEL_BYTES = 4
_CORES_PER_BLOCK = 4
"""Patches that one process does one after the other at most: while one is predicted, the next is read."""
_RUNTIME_BYTES = 450 * 2**20
"""Of a process beside its patch. Measured with what ONNX Runtime keeps from patch to patch: 1.7 GiB for 144³ voxels."""
AGGLOMERATES = "agglomerate_view"
"""Name of the agglomerate file of the fragments of neurons."""


class InferenceParams(Params):
    """What to segment, and with which model."""

    layer: ImageRef
    """Image layer to segment."""

    target: NewDatasetRef
    """Dataset to make. It must not exist yet."""

    model: ModelRef
    """Model to use."""

    box: Box | None = None
    """Part to segment, `x,y,z,width,height,depth` in voxels of mag 1; by default the whole layer."""

    invert_color_layer: bool = False
    """Whether the image is dark where images that the model was trained on are bright."""

    device: Annotated[Device, ADVANCED] = "cpu"
    """Where the network runs. With `gpu` the job waits for a worker with an NVIDIA GPU, and never falls back to the
    CPU."""

    mag: Annotated[LayerMag | None, ADVANCED] = None
    """Finest magnification of the result; by default the finest in which the model can tell something."""

    output_layer: Annotated[str, ADVANCED] = "segmentation"
    """Name of the new segmentation layer."""

    copy_image: Annotated[bool, ADVANCED] = True
    """Also copy the segmented part of the image layer into the new dataset."""

    @field_validator("output_layer")
    @classmethod
    def _is_name(cls, value: str) -> str:
        return check_name("layer", value)

    @property
    def needs_gpu(self) -> bool:
        return self.device == "gpu"


class SegmentedDataset(NewDataset):
    """A layer was segmented."""

    layer: str
    """The new segmentation layer."""
    mags: tuple[str, ...]
    """Its magnifications, finest first."""
    largest_segment_id: int
    """Largest id in the new layer, which is the number of segments: ids begin at 1 and leave out none."""
    model: str
    """Title of the model."""
    model_voxel_size: str
    """Voxel size that its network works on, x,y,z in nm."""
    voxels_predicted: int
    """Voxels of this size that were predicted."""
    model_warning: str | None
    """Why the layer is outside of what the model is for; null if it is not."""


def foreign(command: str) -> ForeignName:
    """Give the command of WEBKNOSSOS that a segmentation is. Its workers know no models of this server."""
    return ForeignName(command, args_of=_args_of, outcome_of=None, params_of=_params_of)


def _args_of(params: InferenceParams) -> Json:
    return {
        "layer_name": params.layer.layer,
        "bbox": None if params.box is None else str(params.box),
        "new_dataset_name": str(params.target),
        "invert_color_layer": params.invert_color_layer,
        "model_id": str(params.model),
        "seed_generator_distance_threshold": getattr(params, "seed_generator_distance_threshold_nm", None),
    }


def _params_of(args: Mapping[str, Any]) -> Json:
    if args.get("do_split_merger_evaluation"):
        raise InvalidParams(
            "segmentations are not evaluated by the job that makes them here; run evaluate_segmentation on the result"
        )
    model = args.get("model_id")
    given = {
        "box": args.get("bbox"),
        "invert_color_layer": args.get("invert_color_layer"),
        "model": None if model in (None, "") else native_id(str(model)),
        "seed_generator_distance_threshold_nm": args.get("seed_generator_distance_threshold"),
    }
    return {
        "layer": {"dataset": args["dataset_name"], "layer": args["layer_name"]},
        "target": args["new_dataset_name"],
        **{name: value for name, value in given.items() if value not in (None, "")},
    }


def made_layers(params: InferenceParams) -> Sequence[MadeLayer]:
    """Tell which layers the new dataset will have."""
    image = [MadeLayer(params.layer.layer, "color")] if params.copy_image else []
    return [*image, MadeLayer(params.output_layer, "segmentation")]


def read_mag(params: InferenceParams, inputs: Inputs) -> Mag:
    """Tell which mag the network is given; the finest, if it is not known how large voxels are."""
    layer = inputs.layer(params.layer)
    voxel_size = inputs.dataset(params.layer.dataset).voxel_size
    mags = [Mag.parse(mag) for mag in layer.mags]
    if voxel_size is None or not mags:
        return finest_mag(layer)
    return VoxelSize.parse(voxel_size).mag_for(inputs.model(params.model).voxel_size, mags)


def result_bytes(params: InferenceParams, inputs: Inputs) -> int:
    """Estimate the labels, also of fragments, and the copy of the image, with a pyramid as a seventh of each."""
    layer = inputs.layer(params.layer)
    image = box_bytes(layer, params.box, params.mag)
    labels = box_bytes(
        layer.model_copy(update={"dtype": "uint32", "channel_count": 1}), params.box, params.mag
    )
    if inputs.model(params.model).task == "affinities":
        labels *= 2
    return (labels + (image if params.copy_image else 0)) * 8 // 7


def infer(
    params: InferenceParams,
    job: Job,
    *,
    tasks: Sequence[ModelTask],
    seed_distance_nm: float | None = None,
    threshold: float | None = None,
) -> SegmentedDataset:
    """Segment a layer.

    Parameters
    ----------
    tasks
        Kinds of models that will do.
    seed_distance_nm, threshold
        In place of the model's: how far inside of an instance its middle lies, and from which affinity on fragments of
        neurons are joined.

    Raises
    ------
    ModelNotFound, InvalidModel
    """
    from voxelworks.ai import inference
    from voxelworks.workflows import _fragments as stitching
    from voxelworks.workflows import _segment_attachments as attached
    from voxelworks.workflows._new_layers import LayerCopy, LayerPlan

    job.check_new_dataset(params.target)
    package = open_model(params, job, tasks)
    facts = package.facts
    dataset = job.open_dataset(params.layer.dataset)
    layer = dataset.layer(params.layer.layer)
    params.layer.require_category(layer.category)
    names = [params.output_layer]
    if facts.task == "affinities":
        names.append(fragments_layer(params.output_layer))
    if params.copy_image and layer.name in names:
        raise TargetExists(f"the image layer is called {layer.name!r}; choose another name with output_layer")
    box = _box(params, layer)
    attached.check_indexable(box)
    mag = params.mag or result_mag(layer, facts)
    layer.mag(mag)  # or it is refused here
    if layer.channel_count != facts.input_channels:
        raise InvalidModel(
            f"layer {layer.name!r} has {layer.channel_count} channels and the model {facts.title!r} is for "
            f"{facts.input_channels}; choose another layer or model"
        )
    source, size = inference.open_source(
        layer, box, facts.voxel_size, facts.normalization.method, inverted=params.invert_color_layer
    )
    grid = inference.Grid.plan(size, facts)
    read_size = layer.voxel_size.in_mag(source.array.mag)
    warning = facts.unfit(read_size, layer.properties.modality)
    # What the network gives is about the voxels that it was shown.
    seen = facts.model_copy(update={"voxel_size": read_size.shown_as(facts.voxel_size)})
    channels = stitching.used_channels(seen)
    given = {"seed_distance_nm": seed_distance_nm, "agglomeration_threshold": threshold}
    rules = facts.post_processing.model_copy(
        update={name: value for name, value in given.items() if value is not None}
    )
    stitching.check_rules(facts, rules)
    job.require_memory(
        patch_bytes(grid, facts, source),
        item="patch",
        remedy="wait until less runs here, or give the job fewer slots",
    )
    gpus = _gpus(job, facts) if params.device == "gpu" else ()
    made = job.start_dataset(
        params.target, dataset.voxel_size,
        inputs=[str(source.array), facts.weights_sha256, facts.model_dump_json()],
    )  # fmt: skip
    _tell(job, params, facts, source, grid, warning, gpus)
    predictions = predict(job, layer, source, grid, package, box, mag, channels, gpus)
    seen = seen.with_outputs(channels)
    voxel_size = layer.voxel_size.in_mag(mag)
    copies = [LayerCopy(made, layer, job, box)] if params.copy_image else []
    voxels = box.in_mag(mag).voxel_count
    layer_count = 2 if facts.task == "affinities" else 1
    units = (
        _units(grid) + stitching.work_units(predictions, seen) + 2 * layer_count * voxels
        + attached.index_units(voxels) + attached.statistics_units(voxels) + sum(copy.units for copy in copies)
    )  # fmt: skip
    job.expect(units)
    found = stitching.segment(job, params.output_layer, predictions, seen, voxel_size, rules)
    neurons = None if isinstance(found, stitching.Partition) else found
    partition = found if isinstance(found, stitching.Partition) else found.segments
    plan = LayerPlan(made, params.output_layer, box, partition.volume(), job)
    largest = plan.write(job, None)
    attached.attach(job, made, params.output_layer)
    if neurons is not None:
        _write_fragments(job, made, params, neurons)
    for copy in copies:
        copy.write(job)
    made.write_metadata()
    return SegmentedDataset(
        dataset=str(params.target), layers=tuple(item.name for item in made.layers), layer=params.output_layer,
        mags=tuple(str(item) for item in plan.mags), largest_segment_id=largest, model=facts.title,
        model_voxel_size=str(facts.voxel_size), voxels_predicted=math.prod(grid.size_zyx), model_warning=warning,
    )  # fmt: skip


def open_model(params: InferenceParams, job: Job, tasks: Sequence[ModelTask]) -> ModelPackage:
    """Open the model of a job, and see that it does what is wanted.

    Raises
    ------
    ModelNotFound, InvalidModel
    """
    package = job.open_model(params.model)
    if package.facts.task not in tasks:
        raise InvalidModel(
            f"model {package.facts.title!r} gives {package.facts.task}, and this needs {' or '.join(tasks)}; choose "
            "another model, or segment with infer_with_model"
        )
    return package


def result_mag(layer: Layer, facts: ModelFacts) -> Mag:
    """Choose the finest mag of the result."""
    wanted = facts.voxel_size.xyz

    def shrinks(mag: Mag) -> bool:
        own = layer.voxel_size.in_mag(mag).xyz
        return any(there > _COARSER_MAX * here for here, there in zip(own, wanted, strict=True))

    fitting = [mag for mag in layer.mags if not shrinks(mag)]
    return fitting[0] if fitting else layer.mags[-1]


def _gpus(job: Job, facts: ModelFacts) -> tuple[Gpu, ...]:
    """Find the GPUs for a job, or refuse it before anything is made."""
    from voxelworks.ai.devices import require_gpus
    from voxelworks.ai.inference import require_cuda

    if not job.executor.is_here:
        raise InvalidParams(
            "networks run on GPUs of one machine, not on those of a Dask cluster; run without a cluster, or choose "
            "device cpu"
        )
    require_cuda()
    return require_gpus(
        _RUNTIME_BYTES + 2 * facts.weights_bytes + facts.memory_per_voxel * math.prod(facts.step)
    )


def predict(
    job: Job,
    layer: Layer,
    source: Source,
    grid: Grid,
    package: ModelPackage,
    box: Box,
    mag: Mag,
    channels: Sequence[int],
    gpus: Sequence[Gpu] = (),
) -> Predictions:
    """Run the network over a box; give the probabilities of some channels on a mag of the layer."""
    from voxelworks.ai import inference
    from voxelworks.blocks.threads import threads_per_slot

    facts = package.facts
    output = inference.create_output(job.folder.scratch / "predictions", grid, len(channels))
    items = list(_together(grid.cores, job.slots))
    begun_s = time.monotonic()
    shortages = job.process(
        f"{layer.name}: predicting",
        [(f"{part[0]}+{len(part)}", part) for part in items],
        inference.PredictPatches(
            source,
            grid,
            str(package.weights),
            tuple(channels),
            output,
            facts.step[::-1],
            gpus=tuple(gpu.number for gpu in gpus),
            locks=job.folder.scratch,
            threads=threads_per_slot(job.slots),
        ),
        units=_units(grid),
        memory_bytes_per_item=patch_bytes(grid, facts, source),
        is_intact=lambda _: True,
        at_once_max=len(gpus) or None,
    )
    elapsed_s = max(1e-3, time.monotonic() - begun_s)
    job.log(f"{math.prod(grid.size_zyx) / elapsed_s:,.0f} voxels per second")
    if times := sum(shortages):
        job.log(
            f"the memory of the GPU was not enough {times:,} times: patches went through it in halves, and voxels near "
            "the seams differ a little from those of whole patches"
        )
    return inference.Predictions.on(output, source, layer, box, mag)


def _together(cores: Sequence[Box], slots: int) -> Iterator[tuple[Box, ...]]:
    """Put patches together for one process, fewer and fewer, so that all processes end at about the same time."""
    first = 0
    while first < len(cores):
        count = min(_CORES_PER_BLOCK, -(-(len(cores) - first) // (2 * slots)))
        yield tuple(cores[first : first + count])
        first += count


def patch_bytes(grid: Grid, facts: ModelFacts, source: Source) -> int:
    """Give the memory that one process takes: the network, a patch, and what is read and written beside it."""
    voxels = math.prod(grid.patch_zyx)
    around = 3 * 4 * facts.input_channels + 3 * 5 * len(facts.outputs)
    runtime = _RUNTIME_BYTES + 2 * facts.weights_bytes
    return runtime + voxels * (facts.memory_per_voxel + around) + source.read_bytes(grid.patch_zyx)


def _box(params: InferenceParams, layer: Layer) -> Box:
    if params.box is None:
        return layer.box
    check_box(layer.name, layer.box, params.box)
    return params.box


def _units(grid: Grid) -> int:
    """Weigh predicting: it takes most of the time."""
    return 50 * math.prod(grid.size_zyx)


def _tell(
    job: Job,
    params: InferenceParams,
    facts: ModelFacts,
    source: Source,
    grid: Grid,
    warning: str | None,
    gpus: Sequence[Gpu],
) -> None:
    job.log(
        f"model {facts.title!r}: {facts.task} of {facts.structure}, licence {facts.licence or 'not stated'}"
    )
    if warning is not None:
        job.log(f"warning: {warning}")
    scale = ",".join(format(1 / factor, ".3g") for factor in source.scale_zyx[::-1])
    resampled = "" if set(source.scale_zyx) == {1.0} else f", resampled by {scale} (x,y,z)"
    job.log(
        f"{params.layer.layer} is read in mag {source.array.mag}{resampled}; mean {source.intensities.mean:.4g}, "
        f"standard deviation {source.intensities.deviation:.4g}"
    )
    patch, border = (",".join(map(str, values[::-1])) for values in (grid.patch_zyx, grid.border_zyx))
    where = " and ".join(map(str, gpus)) or "the CPU"
    job.log(
        f"{len(grid.cores)} patches of {patch} voxels, of which {border} at each side are not used; on {where}"
    )


def _write_fragments(job: Job, made: Dataset, params: InferenceParams, neurons: Neurons) -> None:
    """Write the fragments as a layer of their own, with an agglomerate file that joins them."""
    from voxelworks.workflows import _agglomerates as agglomerates
    from voxelworks.workflows._new_layers import LayerPlan

    name = fragments_layer(params.output_layer)
    fragments = neurons.fragments
    plan = LayerPlan(made, name, made.layer(params.output_layer).box, fragments.volume(), job)
    plan.write(job, None)
    known = agglomerates.Agglomeration(
        neurons.joins, fragments.sizes(), fragments.positions(), neurons.size_min
    )
    memory_bytes = (
        len(known.sizes) * agglomerates.BYTES_PER_FRAGMENT + len(known.joins) * agglomerates.BYTES_PER_JOIN
    )
    job.require_memory(memory_bytes, item="agglomerate file", remedy="choose a smaller box")
    folder = job.folder.result / name / agglomerates.FOLDER / AGGLOMERATES
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was stopped meanwhile
    agglomerates.write_agglomerates(folder, known, neurons.made, check=job.check)
    made.source = made.source.with_agglomerates(name, AGGLOMERATES)
