"""Annotations that are in a WEBKNOSSOS: their addresses, and what its routes answer about them.

Asked are hosts on the operator's list alone, as for remote datasets; where a redirect leads is looked at like the
address itself. A token goes in a header, and only to the server that it was given for.

References
----------
Routes of WEBKNOSSOS (`conf/webknossos.latest.routes`), read in the code of 2026: `annotations/ID/info`,
`annotations/ID/download`, `shortLinks/byKey/KEY`; with the type of the annotation before the id for those of tasks.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs, quote, urljoin, urlsplit

from voxelworks.addresses import AddressRules, Arriving, opened
from voxelworks.errors import InvalidAnnotation, InvalidParams, ServerUnreachable, UnsafeReference
from voxelworks.origins import origin_of
from voxelworks.protocol.places import Places

TOKEN_HEADER = "X-Auth-Token"  # noqa: S105 - its name
ANSWER_BYTES_MAX = 4 * 2**20
"""Of the description of an annotation."""
REDIRECTS_MAX = 5
SILENCE_S = 60.0
"""How long a server may be silent: it packs an annotation while it sends it."""
DOWNLOAD_S = 3600.0
"""How long a whole download may take."""
_TEXT_LENGTH_MAX = 200
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_ANNOTATION = re.compile(r"(?P<home>.*)/annotations(?:/(?P<type>[A-Za-z]+))?/(?P<id>[0-9a-f]{8,64})(?:/.*)?")
_SHORT_LINK = re.compile(r"(?P<home>.*)/links/(?P<key>[A-Za-z0-9_-]{1,64})/?")
_PASSING = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class FarAddress:
    """The address of an annotation, or a short link to one."""

    home: str
    """Of the WEBKNOSSOS."""
    id: str = ""
    type: str | None = None
    """Of the annotation, if the address names it: those of tasks are found with it alone."""
    key: str = ""
    """Of a short link."""

    @classmethod
    def parse(cls, address: str) -> FarAddress:
        """Read an address as the browser shows it.

        Raises
        ------
        InvalidAnnotation
            If it is none of an annotation.
        UnsafeReference
            If what is sent there could be read on the way.
        """
        parts = urlsplit(address.strip())
        if parts.scheme not in ("http", "https"):
            raise _no_address(address)
        if "token" in parse_qs(parts.query):
            raise InvalidAnnotation(
                "the address carries a token; give the address without it, and the token by itself"
            )
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise UnsafeReference(f"http://{parts.hostname} is not encrypted; write the address with https")
        site = f"{parts.scheme}://{parts.netloc}"
        if (found := _ANNOTATION.fullmatch(parts.path)) is not None:
            return cls(site + found["home"], found["id"], found["type"])
        if (found := _SHORT_LINK.fullmatch(parts.path)) is not None:
            return cls(site + found["home"], key=found["key"])
        raise _no_address(address)

    def __str__(self) -> str:
        return f"{self.home}/links/{self.key}" if self.key else f"{self.home}/annotations/{self._path}"

    @property
    def label(self) -> str:
        """Name an annotation that has no name."""
        return f"annotation {self.id or self.key}"

    def route(self, name: str, query: str) -> str:
        return f"{self.home}/api/annotations/{self._path}/{name}?{query}"

    @property
    def _path(self) -> str:
        return f"{self.type}/{self.id}" if self.type else self.id


@dataclass(frozen=True)
class FarDescription:
    """What a WEBKNOSSOS tells about an annotation."""

    address: FarAddress
    name: str
    """Empty if it has none."""
    streams_at: str
    """Address below which its data store gives the voxels of its layers, with all mappings applied."""


class FarServer:
    """Asks a WEBKNOSSOS.

    Parameters
    ----------
    places
        Which hosts may be asked.
    rules
        Which networks may be reached.
    token
        Of an account there; None for public annotations.
    """

    def __init__(self, places: Places, rules: AddressRules, token: str | None) -> None:
        self._places = places
        self._rules = replace(rules, timeout_s=SILENCE_S)
        self._token = token

    def describe(self, address: FarAddress) -> FarDescription:
        """Ask about an annotation; a short link is followed first.

        Raises
        ------
        InvalidAnnotation, UnsafeReference, ForbiddenAddress
            Saying why it cannot be had.
        ServerUnreachable
            If the server does not answer now.
        """
        if address.key:
            address = self._long_address(address)
        url = address.route("info", f"timestamp={time.time_ns() // 10**6}")
        told = self._ask(url, address)
        data_store = told.get("dataStore")
        store_url = data_store.get("url") if isinstance(data_store, dict) else None
        if not isinstance(told.get("typ"), str) or not isinstance(store_url, str):
            raise _not_webknossos(url)
        name = told.get("name")
        streams_at = urljoin(f"{address.home}/", store_url).rstrip("/")
        return FarDescription(
            address,
            _line(name) if isinstance(name, str) else "",
            f"{streams_at}/data/annotations/zarr/{quote(address.id)}",
        )

    @contextmanager
    def download(self, address: FarAddress) -> Iterator[Arriving]:
        """Open the file of an annotation: an NML, or a zip with volume data. Errors as of `describe`."""
        url = address.route("download", "skipVolumeData=false&volumeDataZipFormat=zarr3")
        with self._open(url, whole_s=DOWNLOAD_S) as answer:
            if answer.status != 200:
                raise self._refusal(address, answer.status, answer.read(ANSWER_BYTES_MAX))
            yield answer

    def _long_address(self, short: FarAddress) -> FarAddress:
        told = self._ask(f"{short.home}/api/shortLinks/byKey/{quote(short.key)}", short)
        long_link = told.get("longLink")
        if not isinstance(long_link, str):
            raise _not_webknossos(short.home)
        # What a browser adds is left out: a token for sharing is no token of ours to keep.
        parts = urlsplit(urljoin(f"{short.home}/", long_link))
        address = FarAddress.parse(parts._replace(query="", fragment="").geturl())
        if address.key or origin_of(str(address)) != origin_of(str(short)):
            raise InvalidAnnotation(f"{short} leads to {address}; give that address itself")
        return address

    def _ask(self, url: str, address: FarAddress) -> Mapping[str, Any]:
        with self._open(url) as answer:
            text = answer.read(ANSWER_BYTES_MAX + 1)
            if not answer.is_whole:
                raise ServerUnreachable(f"{_host(url)} broke off its answer")
        if answer.status != 200:
            raise self._refusal(address, answer.status, text)
        try:
            told = json.loads(text[: ANSWER_BYTES_MAX + 1])
        except (ValueError, RecursionError) as error:
            raise _not_webknossos(url) from error
        if not isinstance(told, dict):
            raise _not_webknossos(url)
        return told

    @contextmanager
    def _open(self, url: str, *, whole_s: float = SILENCE_S) -> Iterator[Arriving]:
        """Follow redirects: each is looked at like an address that somebody gave."""
        asked = origin_of(url)
        for _ in range(REDIRECTS_MAX + 1):
            self._places.locate(url)
            headers = {TOKEN_HEADER: self._token} if self._token and origin_of(url) == asked else {}
            with opened(url, self._rules.for_listed(url), headers=headers, whole_s=whole_s) as answer:
                if answer.status not in (301, 302, 303, 307, 308):
                    yield answer
                    return
                url = urljoin(url, answer.header("Location"))
        raise InvalidAnnotation(f"{_host(url)} redirects over and over; check the address")

    def _refusal(self, address: FarAddress, status: int, text: bytes) -> Exception:
        host = _host(address.home)
        if status in _PASSING:
            return ServerUnreachable(f"{host} answers {status}: it has trouble itself")
        if status in (401, 403):
            return InvalidAnnotation(
                f"{host} does not let the token see {address.label} ({status}); give a token of an account that may"
                if self._token
                else f"{address.label} at {host} is not public ({status}); give a token of an account that may see it"
            )
        if status == 404:
            remedy = "or the token may not see it" if self._token else "or it is not public and needs a token"
            return InvalidAnnotation(f"{host} knows no {address.label} (404), {remedy}; check the address")
        reason = self._reason(text)
        return InvalidAnnotation(
            f"{host} refuses {address.label} ({status}{f': {reason}' if reason else ''})"
        )

    def _reason(self, text: bytes) -> str:
        """Give what the server says of an error, without the token, whatever it does with it."""
        try:
            said = json.loads(text)["messages"][0]["error"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            return ""
        if not isinstance(said, str):
            return ""
        return _line(said.replace(self._token, "***") if self._token else said)


def check_token(token: str) -> str:
    """Give back a token that can be sent; `InvalidParams` otherwise, without repeating it."""
    token = token.strip()
    if not re.fullmatch(r"[\x21-\x7e]{1,1000}", token):
        raise InvalidParams("that is no token of WEBKNOSSOS: one line of letters, digits and signs")
    return token


def _line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_TEXT_LENGTH_MAX]


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _no_address(address: str) -> InvalidAnnotation:
    return InvalidAnnotation(
        f"{address[:_TEXT_LENGTH_MAX]!r} is no address of an annotation; it is written https://HOST/annotations/ID"
    )


def _not_webknossos(url: str) -> InvalidAnnotation:
    return InvalidAnnotation(
        f"{_host(url)} does not answer like a WEBKNOSSOS; check the address of the annotation"
    )
