"""The files of a box that is exported for labelling."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from voxelworks.errors import UnsupportedDtype
from voxelworks.volumes.arrays import MagArray
from voxelworks.volumes.dataset import Layer
from voxelworks.volumes.labelled import (
    LABEL_IMAGE,
    LABELS,
    POSITION_FILE,
    RAW,
    BoxPlace,
    Position,
    box_name,
)
from voxelworks.volumes.metadata import OmeVersion
from voxelworks.volumes.zip_writer import Entry
from voxelworks.workflows._archive import Archive, StoredFile
from voxelworks.workflows._labelling import LOOK_BYTES, RangeIn, crc_text, looks_at
from voxelworks.workflows._materialize import Fallback, MergedVolume
from voxelworks.workflows._ome_zarr import Image, Level
from voxelworks.workflows._planes import Sections
from voxelworks.workflows.export_tiff import plain_sections, write_ome_tiff

if TYPE_CHECKING:
    from voxelworks.workflows._job import Job

README_FILE = "README.txt"
_FIJI_MAX = 2**24
"""Fiji holds larger ids as floats, which round them."""


def labels_to_paint(start: Layer | None, place: BoxPlace, job: Job) -> MergedVolume:
    """Give the labels to begin with, in a type that holds twice as many ids as there are.

    Raises
    ------
    UnsupportedDtype
        If there are ids below 0.
    """
    if start is None:
        return MergedVolume(place.mag, np.dtype(np.uint16))
    labels = MergedVolume(place.mag, start.dtype, Fallback(start.mag(place.mag), start.box))
    ranges = job.process(
        "looking at the labels", looks_at(place.box.in_mag(place.mag)), RangeIn(labels), units=0,
        memory_bytes_per_item=LOOK_BYTES, result_type=tuple[int, int], is_resumable=False,
    )  # fmt: skip
    lowest, largest = min(low for low, _ in ranges), max(high for _, high in ranges)
    if lowest < 0:
        raise UnsupportedDtype(f"layer {start.name!r} has the id {lowest} there; ids are 0 and above")
    fitting = [kind for kind in ("uint16", "uint32") if 2 * largest <= np.iinfo(kind).max]
    return MergedVolume(place.mag, np.dtype((*fitting, "uint64")[0]), labels.fallback)


class BoxFiles:
    """What is in the zip, in one folder: image and labels, each as TIFF and as OME-Zarr, and two texts."""

    def __init__(
        self,
        layer: Layer,
        image: MagArray,
        labels: MergedVolume,
        place: BoxPlace,
        version: OmeVersion,
        start_from: str,
        job: Job,
    ) -> None:
        self._layer, self._job, self._place = layer, job, place
        self._start_from = start_from
        self._labels = labels
        self.name = box_name(layer.dataset.name, layer.name, place)
        box, chunk = place.box.in_mag(place.mag), image.chunk_shape_zyx
        self._is_rgb = layer.properties.element_class == "uint24"
        self._channel_count = image.channel_count
        self._tiffs = {
            RAW: plain_sections(
                image, box, "color", chunk_zyx=chunk, compression="none", is_rgb=self._is_rgb, title="image, "
            ),
            LABELS: plain_sections(
                labels, box, "segmentation", chunk_zyx=chunk, compression="deflate", title="labels, "
            ),
        }  # fmt: skip
        folder, most = f"{self.name}/{self.name}.ome.zarr", job.settings.shard_bytes_max
        self._images = (
            Image(
                layer.name, "color", layer.voxel_size, [Level.of(image, box, most, version)], version, folder,
                "image as OME-Zarr, ", labels=(LABEL_IMAGE,),
            ),
            Image(
                LABEL_IMAGE, "segmentation", layer.voxel_size, [Level.of(labels, box, most, version)], version,
                f"{folder}/labels/{LABEL_IMAGE}", "labels as OME-Zarr, ", is_label=True,
            ),
        )  # fmt: skip

    @property
    def bytes_max(self) -> int:
        """How large the zip may become, with what lies beside it meanwhile."""
        tiffs = [sections.file_bytes_max for sections in self._tiffs.values()]
        return sum(tiffs) + max(tiffs) + sum(image.bytes_max for image in self._images)

    def write(self, path: Path) -> None:
        """Write the zip."""
        for image in self._images:
            image.require_memory(self._job)
        tiff_units = sum(sections.units for sections in self._tiffs.values())
        self._job.expect(tiff_units + sum(image.units for image in self._images))
        archive = Archive.begin(self._job, path)
        (archive.folder / self.name).mkdir()
        self._place_text(archive, README_FILE, self._readme())
        to_paint: list[Entry] = []
        for ending, sections in self._tiffs.items():
            entries = self._place_tiff(archive, ending, sections)
            to_paint += entries if ending == LABELS else ()
        for image in self._images:
            entries = image.write(self._job, archive)
            to_paint += entries if image.is_label else ()
        self._place_text(archive, POSITION_FILE, self._position(to_paint))
        archive.close()

    def _place_tiff(self, archive: Archive, ending: str, sections: Sections) -> tuple[Entry, ...]:
        name = f"{self.name}/{self._tiff_name(ending)}"
        if archive.has(ending):
            self._job.skip(sections.units)
            return archive.place(ending, [])
        described = (
            f"{self._what[ending]} of {self._place} (x, y, z, width, height, depth in voxels of mag 1)"
        )
        write_ome_tiff(
            self._job, archive.folder / name, sections, f"{self.name}__{ending}",
            self._layer.voxel_size.in_mag(self._place.mag), described,
        )  # fmt: skip
        found = self._job.process(
            f"{ending}: checksum", [(name, name)], LookAt(str(archive.folder)), units=0, memory_bytes_per_item=2**23,
            result_type=StoredFile, is_resumable=False, noun="files",
        )  # fmt: skip
        entries = archive.place(ending, found)
        (archive.folder / name).unlink()
        return entries

    def _place_text(self, archive: Archive, name: str, text: str) -> None:
        inside = f"{self.name}/{name}"
        (archive.folder / inside).write_text(text, encoding="utf-8")
        archive.place(name, [StoredFile.of(archive.folder, inside)])

    def _position(self, to_paint: list[Entry]) -> str:
        position = Position(
            dataset=self._layer.dataset.name, layer=self._layer.name, mag=self._place.mag, box=self._place.box,
            voxel_size=self._layer.voxel_size, start_from=self._start_from or None,
            unpainted={entry.name.removeprefix(f"{self.name}/"): crc_text(entry.crc) for entry in to_paint},
        )  # fmt: skip
        return position.model_dump_json(indent=2) + "\n"

    def _tiff_name(self, ending: str) -> str:
        # Not .ome.tif: tifffile, and so napari, takes sections that it saves under such a name for channels.
        return f"{self.name}__{ending}.tif"

    @property
    def _what(self) -> dict[str, str]:
        source = f"dataset {self._layer.dataset.name}"
        return {RAW: f"Layer {self._layer.name} of {source}", LABELS: f"Labels of {source}"}

    def _readme(self) -> str:
        place = self._place
        size = " x ".join(map(str, place.size))
        nm = " x ".join(str(self._layer.voxel_size.in_mag(place.mag)).split(","))
        raw, labels = self._tiff_name(RAW), self._tiff_name(LABELS)
        begun = (
            f"the labels of {self._start_from}, to be corrected"
            if self._start_from
            else "empty, to be painted"
        )
        keep = (
            "\n  Correct ids stay as they are: import them with `ids` set to `keep`."
            if self._start_from
            else ""
        )
        large = ""
        if self._labels.dtype.itemsize > 2:
            large = (
                f"\n  Fiji rounds ids above {_FIJI_MAX:,}: if there are such, paint them in another program."
            )
        return f"""A box to label
==============

Dataset     {self._layer.dataset.name}
Image       {self._layer.name}
Box         {place.box}  (x, y, z, width, height, depth in voxels of mag 1)
Mag         {place.mag}, voxels of {nm} nm
Size        {size} voxels (x, y, z)

What is here
------------

{raw}
  The image. The grey values are those of the dataset.
{labels}
  The labels, {begun}.
{self.name}.ome.zarr
  The same image and labels once more, as OME-Zarr.
{POSITION_FILE}
  Where the box lies in the dataset. Leave it as it is.

How to label
------------

  0 is background: everything that is none of the objects.
  Each object has an id of its own, 1 and above: one id for each mitochondrion,
  nucleus or neuron, the same id wherever that object is seen in the box, and
  never the same for two, also where they touch.
  Label the whole box: what stays 0 is learned as background.{keep}

napari
  {self._napari()}
  Paint in the layer of labels: 2 is the brush, 1 the eraser, M takes a new id.
  Save it with File > Save Selected Layers, under the same name.
  To only look at the OME-Zarr: napari --plugin napari-ome-zarr {self.name}.ome.zarr

Fiji
  Open both TIFF files, paint in the labels with the value that is the id, and
  save them as TIFF. Or open the image in Plugins > Labkit, paint there, and
  save the labeling as TIFF. Keep numbers, not colours (RGB). Floats are fine.{large}

WEBKNOSSOS
  If the dataset is there, you need none of these files: paint in a volume
  annotation inside the box above, download the annotation, upload it on the page
  Annotations, and run materialize_volume_annotation. Its result is a layer of
  labels as well.

What to do with it afterwards
-----------------------------

  Upload one of these: the painted TIFF, the painted OME-Zarr as a zip, or this
  whole folder as a zip. In the browser: on the page of the job that made this
  zip, or with the workflow import_training_labels. In a terminal:

    voxelworks run import_training_labels --dataset DATASET --source FILE

  It becomes ground truth at its place in the dataset. Several boxes of a dataset
  can go into one layer. The name of the file says where it belongs: keep
  everything from `__mag` on, or give box and mag as they stand above.
"""

    def _napari(self) -> str:
        """Give the line that shows image and labels in napari, in true proportions."""
        place = self._place
        size_nm = self._layer.voxel_size.in_mag(place.mag).xyz
        # Files drop axes of one voxel, so that the scale must have as many numbers as are left.
        shown = [nm for nm, extent in zip(size_nm, place.size, strict=True) if extent > 1][::-1]
        scale = ", ".join(f"{nm:.9g}" for nm in shown) + ("," if len(shown) == 1 else "")
        has_channels = self._channel_count > 1 and not self._is_rgb
        channels = f", channel_axis={int(place.size[2] > 1)}" if has_channels else ""
        raw, labels = self._tiff_name(RAW), self._tiff_name(LABELS)
        return (
            'python -c "import napari, tifffile; v = napari.Viewer(); '
            f"v.add_image(tifffile.imread('{raw}'), scale=({scale}){channels}); "
            f"v.add_labels(tifffile.imread('{labels}'), scale=({scale}), name='{self.name}__{LABELS}'); "
            'napari.run()"'
        )


class LookAt:
    """Find size and checksum of a file. Runs in a process of the executor."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def __call__(self, name: str) -> StoredFile:
        return StoredFile.of(Path(self._folder), name)
