"""Where bytes lie: local folders, http(s), s3 and gs, all through tensorstore.

tensorstore is set up here and nowhere else. It reads and writes with the threads of the calling process: a
pool worker calls `limit_threads` once, before it opens anything.
"""

from __future__ import annotations

import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import tensorstore as ts

from voxelworks.errors import InvalidDataset, StorageFailed, UnsafeReference
from voxelworks.protocol.places import is_remote

_RETRIES = {"max_retries": 5, "initial_delay": "500ms", "max_delay": "8s"}
"""Some 15 s of patience with a remote store; then the block fails, and is tried again later."""
_thread_count: int | None = None


def limit_threads(thread_count: int | None) -> None:
    """Set how many threads this process encodes, decodes and copies with; None for one per core."""
    global _thread_count
    _thread_count = thread_count
    context.cache_clear()


@lru_cache(maxsize=1)
def context() -> ts.Context:
    """Give the tensorstore context of this process.

    Nothing is cached: blocks are read once. Files are not locked, as each shard has one writer: locks would
    need a file system that supports them, and buy nothing.
    """
    spec: dict[str, Any] = {"file_io_locking": {"mode": "none"}}
    for store in ("http", "gcs", "s3"):
        spec[f"{store}_request_retries"] = _RETRIES
    if _thread_count is not None:
        spec["data_copy_concurrency"] = {"limit": _thread_count}
    return ts.Context(spec)


def kvstore_spec(location: str) -> dict[str, Any]:
    """Describe a folder or address to tensorstore.

    ``s3://bucket/path`` is a bucket of AWS; ``s3://host.name/bucket/path`` (with a dot or a port) one of
    another store, as WEBKNOSSOS writes it.
    """
    if not is_remote(location):
        return {"driver": "file", "path": f"{Path(location).resolve()}/"}
    parts = urlsplit(location.rstrip("/"))
    path = parts.path.lstrip("/")
    folder = f"{path}/" if path else ""
    if parts.username or parts.password:
        raise UnsafeReference(
            f"{parts.scheme}://{parts.hostname}: an address must not carry a user name or password"
        )
    if parts.scheme in ("http", "https"):
        return {"driver": "http", "base_url": f"{parts.scheme}://{parts.netloc}", "path": f"/{folder}"}
    if parts.scheme == "gs":
        return {"driver": "gcs", "bucket": parts.netloc, "path": folder}
    if "." not in parts.netloc and ":" not in parts.netloc:
        return {"driver": "s3", "bucket": parts.netloc, "path": folder}
    bucket, _, key = folder.partition("/")
    is_loopback = parts.hostname in ("localhost", "127.0.0.1", "::1")
    endpoint = f"{'http' if is_loopback else 'https'}://{parts.netloc}"
    return {"driver": "s3", "endpoint": endpoint, "bucket": bucket, "path": key}


def read_bytes(location: str, name: str, *, bytes_max: int | None = None) -> bytes | None:
    """Read a file below a folder or address; None if there is none.

    Raises
    ------
    InvalidDataset
        If it is larger than `bytes_max`.
    StorageFailed
        If the store does not answer or refuses.
    """
    if not is_remote(location):
        try:
            return _read_file(Path(location) / name, bytes_max)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise StorageFailed(f"cannot read {Path(location) / name}: {error.strerror}") from error
    try:
        store = ts.KvStore.open(kvstore_spec(location), context=context()).result()
        answer = store.read(name).result()
    except ValueError as error:
        raise StorageFailed(f"cannot read {join(location, name)}: {error}") from error
    if answer.state != "value":
        return None
    return _checked_size(bytes(answer.value), join(location, name), bytes_max)


def _read_file(path: Path, bytes_max: int | None) -> bytes | None:
    # A pipe would be waited for, and a device read for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        content = stream.read(-1 if bytes_max is None else bytes_max + 1)
    return _checked_size(content, str(path), bytes_max)


def _checked_size(content: bytes, name: str, bytes_max: int | None) -> bytes:
    if bytes_max is not None and len(content) > bytes_max:
        raise InvalidDataset(f"{name} is larger than {bytes_max // 2**20} MiB: that is no metadata")
    return content


def join(location: str, relative: str) -> str:
    """Give the place of something below a folder or address."""
    relative = relative.removeprefix("./")
    return f"{location.rstrip('/')}/{relative}" if is_remote(location) else str(Path(location) / relative)
