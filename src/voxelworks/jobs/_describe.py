"""Read what the catalog remembers from a dataset's own metadata."""

from __future__ import annotations

from pathlib import Path

from voxelworks.protocol.views import DatasetSummary, LayerSummary
from voxelworks.volumes.metadata import PROPERTIES_FILE, LayerProperties, read_datasource


def describe_dataset(folder: str) -> DatasetSummary:
    """Summarize a dataset.

    Raises
    ------
    OSError, InvalidDataset, UnsupportedDtype
        If its metadata cannot be read or understood.
    """
    source = read_datasource((Path(folder) / PROPERTIES_FILE).read_bytes())
    return DatasetSummary(
        voxel_size=str(source.voxel_size), layers=tuple(_layer_summary(layer) for layer in source.data_layers)
    )


def _layer_summary(layer: LayerProperties) -> LayerSummary:
    return LayerSummary(
        name=layer.name, category=layer.category, dtype=layer.dtype_name, channel_count=layer.channel_count,
        box=str(layer.bounding_box), mags=tuple(str(item.mag) for item in layer.sorted_mags),
        largest_segment_id=layer.largest_segment_id,
    )  # fmt: skip
