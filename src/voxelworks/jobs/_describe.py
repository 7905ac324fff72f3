"""Read what the catalog remembers from a dataset's own metadata: JSON only, by the server itself.

Datasets that were made here are as they should be. Those that are linked belong to others, whose metadata may be large,
or links that lead elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from voxelworks.addresses import DEFAULT_PORTS, AddressRules, fetch
from voxelworks.errors import (
    DatasetNotFound,
    InvalidDataset,
    StorageFailed,
    UnsafeReference,
    UnsupportedFormat,
)
from voxelworks.protocol.places import Places, is_remote
from voxelworks.protocol.views import DatasetSummary, LayerPreview, LayerSummary
from voxelworks.settings import Settings
from voxelworks.volumes import ome
from voxelworks.volumes.metadata import PROPERTIES_FILE, LayerProperties, read_datasource
from voxelworks.volumes.previews import INDEX_FILE, PREVIEW_FOLDER, read_index

METADATA_BYTES_MAX = 16 * 2**20
_GONE = (403, 404, 410)
"""Object stores answer 403 for what is not there, if nobody may list it."""


def describe_dataset(place: str, places: Places, settings: Settings | None = None) -> DatasetSummary:
    """Summarize a dataset: one with `datasource-properties.json`, or a single OME-Zarr image.

    Parameters
    ----------
    place
        Named in messages; where it lies is not told.
    places
        Those of the organization that asks.
    settings
        For addresses: which private networks may be reached. By default those of the environment.

    Raises
    ------
    DatasetNotFound
        If there is neither.
    InvalidDataset, UnsupportedDtype, UnsupportedFormat
        If its metadata cannot be understood.
    UnsafeReference
        If the place must not be read, or its metadata are links that lead out of the dataset.
    ForbiddenAddress, ServerUnreachable, StorageFailed
        If they cannot be read.
    """
    place = place.rstrip("/")
    location = places.locate(place)
    if is_remote(place):
        read = partial(_download, place, _rules(place, settings))
    else:
        read = partial(_read_file, place, Path(location))
    text = read(PROPERTIES_FILE)
    name = re.split("[/:]", place)[-1]
    source = read_datasource(text) if text is not None else ome.read_image(read, place, name)
    if source is None:
        raise DatasetNotFound(
            f"{place} holds neither {PROPERTIES_FILE} nor an OME-Zarr image; name the folder of a dataset"
        )
    summary = DatasetSummary(
        voxel_size=str(source.voxel_size), layers=tuple(_layer_summary(layer) for layer in source.data_layers)
    )
    # Pictures that others have put into their datasets are not looked at.
    return (
        summary.with_previews(read_index(read(f"{PREVIEW_FOLDER}/{INDEX_FILE}")))
        if place.startswith("data:")
        else summary
    )


def describe_previews(place: str, places: Places) -> dict[str, LayerPreview]:
    """Read which pictures the layers of a dataset have, by the place of the pictures.

    Raises
    ------
    UnsafeReference, StorageFailed
        If they must not or cannot be read.
    """
    return read_index(_read_file(place, Path(places.locate(place)), INDEX_FILE))


def _read_file(place: str, folder: Path, name: str) -> bytes | None:
    path = folder / name
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UnsafeReference(f"{name} in {place} leads out of the dataset; put the file itself there")
        with path.open("rb") as stream:
            text = stream.read(METADATA_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise StorageFailed(f"cannot read {name} in {place}: {error.strerror}; try again later") from error
    return _whole(place, name, text)


def _rules(address: str, settings: Settings | None) -> AddressRules:
    parts = urlsplit(address)
    if parts.scheme not in DEFAULT_PORTS:
        raise UnsupportedFormat(
            f"{address}: the server looks at addresses of https only; give the https address of the bucket"
        )
    # The operator has named scheme, host and port: the place was found to be allowed.
    rules = AddressRules.of(settings or Settings()).for_listed(address)
    return replace(rules, answer_bytes_max=METADATA_BYTES_MAX)


def _download(place: str, rules: AddressRules, name: str) -> bytes | None:
    if ".." in name.split("/"):
        raise UnsafeReference(f"{name} in {place} leads out of the dataset and is not read")
    parts = urlsplit(place)
    answer = fetch("GET", parts._replace(path=f"{parts.path}/{name}", fragment="").geturl(), rules)
    if answer.status in _GONE:
        return None
    if answer.status != 200:
        raise StorageFailed(
            f"{parts.hostname} answers {answer.status} for {name} in {place}; try again later"
        )
    return _whole(place, name, answer.body if answer.is_whole else bytes(METADATA_BYTES_MAX + 1))


def _whole(place: str, name: str, text: bytes) -> bytes:
    if len(text) > METADATA_BYTES_MAX:
        raise InvalidDataset(
            f"{name} in {place} is larger than {METADATA_BYTES_MAX // 2**20} MiB: that is no metadata"
        )
    return text


def _layer_summary(layer: LayerProperties) -> LayerSummary:
    return LayerSummary(
        name=layer.name, category=layer.category, dtype=layer.dtype_name, channel_count=layer.channel_count,
        box=str(layer.bounding_box), mags=tuple(str(item.mag) for item in layer.sorted_mags),
        largest_segment_id=layer.largest_segment_id, attachments=tuple(_attachments(layer)),
        has_segment_table=layer.segment_table is not None,
        labelled_boxes=tuple(map(str, layer.labelled_boxes or ())), modality=layer.modality,
    )  # fmt: skip


def _attachments(layer: LayerProperties) -> Iterator[str]:
    """Name what belongs to a layer beside its voxels: lists of files by kind, or a single one."""
    kinds = (layer.model_extra or {}).get("attachments")
    for kind, given in kinds.items() if isinstance(kinds, dict) else ():
        for item in given if isinstance(given, list) else [given]:
            if isinstance(item, dict) and isinstance(item.get("name"), str):
                yield f"{kind}/{item['name']}"
