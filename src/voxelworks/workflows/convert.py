"""Convert image stacks to a chunked, multiscale dataset."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from voxelworks.errors import InvalidParams, UnsupportedDtype
from voxelworks.geometry import MAG1, Box, Vec3
from voxelworks.protocol.messages import Json
from voxelworks.protocol.modality import Modality
from voxelworks.workflows import (
    ADVANCED,
    FREE,
    ForeignName,
    ForeignResult,
    Inputs,
    Job,
    MadeLayer,
    Mag,
    NewDataset,
    NewDatasetRef,
    Params,
    SourceRef,
    VoxelSize,
    check_name,
    workflow,
)

if TYPE_CHECKING:
    from voxelworks.volumes.dataset import Dataset, MagArray
    from voxelworks.volumes.formats import RawLayout, Volume, VolumeSource
    from voxelworks.volumes.shards import LevelGroup
    from voxelworks.workflows._staging import StagedSlab


_LAYERS_MAX = 32
"""A file that holds more volumes is a series of times or places rather than one dataset."""


class LayerSource(Params):
    """Images that become one layer."""

    source: SourceRef
    """Image file, folder of sections, chunked store, or a zip or tar of them; on a server also `upload:ID`."""

    layer_name: str | None = None
    """Name of the layer, by default its category; if the source holds several volumes, the beginning of their names."""

    category: Literal["color", "segmentation"] = "color"
    """`color` for images, `segmentation` for labels. What the files themselves call labels becomes a segmentation."""

    part: Annotated[str | None, ADVANCED] = None
    """Which volume of the source, as `voxelworks inspect` names it; by default all, each as a layer of its own."""

    raw_size: Annotated[str | None, ADVANCED] = None
    """Only for raw voxels without a header of any format: how many, `x,y,z`."""

    raw_dtype: Annotated[
        Literal[
            "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32"
        ],
        ADVANCED,
    ] = "uint8"
    """Type of raw voxels."""

    raw_header_bytes: Annotated[int, Field(ge=0), ADVANCED] = 0
    """Bytes before the first raw voxel."""

    raw_byte_order: Annotated[Literal["little", "big"], ADVANCED] = "little"
    """Byte order of raw voxels; nearly all computers of today write `little`."""

    raw_axes: Annotated[Literal["xyz", "yxz", "xzy", "zxy", "yzx", "zyx"], ADVANCED] = "xyz"
    """Order of raw voxels in the file, the axis that changes fastest first; MATLAB writes `yxz`."""

    @property
    def name(self) -> str:
        """Name of the layer, or the beginning of several."""
        return self.layer_name or self.category

    @property
    def raw_layout(self) -> RawLayout | None:
        """How raw voxels lie in the file; None if it has a header."""
        from voxelworks.volumes.formats import RawLayout

        if self.raw_size is None:
            return None
        return RawLayout(
            _extents(self.raw_size), self.raw_dtype, self.raw_header_bytes, self.raw_byte_order, self.raw_axes
        )

    @field_validator("raw_size")
    @classmethod
    def _is_size(cls, value: str | None) -> str | None:
        return None if value is None else ",".join(map(str, _extents(value)))

    @model_validator(mode="after")
    def _needs_size(self) -> Self:
        names = ("raw_dtype", "raw_header_bytes", "raw_byte_order", "raw_axes")
        given = [name for name in names if getattr(self, name) != type(self).model_fields[name].default]
        if given and self.raw_size is None:
            raise InvalidParams(
                f"{given[0]} is given, but not raw_size; give the size of the raw voxels as x,y,z"
            )
        return self

    @field_validator("layer_name")
    @classmethod
    def _is_name(cls, value: str | None) -> str | None:
        return value if value is None else check_name("layer", value)


def _extents(text: str) -> Vec3:
    """Read a size, x,y,z in whole voxels."""
    try:
        x, y, z = (int(part) for part in text.split(","))
    except ValueError:
        x = y = z = 0
    if min(x, y, z) < 1:
        raise InvalidParams(
            f"{text!r} is not a size of raw voxels; write x,y,z in whole voxels, such as 512,512,200"
        )
    return x, y, z


class ConvertParams(Params):
    """What to convert, and how."""

    layers: Annotated[tuple[LayerSource, ...], Field(min_length=1)]
    """One item for each layer."""

    target: NewDatasetRef
    """Dataset to make. It must not exist yet."""

    voxel_size: VoxelSize | None = None
    """Size of a voxel in nanometres, `x,y,z`. Needed unless the images state it."""

    modality: Annotated[Modality | None, ADVANCED] = None
    """Kind of microscopy, such as `FIB-SEM`; by default what the files say. Models for another kind warn of it."""

    fill_missing: bool = False
    """Fill missing sections with zeros, at most as many as are there, and pad smaller ones, instead of refusing."""

    pyramid: bool = True
    """Also make the coarser magnifications."""

    coarsest_mag: Annotated[Mag | None, ADVANCED] = None
    """Last magnification to make, such as `16-16-4`; by default until the layer fits into 256 voxels."""

    @field_validator("layers")
    @classmethod
    def _has_distinct_names(cls, value: tuple[LayerSource, ...]) -> tuple[LayerSource, ...]:
        _require_distinct([layer.name for layer in value])
        return value


def _require_distinct(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidParams(f"two layers are named {twice[0]!r}; give each its own name")


class ConvertedDataset(NewDataset):
    """Images were converted to a dataset."""

    voxel_size: str
    """Size of a voxel in nanometres, x,y,z."""

    mags: tuple[str, ...]
    """Magnifications of the first layer, finest first."""


def _result_bytes(params: ConvertParams, inputs: Inputs) -> int:
    """Estimate the layers by their images, packed without loss, and the pyramid as a seventh of that."""
    images_bytes = sum(inputs.source_bytes(layer.source) for layer in params.layers)
    return images_bytes * 8 // 7 if params.pyramid else images_bytes


def _makes(params: ConvertParams) -> list[MadeLayer]:
    return [MadeLayer(layer.name, layer.category) for layer in params.layers]


def _args_of(params: ConvertParams) -> Json:
    # Not where the images are: workers of WEBKNOSSOS look for them at a place of their own.
    return {
        "voxel_size_factor": None if params.voxel_size is None else str(params.voxel_size),
        "voxel_size_unit": "nanometer",
    }


def _outcome_of(params: ConvertParams, result: ForeignResult) -> ConvertedDataset:
    summary = result.summary
    if summary is None or not summary.layers or summary.voxel_size is None:
        raise InvalidParams(f"the worker left no dataset {str(params.target)!r} whose metadata can be read")
    return ConvertedDataset(
        dataset=str(params.target),
        layers=tuple(layer.name for layer in summary.layers),
        voxel_size=summary.voxel_size,
        mags=summary.layers[0].mags,
    )


@workflow(
    version=1,
    cost=FREE,
    priority_class="short",
    result_bytes=_result_bytes,
    makes=_makes,
    example={"layers": [{"source": "root:demo/raw"}], "target": "my-dataset", "voxel_size": "10,10,10"},
    foreign=[ForeignName("convert_to_wkw", args_of=_args_of, outcome_of=_outcome_of)],
)
def convert(params: ConvertParams, job: Job) -> ConvertedDataset:
    """Convert image stacks to a chunked, multiscale dataset.

    Reads folders of TIFF, PNG, JPEG or WebP sections (in natural order), files of many formats, from TIFF and OME-TIFF
    to those of microscopes, chunked stores such as OME-Zarr, N5 and precomputed, zip and tar archives of any of them,
    and raw voxels of a given size and type; `voxelworks inspect` says what it would read. Each channel, time point and
    image in a file becomes a layer. Voxels are uint8 to uint32, float32 or RGB, labels also of 64 bits; stored values
    are kept as they are. Missing and unequal sections are refused by name unless `fill_missing` is set. The result is
    Zarr v3 with the metadata of WEBKNOSSOS and of OME-Zarr 0.5.
    """
    job.check_new_dataset(params.target)
    chosen = [item for layer in params.layers for item in _chosen(layer, params, job)]
    _require_distinct([item.name for item in chosen])
    for item in chosen:
        job.require_inside(item.layer.source, item.source.files)
        _check_dtype(item)
        job.log(_description(item))
    voxel_size = _voxel_size(params, [item.source for item in chosen], job)
    fingerprints = [item.source.fingerprint for item in chosen]
    dataset = job.start_dataset(params.target, voxel_size, inputs=fingerprints)
    plans = [_LayerPlan(params, item, dataset, job) for item in chosen]
    for plan in plans:
        plan.require_memory(job)
    job.expect(sum(plan.units for plan in plans))
    for plan in plans:
        plan.write(job)
    dataset.write_metadata()
    return ConvertedDataset(
        dataset=str(params.target),
        layers=tuple(item.name for item in chosen),
        voxel_size=str(voxel_size),
        mags=tuple(str(mag) for mag in plans[0].mags),
    )


@dataclass(frozen=True)
class _Chosen:
    """A volume, and the layer that it becomes."""

    layer: LayerSource
    """What the user asked for: there may be several volumes for it."""
    name: str
    category: Literal["color", "segmentation"]
    source: VolumeSource
    modality: str | None
    """Kind of microscopy of an image, if it is known."""


def _chosen(layer: LayerSource, params: ConvertParams, job: Job) -> list[_Chosen]:
    """Open the volumes of a source that are wanted, and name their layers."""
    from voxelworks.volumes.formats import named, open_volumes

    location = job.unpack(layer.source, params.target)
    volumes = open_volumes(
        location,
        fill_missing=params.fill_missing,
        raw=layer.raw_layout,
        may_leave_folder=job.is_trusting,
    )
    if layer.part is not None:
        volumes = (named(volumes, layer.part, layer.source),)
    if len(volumes) > _LAYERS_MAX:
        raise InvalidParams(
            f"{layer.source} holds {len(volumes)} volumes, which are too many for one dataset; choose one of them "
            f"as `part`, such as {volumes[0].name!r}"
        )
    if len(volumes) == 1:
        return [_chosen_volume(layer, layer.name, volumes[0], params)]
    return [
        _chosen_volume(layer, f"{layer.name}_{_layer_name_of(volume.name)}", volume, params)
        for volume in volumes
    ]


def _chosen_volume(layer: LayerSource, name: str, volume: Volume, params: ConvertParams) -> _Chosen:
    # Labels that were averaged as if they were an image would be worth nothing.
    category = "segmentation" if volume.category == "segmentation" else layer.category
    modality = (params.modality or volume.modality or None) if category == "color" else None
    return _Chosen(layer, name, category, volume.source, modality)


def _layer_name_of(part: str) -> str:
    """Make the end of a layer name of what a volume is called in its file."""
    return re.sub("[^A-Za-z0-9._-]+", "-", part).strip("-._")[:64] or "part"


class _LayerPlan:
    """One volume, the layer it becomes, and the groups of levels that are written together."""

    def __init__(self, params: ConvertParams, chosen: _Chosen, dataset: Dataset, job: Job) -> None:
        from voxelworks.volumes.mags import mag_sequence
        from voxelworks.volumes.shards import plan_levels
        from voxelworks.workflows._pyramid import method_for

        source, category = chosen.source, chosen.category
        self.name = chosen.name
        self.dataset = dataset
        self.source = source
        self.method = method_for(category)
        self.box = Box.from_zyx((0, 0, 0), source.shape_zyx)
        coarser = (
            mag_sequence(dataset.voxel_size, self.box, until=params.coarsest_mag) if params.pyramid else []
        )
        self.mags = [MAG1, *coarser]
        self.layer = dataset.add_layer(
            chosen.name, category, source.dtype.name, source.channel_count, self.box
        )
        if chosen.modality is not None:
            dataset.source = dataset.source.with_modality(chosen.modality, [chosen.name])
        self.groups = plan_levels(
            self.box, self.mags, source.dtype, source.channel_count, slots=job.slots,
            shard_bytes_max=job.settings.shard_bytes_max, write_source=True,
        )  # fmt: skip
        self.arrays: dict[Mag, MagArray] = {
            mag: self.layer.add_mag(mag, shard_zyx=shard)
            for group in self.groups
            for mag, shard in group.levels
        }

    @property
    def units(self) -> int:
        """Work of this layer: voxels read by each group, and once more if they are decoded or unpacked beforehand."""
        read = sum(self.box.in_mag(group.source_mag).voxel_count for group in self.groups)
        return read + (self.box.voxel_count if self._is_staged or self._is_packed else 0)

    @property
    def _is_packed(self) -> bool:
        """Whether the whole array has to be unpacked before a block can be cut from it."""
        from voxelworks.volumes.formats.packed import PackedSource

        return isinstance(self.source, PackedSource)

    @property
    def _is_staged(self) -> bool:
        """Whether cutting blocks from the images would decode each section more than once."""
        _, height, width = self.source.shape_zyx
        _, block_height, block_width = self.groups[0].block_zyx
        is_wide = width > block_width or height > block_height
        return is_wide and not self.source.has_random_access and not self._is_packed

    def require_memory(self, job: Job) -> None:
        """Refuse the layer before anything is read if a section or a block of it does not fit into memory."""
        if self._is_staged:
            _, height, width = self.source.shape_zyx
            job.require_memory(
                self.source.decoding_bytes,
                item=f"section of layer {self.name} ({width} x {height} voxels, decoded whole)",
                remedy="save the sections as uncompressed or tiled TIFF",
            )
        for group in self.groups:
            job.require_memory(group.memory_bytes(self.source.dtype, self.source.channel_count))

    def write(self, job: Job) -> None:
        from voxelworks.workflows._pyramid import write_group

        first, *rest = self.groups
        largest = self._write_unpacked(job, first) if self._is_packed else self._write_first(job, first)
        for group in rest:
            source = self.arrays[group.source_mag]
            write_group(job, self._phase(group), group, source, self.arrays, self.box, self.method)
        if self.layer.category == "segmentation":
            self.dataset.source = self.dataset.source.with_largest_segment_id(self.name, largest)

    def _write_unpacked(self, job: Job, group: LevelGroup) -> int:
        """Unpack the array into the scratch folder, read the blocks from there; give the largest value."""
        from voxelworks.volumes.formats.packed import PackedSource
        from voxelworks.workflows._pyramid import are_written, write_group
        from voxelworks.workflows._staging import Unpack

        assert isinstance(self.source, PackedSource)
        path = job.folder.scratch / f"{self.name}.raw"
        phase, source = self._phase(group), self.source
        unpacked: VolumeSource = source
        if are_written(job, phase, group.blocks(self.box)):
            job.skip(self.box.voxel_count)
        else:
            path.parent.mkdir(exist_ok=True)
            job.process(
                f"{self.name}: unpacking", [("all", str(path))], Unpack(source),
                units=self.box.voxel_count, memory_bytes_per_item=source.decoding_bytes, is_resumable=False,
            )  # fmt: skip
            unpacked = source.unpacked(path)
        largest = write_group(job, phase, group, unpacked, self.arrays, self.box, self.method)
        path.unlink(missing_ok=True)
        return largest

    def _write_first(self, job: Job, group: LevelGroup) -> int:
        """Read the images; give the largest value."""
        from voxelworks.workflows._pyramid import are_written, write_blocks, write_group
        from voxelworks.workflows._staging import StagedSlab

        _, height, width = self.source.shape_zyx
        block_depth, block_height, block_width = group.block_zyx
        if not self._is_staged:
            return write_group(
                job, self._phase(group), group, self.source, self.arrays, self.box, self.method
            )
        largest = 0
        for slab_box in self.box.tiles((width, height, block_depth)):
            tiles = list(slab_box.tiles((block_width, block_height, block_depth)))
            phase = f"{self._phase(group)}, {_sections(slab_box)}"
            slab = StagedSlab.of(self.source, job.folder.scratch, self.name, slab_box)
            if are_written(job, phase, tiles):
                job.skip(slab_box.voxel_count)  # without blocks to make there is nothing to decode for
            else:
                self._decode(job, slab, slab_box)
            units = slab_box.voxel_count
            written = write_blocks(job, phase, group, slab, self.arrays, tiles, self.method, units=units)
            largest = max(largest, written)
            Path(slab.path).unlink(missing_ok=True)
        return largest

    def _decode(self, job: Job, slab: StagedSlab, slab_box: Box) -> None:
        """Decode the sections of one slab into the scratch folder."""
        from voxelworks.workflows._staging import StageSection

        slab.allocate()
        job.process(
            f"{self.name}: decoding {_sections(slab_box)}",
            [(str(z), z) for z in range(slab.first_z, slab.first_z + slab.depth)],
            StageSection(self.source, slab),
            units=slab_box.voxel_count,
            memory_bytes_per_item=self.source.decoding_bytes,
            noun="sections",
            is_resumable=False,
        )

    def _phase(self, group: LevelGroup) -> str:
        first, last = group.levels[0][0], group.levels[-1][0]
        return f"{self.name}: mag {first}" + (f" to {last}" if last != first else "")


def _sections(box: Box) -> str:
    first, count = box.topleft[2], box.size[2]
    return f"sections {first} to {first + count - 1}"


def _check_dtype(chosen: _Chosen) -> None:
    dtype, channels = chosen.source.dtype, chosen.source.channel_count
    place = str(chosen.layer.source)
    if chosen.name != chosen.layer.name:
        place += f" (layer {chosen.name})"
    if chosen.category == "segmentation" and (dtype.kind not in "iu" or channels != 1):
        found = "RGB" if channels > 1 else dtype.name
        raise UnsupportedDtype(
            f"{place} holds {found}, but segmentation layers need whole numbers; use category color"
        )
    if chosen.category == "color" and dtype.itemsize == 8:
        raise UnsupportedDtype(
            f"{place} holds {dtype.name}, which only segmentation layers may; use category segmentation"
        )


def _description(chosen: _Chosen) -> str:
    source = chosen.source
    depth, height, width = source.shape_zyx
    kind = "RGB" if source.channel_count == 3 else source.dtype.name
    stated = f"voxel size {source.voxel_size} nm by {source.voxel_size_from}" if source.voxel_size else ""
    notes = "".join(f"; {note}" for note in (stated or "no voxel size stated", *source.notes))
    return f"layer {chosen.name}: {chosen.layer.source}, {width} x {height} x {depth} voxels (x, y, z), {kind}{notes}"


def _voxel_size(params: ConvertParams, sources: list[VolumeSource], job: Job) -> VoxelSize:
    stated = [source for source in sources if source.voxel_size is not None]
    if params.voxel_size is not None:
        for source in stated:
            if source.voxel_size != params.voxel_size:
                stated_size = f"{source.voxel_size_from} says {source.voxel_size}"
                job.log(f"voxel size {params.voxel_size} nm is taken as given; {stated_size}")
        return params.voxel_size
    sizes = {source.voxel_size for source in stated}
    if len(sizes) != 1:
        found = "the layers state different ones" if sizes else "the images do not state it"
        raise InvalidParams(f"voxel size is missing: {found}; give it as x,y,z in nanometres, such as 4,4,40")
    (size,) = sizes
    assert size is not None
    job.log(f"voxel size {size} nm, from {stated[0].voxel_size_from}")
    return size
