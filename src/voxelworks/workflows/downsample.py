"""Make the coarser magnifications of a layer."""

from __future__ import annotations

from typing import Annotated, Literal

from voxelworks.errors import InvalidParams
from voxelworks.workflows import (
    ADVANCED,
    FREE,
    Inputs,
    Job,
    LayerAddition,
    LayerRef,
    Mag,
    Params,
    raw_bytes,
    workflow,
)
from voxelworks.workflows.publishing import LayerChange


class DownsampleParams(Params):
    """Which layer, which magnifications, and how."""

    layer: LayerRef
    """Layer to shrink."""

    coarsest_mag: Mag | None = None
    """Last magnification to make, such as `16-16-4`; by default until the layer fits into 256 voxels."""

    method: Annotated[Literal["auto", "mean", "median", "mode"], ADVANCED] = "auto"
    """`auto` takes the mean for images and the mode for labels."""


class AddedMags(LayerAddition):
    """Magnifications were added to a layer."""

    mags: tuple[str, ...]
    """The new magnifications, finest first."""


def _result_bytes(params: DownsampleParams, inputs: Inputs) -> int:
    """Estimate the pyramid: an eighth of the layer, an eighth of that, and so on."""
    return raw_bytes(inputs.layer(params.layer)) // 7


@workflow(
    version=1, cost=FREE, priority_class="short", result_bytes=_result_bytes, example={"layer": "demo/color"}
)
def downsample(params: DownsampleParams, job: Job) -> AddedMags:
    """Make the coarser magnifications of a layer.

    Each step doubles the axes along which voxels are smallest, until voxels are about cubic and then all axes. Mags
    that the layer has already stay as they are; the new ones go on from its coarsest.
    """
    from voxelworks.volumes.dataset import create_mag_array
    from voxelworks.volumes.mags import mag_sequence
    from voxelworks.volumes.metadata import MagProperties, check_can_add_mags
    from voxelworks.volumes.shards import plan_levels
    from voxelworks.workflows._pyramid import method_for, write_group

    layer = job.open(params.layer)
    check_can_add_mags(layer.properties)
    method = method_for(layer.category, params.method)
    source = layer.mag(layer.mags[-1]) if layer.mags else layer.finest
    mags = mag_sequence(layer.voxel_size, layer.box, start=source.mag, until=params.coarsest_mag)
    if not mags:
        have = ", ".join(str(mag) for mag in layer.mags)
        raise InvalidParams(
            f"layer {layer.name!r} has mags {have} already; name a coarser one with coarsest_mag to go on"
        )
    staging = job.start_addition(params.layer, inputs=[str(source)])
    groups = plan_levels(
        layer.box, [source.mag, *mags], layer.dtype, layer.channel_count, slots=job.slots,
        shard_bytes_max=job.settings.shard_bytes_max, write_source=False,
    )  # fmt: skip
    arrays = {source.mag: source}
    for group in groups:
        for mag, shard in group.levels:
            arrays[mag] = create_mag_array(
                staging / layer.name / str(mag), mag=mag, layer_box=layer.box, dtype=layer.dtype,
                channel_count=layer.channel_count, shard_zyx=shard, category=layer.category,
                axes=layer.axes,
            )  # fmt: skip
    job.expect(sum(layer.box.in_mag(group.source_mag).voxel_count for group in groups))
    for group in groups:
        first, last = group.levels[0][0], group.levels[-1][0]
        phase = f"{layer.name}: mag {first}" + (f" to {last}" if last != first else "")
        write_group(job, phase, group, arrays[group.source_mag], arrays, layer.box, method)
    job.change(
        LayerChange(
            layer=layer.name, mags=tuple(MagProperties.of(layer.name, mag, layer.axes) for mag in mags)
        )
    )
    return AddedMags(
        dataset=str(params.layer.dataset), layer=layer.name, mags=tuple(str(mag) for mag in mags)
    )
