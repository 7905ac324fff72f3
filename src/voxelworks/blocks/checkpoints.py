"""Markers of finished blocks, so that the next attempt of a job does only what is left (rule R20)."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

_NAME_LENGTH_MAX = 150
"""File systems take 255 bytes; the rest is for the suffixes."""


class _Marker(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    fingerprint: str
    phase: str
    key: str
    result: JsonValue


@dataclass(frozen=True)
class Checkpoints:
    """A folder with one marker for each finished block.

    A marker is written after the block's function returned. A kill therefore leaves a block without a marker, never a
    marker without its block. To outlive a power cut too, the function must have synced its data to the disk before it
    returns; the marker itself needs no sync, because one that is lost or cut short only has its block done again.

    Parameters
    ----------
    folder : Path
        Made with the first marker.
    fingerprint : str
        Hash of all that decides what a block does: params, version, sources, and how blocks are cut. Markers with
        another fingerprint are not believed.
    """

    folder: Path
    fingerprint: str

    def load(self, phase: str) -> dict[str, JsonValue]:
        """Give the results of the blocks of `phase` that are done, by key. Foreign and broken markers are left out."""
        folder = self._folder_of(phase)
        if not folder.is_dir():
            return {}
        markers = [_read(path) for path in folder.iterdir() if path.suffix == ".json"]
        return {
            marker.key: marker.result
            for marker in markers
            if marker is not None and marker.fingerprint == self.fingerprint and marker.phase == phase
        }

    def mark(self, phase: str, key: str, result: JsonValue) -> None:
        """Write down that a block is done, in one step: readers see the whole marker or none."""
        folder = self._folder_of(phase)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{_file_name(key)}.json"
        marker = _Marker(fingerprint=self.fingerprint, phase=phase, key=key, result=result)
        # One process writes markers, but a dying attempt and the next one may overlap: each has its own draft.
        draft = path.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(marker.model_dump_json())
        draft.replace(path)

    def _folder_of(self, phase: str) -> Path:
        return self.folder / _file_name(phase)


def _read(path: Path) -> _Marker | None:
    try:
        return _Marker.model_validate_json(path.read_bytes())
    except ValidationError:
        return None  # cut short by a full disk or a power cut


def _file_name(text: str) -> str:
    name = quote(text, safe=",")
    if 0 < len(name) <= _NAME_LENGTH_MAX and not name.startswith("."):
        return name
    return hashlib.sha256(text.encode()).hexdigest()
