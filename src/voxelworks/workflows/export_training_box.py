"""Export a box of a dataset for labelling: the image, labels to paint, and where both belong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import model_validator

from voxelworks.errors import InvalidGeometry, InvalidParams
from voxelworks.geometry import Box
from voxelworks.volumes.metadata import OmeVersion
from voxelworks.workflows import (
    ADVANCED,
    FREE,
    Artifact,
    ImageRef,
    Inputs,
    Job,
    LayerMag,
    NewFileRef,
    Params,
    SegmentationRef,
    box_bytes,
    workflow,
)
from voxelworks.workflows.evaluate_segmentation import require_same_size
from voxelworks.workflows.export_tiff import export_box, export_name

if TYPE_CHECKING:
    from voxelworks.geometry import Mag
    from voxelworks.volumes.dataset import Layer


class ExportTrainingBoxParams(Params):
    """What to label."""

    layer: ImageRef
    """Image layer to label."""

    box: Box
    """Box to label, `x,y,z,width,height,depth` in voxels of mag 1, on whole voxels of the mag.

    To train for neurons it needs 85 x 85 x 30 voxels of the mag or more, for instances such as mitochondria and nuclei
    32 x 32 x 32.
    """

    mag: LayerMag | None = None
    """Magnification to label: the one that the model shall work in; by default the finest."""

    start_from: SegmentationRef | None = None
    """Segmentation layer whose labels are to be corrected; by default nothing is labelled yet."""

    ome_version: Annotated[OmeVersion, ADVANCED] = "0.5"
    """Version of the OME-Zarr in the zip; `0.4` is read by older programs too."""

    file: Annotated[NewFileRef | None, ADVANCED] = None
    """Name of the zip; by default after dataset, layer and box."""

    @model_validator(mode="after")
    def _is_named_as_it_is(self) -> Self:
        if self.file is not None and not self.file.lower().endswith(".zip"):
            raise InvalidParams(f"the file is a zip, and its name ends in .zip, not like {str(self.file)!r}")
        return self


class TrainingBox(Artifact):
    """A box was exported for labelling."""

    dataset: str
    """Name of the dataset."""
    layer: str
    """The image layer."""
    box: str
    """The box in voxels of mag 1, widened to whole voxels of the mag."""
    mag: str
    """Its magnification."""
    size: str
    """Voxels of the mag, x,y,z."""
    large_enough_for: tuple[str, ...]
    """What can be trained with a box of this size."""


def _file_name(params: ExportTrainingBoxParams) -> str:
    box = str(params.box).replace(",", "-")
    return params.file or export_name(params.layer, params.mag, f"__box{box}.zip")


def _result_bytes(params: ExportTrainingBoxParams, inputs: Inputs) -> int:
    """Estimate the image, which is in the zip twice; empty labels take little."""
    return 2 * box_bytes(inputs.layer(params.layer), params.box, params.mag)


@workflow(
    version=1,
    cost=FREE,
    group="Training",
    priority_class="short",
    result_bytes=_result_bytes,
    file_name=_file_name,
    example={"layer": "demo/color", "box": "0,0,0,128,128,32"},
)
def export_training_box(params: ExportTrainingBoxParams, job: Job) -> TrainingBox:
    """Export a box of a dataset for labelling: image, labels to paint, and where they belong.

    The zip holds the image and labels, empty or those of a segmentation layer, both as TIFF and as OME-Zarr, and a
    `README.txt` that says how to paint them in napari, Fiji or WEBKNOSSOS. The names of the files tell where the box
    lies: `import_training_labels` puts what was painted back there, as ground truth to train models and to evaluate
    them with.

    In the labels 0 is background. Each object, such as a mitochondrion or a neuron, has an id of its own.
    """
    from voxelworks.volumes.labelled import BoxPlace, trains
    from voxelworks.workflows._training_box import BoxFiles, labels_to_paint

    layer = job.open(params.layer)
    params.layer.require_category(layer.category)
    image = layer.finest if params.mag is None else layer.mag(params.mag)
    box = export_box(layer, params.box, image)
    if min(box.topleft) < 0:
        raise InvalidGeometry(
            f"box {str(params.box)!r} begins at negative coordinates, where no labels can be stored; choose another"
        )
    start = None if params.start_from is None else _open_start(params.start_from, layer, image.mag, job)
    place = BoxPlace(image.mag, box.from_mag(image.mag), layer.dataset.name)
    labels = labels_to_paint(start, place, job)
    files = BoxFiles(layer, image, labels, place, params.ome_version, str(params.start_from or ""), job)
    path = job.start_artifact(
        media_type="application/zip", size_bytes=files.bytes_max,
        inputs=[str(image), str(start and start.mag(image.mag)), labels.dtype.name],
    )  # fmt: skip
    if place.box != params.box:
        job.log(f"box {params.box} is widened to {place.box}: whole voxels of mag {image.mag}")
    size, large_enough_for = ",".join(map(str, place.size)), tuple(trains(place.size))
    if not large_enough_for:
        job.log(f"{size} voxels are too few to train with; to evaluate with them is possible")
    files.write(path)
    return TrainingBox(
        file=str(_file_name(params)), dataset=str(params.layer.dataset), layer=layer.name, box=str(place.box),
        mag=str(image.mag), size=size, large_enough_for=large_enough_for,
    )  # fmt: skip


def _open_start(ref: SegmentationRef, image: Layer, mag: Mag, job: Job) -> Layer:
    """Open the layer to begin with; it must lie in the same space as the image."""
    layer = job.open(ref)
    ref.require_category(layer.category)
    require_same_size(layer, image.name, image.voxel_size)
    layer.mag(mag)  # or say which mags there are
    return layer
