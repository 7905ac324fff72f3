"""A small WEBKNOSSOS for tests: the routes about one annotation, as its server and its data store answer them.

Written from the routes themselves, not with our own code: info, download, short links, and layers as Zarr v2.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from voxelworks.testing.listener import Listener, Request, answer_with, listener

ANNOTATION_ID = "5f0123456789abcdef012345"
TOKEN = "s3cr3t-T0ken-of-ada"  # noqa: S105 - of the pretended server
CHUNK = 32


@dataclass
class FarWebknossos:
    """What it knows, and how it fails."""

    heard: Listener
    file: bytes = b""
    """The annotation as it is downloaded."""
    name: str = "Proofread axons"
    token: str | None = TOKEN
    """That it wants to see; None for a public annotation."""
    layer: str = "Volume"
    voxels: NDArray[np.uint32] | None = None
    """Of the layer, (z, y, x), with mappings applied; chunks that are zero are not stored."""
    statuses: dict[str, list[int]] = field(default_factory=dict)
    """Route -> statuses of the next answers, instead of what is right."""
    cut_downloads: int = 0
    """So many downloads break off in the middle."""
    redirect_to: str = ""
    """Where a download is sent."""
    info: bytes | None = None
    """Answered instead of the description."""
    store_url: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.heard.port}"

    @property
    def address(self) -> str:
        return f"{self.url}/annotations/{ANNOTATION_ID}"

    @property
    def streams_at(self) -> str:
        return f"{self.store_url or self.url}/data/annotations/zarr/{ANNOTATION_ID}"

    @property
    def requests(self) -> list[Request]:
        return self.heard.requests

    def count(self, part: str) -> int:
        """Count the requests whose path holds a text."""
        return sum(part in request.path for request in self.requests)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = urlsplit(handler.path).path
        # Connections stay open, as on a real server.
        handler.protocol_version = "HTTP/1.1"
        handler.close_connection = handler.headers.get("Connection") == "close"
        for part, statuses in self.statuses.items():
            if part in path and statuses and (status := statuses.pop(0)) != 200:
                return self._refuse(handler, status)
        api = f"/api/annotations/{ANNOTATION_ID}"
        zarr = f"/data/annotations/zarr/{ANNOTATION_ID}/"
        if path == "/api/shortLinks/byKey/aB3":
            return _tell(handler, {"longLink": f"{self.address}?token=of-a-share#1,2", "key": "aB3"})
        if not path.startswith((api, zarr)):
            return self._refuse(handler, 404)
        if self.token is not None and handler.headers.get("X-Auth-Token") != self.token:
            return self._refuse(handler, 404 if path.startswith(zarr) else 403)
        if path == f"{api}/info":
            return self._describe(handler)
        if path == f"{api}/download":
            return self._send(handler)
        return self._stream(handler, path.removeprefix(zarr))

    def _describe(self, handler: BaseHTTPRequestHandler) -> None:
        if self.info is not None:
            return answer_with(handler, 200, self.info)
        store = {"url": self.store_url or self.url, "name": "localhost"}
        told = {"id": ANNOTATION_ID, "typ": "Explorational", "name": self.name, "dataStore": store}
        return _tell(handler, told)

    def _send(self, handler: BaseHTTPRequestHandler) -> None:
        if self.redirect_to:
            handler.send_response(302)
            handler.send_header("Location", self.redirect_to)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(self.file)))
        handler.end_headers()
        is_cut = self.cut_downloads > 0
        self.cut_downloads -= is_cut
        handler.wfile.write(self.file[: len(self.file) // 2] if is_cut else self.file)
        handler.close_connection = True

    def _stream(self, handler: BaseHTTPRequestHandler, path: str) -> None:
        assert self.voxels is not None
        z, y, x = self.voxels.shape
        if path == "datasource-properties.json":
            layer = {
                "name": self.layer, "category": "segmentation", "elementClass": "uint32", "dataFormat": "zarr",
                "boundingBox": {"topLeft": [0, 0, 0], "width": x, "height": y, "depth": z},
                "mags": [{"mag": [2, 2, 1]}, {"mag": [1, 1, 1], "axisOrder": {"c": 0, "x": 1, "y": 2, "z": 3}}],
                "numChannels": 1,
            }  # fmt: skip
            return _tell(
                handler, {"id": {"name": "far", "team": ""}, "scale": [4, 4, 40], "dataLayers": [layer]}
            )
        folder, _, name = path.rpartition("/")
        if folder != f"{self.layer}/1":
            return self._refuse(handler, 404)
        if name == ".zarray":
            described = {
                "zarr_format": 2, "shape": [1, x, y, z], "chunks": [1, CHUNK, CHUNK, CHUNK], "compressor": None,
                "filters": None, "fill_value": 0, "dtype": "<u4", "order": "F", "dimension_separator": ".",
            }  # fmt: skip
            return _tell(handler, described)
        _, a, b, c = (int(number) for number in name.split("."))
        cube = np.zeros((CHUNK,) * 3, "<u4")
        part = self.voxels[
            c * CHUNK : (c + 1) * CHUNK, b * CHUNK : (b + 1) * CHUNK, a * CHUNK : (a + 1) * CHUNK
        ]
        cube[tuple(slice(0, extent) for extent in part.shape)] = part
        if not cube.any():
            return self._refuse(handler, 404)
        # (z, y, x) in C order is (x, y, z) in Fortran order.
        return answer_with(handler, 200, cube.tobytes())

    def _refuse(self, handler: BaseHTTPRequestHandler, status: int) -> None:
        said = f"not for {handler.headers.get('X-Auth-Token')}"
        return answer_with(handler, status, json.dumps({"messages": [{"error": said}]}).encode())


@contextmanager
def far_webknossos() -> Iterator[FarWebknossos]:
    """Run one until the block ends."""
    with listener() as heard:
        far = FarWebknossos(heard)
        heard.answer = far.answer
        yield far


def _tell(handler: BaseHTTPRequestHandler, told: object) -> None:
    answer_with(handler, 200, json.dumps(told).encode())
