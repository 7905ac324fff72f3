"""Export a box of a layer as OME-Zarr, packed into one zip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import model_validator

from voxelworks.errors import InvalidParams
from voxelworks.geometry import Box
from voxelworks.volumes.metadata import OmeVersion
from voxelworks.workflows import (
    ADVANCED,
    FREE,
    Artifact,
    Inputs,
    Job,
    LayerMag,
    LayerRef,
    Mag,
    NewFileRef,
    Params,
    box_bytes,
    workflow,
)
from voxelworks.workflows.export_tiff import export_box, export_name

if TYPE_CHECKING:
    from voxelworks.volumes.dataset import Layer

SUFFIX = ".ome.zarr.zip"


class ExportOmeZarrParams(Params):
    """What to export."""

    layer: LayerRef
    """Layer to export."""

    box: Box | None = None
    """Box to export, `x,y,z,width,height,depth` in voxels of mag 1; by default the whole layer."""

    mag: LayerMag | None = None
    """First magnification to export; by default the finest."""

    coarsest_mag: Mag | None = None
    """Last magnification to export; by default the coarsest that the layer has."""

    ome_version: OmeVersion = "0.5"
    """Version of OME-Zarr: `0.5` has few and large files, `0.4` is read by older programs too."""

    file: Annotated[NewFileRef | None, ADVANCED] = None
    """Name of the file; by default after dataset, layer and mag."""

    @model_validator(mode="after")
    def _is_named_as_it_is(self) -> Self:
        if self.file is not None and not self.file.lower().endswith(".zip"):
            raise InvalidParams(f"the file is a zip, and its name ends in .zip, not like {str(self.file)!r}")
        return self


class ExportedOmeZarr(Artifact):
    """A box of a layer was exported."""

    dataset: str
    """Name of the dataset."""
    layer: str
    """The layer."""
    mags: tuple[str, ...]
    """Its magnifications, finest first."""
    size: str
    """Exported voxels of the finest, x,y,z."""


def _file_name(params: ExportOmeZarrParams) -> str:
    return params.file or export_name(params.layer, params.mag, SUFFIX)


def _result_bytes(params: ExportOmeZarrParams, inputs: Inputs) -> int:
    """Estimate the finest voxels without compression, and a seventh more for coarser ones."""
    return box_bytes(inputs.layer(params.layer), params.box, params.mag) * 8 // 7


@workflow(
    version=1,
    cost=FREE,
    priority_class="short",
    result_bytes=_result_bytes,
    file_name=_file_name,
    example={"layer": "demo/color", "box": "0,0,0,100,100,20"},
)
def export_ome_zarr(params: ExportOmeZarrParams, job: Job) -> ExportedOmeZarr:
    """Export a box of a layer as OME-Zarr 0.5 or 0.4, for napari, Fiji, Neuroglancer and Python.

    The zip holds one image with the magnifications of the layer, each cut to the box, and where it lies in the dataset.
    Nothing in it is compressed twice: programs read the zip as it is, or unpack it first.
    """
    from voxelworks.workflows._archive import Archive
    from voxelworks.workflows._ome_zarr import Image, Level

    layer = job.open(params.layer)
    mags = _chosen_mags(params, layer)
    levels = [
        Level.of(
            source, export_box(layer, params.box, source), job.settings.shard_bytes_max, params.ome_version
        )
        for source in (layer.mag(mag) for mag in mags)
    ]
    image = Image(layer.name, layer.category, layer.voxel_size, levels, params.ome_version)
    path = job.start_artifact(
        media_type="application/zip",
        size_bytes=image.bytes_max,
        inputs=[str(level.source) for level in levels],
    )
    image.require_memory(job)
    job.expect(image.units)
    archive = Archive.begin(job, path)
    image.write(job, archive)
    archive.close()
    return ExportedOmeZarr(
        file=str(_file_name(params)), dataset=str(params.layer.dataset), layer=layer.name,
        mags=tuple(map(str, mags)), size=",".join(map(str, levels[0].box.size)),
    )  # fmt: skip


def _chosen_mags(params: ExportOmeZarrParams, layer: Layer) -> list[Mag]:
    first = layer.finest.mag if params.mag is None else layer.mag(params.mag).mag
    last = params.coarsest_mag
    chosen = [mag for mag in layer.mags if _is_within(first, mag) and (last is None or _is_within(mag, last))]
    if not chosen:
        have = ", ".join(map(str, layer.mags))
        raise InvalidParams(f"layer {layer.name!r} has no mag from {first} to {last}; it has {have}")
    return chosen


def _is_within(finer: Mag, coarser: Mag) -> bool:
    return all(a <= b for a, b in zip(finer.xyz, coarser.xyz, strict=True))
