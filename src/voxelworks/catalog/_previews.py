"""Pictures of datasets: where their files are, and at which addresses they are seen.

Those of a dataset of ours lie in it, and go with it. Those of a linked one, whose folder is not ours, lie beside the
datasets of its organization. They are not counted as stored: they are small, and everybody may make them anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from voxelworks.errors import NotFound
from voxelworks.protocol.places import Places, previews_place
from voxelworks.protocol.views import DatasetSummary, DatasetView, LayerPreview, PictureView

_Picture = TypeVar("_Picture", bound=PictureView)


def place_of_previews(dataset: DatasetView) -> str:
    """Give the place of the pictures of a dataset."""
    return previews_place(dataset.organization_id, dataset.id, dataset.place, is_linked=dataset.is_linked)


def preview_file(
    dataset: DatasetView, layer_name: str, name: str, *, places: Places
) -> tuple[PictureView, Path]:
    """Find a picture of a dataset that one may see.

    Parameters
    ----------
    name
        `xy`, `xz`, `yz` or `thumbnail`.

    Returns
    -------
    picture, path
        Nothing of the path was said by whoever asks.

    Raises
    ------
    NotFound
        If there is no such picture, or its file is not there.
    """
    previews = (layer.preview for layer in dataset.summary.layers if layer.name == layer_name)
    picture = next((found for preview in previews if preview and (found := _named(preview, name))), None)
    if picture is None:
        raise NotFound(
            f"there is no picture {name!r} of layer {layer_name!r}; make it with the workflow `describe`"
        )
    folder = Path(places.locate(place_of_previews(dataset)))
    path = folder / picture.file
    # A dataset that somebody brought may hold links.
    if path.is_symlink() or not path.is_file():
        raise NotFound(
            f"the picture {name!r} of layer {layer_name!r} is gone; make it anew with the workflow `describe`"
        )
    return picture, path


def with_addresses(summary: DatasetSummary, dataset_id: str) -> DatasetSummary:
    """Say at which addresses the pictures of a dataset are seen."""
    layers = (
        layer
        if layer.preview is None
        else layer.model_copy(
            update={
                "preview": _addressed(
                    layer.preview, f"/datasets/{dataset_id}/preview/{quote(layer.name, safe='')}"
                )
            }
        )
        for layer in summary.layers
    )
    return summary.model_copy(update={"layers": tuple(layers)})


def _addressed(preview: LayerPreview, base: str) -> LayerPreview:
    def at(picture: _Picture, name: str) -> _Picture:
        return picture.model_copy(
            update={"address": f"{base}/{name}.webp?v={picture.file.removesuffix('.webp')}"}
        )

    return LayerPreview(
        slices=tuple(at(item, item.plane) for item in preview.slices),
        thumbnail=at(preview.thumbnail, "thumbnail"),
    )


def _named(preview: LayerPreview, name: str) -> PictureView | None:
    if name == "thumbnail":
        return preview.thumbnail
    return next((item for item in preview.slices if item.plane == name), None)
