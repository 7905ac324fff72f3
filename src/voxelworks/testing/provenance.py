"""Where measured figures come from: machine, versions and the very sources."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import psutil


def describe_machine(folder: Path) -> dict[str, str | int | float]:
    """Describe this machine, with the file system of a folder."""
    mounts = sorted(psutil.disk_partitions(all=True), key=lambda mount: len(mount.mountpoint))
    holding = [mount for mount in mounts if folder.resolve().is_relative_to(mount.mountpoint)]
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "file_system": holding[-1].fstype if holding else "unknown",
    }


def describe_versions(*packages: str) -> dict[str, str]:
    """Give the versions of Python, of Voxelworks and of other installed packages."""
    names = ("voxelworks", *packages)
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def describe_commit(repository: Path, folders: Sequence[str]) -> str:
    """Give the commit of a repository, with a plus if files in one of the folders were changed since."""
    try:
        commit = _git(repository, "rev-parse", "HEAD").strip()
        return commit + ("+" if _git(repository, "status", "--porcelain", "--", *folders) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def hash_sources(repository: Path, folders: Sequence[str]) -> str:
    """Give a hash of all Python files in some folders of a repository: figures hold as long as it stays the same."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in folders for path in (repository / folder).rglob("*.py")):
        digest.update(path.relative_to(repository).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _git(repository: Path, *arguments: str) -> str:
    answer = subprocess.run(
        ["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=True
    )
    return answer.stdout
