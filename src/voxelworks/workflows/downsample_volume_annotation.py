"""Make the coarser magnifications of a volume annotation: a new file of it, to be uploaded in place of the old one."""

from __future__ import annotations

import math
import re
from functools import partial
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import field_validator, model_validator

from voxelworks.errors import InvalidAnnotation, InvalidParams
from voxelworks.workflows import (
    ADVANCED,
    FREE,
    AnnotationRef,
    Artifact,
    DatasetRef,
    Inputs,
    Job,
    Mag,
    NewFileRef,
    Params,
    check_name,
    workflow,
)

if TYPE_CHECKING:
    from voxelworks.protocol.views import VolumeLayerSummary
    from voxelworks.volumes.annotation_writer import PackedPart
    from voxelworks.volumes.annotations import Annotation, Buckets, PackedVolume
    from voxelworks.volumes.dataset import Dataset, Layer


class DownsampleVolumeAnnotationParams(Params):
    """Which annotation of which dataset, and how far."""

    dataset: DatasetRef
    """Dataset that was annotated."""

    annotation: AnnotationRef
    """Annotation with volume data."""

    coarsest_mag: Mag | None = None
    """Last magnification to make, such as `16-16-4`; by default until the dataset fits into 256 voxels."""

    volume_layer: Annotated[str | None, ADVANCED] = None
    """Volume layer of the annotation, if it has several."""

    fallback_layer: Annotated[str | None, ADVANCED] = None
    """Segmentation layer below the annotation; by default the one that the annotation names."""

    file: Annotated[NewFileRef | None, ADVANCED] = None
    """Name of the file; by default after the annotation."""

    @field_validator("fallback_layer")
    @classmethod
    def _is_name(cls, value: str | None) -> str | None:
        return value if value is None else check_name("layer", value)

    @model_validator(mode="after")
    def _is_named_as_it_is(self) -> Self:
        if self.file is not None and not self.file.lower().endswith(".zip"):
            raise InvalidParams(f"the file is a zip, and its name ends in .zip, not like {str(self.file)!r}")
        return self


class DownsampledAnnotation(Artifact):
    """An annotation got coarser magnifications."""

    volume_layer: str
    """The volume layer that got them."""
    mags: tuple[str, ...]
    """The new magnifications, finest first."""
    bucket_count: int
    """How many buckets were made for them."""


def _file_name(params: DownsampleVolumeAnnotationParams) -> str:
    if params.file is not None:
        return params.file
    name = re.sub(r"\.(zip|nml)$", "", params.annotation.rpartition("/")[2], flags=re.IGNORECASE)
    safe = re.sub("[^A-Za-z0-9._-]+", "-", name).strip("-._")
    return f"{safe or 'annotation'}__downsampled.zip"


def _result_bytes(params: DownsampleVolumeAnnotationParams, inputs: Inputs) -> int:
    """Estimate the annotation, and as much again: thin strokes take about as many buckets on each of a few levels."""
    return 2 * inputs.annotation_bytes(params.annotation)


@workflow(
    version=1,
    cost=FREE,
    priority_class="short",
    result_bytes=_result_bytes,
    file_name=_file_name,
    example={"dataset": "demo", "annotation": "4f1c2ab09d3e5678"},
)
def downsample_volume_annotation(params: DownsampleVolumeAnnotationParams, job: Job) -> DownsampledAnnotation:
    """Make the coarser magnifications of a volume annotation.

    The result is the file of the annotation as it was, with more in the volume data of one layer: WEBKNOSSOS then shows
    it when one zooms out. Each new voxel is the most frequent one of those below, painted ones over the layer below the
    annotation; what was erased stays erased. Only parts in which something was painted get coarser ones.

    Mags are those of the dataset, and else as `downsample` chooses them. Mags that the layer has already stay as they
    are; the new ones go on from its coarsest.
    """
    from voxelworks.volumes import zip_writer
    from voxelworks.volumes.annotation_writer import write_annotation, write_volume
    from voxelworks.workflows._materialize import segmentation_below

    dataset = job.open_dataset(params.dataset)
    annotation = job.open_annotation(params.annotation)
    layer = _volume_layer(params, annotation)
    name = params.fallback_layer or layer.fallback_layer
    below = None if name is None else segmentation_below(dataset, name)
    known = [below] if below is not None else dataset.layers
    inputs = [annotation.fingerprint, str(dataset.voxel_size), *(str(item.properties) for item in known)]
    path = job.start_artifact(
        media_type=zip_writer.MEDIA_TYPE, size_bytes=annotation.path.stat().st_size, inputs=inputs
    )
    scratch = job.folder.scratch
    volume = annotation.open_volume(layer, scratch / "volume", job.check)
    if volume is None or not volume.mags:
        raise InvalidAnnotation(
            f"volume layer {layer.name!r} holds no voxels: there is nothing to downsample"
        )
    source = volume.unpack(volume.mags[-1], scratch / "volume" / "source", job.check)
    levels = _plan(params, dataset, below, source, job)
    _require_room(annotation, volume, levels, job)
    made = _make(below, source, levels, job)
    new = scratch / "volume" / "new.zip"
    crc = write_volume(new, volume, made, job.check)
    write_annotation(path, annotation, volume.location, new, crc, job.check)
    return DownsampledAnnotation(
        file=str(_file_name(params)), volume_layer=layer.name or "", mags=tuple(str(level.mag) for level in levels),
        bucket_count=sum(map(len, levels)),
    )  # fmt: skip


def _volume_layer(params: DownsampleVolumeAnnotationParams, annotation: Annotation) -> VolumeLayerSummary:
    layer = annotation.volume_layer(params.volume_layer)
    if layer is None:
        raise InvalidAnnotation("the annotation has no volume layer: there is nothing to downsample")
    if layer.has_editable_mapping:
        raise InvalidAnnotation(
            f"volume layer {layer.name!r} was split and merged by proofreading, so that its ids are not those of the "
            "layer below; make a dataset of it with materialize_volume_annotation, which makes all magnifications"
        )
    if layer.location is None:
        raise InvalidAnnotation(
            f"the annotation was downloaded without the voxels of volume layer {layer.name!r}; download it with its "
            "volume data"
        )
    return layer


def _plan(
    params: DownsampleVolumeAnnotationParams,
    dataset: Dataset,
    below: Layer | None,
    source: Buckets,
    job: Job,
) -> list[Buckets]:
    """Choose the magnifications to make, and find the buckets that each will have."""
    from voxelworks.volumes.annotation_writer import create_coarser
    from voxelworks.workflows._annotation_mags import mags_to_make

    layers = [below] if below is not None else dataset.layers
    box = source.array.box.from_mag(source.mag)
    known: set[Mag] = set()
    for layer in layers:
        box = box.union(layer.box)
        known.update(layer.mags)
    mags = mags_to_make(source.mag, sorted(known), dataset.voxel_size, box, params.coarsest_mag)
    if not mags:
        raise InvalidParams(
            f"the volume layer has mag {source.mag} already; name a coarser one with coarsest_mag to go on"
        )
    levels: list[Buckets] = []
    finer = source
    for mag in mags:
        finer = create_coarser(finer, mag, job.folder.scratch / "mags" / str(mag))
        levels.append(finer)
    return levels


def _require_room(annotation: Annotation, volume: PackedVolume, levels: list[Buckets], job: Job) -> None:
    """Refuse what would become too large, before the work begins."""
    remedy = "name a finer coarsest_mag"
    count = volume.entry_count + sum(len(level) + 1 for level in levels)
    if count > volume.limits.entries_max:
        raise InvalidParams(
            f"the volume data would hold {count:,} files, and at most {volume.limits.entries_max:,} are read; {remedy}"
        )
    job.require_room(
        annotation.path.stat().st_size + sum(len(level) * _bucket_bytes(level) for level in levels),
        remedy=remedy,
    )


def _bucket_bytes(level: Buckets) -> int:
    return math.prod(level.edges) * level.array.dtype.itemsize


def _make(
    below: Layer | None, source: Buckets, levels: list[Buckets], job: Job
) -> list[tuple[Buckets, list[PackedPart]]]:
    """Make the buckets of all levels, each from the level before."""
    from voxelworks.volumes.annotation_writer import PackedPart, is_intact, shards_of
    from voxelworks.workflows._annotation_mags import MakeBuckets, shrunk_to

    job.expect(sum(map(len, levels)))
    made: list[tuple[Buckets, list[PackedPart]]] = []
    finer = source
    for level in levels:
        shrunk = shrunk_to(level.mag, finer, below)
        parts = job.process(
            f"mag {level.mag}", [(",".join(map(str, shard)), members) for shard, members in shards_of(level)],
            MakeBuckets(shrunk, level), units=len(level),
            memory_bytes_per_item=shrunk.memory_bytes() + 6 * _bucket_bytes(level), result_type=PackedPart,
            is_intact=partial(is_intact, level),
        )  # fmt: skip
        made.append((level, parts))
        finer = level
    return made
