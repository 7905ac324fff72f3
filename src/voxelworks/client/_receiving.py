"""Receiving the file of a job, so that nothing has to be received twice: `Client.download`.

What has arrived lies beside the target, under a name that holds the checksum of the whole: whatever breaks off a
download (a cut network, a server that is started anew, Ctrl-C), the same call goes on where it stopped. The file gets
its name when it is whole, and its checksum is right.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from voxelworks.client._sending import BACKOFF_BASE_S, BACKOFF_CAP_S, PATIENCE_S
from voxelworks.errors import (
    DiskFull,
    NotFound,
    ServerUnreachable,
    StorageFailed,
    TargetExists,
    TargetNotWritable,
)
from voxelworks.protocol.views import ArtifactView
from voxelworks.sizes import size_text

if TYPE_CHECKING:
    from voxelworks.client._jobs import JobCalls


def receive_file(
    client: JobCalls,
    job_id: str,
    path: Path,
    *,
    on_progress: Callable[[int, int], object] = lambda _done, _total: None,
    patience_s: float = PATIENCE_S,
) -> Path:
    """Receive a file; see `Client.download`."""
    artifact = client.show(job_id).artifact
    if artifact is None:
        raise NotFound(f"job {job_id} has no file to download (any more); run it again to have one")
    target = path / artifact.name if path.is_dir() else path
    if target.exists():
        raise TargetExists(f"{target} exists already; choose another name, or remove it first")
    part = target.with_name(f"{target.name}.{artifact.sha256[:12]}.part")
    try:
        with part.open("ab") as stream:
            _lock(stream.fileno(), target)
            _require_room(artifact, part)
            _Receiving(client, artifact, stream.fileno(), on_progress, patience_s).receive()
            os.fsync(stream.fileno())
        _check(part, artifact)
        part.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"the disk of {target} is full; free some space, and do the same again") from error
        raise TargetNotWritable(f"cannot write {target}: {error.strerror}; choose another place") from error
    return target


class _Receiving:
    """Fills up a file, with as many requests as it takes."""

    def __init__(
        self,
        client: JobCalls,
        artifact: ArtifactView,
        descriptor: int,
        on_progress: Callable[[int, int], object],
        patience_s: float,
    ) -> None:
        self._client = client
        self._artifact = artifact
        self._descriptor = descriptor
        self._on_progress = on_progress
        self._patience_s = patience_s

    def receive(self) -> None:
        deadline, pause_s = time.monotonic() + self._patience_s, BACKOFF_BASE_S
        done = self._count()
        while done < self._artifact.size_bytes:
            try:
                self._go_on(done)
            except (ServerUnreachable, StorageFailed):
                if self._count() == done and time.monotonic() > deadline:
                    raise
            if (now := self._count()) > done:
                deadline, pause_s = time.monotonic() + self._patience_s, BACKOFF_BASE_S
            else:
                time.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311
                pause_s = min(2 * pause_s, BACKOFF_CAP_S)
            done = now

    def _go_on(self, done: int) -> None:
        """Receive what one answer brings."""
        with self._client.open_file(self._artifact, first=done) as (is_rest, pieces):
            if not is_rest:  # the server does not take part of it for the same file any more
                os.ftruncate(self._descriptor, 0)
                done = 0
            for piece in pieces:
                os.write(self._descriptor, piece)
                done += len(piece)
                self._on_progress(done, self._artifact.size_bytes)

    def _count(self) -> int:
        done = os.fstat(self._descriptor).st_size
        self._on_progress(done, self._artifact.size_bytes)
        return done


def _lock(descriptor: int, target: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise TargetExists(f"another process is downloading {target} right now; wait until it ends") from None


def _require_room(artifact: ArtifactView, part: Path) -> None:
    missing = artifact.size_bytes - part.stat().st_size
    free = shutil.disk_usage(part.parent).free
    if missing > free:
        raise DiskFull(
            f"{size_text(missing)} are missing, and the disk of {part.parent} has {size_text(free)} left"
        )


def _check(part: Path, artifact: ArtifactView) -> None:
    with part.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != artifact.sha256:
        part.unlink()
        raise StorageFailed(
            f"what has arrived of {artifact.name} is not what the server has (SHA-256 {digest}); download it again"
        )
