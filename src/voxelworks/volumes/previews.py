"""Where the pictures of a dataset lie, and how they are listed. Reads no arrays: the server uses it too.

Pictures lie in a folder whose name begins with a dot, so that programs that look for layers pass it by: `.previews` in
the dataset, or for one that is only read in a folder of its own. Files are named after their content, and `index.json`
says which belong to which layer; it is replaced in one step, after the files that it names are there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from voxelworks.errors import InvalidGeometry
from voxelworks.geometry import Box
from voxelworks.protocol.messages import Message
from voxelworks.protocol.places import PREVIEW_FOLDER
from voxelworks.protocol.views import LayerPreview, PictureView
from voxelworks.volumes.files import replace_file, sync_folder

__all__ = ["INDEX_FILE", "PREVIEW_FOLDER", "adopt", "list_pictures", "read_index", "save_index"]

INDEX_FILE = "index.json"
INDEX_BYTES_MAX = 4 * 2**20


class PreviewIndex(Message):
    """The content of `index.json`."""

    version: int = 1
    layers: dict[str, LayerPreview] = {}


def read_index(text: bytes | None) -> dict[str, LayerPreview]:
    """Understand the text of `index.json`: pictures by layer. Nothing if it is missing or is not what we wrote."""
    if text is None or len(text) > INDEX_BYTES_MAX:
        return {}
    try:
        index = PreviewIndex.model_validate_json(text)
        for preview in index.layers.values():
            for item in preview.slices:
                Box.parse(item.box)
    except (ValidationError, InvalidGeometry):
        return {}
    return index.layers if index.version == 1 else {}


def save_index(folder: Path, layers: Mapping[str, LayerPreview]) -> None:
    """Write `index.json`: equal content gives equal bytes."""
    index = PreviewIndex(layers=dict(sorted(layers.items())))
    replace_file(folder / INDEX_FILE, json.dumps(index.model_dump(mode="json"), indent=2) + "\n")


def list_pictures(preview: LayerPreview) -> Iterator[PictureView]:
    """Yield all pictures of a layer."""
    yield from preview.slices
    yield preview.thumbnail


def adopt(staged: Path, target: Path, *, is_complete: bool) -> None:
    """Move new pictures to where they are seen. May be repeated after a crash: it completes what is missing.

    Only one caller may do so for a target at a time.

    Parameters
    ----------
    staged
        Folder with the new pictures and their index.
    target
        Folder of the pictures that are seen. It need not exist.
    is_complete
        Whether all layers have pictures in `staged`; otherwise those of other layers stay.
    """
    new = read_index(_read(staged / INDEX_FILE))
    if not new:
        return
    target.mkdir(exist_ok=True)
    kept = {} if is_complete else read_index(_read(target / INDEX_FILE))
    for picture in _pictures(new):
        if (staged / picture).exists():
            os.replace(staged / picture, target / picture)
    sync_folder(target)
    merged = {**kept, **new}
    save_index(target, merged)
    wanted = {INDEX_FILE, *_pictures(merged)}
    for path in target.iterdir():
        if path.name not in wanted and path.is_file():
            path.unlink()


def _pictures(layers: Mapping[str, LayerPreview]) -> set[str]:
    return {picture.file for preview in layers.values() for picture in list_pictures(preview)}


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
