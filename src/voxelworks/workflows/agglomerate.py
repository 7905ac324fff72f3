"""Join the fragments of neurons anew, at another threshold, without predicting again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator

from voxelworks.errors import SourceNotFound, TargetExists, UnsupportedFormat
from voxelworks.workflows import (
    ADVANCED,
    FREE,
    Inputs,
    Job,
    NewDataset,
    NewDatasetRef,
    Params,
    SegmentationRef,
    check_name,
    raw_bytes,
    workflow,
)
from voxelworks.workflows._inference import AGGLOMERATES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class AgglomerateParams(Params):
    """Which fragments, and how alike they must be."""

    layer: SegmentationRef
    """Layer of fragments, such as `segmentation_fragments`."""

    threshold: float = Field(ge=0, le=1)
    """Fragments whose mean affinity is at least this are joined: larger values give more and smaller segments."""

    target: NewDatasetRef
    """Dataset to make. It must not exist yet."""

    size_min_nm3: Annotated[float | None, ADVANCED] = Field(None, ge=0)
    """Smaller segments are joined to the neighbour to which they belong most, in nm³; by default those that were when
    the neurons were segmented."""

    agglomerate_file: Annotated[str, ADVANCED] = AGGLOMERATES
    """Name of the agglomerate file of the layer."""

    output_layer: Annotated[str, ADVANCED] = "segmentation"
    """Name of the new segmentation layer."""

    copy_other_layers: Annotated[bool, ADVANCED] = False
    """Also copy the other layers of the dataset."""

    @field_validator("output_layer")
    @classmethod
    def _is_name(cls, value: str) -> str:
        return check_name("layer", value)


class AgglomeratedDataset(NewDataset):
    """Fragments were joined."""

    layer: str
    """The new segmentation layer."""
    mags: tuple[str, ...]
    """Its magnifications, finest first."""
    fragments: int
    """Fragments that there are."""
    largest_segment_id: int
    """Largest id in the new layer, which is the number of segments."""


@dataclass(frozen=True)
class Objects:
    """The object of each fragment, in a file."""

    file: str
    """Of an array (n + 1,): the new id of each old one."""

    def apply(self, voxels: NDArray[np.unsignedinteger]) -> None:
        """Change labels in place."""
        import numpy as np

        voxels[...] = np.load(self.file, mmap_mode="r")[voxels]


def _result_bytes(params: AgglomerateParams, inputs: Inputs) -> int:
    layers = inputs.dataset(params.layer.dataset).layers
    kept = [layer for layer in layers if params.copy_other_layers or layer.name == params.layer.layer]
    return sum(map(raw_bytes, kept)) * 8 // 7


@workflow(
    version=1,
    cost=FREE,
    group="Analysis",
    result_bytes=_result_bytes,
    example={"layer": "demo_neurons/segmentation_fragments", "threshold": 0.6, "target": "demo_neurons_60"},
    preloads=["voxelworks.volumes.dataset", "voxelworks.ops.warm"],
)
def agglomerate(params: AgglomerateParams, job: Job) -> AgglomeratedDataset:
    """Join the fragments of neurons anew, at another threshold, without predicting again.

    `infer_neurons` leaves the fragments that it puts neurons together from, and an agglomerate file with the affinities
    between them. From these alone a new dataset is made, in which more or fewer of them are joined, as if the neurons
    had been segmented with that threshold. It has the segmentation in all magnifications, with segment index and
    statistics.
    """
    import math

    import numpy as np

    from voxelworks.ops.agglomeration import cut
    from voxelworks.workflows import _agglomerates as agglomerates
    from voxelworks.workflows import _segment_attachments as attached
    from voxelworks.workflows._fragments import whole_voxels
    from voxelworks.workflows._mappings import attached_mappings
    from voxelworks.workflows._materialize import Fallback, MergedVolume
    from voxelworks.workflows._new_layers import LayerCopy, LayerPlan, other_layers

    job.check_new_dataset(params.target)
    dataset = job.open_dataset(params.layer.dataset)
    layer = dataset.layer(params.layer.layer)
    params.layer.require_category(layer.category)
    attached.check_indexable(layer.box)
    known = attached_mappings(layer)
    file = known.get(params.agglomerate_file)
    if file is None:
        raise SourceNotFound(
            f"layer {layer.name!r} has no agglomerate file {params.agglomerate_file!r}; it has "
            f"{', '.join(sorted(known)) or 'none'}: name the fragments that infer_neurons left"
        )
    if file.kind != "zarr3":
        raise UnsupportedFormat(
            f"{params.agglomerate_file} is a file of kind {file.kind}: another threshold can only be chosen for files "
            "that Voxelworks wrote; apply_mapping applies this one as it is"
        )
    others = other_layers(dataset, layer) if params.copy_other_layers else []
    if any(other.name == params.output_layer for other in others):
        raise TargetExists(
            f"the dataset has a layer {params.output_layer!r} already; choose another name with output_layer"
        )
    source = layer.finest
    found = agglomerates.read_agglomeration(file.location)
    size_min = found.size_min
    if params.size_min_nm3 is not None:
        size_min = whole_voxels(params.size_min_nm3, layer.voxel_size.in_mag(source.mag), math.ceil)
    made_of = cut(found.joins, found.sizes, threshold=params.threshold, size_min=size_min)
    job.log(f"{len(found.sizes) - 1:,} fragments become {made_of.count:,} segments")
    facts = [str(source), file.fingerprint, *(str(other.properties) for other in others)]
    made = job.start_dataset(params.target, dataset.voxel_size, inputs=facts)
    job.folder.scratch.mkdir(exist_ok=True)
    table = Path(job.folder.scratch) / "objects.npy"
    np.save(table, made_of.objects.astype(source.dtype))
    joined = MergedVolume(source.mag, source.dtype, Fallback(source, layer.box), merges=Objects(str(table)))
    copies = [LayerCopy(made, other, job) for other in others]
    plan = LayerPlan(made, params.output_layer, layer.box, joined, job)
    voxels = source.box.voxel_count
    units = attached.index_units(voxels) + attached.statistics_units(voxels)
    job.expect(plan.units + units + sum(copy.units for copy in copies))
    largest = plan.write(job)
    attached.attach(job, made, params.output_layer)
    for copy in copies:
        copy.write(job)
    made.write_metadata()
    return AgglomeratedDataset(
        dataset=str(params.target), layers=(*(other.name for other in others), params.output_layer),
        layer=params.output_layer, mags=tuple(str(mag) for mag in plan.mags),
        fragments=len(found.sizes) - 1, largest_segment_id=largest,
    )  # fmt: skip
