"""How far jobs are kept apart from the rest of this machine, and how that is found out: by trying.

``python -m voxelworks.worker.isolation`` is the try: it shuts itself in as the line on its standard input says, and
loads all that jobs load.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Literal

from voxelworks.errors import NotAllowed
from voxelworks.protocol.messages import Claim
from voxelworks.protocol.places import Places
from voxelworks.settings import Settings
from voxelworks.worker.confinement import confine
from voxelworks.worker.process import clean_environment, make_scratch
from voxelworks.worker.spec import Confinement
from voxelworks.workflows.publishing import AttemptFolder

TRY_TIMEOUT_S = 120.0
"""Loading all libraries from a slow disk takes long."""
_LOADED_BY_JOBS = (
    "voxelworks.workflows", "voxelworks.volumes.dataset", "voxelworks.volumes.formats", "voxelworks.blocks.local",
)  # fmt: skip
_SYSTEM_SWITCHES = {
    "/proc/sys/user/max_user_namespaces": ("0", "sysctl user.max_user_namespaces is 0"),
    "/proc/sys/kernel/unprivileged_userns_clone": ("0", "sysctl kernel.unprivileged_userns_clone is 0"),
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
        "1", "AppArmor restricts user namespaces: sysctl kernel.apparmor_restrict_unprivileged_userns is 1",
    ),
}  # fmt: skip
"""Switches that forbid user namespaces -> the value that does, and how to say so."""


@dataclass(frozen=True)
class Isolation:
    """How jobs are kept apart."""

    level: Literal["namespaces", "limits"]
    """`limits`: process group, clean environment, memory limit. `namespaces`: also files, processes and network."""
    reason: str = ""
    """Why it is not more."""
    has_own_processes: bool = False

    @property
    def text(self) -> str:
        """Say it in a sentence."""
        limits = f"own process group, clean environment, no core dumps, memory {_memory()}"
        if self.level == "limits":
            return f"limits: {limits}; files and network are open to jobs: {self.reason}"
        seen = "files and processes" if self.has_own_processes else "files"
        network = "no network unless their data is remote"
        return f"namespaces: jobs see no {seen} but their own, and {network}; {limits}"

    def confine(
        self,
        claim: Claim,
        target: str | None,
        folder: AttemptFolder | None,
        *,
        places: Places,
        settings: Settings,
        memory_bytes_max: int,
    ) -> Confinement | None:
        """Say what one attempt may see, which has so much memory; None if everything."""
        if self.level == "limits":
            return None
        return confine(
            claim.places.values(), target, folder, places=places, settings=settings,
            has_own_processes=self.has_own_processes, shared_memory_bytes=memory_bytes_max,
        )  # fmt: skip


def choose(settings: Settings, *, cluster: str | None = None) -> Isolation:
    """Choose how jobs are kept apart, after the settings and what the system lets us do.

    Parameters
    ----------
    settings
    cluster
        Where the jobs' blocks are computed, if not on this machine.

    Raises
    ------
    NotAllowed
        If namespaces are required and cannot be had.
    """
    isolation = _possible(settings, cluster)
    if settings.isolation == "required" and isolation.level == "limits":
        raise NotAllowed(
            f"jobs cannot be isolated here: {isolation.reason}. Set VOXELWORKS_ISOLATION=auto to run them with less"
        )
    return isolation


def _possible(settings: Settings, cluster: str | None) -> Isolation:
    if settings.isolation == "off":
        return Isolation("limits", "switched off (VOXELWORKS_ISOLATION)")
    if cluster is not None:
        return Isolation("limits", "blocks are computed on a cluster, in processes that others start")
    if sys.platform != "linux":
        return Isolation("limits", "this system has no namespaces")
    return _tried(settings.isolation_readable)


@cache
def _tried(isolation_readable: tuple[Path, ...]) -> Isolation:
    """Try it, with processes of their own first: in some containers only that is forbidden."""
    settings = Settings(isolation_readable=isolation_readable)
    error = _try(settings, has_own_processes=True)
    if error is None:
        return Isolation("namespaces", has_own_processes=True)
    if _try(settings, has_own_processes=False) is None:
        return Isolation("namespaces", f"no processes of their own: {error}")
    return Isolation("limits", _known_reason() or error)


def _try(settings: Settings, *, has_own_processes: bool) -> str | None:
    """Try to shut a process in; None if it works, otherwise why not."""
    scratch = make_scratch()
    view = confine(
        (), None, None, places=Places.of(settings), settings=settings,
        has_own_processes=has_own_processes, shared_memory_bytes=0,
    )  # fmt: skip
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "voxelworks.worker.isolation"],
            input=view.model_copy(update={"writable": (str(scratch),)}).model_dump_json(),
            capture_output=True, text=True, cwd=scratch, env=clean_environment(scratch), timeout=TRY_TIMEOUT_S,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if ended.returncode == 0:
        return None
    return (ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"])[-1]


def _known_reason() -> str | None:
    for path, (forbidding, sentence) in _SYSTEM_SWITCHES.items():
        try:
            value = Path(path).read_text().strip()
        except OSError:
            continue
        if value == forbidding:
            return sentence
    return None


def _memory() -> str:
    return "limited" if sys.platform == "linux" else "watched"


def main() -> None:
    """Shut this process in, and load what jobs load."""
    from voxelworks.worker import namespaces

    namespaces.enter(Confinement.model_validate_json(sys.stdin.readline()))
    for module in _LOADED_BY_JOBS:
        import_module(module)


if __name__ == "__main__":
    main()
