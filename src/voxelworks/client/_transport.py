"""How the calls of a client travel: with its token, repeated where that is safe, with errors as their classes."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from types import TracebackType
from typing import Any, BinaryIO, Self
from urllib.parse import quote

import httpx

from voxelworks.errors import InvalidInput, NotAllowed, ServerUnreachable, VoxelworksError
from voxelworks.protocol.messages import Json

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
LOOK_TIMEOUT_S = 600.0
"""For what the server looks through before it answers: an annotation with its volume data, metadata of a far host."""
COPY_BYTES = 2**20
RETRY_WAITS_S = (0.2, 0.8)
"""Pauses before the second and third try of a call that may safely be repeated."""


class Transport:
    """A connection to one server, which the groups of calls share."""

    def __init__(self, url: str, token: str) -> None:
        self.url = _checked_address(url)
        self._http = httpx.Client(
            base_url=f"{self.url}/api/v1/",
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            # A proxy of the environment never lies between a machine and its own server.
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def _get(self, path: str, query: Json | None = None) -> Any:
        return json_of(self._send("GET", path, params=query, is_repeatable=True))

    def _post(
        self, path: str, body: Json, *, headers: dict[str, str] | None = None, is_repeatable: bool = False
    ) -> Any:
        return json_of(self._send("POST", path, json=body, headers=headers, is_repeatable=is_repeatable))

    def _send(self, method: str, path: str, *, is_repeatable: bool = False, **options: Any) -> httpx.Response:
        for wait_s in RETRY_WAITS_S if is_repeatable else ():
            try:
                return self._send_once(method, path, **options)
            except ServerUnreachable:
                time.sleep(wait_s)
        return self._send_once(method, path, **options)

    def _send_once(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if response.is_error:
            raise self._error_of(response)
        return response

    @contextmanager
    def _stream(self, path: str, headers: dict[str, str] | None = None) -> Iterator[httpx.Response]:
        """Ask for an answer that is read while it arrives."""
        try:
            with self._http.stream("GET", path, headers=headers) as response:
                if response.is_error:
                    response.read()
                    raise self._error_of(response)
                yield response
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _copy(self, path: str, stream: BinaryIO) -> str:
        """Write the bytes of an answer; give their SHA-256."""
        digest = hashlib.sha256()
        with self._stream(path) as response:
            for piece in response.iter_bytes(COPY_BYTES):
                digest.update(piece)
                stream.write(piece)
        return digest.hexdigest()

    def _unreachable(self, error: httpx.HTTPError) -> ServerUnreachable:
        reason = str(error) or type(error).__name__
        return ServerUnreachable(f"{self.url} does not answer ({reason}); check that the server runs")

    def _error_of(self, response: httpx.Response) -> VoxelworksError:
        """Turn an error answer into the class that the server raised."""
        try:
            body = response.json()
            code, message = str(body["code"]), str(body["message"])
        except (JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
            if response.status_code in (502, 503, 504):
                return ServerUnreachable(
                    f"{self.url} answers {response.status_code}; check that the server runs"
                )
            return VoxelworksError(
                f"{self.url} answers {response.status_code} without a reason; is it a Voxelworks server?"
            )
        if response.status_code == 401:
            return NotAllowed(message)
        error = _error_classes().get(code, VoxelworksError)(message)
        # What a class says beside its message, such as the offset of a `LogGap`.
        error.__dict__.update({key: value for key, value in body.items() if key not in ("code", "message")})
        return error


def _checked_address(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not re.fullmatch(r"[\w.:-]+", parsed.host):
        raise InvalidInput(f"{url!r} is not the address of a server; write http://HOST:PORT")
    return url.rstrip("/")


def _error_classes() -> dict[str, type[VoxelworksError]]:
    found: dict[str, type[VoxelworksError]] = {}
    waiting = [VoxelworksError]
    while waiting:
        kind = waiting.pop()
        # A class without a code of its own inherits one; the class that introduced it stands for it.
        found.setdefault(kind.code, kind)
        waiting += kind.__subclasses__()
    return found


def json_of(response: httpx.Response) -> Any:
    if response.status_code == 204 or not response.content:
        return None
    try:
        return json.loads(response.content)
    except ValueError as error:
        raise VoxelworksError(
            f"{response.url} answers something that is not JSON; is it a Voxelworks server?"
        ) from error


def path_part(text: str) -> str:
    """Make a text safe as one part of an address."""
    return quote(text, safe="") or "-"
