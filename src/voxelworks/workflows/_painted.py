"""What was painted in an annotation, in one magnification, with the layer that it lies over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voxelworks.errors import InvalidAnnotation, MagNotFound
from voxelworks.workflows._materialize import (
    Fallback,
    MergedVolume,
    dtype_of,
    open_proofread,
    segmentation_below,
)

if TYPE_CHECKING:
    from pathlib import Path

    from voxelworks.geometry import Mag
    from voxelworks.protocol.views import VolumeLayerSummary
    from voxelworks.volumes.annotations import Annotation, PackedVolume, StoredMag
    from voxelworks.volumes.dataset import Dataset, Layer
    from voxelworks.volumes.streaming import StreamedArray
    from voxelworks.workflows._job import Job
    from voxelworks.workflows._refs import AnnotationRef


@dataclass(frozen=True)
class Painted:
    """A volume layer of an annotation, over the layer below it. Its voxels are not unpacked yet."""

    annotation: Annotation
    volume: VolumeLayerSummary
    below: Layer | None
    """None where it lies over none."""
    streamed: StreamedArray | None
    """Where it was proofread: as its WEBKNOSSOS shows it, with the layer below."""

    @classmethod
    def open(cls, ref: AnnotationRef, volume_layer: str | None, dataset: Dataset, job: Job) -> Painted:
        """Choose the volume layer, and refuse what cannot be shown.

        Parameters
        ----------
        ref
        volume_layer
            Its name; None if there is only one.
        dataset
            In which the layer below lies.
        job

        Raises
        ------
        InvalidAnnotation, LayerNotFound, WrongCategory
        """
        annotation = job.open_annotation(ref)
        volume = annotation.volume_layer(volume_layer)
        if volume is None:
            raise InvalidAnnotation(
                "the annotation has no volume layer; choose one in which something was painted"
            )
        below = None if volume.fallback_layer is None else segmentation_below(dataset, volume.fallback_layer)
        streamed = open_proofread(ref, volume, job) if volume.has_editable_mapping else None
        if streamed is None and volume.location is None:
            raise InvalidAnnotation(
                f"the annotation was downloaded without the voxels of volume layer {volume.name!r}; download it with "
                "its volume data"
            )
        made_in = annotation.summary.dataset_name
        if made_in not in (None, dataset.name):
            job.log(f"the annotation was made in a dataset {made_in!r}, and is put over {dataset.name!r}")
        return cls(annotation, volume, below, streamed)

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the voxels depend on."""
        return (self.annotation.fingerprint, str(self.streamed))

    def require_mag(self, mag: Mag) -> None:
        """Refuse a magnification in which it cannot be read; `MagNotFound`."""
        if self.streamed is not None and self.streamed.mag != mag:
            raise MagNotFound(
                f"volume layer {self.volume.name!r} was proofread, and is read in mag {self.streamed.mag} alone, not "
                f"in {mag}"
            )
        if self.below is not None:
            self.below.mag(mag)

    def unpacked(self, mag: Mag, folder: Path, check: Callable[[], None]) -> MergedVolume:
        """Unpack what was painted into a folder, and put it over the layer below.

        Raises
        ------
        MagNotFound
            If it was painted in coarser magnifications alone, or the layer below does not have this one.
        InvalidAnnotation, InvalidArchive, DiskFull, StorageFailed
        """
        self.require_mag(mag)
        if self.streamed is not None:
            shown = Fallback(self.streamed, self.streamed.box.from_mag(mag))
            return MergedVolume(mag, self.streamed.dtype, shown)
        packed = self.annotation.open_volume(self.volume, folder / "volume", check)
        edits = None
        if packed is not None and packed.mags:
            edits = packed.unpack(_stored_mag(packed, mag), folder / "edits", check)
            packed.path.unlink()
        array = None if self.below is None else self.below.mag(mag)
        if edits is None and array is None:
            raise InvalidAnnotation(
                f"volume layer {self.volume.name!r} holds no voxels, and lies over no layer: there is nothing in it"
            )
        below = None if array is None or self.below is None else Fallback(array, self.below.box)
        return MergedVolume(mag, dtype_of(array, edits), below, edits)


def _stored_mag(packed: PackedVolume, mag: Mag) -> StoredMag:
    """Choose the painted voxels that are shown in a magnification: its own, or coarser ones where it has none."""
    for stored in packed.mags:
        if stored.mag == mag:
            return stored
    finest = packed.mags[0]
    if all(own >= wanted for own, wanted in zip(finest.mag.xyz, mag.xyz, strict=True)):
        return finest
    have = ", ".join(str(stored.mag) for stored in packed.mags)
    raise MagNotFound(
        f"the annotation was painted in mag {have}, not in {mag}; choose one of them, or make coarser ones with "
        "downsample_volume_annotation"
    )
