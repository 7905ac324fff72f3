"""Volume layers of annotations as a WEBKNOSSOS streams them: as Zarr v2, with fallback layer and mappings applied.

Tensorstore is not asked for them. It takes a missing chunk for zeros, and WEBKNOSSOS answers "not found" also to
whoever may not see the annotation (any more): a token that ends during a job would leave holes. Here a missing chunk
counts as zeros only if the server still describes the array afterwards. And a token must not follow a redirect.

References
----------
Code of WEBKNOSSOS: routes `data/annotations/zarr/ID/LAYER/MAG/...` of the data store (2026), and what is behind them in
its tracing store (2024): chunks of 32^3 voxels, not compressed, x fastest; arrays that begin at voxel 0.
"""

from __future__ import annotations

import json
import math
import queue
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
from numpy.typing import NDArray

from voxelworks.addresses import AddressRules, Answer, Caller
from voxelworks.errors import (
    InvalidAnnotation,
    InvalidDataset,
    ServerUnreachable,
    StorageFailed,
    UnsafeReference,
    UnsupportedFormat,
)
from voxelworks.geometry import Box, Mag, Vec3
from voxelworks.protocol.far_annotations import TOKEN_HEADER
from voxelworks.settings import Settings
from voxelworks.volumes.metadata import PROPERTIES_FILE, read_datasource

ARRAY_FILE = ".zarray"
AT_ONCE = 8
"""Chunks that are asked for at the same time by one process."""
METADATA_BYTES_MAX = 2**22
CHUNK_BYTES_MAX = 2**24
SILENCE_S = 60.0
"""How long a server may take for one chunk: it may have to compute the mapping first."""
PAUSES_S = (0.5, 2.0, 8.0, 20.0)
"""Before a request is tried again."""
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class StreamedArray:
    """One magnification of a streamed layer, read like a `MagArray`. Picklable.

    Arrays that are read are (1, z, y, x).
    """

    location: str
    """Address of the array."""
    mag: Mag
    box: Box
    """Of the layer, in voxels of this mag."""
    dtype: np.dtype[Any]
    chunk: Vec3
    """Size of a chunk: x, y, z."""
    extent: Vec3
    """Size of the array."""
    rules: AddressRules = field(repr=False)
    token: str | None = field(default=None, repr=False)
    separator: str = "."

    def read(self, box: Box) -> NDArray[Any]:
        """Read voxels.

        Parameters
        ----------
        box : Box
            In voxels of this mag. What lies outside the array is zero.

        Raises
        ------
        InvalidAnnotation
            If the server does not let us see the annotation (any more).
        InvalidDataset
            If what it sends is no chunk.
        StorageFailed
            If it does not answer.
        """
        target: NDArray[Any] = np.zeros((1, *box.shape_zyx), self.dtype)
        inside = box.intersect(Box((0, 0, 0), self.extent))
        ranges = [
            range(start // edge, -(-stop // edge))
            for start, stop, edge in zip(inside.topleft, inside.bottomright, self.chunk, strict=True)
        ]
        chunks = list(product(*ranges)) if not inside.is_empty else []
        if not chunks:
            return target
        with _Callers(self.location, self.rules, self.token) as callers:

            def take(number: tuple[int, ...]) -> bool:
                return self._take(callers, (number[0], number[1], number[2]), inside, target, box)

            with ThreadPoolExecutor(min(AT_ONCE, len(chunks))) as threads:
                are_there = list(threads.map(take, chunks))
            if not all(are_there):
                self._require_access(callers)
        return target

    def is_missing(self, _box: Box) -> bool:
        """Whether a box is known to be all zero without a request: it never is."""
        return False

    def _take(self, callers: _Callers, number: Vec3, inside: Box, target: NDArray[Any], box: Box) -> bool:
        """Copy a chunk into the target; False if the server has none."""
        name = self.separator.join(map(str, (0, *number)))
        answer = callers.get(name)
        if answer.status == 404:
            return False
        _require_ok(answer, self.location)
        if len(answer.body) != math.prod(self.chunk) * self.dtype.itemsize:
            raise InvalidDataset(
                f"{self.location}/{name}: {len(answer.body)} bytes came for a chunk of {self.chunk} {self.dtype}"
            )
        stored = np.frombuffer(answer.body, self.dtype).reshape(self.chunk[::-1])
        x, y, z = (index * edge for index, edge in zip(number, self.chunk, strict=True))
        part = Box((x, y, z), self.chunk).intersect(inside)
        start = box.topleft
        place = part.moved((-start[0], -start[1], -start[2])).slices_zyx
        target[0][place] = stored[part.moved((-x, -y, -z)).slices_zyx]
        return True

    def _require_access(self, callers: _Callers) -> None:
        _require_ok(callers.get(ARRAY_FILE), self.location)


def open_stream(address: str, layer: str, token: str | None, settings: Settings) -> StreamedArray:
    """Open the finest magnification of a volume layer.

    Parameters
    ----------
    address
        Of the annotation in the data store: `https://HOST/data/annotations/zarr/ID`.
    layer
        Name of the volume layer.
    token
        Of an account that may see it.
    settings
        Say which networks may be reached.

    Raises
    ------
    InvalidAnnotation
        If the server does not let us see it, or has no such layer.
    UnsafeReference
        If the token could be read on the way.
    UnsupportedFormat, InvalidDataset
        If the server describes it in a way that is not understood.
    ForbiddenAddress, StorageFailed
    """
    parts = urlsplit(address)
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise UnsafeReference(
            f"http://{parts.hostname} is not encrypted; voxels are streamed over https only"
        )
    rules = AddressRules.of(settings).for_listed(address)
    rules = replace(rules, timeout_s=SILENCE_S, answer_bytes_max=METADATA_BYTES_MAX)
    with _Callers(address, rules, token) as callers:
        answer = callers.get(PROPERTIES_FILE)
        _require_ok(answer, address)
        source = read_datasource(answer.body)
        found = next((item for item in source.data_layers if item.name == layer), None)
        if found is None or not found.mags:
            names = ", ".join(item.name for item in source.data_layers) or "none"
            raise InvalidAnnotation(f"{address} streams no layer {layer!r}; it has {names}")
        mag = found.sorted_mags[0].mag
        name = str(mag.x) if mag.x == mag.y == mag.z else str(mag)
        folder = f"{quote(layer)}/{name}"
        answer = callers.get(f"{folder}/{ARRAY_FILE}")
        _require_ok(answer, f"{address}/{folder}")
    dtype, extent, chunk, separator = _read_array(answer.body, f"{address}/{folder}")
    box = found.bounding_box.in_mag(mag)
    return StreamedArray(
        f"{address}/{folder}", mag, box, dtype, chunk, extent, replace(rules, answer_bytes_max=CHUNK_BYTES_MAX),
        token, separator,
    )  # fmt: skip


def _read_array(text: bytes, where: str) -> tuple[np.dtype[Any], Vec3, Vec3, str]:
    try:
        stated: Mapping[str, Any] = json.loads(text)
        dtype = np.dtype(str(stated["dtype"]))
        shape = [int(extent) for extent in stated["shape"]]
        chunks = [int(extent) for extent in stated["chunks"]]
        separator = str(stated.get("dimension_separator") or ".")
        is_plain = not stated.get("compressor") and not stated.get("filters") and stated.get("order") == "F"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidDataset(f"{where} describes no array of Zarr v2") from error
    fits = len(shape) == len(chunks) == 4 and shape[0] == chunks[0] == 1 and min(*shape, *chunks) > 0
    if not fits or not is_plain or dtype.kind not in "iu" or separator not in "./":
        raise UnsupportedFormat(
            f"{where} streams {dtype} of shape {shape} in chunks of {chunks}; read are label volumes of one channel "
            "and three axes, not compressed, x first"
        )
    if math.prod(chunks) * dtype.itemsize > CHUNK_BYTES_MAX:
        raise UnsupportedFormat(f"{where} streams chunks of {chunks} voxels; that is too much at once")
    _, width, height, depth = shape
    return dtype, (width, height, depth), (chunks[1], chunks[2], chunks[3]), separator


class _Callers:
    """Connections to one address, for several threads."""

    def __init__(self, address: str, rules: AddressRules, token: str | None) -> None:
        self._address = address
        self._rules = rules
        self._headers = {TOKEN_HEADER: token} if token else {}
        self._idle: queue.SimpleQueue[Caller] = queue.SimpleQueue()

    def __enter__(self) -> _Callers:
        return self

    def __exit__(self, *_: object) -> None:
        while not self._idle.empty():
            self._idle.get_nowait().close()

    def get(self, name: str) -> Answer:
        """Ask until there is an answer that says something, for some half a minute."""
        problem = ""
        for pause_s in (*PAUSES_S, None):
            try:
                with self._caller() as caller:
                    answer = caller.get(name)
                if answer.status not in _PASSING:
                    return answer
                problem = f"{urlsplit(self._address).hostname} answers {answer.status}"
            except ServerUnreachable as error:
                problem = error.message
            if pause_s is not None:
                time.sleep(pause_s)
        raise StorageFailed(f"cannot read {self._address}/{name}: {problem}")

    @contextmanager
    def _caller(self) -> Iterator[Caller]:
        try:
            caller = self._idle.get_nowait()
        except queue.Empty:
            caller = Caller(self._address, self._rules, headers=self._headers)
        try:
            yield caller
        finally:
            self._idle.put(caller)


def _require_ok(answer: Answer, where: str) -> None:
    if answer.status == 200 and answer.is_whole:
        return
    if answer.status in (401, 403, 404):
        raise InvalidAnnotation(
            f"{where} cannot be seen ({answer.status}): the annotation, its layer or the token has changed; fetch the "
            "annotation anew, with a token that may see it"
        )
    raise InvalidDataset(f"{where} answers {answer.status}, and no voxels; look at the annotation there")
