"""What an isolated job gets to see: the system's programs, our own code, its inputs, and the folder it writes to."""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ValidationError

from voxelworks.errors import VoxelworksError
from voxelworks.protocol.places import Places, is_remote
from voxelworks.settings import Settings
from voxelworks.worker.spec import Confinement
from voxelworks.workflows.publishing import AttemptFolder

_SYSTEM = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store",
    "/run/current-system", "/run/opengl-driver", "/opt/rocm",
    "/sys/bus", "/sys/class", "/sys/devices", "/sys/module", "/sys/fs/cgroup",
)  # fmt: skip
"""Programs and libraries, and what they look at to learn about the machine. Nothing of it is secret or a user's."""
_CONFIGURATION = (
    "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime", "timezone", "locale.alias", "locale.conf",
    "passwd", "group", "nsswitch.conf", "hosts", "host.conf", "resolv.conf", "gai.conf", "services", "protocols",
    "ssl/certs", "ssl/openssl.cnf", "pki/tls/certs", "pki/tls/cert.pem", "pki/ca-trust", "ca-certificates",
    "fonts", "mime.types", "magic", "OpenCL",
)  # fmt: skip
"""In `/etc`, where passwords and keys lie too: by name, therefore."""
_LINKS_MAX = 64


class _Origin(BaseModel):
    """Where a package was installed from (PEP 610)."""

    url: str
    dir_info: dict[str, bool] = {}


def confine(
    places_of_job: Iterable[str],
    target: str | None,
    folder: AttemptFolder | None,
    *,
    places: Places,
    settings: Settings,
    has_own_processes: bool,
    shared_memory_bytes: int,
) -> Confinement:
    """Say what one attempt may see and where it may write. Makes the folder that it writes to.

    Parameters
    ----------
    places_of_job
        Places of everything that the params name.
    target
        Place of the dataset that is made or added to; None if the job leaves no files.
    folder
        Where the attempt writes.
    places, settings
        Of this worker.
    has_own_processes
    shared_memory_bytes
    """
    view = _View()
    for place in places_of_job:
        if place != target and not is_remote(place):
            with suppress(VoxelworksError):  # the job says it in the right words
                view.read(Path(places.locate(place)))
    if target is not None and folder is not None:
        with suppress(VoxelworksError):
            view.write(Path(places.locate(target)), folder)
    inputs = set(view.readable)
    private = [settings.home, settings.datasets_dir, settings.cache_dir]
    private += [root.path for root in settings.import_roots.values()]
    data = view.remember(*private)
    for path in code_folders(settings.isolation_readable):
        view.read(path)
    code = set(view.readable) - inputs
    hidden = {path for path in data if _is_below(path, code) and not _is_below(path, inputs)}
    # What lies in another readable folder is there already, unless something above it is hidden.
    readable = inputs | {
        path for path in code if _is_below(path, hidden) or not _is_below(path, code - {path})
    }
    return Confinement(
        readable=tuple(sorted(map(str, readable))),
        writable=tuple(map(str, view.writable)),
        hidden=tuple(sorted(map(str, hidden))),
        folders=tuple(map(str, view.folders)),
        placeholders=tuple(map(str, view.placeholders)),
        links=view.links,
        has_network=any(is_remote(place) for place in places_of_job),
        has_own_processes=has_own_processes,
        shared_memory_bytes=shared_memory_bytes,
    )


@cache
def code_folders(more: tuple[Path, ...]) -> tuple[Path, ...]:
    """List what running our code needs: the system, Python, installed packages, also those installed for editing."""
    surely = [*map(Path, _SYSTEM), *(Path("/etc") / name for name in _CONFIGURATION)]
    surely += [Path(sys.prefix), Path(sys.base_prefix), Path(sys.exec_prefix), Path(sys.executable).parent]
    surely += [Path(path) for path in sysconfig.get_paths().values()]
    perhaps = [Path(path) for path in sys.path if path]
    perhaps += [Path(path) for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if path]
    perhaps += _folders_of_editable_packages()
    # The folder of a user, that of everybody's temporary files, and what is above them hold more than code.
    shared = [Path(path).resolve() for path in (os.path.expanduser("~"), tempfile.gettempdir(), "/tmp")]  # noqa: S108
    surely += [
        path for path in perhaps if not any(folder.is_relative_to(path.resolve()) for folder in shared)
    ]
    return tuple(dict.fromkeys(path.absolute() for path in (*surely, *more) if path.exists()))


def follow(path: Path) -> tuple[Path, dict[str, str]]:
    """Give the place that a path leads to, and the symbolic links on the way."""
    links: dict[str, str] = {}
    here, rest = Path("/"), deque(path.absolute().parts[1:])
    while rest:
        part = rest.popleft()
        step = here.parent if part == ".." else here / part
        if not step.is_symlink() or len(links) == _LINKS_MAX:
            here = step
            continue
        target = os.readlink(step)
        links[str(step)] = target
        parts = Path(target).parts
        if os.path.isabs(target):
            here, parts = Path("/"), parts[1:]
        rest.extendleft(reversed(parts))
    return here, links


class _View:
    """Collects what is visible."""

    def __init__(self) -> None:
        self.readable: list[Path] = []
        self.writable: list[Path] = []
        self.folders: list[Path] = []
        self.placeholders: list[Path] = []
        self.links: dict[str, str] = {}

    def read(self, path: Path) -> None:
        real = self.remember(path)[0]
        if real.exists():
            self.readable.append(real)

    def write(self, target: Path, folder: AttemptFolder) -> None:
        home = self.remember(folder.home)[0]
        if not home.is_dir():
            return
        if target == home or home in self.readable:  # it is an input too
            self.read(home)
        else:
            self.folders.append(home)
            if os.path.lexists(target):
                self.placeholders.append(self.remember(target)[0])
        with suppress(OSError):  # the job finds that it cannot write, and says so
            self.writable.append(self.remember(folder.open_work())[0])

    def remember(self, *paths: Path) -> list[Path]:
        """Keep the links on the way, so that the job finds the same under the same path."""
        found = [follow(path) for path in paths]
        for _, links in found:
            self.links |= links
        return [real for real, _ in found]


def _is_below(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _folders_of_editable_packages() -> list[Path]:
    found: list[Path] = []
    for distribution in distributions():
        text = distribution.read_text("direct_url.json")
        if text is None:
            continue
        with suppress(ValidationError):
            origin = _Origin.model_validate_json(text)
            parts = urlsplit(origin.url)
            if parts.scheme == "file" and origin.dir_info.get("editable"):
                folder = Path(unquote(parts.path))
                found += [folder / "src"] if (folder / "src").is_dir() else [folder]
    return found
