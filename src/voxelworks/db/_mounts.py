"""SQLite needs working file locks and shared memory; network file systems do not promise either."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from voxelworks.errors import NetworkFileSystem
from voxelworks.settings import Settings

_NETWORK_KINDS = frozenset(
    {
        "9p", "afpfs", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs", "gfs2", "glusterfs", "gpfs",
        "lustre", "ncpfs", "nfs", "nfs3", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs",
        "wekafs", "webdav",
    }
)  # fmt: skip
_NETWORK_FUSE = (
    "sshfs", "gluster", "s3fs", "goofys", "rclone", "ceph", "davfs", "gcsfuse", "cvmfs", "juicefs", "mount-s3",
)  # fmt: skip


class Mount(NamedTuple):
    """A line of the mount table."""

    folder: str
    kind: str
    """Type of the file system, such as `ext4` or `nfs4`."""


def refuse_network_file_system(folder: Path, mounts: Sequence[Mount] | None = None) -> None:
    """Refuse a folder that lies on a network file system.

    Parameters
    ----------
    folder
        Folder of the database; it need not exist yet.
    mounts
        Mount table, in the order of mounting; by default that of this machine.

    Raises
    ------
    NetworkFileSystem
    """
    mount = _mount_of(folder.resolve(), _mounts_here() if mounts is None else mounts)
    if mount is not None and _is_network(mount.kind):
        raise NetworkFileSystem(
            f"{folder} lies on {mount.folder}, a network file system ({mount.kind}), where SQLite can lose data; "
            "set VOXELWORKS_HOME to a local folder, or VOXELWORKS_DATABASE_URL to a PostgreSQL database"
        )


def require_local_database(settings: Settings) -> None:
    """Refuse to keep a SQLite database on a network file system.

    Raises
    ------
    NetworkFileSystem
    """
    if settings.database_url is None:
        refuse_network_file_system(settings.sqlite_path.parent)


def _mount_of(folder: Path, mounts: Sequence[Mount]) -> Mount | None:
    above = [mount for mount in mounts if folder.is_relative_to(mount.folder)]
    # The deepest mount counts; of two in one place the later one hides the earlier.
    return (
        max(enumerate(above), key=lambda item: (len(Path(item[1].folder).parts), item[0]))[1]
        if above
        else None
    )


def _is_network(kind: str) -> bool:
    kind = kind.lower()
    return kind in _NETWORK_KINDS or (
        kind.startswith("fuse.") and any(word in kind for word in _NETWORK_FUSE)
    )


def _mounts_here() -> list[Mount]:
    return [Mount(partition.mountpoint, partition.fstype) for partition in psutil.disk_partitions(all=True)]
