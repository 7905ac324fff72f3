"""Export a box of a layer as TIFF: a zip of sections, or one OME-TIFF."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from xml.sax.saxutils import escape

from pydantic import model_validator

from voxelworks.errors import InvalidParams
from voxelworks.geometry import Box, VoxelSize
from voxelworks.protocol.foreign import native_id
from voxelworks.protocol.messages import Json
from voxelworks.workflows import (
    ADVANCED,
    FREE,
    AnnotationRef,
    Artifact,
    ForeignName,
    ForeignResult,
    Inputs,
    Job,
    LayerMag,
    LayerRef,
    NewFileRef,
    Params,
    box_bytes,
    workflow,
)

if TYPE_CHECKING:
    from pathlib import Path

    from voxelworks.geometry import Zyx
    from voxelworks.volumes.arrays import MagArray
    from voxelworks.volumes.dataset import Layer
    from voxelworks.volumes.metadata import Category
    from voxelworks.volumes.tiff_writer import Compression, PageForm
    from voxelworks.volumes.zip_writer import Entry
    from voxelworks.workflows._painted import Painted
    from voxelworks.workflows._planes import LayerArray, Page, Sections

SUFFIXES = {"sections": (".zip",), "ome_tiff": (".tif", ".tiff")}
"""How the name of a file ends."""
PIXELS_MIN = 512
"""Smaller sizes of a page are made until its longer side is no longer than this."""


class ExportTiffParams(Params):
    """What to export, and as what."""

    layer: LayerRef
    """Layer to export; of an annotation, the one below it."""

    box: Box | None = None
    """Box to export, `x,y,z,width,height,depth` in voxels of mag 1; by default the whole layer."""

    mag: LayerMag | None = None
    """Magnification to export; by default the finest."""

    format: Literal["sections", "ome_tiff"] = "sections"
    """`sections` makes a zip with one TIFF for each section, `ome_tiff` one OME-TIFF with smaller sizes for viewers."""

    annotation: Annotated[AnnotationRef | None, ADVANCED] = None
    """Annotation whose volume data is put over the layer."""

    volume_layer: Annotated[str | None, ADVANCED] = None
    """Volume layer of the annotation, if it has several."""

    compression: Annotated[Literal["none", "deflate", "zstd"], ADVANCED] = "none"
    """Fiji opens `none` and `deflate` by itself, and `zstd` with a newer Bio-Formats."""

    file: Annotated[NewFileRef | None, ADVANCED] = None
    """Name of the file; by default after dataset, layer and mag."""

    @model_validator(mode="after")
    def _is_named_as_it_is(self) -> Self:
        if self.volume_layer is not None and self.annotation is None:
            raise InvalidParams(f"volume layer {self.volume_layer!r} is one of an annotation; name that too")
        wanted = SUFFIXES[self.format]
        if self.file is not None and not self.file.lower().endswith(wanted):
            raise InvalidParams(
                f"the file of format {self.format} ends in {' or '.join(wanted)}, not like {str(self.file)!r}"
            )
        return self


class ExportedTiff(Artifact):
    """A box of a layer was exported."""

    dataset: str
    """Name of the dataset."""
    layer: str
    """The layer."""
    mag: str
    """Its magnification."""
    size: str
    """Exported voxels, x,y,z."""


def export_name(layer: LayerRef, mag: object, suffix: str) -> str:
    """Name a file after the layer that it was made of."""
    dataset = re.sub("[^A-Za-z0-9._-]+", "-", layer.dataset.rstrip("/").rpartition("/")[2]).strip("-._")
    mag_text = "" if mag is None else f"__mag{mag}"
    return f"{dataset or 'dataset'}__{layer.layer}{mag_text}{suffix}"


def _file_name(params: ExportTiffParams) -> str:
    suffix = ".zip" if params.format == "sections" else ".ome.tif"
    if params.annotation is not None:
        suffix = f"__annotated{suffix}"
    return params.file or export_name(params.layer, params.mag, suffix)


def _result_bytes(params: ExportTiffParams, inputs: Inputs) -> int:
    """Estimate the voxels without compression, and a third more for smaller sizes."""
    size = box_bytes(inputs.layer(params.layer), params.box, params.mag)
    return size if params.format == "sections" else size * 4 // 3


def _args_of(params: ExportTiffParams) -> Json:
    box = params.box
    return {
        "nd_bbox": None if box is None else {
            "topLeft": list(box.topleft), "width": box.size[0], "height": box.size[1], "depth": box.size[2],
            "additionalAxes": [], "axisOrder": {"c": 0, "x": 1, "y": 2, "z": 3},
        },
        "export_file_name": _file_name(params), "layer_name": params.layer.layer,
        "mag": None if params.mag is None else str(params.mag), "annotation_layer_name": params.volume_layer,
        "annotation_id": None if params.annotation is None else str(params.annotation),
    }  # fmt: skip


def _params_of(args: Mapping[str, Any]) -> Json:
    if args.get("additional_coordinates") not in (None, "", "[]", []):
        raise InvalidParams("layers with further axes cannot be exported")
    if not args.get("layer_name"):
        raise InvalidParams(
            "layerName is missing; name the layer to export, of an annotation the one below it"
        )
    annotation = args.get("annotation_id")
    annotated = {
        "annotation": native_id(str(annotation)) if annotation else None,
        "volume_layer": args.get("annotation_layer_name"),
    }
    is_ome = str(args.get("as_ome_tiff", "")).lower() == "true"
    return {
        "layer": {"dataset": args["dataset_name"], "layer": args["layer_name"]}, "box": args["bbox"],
        "mag": args.get("mag") or None, "format": "ome_tiff" if is_ome else "sections",
        **{name: value for name, value in annotated.items() if value},
    }  # fmt: skip


def _outcome_of(_params: ExportTiffParams, _result: ForeignResult) -> ExportedTiff:
    raise InvalidParams("files that workers of WEBKNOSSOS leave are not taken over")


@workflow(
    version=1,
    cost=FREE,
    priority_class="short",
    result_bytes=_result_bytes,
    file_name=_file_name,
    example={"layer": "demo/color", "box": "0,0,0,100,100,20"},
    foreign=[ForeignName("export_tiff", args_of=_args_of, outcome_of=_outcome_of, params_of=_params_of)],
)
def export_tiff(params: ExportTiffParams, job: Job) -> ExportedTiff:
    """Export a box of a layer as TIFF, for Fiji, QuPath, Python and other programs.

    Either a zip with one TIFF for each section, numbered as in the dataset, or one OME-TIFF with smaller sizes of each
    section for fast viewing. Voxel sizes are written into both. Values stay as they are; OME-TIFF has no whole numbers
    of 64 bits, so that ids are stored with 32, or the export is refused if they do not fit.

    With an annotation its volume data is put over the layer, in the magnification that is exported; what was erased
    stays erased. What was painted outside of the layer is left out.
    """
    from voxelworks.volumes import tiff_writer, zip_writer

    layer = job.open(params.layer)
    array = layer.finest if params.mag is None else layer.mag(params.mag)
    box = export_box(layer, params.box, array)
    painted = _painted(params, layer, array, job)
    voxel_size = layer.voxel_size.in_mag(array.mag)
    is_archive = params.format == "sections"
    sections = _sections(params, layer, array, box, array.chunk_shape_zyx)
    path = job.start_artifact(
        media_type=zip_writer.MEDIA_TYPE if is_archive else tiff_writer.MEDIA_TYPE,
        size_bytes=sections.file_bytes_max, inputs=[str(array), *(painted.inputs if painted is not None else ())],
    )  # fmt: skip
    if painted is not None:
        shown = painted.unpacked(array.mag, job.folder.scratch, job.check)
        sections = _sections(params, layer, shown, box, array.chunk_shape_zyx)
        # What was unpacked stays beside the file until that is there.
        kept = sum(file.stat().st_size for file in job.folder.scratch.rglob("*") if file.is_file())
        job.require_room(sections.file_bytes_max + kept, remedy="choose a smaller box or a coarser mag")
    job.expect(sections.units)
    if is_archive:
        _write_archive(job, path, sections, layer.name, voxel_size)
    else:
        write_ome_tiff(job, path, sections, layer.name, voxel_size, _description(layer, sections))
    return ExportedTiff(
        file=str(_file_name(params)), dataset=str(params.layer.dataset), layer=layer.name, mag=str(array.mag),
        size=",".join(map(str, box.size)),
    )  # fmt: skip


def export_box(layer: Layer, asked: Box | None, source: MagArray) -> Box:
    """Give the box to export, in voxels of its mag; refuse one that is empty or leaves the layer."""
    from voxelworks.workflows import check_box

    box = layer.box if asked is None else asked
    check_box(layer.name, layer.box, box)
    return box.in_mag(source.mag)


def _painted(params: ExportTiffParams, layer: Layer, array: MagArray, job: Job) -> Painted | None:
    """Open the annotation that is put over the layer, if there is one."""
    from voxelworks.workflows._painted import Painted

    if params.annotation is None:
        return None
    painted = Painted.open(params.annotation, params.volume_layer, layer.dataset, job)
    if painted.volume.fallback_layer not in (None, layer.name):
        raise InvalidParams(
            f"volume layer {painted.volume.name!r} lies over {painted.volume.fallback_layer!r}, not over "
            f"{layer.name!r}; export that layer"
        )
    painted.require_mag(array.mag)
    return painted


def _sections(
    params: ExportTiffParams, layer: Layer, source: LayerArray, box: Box, chunk_zyx: Zyx
) -> Sections:
    from voxelworks.volumes.tiff_writer import ome_dtype
    from voxelworks.workflows._planes import Sections, cut_strips, cut_tiles

    is_annotated = params.annotation is not None
    is_rgb = layer.properties.element_class == "uint24" and not is_annotated
    count = source.channel_count
    channels = ((0, count),) if is_rgb else tuple((number, number + 1) for number in range(count))
    voxel_bytes = count * source.dtype.itemsize
    is_tiled = params.format == "ome_tiff"
    cut = cut_tiles(chunk_zyx, voxel_bytes) if is_tiled else cut_strips(box, chunk_zyx, voxel_bytes)
    dtype = ome_dtype(source.dtype) if is_tiled else source.dtype
    forms = _forms(params, box, dtype.name, count if is_rgb else 1, cut.height, is_tiled=is_tiled)
    category = "segmentation" if is_annotated else layer.category
    return Sections(source, box, category, forms, channels, cut)


def plain_sections(
    source: LayerArray,
    box: Box,
    category: Category,
    *,
    chunk_zyx: Zyx,
    compression: Compression,
    is_rgb: bool = False,
    title: str = "",
) -> Sections:
    """Make each section of a box, in voxels of its mag, a page in one size, as all programs open them."""
    from voxelworks.volumes.tiff_writer import PageForm
    from voxelworks.workflows._planes import Sections, cut_strips

    count, (width, height, _) = source.channel_count, box.size
    channels = ((0, count),) if is_rgb else tuple((number, number + 1) for number in range(count))
    cut = cut_strips(box, chunk_zyx, count * source.dtype.itemsize)
    samples = count if is_rgb else 1
    form = PageForm(width, height, source.dtype.name, samples, compression, width, cut.height, False)
    return Sections(source, box, category, (form,), channels, cut, title)


def _forms(
    params: ExportTiffParams, box: Box, dtype: str, samples: int, strip_height: int, *, is_tiled: bool
) -> tuple[PageForm, ...]:
    """Describe a page and its smaller sizes."""
    from voxelworks.volumes.tiff_writer import PageForm
    from voxelworks.workflows._planes import TILE

    width, height, _ = box.size
    if not is_tiled:
        return (PageForm(width, height, dtype, samples, params.compression, width, strip_height, False),)
    found = [PageForm(width, height, dtype, samples, params.compression, TILE, TILE, True)]
    while max(width, height) > PIXELS_MIN:
        width, height = -(-width // 2), -(-height // 2)
        found.append(PageForm(width, height, dtype, samples, params.compression, TILE, TILE, True))
    return tuple(found)


def _write_archive(job: Job, path: Path, sections: Sections, layer_name: str, voxel_size: VoxelSize) -> None:
    from voxelworks.volumes import tiff_writer, zip_writer
    from voxelworks.workflows._planes import write_at

    last_z = sections.box.bottomright[2] - 1
    archive = SectionArchive(
        sections.forms, layer_name, len(str(last_z)), len(sections.channels), tiff_writer.imagej_text(voxel_size)
    )  # fmt: skip
    placed = sections.write(job, path, archive, start=0)
    with path.open("r+b") as stream:
        stream.truncate(placed.end)
        write_at(stream.fileno(), zip_writer.directory(placed.entries, placed.end), placed.end)


def write_ome_tiff(
    job: Job, path: Path, sections: Sections, name: str, voxel_size: VoxelSize, description: str
) -> None:
    """Write one TIFF with all pages. Ids of 64 bits, which OME does not know, are described in words alone."""
    import numpy as np

    from voxelworks.volumes import tiff_writer

    dtype = np.dtype(sections.forms[0].dtype)
    text = description
    if dtype == tiff_writer.ome_dtype(dtype):
        text = tiff_writer.ome_xml(
            name, box=sections.box, dtype=dtype, channel_count=sections.source.channel_count,
            is_rgb=sections.forms[0].samples == 3, voxel_size=voxel_size, description=escape(description),
        )  # fmt: skip
    is_big = sections.file_bytes_max > tiff_writer.CLASSIC_BYTES_MAX
    book = OmeBook(sections.forms, sections.box, len(sections.channels), text, is_big)
    begin = tiff_writer.header(is_big=is_big)
    placed = sections.write(job, path, book, start=len(begin))
    with path.open("r+b") as stream:
        stream.truncate(placed.end)
        stream.write(begin)


def _description(layer: Layer, sections: Sections) -> str:
    return (
        f"Layer {layer.name} of dataset {layer.dataset.name}, box {sections.box} "
        f"(x, y, z, width, height, depth) in voxels of mag {sections.source.mag}"
    )


@dataclass(frozen=True)
class SectionArchive:
    """A zip with a TIFF for each page."""

    forms: tuple[PageForm, ...]
    layer_name: str
    digits: int
    channel_count: int
    """So many folders, if it is more than one."""
    text: Any
    alignment: int = 1

    def frame(self, page: Page) -> tuple[bytes, Entry | None]:
        from voxelworks.volumes.tiff_writer import CLASSIC_BYTES_MAX, header, page_directory
        from voxelworks.volumes.zip_writer import Entry

        is_big = page.data_size > CLASSIC_BYTES_MAX
        begin = header(is_big=is_big)
        before = begin + page_directory(
            self.forms, page.segments, self.text, offset=len(begin), data_size=page.data_size, has_next=False,
            is_big=is_big,
        )  # fmt: skip
        folder = f"{self.layer_name}_channel{page.number + 1}" if self.channel_count > 1 else self.layer_name
        name = f"{folder}/{self.layer_name}_{page.z:0{self.digits}}.tif"
        entry = Entry(name, page.offset, len(before) + page.data_size, page.data_crc(before))
        return entry.header + before, entry


@dataclass(frozen=True)
class OmeBook:
    """One TIFF with all pages."""

    forms: tuple[PageForm, ...]
    box: Box
    channel_count: int
    text: str
    """Stands in the first page."""
    is_big: bool
    alignment: int = 8

    def frame(self, page: Page) -> tuple[bytes, Entry | None]:
        from voxelworks.volumes.tiff_writer import PageText, page_directory

        is_first = (page.z, page.number) == (self.box.topleft[2], 0)
        is_last = (page.z, page.number) == (self.box.bottomright[2] - 1, self.channel_count - 1)
        before = page_directory(
            self.forms, page.segments, PageText(self.text) if is_first else PageText(), offset=page.offset,
            data_size=page.data_size, has_next=not is_last, is_big=self.is_big,
        )  # fmt: skip
        return before, None
