"""Open, create and describe datasets: ours, those of WEBKNOSSOS, and OME-Zarr images."""

from __future__ import annotations

import errno
import re
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike

from voxelworks.errors import (
    DatasetNotFound,
    DiskFull,
    MagNotFound,
    TargetExists,
    TargetNotWritable,
    UnsafeReference,
    UnsupportedFormat,
)
from voxelworks.geometry import Box, Mag, VoxelSize, Zyx
from voxelworks.protocol.places import is_remote
from voxelworks.volumes import metadata, ome, storage
from voxelworks.volumes.arrays import MagArray, create_mag_array
from voxelworks.volumes.metadata import CXYZ, CZYX, Axes, Category, DataSource, LayerProperties, MagProperties

__all__ = ["Dataset", "Layer", "MagArray", "create_mag_array"]


class Dataset:
    """A dataset: layers over one box of space, each in several magnifications.

    What is added lives in memory until `write_metadata`; arrays are written at once.
    """

    def __init__(self, location: str, source: DataSource, *, may_leave_folder: bool = False) -> None:
        self.location = location
        self.source = source
        """What its metadata says."""
        self._may_leave_folder = may_leave_folder

    @classmethod
    def open(cls, location: str | Path, *, may_leave_folder: bool = False) -> Self:
        """Open a dataset by its folder or address, or a single OME-Zarr image as a dataset of one layer.

        Parameters
        ----------
        location : str or Path
            Folder, or ``http(s)://``, ``s3://`` or ``gs://`` address.
        may_leave_folder : bool
            Whether its mags may lie elsewhere: other folders, symbolic links, other addresses. Only for
            datasets that the user trusts: the metadata decides what is read.

        Raises
        ------
        DatasetNotFound
            If there is neither.
        InvalidDataset
            If its metadata cannot be understood.
        StorageFailed
            If a remote store does not answer.
        """
        place = str(location).rstrip("/") or "/"
        text = storage.read_bytes(place, metadata.PROPERTIES_FILE)
        source = (
            metadata.read_datasource(text)
            if text is not None
            else ome.read_image(partial(storage.read_bytes, place), place, _last_part(place))
        )
        if source is None:
            raise DatasetNotFound(
                f"{place} holds neither {metadata.PROPERTIES_FILE} nor an OME-Zarr image; name the folder of a dataset"
            )
        return cls(place, source, may_leave_folder=may_leave_folder)

    @classmethod
    def create(cls, path: str | Path, voxel_size: VoxelSize, *, name: str | None = None) -> Self:
        """Make the folder of a new dataset. Nothing can open it before `write_metadata`.

        Parameters
        ----------
        path : str or Path
            Folder to make; one that holds no dataset is used as it is.
        voxel_size : VoxelSize
            Of mag 1.
        name : str, optional
            Name that the metadata states, by default that of the folder.

        Raises
        ------
        TargetExists
            If a dataset is there.
        TargetNotWritable
            If the folder cannot be made.
        """
        folder = Path(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TargetNotWritable(
                f"cannot make folder {folder}: {error.strerror}; choose another place"
            ) from error
        if (folder / metadata.PROPERTIES_FILE).exists():
            raise TargetExists(f"{folder} is a dataset already; choose another name")
        return cls(str(folder), DataSource.new(name or folder.name, voxel_size))

    @property
    def name(self) -> str:
        return _last_part(self.location)

    @property
    def voxel_size(self) -> VoxelSize:
        return self.source.voxel_size

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(Layer(self, layer.name) for layer in self.source.data_layers)

    def layer(self, name: str) -> Layer:
        """Find a layer; `LayerNotFound` names those that exist."""
        return Layer(self, self.source.layer(name).name)

    def add_layer(
        self,
        name: str,
        category: Category,
        dtype: DTypeLike,
        channel_count: int,
        box: Box,
        largest_segment_id: int | None = None,
    ) -> Layer:
        """Add a layer without data.

        Raises
        ------
        UnsupportedDtype
            If the format cannot hold such a layer.
        TargetExists
            If there is a layer of this name.
        """
        if any(layer.name == name for layer in self.source.data_layers):
            raise TargetExists(f"dataset {self.name!r} has a layer {name!r} already; choose another name")
        layer = LayerProperties(
            name=name,
            category=category,
            bounding_box=box,
            element_class=metadata.element_class_of(np.dtype(dtype).name, channel_count, category),
            data_format="zarr3",
            num_channels=channel_count,
            mags=(),
        )
        self.source = self.source.with_layer(layer)
        if largest_segment_id is not None:
            self.source = self.source.with_largest_segment_id(name, largest_segment_id)
        return Layer(self, name)

    def write_metadata(self) -> None:
        """Write `datasource-properties.json` and the OME groups.

        Raises
        ------
        TargetNotWritable
            If the dataset is remote or its folder cannot be written.
        DiskFull
            If the disk is full.
        """
        if is_remote(self.location):
            raise TargetNotWritable(f"{self.location} is remote and can only be read")
        try:
            metadata.save_datasource(Path(self.location), self.source)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(
                    f"cannot write metadata to {self.location}: the disk is full; free some space"
                ) from error
            raise TargetNotWritable(f"cannot write metadata to {self.location}: {error.strerror}") from error

    def locate(self, layer: LayerProperties, item: MagProperties) -> str:
        """Give the folder or address of a mag.

        Raises
        ------
        UnsafeReference
            If it lies outside the dataset, unless that was allowed.
        """
        if item.path is None:
            return self._usual_place(layer, item.mag)
        return self.locate_part(item.path, f"mag {item.mag} of layer {layer.name!r}")

    def locate_part(self, path: str, what: str) -> str:
        """Give the place of a part of the dataset by the path that its metadata states; `UnsafeReference` as above."""
        is_elsewhere = is_remote(path) or PurePosixPath(path).is_absolute()
        place = path if is_elsewhere else storage.join(self.location, path)
        if not self._may_leave_folder and not self._contains(place, path):
            raise UnsafeReference(
                f"{what} lies outside the dataset, at {path!r}, and is not read; copy it into the dataset"
            )
        return place

    def _usual_place(self, layer: LayerProperties, mag: Mag) -> str:
        """Folder of a mag whose place is not stated: `4-4-1`; very old datasets also have `1-1-1` for `1`."""
        place = storage.join(self.location, f"{layer.name}/{mag}")
        if not is_remote(place) and not Path(place).exists():
            long_form = Path(self.location) / layer.name / "-".join(map(str, mag.xyz))
            return str(long_form) if long_form.exists() else place
        return place

    def _contains(self, place: str, path: str) -> bool:
        if is_remote(path) or ".." in PurePosixPath(path).parts:
            return False
        return is_remote(place) or Path(place).resolve().is_relative_to(Path(self.location).resolve())


class Layer:
    """A layer of a dataset: a view that follows what is added to the dataset."""

    def __init__(self, dataset: Dataset, name: str) -> None:
        self.dataset = dataset
        self.name = name

    @property
    def properties(self) -> LayerProperties:
        return self.dataset.source.layer(self.name)

    @property
    def category(self) -> Category:
        return self.properties.category

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of one channel; `UnsupportedDtype` if it cannot be read."""
        return np.dtype(self.properties.dtype_name)

    @property
    def channel_count(self) -> int:
        return self.properties.channel_count

    @property
    def box(self) -> Box:
        """What the layer covers, in mag 1."""
        return self.properties.bounding_box

    @property
    def voxel_size(self) -> VoxelSize:
        return self.dataset.voxel_size

    @property
    def largest_segment_id(self) -> int | None:
        return self.properties.largest_segment_id

    @property
    def mags(self) -> tuple[Mag, ...]:
        """Finest first."""
        return tuple(item.mag for item in self.properties.sorted_mags)

    @property
    def finest(self) -> MagArray:
        """The finest magnification; `MagNotFound` if the layer is empty."""
        if not self.mags:
            raise MagNotFound(f"layer {self.name!r} of dataset {self.dataset.name!r} has no magnification")
        return self.mag(self.mags[0])

    @property
    def axes(self) -> Axes:
        """Axis order in which new magnifications of this layer are stored: that of the finest, by default ours."""
        items = self.properties.sorted_mags
        return CXYZ if items and (items[0].axes or CXYZ) == CXYZ else CZYX

    def mag(self, mag: Mag | str) -> MagArray:
        """Give a magnification; nothing is opened yet.

        Raises
        ------
        MagNotFound
            Naming those that exist.
        UnsupportedFormat
            If the layer has more axes than c, z, y, x.
        """
        wanted = Mag.parse(mag) if isinstance(mag, str) else mag
        layer = self.properties
        if layer.additional_axes:
            names = ", ".join(str(axis.get("name")) for axis in layer.additional_axes)
            raise UnsupportedFormat(f"layer {self.name!r} has further axes ({names}), which cannot be read")
        for item in layer.mags:
            if item.mag == wanted:
                return self._array(layer, item)
        known = ", ".join(map(str, self.mags)) or "none"
        raise MagNotFound(f"layer {self.name!r} has no mag {wanted}; it has: {known}")

    def add_mag(self, mag: Mag, *, shard_zyx: Zyx, within: str = "") -> MagArray:
        """Create the array of a new magnification in the layer's folder, or in one `within` that.

        Raises
        ------
        UnsupportedFormat
            If the layer is in a format that we only read.
        TargetExists
            If the layer has this mag.
        """
        layer = self.properties
        metadata.check_can_add_mags(layer)
        if mag in self.mags:
            raise TargetExists(f"layer {self.name!r} has mag {mag} already")
        axes = self.axes
        array = create_mag_array(
            Path(self.dataset.location) / self.name / within / str(mag),
            mag=mag,
            layer_box=layer.bounding_box,
            dtype=self.dtype,
            channel_count=layer.channel_count,
            shard_zyx=shard_zyx,
            category=layer.category,
            axes=axes,
        )
        added = MagProperties.of(self.name, mag, axes, within=within)
        self.dataset.source = self.dataset.source.merged_mags(self.name, [added])
        return array

    def _array(self, layer: LayerProperties, item: MagProperties) -> MagArray:
        return MagArray(
            location=self.dataset.locate(layer, item),
            mag=item.mag,
            box=layer.bounding_box.in_mag(item.mag),
            dtype=self.dtype,
            channel_count=layer.channel_count,
            data_format=layer.data_format,
            axes=item.axes,
            channel_index=item.channel_index or 0,
        )


def _last_part(location: str) -> str:
    return (
        re.split(r"[/\\]", location.rstrip("/"))[-1]
        if is_remote(location)
        else Path(location).absolute().name
    )
