"""Make the pictures of a dataset that its pages show."""

from __future__ import annotations

from voxelworks.errors import InvalidParams
from voxelworks.workflows import FREE, DatasetPreviews, DatasetRef, Job, Params, workflow


class DescribeParams(Params):
    """Which dataset."""

    dataset: DatasetRef
    """Dataset to make pictures of."""


class DescribedDataset(DatasetPreviews):
    """Pictures of a dataset were made."""

    layers: tuple[str, ...]
    """Layers that have pictures now."""


@workflow(version=1, cost=FREE, priority_class="short", example={"dataset": "demo"})
def describe(params: DescribeParams, job: Job) -> DescribedDataset:
    """Make the pictures of a dataset that its pages show.

    Three slices through the middle of each layer, or through where its data is if that is empty. Datasets that jobs
    make have them from the start; this is for those that were linked. The pictures of a dataset that can only be read
    are kept beside the datasets of the organization.
    """
    from voxelworks.workflows._previews import Drawable

    dataset = job.open_dataset(params.dataset)
    layers = [Drawable.of(layer) for layer in dataset.layers if layer.mags]
    if not layers:
        raise InvalidParams(
            f"dataset {params.dataset} has no layer with voxels; there is nothing to show of it"
        )
    job.start_previews(params.dataset, inputs=[])
    job.expect(len(layers))
    failures = job.draw_previews(layers)
    if len(failures) == len(layers):
        raise next(iter(failures.values()))
    return DescribedDataset(
        dataset=str(params.dataset),
        layers=tuple(layer.name for layer in layers if layer.name not in failures),
    )
