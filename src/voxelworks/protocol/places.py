"""Places: how server and workers name data without telling each other paths.

A place is a text: ``data:NAME[/...]`` below the folder of datasets, ``root:NAME/relative`` below an import root
that the operator allowed, or an ``http(s)``, ``s3`` or ``gs`` address on an allowed host. Each side finds it below its
own folders, so mounts may differ, and nothing outside can ever be named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Self
from urllib.parse import urlsplit

from voxelworks.errors import UnsafeReference
from voxelworks.settings import Settings

REMOTE_SCHEMES = ("http", "https", "s3", "gs")
DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""A dataset or layer name: it becomes a folder name and part of addresses."""


def is_remote(text: str) -> bool:
    return text.split("://", 1)[0] in REMOTE_SCHEMES and "://" in text


@dataclass(frozen=True)
class Places:
    """Where this machine keeps what places name."""

    data_dir: Path
    import_roots: Mapping[str, Path] = field(default_factory=dict)
    remote_hosts: frozenset[str] = frozenset()

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(settings.datasets_dir, settings.import_roots, settings.remote_hosts)

    def locate(self, place: str) -> str:
        """Give the path or address of a place.

        Raises
        ------
        UnsafeReference
            If the place is not a place, leaves its root (also by a symbolic link), or is on a host that is not allowed.
        """
        if is_remote(place):
            return self._allowed_address(place)
        kind, _, rest = place.partition(":")
        if kind == "data":
            return str(self._below(self.data_dir, rest, place))
        if kind == "root":
            name, _, relative = rest.partition("/")
            if name not in self.import_roots:
                known = (
                    ", ".join(f"root:{known}/..." for known in sorted(self.import_roots)) or "none is set up"
                )
                raise UnsafeReference(f"{place!r}: there is no import root {name!r}; allowed: {known}")
            return str(self._below(self.import_roots[name], relative, place))
        known = ", ".join(f"root:{name}/..." for name in sorted(self.import_roots)) or "none is set up"
        raise UnsafeReference(
            f"{place!r} is not a place that this server reads; name one below an import root ({known})"
        )

    @staticmethod
    def _below(root: Path, relative: str, place: str) -> Path:
        parts = PurePosixPath(relative)
        if parts.is_absolute() or ".." in parts.parts or "\0" in relative or "\\" in relative:
            raise UnsafeReference(f"{place!r} leaves its root; name a path below it, without '..'")
        resolved_root = root.resolve()
        resolved = (resolved_root / parts).resolve()
        if not resolved.is_relative_to(resolved_root):
            raise UnsafeReference(f"{place!r} leads out of its root through a symbolic link")
        return resolved

    def _allowed_address(self, address: str) -> str:
        parts = urlsplit(address)
        host = (parts.hostname or "").lower()
        if parts.username or parts.password:
            raise UnsafeReference(
                f"{parts.scheme}://{host}: an address must not carry a user name or password"
            )
        if host not in self.remote_hosts:
            raise UnsafeReference(
                f"{address!r}: host {host!r} is not on this server's list of allowed remote hosts"
            )
        return address
