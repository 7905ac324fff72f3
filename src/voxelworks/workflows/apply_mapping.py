"""Make a dataset in which the segments of a layer have the ids that a mapping gives them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import field_validator, model_validator

from voxelworks.errors import InvalidParams, SourceNotFound, TargetExists, UnsupportedDtype
from voxelworks.geometry import Box
from voxelworks.protocol.places import is_remote
from voxelworks.workflows import (
    ADVANCED,
    FREE,
    Inputs,
    Job,
    NewDataset,
    NewDatasetRef,
    Params,
    SegmentationRef,
    SourceRef,
    check_name,
    raw_bytes,
    workflow,
)
from voxelworks.workflows._declare import check_box

if TYPE_CHECKING:
    import numpy as np

    from voxelworks.volumes.dataset import Layer
    from voxelworks.workflows._mappings import MappingFile
    from voxelworks.workflows._materialize import LabelChange


class ApplyMappingParams(Params):
    """Which segmentation, and which mapping."""

    layer: SegmentationRef
    """Segmentation layer whose segments get other ids."""

    target: NewDatasetRef
    """Dataset to make. It must not exist yet."""

    mapping: str | None = None
    """Name of a mapping or agglomerate file that the layer has."""

    mapping_file: SourceRef | None = None
    """JSON mapping or agglomerate file (HDF5 or Zarr v3) that lies elsewhere."""

    box: Box | None = None
    """Part of the segmentation to keep, `x,y,z,width,height,depth` in voxels of mag 1; by default all of it."""

    output_layer: Annotated[str | None, ADVANCED] = None
    """Name of the new segmentation layer; by default that of the layer with `_mapped` after it."""

    copy_other_layers: Annotated[bool, ADVANCED] = True
    """Also copy the other layers of the dataset."""

    @field_validator("output_layer")
    @classmethod
    def _is_name(cls, value: str | None) -> str | None:
        return value if value is None else check_name("layer", value)

    @model_validator(mode="after")
    def _names_one_mapping(self) -> ApplyMappingParams:
        if (self.mapping is None) == (self.mapping_file is None):
            raise InvalidParams(
                "give either mapping, the name of a mapping of the layer, or mapping_file, one that lies elsewhere"
            )
        return self


class MappedDataset(NewDataset):
    """A mapping was applied."""

    layer: str
    """The new segmentation layer."""

    mags: tuple[str, ...]
    """Its magnifications, finest first."""

    largest_segment_id: int
    """Largest id in the new layer."""


def _result_bytes(params: ApplyMappingParams, inputs: Inputs) -> int:
    """Estimate the copied layers, of which one gets other ids, with a pyramid as a seventh of each."""
    layers = inputs.dataset(params.layer.dataset).layers
    kept = [layer for layer in layers if params.copy_other_layers or layer.name == params.layer.layer]
    return sum(map(raw_bytes, kept)) * 8 // 7


@workflow(
    version=1,
    cost=FREE,
    result_bytes=_result_bytes,
    example={"layer": "demo/segmentation", "mapping": "agglomerate_view_70", "target": "demo_mapped"},
)
def apply_mapping(params: ApplyMappingParams, job: Job) -> MappedDataset:
    """Make a dataset in which the segments of a layer have the ids that a mapping gives them.

    Segments that a JSON mapping has in one class, also through its parents, get the first id of the class; an
    agglomerate file gives each the id of its agglomerate. Segment 0 stays 0, and ids that the mapping does not know
    stay as they are. The new layer gets all magnifications anew, and its largest segment id. The other layers are
    copied.
    """
    from voxelworks.workflows._materialize import Fallback, MergedVolume
    from voxelworks.workflows._new_layers import LayerCopy, LayerPlan, other_layers

    job.check_new_dataset(params.target)
    dataset = job.open_dataset(params.layer.dataset)
    layer = dataset.layer(params.layer.layer)
    params.layer.require_category(layer.category)
    if params.box is not None:
        check_box(layer.name, layer.box, params.box)
    source = layer.finest
    others = other_layers(dataset, layer) if params.copy_other_layers else []
    name = params.output_layer or check_name("layer", f"{layer.name}_mapped")
    if any(other.name == name for other in others):
        raise TargetExists(f"the dataset has a layer {name!r} already; choose another name with output_layer")
    file = _find(params, layer, job)
    ids = _Ids.read(file, layer, job)
    dtype = ids.dtype_for(source.dtype)
    facts = [str(source), file.fingerprint, *(str(other.properties) for other in others)]
    made = job.start_dataset(params.target, dataset.voxel_size, inputs=facts)
    merged = MergedVolume(source.mag, dtype, Fallback(source, layer.box), merges=ids.change(dtype, job))
    copies = [LayerCopy(made, other, job) for other in others]
    plan = LayerPlan(made, name, params.box or layer.box, merged, job)
    job.expect(plan.units + sum(copy.units for copy in copies))
    largest = plan.write(job)
    for copy in copies:
        copy.write(job)
    made.write_metadata()
    return MappedDataset(
        dataset=str(params.target),
        layers=(*(other.name for other in others), name),
        layer=name,
        mags=tuple(str(mag) for mag in plan.mags),
        largest_segment_id=largest,
    )


class _Ids:
    """What a mapping says: few ids in memory, or a table in a file."""

    def __init__(self, classes: dict[int, int] | None, table: Any, largest: int) -> None:
        self._classes, self._table, self._largest = classes, table, largest

    @classmethod
    def read(cls, file: MappingFile, layer: Layer, job: Job) -> _Ids:
        from voxelworks.workflows._mappings import (
            JSON_MEMORY_FACTOR,
            attached_mappings,
            open_agglomerates,
            read_json_mapping,
            read_text,
        )

        if file.kind != "json":
            table = open_agglomerates(file)
            job.log(f"the agglomerate file knows {max(0, table.row_count - 1):,} segments")
            return cls(None, table, table.largest(job.check))

        def read(found: MappingFile) -> bytes:
            text = read_text(found)
            job.require_memory(
                len(text) * JSON_MEMORY_FACTOR,
                item="mapping",
                remedy="give an agglomerate file, which is read in parts",
            )
            return text

        def parent(name: str) -> bytes:
            found = attached_mappings(layer).get(name)
            if found is None or found.kind != "json":
                raise SourceNotFound(f"the mapping builds upon {name!r}, which the layer does not have")
            return read(found)

        name = file.location.rpartition("/")[2].removesuffix(".json")
        classes = read_json_mapping(read(file), parent, name)
        job.log(f"the mapping gives {len(classes):,} segments another id")
        return cls(classes, None, max(classes.values(), default=0))

    def dtype_for(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Give the type of the new layer: a wider one where the ids of the mapping need it."""
        import numpy as np

        if dtype.kind not in "iu":
            raise UnsupportedDtype(f"labels of {dtype} cannot be mapped; integers can")
        if self._largest <= np.iinfo(dtype).max:
            return dtype
        if dtype.kind == "i":
            raise UnsupportedDtype(
                f"the mapping has the id {self._largest}, which {dtype} does not hold; give the layer unsigned ids"
            )
        return np.dtype(np.min_scalar_type(self._largest))

    def change(self, dtype: np.dtype[Any], job: Job) -> LabelChange:
        import numpy as np

        from voxelworks.workflows._materialize import Merges

        if self._classes is None:
            change: LabelChange = self._table
            return change
        most = int(np.iinfo(dtype).max)
        held = {old: new for old, new in self._classes.items() if old <= most}  # the layer has no others
        job.folder.scratch.mkdir(exist_ok=True)
        return Merges.save(held, job.folder.scratch / "mapping.npy", dtype)


def _find(params: ApplyMappingParams, layer: Layer, job: Job) -> MappingFile:
    from voxelworks.workflows._mappings import attached_mappings, mapping_at

    if params.mapping_file is not None:
        location = job.locate(params.mapping_file)
        if not is_remote(location):
            place = Path(location)
            job.require_inside(params.mapping_file, [place, *(place.rglob("*") if place.is_dir() else ())])
        return mapping_at(location)
    known = attached_mappings(layer)
    if params.mapping not in known:
        raise SourceNotFound(
            f"layer {layer.name!r} has no mapping {params.mapping!r}; it has {', '.join(sorted(known)) or 'none'}"
        )
    return known[params.mapping]
